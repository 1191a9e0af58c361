"""How far confidence is from accuracy: Brier's parts, and calibration errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.metrics.classification import FINE, bin_parts, binned, probabilities, top
from bayesmeta.metrics.metric import Metric, mean, total

__all__ = ["ECE", "MCE", "AdaptiveECE", "Brier", "ClasswiseECE"]


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

    @property
    def better(self) -> str:
        if self.part == "uncertainty":
            return ""  # it is the tasks', whoever predicts
        return "higher" if self.part == "resolution" else "lower"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, labels, given = probabilities(distribution, given)
        happened = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p)
        if self.part == "score":
            return total((p - happened).square().sum(-1), given.mask)
        rows = [binned(p[..., c], happened[..., c], given.mask, self.bins) for c in range(p.shape[-1])]
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
        return binned(*top(distribution, given), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = bin_parts(sums, self.bins)
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
        return binned(*top(distribution, given), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = bin_parts(sums, self.bins)
        return (confidence - correct) / count.clamp(min=1)

    def size(self, gaps: Tensor) -> Tensor:
        return gaps.abs().amax(-1)


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
        return binned(*top(distribution, given), FINE)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = bin_parts(sums, FINE)
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
        return torch.cat([binned(p[..., c], happened[..., c], given.mask, self.bins) for c in range(p.shape[-1])], 1)

    def gaps(self, sums: Tensor) -> Tensor:
        count, expected, happened = sums.unflatten(-1, (-1, 3, self.bins)).unbind(-2)  # (..., W, bins)
        return ((expected - happened) / count.sum(-1, keepdim=True) / count.shape[-2]).flatten(-2)
