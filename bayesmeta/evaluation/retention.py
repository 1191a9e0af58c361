"""What a learner keeps of a stream: figures of every part's queries, asked again as further parts came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesmeta.metrics import Estimate, Metric, bootstrap, estimates, interval

__all__ = ["Retention"]


class Retention(NamedTuple):
    """What a learner keeps of streams of P parts, by `evaluate_stream`. Parts are numbered from 0.

    Figures are dictionaries from a metric's name to its `Estimate`, with a 95 % interval over streams. Differences are in the
    metric's unit; what is better, higher or lower, is the metric's (`Metric.better`). They are means over parts of differences of
    figures, each pooled over streams.
    """

    metrics: list[Metric]
    """What was measured."""
    times: list[int]
    """The A parts after which all parts so far were asked about; the last is P - 1."""
    later: list[Tensor]
    """Of each metric the statistics ``(T, A, P, K)`` of T streams: after part ``times[a]``, of the queries so far."""
    fresh: list[Tensor]
    """The same of each part's queries right after it came, ``(T, P, K)``."""
    before: list[Tensor]
    """Right before it came, where its labels were known by then; else zeros."""
    untaught: list[Tensor]
    """Of a learner that was told nothing, where `before` is there."""
    alone: list[Tensor]
    """Of one that was told nothing but the part itself, ``(T, P, K)``."""
    together: list[Tensor]
    """Of one that was told all points at once; empty if not asked for."""
    shared: Tensor | None
    """``(T, W)``: the units, such as classes, that each stream was made of, where streams have units in common."""

    def __repr__(self) -> str:  # the tables are long
        streams, parts = self.fresh[0].shape[:2]
        names = ", ".join(metric.name for metric in self.metrics)
        return f"Retention(metrics=[{names}], streams={streams}, parts={parts}, times={len(self.times)})"

    def matrix(self, name: str) -> Tensor:
        """A metric's figure after part ``times[a]`` on the queries of part j, ``(A, P)``; NaN where j was still to come."""
        at = self._place(name)
        found = self.metrics[at].reduce(self.later[at].sum(0))
        return found.masked_fill(~self._come(), torch.nan)

    def so_far(self, name: str) -> list[Estimate]:
        """A metric's figure after each of `times`, pooled over the queries of all parts so far."""
        at = self._place(name)
        return [bootstrap(self.metrics[at], self.later[at][:, a].sum(1), self.shared) for a in range(len(self.times))]

    def at_first(self, name: str) -> Tensor:
        """A metric's figure of each part right after it came, ``(P,)``."""
        at = self._place(name)
        return self.metrics[at].reduce(self.fresh[at].sum(0))

    def costs(self, name: str) -> Tensor:
        """By how much part j is worse after part ``times[a]`` than when it was asked about the last time before, ``(A, P)``.

        Before all others it is asked of a learner that was told part j alone. So the first number of a column is what the parts
        before j cost it, with those that came between it and that time; each further number is what the parts since the time
        before cost it. A column adds up to what all other parts cost, whose mean over parts is `interference`. NaN where j was
        still to come.
        """
        at = self._place(name)
        merit = self.metrics[at].merit(self.matrix(name))
        alone = self.metrics[at].merit(self.metrics[at].reduce(self.alone[at].sum(0)))
        last = torch.cat([torch.full_like(merit[:1], torch.nan), merit[:-1]])
        return torch.where(last.isnan(), alone, last) - merit

    def _place(self, name: str) -> int:
        names = [metric.name for metric in self.metrics]
        if name not in names:
            raise ValueError(f"name: expected one of {', '.join(names)}, got {name!r}; ask for it by metrics=")
        return names.index(name)

    def _come(self) -> Tensor:
        """Which parts had come at each time, ``(A, P)``."""
        return torch.arange(self.fresh[0].shape[1]) <= torch.tensor(self.times)[:, None]

    @property
    def final(self) -> dict[str, Estimate]:
        """After the last part, pooled over the queries of all parts: as `evaluate` would say of ``streams[i]``."""
        return estimates(self.metrics, [later[:, -1].sum(1) for later in self.later], self.shared)

    @property
    def forgetting(self) -> dict[str, Estimate]:
        """By how much parts are worse after the last part than at their best before it; the mean over all parts but the last.

        Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112 (section 3), of the times at which parts were asked: right after
        they came, and at `times`. As the best of several is chosen, noise alone gives some; `backward` chooses nothing.
        """
        come = self._come()[:-1, :-1]

        def lost(merit: Callable[[Tensor], Tensor], later: Tensor, fresh: Tensor) -> Tensor:
            past = merit(later[..., :-1, :-1, :]).masked_fill(~come, -torch.inf)
            best = torch.cat([past, merit(fresh[..., :-1, :])[..., None, :]], -2).amax(-2)
            return (best - merit(later[..., -1, :-1, :])).nanmean(-1)

        return self._figures(lost, self.later, self.fresh)

    @property
    def backward(self) -> dict[str, Estimate]:
        """By how much parts are better after the last part than right after they came: backward transfer; below 0 is lost.

        Lopez-Paz & Ranzato 2017, https://arxiv.org/abs/1706.08840 (equation 3); the mean over all parts but the last.
        """
        return self._figures(
            lambda merit, last, fresh: (merit(last) - merit(fresh)).nanmean(-1),
            [later[:, -1, :-1] for later in self.later],
            [fresh[:, :-1] for fresh in self.fresh],
        )

    @property
    def forward(self) -> dict[str, Estimate] | None:
        """By how much parts are better right before they come than by a learner that was told nothing: forward transfer.

        Lopez-Paz & Ranzato 2017 (equation 4); the mean over the parts, but the first, of which it is defined. None where there
        is no such part: labels that have not come yet are no question.
        """
        there, asked_of = self.fresh[0].any(-1), self.before[0].any(-1)  # a stream may have no queries of a part
        asked = ((asked_of == there).all(0) & asked_of.any(0)).nonzero()[:, 0].tolist()
        if not asked:
            return None
        return self._figures(
            lambda merit, before, untaught: (merit(before) - merit(untaught)).nanmean(-1),
            [before[:, asked] for before in self.before],
            [untaught[:, asked] for untaught in self.untaught],
        )

    @property
    def ahead(self) -> dict[str, Estimate] | None:
        """Right before each part came, pooled over the queries of all parts but the first: how well the next part is foretold.

        Of parts whose labels had not come by then nothing is asked. None if that is all of them.
        """
        if not any(before.any() for before in self.before):
            return None
        return estimates(self.metrics, [before.sum(1) for before in self.before], self.shared)

    @property
    def interference(self) -> dict[str, Estimate]:
        """By how much parts are worse after the last part than by a learner that was told that part alone; the mean over parts.

        What tasks cost each other, if it is above 0 (Riemer et al. 2019, https://arxiv.org/abs/1810.11910, say it of their
        gradients), and what they gave each other below: negative transfer, and transfer. `costs` says which cost which.
        """
        return self._figures(
            lambda merit, last, alone: (merit(alone) - merit(last)).nanmean(-1),
            [later[:, -1] for later in self.later],
            self.alone,
        )

    @property
    def gap(self) -> dict[str, Estimate]:
        """By how much the last answers are worse than those of the learner that was told all points at once.

        Raises:
            ValueError: that was not asked for.
        """
        if not self.together:
            raise ValueError(
                "gap: expected answers to all points at once, got none; evaluate_stream(..., together=True)"
            )
        return self._figures(
            lambda merit, last, together: merit(together) - merit(last),
            [later[:, -1].sum(1) for later in self.later],
            [together.sum(1) for together in self.together],
        )

    def _figures(self, figure: Callable[..., Tensor], *tables: Sequence[Tensor]) -> dict[str, Estimate]:
        """Figures of sums over streams of tables of statistics, with their intervals; `figure` gets each metric's merit first."""
        found = {}
        for metric, *given in zip(self.metrics, *tables, strict=True):
            rows = torch.cat([table.flatten(1) for table in given], 1)

            def merit(sums: Tensor, metric: Metric = metric) -> Tensor:
                return metric.merit(metric.reduce(sums))

            def reduce(sums: Tensor, merit: Any = merit, given: list[Tensor] = given) -> Tensor:
                pieces = sums.split([table[0].numel() for table in given], -1)
                shaped = [piece.unflatten(-1, table.shape[1:]) for piece, table in zip(pieces, given, strict=True)]
                return figure(merit, *shaped)

            resamples = min(1000, max(200, 25_000_000 // rows.shape[1]))  # in bounded memory
            parts = interval(reduce, rows, self.shared, resamples=resamples)
            found[metric.name] = Estimate(*(part.item() for part in parts))
        return found
