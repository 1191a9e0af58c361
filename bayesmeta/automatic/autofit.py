"""One call from a table to a learner."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.automatic.choice import best_shares, shrunk_temperature
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import MEMBERS, SIMPLE
from bayesmeta.automatic.report import Report
from bayesmeta.automatic.run import Run
from bayesmeta.automatic.whole import Tempering, judged, whole
from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.learner import Learner
from bayesmeta.metrics import NLL, Coverage, Estimate, bootstrap, difference
from bayesmeta.posterior import Posterior
from bayesmeta.tasks import ArrayTasks, tasks_from_frame
from bayesmeta.warps import Log

__all__ = ["AutoFit", "autofit"]

_FOLDS = 5
_FEW = 10
"""Tasks, below which the report warns."""
_BEYOND = 3.0
"""Up to how many times the largest target the logarithmic scale is one."""


@final
class AutoFit(Learner):
    """What `autofit` makes: a learner like any other, and a report of how it was chosen.

    Args:
        learner: the mixture of the members that count.
        report: what was found on held-out tasks.
    """

    def __init__(self, learner: Learner, report: Report) -> None:
        super().__init__()
        self.learner = learner
        self._report = report

    def forward(self, support: Points) -> Posterior:
        return self.learner(support)

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(episode)

    def report(self) -> Report:
        """What was found on held-out tasks; ``print(learner.report())``."""
        return self._report


def autofit(
    data: Any,
    *,
    task: Any = None,
    x: Any = None,
    y: Any = None,
    order: Any = None,
    steps: int = 400,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> AutoFit:
    """Learns what the tasks of a table have in common, with members of several kinds and intervals that hold.

    For real targets. Five members are trained, which cost seconds: lines, lines beside a smooth function, a Bayesian last layer
    and a Gaussian process on features of a small network, and (from 10 tasks on) a neural process; the first four with a scale of
    its own for each task (`OwnScale`), and where all targets are positive, all of them a second time on a logarithmic scale. Tasks
    are cut into 5 folds, and each member is trained once without each fold, in one batch. The folds left out decide after how many
    steps each member is best, how much it counts (see `bayesmeta.automatic.choice.best_shares`), and one temperature for all. What
    is returned is the mixture of the members' copies.

    Training shows each member what it will be asked: tasks with as many known points as `shots` says, at random or, with `order`,
    the earliest, to be followed by later ones.

    Args:
        data: a data frame (pandas, polars or a mapping of columns), one row a point; or tasks, as `tasks_from_arrays` and
            `tasks_from_frame` make them, and then no columns are named.
        task: the column that names each row's task.
        x: the columns of inputs.
        y: the column of targets, or several.
        order: the column that says when each row was measured, for forecasts.
        steps: the budget: how many meta-updates each member makes. The same steps and seed give the same learner.
        seed: of folds, divisions and starts, a whole number of at least 0.
        progress: shows a bar with the lowest NLL of held-out tasks so far.
        checkpoint: a folder for the state of the run, written at each of 16 looks at the held-out tasks: the same call goes on
            from there, and ends as if it had not been interrupted.
        options: of `tasks_from_frame`, such as ``shots``, a number of known points or a range, (1, 10) if not given.

    Returns:
        A learner in the user's units, in evaluation mode, with `report()`: print it.

    Raises:
        TypeError: the data are no frame and no such tasks.
        ValueError: there is a single task, a target that never varies, labels in the place of numbers, or what `tasks_from_frame`
            raises; the checkpoint is of another run.

    Warns:
        UserWarning: what the report says too: data are too few to trust its figures, intervals do not hold, a simple member would
            do, or more steps would help.

    Example:
        >>> frame = {"boy": [i // 6 for i in range(36)], "age": [i % 6 for i in range(36)]}
        >>> frame["height"] = [80 + 6.0 * age + 3 * boy + (age * boy) % 2 for boy, age in zip(frame["boy"], frame["age"])]
        >>> learner = autofit(frame, task="boy", x="age", y="height", steps=4, progress=False)
        >>> learner(points([0.0, 1.0], [81.0, 88.0]))([5.0]).mean.shape
        torch.Size([1, 1, 1])
    """
    began = time.perf_counter()
    check_count("steps", steps)
    check_count("seed", seed, least=0)
    tasks = _tasks(data, {"task": task, "x": x, "y": y, "order": order, **options})
    observed = tasks.points.y[tasks.points.mask]
    count = len(tasks.names)
    warps = [None, Log(top=_BEYOND * float(observed.max()))] if (observed > 0).all() else [None]
    names = [name for name, member in MEMBERS.items() if count >= member.fewest]
    with torch.inference_mode(False), torch.enable_grad():
        run = Run(Folds(tasks, min(_FOLDS, count), warps, seed), names, steps)
        run.train(progress=progress, checkpoint=checkpoint)
    shares = best_shares(run.sums.flatten(0, 1).T, seed).reshape(run.best.shape)
    temperature = shrunk_temperature(Tempering(run, shares), count)
    nll, coverage = judged(run, shares, temperature, [NLL(), Coverage(0.9)])
    learner = whole(run, shares, temperature, range(len(run.folds.held)))
    report = _report(run, shares, temperature, nll, coverage, time.perf_counter() - began)
    for said in report.warnings:
        warnings.warn(said, stacklevel=2)
    return AutoFit(learner, report).eval()


def _tasks(data: Any, columns: dict[str, Any]) -> ArrayTasks:
    """The data as tasks of numbers."""
    given = {name: value for name, value in columns.items() if value is not None}
    if isinstance(data, ArrayTasks):
        if given:
            raise ValueError(
                f"{next(iter(given))}: expected nothing beside tasks, which say what their inputs, targets and shots are, got "
                f"{given}; give it to tasks_from_frame or tasks_from_arrays"
            )
        tasks = data
    elif isinstance(data, Dataset):
        raise TypeError(
            f"data: expected a data frame, or tasks of tasks_from_arrays or tasks_from_frame, got {type(data).__name__}; fit(learner, "
            "tasks, steps=...) learns from any source"
        )
    elif missing := [name for name in ("task", "x", "y") if name not in given]:
        raise ValueError(
            f"{missing[0]}: expected the name of a column, got none; e.g. autofit(frame, task='boy', x='age', y='height')"
        )
    else:
        tasks = tasks_from_frame(data, **{"shots": (1, 10), **given})
    points = tasks.points
    if not isinstance(points.x, Tensor) or not points.y.is_floating_point() or points.y.dim() != 3 or points.x.dim() != 3:
        raise ValueError(
            "data: expected numbers, x (B, N, D) and y (B, N, Y), got others, such as labels, tokens or trees; fit a learner that "
            "takes them, see how-to-choose"
        )
    if points.mask.dim() > 2:
        raise ValueError("data: expected targets that are observed whole, got a mask of entries; give each target a call of its own")
    if len(tasks.names) < 2:
        raise ValueError(
            f"data: expected at least 2 tasks, of which some are held out, got {len(tasks.names)}; name another column as task, or "
            "use a model of one data set"
        )
    y = points.y[points.mask]
    if (still := (y == y[:1]).all(0)).any():
        raise ValueError(
            f"y: expected targets that vary, got {float(y[0][still][0]):g} in every row; leave it out, or look at how it was read"
        )
    return tasks


def _report(run: Run, shares: Tensor, temperature: float, nll: Tensor, coverage: Tensor, seconds: float) -> Report:
    points = run.folds.points
    found, covered = bootstrap(NLL(), nll), bootstrap(Coverage(0.9), coverage)
    total = run.counts.sum()
    named = [
        (f"{name}{', log' * (unit.warp is not None)}", member, place)
        for member, name in enumerate(run.names)
        for place, unit in enumerate(run.folds.units)
    ]
    return Report(
        members=tuple(name for name, _, _ in named),
        steps=tuple(int(run.best[member, place]) for _, member, place in named),
        member_nll=tuple(float(run.sums[member, place].sum() / total) for _, member, place in named),
        weights=tuple(float(shares[member, place]) for _, member, place in named),
        temperature=temperature,
        nll=tuple(found),
        coverage=tuple(covered),
        tasks=len(points.mask),
        points=int(points.mask.sum()),
        seconds=seconds,
        warnings=tuple(_warnings(run, shares, nll, found, covered)),
    )


def _warnings(run: Run, shares: Tensor, nll: Tensor, found: Estimate, covered: Estimate) -> Iterator[str]:
    tasks = len(run.folds.points.mask)
    if tasks < _FEW:
        yield (
            f"{tasks} tasks are few: what they have in common, the choice of members and the figures here may all be off; more tasks "
            "help more than more points"
        )
    if covered.high < 0.85 or covered.low > 0.95:
        yield (
            f"90% intervals hold {covered.value:.0%} of the held-out points, and are too {'narrow' if covered.high < 0.9 else 'wide'}; "
            "where there are tasks to spare, Conformal mends that"
        )
    asked = run.counts > 0
    for name in SIMPLE[: 2 * bool(shares.sum(1)[[run.names.index(name) for name in SIMPLE]].sum() < 1)]:
        sums = run.sums[run.names.index(name)]
        best = int(sums.sum(1).argmin())
        rows = torch.stack([sums[best], run.counts], 1)[asked]
        worse = difference(NLL(), rows, nll)
        if worse.low < 0 and worse.value < _ALIKE:
            yield (
                f"a simple member would do: {name!r} alone has an NLL of {float(sums[best].sum() / run.counts.sum()):.3f}, "
                f"all together {found.value:.3f}"
            )
            break
    curve = torch.stack(run.curve).flatten(1).amin(1)
    if len(curve) > 4 and (fell := float(curve[:-4].min() - curve.min())) > _FALLING:
        yield f"the NLL of held-out tasks was still falling, by {fell:.3f} in the last quarter of steps; raise steps"


_ALIKE = 0.02
"""Nats a point, below which two members are as good as one another."""
_FALLING = 0.02
