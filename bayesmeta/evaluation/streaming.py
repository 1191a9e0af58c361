"""Learners told the parts of streams one after the other, and asked about the past after each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from bayesmeta.border import check_count, check_parts
from bayesmeta.data import Episode, join, move
from bayesmeta.evaluation.asking import Asked, LabelSpace, check_seen, first_answer
from bayesmeta.evaluation.evaluate import Predictor, check_metrics, evaluating, reading
from bayesmeta.evaluation.kept import Kept, settings_of
from bayesmeta.evaluation.retention import Retention
from bayesmeta.evaluation.units import Units
from bayesmeta.files import digest
from bayesmeta.metrics import Metric, default_metrics
from bayesmeta.randomness import seeded

__all__ = ["Streams", "check_streams", "evaluate_stream"]


class Streams(Protocol):
    """A `StreamSource`, or whatever else has episodes in parts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Episode: ...

    def parts(self, index: int, /) -> Sequence[Episode]:
        """The parts of an episode in their order in time."""


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
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Retention:
    """Tells a learner the parts of streams one after the other, and asks about all parts so far after each.

    The first part's support goes to ``learner(support)``, every further one to the posterior's `update`. All streams are read and
    checked before the learner is told the first of them.

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
        checkpoint: a folder in which each finished stream is kept. The same call goes on after the last of them, and gives the
            same bits as a call that nothing disturbed; it may ask for more episodes. None keeps nothing.
        progress: shows a bar.

    Raises:
        ValueError: parts are broken or do not join to their episode, streams differ in their number of parts, a label has no
            place in the predictions, or is asked about among "seen" ones before it comes, a prediction or a metric is NaN, or the
            folder is of another evaluation or in use.
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
    chosen = check_metrics(metrics)
    read = _read(learner, streams, episodes, labels)
    times = _times(at, read.length)
    with ExitStack() as held:
        held.enter_context(evaluating(learner if isinstance(learner, nn.Module) else None))
        held.enter_context(torch.no_grad())
        first = _moved(streams.parts(0)[0], learner)
        with seeded(seed):
            prediction = first_answer(learner, first, read.largest)
        chosen = chosen or default_metrics(prediction)
        held.enter_context(seeded(seed))
        tables: list[list[list[Tensor]]] = []  # by episode, kind and metric
        disk = None
        if checkpoint is not None:
            given = {"times": times, "labels": labels, "together": together, "seed": seed, "parts": read.length}
            disk = Kept(checkpoint, settings_of(learner, chosen, **given))
            held.enter_context(disk.alone())
            tables = disk.resume(read.digests)
        asked = Asked(learner, chosen, labels)
        left = range(len(tables), episodes)
        for index in tqdm(left, initial=len(tables), total=episodes, disable=not progress, unit="stream"):
            parts = [_moved(part, learner) for part in streams.parts(index)]
            tables.append(asked.stream(parts, times, together))
            if disk is not None:
                disk.write(index, read.digests[index], tables[-1])
    flat = [torch.cat(rows) for kind in zip(*tables, strict=True) for rows in zip(*kind, strict=True)]
    rows, shared = read.units.pooled(flat)
    kinds = [rows[first : first + len(chosen)] for first in range(0, len(rows), len(chosen))]
    later, fresh, before, untaught, alone, *at_once = kinds
    together_rows = at_once[0] if at_once else []
    return Retention(chosen, times, later, fresh, before, untaught, alone, together_rows, shared)


def check_streams(streams: Any) -> None:
    """Raises a TypeError where a source's episodes have no parts."""
    if not callable(getattr(streams, "parts", None)):
        raise TypeError(
            "streams: expected a source of streams, whose episodes have parts, got "
            f"{type(streams).__name__}; e.g. ClassStreams(tasks)"
        )


class _Read(NamedTuple):
    """What all streams are, before a learner is told of any."""

    length: int
    """The number of parts."""
    largest: int
    """Of the labels, if they are labels."""
    units: Units
    digests: list[str]


def _read(learner: Predictor, streams: Streams, episodes: int, labels: LabelSpace) -> _Read:
    """Reads and checks all streams."""
    units, digests, count, largest = Units(streams, None), [], 0, 0  # type: ignore[arg-type]
    with reading(learner, streams, episodes=episodes, seed=0) as read:  # type: ignore[arg-type]
        for index, episode in read:
            parts = streams.parts(index)
            check_parts(parts)
            count = count or len(parts)
            if len(parts) != count:
                raise ValueError(
                    f"streams: expected as many parts in each, got {count} in episode 0 and {len(parts)} in episode {index}; "
                    "evaluate streams of different lengths apart"
                )
            if not _join_to([_moved(part, learner) for part in parts], episode):
                raise ValueError(
                    f"streams: expected parts that join to their episode, got others than streams[{index}] holds; build the "
                    "episode from the parts, join(parts), and both from (seed, index) alone"
                )
            if labels == "seen":
                check_seen(parts, index)
            digests.append(digest(parts))
            units.read(index, len(episode.query.mask))
            if not episode.query.y.is_floating_point():
                largest = max(largest, *(int(given.y.max()) for given in episode))
    return _Read(count, largest, units, digests)


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


def _moved(part: Episode, learner: Any) -> Episode:
    """Where the learner is."""
    return move(part, learner) if isinstance(learner, nn.Module) else part


def _times(at: Sequence[int] | None, parts: int) -> list[int]:
    """After which parts to ask, in order."""
    if at is not None and not isinstance(at, Iterable):
        raise ValueError(f"at: expected numbers of parts, 0 to {parts - 1}, got {at!r}; give a list of them, [{at!r}]")
    given = list(range(parts)) if at is None else list(at)
    for time in given:
        check_count("at", time, least=0)
        if time >= parts:
            raise ValueError(f"at: expected numbers of parts, 0 to {parts - 1}, got {time}; the last is {parts - 1}")
    return sorted({*map(int, given), parts - 1})
