"""Metrics of labels: accuracy, and whether doubt finds the errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from bayesmeta.data import Points
from bayesmeta.distributions import class_probabilities, has_labels, marginals
from bayesmeta.likelihoods import check_event
from bayesmeta.metrics.metric import Metric, mean, total
from bayesmeta.metrics.ranking import aupr_of_bins, auroc_of_bins, risk_coverage_of_bins

__all__ = ["AUPR", "AURC", "AUROC", "Accuracy", "ErrorAUROC", "OutsideAUROC", "probabilities", "top"]


def each_label(distribution: Distribution, given: Points) -> tuple[Distribution, Points]:
    """Predictions and targets of labels of an event ``*Y`` with each label as a point: ``(B, M)`` becomes ``(B, M Y)``."""
    y, mask = given.y, given.mask
    if y.dim() == 2 or not has_labels(distribution):
        return distribution, given
    check_event(distribution.event_shape, y.shape[2:])
    logits = marginals(distribution).logits.flatten(1, y.dim() - 1)  # type: ignore[attr-defined]
    mask = mask.reshape(mask.shape + (1,) * (y.dim() - mask.dim())).expand_as(y)
    return Categorical(logits=logits, validate_args=False), Points(given.x, y.flatten(1), mask.flatten(1))


def probabilities(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor, Points]:
    """Class probabilities ``(B, M, W)``, float64, labels ``(B, M)``, and the points as `each_label` has them."""
    distribution, given = each_label(distribution, given)
    labels = given.y
    if labels.dim() > 2:  # a Bernoulli's
        if labels.shape[2:] != (1,):
            raise ValueError(f"y: expected one yes-or-no target a point, got {labels.shape[2]}; evaluate one at a time")
        labels = labels.squeeze(-1)
    if given.mask.dim() > 2:
        given = given._replace(mask=given.mask.squeeze(-1))
    return class_probabilities(distribution).double().reshape(*labels.shape, -1), labels.long(), given


def top(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable class's probability, whether it is the right one, and the mask, all ``(B, M)``, float64 but the last."""
    p, labels, given = probabilities(distribution, given)
    confidence, predicted = p.max(-1)
    return confidence, (predicted == labels).double(), given.mask


