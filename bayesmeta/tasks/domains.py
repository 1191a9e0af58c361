"""Streams of pictures whose domain changes: permuted and turned pixels, the field's first benchmarks of forgetting.

Permuted MNIST is of Goodfellow et al. 2013, https://arxiv.org/abs/1312.6211; turned pictures, and the first part of permuted ones
left as it is, are as in Lopez-Paz & Ranzato 2017, https://arxiv.org/abs/1706.08840.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.images import read_images
from bayesmeta.tasks.source import uniform
from bayesmeta.tasks.streams import StreamSource

__all__ = ["DomainStreams"]

Domain = Callable[[Tensor], Tensor]
"""What a part makes of pictures ``(n, C, H, W)``."""


@final
class DomainStreams(StreamSource):
    """The same classes in every part, seen otherwise: pictures whose pixels are permuted or turned, by a map of each part's own.

    Labels mean the same in all parts (one head), so that what a learner forgets is how a class looked. Every part draws its
    pictures anew, in a random order: support from `train`, queries from `test`, so that none is both. Both are seen alike.

    - ``"permuted"``: the first part is of pictures as they are; in each later one pixels change places by a permutation drawn for
      it, the same for all channels.
    - ``"rotated"``: counter-clockwise about the middle, by interpolation between pixels, with zeros from outside. `degrees` are
      divided in P equal steps, and the angle of part t is uniform in the t-th, so that it grows from part to part.

    Pictures of bytes are scaled to [0, 1] as the part is made; they are kept as they are given. A part's are made once.

    Split MNIST, whose classes come two by two, is a `ClassStreams` of the pictures of all classes, with one head:
    ``ClassStreams(ImageTasks(images, labels, ways=10, shots=3000, queries=500, batch=1), classes=2)``. It draws an order of the
    classes for each stream.

    Args:
        train: images ``(n, C, H, W)`` or ``(n, H, W)``, of bytes or floating-point numbers, and labels ``(n,)``, whole numbers or
            strings. They are numbered from 0 in the order of their values.
        test: the same of other pictures, with no label beside those of `train`.
        change: what a part does to pictures.
        domains: P, the number of parts, each a domain of its own.
        shots: support pictures a part, of all classes together; None for all of `train`.
        queries: query pictures a part; None for all of `test`.
        degrees: between which angles rotated parts lie; (0, 180) if None.
        batch: B, streams in an episode, each with maps of its own.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: shapes or types that do not fit, NaN or infinity, labels that `train` has not, the same pictures twice, more
            pictures a part than there are, fewer than two parts, or degrees of parts that are not turned.

    Example:
        >>> images, labels = torch.rand(60, 28, 28), torch.arange(60) % 10
        >>> streams = DomainStreams((images[:40], labels[:40]), (images[40:], labels[40:]), domains=3, shots=20)
        >>> [tuple(part.support.x.shape) for part in streams.parts(0)]
        [(1, 20, 1, 28, 28), (1, 20, 1, 28, 28), (1, 20, 1, 28, 28)]
        >>> streams[0].query.y.shape
        torch.Size([1, 60])
    """

    def __init__(
        self,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        *,
        change: Literal["permuted", "rotated"] = "permuted",
        domains: int = 10,
        shots: int | None = None,
        queries: int | None = None,
        degrees: tuple[float, float] | None = None,
        batch: int = 1,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        if change not in ("permuted", "rotated"):
            raise ValueError(
                f"change: expected 'permuted' or 'rotated', got {change!r}; implement a StreamSource for others"
            )
        check_count("domains", domains, least=2)
        check_count("batch", batch)
        self._train, names = _read("train", train)
        self._test, others = _read("test", test)
        self.names, codes = np.unique(names, return_inverse=True)
        self._labels = torch.from_numpy(codes.reshape(-1)).to(self._train.device)
        unknown = others[~np.isin(others, self.names)]
        if len(unknown):
            raise ValueError(f"test: expected labels that train has, got {unknown[0]}; leave these pictures out")
        self._asked = torch.from_numpy(np.searchsorted(self.names, others)).to(self._test.device)
        if self._train.shape[1:] != self._test.shape[1:] or self._train.dtype != self._test.dtype:
            said = [
                f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape[1:])}" for one in (self._train, self._test)
            ]
            raise ValueError(f"test: expected pictures as those of train, {said[0]}, got {said[1]}; prepare both alike")
        if self._train.data_ptr() == self._test.data_ptr():
            raise ValueError(
                "test: expected other pictures than train, got the same; divide them, images[:n] and images[n:]"
            )
        for name, count, there in (("shots", shots, self._train), ("queries", queries, self._test)):
            if count is not None:
                check_count(name, count)
                if count > len(there):
                    raise ValueError(
                        f"{name}: expected at most the {len(there)} pictures there are, got {count}; ask for fewer"
                    )
        self._low, self._high = _bounds(change, degrees)
        self.change, self.domains, self.degrees, self.batch = change, domains, degrees, batch
        self.shots, self.queries = shots, queries

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        return [self._part(t, generator) for t in range(self.domains)]

    def _part(self, part: int, generator: torch.Generator) -> Episode:
        maps = [self._domain(part, generator) for _ in range(self.batch)]
        return Episode(
            _drawn(self._train, self._labels, self.shots, maps, generator),
            _drawn(self._test, self._asked, self.queries, maps, generator),
        )

    def _domain(self, part: int, generator: torch.Generator) -> Domain:
        if self.change == "permuted":
            pixels = self._train.shape[2:].numel()
            order = torch.randperm(pixels, generator=generator) if part else None
            return lambda x: x if order is None else x.flatten(2).index_select(2, order.to(x.device)).view_as(x)
        share = (part + uniform(1, generator=generator).item()) / self.domains
        return _turn(math.radians(self._low + (self._high - self._low) * share), self._train.shape[2:])


def _read(name: str, given: Any) -> tuple[Tensor, np.ndarray[Any, Any]]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        got = f"{len(given)} of them" if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"{name}: expected images and labels, ({name}_images, {name}_labels), got {got}")
    images, labels = read_images(given[0], given[1], f"{name} images")
    if not len(images):
        raise ValueError(f"{name} images: expected at least one, got none")
    return images, labels


def _bounds(change: str, degrees: Any) -> tuple[float, float]:
    if degrees is None:
        return 0.0, 180.0
    if change != "rotated":
        raise ValueError(f"degrees: expected None for {change} pictures, got {degrees}; change='rotated' turns them")
    if (
        not isinstance(degrees, (tuple, list))
        or len(degrees) != 2
        or not all(isinstance(angle, (int, float)) and math.isfinite(angle) for angle in degrees)
    ):
        raise ValueError(f"degrees: expected two finite angles, got {degrees!r}; e.g. (0.0, 180.0)")
    low, high = map(float, degrees)
    return low, high


def _drawn(images: Tensor, labels: Tensor, count: int | None, maps: list[Domain], generator: torch.Generator) -> Points:
    """So many pictures for each task, in a random order, as its domain shows them."""
    count = len(images) if count is None else count
    dtype = torch.float32 if images.dtype == torch.uint8 else images.dtype
    x = torch.empty(len(maps), count, *images.shape[1:], dtype=dtype, device=images.device)
    y = torch.empty(len(maps), count, dtype=torch.long, device=images.device)
    for b, domain in enumerate(maps):
        rows = torch.randperm(len(images), generator=generator)[:count].to(images.device)
        y[b] = labels[rows]
        for one, shown in zip(rows.split(1024), x[b].split(1024), strict=True):  # in bounded memory
            shown.copy_(domain(images[one] if dtype == images.dtype else images[one].to(dtype).div_(255)))
    return Points(x, y, torch.ones_like(y, dtype=torch.bool))


def _turn(angle: float, size: torch.Size) -> Domain:
    """Pictures turned counter-clockwise by so many radians."""
    height, width = size
    down, right = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    cos, sin = math.cos(angle), math.sin(angle)  # where each pixel comes from, rows downwards
    grid = torch.stack([(cos * right - sin * down) * 2 / width, (sin * right + cos * down) * 2 / height], -1)

    def turn(x: Tensor) -> Tensor:
        places = grid.to(x).expand(len(x), -1, -1, -1)
        return F.grid_sample(x, places, mode="bilinear", padding_mode="zeros", align_corners=False)

    return turn
