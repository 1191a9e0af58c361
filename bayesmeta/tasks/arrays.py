"""Users' own data as a task source: arrays with a task id a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map, tree_unflatten

from bayesmeta.border import as_tensor, check_spread, is_whole
from bayesmeta.border.points import assemble
from bayesmeta.data import Episode, Points, seen, split
from bayesmeta.tasks.source import TaskSource, shots_per_task
from bayesmeta.tasks.times import as_names, as_times, in_time, possible, rows_of, within

if TYPE_CHECKING:
    from bayesmeta.tasks.columns import Columns

__all__ = ["ArrayTasks", "Division", "check_options", "tasks_from_arrays"]


class Division(TypedDict, total=False):
    """The keyword arguments of every source of given points; `ArrayTasks` explains them."""

    batch: int | None
    shots: int | tuple[int, int]
    queries: int | None
    seed: int
    length: int


def check_options(given: Iterable[str], *functions: Callable[..., Any]) -> None:
    """Raises a TypeError that names the nearest option where a keyword is none of a function's, nor of `Division`."""
    known = [name for f in functions for name, p in signature(f).parameters.items() if p.kind is p.KEYWORD_ONLY]
    known += Division.__annotations__
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"{near[0]!r} is the nearest of " if near else "they are "
            raise TypeError(
                f"{name}: expected an option of {' or '.join(f.__name__ for f in functions)}, got another; {meant}"
                f"{', '.join(dict.fromkeys(known))}"
            )


@final
class ArrayTasks(TaskSource):
    """Episodes from the points of T given tasks: each task's points are divided anew into support and query, at random.

    Args:
        points: all points of the T tasks (ragged tasks are padded).
        names: the tasks' names, T of them, of any type.
        batch: B, tasks in an episode, drawn without replacement; None for all T, always in the same order.
        shots: support points a task, or a range (low, high) from which each task's number is drawn, and lowered where a
            task has too few points to leave one for the query.
        queries: query points a task at most; None for all that are left.
        ordered: whether the division keeps the points' order, for forecasts: the support are a task's first points, and the
            query are the next ones.
        reach: ``(T, N + 1)`` whole numbers: of an ordered division, how many of the next points may be asked where 0, 1, ... N
            are known; a task's shots are drawn from those that leave one. None for all points.
        seed, length: see `TaskSource`.

    Raises:
        ValueError: a task has too few points to leave one for the query, or batch exceeds T.
    """

    columns: Columns
    """How a table became these tasks, where `tasks_from_frame` made them."""

    def __init__(
        self,
        points: Points,
        names: Sequence[Any],
        *,
        batch: int | None = None,
        shots: int | tuple[int, int] = 5,
        queries: int | None = None,
        ordered: bool = False,
        reach: Tensor | None = None,
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
        self.ordered = ordered
        self.reach = reach

    def members(self, index: int) -> Tensor:
        return self._chosen(self._generator(index))

    def _chosen(self, generator: torch.Generator) -> Tensor:
        tasks = len(self.names)
        with torch.device("cpu"):
            order = torch.arange(tasks) if self.batch is None else torch.randperm(tasks, generator=generator)
        return order[: self.batch]

    def draw(self, generator: torch.Generator) -> Episode:
        return self.divided(self._chosen(generator), generator)

    def divided(self, tasks: Tensor, generator: torch.Generator) -> Episode:
        """An episode of some of the tasks, by their numbers ``(B,)``, of which some may be the same."""
        given: Points = tree_map(lambda leaf: leaf[tasks], self.points)
        if self.reach is None:
            shots = shots_per_task(self.shots, len(tasks), generator).minimum(seen(given).sum(1) - 1)
            return split(given, shots, self.queries, generator, ordered=self.ordered)
        reach = self.reach[tasks]
        shots = possible(reach, self.shots).double().multinomial(1, generator=generator)
        most = reach.gather(1, shots)[:, 0].clamp(max=self.queries or reach.shape[1])
        return split(given, shots[:, 0], most, generator, ordered=True)


def tasks_from_arrays(
    x: Any,
    y: Any,
    task_ids: Any,
    *,
    classes: int | None = None,
    event_dims: int = 0,
    mask: Any = None,
    order: Any = None,
    horizon: Any = None,
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
        order: when each row was measured, ``(rows,)``, numbers, dates or ordered categories. The support is then always a
            task's earliest `shots` points, and the query the next ones, at most `queries`: forecasts. Rows of the same time
            keep their order. None divides at random.
        horizon: how far after the last known point forecasts go, in the unit of order, a duration where that has dates: no later
            points are asked. Shots are drawn from those numbers that leave a point within it; tasks that have none are left
            out, with a warning. None for all later points.
        whole: whether whole numbers in x stay what they are, as token ids must; else they become floating.
        dtype: floating type of the episodes; torch's default type at this call if None.
        division: batch, shots, queries, seed, length: see `ArrayTasks`.

    Raises:
        TypeError: there is no such option.
        ValueError: x, y, task_ids and order differ in length, a row has no time or one that cannot be compared, a value is not a
            number (see `tasks_from_frame`) or not finite, the floating type cannot hold the values, their squares or their
            variances, or tell those of one task apart, or a task has a single row.

    Example:
        >>> tasks = tasks_from_arrays([0.0, 1.0, 2.0, 3.0], [0, 1, 2, 3], ["a", "a", "b", "b"], shots=1)
        >>> tasks
        ArrayTasks(2 tasks of 2 to 2 points, shots=1)
    """
    check_options(division, tasks_from_arrays)
    dtype = dtype or torch.get_default_dtype()
    inputs, structure = tree_flatten_with_path(_trees(x, "x"))
    y, ids = _rows(y, "y"), as_names(task_ids)
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
    groups = rows_of(ids, "task_ids")
    names, rows = list(groups), list(groups.values())
    short = [place for place, mine in enumerate(rows) if len(mine) < 2]
    if short:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        raise ValueError(
            f"task_ids: expected at least two rows a task (one to learn from, one to be judged on), got one for "
            f"{names[short[0]]!r} (row {rows[short[0]][0]}){more}; drop the row or merge the task with another"
        )
    times = None if order is None else as_times(order, len(ids))
    rows = rows if times is None else in_time(rows, times)
    reach = None
    if horizon is not None:
        if times is None:
            raise ValueError(
                f"horizon: expected none without order, got {horizon!r}; say by order= when rows were measured"
            )
        there = [True] * len(ids) if mask is None else mask.flatten(1).any(1).tolist()
        moments = [times[[row for row in mine if there[row]]] for mine in rows]
        kept, reach = within(horizon, moments, division.get("shots", 5), names)
        names, rows = [names[place] for place in kept], [rows[place] for place in kept]
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
    return ArrayTasks(given, names, ordered=times is not None, reach=reach, **division)


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
