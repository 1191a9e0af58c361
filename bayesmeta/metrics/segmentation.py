"""Metrics of masks: intersection over union, Dice, and what calibration is near the edges.

Dice 1945, "Measures of the Amount of Ecologic Association Between Species", https://doi.org/10.2307/1932409, of masks a and b:
2 |a ∩ b| / (|a| + |b|). A mask that is cut at p > 0.5 makes the fewest wrong pixels, and is empty for whatever is rare or in
doubt. The mask of the largest expected Dice is cut at half that largest value (Lewis 1995, "Evaluating and optimizing autonomous
text classification systems", https://doi.org/10.1145/215206.215366; Nordström, Hult, Maki & Löfman 2022, "On Image Segmentation
With Noisy Labels", https://arxiv.org/abs/2206.06484, theorem 2), and so at another probability for each picture.

Shape letters of pictures: M pictures, H rows, V columns, P = H V pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import class_probabilities, has_labels
from bayesmeta.metrics.metric import Metric

__all__ = ["Dice", "Edges", "IoU", "best_mask"]

Decision = Literal["dice", "likeliest"]


def best_mask(probabilities: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mask of the largest expected Dice with the true one, bool, of pictures ``(..., H, V)``.

    It holds the k likeliest pixels, for the k of the largest 2 Σ_{i ≤ k} p_i / (k + Σ p): the expectation of the numerator over
    that of the denominator, which with hundreds of pixels is the expected Dice. Or it is empty, if what is likelier still is that
    there is nothing (then Dice is 1), with the pixels independent of each other.

    Args:
        probabilities: of the class at each pixel.
        mask: which pixels count; the others are left out.

    Example:
        >>> best_mask(torch.tensor([[0.4, 0.4, 0.01, 0.01]]))
        tensor([[ True,  True, False, False]])
    """
    p = (probabilities.double() if mask is None else probabilities.double() * mask).flatten(-2)
    ranked, order = p.sort(dim=-1, descending=True, stable=True)
    count = torch.arange(1, p.shape[-1] + 1, device=p.device)
    expected = 2 * ranked.cumsum(-1) / (count + ranked.sum(-1, keepdim=True))
    value, place = expected.max(-1, keepdim=True)
    nothing = torch.log1p(-p.clamp(max=1 - 1e-12)).sum(-1, keepdim=True).exp() >= value
    chosen = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, (count <= place + 1) & ~nothing)
    return chosen.unflatten(-1, probabilities.shape[-2:])


@dataclass(frozen=True)
class _Overlap(Metric):
    """The mean over tasks, and over labels, of how far masks overlap."""

    decision: Decision = "dice"

    def __post_init__(self) -> None:
        if self.decision not in ("dice", "likeliest"):
            raise ValueError(f'decision: expected "dice" or "likeliest", got {self.decision!r}; choose one of them')

    @property
    def name(self) -> str:
        return type(self).__name__ + ("" if self.decision == "dice" else ", likeliest")

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, mask = _pictures(distribution, given)
        labels = range(1 if p.shape[-1] == 2 else 0, p.shape[-1])
        rows = []
        for label in labels:
            chosen = best_mask(p[..., label], mask) if self.decision == "dice" else p.argmax(-1) == label
            true = given.y == label
            both, said, there = ((part & mask).flatten(1).sum(1).double() for part in (chosen & true, chosen, true))
            shown = (said + there > 0).double()
            rows += [self._overlap(both, said + there) * shown, shown]
        return torch.stack(rows, 1)

    @abstractmethod
    def _overlap(self, both: Tensor, sizes: Tensor) -> Tensor:
        """Of each task, from the sizes of what both masks have, and of the two together, each ``(B,)``."""

    def reduce(self, sums: Tensor) -> Tensor:
        overlap, tasks = sums.unflatten(-1, (-1, 2)).unbind(-1)
        return (overlap / tasks).nanmean(-1)  # labels that no task shows have none


@final
@dataclass(frozen=True)
class IoU(_Overlap):
    """The mean over tasks of intersection over union, |a ∩ b| / |a ∪ b|, of all pictures of a task together.

    Of two labels, it is that of label 1, what is segmented; of more, the mean over all that pictures show or are said to show.

    Args:
        decision: which pixels are said to have a label: ``"dice"``, the mask of each picture and label of the largest expected
            Dice (see `best_mask`; those of several labels may overlap); or ``"likeliest"``, where it is the most probable, which
            of two labels is p > 0.5.

    Raises:
        ValueError: no such decision; predictions are no pictures of labels.
    """

    def _overlap(self, both: Tensor, sizes: Tensor) -> Tensor:
        return both / (sizes - both).clamp(min=1)


@final
@dataclass(frozen=True)
class Dice(_Overlap):
    """The mean over tasks of Dice, 2 |a ∩ b| / (|a| + |b|), of all pictures of a task together.

    Of two labels, it is that of label 1, what is segmented; of more, the mean over all that pictures show or are said to show.

    Args:
        decision: which pixels are said to have a label: ``"dice"``, the mask of each picture and label of the largest expected
            Dice (see `best_mask`; those of several labels may overlap); or ``"likeliest"``, where it is the most probable, which
            of two labels is p > 0.5.

    Raises:
        ValueError: no such decision; predictions are no pictures of labels.
    """

    def _overlap(self, both: Tensor, sizes: Tensor) -> Tensor:
        return 2 * both / sizes.clamp(min=1)


@final
@dataclass(frozen=True)
class Edges(Metric):
    """Another metric, of the pixels near an edge between labels alone, or of those far from every edge.

    Near edges labels are in doubt, even to who drew them. ``Edges(ECE())`` and ``Edges(ECE(), far=True)`` say whether a learner
    knows.

    Args:
        metric: such as `NLL`, `ECE` or `Accuracy`.
        distance: how many pixels from an edge are near, along rows and columns.
        far: whether to judge the other pixels.

    Raises:
        ValueError: the distance is not at least 1, or predictions are no pictures of labels.
    """

    metric: Metric
    distance: int = 2
    far: bool = False

    def __post_init__(self) -> None:
        check_count("distance", self.distance)

    @property
    def name(self) -> str:
        return f"{self.metric.name} {'far from' if self.far else 'near'} edges"

    @property
    def better(self) -> str:
        return self.metric.better

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, mask = _pictures(distribution, given)
        y, side = given.y.double(), 2 * self.distance + 1
        largest, smallest = (
            F.max_pool2d(values, side, stride=1, padding=self.distance)
            for values in (y.masked_fill(~mask, -torch.inf), (-y).masked_fill(~mask, -torch.inf))
        )
        near = largest != -smallest
        return self.metric.statistic(distribution, given._replace(mask=mask & (near != self.far)))

    def reduce(self, sums: Tensor) -> Tensor:
        return self.metric.reduce(sums)

    def gaps(self, sums: Tensor) -> Tensor | None:
        return self.metric.gaps(sums)

    def size(self, gaps: Tensor) -> Tensor:
        return self.metric.size(gaps)


def _pictures(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor]:
    """Probabilities ``(B, M, H, V, W)`` and what is observed, ``(B, M, H, V)``."""
    if not has_labels(distribution) or len(distribution.event_shape) != 2 or given.y.dim() != 4:
        raise ValueError(
            f"predictions: expected pictures of labels, event (H, V), got event {tuple(distribution.event_shape)} and targets "
            f"{tuple(given.y.shape)}; use Dense, or Categorical(event_dims=2)"
        )
    mask = given.mask if given.mask.dim() == 4 else given.mask[..., None, None].expand_as(given.y)
    return class_probabilities(distribution), mask
