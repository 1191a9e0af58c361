"""What a learner keeps of a stream: every part's queries asked again as further parts come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesmeta.border import check_count, check_parts
from bayesmeta.data import Episode, join, move
from bayesmeta.evaluation.asking import Asked, LabelSpace
from bayesmeta.evaluation.evaluate import Predictor, check_metrics, reading
from bayesmeta.evaluation.units import Units
from bayesmeta.metrics import Estimate, Metric, estimates, interval

__all__ = ["Retention", "Streams", "check_streams", "evaluate_stream"]


class Streams(Protocol):
    """A `StreamSource`, or whatever else has episodes in parts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Episode: ...

    def parts(self, index: int, /) -> Sequence[Episode]:
        """The parts of an episode in their order in time."""


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
    together: list[Tensor]
    """Of one that was told all points at once; empty if not asked for."""
    shared: Tensor | None
    """``(T, W)``: the units, such as classes, that each stream was made of, where streams have units in common."""

    def matrix(self, name: str) -> Tensor:
        """A metric's figure after part ``times[a]`` on the queries of part j, ``(A, P)``; NaN where j was still to come."""
        names = [metric.name for metric in self.metrics]
        if name not in names:
            raise ValueError(f"name: expected one of {', '.join(names)}, got {name!r}; ask for it by metrics=")
        at = names.index(name)
        found = self.metrics[at].reduce(self.later[at].sum(0))
        return found.masked_fill(~self._come(), torch.nan)

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


def evaluate_stream(
    learner: Predictor,
    streams: Streams,
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    at: Sequence[int] | None = None,
    labels: LabelSpace = "all",
    together: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Retention:
    """Tells a learner the parts of streams one after the other, and asks about all parts so far after each.

    The first part's support goes to ``learner(support)``, every further one to the posterior's `update`.

    Args:
        learner: one whose posteriors can be told further points (`Posterior.update` says which); `Rehearsal` makes one of any.
        streams: a `StreamSource`.
        episodes: how many of its episodes to read, all of as many parts.
        metrics: what to measure; as `evaluate` does if None.
        at: after which parts, from 0, to ask about all parts so far: for P parts P² / 2 questions if None, after each. After the
            last they are asked in any case, and every part right after it came.
        labels: among which labels predictions choose. With "all" or "seen" later parts bring rivals, so that accuracy falls
            though nothing is forgotten; with "own" a part is asked as if it were alone.
        together: whether to tell the learner all points at once too, for `Retention.gap`.
        seed: of random predictions; torch's global generator is not touched.
        progress: shows a bar.

    Raises:
        ValueError: parts are broken or do not join to their episode, streams differ in their number of parts, a label has no
            place in the predictions, or a prediction is NaN.
        TypeError: streams have no parts, posteriors no `update`, or labels are to be chosen among but predictions are no labels.
        NotImplementedError: the posteriors cannot be told further points.

    Example:
        >>> tasks = ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, ways=4, shots=5, queries=5)
        >>> learner = PrototypicalNetwork(nn.Linear(2, 2), classes=4)
        >>> kept = evaluate_stream(learner, ClassStreams(tasks), episodes=2, progress=False)
        >>> kept.matrix("Accuracy").shape, abs(kept.gap["NLL"].value) < 1e-6
        (torch.Size([4, 4]), True)
    """
    if labels not in ("all", "seen", "own"):
        raise ValueError(f"labels: expected 'all', 'seen' or 'own', got {labels!r}")
    check_streams(streams)
    module, chosen = learner if isinstance(learner, nn.Module) else None, check_metrics(metrics)
    times: list[int] = []
    tables: list[list[list[Tensor]]] = []  # by episode, kind and metric
    units = Units(streams, None)  # type: ignore[arg-type]
    with reading(learner, streams, episodes=episodes, seed=seed, progress=progress) as read:  # type: ignore[arg-type]
        for index, episode in read:
            parts = _parts(streams, index, episode, module)
            if tables and len(parts) != tables[0][1][0].shape[1]:
                raise ValueError(
                    f"streams: expected as many parts in each, got {tables[0][1][0].shape[1]} in episode 0 and {len(parts)} in "
                    f"episode {index}; evaluate streams of different lengths apart"
                )
            times = times or _times(at, len(parts))
            asked = Asked(learner, chosen, labels)
            tables.append(asked.stream(parts, episode, times, together))
            chosen = asked.metrics
            units.read(index, len(episode.query.mask))
    flat = [torch.cat(rows) for kind in zip(*tables, strict=True) for rows in zip(*kind, strict=True)]
    rows, shared = units.pooled(flat)
    assert chosen is not None
    kinds = [rows[first : first + len(chosen)] for first in range(0, len(rows), len(chosen))]
    later, fresh, before, untaught, *at_once = kinds
    return Retention(chosen, times, later, fresh, before, untaught, [row for kind in at_once for row in kind], shared)


def check_streams(streams: Any) -> None:
    """Raises a TypeError where a source's episodes have no parts."""
    if not callable(getattr(streams, "parts", None)):
        raise TypeError(
            "streams: expected a source of streams, whose episodes have parts, got "
            f"{type(streams).__name__}; e.g. ClassStreams(tasks)"
        )


def _parts(streams: Streams, index: int, episode: Episode, module: nn.Module | None) -> list[Episode]:
    """An episode's parts, checked, where the learner is."""
    given = streams.parts(index)
    check_parts(given)
    parts = [part if module is None else move(part, module) for part in given]
    if not _join_to(parts, episode):
        raise ValueError(
            f"streams: expected parts that join to their episode, got others than streams[{index}] holds; build the episode from "
            "the parts, join(parts), and both from (seed, index) alone"
        )
    return parts


def _join_to(parts: Sequence[Episode], episode: Episode) -> bool:
    """Whether parts join to their episode: of inputs, which may be large, no joined copy is made."""
    told = join([Episode(*(given._replace(x=()) for given in part)) for part in parts])
    for side, (ours, theirs) in enumerate(zip(told, episode, strict=True)):
        if not torch.equal(ours.y, theirs.y) or not torch.equal(ours.mask, theirs.mask):
            return False
        whole, start = tree_leaves(theirs.x), 0
        for part in parts:
            leaves, stop = tree_leaves(part[side].x), start + part[side].mask.shape[1]
            if len(leaves) != len(whole) or any(leaf.shape[1] < stop for leaf in whole):
                return False
            if not all(torch.equal(a, b[:, start:stop]) for a, b in zip(leaves, whole, strict=True)):
                return False
            start = stop
    return True


def _times(at: Sequence[int] | None, parts: int) -> list[int]:
    """After which parts to ask, in order."""
    given = list(range(parts)) if at is None else list(at)
    for time in given:
        check_count("at", time, least=0)
        if time >= parts:
            raise ValueError(f"at: expected numbers of parts, 0 to {parts - 1}, got {time}; the last is {parts - 1}")
    return sorted({*map(int, given), parts - 1})
