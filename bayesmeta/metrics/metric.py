"""What a metric is: a per-task statistic that adds up, and a reduction of the sum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points, observed
from bayesmeta.likelihoods import log_likelihood

__all__ = ["NLL", "Estimate", "Metric", "summary"]


class Estimate(NamedTuple):
    """A metric's value over all tasks, and a 95 % interval of what infinitely many of them would give (see `bootstrap`).

    Of a single task there is no interval: its ends are NaN, and ``str`` is the value alone.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f}" if math.isnan(self.low) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Metric(ABC):
    """A figure of merit of predictions.

    `statistic` gives a row of K sums a task, `reduce` turns the sum of rows over tasks into the figure. So evaluation
    streams over tasks, and every metric is bootstrapped in the same way. All metrics here pool the points of all tasks: a task of
    200 points weighs ten times as much as one of 20, and what is estimated is the figure of a point, not that of a task.
    """

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def better(self) -> str:
        """Which values are better: ``"lower"``, if not overridden, ``"higher"``, those ``"near 0.9"``, or ``""``: none."""
        return "lower"

    def merit(self, values: Tensor) -> Tensor:
        """Values of the figure as numbers of which the higher are better, whose differences are those of the figure."""
        if self.better.startswith("near"):
            return -(values - float(self.better.split()[1])).abs()
        return values if self.better == "higher" else -values

    @abstractmethod
    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        """Sums over each task's observed points, ``(B, K)``, of predictions of batch ``(B, M)``."""

    def reduce(self, sums: Tensor) -> Tensor:
        """Sums over tasks ``(..., K)`` to the figure ``(...)``; implemented here for metrics that have `gaps`."""
        gaps = self.gaps(sums)
        if gaps is None:
            raise NotImplementedError(f"{type(self).__name__}: implement reduce, or gaps")
        return self.size(gaps)

    def gaps(self, sums: Tensor) -> Tensor | None:
        """Of a metric that measures a distance from perfection: the signed differences ``(..., G)`` whose `size` the figure is.

        Noise makes such a figure larger, and never smaller: the ECE of a perfectly calibrated learner is above 0 on every finite
        set of tasks, and that of resampled tasks is larger still, so that no quantile of resamples may come down to the truth.
        Given the gaps, `bootstrap` finds an interval that does. None for metrics that are not of this kind.
        """
        return None

    def size(self, gaps: Tensor) -> Tensor:
        """The figure ``(...)`` of gaps ``(..., G)``: the sum of their absolute values, if not overridden."""
        return gaps.abs().sum(-1)


def total(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of values ``(B, M)`` where observed, beside their number: ``(B, 2)``, in float64."""
    seen = torch.where(mask, values, 0.0)  # 0 times infinity is NaN
    return torch.stack([part.sum(1, dtype=torch.float64) for part in (seen, mask)], 1)


def surprise(distribution: Distribution, given: Points) -> Tensor:
    """Sums of -log p and of what is observed of targets, ``(B, 2)``, in float64."""
    parts = (-log_likelihood(distribution, given), observed(given))
    return torch.stack([part.sum(1, dtype=torch.float64) for part in parts], 1)


def mean(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


@final
@dataclass(frozen=True)
class NLL(Metric):
    """Negative log-likelihood per point, in nats (a density's, for real targets: it depends on their unit).

    Of several labels a point it is per label, see `bayesmeta.data.observed`.
    """

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return surprise(distribution, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


def summary(estimates: dict[str, dict[str, Estimate]], names: Sequence[str] | None = None) -> str:
    """A table in plain text, one row a learner, one column a metric."""
    names = names or list(next(iter(estimates.values())))
    width = max(len(name) for name in estimates) + 2
    columns = {name: max(26, len(name) + 2) for name in names}
    lines = [" " * width + "".join(f"{name:>{wide}}" for name, wide in columns.items())]
    for learner, row in estimates.items():
        lines.append(f"{learner:<{width}}" + "".join(f"{row[name]!s:>{wide}}" for name, wide in columns.items()))
    return "\n".join(lines)
