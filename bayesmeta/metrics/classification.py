"""Metrics of labels: accuracy, scores of probabilities, and how far confidence is from accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from bayesmeta.data import Points, check_count
from bayesmeta.distributions import class_probabilities, has_labels, marginals
from bayesmeta.likelihoods import check_event
from bayesmeta.metrics.metric import Metric, mean, total
from bayesmeta.metrics.ranking import auroc_of_bins, risk_coverage_of_bins

__all__ = ["AURC", "ECE", "MCE", "Accuracy", "AdaptiveECE", "Brier", "ClasswiseECE", "ErrorAUROC"]


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


def _binned(confidence: Tensor, correct: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Count, sum of confidence and number right in bins (a, b] of confidence, as is customary: ``(B, 3 bins)``."""
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1).flatten(1)
    weight = weight.double().expand_as(confidence).flatten(1)
    empty = confidence.new_zeros(len(confidence), bins)
    parts = (torch.ones_like(weight), confidence.flatten(1), correct.flatten(1))
    return torch.cat([empty.scatter_add(1, place, part * weight) for part in parts], 1)


def _parts(sums: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    count, confidence, correct = sums.unflatten(-1, (3, bins)).unbind(-2)
    return count, confidence, correct


@final
@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of points, or of labels where a point has several, whose most probable class is the right one; pooled."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, right, mask = top(distribution, given)
        return total(right, mask)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


BrierPart = Literal["score", "reliability", "resolution", "uncertainty"]


@final
@dataclass(frozen=True)
class Brier(Metric):
    """The Brier score, Σ_c (p_c - [y = c])², the mean over points: between 0 and 2; lower is better. Or a part of it.

    Murphy 1973: score = reliability - resolution + uncertainty, with each class's probabilities in equal-width bins and the mean
    probability and frequency of a bin in the place of its points'; exact where the probabilities in a bin are equal.
    Reliability is what calibration would win, resolution what the predictions tell beyond the classes' frequencies.

    Args:
        part: which figure: the score, or one of its three parts.
        bins: the number of bins of each class's probability, for reliability and resolution.

    Raises:
        ValueError: fewer than one bin, or no such part.
    """

    part: BrierPart = "score"
    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)
        if self.part not in ("score", "reliability", "resolution", "uncertainty"):
            raise ValueError(f"part: expected score, reliability, resolution or uncertainty, got {self.part!r}")

    @property
    def name(self) -> str:
        return "Brier" if self.part == "score" else f"Brier {self.part}"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        happened = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p)
        if self.part == "score":
            return total((p - happened).square().sum(-1), given.mask)
        rows = [_binned(p[..., c], happened[..., c], given.mask, self.bins) for c in range(p.shape[-1])]
        return torch.cat(rows, 1)

    def reduce(self, sums: Tensor) -> Tensor:
        if self.part == "score":
            return mean(sums)
        if self.part == "uncertainty":
            base = self._frequencies(sums)[-1].squeeze(-1)
            return (base * (1 - base)).sum(-1)
        return super().reduce(sums)

    def gaps(self, sums: Tensor) -> Tensor | None:
        if self.part in ("score", "uncertainty"):
            return None
        share, expected, frequency, base = self._frequencies(sums)
        return (share.sqrt() * ((expected if self.part == "reliability" else base) - frequency)).flatten(-2)

    def size(self, gaps: Tensor) -> Tensor:
        return gaps.square().sum(-1)

    def _frequencies(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each class and bin ``(..., W, bins)``: share of points, mean probability, frequency; and each class's frequency."""
        count, expected, happened = sums.unflatten(-1, (-1, 3, self.bins)).unbind(-2)
        points, there = count.sum(-1, keepdim=True), count.clamp(min=1)
        return count / points, expected / there, happened / there, happened.sum(-1, keepdim=True) / points


@final
@dataclass(frozen=True)
class ECE(Metric):
    """Expected calibration error: the mean distance between confidence and accuracy over equal-width bins of confidence.

    Guo, Pleiss, Sun & Weinberger 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599,
    equation 5. Bins pool the points of all tasks, so that a task of many points weighs more. Noise alone makes the error larger
    than 0: its interval, not its value, says whether a learner may be calibrated.

    Args:
        bins: the number of bins of confidence.

    Raises:
        ValueError: fewer than one bin.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _binned(*top(distribution, given), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = _parts(sums, self.bins)
        return (confidence - correct) / count.sum(-1, keepdim=True)


@final
@dataclass(frozen=True)
class MCE(Metric):
    """Maximum calibration error: the largest distance between confidence and accuracy of a bin (Guo et al. 2017, equation 7).

    Bins pool the points of all tasks. Where a bin holds few points it is mostly noise.

    Args:
        bins: the number of bins of confidence.

    Raises:
        ValueError: fewer than one bin.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _binned(*top(distribution, given), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = _parts(sums, self.bins)
        return (confidence - correct) / count.clamp(min=1)

    def size(self, gaps: Tensor) -> Tensor:
        return gaps.abs().amax(-1)


_FINE = 256
"""Bins of what needs an order of all points: sums over them add up over tasks as orders do not."""


@final
@dataclass(frozen=True)
class AdaptiveECE(Metric):
    """The ECE over bins with (nearly) equal numbers of points: no bin is empty, none holds nearly all.

    Nguyen & O'Connor 2015, https://arxiv.org/abs/1508.05154. The bins are unions of 256 fine ones of equal width, so that they
    pool over tasks.

    Args:
        bins: the number of bins with equally many points.

    Raises:
        ValueError: fewer than one bin.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    @property
    def name(self) -> str:
        return "adaptive ECE"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _binned(*top(distribution, given), _FINE)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = _parts(sums, _FINE)
        points = count.sum(-1, keepdim=True)
        middle = (count.cumsum(-1) - count / 2) / points  # of each fine bin among all points
        bin_of = (middle * self.bins).long().clamp(0, self.bins - 1)
        gap = torch.zeros(*sums.shape[:-1], self.bins, dtype=sums.dtype).scatter_add(-1, bin_of, confidence - correct)
        return gap / points


@final
@dataclass(frozen=True)
class ClasswiseECE(Metric):
    """The ECE of each class's probability, the mean over classes: calibration beyond the most probable class.

    Kull et al. 2019, https://arxiv.org/abs/1910.12656, section 2; the static calibration error of Nixon et al. 2019.

    Args:
        bins: the number of bins of each class's probability.

    Raises:
        ValueError: fewer than one bin.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    @property
    def name(self) -> str:
        return "class-wise ECE"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        happened = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p)
        return torch.cat([_binned(p[..., c], happened[..., c], given.mask, self.bins) for c in range(p.shape[-1])], 1)

    def gaps(self, sums: Tensor) -> Tensor:
        count, expected, happened = sums.unflatten(-1, (-1, 3, self.bins)).unbind(-2)  # (..., W, bins)
        return ((expected - happened) / count.sum(-1, keepdim=True) / count.shape[-2]).flatten(-2)


@final
@dataclass(frozen=True)
class ErrorAUROC(Metric):
    """Does confidence tell right predictions from wrong ones? The probability that a right one is the more confident.

    Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136; over 256 bins of confidence, ties counting half.
    """

    @property
    def name(self) -> str:
        return "error AUROC"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _binned(*top(distribution, given), _FINE)

    def reduce(self, sums: Tensor) -> Tensor:
        count, _, correct = _parts(sums, _FINE)
        return auroc_of_bins(correct, count - correct)


@final
@dataclass(frozen=True)
class AURC(Metric):
    """The area under the risk-coverage curve: the mean error rate of the most confident points, over all shares of points.

    Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500; over 256 bins of confidence. Lower is better.
    """

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _binned(*top(distribution, given), _FINE)

    def reduce(self, sums: Tensor) -> Tensor:
        count, _, correct = _parts(sums, _FINE)
        return risk_coverage_of_bins(correct, count - correct)
