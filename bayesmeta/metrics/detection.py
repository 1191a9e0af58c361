"""Metrics of boxes: average precision, and how far scores and edges are to be trusted.

Average precision is COCO's (Lin et al. 2014, https://arxiv.org/abs/1405.0312), the mean over the recalls 0, 0.01, ..., 1 of the
best precision at a recall as large; but of scores in bins, whose counts add up over pictures and tasks. So it streams, and has an
interval by resampling tasks. `bayesmeta.metrics.matching` says what is found and what is right. The calibration error is that of
Küppers, Kronenberger, Shantia & Haselhoff 2020, "Multivariate Confidence Calibration for Object Detection",
https://arxiv.org/abs/2004.13546, of scores alone; theirs is of places and sizes too.

Shape letters of boxes: P found in a picture, L overlaps that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_count, check_probability
from bayesmeta.data import Points
from bayesmeta.distributions import cdf, quantile
from bayesmeta.distributions.boxes import check_boxes
from bayesmeta.likelihoods import check_event
from bayesmeta.metrics.classification import bin_parts, binned
from bayesmeta.metrics.matching import detections, size_of, true_edges
from bayesmeta.metrics.metric import Metric, mean

__all__ = [
    "COCO_OVERLAPS",
    "AveragePrecision",
    "Centres",
    "DetectionECE",
    "EdgeCoverage",
    "EdgeWidth",
]

COCO_OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.5, 0.55, ..., 0.95, over which COCO's AP is a mean."""


def score_bins(scores: Tensor, bins: int) -> Tensor:
    """The bin of each score: finest near 0 and 1, where scores crowd, as equal widths of √p / (√p + √(1 - p)) are."""
    yes, no = scores.double().sqrt(), (1 - scores.double()).sqrt()
    return (yes / (yes + no) * bins).long().clamp(0, bins - 1)


def average_precision_of_bins(right: Tensor, found: Tensor, true: Tensor) -> Tensor:
    """The mean of the best precision at 101 recalls, ``(...)``, from counts in bins of rising score; NaN without a true box.

    Boxes of one bin count as equally sure: none is ranked before the other.

    Args:
        right: how many boxes in each bin are right, ``(..., bins)``.
        found: how many there are, ``(..., bins)``.
        true: how many true boxes there are, ``(...)``.
    """
    hits, count = right.flip(-1).cumsum(-1), found.flip(-1).cumsum(-1)
    precision = (hits / count.clamp(min=1)).flip(-1).cummax(-1).values.flip(-1)
    asked = torch.arange(101, dtype=hits.dtype, device=hits.device) * 0.01
    place = torch.searchsorted(hits / true[..., None], asked.expand(*hits.shape[:-1], 101).contiguous())
    reached = torch.cat([precision, torch.zeros_like(precision[..., :1])], -1)
    return reached.gather(-1, place).mean(-1).masked_fill(true == 0, torch.nan)


