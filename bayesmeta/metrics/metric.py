"""What a metric is: a per-task statistic that adds up and a reduction of the sum, with intervals by a bootstrap over tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points
from bayesmeta.likelihoods import nll

__all__ = ["NLL", "Estimate", "Metric", "bootstrap", "estimates", "resampled", "summary"]


class Estimate(NamedTuple):
    """A metric's value over all tasks, and its 95 % interval by the bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Metric(ABC):
    """A figure of merit of predictions.

    `statistic` gives a row of K sums a task, `reduce` turns the sum of rows over tasks into the figure. So evaluation
    streams over tasks, points pool as they should, and every metric is bootstrapped in the same way.
    """

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        """Sums over each task's observed points, ``(B, K)``, of predictions of batch ``(B, M)``."""

    @abstractmethod
    def reduce(self, sums: Tensor) -> Tensor:
        """Sums over tasks ``(..., K)`` to the figure ``(...)``."""


def total(values: Tensor, given: Points) -> Tensor:
    """The sum of values ``(B, M)`` over observed points, beside their number: ``(B, 2)``, in float64."""
    mask = given.mask
    return torch.stack([(values.double() * mask).sum(1), mask.sum(1).double()], 1)


def mean(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


@final
@dataclass(frozen=True)
class NLL(Metric):
    """Negative log-likelihood per point, in nats (a density's, for real targets: it depends on their unit)."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        count = given.mask.sum(1)
        return torch.stack([nll(distribution, given).double() * count, count.double()], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


def estimates(
    metrics: Sequence[Metric], rows: Sequence[Tensor], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Several metrics over the same tasks, by name: the same resamples of tasks for all, so that they can be compared.

    Args:
        metrics: each turns sums over tasks into a figure.
        rows: the statistic of each metric, one row a task, ``(T, K)``.
        resamples: how often the T tasks are drawn anew, with replacement.
        seed: of the resampling.
    """
    if len(rows[0]) == 0:
        raise ValueError("rows: expected the statistics of at least one task, got none; evaluate on more episodes")
    distinct: list[Tensor] = []
    for row in rows:  # metrics of the same bins have the same statistic
        if not any(torch.equal(row, other) for other in distinct):
            distinct.append(row)
    drawn = resampled(torch.cat(distinct, 1), resamples=resamples, seed=seed).split(
        [row.shape[1] for row in distinct], 1
    )
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {}
    for metric, row in zip(metrics, rows, strict=True):
        value = metric.reduce(row.double().cpu().sum(0)).item()
        low = high = math.nan  # a single task says nothing of the spread between tasks
        if len(row) > 1:
            sums = next(sums for sums, other in zip(drawn, distinct, strict=True) if torch.equal(row, other))
            low, high = torch.nanquantile(metric.reduce(sums), edges).tolist()
        found[metric.name] = Estimate(value, low, high)
    return found


def resampled(rows: Tensor, *, resamples: int = 1000, seed: int = 0) -> Tensor:
    """The sums of rows ``(T, K)`` over T tasks that are drawn anew, with replacement: ``(resamples, K)``, float64."""
    tasks, rows = len(rows), rows.double().cpu()
    used = rows.any(0).nonzero()[:, 0]  # most fine bins are empty
    generator = torch.Generator().manual_seed(seed)
    at_once, sums = max(1, 4_000_000 // tasks), []
    once = torch.ones((), dtype=torch.float64)
    for first in range(0, resamples, at_once):
        drawn = torch.randint(tasks, (min(at_once, resamples - first), tasks), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, once.expand(drawn.shape))
        sums.append(rows.new_zeros(len(counts), rows.shape[1]).index_copy_(1, used, counts @ rows[:, used]))
    return torch.cat(sums)


def bootstrap(metric: Metric, rows: Tensor, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The metric over tasks, with the 95 % percentile interval of resampling tasks with replacement.

    Args:
        metric: turns sums over tasks into a figure.
        rows: its statistic, one row a task, ``(T, K)``.
        resamples: how often the T tasks are drawn anew.
        seed: of the resampling.

    With a single task the interval is NaN.

    Example:
        >>> bootstrap(NLL(), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    return estimates([metric], [rows], resamples=resamples, seed=seed)[metric.name]


def summary(estimates: dict[str, dict[str, Estimate]], names: Sequence[str] | None = None) -> str:
    """A table in plain text, one row a learner, one column a metric."""
    names = names or list(next(iter(estimates.values())))
    width = max(len(name) for name in estimates) + 2
    lines = [" " * width + "".join(f"{name:>26}" for name in names)]
    for learner, row in estimates.items():
        lines.append(f"{learner:<{width}}" + "".join(f"{row[name]!s:>26}" for name in names))
    return "\n".join(lines)
