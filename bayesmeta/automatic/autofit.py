"""One call from a table to a learner."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.automatic.choice import best_shares, shrunk_temperature
from bayesmeta.automatic.findings import findings
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import MEMBERS
from bayesmeta.automatic.report import Report
from bayesmeta.automatic.run import Run
from bayesmeta.automatic.whole import Tempering, judged, together, whole
from bayesmeta.border import check_amounts, check_count
from bayesmeta.data import Episode, Points
from bayesmeta.learner import Learner
from bayesmeta.metrics import NLL, Coverage
from bayesmeta.posterior import Posterior
from bayesmeta.tasks import ArrayTasks, Columns, tasks_from_frame
from bayesmeta.tasks.arrays import check_options
from bayesmeta.warps import Log

__all__ = ["AutoFit", "autofit"]

_FOLDS = 5
_BEYOND = 3.0
"""Up to how many times the largest target the logarithmic scale is one."""


@final
class AutoFit(Learner):
    """What `autofit` makes: a learner like any other, and a report of how it was chosen.

    Args:
        learner: the mixture of the members that count.
        report: what was found on held-out tasks.
        columns: how a table's rows become numbers, for `predict_frame`; None where there was no table.
    """

    def __init__(self, learner: Learner, report: Report, columns: Columns | None = None) -> None:
        super().__init__()
        self.learner = learner
        self.columns = columns
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
    """Learns what the tasks of a table have in common, by several members of which those count that predict held-out tasks.

    For real targets. Five members are trained, in seconds: lines, lines beside a smooth function, a Bayesian last layer and a
    Gaussian process on features of a small network, and from 10 tasks on a neural process. The first four give each task a scale
    of its own (`OwnScale`). Where all targets are positive, all are trained a second time, on a logarithmic scale.

    Tasks are cut into 5 folds, and each member is trained once without each of them, in one batch. The folds left out decide
    after how many steps each member is best, how much it counts (`bayesmeta.automatic.choice.best_shares`), and one temperature.
    What is returned is the mixture of the copies of all members that count; together they are surer than each was by itself
    (`bayesmeta.automatic.whole.together`).

    Members are shown what they will be asked: tasks with as many known points as `shots` says, at random or, with `order`, the
    earliest ones, and later ones to predict.

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
        options: of `tasks_from_frame`, such as ``shots``, a number of known points or a range, (0, 10) if not given.

    Returns:
        A learner in the user's units, in evaluation mode, with `report()`: print it.

    Raises:
        TypeError: the data are no frame and no such tasks, or there is no such option.
        ValueError: there is a single task, a target that never varies or has two values alone, labels, or what `tasks_from_frame`
            raises; the checkpoint is of another run.

    Warns:
        UserWarning: what the report says too: data are too few to trust its figures, tasks share a group, a few targets are not
            above 0, intervals do not hold, a simple member would do, or more steps would help.

    Example:
        >>> import warnings
        >>> frame = {"boy": [i // 6 for i in range(36)], "age": [i % 6 for i in range(36)]}
        >>> frame["height"] = [80 + (5 + boy % 3) * age + (age * boy) % 2 for boy, age in zip(frame["boy"], frame["age"])]
        >>> with warnings.catch_warnings(action="ignore"):  # of few tasks, and few steps
        ...     learner = autofit(frame, task="boy", x="age", y="height", steps=4, progress=False)
        >>> learner(points([0.0, 1.0], [81.0, 88.0]))([5.0]).mean.shape
        torch.Size([1, 1, 1])
    """
    began = time.perf_counter()
    check_options(options, autofit, tasks_from_frame)
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
    shares = best_shares(run.sums[..., run.counts > 0].flatten(0, 1).T, seed).reshape(run.best.shape)
    temperature = shrunk_temperature(Tempering(run, shares), count)
    nll, coverage = judged(run, shares, temperature, [NLL(), Coverage(0.9)])
    temperature *= together(run, shares)  # after the copies were judged, each by itself
    learner = whole(run, shares, temperature, range(len(run.folds.held)))
    columns = getattr(tasks, "columns", None)
    report = findings(run, shares, temperature, nll, coverage, time.perf_counter() - began, columns)
    for said in report.warnings:
        warnings.warn(said, stacklevel=2)
    return AutoFit(learner, report, columns).eval()


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
            f"data: expected a data frame, or tasks of tasks_from_arrays or tasks_from_frame, got {type(data).__name__}; "
            "fit(learner, tasks, steps=...) learns from any source"
        )
    elif missing := [name for name in ("task", "x", "y") if name not in given]:
        raise ValueError(
            f"{missing[0]}: expected the name of a column, got none; e.g. autofit(frame, task='boy', x='age', y='height')"
        )
    else:
        tasks = tasks_from_frame(data, **{"shots": (0, 10), **given})
    points = tasks.points
    plain = isinstance(points.x, Tensor) and points.x.is_floating_point() and points.y.is_floating_point()
    if not plain or points.y.dim() != 3 or points.x.dim() != 3:
        raise ValueError(
            "data: expected numbers, x (B, N, D) and y (B, N, Y), got others, such as labels, tokens or trees; fit a learner "
            'that takes them: docs/tables.md, "Yes or no", shows one of classes, and docs/how-to-choose.md the others'
        )
    if points.mask.dim() > 2:
        raise ValueError(
            "data: expected targets that are observed whole, got a mask of entries; give each target a call of its own"
        )
    if points.y.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"data: expected torch.float32 or torch.float64, in which members can be solved for, got {points.y.dtype}; leave out "
            "dtype"
        )
    if len(tasks.names) < 2:
        raise ValueError(
            f"data: expected at least 2 tasks, of which some are held out, got {len(tasks.names)}; name another column as task, "
            "or use a model of one data set"
        )
    y = points.y[points.mask]
    if (still := (y == y[:1]).all(0)).any():
        raise ValueError(
            f"y: expected targets that vary, got {float(y[0][still][0]):g} in every row; leave it out, or look at how it was read"
        )
    named = [f"y={name!r}" for name in tasks.columns.y] if hasattr(tasks, "columns") else ["y"] * y.shape[1]
    for name, values in zip(named, y.T, strict=True):
        check_amounts(values, name)
    return tasks