@final
@dataclass(frozen=True)
class AveragePrecision(Metric):
    """The mean over recalls of the precision of the boxes that are found, the surest first, as COCO has it: 0 to 1.

    The boxes of all tasks are ranked together, as COCO ranks those of all pictures of a class. A task has one class, so tasks of
    several classes pool these: for the mean over classes, evaluate a source of each and take the mean. Pictures and tasks without
    a true box count, by what is found in them; where no task has one, it is NaN. Scores are ranked in bins, finest near 0 and 1,
    so that with fewer than some fifty true boxes, where a single one counts, it may differ from COCO's by more than 0.01.

    Args:
        overlaps: by how much of the joint area (IoU) a box that is right overlaps the true one, at least; the mean over them, if
            there are several: ``AveragePrecision(COCO_OVERLAPS)`` is COCO's AP, and without it AP50.
        bins: of scores.

    Raises:
        ValueError: there are no overlaps, they are not between 0 and 1, or fewer than one bin.
        TypeError: predictions are not of boxes.
    """

    overlaps: tuple[float, ...] = (0.5,)
    bins: int = 1000

    def __post_init__(self) -> None:
        check_count("bins", self.bins)
        if not isinstance(self.overlaps, tuple) or not self.overlaps:
            raise ValueError(f"overlaps: expected a tuple of at least one, got {self.overlaps!r}; e.g. overlaps=(0.5,)")
        for overlap in self.overlaps:
            check_probability("overlaps", overlap)

    @property
    def name(self) -> str:
        if self.overlaps == COCO_OVERLAPS:
            return "AP"
        return f"AP{100 * self.overlaps[0]:g}" + "".join(f", {100 * overlap:g}" for overlap in self.overlaps[1:])

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        found = detections(distribution, given, self.overlaps)
        place = score_bins(found.scores, self.bins).flatten(1)
        empty = torch.zeros(len(place), self.bins, dtype=torch.float64, device=place.device)
        counts = [empty.scatter_add(1, place, part.flatten(1).double()) for part in (found.kept, *found.right)]
        return torch.cat([*counts, found.true.sum(1, keepdim=True).double()], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        found, *right = sums[..., :-1].unflatten(-1, (-1, self.bins)).unbind(-2)
        return torch.stack([average_precision_of_bins(part, found, sums[..., -1]) for part in right]).mean(0)


@final
@dataclass(frozen=True)
class DetectionECE(Metric):
    """Expected calibration error of boxes: the mean distance between their scores and the share that is right, over bins.

    Küppers et al. 2020, https://arxiv.org/abs/2004.13546, of scores alone. A score is the probability of a centre,
    and to be right a box must also overlap the true one by half of their joint area: doubt about edges makes scores too high.
    The boxes of all tasks are pooled; where none counts, it is NaN. How far the probabilities of centres in all cells are to be
    trusted, ``Centres(ECE())`` says.

    Args:
        bins: the number of bins of scores.
        least: the least score of a box that counts: most cells hold nothing, which is easily said.

    Raises:
        ValueError: fewer than one bin, or a least score that is not between 0 and 1.
        TypeError: predictions are not of boxes.
    """

    bins: int = 15
    least: float = 0.3

    def __post_init__(self) -> None:
        check_count("bins", self.bins)
        check_probability("least", self.least)

    @property
    def name(self) -> str:
        return "detection ECE"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        found = detections(distribution, given)
        return binned(found.scores.double(), found.right.double(), found.kept & (found.scores >= self.least), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, right = bin_parts(sums, self.bins)
        return (confidence - right) / count.sum(-1, keepdim=True)


@final
@dataclass(frozen=True)
class EdgeCoverage(Metric):
    """The share of true boxes' edges inside the central interval of the given level; a calibrated predictive's is the level.

    The interval is that of the cell that holds the true box's centre, given that it does: it says nothing of whether the box is
    found. The four edges of all boxes of all tasks are pooled.

    Args:
        level: the probability that the interval has under the predictive, 0.9 for 90 %.

    Raises:
        ValueError: the level is not strictly between 0 and 1.
        TypeError: predictions are not of boxes.
    """

    level: float = 0.9

    def __post_init__(self) -> None:
        check_probability("level", self.level)

    @property
    def name(self) -> str:
        return f"{100 * self.level:g}% edge coverage"

    @property
    def better(self) -> str:
        return f"near {self.level:g}"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        there, single, y = true_edges(distribution, given)
        return _by_task((cdf(single, y) - 0.5).abs() <= self.level / 2, there)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


@final
@dataclass(frozen=True)
class EdgeWidth(Metric):
    """The mean width of the intervals of `EdgeCoverage`, in pixels: of two that cover, the narrower is better.

    Args:
        level: the probability that the interval has under the predictive, 0.9 for 90 %.

    Raises:
        ValueError: the level is not strictly between 0 and 1.
        TypeError: predictions are not of boxes.
    """

    level: float = 0.9

    def __post_init__(self) -> None:
        check_probability("level", self.level)

    @property
    def name(self) -> str:
        return f"{100 * self.level:g}% edge width"

    better = ""  # a narrow forecast need not be a good one

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        there, single, _ = true_edges(distribution, given)
        low, high = quantile(single, [0.5 - self.level / 2, 0.5 + self.level / 2])
        down, right = (length / count for length, count in zip(size_of(given), there.shape[2:], strict=True))
        return _by_task((high - low) * low.new_tensor([right, down, right, down]), there)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


def _by_task(values: Tensor, there: Tensor) -> Tensor:
    """The sum of values of edges ``(n, 4)`` by the task of their cells ``(B, M, G, K)``, beside their number: ``(B, 2)``."""
    sums = torch.stack([values.double().sum(1), values.new_full((len(values),), 4, dtype=torch.float64)], 1)
    return sums.new_zeros(len(there), 2).index_add(0, there.nonzero()[:, 0], sums)


@final
@dataclass(frozen=True)
class Centres(Metric):
    """Another metric, of whether each cell holds a centre: ``Centres(NLL())``, ``Centres(ECE())``, ``Centres(ErrorAUROC())``.

    Args:
        metric: one of labels, of which a cell has two.

    Raises:
        TypeError: predictions are not of boxes.
    """

    metric: Metric

    @property
    def name(self) -> str:
        return f"{self.metric.name} of centres"

    @property
    def better(self) -> str:
        return self.metric.better

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        check_boxes(distribution)
        check_event(distribution.event_shape, given.y.shape[2:])
        yes = distribution.mean[..., 0].double().logit(1e-12)
        centres = Categorical(logits=torch.stack([torch.zeros_like(yes), yes], -1), validate_args=False).to_event(2)
        mask = given.mask[..., 0] if given.mask.dim() > 2 else given.mask
        return self.metric.statistic(centres, Points(given.x, given.y[..., 0].long(), mask))

    def reduce(self, sums: Tensor) -> Tensor:
        return self.metric.reduce(sums)

    def gaps(self, sums: Tensor) -> Tensor | None:
        return self.metric.gaps(sums)

    def size(self, gaps: Tensor) -> Tensor:
        return self.metric.size(gaps)
