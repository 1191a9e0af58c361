"""When rows were measured, and what they are called: times and names of any type."""

from __future__ import annotations

import datetime
import math
import re
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_names", "as_times", "in_time", "missing", "moments", "past", "possible", "rows_of", "within"]


def as_names(task_ids: Any) -> Any:
    """One id a row; those of a list keep their own types, as numpy would make strings of numbers beside strings."""
    if isinstance(task_ids, Tensor):
        task_ids = task_ids.detach().cpu().numpy()
    if not isinstance(task_ids, (list, tuple)):
        return np.asarray(task_ids)
    ids = np.empty(len(task_ids), dtype=object)
    for row, name in enumerate(task_ids):  # at once tuples would become rows
        ids[row] = name
    return ids


def missing(task: Any) -> bool:
    """Whether a task's name, or a part of it, or a time, is NaN, None or NA."""
    if isinstance(task, tuple):
        return any(map(missing, task))
    return task is None or type(task).__name__ in ("NAType", "NaTType") or bool(task != task)


def rows_of(names: Any, argument: str) -> dict[Any, list[int]]:
    """The rows of each task by its name, in the order in which tasks appear.

    Raises:
        ValueError: a row has no name, or one that cannot be looked up, such as a list.
    """
    groups: dict[Any, list[int]] = {}
    row = 0
    try:
        for row, task in enumerate(names):
            groups.setdefault(task, []).append(row)
    except TypeError as error:
        raise ValueError(
            f"{argument}: expected names that can be looked up, got {names[row]!r} in row {row} ({error}); give texts, numbers "
            "or tuples"
        ) from error
    for task, mine in groups.items():
        if missing(task):
            raise ValueError(
                f"{argument}: expected a task for every row, got {task} in row {mine[0]}; drop the row or fill in its task"
            )
    return groups


def as_times(order: Any, count: int) -> Any:
    """When each row was measured, ``(rows,)``; numbers in the widest type, in which a horizon can be added."""
    times = as_names(moments(order))
    if times.shape != (count,):
        raise ValueError(
            f"order: expected a time for each of {count} rows, got shape {times.shape}; give every row one"
        )
    kind = times.dtype.kind
    gaps = np.array([missing(time) for time in times], dtype=bool) if kind == "O" else times != times
    if gaps.any():
        row = int(gaps.argmax())
        raise ValueError(
            f"order: expected a time for every row, got {times[row]} in row {row}; drop the row or fill it in"
        )
    text = next((time for time in times if isinstance(time, (str, bytes))), None) if kind == "O" else None
    if text is not None or kind in "USTc":
        raise ValueError(
            f"order: expected times that can be compared, numbers or dates, got {times[0] if text is None else text!r}; text is "
            "sorted by its letters, '10' before '2': convert it by pd.to_numeric(...), dates by pd.to_datetime(..., utc=True), "
            "or make an ordered category of it"
        )
    if kind in "biuf":
        times = times.astype(np.float64 if kind == "f" else object if times.dtype == np.uint64 else np.int64)
    endless = (
        [row for row, time in enumerate(times) if isinstance(time, float) and math.isinf(time)] if kind in "fO" else []
    )
    if endless:
        raise ValueError(
            f"order: expected finite times, got {times[endless[0]]} in row {endless[0]}; drop the row or give it its time"
        )
    return times


def moments(column: Any) -> Any:
    """Times as they are; those with a time zone as the moments that they are, and of ordered categories their numbers.

    A column whose entries have zones of their own becomes one of moments too, so that a horizon can be added to it.
    """
    categories = getattr(column, "cat", column)
    if getattr(categories, "ordered", False) is True and hasattr(categories, "codes"):
        codes = np.asarray(categories.codes)
        return np.where(codes < 0, np.nan, codes)
    zone = getattr(getattr(column, "dtype", None), "tz", None)
    if zone is not None:
        return np.asarray(column, dtype="datetime64[ns]")
    times = as_names(column)
    if times.dtype.kind != "O" or times.ndim != 1 or not all(map(_zoned, times)):
        return column
    return np.array([_moment(time) for time in times])


def _zoned(time: Any) -> bool:
    return isinstance(time, datetime.datetime) and not missing(time) and time.utcoffset() is not None


def _moment(time: datetime.datetime) -> Any:
    """A date with a zone, also of pandas, which keeps nanoseconds, as a moment."""
    exact = time.to_datetime64() if hasattr(time, "to_datetime64") else None
    return np.datetime64(time.astimezone(datetime.UTC).replace(tzinfo=None)) if exact is None else exact


