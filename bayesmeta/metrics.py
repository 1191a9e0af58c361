"""Metrics, each a per-task statistic that adds up and a reduction of the sum, with intervals by a bootstrap over tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points
from bayesmeta.distributions import cdf, class_probabilities, marginals
from bayesmeta.likelihoods import check_event, nll

__all__ = ["CRPS", "ECE", "NLL", "RMSE", "Accuracy", "Coverage", "Estimate", "Metric", "bootstrap", "default_metrics"]


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


def _total(values: Tensor, given: Points) -> Tensor:
    """The sum of values ``(B, M)`` over observed points, beside their number: ``(B, 2)``, in float64."""
    mask = given.mask
    return torch.stack([(values.double() * mask).sum(1), mask.sum(1).double()], 1)


def _mean(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


@final
@dataclass(frozen=True)
class NLL(Metric):
    """Negative log-likelihood per point, in nats (a density's, for real targets: it depends on their unit)."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        count = given.mask.sum(1)
        return torch.stack([nll(distribution, given).double() * count, count.double()], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        return _mean(sums)


@final
@dataclass(frozen=True)
class RMSE(Metric):
    """Root of the mean square difference between the predictive mean and y, in y's unit; pooled over points and entries of y."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        if isinstance(distribution, torch.distributions.Categorical):
            raise TypeError("distribution: expected one of numbers for RMSE, got Categorical; use Accuracy, NLL or ECE")
        check_event(distribution.event_shape, given.y.shape[2:])
        square = (distribution.mean - given.y).square()
        return _total(square.flatten(2).mean(2) if square.dim() > 2 else square, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return _mean(sums).sqrt()


@final
@dataclass(frozen=True)
class CRPS(Metric):
    """The continuous ranked probability score, in y's unit: the mean absolute error of a distribution; lower is better.

    In closed form for normals and mixtures of normals (Grimit et al. 2006, https://doi.org/10.1256/qj.05.235, eq. 5), the mean
    over the entries of y.
    """

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        check_event(distribution.event_shape, given.y.shape[2:])
        single: Any = marginals(distribution)
        mixed = isinstance(single, torch.distributions.MixtureSameFamily)
        parts = single.component_distribution if mixed else single
        if not isinstance(parts, torch.distributions.Normal):
            raise TypeError(f"distribution: expected normals or a mixture of them for CRPS, got {type(parts).__name__}")
        if mixed:
            weight, mean, scale = single.mixture_distribution.probs, parts.mean, parts.stddev
        else:
            mean, scale = parts.mean[..., None], parts.stddev[..., None]
            weight = torch.ones_like(mean)
        error = (weight * _absolute(given.y[..., None] - mean, scale)).sum(-1)
        between = _absolute(mean[..., None] - mean[..., None, :], torch.hypot(scale[..., None], scale[..., None, :]))
        score = error - 0.5 * (weight[..., None] * weight[..., None, :] * between).sum((-2, -1))
        return _total(score.flatten(2).mean(2) if score.dim() > 2 else score, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return _mean(sums)


def _absolute(mean: Tensor, scale: Tensor) -> Tensor:
    """E|z| of a normal z."""
    ratio = mean / scale
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    return 2 * scale * density + mean * torch.erf(ratio / math.sqrt(2))


@final
@dataclass(frozen=True)
class Coverage(Metric):
    """The share of targets inside the central interval of the given level; a calibrated predictive's is the level."""

    level: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level: expected a probability strictly between 0 and 1, got {self.level}; e.g. 0.9")

    @property
    def name(self) -> str:
        return f"{100 * self.level:g}% coverage"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        check_event(distribution.event_shape, given.y.shape[2:])
        rank = cdf(marginals(distribution), given.y)
        inside = ((rank - 0.5).abs() <= self.level / 2).double()
        return _total(inside.flatten(2).mean(2) if inside.dim() > 2 else inside, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return _mean(sums)


def _top(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor]:
    """The most probable class's probability, and whether it is the right one, both ``(B, M)``."""
    labels = given.y
    if labels.dim() > 2:  # a Bernoulli's
        if labels.shape[2:] != (1,):
            raise ValueError(f"y: expected one yes-or-no target a point, got {labels.shape[2]}; evaluate one at a time")
        labels = labels.squeeze(-1)
    probabilities = class_probabilities(distribution).reshape(*labels.shape, -1)
    confidence, predicted = probabilities.max(-1)
    return confidence.double(), (predicted == labels).double()


@final
@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of points whose most probable class is the right one."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _total(_top(distribution, given)[1], given)

    def reduce(self, sums: Tensor) -> Tensor:
        return _mean(sums)


@final
@dataclass(frozen=True)
class ECE(Metric):
    """Expected calibration error: the mean distance between confidence and accuracy over equal-width bins of confidence.

    Guo, Pleiss, Sun & Weinberger 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599,
    equation 5. Bins pool the points of all tasks.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        if not isinstance(self.bins, int) or self.bins < 1:
            raise ValueError(f"bins: expected at least 1, a whole number, got {self.bins}; 15 is customary")

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        confidence, correct = _top(distribution, given)
        bin_of = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)  # bins (a, b], as is customary
        weight = given.mask.double()
        empty = confidence.new_zeros(len(confidence), self.bins)
        parts = [
            empty.scatter_add(1, bin_of, value * weight) for value in (torch.ones_like(weight), confidence, correct)
        ]
        return torch.cat(parts, 1)

    def reduce(self, sums: Tensor) -> Tensor:
        count, confidence, correct = sums.unflatten(-1, (3, self.bins)).unbind(-2)
        return (confidence - correct).abs().sum(-1) / count.sum(-1)


def default_metrics(distribution: Distribution) -> list[Metric]:
    """What `evaluate` reports for predictions of this type."""
    if distribution.support is not None and distribution.support.is_discrete:
        return [NLL(), Accuracy(), ECE()]
    return [NLL(), RMSE(), Coverage(0.9)]


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
    if len(rows) == 0:
        raise ValueError("rows: expected the statistics of at least one task, got none; evaluate on more episodes")
    rows = rows.double().cpu()
    value = metric.reduce(rows.sum(0))
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for _ in range(resamples):  # one at a time: memory stays that of the rows
        counts = torch.randint(len(rows), (len(rows),), generator=generator).bincount(minlength=len(rows))
        sums.append(counts.double() @ rows)
    if len(rows) == 1:  # a single task says nothing of the spread between tasks
        return Estimate(value.item(), math.nan, math.nan)
    low, high = torch.nanquantile(metric.reduce(torch.stack(sums)), torch.tensor([0.025, 0.975], dtype=rows.dtype))
    return Estimate(value.item(), low.item(), high.item())


def summary(estimates: dict[str, dict[str, Estimate]], names: Sequence[str] | None = None) -> str:
    """A table in plain text, one row a learner, one column a metric."""
    names = names or list(next(iter(estimates.values())))
    width = max(len(name) for name in estimates) + 2
    lines = [" " * width + "".join(f"{name:>26}" for name in names)]
    for learner, row in estimates.items():
        lines.append(f"{learner:<{width}}" + "".join(f"{row[name]!s:>26}" for name in names))
    return "\n".join(lines)
