"""95 % intervals of figures of merit: what they would be with other tasks of the same kind, by resampling tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import StudentT

from bayesmeta.border import as_tensor
from bayesmeta.distributions import quantile
from bayesmeta.metrics.metric import Estimate, Metric

__all__ = ["bootstrap", "difference", "estimates", "interval", "resampled"]


def estimates(
    metrics: Sequence[Metric],
    rows: Sequence[Tensor],
    shared: Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Several metrics over the same tasks, by name: the same resamples of tasks for all, so that they can be compared.

    Args:
        metrics: each turns sums over tasks into a figure.
        rows: the statistic of each metric, one row a task, ``(T, K)``.
        shared: ``(T, W)``, the W units that each task was made of, such as classes, where tasks have units in common.
        resamples: how often the T tasks are drawn anew, with replacement.
        seed: of the resampling.
    """
    found = [_rows(row, "rows", metric, shared) for metric, row in zip(metrics, rows, strict=True)]

    @cache
    def drawn(draws: int) -> tuple[Tensor, ...]:  # once for all metrics
        sums = resampled(torch.cat(found, 1), draws=draws, resamples=resamples, seed=seed)
        return sums.split([row.shape[1] for row in found], 1)

    def estimate(at: int) -> Estimate:
        metric, row = metrics[at], found[at]
        if metric.gaps(row.sum(0)) is not None:
            return _distance(metric, row, shared, lambda draws: drawn(draws)[at])
        parts = _interval(metric.reduce, row, shared, lambda draws: drawn(draws)[at])
        return Estimate(*(part.item() for part in parts))

    return {metric.name: estimate(at) for at, metric in enumerate(metrics)}