def in_time(rows: list[list[int]], times: Any) -> list[list[int]]:
    """Each task's rows by when they were measured; those of one time as they stand."""
    try:
        return [[mine[at] for at in times[mine].argsort(kind="stable")] for mine in rows]
    except TypeError as error:
        raise ValueError(
            f"order: expected times that can be compared, got others ({error}); bring them to one type and time zone"
        ) from error


def within(
    horizon: Any, times: Sequence[Any], shots: int | tuple[int, int], names: Sequence[Any]
) -> tuple[list[int], Tensor]:
    """Which tasks have a point to ask within a horizon, and how many next points lie within it.

    Args:
        horizon: how far after the last known point, or where none is known, after the first one.
        times: of each task's points ``(N,)``, sorted.
        shots: how many points may be known.
        names: of the tasks, for messages.

    Returns:
        The places of tasks that have one; and of these ``(tasks, most N + 1)``, how many where 0, 1, ... N points are known.

    Raises:
        ValueError: no task has one, or the horizon has another type than times.

    Warns:
        UserWarning: some tasks have none.
    """
    found = torch.zeros(len(times), 1 + max(map(len, times)), dtype=torch.long)
    for task, mine in enumerate(times):
        try:
            last = mine[np.arange(len(mine)).clip(min=1) - 1]
            reached = np.searchsorted(mine, last + _length(horizon, mine), side="right") - np.arange(len(mine))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"horizon: expected a length in the unit of order, or of dates a duration such as '30D' or "
                f"datetime.timedelta(days=30), got {horizon!r} ({error})"
            ) from error
        found[task, : len(mine)] = torch.from_numpy(reached)
    near = possible(found, shots).any(1)
    if not near.all():
        far, many = names[int(near.int().argmin())], int((~near).sum())
        told = f"{many} of {len(names)} tasks, such as {far!r}, have no point within {horizon} after {shots} shots"
        if not near.any():
            raise ValueError(f"horizon: expected a point within it in some task, got none: {told}; lengthen it")
        warnings.warn(f"horizon: {told}, and are left out; lengthen it, or give a range of shots", stacklevel=2)
    return near.nonzero()[:, 0].tolist(), found[near]


def _length(horizon: Any, times: Any) -> Any:
    """A horizon in a type that these times take, or a TypeError: numpy adds whole numbers to dates, as nanoseconds or years."""
    horizon = _duration(horizon) if isinstance(horizon, str) else horizon
    kind, lasts = times.dtype.kind, isinstance(horizon, (datetime.timedelta, np.timedelta64))
    if missing(horizon):
        raise TypeError("no length")
    if kind in "Mm":
        if not lasts:
            raise TypeError("times are dates" if kind == "M" else "times are durations")
        return horizon.to_timedelta64() if hasattr(horizon, "to_timedelta64") else np.timedelta64(horizon)
    if kind in "if" and (lasts or not isinstance(horizon, Real)):
        raise TypeError("times are numbers")
    return horizon.astype("m8[us]").item() if isinstance(horizon, np.timedelta64) else horizon


def past(known: Any, asked: Any, rows: dict[Any, list[int]], wanted: dict[Any, list[int]]) -> list[Any]:
    """The names of tasks of which a row is asked that lies before one that is known; none, where times are not to be compared.

    Args:
        known, asked: the times of two tables.
        rows, wanted: each task's rows in them.
    """
    try:
        then, now = (as_times(times, len(times)) for times in (known, asked))
        return [name for name in wanted if rows.get(name) and min(now[wanted[name]]) < max(then[rows[name]])]
    except (TypeError, ValueError):
        return []


_UNITS: dict[str, Any] = {"w": "W", "d": "D", "h": "h", "min": "m", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
"""Of durations in texts, and numpy's names for them. A month has no length, and "m" might be one."""


def _duration(text: str) -> Any:
    """A text such as "7D" as a duration."""
    found = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]+)\s*", text)
    if found is None or (unit := _UNITS.get(found[2].lower())) is None:
        raise TypeError(f"no length; a text is a whole number and one of {', '.join(_UNITS)}")
    return np.timedelta64(int(found[1]), unit)


def possible(reach: Tensor, shots: int | tuple[int, int]) -> Tensor:
    """Which numbers of known points are among the shots and leave a point within reach, of the shape of reach."""
    low, high = shots if isinstance(shots, (tuple, list)) else (shots, shots)
    known = torch.arange(reach.shape[-1])
    return (known >= low) & (known <= high) & (reach > 0)
