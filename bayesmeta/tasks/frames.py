"""Data frames in, as a task source, and out, with answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from bayesmeta.border import as_numbers, points, stack
from bayesmeta.distributions import class_probabilities, quantile
from bayesmeta.evaluation.evaluate import evaluating
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded
from bayesmeta.tasks.arrays import ArrayTasks, Division, missing, tasks_from_arrays

__all__ = ["predict_frame", "tasks_from_frame"]


def tasks_from_frame(
    frame: Any,
    *,
    task: str,
    x: Sequence[str] | str,
    y: Sequence[str] | str,
    order: str | None = None,
    classes: int | None = None,
    whole: bool = False,
    dtype: torch.dtype | None = None,
    **division: Unpack[Division],
) -> ArrayTasks:
    """A task source from a data frame (pandas, polars, or a mapping of columns) with one row a point.

    What is a number, here as in `tasks_from_arrays`, `points` and a posterior's queries:

    - Whole and floating numbers, ``Decimal`` and ``Fraction`` are; true and false are 1 and 0.
    - NaN, None, NA and infinity are refused, by row.
    - Dates, with a time zone or without, and periods are refused: an origin and a unit make numbers of them, such as hours since
      the first, ``(t - t.min()) / np.timedelta64(1, "h")``. Durations lack the unit: ``t / np.timedelta64(1, "h")``.
    - Categories are refused, also those of numbers: ``.cat.codes`` are labels, ``.astype(float)`` amounts.
    - Text is refused, also of digits: to Python ``"1_000"`` is 1000. ``pd.to_numeric`` decides.

    Args:
        frame: the data.
        task: the column that names each row's task, by values of any type.
        x: the columns of inputs.
        y: the column of targets, or several.
        order: the column that says when each row was measured, of numbers, dates or whatever can be sorted; it may be one of x
            too. The support is then always a task's earliest `shots` points, and the query the next ones, at most `queries`.
            None divides at random.
        classes: see `tasks_from_arrays`.
        whole: see `tasks_from_arrays`.
        dtype: see `tasks_from_arrays`.
        division: batch, shots, queries, seed, length: see `ArrayTasks`.

    Raises:
        ValueError: a column is missing or not numeric, or what `tasks_from_arrays` raises.

    Example:
        >>> frame = {"boy": ["a", "a", "b", "b"], "age": [1, 2, 1, 2], "height": [80.0, 90.0, 82.0, 91.0]}
        >>> tasks_from_frame(frame, task="boy", x="age", y="height", shots=1)
        ArrayTasks(2 tasks of 2 to 2 points, shots=1)
        >>> tasks_from_frame(frame, task="boy", x="age", y="height", order="age", shots=1)[0].query.x[..., 0].tolist()
        [[2.0], [2.0]]
    """
    inputs, targets = _columns(frame, task, x, y, order)
    if classes is not None and len(targets) > 1:
        raise ValueError(f"y: expected a single column of labels, with classes, got {targets}; name one")
    numeric = {name: as_numbers(frame[name], name, "a numeric column") for name in [*inputs, *targets]}
    return tasks_from_arrays(
        stack([numeric[name] for name in inputs], "x"),
        numeric[targets[0]] if len(targets) == 1 else stack([numeric[name] for name in targets], "y"),
        np.asarray(frame[task]),
        order=None if order is None else np.asarray(frame[order]),
        classes=classes,
        whole=whole,
        dtype=dtype,
        **division,
    )


def predict_frame(
    learner: Learner,
    known: Any,
    asked: Any,
    *,
    task: str,
    x: Sequence[str] | str,
    y: Sequence[str] | str,
    classes: int | None = None,
    levels: Sequence[float] = (0.05, 0.95),
    whole: bool = False,
    seed: int = 0,
) -> Any:
    """Answers for the rows of a data frame: each task is learned from its rows in another frame.

    A task without a known row is answered by what all tasks have in common.

    Args:
        learner: trained on tasks of these columns.
        known: the rows that tasks are learned from, with x and y: pandas, polars, or a mapping of columns.
        asked: the rows to answer, with x; it needs no y.
        task: the column that names each row's task, in both.
        x: the columns of inputs.
        y: the column of targets, or several.
        classes: W if y holds labels 0 to W - 1; None for numbers.
        levels: which quantiles of numbers to give.
        whole: see `tasks_from_arrays`.
        seed: of the random draws of learners that have some.

    Returns:
        The asked frame with new columns, whose names begin with y's: its mean, its quantiles ("height 5%"), and the
        variance that is noise and that which is doubt about the task ("height aleatoric" and "height epistemic"). Of labels the
        probability of each ("grade 0"), and the two parts of the entropy in nats. A mapping of columns for a mapping.

    Raises:
        ValueError: a column is missing or not numeric, a level is not between 0 and 1, or what `points` raises.

    Example:
        >>> learner = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())
        >>> known = {"boy": ["a", "a", "b"], "age": [1.0, 2.0, 1.0], "height": [80.0, 90.0, 82.0]}
        >>> found = predict_frame(learner, known, {"boy": ["b", "c"], "age": [3.0, 3.0]}, task="boy", x="age", y="height")
        >>> list(found)[2:]
        ['height mean', 'height 5%', 'height 95%', 'height aleatoric', 'height epistemic']
    """
    inputs, targets = _columns(known, task, x, y)
    _columns(asked, task, x, None)
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"levels: expected quantiles between 0 and 1, got {level}; e.g. (0.05, 0.95)")
    given, told = (_numbers(frame, inputs, "x") for frame in (known, asked))
    values = _numbers(known, targets, "y")
    values = values[:, 0] if classes is not None else values
    rows, wanted = (_rows_of(frame, task) for frame in (known, asked))
    names = list(wanted)
    if not names:
        raise ValueError("asked: expected at least one row, got none; check how the rows were selected")
    answers: dict[str, Tensor] = {}
    with evaluating(learner), seeded(seed), torch.no_grad():
        for start in range(0, len(names), _TOGETHER):
            some = names[start : start + _TOGETHER]
            mine = [rows.get(name, []) for name in some]
            support = points([given[at] for at in mine], [values[at] for at in mine], classes=classes, whole=whole)
            places = [wanted[name] for name in some]
            query = points([told[at] for at in places], [torch.zeros(len(at), 1) for at in places], whole=whole)
            posterior = learner(support)
            for name, column in _answers(posterior, query.x, targets, classes, levels).items():
                column = column.cpu().double()
                kept = answers.setdefault(name, column.new_empty(len(told)))
                for task_, at in enumerate(places):
                    kept[torch.tensor(at)] = column[task_, : len(at)]
    return _with(asked, {name: column.numpy() for name, column in answers.items()})


_TOGETHER = 256
"""How many tasks are asked at once."""


def _answers(
    posterior: Posterior, x: Any, targets: Sequence[str], classes: int | None, levels: Sequence[float]
) -> dict[str, Tensor]:
    """Columns by name, ``(B, M)`` each."""
    prediction, parts = posterior(x), posterior.decompose(x)
    if classes is not None:
        probabilities = class_probabilities(prediction)
        found = {f"{targets[0]} {k}": probabilities[..., k] for k in range(classes)}
        return {**found, f"{targets[0]} aleatoric": parts.aleatoric, f"{targets[0]} epistemic": parts.epistemic}
    columns = {"mean": prediction.mean}
    columns |= {f"{100 * level:g}%": quantile(prediction, level) for level in levels}
    columns |= {"aleatoric": parts.aleatoric, "epistemic": parts.epistemic}
    return {f"{target} {name}": both[..., k] for k, target in enumerate(targets) for name, both in columns.items()}


def _rows_of(frame: Any, task: str) -> dict[Any, list[int]]:
    """The rows of each task, in the order in which tasks appear."""
    found: dict[Any, list[int]] = {}
    for row, name in enumerate(np.asarray(frame[task], dtype=object)):
        if missing(name):
            raise ValueError(
                f"task: expected a task for every row, got {name} in row {row}; drop the row or fill in its task"
            )
        found.setdefault(name, []).append(row)
    return found


def _numbers(frame: Any, names: Sequence[str], argument: str) -> Tensor:
    """Columns of numbers, ``(rows, columns)``."""
    return torch.as_tensor(stack([as_numbers(frame[name], name, "a numeric column") for name in names], argument))


def _with(frame: Any, columns: dict[str, Any]) -> Any:
    """The frame with further columns."""
    if hasattr(frame, "assign"):
        return frame.assign(**columns)
    if hasattr(frame, "with_columns"):
        return frame.with_columns(**columns)
    return {**frame, **columns}


def _columns(
    frame: Any, task: str, x: Sequence[str] | str, y: Sequence[str] | str | None, order: str | None = None
) -> tuple[list[Any], list[Any]]:
    """The columns of inputs and of targets, each a list; the frame has them, and each once.

    Raises:
        ValueError: there are none, or a column is missing, there twice, or both input and target.
    """
    columns = list(getattr(frame, "columns", frame.keys() if isinstance(frame, dict) else []))
    levels = list(getattr(getattr(frame, "index", None), "names", []))  # of a panel's rows
    inputs: list[Any] = [x] if isinstance(x, str) or x in columns else list(x)  # a MultiIndex names a column by a tuple
    targets: list[Any] = [] if y is None else [y] if isinstance(y, str) or y in columns else list(y)
    if not inputs or (not targets and y is not None):
        raise ValueError(f"x and y: expected at least one column each, got {inputs} and {targets}")
    wanted = (("task", [task]), ("x", inputs), ("y", targets), ("order", [] if order is None else [order]))
    for argument, names in wanted:
        for name in names:
            if columns.count(name) > 1:
                raise ValueError(
                    f"{argument}: expected one column named {name!r}, got {columns.count(name)}; rename them"
                )
            if argument == "x" and name in [*targets, task]:
                raise ValueError(
                    f"x: expected inputs beside the target and the task, got {name!r} as both; leave it out of x"
                )
            if name not in columns:
                remedy = (
                    "it is a level of the index: pass frame.reset_index()" if name in levels else "choose one of them"
                )
                raise ValueError(
                    f"{argument}: expected a column of the frame, got {name!r}; its columns are "
                    f"{', '.join(map(str, columns))}; {remedy}"
                )
    return inputs, targets
