"""Metrics of a label for none of these: whether what lies outside a task's classes is found, and at what price.

In tasks with queries from outside (``ClassTasks(..., outside=q)``) it is the last of W + 1 labels. Hendrycks & Gimpel 2017, "A
Baseline for Detecting Misclassified and Out-of-Distribution Examples", https://arxiv.org/abs/1610.02136, section 2; Larson et al.
2019, https://arxiv.org/abs/1909.02027, section 4, report accuracy inside and recall outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_probability
from bayesmeta.data import Points
from bayesmeta.metrics.classification import by_outside, probabilities
from bayesmeta.metrics.metric import Metric
from bayesmeta.metrics.ranking import aupr_of_bins

__all__ = ["Inside", "Outside", "OutsideAUPR", "OutsideRecall"]


class _Kind(Metric):
    """Another metric, of one kind of points alone."""

    metric: Metric
    _outside: bool

    @property
    def better(self) -> str:
        return self.metric.better

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, points = probabilities(distribution, given)
        kind = (labels == p.shape[-1] - 1) == self._outside
        return self.metric.statistic(distribution, given._replace(mask=points.mask & kind))

    def reduce(self, sums: Tensor) -> Tensor:
        return self.metric.reduce(sums)

    def gaps(self, sums: Tensor) -> Tensor | None:
        return self.metric.gaps(sums)

    def size(self, gaps: Tensor) -> Tensor:
        return self.metric.size(gaps)


@final
@dataclass(frozen=True)
class Inside(_Kind):
    """Another metric, of the points alone that are of a class of the task, among all W + 1 labels.

    ``Inside(Accuracy())`` counts as an error a point that is of a class, but was said to be of none.

    Args:
        metric: such as `Accuracy`, `NLL` or `ECE`.
    """

    metric: Metric
    _outside = False

    @property
    def name(self) -> str:
        return f"{self.metric.name} inside"


@final
@dataclass(frozen=True)
class Outside(_Kind):
    """Another metric, of the points alone that are of no class of the task; ``Outside(Accuracy())`` is their recall.

    Args:
        metric: such as `Accuracy`, the share of them that the learner itself says to be of none.
    """

    metric: Metric
    _outside = True

    @property
    def name(self) -> str:
        return f"{self.metric.name} outside"


@final
@dataclass(frozen=True)
class OutsideAUPR(Metric):
    """The average precision of finding points of the last label by its probability: the area under precision and recall.

    It depends on how many there are; that of a score that says nothing is their share. Over 256 bins of log-odds, in which points
    have no order. NaN where there are none.
    """

    @property
    def name(self) -> str:
        return "outside AUPR"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        outside = labels == p.shape[-1] - 1
        return torch.cat([by_outside(p, kind & given.mask) for kind in (outside, ~outside)], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        return aupr_of_bins(*sums.chunk(2, -1))


@final
@dataclass(frozen=True)
class OutsideRecall(Metric):
    """The share of points outside that are found where a threshold on the last label's probability costs only so much inside.

    The threshold is the lowest, common to all tasks, at which the set share of the points inside is still named rightly: by the
    likeliest of the W classes, and below the threshold. Over 256 bins of log-odds. 0 where the classes alone are not named so
    well, NaN where no point is outside.

    Args:
        accuracy: that share.

    Raises:
        ValueError: it is not between 0 and 1.
    """

    accuracy: float = 0.95

    def __post_init__(self) -> None:
        check_probability("accuracy", self.accuracy)

    @property
    def name(self) -> str:
        return f"outside recall at {self.accuracy:g} inside"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        outside = labels == p.shape[-1] - 1
        right = ~outside & (p[..., :-1].argmax(-1) == labels)
        return torch.cat([by_outside(p, kind & given.mask) for kind in (outside, ~outside, right)], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        outside, inside, right = sums.unflatten(-1, (3, -1)).unbind(-2)
        kept = right.cumsum(-1) / inside.sum(-1, keepdim=True)  # with the threshold above each bin
        missed = outside.cumsum(-1) / outside.sum(-1, keepdim=True)
        enough = kept >= self.accuracy
        best = torch.where(enough, 1 - missed, 0.0).amax(-1)
        return torch.where(outside.sum(-1) > 0, best, torch.nan)
