"""A data frame as a task source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch

from bayesmeta.border import as_numbers, stack
from bayesmeta.tasks.arrays import ArrayTasks, Division, tasks_from_arrays

__all__ = ["tasks_from_frame"]


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
    columns = list(getattr(frame, "columns", frame.keys() if isinstance(frame, dict) else []))
    levels = list(getattr(getattr(frame, "index", None), "names", []))  # of a panel's rows
    inputs = [x] if isinstance(x, str) or x in columns else list(x)  # a MultiIndex names a column by a tuple
    targets = [y] if isinstance(y, str) or y in columns else list(y)
    if not inputs or not targets or (classes is not None and len(targets) > 1):
        raise ValueError(
            f"x and y: expected at least one column each, and a single y with classes, got {inputs} and {targets}"
        )
    for argument, names in (
        ("task", [task]),
        ("x", inputs),
        ("y", targets),
        ("order", [] if order is None else [order]),
    ):
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
