"""Pictures as sets of pixels, so that every learner of classes is one of masks.

Shape letters of pictures: C channels, H rows, V columns, F features of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from pyro.distributions import Categorical
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.border import check_bytes, check_count
from bayesmeta.data import Episode, Points
from bayesmeta.distributions import has_labels, kind, marginals
from bayesmeta.distributions.family import family
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Bernoulli
from bayesmeta.networks import check_network, has_batch_norm, parts
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed
from bayesmeta.randomness import hashed, uniform

__all__ = ["Dense"]


@final
class Dense(Learner):
    """A learner of pixels as one of pictures: each pixel is a point, x its features and y its label.

    Points are pictures: x ``(B, N, C, H, V)``, y labels ``(B, N, H, V)``, and where pixels have no label (void) a mask of the
    shape of y. The learner within sees B tasks of N·H·V points, ``*X = (F,)``, of which those that are void are masked; it may be
    any learner of one label a point, of W classes by `Categorical` and the like, or of two by `Bernoulli`. Predictions are of
    each pixel by itself: batch ``(B, M)``, event ``(H, V)``. ``posterior.functions(S)`` are S masks' logits that hang together.
    Losses are the learner's own, means over observed pixels. Pixels are not independent of their neighbours, as the learner takes
    them to be: a learner that counts each for one is too sure, see `LaplaceHead`'s `evidence`.

    Gaussian processes cost the cube of the number of pixels: give them some hundreds, `pixels`.

    Args:
        features: any module from pictures ``(N, C, H, V)`` to features of each pixel, ``(N, F, H, V)``, such as
            ``UNet(...).features``; `nn.Identity` for pictures that hold the features as channels. Tasks share it.
        learner: what learns of features and labels.
        pixels: how many of a task's observed pixels are learned from; None for all. By a hash of the seed and of each pixel's
            place among them: the same at each call. In training other ones at each step, drawn by torch's global generator, of
            the queries too.
        seed: of that choice.

    Raises:
        TypeError: the learner is no learner.
        ValueError: the features depend on the pictures beside a picture, or `pixels` is not at least 1. At a call, x or y are no
            pictures of one size, or features have another.

    Example:
        >>> learner = Dense(nn.Conv2d(3, 8, 3, padding=1), PrototypicalNetwork(nn.Identity(), classes=2))
        >>> support = points(torch.rand(5, 3, 12, 16), torch.randint(2, (5, 12, 16)), classes=2, event_dims=2)
        >>> prediction = learner(support)(torch.rand(4, 3, 12, 16))
        >>> prediction.batch_shape, prediction.event_shape
        (torch.Size([1, 4]), torch.Size([12, 16]))
    """

    masks_entries = True
    label_dims = 2

    def __init__(self, features: nn.Module, learner: Learner, pixels: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        check_network(features, "features")
        if has_batch_norm(features):
            raise ValueError(
                "features: expected those of each picture by itself, got batch normalisation, by which padding would change "
                "them; use group normalisation, as UNet does"
            )
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as LaplaceHead(...), got {type(learner).__name__}")
        if pixels is not None:
            check_count("pixels", pixels)
        check_count("seed", seed, least=0)
        self.features = features
        self.learner = learner
        self.pixels = pixels
        self.seed = seed

    def _floating(self) -> bool:
        """Whether the learner has yes and no, 0.0 and 1.0, in the place of labels."""
        return bool(parts(self.learner, Bernoulli))

    def forward(self, support: Points) -> Posterior:
        read = partial(_read, Frozen(self.features), self._floating())
        height, width = _size(support)
        choose = partial(_chosen, self.pixels, self.seed, 0)
        return _Masks(
            self.learner(choose(read(support))),
            support,
            partial(_pixels, Frozen(self.features)),
            lambda distribution: _as_masks(distribution, height, width),
            lambda points: choose(read(points)),
        )

    def loss(self, episode: Episode) -> Tensor:
        read = partial(_read, self.features, self._floating())
        given = [read(part) for part in episode]
        if self.pixels is not None:
            streams = (uniform((2,), given[0].x) * 2**31).long()
            given = [_chosen(self.pixels, self.seed, stream, part) for stream, part in zip(streams, given, strict=True)]
        return self.learner.loss(Episode(*given))


class _Masks(Transformed):
    """What a posterior of pixels says of pictures."""

    def _admit(self, points: Points) -> None:
        assert self.further is not None
        self.inner._admit(self.further(points))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric, epistemic = self.inner._decompose(self._inward(x), samples)
        shape = (*x.shape[:2], *self.support.y.shape[2:])  # yes and no have an entry of their own
        return aleatoric.reshape(shape), epistemic.reshape(shape)


def _size(given: Points) -> tuple[int, int]:
    """Rows and columns of pictures with their labels."""
    x, y = given.x, given.y
    if not isinstance(x, Tensor) or x.dim() != 5 or not x.is_floating_point():
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"x: expected pictures (B, N, C, H, V) of floating numbers, got {found}; of one channel with C = 1, and bytes "
            "divided by 255"
        )
    if y.is_floating_point() or y.shape != (*x.shape[:2], *x.shape[3:]):
        raise ValueError(
            f"y: expected a label for each pixel, whole numbers of the pictures' size {(*x.shape[:2], *x.shape[3:])}, got "
            f"{y.dtype} {tuple(y.shape)}; build the points with points(x, y, classes=W, event_dims=2), and where pixels have no "
            "label mask=..."
        )
    return x.shape[3], x.shape[4]


def _pixels(features: Callable[[Any], Tensor], x: Tensor) -> Tensor:
    """Pictures ``(B, N, C, H, V)`` to pixels ``(B, N H V, F)``."""
    check_bytes(x, dimensions=2)
    found = features(x.flatten(0, 1))
    if found.dim() != 4 or (len(found), *found.shape[2:]) != (x.shape[0] * x.shape[1], *x.shape[3:]):
        raise ValueError(
            f"features: expected features of each pixel, ({x.shape[0] * x.shape[1]}, F, {x.shape[3]}, {x.shape[4]}), got "
            f"{tuple(found.shape)}; pad convolutions, or give features of fewer pixels back their size, as UNet does"
        )
    return found.unflatten(0, x.shape[:2]).movedim(2, -1).flatten(1, 3)


def _read(features: Callable[[Any], Tensor], floating: bool, given: Points) -> Points:
    """Pictures with labels as pixels, those without a label masked."""
    _size(given)
    x, y, mask = _pixels(features, given.x), given.y, given.mask
    mask = (mask if mask.dim() > 2 else mask[:, :, None, None].expand_as(y)).flatten(1)
    y = (y.flatten(1)[..., None] * mask[..., None]).to(x) if floating else y.flatten(1) * mask
    return Points(x * mask[..., None], y, mask)


def _chosen(pixels: int | None, seed: int, stream: int | Tensor, given: Points) -> Points:
    """So many of each task's observed points, by a hash of each one's place among them."""
    if pixels is None or given.mask.shape[1] <= pixels:
        return given
    keys = hashed(seed, stream, given.mask.cumsum(1)).masked_fill(~given.mask, 2.0)
    chosen = keys.topk(pixels, 1, largest=False).indices.sort(1).values
    tasks = torch.arange(len(chosen), device=chosen.device)[:, None]
    return Points(*(leaf[tasks, chosen] for leaf in given))


def _as_masks(distribution: Distribution, height: int, width: int) -> Distribution:
    """Predictions of pixels, batch ``(..., M H V)``, as predictions of pictures: batch ``(..., M)``, event ``(H, V)``."""
    if kind(distribution) != "classes":
        raise ValueError(
            f"learner: expected one of labels, with the likelihood Categorical or Bernoulli, got predictions of numbers, "
            f"{type(distribution).__name__}; give it such a likelihood"
        )
    place, events = len(distribution.batch_shape) - 1, len(distribution.event_shape)
    single: Any = marginals(distribution)
    single = family(single).map(
        single, lambda p: p.flatten(place, place + events).unflatten(place, (-1, height, width))
    )
    if not has_labels(single):  # yes or no, as labels
        single = Categorical(
            logits=torch.stack([F.logsigmoid(-single.logits), F.logsigmoid(single.logits)], -1), validate_args=False
        )
    masks: Distribution = single.to_event(2)
    return masks
