"""Metrics of real targets and counts: errors, scores of distributions, and the calibration of intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_count, check_probability
from bayesmeta.data import Points
from bayesmeta.distributions import crps, has_classes, kind, marginals, quantile, sample, uniform
from bayesmeta.distributions.family import family
from bayesmeta.likelihoods import check_event
from bayesmeta.metrics.metric import Metric, mean, total

__all__ = ["CRPS", "PIT", "RMSE", "Coverage", "EnergyScore", "QuantileCalibrationError", "Sharpness", "Width", "ranks"]


def _check_numbers(distribution: Distribution, y: Tensor) -> None:
    """Raises a TypeError for predictions of classes, a ValueError where the targets ``(B, M, *Y)`` have another shape."""
    if has_classes(distribution):
        raise TypeError(
            "distribution: expected one of numbers for RMSE and its kin (for intervals and ranks, one with a cumulative "
            f"distribution function), got {type(distribution).__name__}, which is of classes; use NLL, Accuracy, Brier or ECE"
        )
    check_event(distribution.event_shape, y.shape[2:])


def _entries(values: Tensor, given: Points) -> Tensor:
    """Sums over points of the mean over the entries of y, or over all entries that are observed: ``(B, M, *Y)`` to ``(B, 2)``."""
    if values.numel() == given.mask.numel():  # an entry a point, or a mask of entries
        return total(values.flatten(1), given.mask.flatten(1))
    return total(values.flatten(2).mean(2), given.mask)


@final
@dataclass(frozen=True)
class RMSE(Metric):
    """Root of the mean square difference between the predictive mean and y, in y's unit; pooled over points and entries of y."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _check_numbers(distribution, given.y)
        return _entries((distribution.mean - given.y).square(), given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums).sqrt()


