"""A table's columns: what they are called, and whether they are columns at all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bayesmeta.border import check_count
from bayesmeta.tasks.cells import Level, plain

__all__ = ["check_columns", "labels_of", "listed", "names_of", "tuples"]


def names_of(frame: Any) -> list[Any]:
    """What the columns of a table are called.

    Raises:
        TypeError: it is no table.
    """
    table = hasattr(frame, "columns") and hasattr(frame, "__getitem__")
    if not table and not isinstance(frame, Mapping):
        raise TypeError(
            f"frame: expected a data frame (pandas, polars) or a mapping of columns, got {type(frame).__name__}; "
            "tasks_from_arrays takes arrays, and pd.read_csv files"
        )
    return list(frame.columns if table else frame.keys())


def listed(names: Any, role: str, there: list[Any]) -> list[Any]:
    """One name or several as a list; a MultiIndex names a column by a tuple.

    Raises:
        ValueError: they are no names, none, or one is there twice.
    """
    one = isinstance(names, str) or (isinstance(names, Hashable) and any(name is names for name in there))
    one = one or any(isinstance(name, tuple) and name == names for name in there) or not hasattr(names, "__iter__")
    several = [names] if one else list(names)
    twice = [name for place, name in enumerate(several) if name in several[:place]]
    if names is None or twice or not (several or role == "categorical"):
        got = "none" if names is None or not several else f"{twice[0]!r} twice"
        raise ValueError(
            f"{role}: expected at least one column, each once, got {got}; name some of {', '.join(map(str, there))}"
        )
    return several


def check_columns(frame: Any, names: Sequence[Any]) -> None:
    """Raises a ValueError unless each column has one entry a row, and all have as many.

    Args:
        frame: the table.
        names: of its columns.
    """
    shapes = {name: np.shape(frame[name]) if hasattr(frame[name], "shape") else _rows(frame[name]) for name in names}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
        said = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"frame: expected columns of one length, one entry a row, got shapes {said}; give every row one, and several "
            "numbers of a row columns of their own"
        )


def _rows(column: Any) -> tuple[int, ...]:
    """The shape of a column that is no array; entries of a list may be anything but lists of rows."""
    return (len(column),) if isinstance(column, Sequence) and not isinstance(column, str) else np.shape(column)


def labels_of(classes: int | Sequence[Level] | None) -> int | tuple[Level, ...] | None:
    """The number of classes, or their names."""
    if classes is None or isinstance(classes, (int, np.integer)):
        if classes is not None:
            check_count("classes", classes)
        return None if classes is None else int(classes)
    given = [] if isinstance(classes, str) or not hasattr(classes, "__iter__") else list(classes)
    labels = tuple(label for label in map(plain, given) if label is not None)
    if len(labels) < len(given) or len(set(labels)) < len(labels) or not labels:
        raise ValueError(
            f"classes: expected labels, each once, got {classes!r}; e.g. ['no', 'yes'], or the number of labels 0 to W - 1"
        )
    return labels


def tuples(value: Any) -> Any:
    """Lists, also within lists, as tuples."""
    return tuple(tuples(part) for part in value) if isinstance(value, (list, tuple)) else value
