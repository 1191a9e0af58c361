"""What stands in a column of a table: numbers, categories, times, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesmeta.border import as_numbers
from bayesmeta.tasks.times import missing

__all__ = ["Level", "categories", "count", "is_category", "plain", "read"]

Array = np.ndarray[Any, Any]
Level = str | int | float | bool
"""A category, or a label."""


def is_category(column: Any) -> bool:
    """Whether a column is of categories by its type."""
    return str(getattr(column, "dtype", "")).lower().startswith(("category", "categorical", "enum"))


def plain(value: Any) -> Level | None:
    """A category as text, a number or a truth value; None where it is missing."""
    if missing(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _distinct(values: Array, name: Any) -> dict[Any, None]:
    """The values of a column of objects, each once, as the keys of a dictionary: a NaN is the same key as itself alone."""
    try:
        return dict.fromkeys(values)
    except TypeError as error:
        raise ValueError(
            f"{name}: expected categories, texts or numbers, got others ({error}); make texts of them"
        ) from error


def categories(column: Any, name: Any) -> tuple[Level, ...]:
    """The categories that a column of a name shows, in the order of the type, or else sorted."""
    values = map(plain, _distinct(np.asarray(column, dtype=object), name))
    shown = dict.fromkeys(value for value in values if value is not None)
    declared = getattr(getattr(column, "cat", None), "categories", None)
    if declared is not None and not callable(declared):
        return tuple(level for level in map(plain, declared) if level in shown)
    return tuple(sorted(shown, key=lambda level: (isinstance(level, str), level)))


def read(column: Any, name: Any, levels: Sequence[Level] | None, names: str) -> tuple[Array, Array]:
    """Where a column has no value, and its values ``(rows,)``: numbers, or which of the levels, -1 for none of them.

    Args:
        column, name: the column, and what it is called.
        levels: the categories or labels, None for numbers.
        names: how to say that its texts are names, for messages.
    """
    if levels is not None:
        codes: dict[Level | None, int] = {level: code for code, level in enumerate(levels)}
        values = np.asarray(column, dtype=object)
        known = {value: -2 if missing(value) else codes.get(plain(value), -1) for value in _distinct(values, name)}
        found = np.array([known[value] for value in values], dtype=np.int64)
        return found == -2, found.clip(min=-1)
    try:
        numbers = as_numbers(column, str(name), "a numeric column")
    except ValueError as error:
        if not any(isinstance(value, str) for value in np.asarray(column, dtype=object)):
            raise
        raise ValueError(f"{error}; if they are names, say {names}") from None
    if numbers.ndim != 1:
        raise ValueError(f"{name}: expected one number a row, got shape {numbers.shape}; make a column of each")
    if np.isinf(numbers).any():
        raise ValueError(
            f"{name}: expected finite numbers, got {count(np.isinf(numbers))} of infinity; drop those rows, or cap the values"
        )
    return np.isnan(numbers), numbers


def count(rows: Array) -> str:
    """How many rows, and where the first is."""
    return f"{int(rows.sum())} {'row' if rows.sum() == 1 else 'rows'} (the first is row {int(rows.argmax())})"
