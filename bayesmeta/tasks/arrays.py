"""Users' own data as a task source: arrays with a task id a row, or a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map, tree_unflatten

from bayesmeta.border import as_numbers, as_tensor, check_spread, is_whole, stack
from bayesmeta.border.points import assemble
from bayesmeta.data import Episode, Points, seen, split
from bayesmeta.tasks.source import TaskSource, shots_per_task

__all__ = ["ArrayTasks", "Division", "tasks_from_arrays", "tasks_from_frame"]


class Division(TypedDict, total=False):
    """The keyword arguments of every source of given points; `ArrayTasks` explains them."""

    batch: int | None
    shots: int | tuple[int, int]
    queries: int | None
    seed: int
    length: int


@final
class ArrayTasks(TaskSource):
    """Episodes from the points of T given tasks: each task's points are divided anew into support and query.

    Args:
        points: all points of the T tasks (ragged tasks are padded).
        names: the tasks' names, T of them.
        batch: B, tasks in an episode, drawn without replacement; None for all T, always in the same order.
        shots: support points a task, or a range (low, high) from which each task's number is drawn, and lowered where a
            task has too few points to leave one for the query.
        queries: query points a task at most; None for all that are left.
        seed, length: see `TaskSource`.

    Raises:
        ValueError: a task has too few points to leave one for the query, or batch exceeds T.
    """

    def __init__(
        self,
        points: Points,
        names: Sequence[str],
        *,
        batch: int | None = None,
        shots: int | tuple[int, int] = 5,
        queries: int | None = None,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        tasks = len(points.mask)
        if batch is not None and not (isinstance(batch, int | np.integer) and 1 <= batch <= tasks):
            raise ValueError(f"batch: expected 1 to {tasks} (the number of tasks), got {batch!r}; None takes all tasks")
        if queries is not None and not (isinstance(queries, int | np.integer) and queries >= 1):
            raise ValueError(
                f"queries: expected a whole number, at least 1, got {queries!r}; None takes all points that are left"
            )
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        fewest = shots[0] if isinstance(shots, (tuple, list)) else shots
        counts = seen(points).sum(1)
        short = (counts <= fewest).nonzero()
        if len(short):
            task = int(short[0, 0])
            raise ValueError(
                f"shots: expected fewer support points than every task has, got {fewest} shots and "
                f"{int(counts[task])} points in task {names[task]!r} (and {len(short) - 1} more such tasks); "
                "lower shots, give a range as in shots=(1, 5), or drop its rows, so that a query point is left"
            )
        self.points = points
        self.names = list(names)
        self.batch = batch
        self.shots = shots
        self.queries = queries

    def members(self, index: int) -> Tensor:
        return self._chosen(self._generator(index))

    def _chosen(self, generator: torch.Generator) -> Tensor:
        tasks = len(self.names)
        with torch.device("cpu"):
            order = torch.arange(tasks) if self.batch is None else torch.randperm(tasks, generator=generator)
        return order[: self.batch]

    def draw(self, generator: torch.Generator) -> Episode:
        chosen = self._chosen(generator)
        given: Points = tree_map(lambda leaf: leaf[chosen], self.points)
        shots = shots_per_task(self.shots, len(chosen), generator).minimum(seen(given).sum(1) - 1)
        return split(given, shots, self.queries, generator)


def tasks_from_arrays(
    x: Any,
    y: Any,
    task_ids: Any,
    *,
    classes: int | None = None,
    event_dims: int = 0,
    mask: Any = None,
    whole: bool = False,
    dtype: torch.dtype | None = None,
    **division: Unpack[Division],
) -> ArrayTasks:
    """A task source from one row a point and a task id a row.

    Args:
        x: inputs, ``(rows,)`` or ``(rows, *X)``, or a dictionary of such, nested or not.
        y: targets, ``(rows,)`` or ``(rows, *Y)``.
        task_ids: ``(rows,)``, numbers or strings; rows of a task need not stand together. Tasks keep the order in
            which they first appear.
        classes: W if y holds labels 0 to W - 1; None for regression.
        event_dims: how many dimensions the labels of one row have, see `points`.
        mask: which entries of y are observed, bool of its shape; None for all.
        whole: whether whole numbers in x stay what they are, as token ids must; else they become floating.
        dtype: floating type of the episodes; torch's default type at this call if None.
        division: batch, shots, queries, seed, length: see `ArrayTasks`.

    Raises:
        ValueError: x, y and task_ids differ in length, a value is not a number (see `tasks_from_frame`) or not finite, the
            floating type cannot hold the values, their squares or their variances, or tell those of one task apart, or a task
            has a single row.

    Example:
        >>> tasks = tasks_from_arrays([0.0, 1.0, 2.0, 3.0], [0, 1, 2, 3], ["a", "a", "b", "b"], shots=1)
        >>> tasks
        ArrayTasks(2 tasks of 2 to 2 points, shots=1)
    """
    dtype = dtype or torch.get_default_dtype()
    inputs, structure = tree_flatten_with_path(_trees(x, "x"))
    y, ids = _rows(y, "y"), _ids(task_ids)
    for _, leaf in inputs:
        if not len(leaf) == len(y) == len(ids) or ids.ndim != 1:
            raise ValueError(
                f"x, y and task_ids: expected the same number of rows, got shapes {tuple(leaf.shape)}, {tuple(y.shape)} and "
                f"{ids.shape}; give every row an input, a target and a task id"
            )
    if mask is not None:
        mask = _rows(mask, "mask")
        if mask.shape != y.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected true or false for each entry of y, {tuple(y.shape)}, got {mask.dtype} {tuple(mask.shape)}; give "
                "it the shape of y"
            )
        y = y.masked_fill(~mask, 0)
    if len(ids) == 0:
        raise ValueError("task_ids: expected at least two rows a task, got none; check how the rows were selected")
    groups: dict[Any, list[int]] = {}
    for row, task in enumerate(ids):
        if _missing(task):
            raise ValueError(
                f"task_ids: expected a task for every row, got {task} in row {row}; drop the row or fill in its task"
            )
        groups.setdefault(task, []).append(row)
    names, rows = [str(name) for name in groups], list(groups.values())
    for name, mine in zip(names, rows, strict=True):
        if len(mine) < 2:
            raise ValueError(
                f"task_ids: expected at least two rows a task (one to learn from, one to be judged on), got one for "
                f"{name!r} (row {mine[0]}); drop the row or merge the task with another"
            )
    for field, values in [("x" + keystr(path), leaf) for path, leaf in inputs] + [("y", y)]:
        bad = ~values.isfinite().reshape(len(values), -1).all(1)
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise ValueError(
                f"{field}: expected finite numbers, got NaN or infinity in row {row} (task {str(ids[row])!r}); "
                "drop the row or fill it in"
            )
        if not (whole and is_whole(values)) if field != "y" else classes is None:
            check_spread(values, dtype, field)
    xs = [tree_unflatten([leaf[mine] for _, leaf in inputs], structure) for mine in rows]
    ys, masks = ([values[mine] for mine in rows] if values is not None else None for values in (y, mask))
    assert ys is not None
    given = assemble(xs, ys, classes=classes, event_dims=event_dims, masks=masks, whole=whole, dtype=dtype, names=names)
    return ArrayTasks(given, names, **division)


def _trees(x: Any, name: str) -> Any:
    """Rows, or a dictionary of rows."""
    if not isinstance(x, dict):
        return _rows(x, name)
    if not x:
        raise ValueError(f"{name}: expected arrays by name, got an empty dictionary; give it an entry")
    return {key: _trees(value, f"{name}[{key!r}]") for key, value in x.items()}


def _rows(values: Any, name: str) -> Tensor:
    """Numbers, a row a point."""
    rows = as_tensor(values, name).detach().cpu()
    if rows.dim() == 0:
        raise ValueError(
            f"{name}: expected one row a point, got a single {type(values).__name__}; pass a list or an array"
        )
    return rows


def _ids(task_ids: Any) -> Any:
    """One id a row; those of a list keep their own types, as numpy would make strings of numbers beside strings."""
    if isinstance(task_ids, Tensor):
        task_ids = task_ids.detach().cpu().numpy()
    if not isinstance(task_ids, (list, tuple)):
        return np.asarray(task_ids)
    ids = np.empty(len(task_ids), dtype=object)
    ids[:] = task_ids
    return ids


def _missing(task: Any) -> bool:
    return task is None or type(task).__name__ in ("NAType", "NaTType") or bool(task != task)


def tasks_from_frame(
    frame: Any,
    *,
    task: str,
    x: Sequence[str] | str,
    y: Sequence[str] | str,
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
    """
    columns = list(getattr(frame, "columns", frame.keys() if isinstance(frame, dict) else []))
    levels = list(getattr(getattr(frame, "index", None), "names", []))  # of a panel's rows
    inputs = [x] if isinstance(x, str) or x in columns else list(x)  # a MultiIndex names a column by a tuple
    targets = [y] if isinstance(y, str) or y in columns else list(y)
    if not inputs or not targets or (classes is not None and len(targets) > 1):
        raise ValueError(
            f"x and y: expected at least one column each, and a single y with classes, got {inputs} and {targets}"
        )
    for argument, names in (("task", [task]), ("x", inputs), ("y", targets)):
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
        classes=classes,
        whole=whole,
        dtype=dtype,
        **division,
    )
