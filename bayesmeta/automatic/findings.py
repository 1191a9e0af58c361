"""What the tasks held out say of a run, in numbers and plain words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import SIMPLE
from bayesmeta.automatic.report import Report
from bayesmeta.automatic.run import Run
from bayesmeta.metrics import NLL, Coverage, Estimate, bootstrap, difference
from bayesmeta.tasks import Columns

__all__ = ["findings", "of_data"]

_FEW = 10
"""Tasks, below which the report warns."""
_RARE = 0.05
"""Of all targets, below which those that are not above 0 may be errors."""
_ALIKE = 0.02
"""Nats a point, below which two learners are as good as one another."""
_FALLING = 0.02
"""Nats a point, by which the last quarter of steps still helped."""


def findings(
    run: Run,
    shares: Tensor,
    temperature: float,
    nll: Tensor,
    coverage: Tensor,
    seconds: float,
    columns: Columns | None = None,
) -> Report:
    """The report of a run.

    Args:
        run: that is over.
        shares: of each member and scale in the mixture, ``(members, U)``.
        temperature: of the mixture's parts.
        nll: each held-out task's statistic under the mixture, ``(T, 2)``.
        coverage: the same of 90 % intervals.
        seconds: how long it took.
        columns: of the table, if there was one.
    """
    points, total = run.folds.tasks.points, run.counts.sum()
    found, covered = bootstrap(NLL(), nll), bootstrap(Coverage(0.9), coverage)
    places = [(member, place) for member in range(len(run.names)) for place in range(len(run.folds.units))]
    return Report(
        members=tuple(
            run.names[member] + ", log" * (run.folds.units[place].warp is not None) for member, place in places
        ),
        steps=tuple(int(run.best[at]) for at in places),
        member_nll=tuple(float(run.sums[at].sum() / total) for at in places),
        weights=tuple(float(shares[at]) for at in places),
        temperature=temperature,
        nll=(found.value, found.low, found.high),
        coverage=(covered.value, covered.low, covered.high),
        tasks=len(points.mask),
        points=int(points.mask.sum()),
        seconds=seconds,
        warnings=(*of_data(run.folds, columns), *_warnings(run, shares, nll, found, covered)),
    )


def of_data(folds: Folds, columns: Columns | None) -> Iterator[str]:
    """What the table says, before anything is learned."""
    tasks = folds.tasks
    for place, group in enumerate(columns.task if columns is not None and len(columns.task) > 1 else ()):
        if (count := len({name[place] for name in tasks.names})) < len(tasks.names):
            yield (
                f"{len(tasks.names)} tasks share {count} values of {group!r}: tasks held out are not of a new one, so where "
                f"those of one are alike the figures here look too good for new ones; name {group!r} alone as task, or hold some "
                "of its values back for evaluate"
            )
            break
    y = tasks.points.y[tasks.points.mask][:, : folds.targets]
    low = int((y <= 0).sum())
    if 0 < low < _RARE * y.numel():
        yield (
            f"{low:,} of {y.numel():,} targets {'is' if low == 1 else 'are'} not above 0: members on a logarithmic scale are "
            "left out; drop such rows if they are no measurements, or fit one with Warped(learner, Log1p())"
        )


def _warnings(run: Run, shares: Tensor, nll: Tensor, found: Estimate, covered: Estimate) -> Iterator[str]:
    tasks = len(run.folds.tasks.points.mask)
    if tasks < _FEW:
        yield (
            f"{tasks} tasks are few: what they have in common, the choice of members and the figures here may all be off; more "
            "tasks help more than more points"
        )
    if covered.high < 0.85 or covered.low > 0.95:
        yield (
            f"90% intervals hold {covered.value:.0%} of the held-out points, and are too "
            f"{'narrow' if covered.high < 0.85 else 'wide'}; where there are tasks to spare, Conformal mends that"
        )
    yield from _simpler(run, shares, nll, found)
    curve = torch.stack(run.curve).flatten(1).amin(1)
    if len(curve) > 4 and (fell := float(curve[:-4].min() - curve.min())) > _FALLING:
        yield f"the NLL of held-out tasks was still falling, by {fell:.3f} in the last quarter of steps; raise steps"


def _simpler(run: Run, shares: Tensor, nll: Tensor, found: Estimate) -> Iterator[str]:
    """The first of the simple members that is as good as all together, where more than these count."""
    simple = [run.names.index(name) for name in SIMPLE]
    if float(shares[simple].sum()) == 1:
        return
    asked = run.counts > 0
    for member in simple:
        sums = run.sums[member, int(run.sums[member].sum(1).argmin())]
        worse = difference(NLL(), torch.stack([sums, run.counts], 1)[asked], nll)
        if worse.value < _ALIKE and worse.low < 0:
            yield (
                f"a simple member would do: {run.names[member]!r} alone has a held-out NLL of {found.value + worse.value:.3f}, "
                f"all together {found.value:.3f}"
            )
            return