@final
@dataclass(frozen=True)
class CRPS(Metric):
    """The continuous ranked probability score, in y's unit: the mean absolute error of a distribution; lower is better.

    The mean over the entries of y, in closed form for normals, Student's t (Jordan, Krüger & Lerch 2019,
    https://arxiv.org/abs/1709.04743) and mixtures of normals (Grimit et al. 2006, https://doi.org/10.1256/qj.05.235, eq. 5, of
    which the distance of two draws is summed at nodes, to 1e-6). Of others it is an integral, to 1e-5; of counts a sum from 0 on.
    """

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _check_numbers(distribution, given.y)
        return _entries(crps(marginals(distribution), given.y), given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


def ranks(distribution: Distribution, y: Tensor) -> Tensor:
    """The probability integral transform: the probability of values below y, ``(B, M, *Y)``, uniform if calibrated.

    Dawid 1984; Gneiting, Balabdaoui & Raftery 2007, https://doi.org/10.1111/j.1467-9868.2007.00587.x. Of a count it is a random
    number between the probability of less than y and that of at most y, by the library's generator (`evaluate` seeds it).
    """
    below, at_most = _steps(distribution, y)
    return at_most if below is at_most else below + (at_most - below) * uniform(below.shape, below)


def _steps(distribution: Distribution, y: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of less than y and that of at most y, which are one tensor but for counts; to 1e-7."""
    _check_numbers(distribution, y)
    single = marginals(distribution)
    at_most = (cdf := family(single).below(single))(y)
    return cdf(y - 1) if kind(single) == "counts" else at_most, at_most


def _share_below(steps: tuple[Tensor, Tensor], level: float) -> Tensor:
    """The share of an entry's ranks that is at most `level`, float64: of counts the mean over the random `ranks`.

    So coverage and histograms of counts are those of the randomised transform without its noise (Czado, Gneiting & Held 2009,
    https://doi.org/10.1111/j.1541-0420.2009.01191.x, section 2.1).
    """
    below, at_most = steps
    share = (at_most.double() <= level).double()
    if below is at_most:
        return share
    return torch.where(at_most > below, ((level - below.double()) / (at_most.double() - below)).clamp(0, 1), share)


@final
@dataclass(frozen=True)
class Coverage(Metric):
    """The share of targets inside the central interval of the given level; a calibrated predictive's is the level.

    A count at an end of the interval is inside in part, as much as makes the interval's probability the level: see `ranks`.
    Points of all tasks and entries of y are pooled (`Conformal.coverage` weighs tasks alike).

    Args:
        level: the probability that the interval has under the predictive, 0.9 for 90 %.

    Raises:
        ValueError: the level is not strictly between 0 and 1.
    """

    level: float = 0.9

    def __post_init__(self) -> None:
        check_probability("level", self.level)

    @property
    def name(self) -> str:
        return f"{100 * self.level:g}% coverage"

    @property
    def better(self) -> str:
        return f"near {self.level:g}"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        steps = _steps(distribution, given.y)
        low, high = (_share_below(steps, 0.5 + side * self.level / 2) for side in (-1, 1))
        return _entries(high - low, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


@final
@dataclass(frozen=True)
class Width(Metric):
    """The mean width of the central interval of the given level, in y's unit: of two that cover, the narrower is better.

    Args:
        level: the probability that the interval has under the predictive, 0.9 for 90 %.

    Raises:
        ValueError: the level is not strictly between 0 and 1.
    """

    level: float = 0.9

    def __post_init__(self) -> None:
        check_probability("level", self.level)

    @property
    def name(self) -> str:
        return f"{100 * self.level:g}% width"

    better = ""  # a narrow forecast need not be a good one

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _check_numbers(distribution, given.y)
        single = marginals(distribution)
        low, high = (quantile(single, 0.5 + side * self.level / 2) for side in (-1, 1))
        return _entries(high - low, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


@final
@dataclass(frozen=True)
class Sharpness(Metric):
    """The root of the mean predictive variance, in y's unit: comparable with `RMSE`, to which it is equal if calibrated."""

    better = ""  # a narrow forecast need not be a good one

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _check_numbers(distribution, given.y)
        return _entries(distribution.variance, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums).sqrt()


@final
@dataclass(frozen=True)
class QuantileCalibrationError(Metric):
    """The mean absolute difference between a level p and the share of targets below the predictive's quantile p.

    Over p = 1/K, ..., (K - 1)/K (Kuleshov et al. 2018, https://arxiv.org/abs/1807.00263, section 3.5, by absolute differences).

    Args:
        levels: K, one more than the number of levels.

    Raises:
        ValueError: K is below 2.
    """

    levels: int = 20

    def __post_init__(self) -> None:
        check_count("levels", self.levels, least=2)

    @property
    def name(self) -> str:
        return "quantile calibration error"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _histogram(_steps(distribution, given.y), given, self.levels)

    def gaps(self, sums: Tensor) -> Tensor:
        return _excess(sums)[..., :-1]

    def size(self, gaps: Tensor) -> Tensor:
        return gaps.abs().mean(-1)


@final
@dataclass(frozen=True)
class PIT(Metric):
    """How far ranks of targets are from uniform: their Kolmogorov-Smirnov distance from it at the edges of bins.

    Args:
        bins: the number of bins of ranks.

    Raises:
        ValueError: fewer than two bins.
    """

    bins: int = 20

    def __post_init__(self) -> None:
        check_count("bins", self.bins, least=2)

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return _histogram(_steps(distribution, given.y), given, self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        return _excess(sums)

    def size(self, gaps: Tensor) -> Tensor:
        return gaps.abs().amax(-1)


def _excess(sums: Tensor) -> Tensor:
    """By how much the shares of ranks up to 1/K, ..., 1 exceed these levels, from counts in K bins ``(..., K)``."""
    bins = sums.shape[-1]
    return sums.cumsum(-1) / sums.sum(-1, keepdim=True) - torch.arange(1, bins + 1).to(sums) / bins


def _histogram(steps: tuple[Tensor, Tensor], given: Points, bins: int) -> Tensor:
    """Counts ``(B, bins)`` of ranks in (k/K, (k + 1)/K], of all entries of y; the first bin has 0 too."""
    if steps[0] is steps[1]:  # each entry has one place
        rank = steps[1].double().reshape(*given.mask.shape, -1)
        place = (rank * bins).ceil().long().sub(1).clamp(0, bins - 1)
        weight = given.mask[..., None].double().expand_as(rank)
        return rank.new_zeros(len(rank), bins).scatter_add(1, place.flatten(1), weight.flatten(1))
    within = [_share_below(steps, k / bins) for k in range(1, bins)]
    below = torch.stack([torch.zeros_like(within[0]), *within, torch.ones_like(within[0])], -1)
    shares = below.diff(dim=-1).reshape(*given.mask.shape[:2], -1, bins)
    return (shares * given.mask.reshape(*given.mask.shape[:2], -1, 1)).sum((1, 2))


@final
@dataclass(frozen=True)
class EnergyScore(Metric):
    """E‖Y - y‖ - ½ E‖Y - Y'‖, in y's unit: the CRPS of vector targets; lower is better.

    Gneiting & Raftery 2007, https://doi.org/10.1198/016214506000001437, eq. 22. From draws of the predictive, by torch's global
    generator (`evaluate` seeds it); the second mean is over pairs of different draws, so that the estimate is unbiased.

    Args:
        draws: the number of draws of each prediction.

    Raises:
        ValueError: fewer than two draws.
    """

    draws: int = 64

    def __post_init__(self) -> None:
        check_count("draws", self.draws, least=2)

    @property
    def name(self) -> str:
        return "energy score"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _check_numbers(distribution, given.y)
        if given.mask.dim() > 2:
            raise ValueError("mask: expected whole vectors for the energy score, got a mask of entries; use CRPS")
        drawn = sample(distribution, self.draws)
        drawn, y = drawn.reshape(*drawn.shape[:3], -1), given.y.reshape(*given.y.shape[:2], -1)
        error = (drawn - y).norm(dim=-1).mean(0)
        pairs = sum((drawn[k + 1 :] - drawn[k]).norm(dim=-1).sum(0) for k in range(self.draws - 1))
        return total(error - pairs / (self.draws * (self.draws - 1)), given.mask)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)