def binned(confidence: Tensor, correct: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Count, sum of confidence and number right in bins (a, b] of confidence, as is customary: ``(B, 3 bins)``."""
    place = (confidence * bins).ceil().long().sub_(1).clamp_(0, bins - 1).flatten(1)
    parts = torch.stack([torch.ones_like(confidence), confidence, correct], 1).mul_(weight[:, None]).flatten(2)
    return parts.new_zeros(len(parts), 3, bins).scatter_add_(2, place[:, None].expand_as(parts), parts).flatten(1)


def bin_parts(sums: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    count, confidence, correct = sums.unflatten(-1, (3, bins)).unbind(-2)
    return count, confidence, correct


@final
@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of points, or of labels where a point has several, whose most probable class is the right one; pooled."""

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, right, mask = top(distribution, given)
        return total(right, mask)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


FINE = 256
"""Bins of what needs an order of all points: sums over them add up over tasks as orders do not."""


@final
@dataclass(frozen=True)
class ErrorAUROC(Metric):
    """Does confidence tell right predictions from wrong ones? The probability that a right one is the more confident.

    Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136; over 256 bins of confidence, ties counting half.
    """

    @property
    def name(self) -> str:
        return "error AUROC"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return binned(*top(distribution, given), FINE)

    def reduce(self, sums: Tensor) -> Tensor:
        count, _, correct = bin_parts(sums, FINE)
        return auroc_of_bins(correct, count - correct)


@final
@dataclass(frozen=True)
class AURC(Metric):
    """The area under the risk-coverage curve: the mean error rate of the most confident points, over all shares of points.

    Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500; over 256 bins of confidence. Lower is better.
    """

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return binned(*top(distribution, given), FINE)

    def reduce(self, sums: Tensor) -> Tensor:
        count, _, correct = bin_parts(sums, FINE)
        return risk_coverage_of_bins(correct, count - correct)


def by_odds(p: Tensor, chosen: Tensor, bins: int) -> Tensor:
    """How many chosen points ``(B, M)`` have a probability ``(B, M)`` in each bin of its log-odds: ``(B, bins)``."""
    odds = ((p.logit(1e-12) / 4).sigmoid() * bins).long()  # finest where it is near 0 and 1
    return p.new_zeros(len(p), bins).scatter_add(1, odds.clamp(0, bins - 1), chosen.double())


def by_outside(p: Tensor, chosen: Tensor) -> Tensor:
    """`by_odds` of the last label, ``(B, FINE)``, of all labels' probabilities ``(B, M, W)``."""
    return by_odds(p[..., -1], chosen, FINE)


_FINER = 1024
"""Bins where nearly all probabilities may be alike, as those of a rare label are."""


class _Ranked(Metric):
    """Points of one label beside all others, by the probability of that label."""

    label: int

    @property
    def name(self) -> str:
        return type(self).__name__ if self.label == -1 else f"{type(self).__name__} of {self.label}"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        if not -p.shape[-1] <= self.label < p.shape[-1]:
            raise ValueError(
                f"label: expected 0 to {p.shape[-1] - 1}, or -1 for the last, got {self.label}; number it from 0"
            )
        own = labels == self.label % p.shape[-1]
        return torch.cat([by_odds(p[..., self.label], kind & given.mask, _FINER) for kind in (own, ~own)], 1)


@final
@dataclass(frozen=True)
class AUROC(_Ranked):
    """Does the probability of a label tell its points from others? The probability that one of them has more of it.

    For outcomes of yes or no, such as rare ones, of which accuracy says nothing: 0.5 is chance, however rare. The points of all
    tasks are ranked together, over 1024 bins of log-odds, ties counting half. NaN where one of both kinds has no point.

    Args:
        label: which one; the last, of a `Bernoulli` yes, if not said.

    Example:
        >>> yes, outcome = Bernoulli()(torch.tensor([[[-2.0], [1.0], [0.5]]])), torch.tensor([[[0.0], [1.0], [0.0]]])
        >>> AUROC().reduce(AUROC().statistic(yes, Points(outcome, outcome, torch.ones(1, 3, dtype=torch.bool))).sum(0))
        tensor(1., dtype=torch.float64)
    """

    label: int = -1

    def reduce(self, sums: Tensor) -> Tensor:
        return auroc_of_bins(*sums.chunk(2, -1))


@final
@dataclass(frozen=True)
class AUPR(_Ranked):
    """The average precision of finding points of a label by its probability: the area under precision and recall.

    For rare outcomes: a score that says nothing has the share of that label. The points of all tasks are ranked together, over
    1024 bins of log-odds, in which they have no order. NaN where no point has the label.

    Args:
        label: which one; the last, of a `Bernoulli` yes, if not said.
    """

    label: int = -1

    def reduce(self, sums: Tensor) -> Tensor:
        return aupr_of_bins(*sums.chunk(2, -1))


@final
@dataclass(frozen=True)
class OutsideAUROC(Metric):
    """Does the probability of the last label tell points of that label from all others? The probability that one has more of it.

    In tasks with queries from outside (``ClassTasks(..., outside=q)``) the last of W + 1 labels is that of no class of the task:
    a new class, or what is out of scope. Over 256 bins of its log-odds, ties counting half. NaN where no query has that label.
    """

    @property
    def name(self) -> str:
        return "outside AUROC"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        outside = labels == p.shape[-1] - 1
        return torch.cat([by_outside(p, kind & given.mask) for kind in (outside, ~outside)], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        return auroc_of_bins(*sums.chunk(2, -1))
