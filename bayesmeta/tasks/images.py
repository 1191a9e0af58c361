"""Few-shot classification of images: any labelled pictures, and Omniglot.

Shape letters of images: n images, C channels, H rows and columns.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch

from bayesmeta.data import Episode, Points
from bayesmeta.tasks.source import TaskSource

__all__ = ["ImageTasks", "Omniglot"]


class EpisodeShape(TypedDict, total=False):
    """The keyword arguments of `ImageTasks` that say what an episode holds."""

    ways: int
    shots: int
    queries: int
    batch: int
    seed: int
    length: int


class ImageTasks(TaskSource):
    """W-way K-shot tasks from labelled images: each task has classes and images of its own choice.

    Within a task classes are numbered 0 to W - 1 in an order drawn for it. Images of bytes are scaled to [0, 1]; the rest are
    taken as they are. Images stay on their device, and so are the episodes.

    Args:
        images: ``(n, C, H, H)``, or ``(n, H, H)`` for one channel; an array or tensor.
        labels: ``(n,)`` whole numbers: the class of each image.
        ways: W, classes a task.
        shots: K, support images a class.
        queries: query images a class.
        batch: B, tasks in an episode.
        rotations: whether each class turned by 90, 180 and 270 degrees is another class, as in Santoro et al. 2016
            (https://arxiv.org/abs/1605.06065).
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: shapes that do not fit, fewer classes than ways, or a class of fewer images than shots + queries.

    Example:
        >>> images, labels = torch.rand(60, 1, 28, 28), torch.arange(60) % 6
        >>> tasks = ImageTasks(images, labels, ways=3, shots=1, queries=4, batch=2)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape
        (torch.Size([2, 3, 1, 28, 28]), torch.Size([2, 12]))
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        batch: int = 4,
        rotations: bool = False,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        images, labels = torch.as_tensor(images), torch.as_tensor(labels).cpu()
        if images.dim() == 3:
            images = images[:, None]
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"images and labels: expected (n, C, H, H) or (n, H, H) and (n,), got {tuple(images.shape)} and "
                f"{tuple(labels.shape)}; give every image one label"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels: expected whole numbers, got {labels.dtype}; number the classes")
        if rotations and images.shape[2] != images.shape[3]:
            raise ValueError(
                f"rotations: expected square images, got {tuple(images.shape[2:])}; crop them, or rotations=False"
            )
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        names, counts = labels.unique(return_counts=True)
        turns = 4 if rotations else 1
        if len(names) * turns < ways:
            raise ValueError(f"ways: expected at most the {len(names) * turns} classes there are, got {ways}")
        if int(counts.min()) < shots + queries:
            smallest = int(names[counts.argmin()])
            raise ValueError(
                f"shots and queries: expected at most {int(counts.min())} together, the images of class {smallest}, got "
                f"{shots} + {queries}; ask for fewer, or leave that class out"
            )
        self.images, self.classes = images, len(names) * turns
        self.ways, self.shots, self.queries, self.batch = ways, shots, queries, batch
        order = labels.argsort(stable=True)
        self._table = torch.nn.utils.rnn.pad_sequence(  # (classes, most images of one): places in `images`
            list(order.split(counts.tolist())), batch_first=True
        )
        self._counts = counts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classes} classes, ways={self.ways}, shots={self.shots})"

    def draw(self, generator: torch.Generator) -> Episode:
        size = (self.batch, self.ways)
        chosen = torch.rand(self.batch, self.classes, generator=generator).topk(self.ways).indices
        one, turns = chosen % len(self._table), chosen // len(self._table)
        lots = torch.rand(*size, self._table.shape[1], generator=generator)
        lots[torch.arange(lots.shape[-1]) >= self._counts[one][..., None]] = -1.0  # padding is drawn last
        drawn = self._table[one].gather(-1, lots.topk(self.shots + self.queries).indices)
        x = self.images[drawn.to(self.images.device)]
        x = x / 255 if x.dtype == torch.uint8 else x
        for turn in range(1, 4):
            turned = (turns == turn).to(x.device)
            x[turned] = torch.rot90(x[turned], turn, (-2, -1))
        y = torch.arange(self.ways, device=x.device)[:, None].expand(*size, self.shots + self.queries)
        parts = [(x[:, :, : self.shots], y[..., : self.shots]), (x[:, :, self.shots :], y[..., self.shots :])]
        support, query = (
            Points(x.flatten(1, 2), y.flatten(1), torch.ones_like(y.flatten(1), dtype=torch.bool)) for x, y in parts
        )
        return Episode(support, query)


SPLITS = {"train": 0, "validation": 1, "test": 2}


def Omniglot(  # noqa: N802 (a source, named like the others)
    root: str | os.PathLike[str] | None = None,
    *,
    split: Literal["train", "validation", "test"] = "train",
    rotations: bool | None = None,
    **shape: Unpack[EpisodeShape],
) -> ImageTasks:
    """Handwritten characters of 50 alphabets, 20 drawings each, 28 x 28: Lake, Salakhutdinov & Tenenbaum 2015.

    Split by character as in Vinyals et al. 2016 (https://arxiv.org/abs/1606.04080): 1,028 to train, 172 to validate, 423 to
    test. Ink is 1.

    Args:
        root: the folder of ``omniglot28.npz``; None for ``omniglot`` in the folder that the variable BAYESMETA_DATA names.
            The file holds images ``(1623, 20, 28, 28)`` of bytes and split_vinyals ``(1623,)`` of 0, 1 and 2.
        split: which characters.
        rotations: whether turned characters are further classes; None for training characters only.
        shape: ways, shots, queries, batch, seed, length: see `ImageTasks`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: an unknown split, or a file that is truncated or holds something else.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected train, validation or test, got {split!r}")
    named = os.environ.get("BAYESMETA_DATA")
    if root is None and named is None:
        raise FileNotFoundError(
            "root: expected the folder of omniglot28.npz, got none; pass it, or set BAYESMETA_DATA to the folder above it"
        )
    path = Path(root if root is not None else Path(str(named)) / "omniglot") / "omniglot28.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"root: expected the file {path}, found none; pass the folder that holds it, or set BAYESMETA_DATA"
        )
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            images, part = file["images"], file["split_vinyals"]
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: expected a NumPy archive of images and split_vinyals, got one that does not read ({error}); copy it anew"
        ) from error
    if images.shape != (1623, 20, 28, 28) or part.shape != (1623,):
        raise ValueError(
            f"{path}: expected images (1623, 20, 28, 28) and split_vinyals (1623,), got {images.shape} and {part.shape}"
        )
    kept = images[part == SPLITS[split]]
    labels = np.arange(len(kept)).repeat(20)
    turned = split == "train" if rotations is None else rotations
    return ImageTasks(kept.reshape(-1, 28, 28), labels, rotations=turned, **shape)
