"""The whole that the members make together, and how it does on the tasks held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.automatic.run import Run
from bayesmeta.data import Episode
from bayesmeta.distributions import temper
from bayesmeta.learner import Learner
from bayesmeta.metrics import Metric
from bayesmeta.wrappers import Calibrated, Ensemble

__all__ = ["Tempering", "judged", "narrowed", "together", "whole"]


def whole(run: Run, shares: Tensor, temperature: float, folds: Sequence[int]) -> Learner:
    """The mixture of members that count, in the user's units.

    Args:
        run: the members, trained.
        shares: of each and each scale in the mixture, ``(members, U)``.
        temperature: of each of its parts.
        folds: which of the copies are in it.
    """
    members, weights = [], []
    for member, place in (shares > 0).nonzero().tolist():
        parts = [Calibrated(run.learner(member, place, fold), temperature) for fold in folds]
        members.append(run.folds.units[place].outward(Ensemble(parts)))
        weights.append(float(shares[member, place]))
    return Ensemble(members, weights)


class Tempering:
    """The NLL a point of the held-out tasks, of a temperature of the mixture's parts.

    Args:
        run, shares: as of `whole`.
    """

    @torch.no_grad()
    def __init__(self, run: Run, shares: Tensor) -> None:
        asked, folds = run.asked, run.folds
        self.count = float(run.counts.sum())
        self.parts: list[list[tuple[float, Any, Tensor, Tensor]]] = []  # of each fold
        self.real = [asked.plain.query.mask[fold] & asked.real[fold][:, None] for fold in range(len(folds.held))]
        for fold in range(len(folds.held)):
            found = []
            for member, place in (shares > 0).nonzero().tolist():
                unit = folds.units[place]
                support, query = _of(asked.standard, place * len(folds.held) + fold)
                safe = torch.where(query.mask[..., None], asked.plain.query.y[fold], folds.typical)
                prediction = run.learner(member, place, fold)(support)(query.x)
                found.append((float(shares[member, place].log()), prediction, query.y, unit.log_volume(safe)))
            self.parts.append(found)

    def __call__(self, temperature: float) -> float:
        factor, total = torch.tensor(temperature), 0.0
        for found, real in zip(self.parts, self.real, strict=True):
            each = [share + temper(d, factor).log_prob(y) - volume for share, d, y, volume in found]
            total -= float((torch.stack(each).logsumexp(0).double() * real).sum())
        return total / self.count


@torch.no_grad()
def together(run: Run, shares: Tensor) -> float:
    """By what the temperature of one copy is to be multiplied for the mixture of all K copies.

    A copy's answers are as far off as s, which its temperature sees to: s² = e² + d², where copies differ by d, and infinitely
    many together would be off by e. The mean of K is off by e² + d²/K, and their mixture's variance is larger than one copy's by
    (1 - 1/K) d². So each part is to have s² - 2 (1 - 1/K) d². Copies are compared on the held-out tasks.

    Args:
        run, shares: as of `whole`.
    """
    count = len(run.folds.held)
    total = weight = 0.0
    for fold in range(count):
        for member, place in (shares > 0).nonzero().tolist():
            support, query = _of(run.asked.standard, place * count + fold)
            each = [run.learner(member, place, copy)(support)(query.x) for copy in range(count)]
            means, variances = torch.stack([d.mean for d in each]), torch.stack([d.variance for d in each])
            factor = narrowed(means, variances).mean(-1) * query.mask * run.asked.real[fold][:, None]
            total += float(shares[member, place]) * float(factor.sum())
            weight += float(shares[member, place] * (query.mask * run.asked.real[fold][:, None]).sum())
    return total / weight


def narrowed(means: Tensor, variances: Tensor) -> Tensor:
    """The factor of standard deviations of `together`, from means and variances of K copies ``(K, ...)``: at least one half."""
    count = len(means)
    apart = means.var(0) / variances.mean(0)
    return (1 - 2 * (1 - 1 / count) * apart).clamp(min=0.25).sqrt()


@torch.no_grad()
def judged(run: Run, shares: Tensor, temperature: float, metrics: Sequence[Metric]) -> list[Tensor]:
    """Statistics of each task ``(T, K)``, one a metric, under the mixture of copies that have not learned from it."""
    asked = run.asked
    tables: list[Tensor] = []
    for fold in range(len(run.folds.held)):
        support, query = _of(asked.plain, fold)
        prediction = whole(run, shares, temperature, [fold])(support)(query.x)
        rows = [metric.statistic(prediction, query) for metric in metrics]
        tables = tables or [torch.zeros(len(run.counts), row.shape[1], dtype=torch.float64) for row in rows]
        tasks, real = asked.tasks[fold], asked.real[fold]
        tables = [table.index_add(0, tasks[real], row[real].double()) for table, row in zip(tables, rows, strict=True)]
    return [table[run.counts > 0] for table in tables]


def _of(episode: Episode, place: int) -> Episode:
    found: Episode = tree_map(lambda leaf: leaf[place], episode)
    return found