def bootstrap(
    metric: Metric, rows: Tensor, shared: Tensor | None = None, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """The metric over tasks, with a 95 % interval by resampling tasks with replacement.

    The interval is for the figure that infinitely many tasks of this kind would give. It is Efron's BCa interval (1987,
    https://doi.org/10.1080/01621459.1987.10478410), which corrects for bias and skewness, at the levels that Student's t asks for
    with so few tasks (Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789). Metrics that measure a distance from
    perfection, such as the ECE, have one of their own: see `Metric.gaps`. An interval always holds its estimate. With a single
    task it is NaN; and where all tasks give the same, it has no width, however few they are.

    Args:
        metric: turns sums over tasks into a figure.
        rows: its statistic, one row a task, ``(T, K)``.
        shared: ``(T, W)``, the W units that each task was made of, such as classes, where tasks have units in common.
        resamples: how often the T tasks are drawn anew.
        seed: of the resampling.

    Raises:
        ValueError: there is no task.

    Example:
        >>> bootstrap(NLL(), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    (found,) = estimates([metric], [rows], shared, resamples=resamples, seed=seed).values()
    return found


def difference(metric: Metric, rows: Tensor, others: Tensor, shared: Tensor | None = None) -> Estimate:
    """A figure of one learner minus that of another on the same tasks, with its 95 % interval.

    The same resampled tasks count for both, so that what makes a task hard for both cancels: the interval may leave out zero
    where those of the two figures overlap.

    Args:
        metric: turns sums over tasks into a figure.
        rows: its statistic for the one learner, one row a task, ``(T, K)``.
        others: the same of the other.
        shared: as in `bootstrap`.

    Raises:
        ValueError: the two were not asked about the same tasks, there is none, or the metric is a distance from perfection, of
            which a difference has no interval.

    Example:
        >>> difference(NLL(), torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([[2.0, 1.0], [4.0, 1.0]]))
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    rows, others = _rows(rows, "rows", metric, shared), _rows(others, "others", metric, shared)
    if metric.gaps(rows.sum(0)) is not None:
        raise ValueError(
            f"metric: expected one that is no distance from perfection, got {metric.name}: their noise, which makes both larger, "
            "does not cancel; see bootstrap for each alone"
        )
    if rows.shape != others.shape:
        raise ValueError(
            f"others: expected the statistics of {len(rows)} tasks, {tuple(rows.shape)}, got {tuple(others.shape)}; ask both "
            "learners about the same episodes"
        )
    cut = rows.shape[1]

    def reduce(sums: Tensor) -> Tensor:
        return metric.reduce(sums[..., :cut]) - metric.reduce(sums[..., cut:])

    found = interval(reduce, torch.cat([rows, others], 1), shared)
    return Estimate(*(part.item() for part in found))


def _rows(rows: Any, name: str, metric: Any, shared: Tensor | None) -> Tensor:
    """Statistics of at least one task, ``(T, K)``, as float64 on the CPU, of a metric and of tasks that share units."""
    if not isinstance(metric, Metric):
        got = getattr(metric, "__name__", repr(metric))
        raise TypeError(f"metric: expected a metric, got {got}; build it, e.g. NLL()")
    found = as_tensor(rows, name)
    if found.dim() != 2 or not found.numel():
        raise ValueError(
            f"{name}: expected the statistics of at least one task (T, K), got {'none, ' * (not found.numel())}"
            f"{tuple(found.shape)}; evaluate on more episodes"
        )
    if shared is not None and (not isinstance(shared, Tensor) or shared.dim() != 2 or len(shared) != len(found)):
        got = tuple(shared.shape) if isinstance(shared, Tensor) else type(shared).__name__
        raise ValueError(
            f"shared: expected the units of {len(found)} tasks ({len(found)}, W), got {got}; give each task a row"
        )
    return found.detach().double().cpu()


def interval(
    reduce: Callable[[Tensor], Tensor],
    rows: Tensor,
    shared: Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Figures of sums over tasks, and the lower and upper ends of their 95 % intervals (see `bootstrap`).

    Args:
        reduce: maps sums over tasks ``(..., K)`` to figures ``(..., *F)``.
        rows: one row a task, ``(T, K)``.
        shared, resamples, seed: as in `bootstrap`.
    """
    rows = rows.double().cpu()
    return _interval(reduce, rows, shared, lambda n: resampled(rows, draws=n, resamples=resamples, seed=seed))


def _interval(
    reduce: Callable[[Tensor], Tensor], rows: Tensor, shared: Tensor | None, again: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`interval`, from a function that gives sums over so many tasks drawn anew, ``(resamples, K)``."""
    value = reduce(rows.sum(0))
    influence = _influence(reduce, rows)
    worth, reach = _worth(influence, shared)
    if worth < 2:
        return value, torch.full_like(value, math.nan), torch.full_like(value, math.nan)
    drawn = reduce(again(worth))
    drawn, least = drawn.reshape(len(drawn), -1), 1 / len(drawn)
    cube, square = influence.pow(3).sum(0), influence.square().sum(0)
    skew = (cube / (6 * square.pow(1.5)) * math.sqrt(len(rows) / worth)).nan_to_num()
    ends = []
    for figure, column, acceleration in zip(value.reshape(-1), drawn.T, skew, strict=True):
        column = column[~column.isnan()]  # a bin may be empty in some resamples
        if len(column) == 0 or figure.isnan():
            ends.append(torch.full((2,), math.nan, dtype=torch.float64))
            continue
        below = (column < figure).double().mean() + (column == figure).double().mean() / 2
        shift = torch.special.ndtri(below.clamp(least, 1 - least))
        moved = shift + torch.tensor([-reach, reach], dtype=torch.float64)
        levels = torch.special.ndtr(shift + moved / (1 - acceleration * moved).clamp(min=1e-2))
        low, high = torch.quantile(column, levels)
        ends.append(torch.stack([low.minimum(figure), high.maximum(figure)]))
    low, high = torch.stack(ends, 1)
    return value, low.reshape(value.shape), high.reshape(value.shape)


def _distance(metric: Metric, rows: Tensor, shared: Tensor | None, again: Callable[[int], Tensor]) -> Estimate:
    """The interval of a norm of gaps, which noise makes larger.

    Resamples tell the noise of the gaps, but as distances they lie around something that is too large already. So the lower end
    inverts a test (Carpenter 1999): for a supposed distance the gaps found are drawn towards zero until their norm is that, by as
    many standard deviations each and not beyond it, and get the noise; the end is the least distance with which the figure comes
    out as large as it did one time in 40. Where all the gaps may be noise, that is perfection. The upper end is the figure and
    what the noise adds to it in 39 times of 40, beyond its mean: not lowered by the bias, so rather too far.
    """
    found, size = metric.gaps(rows.sum(0)), metric.size
    assert found is not None
    value = size(found).item()
    worth, reach = _worth(_influence(metric.gaps, rows), shared)
    if worth < 2 or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    drawn = metric.gaps(again(worth))
    assert drawn is not None
    noise = (drawn - found)[~drawn.isnan().any(-1)] * (reach / _NORMAL)
    spread = noise.std(0)

    def supposed(shrinkage: float) -> Tensor:
        return found.sign() * (found.abs() - shrinkage * spread).clamp(min=0)

    def as_large(shrinkage: float) -> bool:
        return (size(supposed(shrinkage) + noise) >= value * (1 - 1e-9)).double().mean().item() >= _TAIL

    furthest = (found.abs() / spread.clamp(min=1e-300)).where(spread > 0, 0.0).max().item() * (1 + 1e-9)
    low = size(supposed(furthest if as_large(furthest) else _last(as_large, 0.0, furthest))).item()
    noisy = size(found + noise)
    high = value + (torch.quantile(noisy, 1 - _TAIL) - noisy.mean()).item()
    return Estimate(value, min(low, value), max(high, value))


_TAIL = 0.025
_NORMAL = 1.959963984540054
"""The standard deviations beyond which a normal has `_TAIL` on either side."""


def _last(holds: Callable[[float], bool], good: float, bad: float) -> float:
    """The last place on the way from a good to a bad one at which something holds, by bisection."""
    for _ in range(20):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _influence(reduce: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    """By how much figures fall when a task is left out, beside the mean task, ``(T, F)``: the jackknife."""
    total = rows.sum(0)
    without = torch.cat([reduce(total - some).reshape(len(some), -1) for some in rows.split(4096)])
    return (without.nanmean(0) - without).nan_to_num()


def _worth(influence: Tensor, shared: Tensor | None) -> tuple[int, float]:
    """How many independent tasks the T are worth, and how many standard deviations an interval reaches to either side.

    Tasks that share units err together: the variance of a mean is then larger than that of T independent tasks by the design
    effect (Kish 1965): 1 + the sum of products of influences over pairs of tasks that share a unit, by that over single tasks
    (Aronow, Samii & Assenova 2015, https://arxiv.org/abs/1312.3398). As the figure itself comes from the same C units, the sum
    over pairs is too small, by the factor (C - W)² / (C (C - 1)) if units enter at random. Resamples of so many tasks fewer
    spread as much as that asks for.

    Args:
        influence: of each task on each figure, ``(T, F)``.
        shared: ``(T, W)`` or None.
    """
    tasks = units = len(influence)
    worth = tasks
    if shared is not None:
        names, place = shared.unique(return_inverse=True)
        units, ways = len(names), shared.shape[1]
        if units <= ways:  # all tasks have all units: nothing tells how others would differ
            return 0, math.nan
        uses = influence.new_zeros(tasks, units).scatter_(1, place, 1.0)
        alone = influence.square().sum()
        pairs = (uses.T @ influence).square().sum() - (uses.sum(1)[:, None] * influence.square()).sum()
        effect = (1 + units * (units - 1) / (units - ways) ** 2 * pairs / alone).nan_to_num(1.0).clamp(min=1.0)
        worth = max(2, round(tasks / effect.item()))
        units = min(units, tasks)
    if units < 2:
        return 0, math.nan
    return worth, _student(units - 1) * math.sqrt(tasks / (tasks - 1))


@lru_cache
def _student(df: int) -> float:
    """The quantile beyond which Student's t has `_TAIL`."""
    return float(quantile(StudentT(torch.tensor(df, dtype=torch.float64), validate_args=False), 1 - _TAIL))


def resampled(rows: Tensor, *, draws: int | None = None, resamples: int = 1000, seed: int = 0) -> Tensor:
    """The sums of rows ``(T, K)`` over tasks drawn anew, with replacement: ``(resamples, K)``, float64.

    Args:
        rows: one row a task.
        draws: how many tasks are drawn each time; T if None.
        resamples: how often.
        seed: of the drawing.
    """
    tasks, rows = len(rows), rows.double().cpu()
    draws = draws or tasks
    used = rows.any(0).nonzero()[:, 0]  # most fine bins are empty
    generator = torch.Generator().manual_seed(seed)
    at_once, sums = max(1, 2**18 // tasks), []  # as large blocks of memory are slow to come by
    once = torch.ones((), dtype=torch.float64)
    for first in range(0, resamples, at_once):
        drawn = torch.randint(tasks, (min(at_once, resamples - first), draws), generator=generator)
        counts = torch.zeros(len(drawn), tasks, dtype=torch.float64).scatter_add_(1, drawn, once.expand(drawn.shape))
        sums.append(rows.new_zeros(len(counts), rows.shape[1]).index_copy_(1, used, counts @ rows[:, used]))
    return torch.cat(sums)
