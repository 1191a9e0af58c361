"""Data frames in, as a task source, and out, with answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Unpack

import torch
from torch import Tensor

from bayesmeta.border import points
from bayesmeta.data import entries
from bayesmeta.distributions import class_probabilities, has_classes, quantile
from bayesmeta.evaluation.evaluate import evaluating
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded
from bayesmeta.tasks.arrays import ArrayTasks, Division, check_options
from bayesmeta.tasks.cells import Level
from bayesmeta.tasks.columns import Columns
from bayesmeta.tasks.tables import names_of
from bayesmeta.tasks.times import past, rows_of

__all__ = ["predict_frame", "tasks_from_frame"]


def tasks_from_frame(
    frame: Any,
    *,
    task: Sequence[str] | str,
    x: Sequence[str] | str,
    y: Sequence[str] | str,
    order: str | None = None,
    horizon: Any = None,
    classes: int | Sequence[Level] | None = None,
    categorical: Sequence[str] | str = (),
    missing: bool = False,
    whole: bool = False,
    dtype: torch.dtype | None = None,
    **division: Unpack[Division],
) -> ArrayTasks:
    """A task source from a data frame (pandas, polars, or a mapping of columns) with one row a point.

    How the columns became numbers is kept as ``tasks.columns``: by it ``tasks.columns.tasks(held)`` are tasks of another
    table, for validation and test, and `predict_frame` answers.

    What is a number, here as in `tasks_from_arrays`, `points` and a posterior's queries:

    - Whole and floating numbers, ``Decimal`` and ``Fraction`` are; true and false are 1 and 0.
    - NaN, None and NA are refused, unless ``missing=True``; infinity is.
    - Dates, with a time zone or without, and periods are refused: an origin and a unit make numbers of them, such as hours since
      the first, ``(t - t.min()) / np.timedelta64(1, "h")``. Durations lack the unit: ``t / np.timedelta64(1, "h")``.
    - Text is refused, also of digits: to Python ``"1_000"`` is 1000. ``pd.to_numeric`` decides.

    Inputs that are categories are said to be: by their type (pandas' ``category``), or by `categorical`. Each category that this
    frame shows becomes a column of zeros and ones. One that comes later is none of them, zeros in all, with a warning.

    Args:
        frame: the data.
        task: the column that names each row's task, by values of any type; or several, which name it together (school and class).
        x: the columns of inputs. What is the same in all rows of a task (a dose, a site) is an input like others.
        y: the column of targets, or several.
        order: the column that says when each row was measured, of numbers, dates or ordered categories, but no text; it may be
            one of x too. The support is then always a task's earliest `shots` points, and the query the next ones, at most
            `queries`. Rows of one time keep their order, and times of several zones are compared as moments. None divides at
            random.
        horizon: see `tasks_from_arrays`.
        classes: the labels that y holds, in the order of their numbers, such as ``["no", "yes"]``; or W, for 0 to W - 1; or None
            for numbers. What is true or false needs none with the likelihood `Bernoulli`.
        categorical: those of x whose values are names and not amounts: text, or numbers that count nothing.
        missing: whether values may be missing. Where this frame lacks an input, the column's mean stands in for it (no category
            does), beside a further column that says where. A row counts for the targets that it has; one without any is left
            out, with a warning. Of several targets, learners that adapt a network's weights take those that are there; others
            say that they do not.
        whole: see `tasks_from_arrays`.
        dtype: see `tasks_from_arrays`.
        division: batch, shots, queries, seed, length: see `ArrayTasks`.

    Raises:
        TypeError: there is no such option.
        ValueError: a column is not there, not numeric, infinite or lacks values, a label is none of the classes, or what
            `tasks_from_arrays` raises.

    Warns:
        UserWarning: there is one task, or a target is the same in all rows.

    Example:
        >>> frame = {"boy": ["a", "a", "b", "b"], "age": [1, 2, 1, 2], "height": [80.0, 90.0, 82.0, 91.0]}
        >>> tasks_from_frame(frame, task="boy", x="age", y="height", shots=1)
        ArrayTasks(2 tasks of 2 to 2 points, shots=1)
        >>> tasks_from_frame(frame, task="boy", x="age", y="height", order="age", shots=1)[0].query.x[..., 0].tolist()
        [[2.0], [2.0]]
    """
    check_options(division, tasks_from_frame)
    columns = Columns.from_frame(
        frame,
        task=task,
        x=x,
        y=y,
        order=order,
        classes=classes,
        categorical=categorical,
        missing=missing,
        whole=whole,
    )
    tasks = columns.tasks(frame, horizon=horizon, dtype=dtype, **division)
    if len(tasks.names) == 1:
        warnings.warn(
            f"task: expected several tasks to learn from, got one, {tasks.names[0]!r}; name the columns that tell tasks apart",
            stacklevel=2,
        )
    there = entries(tasks.points)
    for k, name in enumerate(columns.y):
        chosen = (..., k) if columns.classes is None else ...
        values = tasks.points.y[chosen][there[chosen]]
        if len(values) > 1 and not (values != values[0]).any():
            warnings.warn(
                f"{name}: expected targets that differ, got {values[0].item():g} in every row of every task; there is nothing to "
                "learn",
                stacklevel=2,
            )
    return tasks


def predict_frame(
    learner: Learner,
    known: Any,
    asked: Any,
    columns: Columns | None = None,
    *,
    levels: Sequence[float] = (0.05, 0.95),
    seed: int = 0,
) -> Any:
    """Answers for the rows of a data frame: each task is learned from its rows in another frame.

    A task without a known row is answered by what all tasks have in common.

    Args:
        learner: trained on tasks of these columns.
        known: the rows that tasks are learned from, with x and y: pandas, polars, or a mapping of columns.
        asked: the rows to answer, with x; it needs no y.
        columns: how rows become numbers: ``tasks.columns`` of the training tasks; the learner's own if None, which that of
            `autofit` of a table has.
        levels: which quantiles of numbers to give.
        seed: of the random draws of learners that have some.

    Returns:
        The asked frame with new columns, whose names begin with y's: its mean, its quantiles ("height 5%"), and the
        variance that is noise and that which is doubt about the task ("height aleatoric" and "height epistemic"). Of labels the
        probability of each ("grade good"), and the two parts of the entropy in nats. A mapping of columns for a mapping.

    Raises:
        ValueError: a column is missing or not numeric, a level is not between 0 and 1, or what `points` raises.

    Warns:
        UserWarning: no asked task is known, or one is known by nearly the same name; after training on forecasts rows are asked
            that lie before known ones; or a column of asked is named as an answer, which replaces it.

    Example:
        >>> learner = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())
        >>> known = {"boy": ["a", "a", "b"], "age": [1.0, 2.0, 1.0], "height": [80.0, 90.0, 82.0]}
        >>> columns = tasks.Columns.from_frame(known, task="boy", x="age", y="height")
        >>> found = predict_frame(learner, known, {"boy": ["b", "c"], "age": [3.0, 3.0]}, columns)
        >>> list(found)[2:]
        ['height mean', 'height 5%', 'height 95%', 'height aleatoric', 'height epistemic']
    """
    columns = getattr(learner, "columns", None) if columns is None else columns
    if not isinstance(learner, Learner) or not isinstance(columns, Columns):
        got = type(columns if isinstance(learner, Learner) else learner).__name__
        raise TypeError(
            f"learner and columns: expected a trained learner and tasks.columns of its training tasks, got {got}; "
            "predict_frame(learner, known, asked, tasks.columns)"
        )
    single = isinstance(levels, str) or not hasattr(levels, "__iter__")
    given_levels: list[Any] = [levels] if single else list(levels)
    for level in given_levels:
        if single or not isinstance(level, Real) or not 0 < float(level) < 1:
            raise ValueError(f"levels: expected quantiles between 0 and 1, got {level!r}; e.g. (0.05, 0.95)")
    given, told = (torch.as_tensor(columns.inputs(frame)) for frame in (known, asked))
    values, there = map(torch.as_tensor, columns.targets(known))
    if columns.classes is not None:
        values, there = values[:, 0], there[:, 0]
    rows, wanted = (rows_of(columns.names(frame), "task") for frame in (known, asked))
    seen = there.reshape(len(there), -1).any(1).tolist() if len(there) else []
    rows = {name: [at for at in mine if seen[at]] for name, mine in rows.items()}
    partly = not bool(there[[at for mine in rows.values() for at in mine]].all())
    names = list(wanted)
    if not names:
        raise ValueError("asked: expected at least one row, got none; check how the rows were selected")
    there_too = {_form(name): name for name, mine in rows.items() if mine}
    if there_too and not any(rows.get(name) for name in names):
        warnings.warn(
            f"task: expected some tasks of asked in known too, got none: asked has {names[0]!r}, known {next(iter(rows))!r}; all "
            "are answered by what tasks have in common. If they are the same tasks, bring the columns to one type",
            stacklevel=2,
        )
    elif near := [name for name in names if not rows.get(name) and _form(name) in there_too]:
        warnings.warn(
            f"task: expected tasks of asked to be written as in known, got {near[0]!r} beside {there_too[_form(near[0])]!r} (and "
            f"{len(near) - 1} more): as others, they are answered by what tasks have in common; bring the columns to one form",
            stacklevel=2,
        )
    timed = columns.order is not None and all(columns.order in names_of(frame) for frame in (known, asked))
    if timed and (early := past(known[columns.order], asked[columns.order], rows, wanted)):
        warnings.warn(
            "order: expected rows to answer after those that are known, as in training, got earlier ones in task "
            f"{early[0]!r} (and in {len(early) - 1} more); how sure answers are was not learned for those",
            stacklevel=2,
        )
    answers: dict[str, Tensor] = {}
    with evaluating(learner), seeded(seed), torch.no_grad():
        for some in _together(names, {name: len(wanted[name]) for name in names}):
            mine = [rows.get(name, []) for name in some]
            support = points(
                [given[at] for at in mine],
                [values[at] for at in mine],
                mask=[there[at] for at in mine] if partly else None,
                classes=len(columns.labels) or None,
                whole=columns.whole,
            )
            posterior = learner(support)
            for first in range(0, max(len(wanted[name]) for name in some), _ROWS):
                places = [wanted[name][first : first + _ROWS] for name in some]
                query = points(
                    [told[at] for at in places], [torch.zeros(len(at), 1) for at in places], whole=columns.whole
                )
                for name, column in _answers(posterior, query.x, columns, levels).items():
                    column = column.cpu().double()
                    kept = answers.setdefault(name, column.new_empty(len(told)))
                    for task, at in enumerate(places):
                        kept[torch.tensor(at)] = column[task, : len(at)]
    return _with(asked, {name: column.numpy() for name, column in answers.items()})


def _form(name: Any) -> str:
    """What names of a task have in common that are written in other ways: 5, 5.0 and "5", "Ann" and "ann "."""
    return str(name).strip().casefold().removesuffix(".0")


_TOGETHER, _ROWS = 256, 4096
"""How many tasks are asked at once, and how many rows of theirs: quantiles of mixtures hold a megabyte for a few of them."""


def _together(names: Sequence[Any], sizes: dict[Any, int]) -> Iterator[list[Any]]:
    """Tasks to ask at once, in their order: few, and padded to the longest with few rows, or one by itself."""
    some: list[Any] = []
    longest = 0
    for name in names:
        longest = max(longest, sizes[name])
        if some and (len(some) == _TOGETHER or (len(some) + 1) * longest > _ROWS):
            yield some
            some, longest = [], sizes[name]
        some.append(name)
    yield some


def _answers(posterior: Posterior, x: Any, columns: Columns, levels: Sequence[float]) -> dict[str, Tensor]:
    """Columns by name, ``(B, M)`` each."""
    prediction, parts = posterior(x), posterior.decompose(x)
    found: dict[str, Tensor] = {}
    if has_classes(prediction):
        labels, chances = columns.labels or [0, 1], class_probabilities(prediction).unbind(-1)  # two of a Bernoulli
        if len(chances) != len(labels):
            raise ValueError(
                f"learner: expected {len(labels)} classes, as the columns have, got {len(chances)}; give its network as many "
                "outputs"
            )
        found = {f" {label}": chance for label, chance in zip(labels, chances, strict=True)}
    else:
        found = {" mean": prediction.mean}
        found |= {f" {100 * level:g}%": quantile(prediction, level) for level in levels}
    found |= {" aleatoric": parts.aleatoric, " epistemic": parts.epistemic}
    if columns.classes is not None:
        return {f"{columns.y[0]}{name}": value for name, value in found.items()}
    return {f"{target}{name}": value[..., k] for k, target in enumerate(columns.y) for name, value in found.items()}


def _with(frame: Any, columns: dict[str, Any]) -> Any:
    """The frame with further columns."""
    if replaced := [name for name in columns if name in names_of(frame)]:
        warnings.warn(
            f"asked: expected no column named as an answer, got {replaced[0]!r} (and {len(replaced) - 1} more), which "
            "is replaced; rename it to keep both",
            stacklevel=3,
        )
    if hasattr(frame, "assign"):
        return frame.assign(**columns)
    if hasattr(frame, "with_columns"):
        return frame.with_columns(**columns)
    return {**frame, **columns}
