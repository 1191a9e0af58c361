"""How a table's rows become numbers: which columns mean what, remembered for validation, test and prediction."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import numpy as np
import torch

from bayesmeta.border import stack
from bayesmeta.recorded import Setting
from bayesmeta.tasks.arrays import ArrayTasks, Division, check_options, tasks_from_arrays
from bayesmeta.tasks.cells import Array, Level, categories, count, is_category, read
from bayesmeta.tasks.tables import check_columns, labels_of, listed, names_of, tuples
from bayesmeta.tasks.times import as_names, moments

__all__ = ["Columns"]


@dataclass(frozen=True)
class Columns(Setting):
    """Which columns of a table mean what, and how they become numbers: `tasks_from_frame` reads it from the training table.

    It is ``tasks.columns``. By it rows of another table become numbers in the same way: ``columns.tasks(held)`` are tasks for
    validation and test, and `predict_frame` answers by it. It holds texts, numbers and tuples alone. Kept beside a saved learner,
    it is

        text = json.dumps(dataclasses.asdict(columns))
        columns = Columns(**json.loads(text))

    Args:
        task, x, y: the names of the columns that name tasks, of inputs and of targets.
        order: the name of the column of times, or None.
        classes: W, or the labels in the order of their numbers, or None for numbers.
        levels: of each of x the categories that training showed, each of which is a column of zeros and ones; None for numbers.
        fills: of each of x what stands in for a missing value (the training mean; for categories 0), beside a column that says
            where; None where training showed no missing one.
        missing: whether values may be missing.
        whole: whether whole numbers in x stay what they are.

    Example:
        >>> frame = {"plant": [1, 1, 2, 2], "soil": ["clay", "sand", "clay", "sand"], "water": [1, None, 3, 2], "y": range(4)}
        >>> columns = Columns.from_frame(frame, task="plant", x=["soil", "water"], y="y", categorical=["soil"], missing=True)
        >>> columns.features
        ['soil clay', 'soil sand', 'water', 'water missing']
        >>> columns.inputs(frame)[:2].tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 2.0, 1.0]]
    """

    task: tuple[Any, ...]
    x: tuple[Any, ...]
    y: tuple[Any, ...]
    order: Any = None
    classes: int | tuple[Level, ...] | None = None
    levels: tuple[tuple[Level, ...] | None, ...] = ()
    fills: tuple[float | None, ...] = ()
    missing: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # of JSON, which has lists alone
            several = (value,) if name in ("task", "x", "y") and isinstance(value, str) else tuples(value)
            object.__setattr__(self, name, several)
        for name in ("levels", "fills"):
            object.__setattr__(self, name, getattr(self, name) or (None,) * len(self.x))
            if len(getattr(self, name)) != len(self.x):
                raise ValueError(
                    f"{name}: expected one entry for each of {len(self.x)} inputs, got {len(getattr(self, name))}; "
                    "Columns.from_frame reads them from a table"
                )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        task: Sequence[str] | str,
        x: Sequence[str] | str,
        y: Sequence[str] | str,
        order: str | None = None,
        classes: int | Sequence[Level] | None = None,
        categorical: Sequence[str] | str = (),
        missing: bool = False,
        whole: bool = False,
    ) -> Columns:
        """Reads from a training table what has to be remembered of it: categories, means, and which inputs may be missing.

        Args:
            frame, task, x, y, order, classes, categorical, missing, whole: see `tasks_from_frame`.

        Raises:
            ValueError: as `tasks_from_frame`.
        """
        there = names_of(frame)
        named = {role: tuple(listed(value, role, there)) for role, value in (("task", task), ("x", x), ("y", y))}
        chosen = listed(categorical, "categorical", there)
        for name in chosen:
            if name not in named["x"]:
                raise ValueError(
                    f"categorical: expected some of x, got {name!r}; labels of y are named by classes=[...]"
                )
        for role, others, what in (
            ("x", ("y", "task"), "inputs beside the target and the task"),
            ("y", ("task",), "targets beside the task"),
        ):
            for name in named[role]:
                if any(name in named[other] for other in others):
                    raise ValueError(f"{role}: expected {what}, got {name!r} as both; leave it out of {role}")
        if order is not None and order in named["y"]:
            raise ValueError(
                f"order: expected a column of times beside the target, got {order!r} as both; name another"
            )
        labels = labels_of(classes)
        if labels is not None and len(named["y"]) > 1:
            raise ValueError(f"y: expected a single column of labels, with classes, got {named['y']}; name one")
        bare = cls(named["task"], named["x"], named["y"], order, labels, missing=missing, whole=whole)
        bare.check(frame, ("task", "x", "y", "order"))
        levels: list[tuple[Level, ...] | None] = []
        fills: list[float | None] = []
        for name in bare.x:
            shown = categories(frame[name], name) if name in chosen or is_category(frame[name]) else None
            gaps, values = read(frame[name], name, shown, f"categorical=[{name!r}]")
            if gaps.all():
                remedy = "leave it out of x" if len(gaps) else "check how the rows were selected"
                raise ValueError(f"{name}: expected some values, got none in {len(gaps)} rows; {remedy}")
            levels.append(shown)
            fills.append((0.0 if shown else float(values[~gaps].mean())) if missing and gaps.any() else None)
        return replace(bare, levels=tuple(levels), fills=tuple(fills))

    @property
    def features(self) -> list[str]:
        """The names of the D numbers of an input."""
        found = []
        for name, levels, fill in zip(self.x, self.levels, self.fills, strict=True):
            found += [f"{name} {level}" for level in levels] if levels is not None else [str(name)]
            found += [] if fill is None else [f"{name} missing"]
        return found

    @property
    def labels(self) -> list[Level]:
        """The labels in the order of their numbers; none where targets are numbers."""
        return list(range(self.classes)) if isinstance(self.classes, int) else list(self.classes or ())

    def inputs(self, frame: Any) -> Array:
        """The rows' inputs, ``(rows, D)``.

        Raises:
            ValueError: a column is missing, holds no numbers or infinity, or a value is missing where none was in training.
        """
        self.check(frame, ("x",))
        parts: list[Array] = []
        for name, levels, fill in zip(self.x, self.levels, self.fills, strict=True):
            gaps, values = read(frame[name], name, levels, f"categorical=[{name!r}]")
            if gaps.any() and fill is None:
                remedy = (
                    "none was missing in training, so nothing was learned of it: fill them in"
                    if self.missing
                    else "fill them in, drop those rows, or train with missing=True: a mean stands in, beside a column for it"
                )
                raise ValueError(f"{name}: expected a value in every row, got {count(gaps)} missing; {remedy}")
            if levels is not None:
                strange = (values < 0) & ~gaps
                if strange.any():
                    seen = sorted({str(value) for value in np.asarray(frame[name], dtype=object)[strange]})
                    warnings.warn(
                        f"{name}: expected categories of training, got others, {', '.join(seen[:5])}, in {count(strange)}; they "
                        "count as none of those, zeros in all of the columns",
                        stacklevel=2,
                    )
                parts += [(values == code).astype(np.int64) for code in range(len(levels))]
            else:
                parts.append(values if fill is None else np.where(gaps, fill, values))
            parts += [] if fill is None else [gaps.astype(np.int64)]
        return stack(parts, "x")

    def targets(self, frame: Any) -> tuple[Array, Array]:
        """The rows' targets ``(rows, Y)``, or numbers of labels ``(rows, 1)``, and which of them are there, bool of that shape.

        Raises:
            ValueError: a column is missing, holds no numbers or infinity, a label is none of the classes, or a value is missing.
        """
        self.check(frame, ("y",))
        known = self.classes if isinstance(self.classes, tuple) else None
        found = [read(frame[name], name, known, "classes=[...], their labels") for name in self.y]
        for name, (gaps, values) in zip(self.y, found, strict=True):
            if known is not None and (strange := (values < 0) & ~gaps).any():
                label = np.asarray(frame[name], dtype=object)[strange][0]
                raise ValueError(f"{name}: expected one of the classes {list(known)}, got {label!r}; add it to classes")
            if gaps.any() and not self.missing:
                raise ValueError(
                    f"{name}: expected a target in every row, got {count(gaps)} missing; drop those rows, or train with "
                    "missing=True: a row then counts for the targets that it has"
                )
        values = stack([np.where(gaps, 0, values) if gaps.any() else values for gaps, values in found], "y")
        return values, ~np.stack([gaps for gaps, _ in found], 1)

    def check_same(self, others: Columns) -> None:
        """Raises a ValueError where other columns become other numbers: what was learned of these would be asked of those."""
        for role in ("x", "levels", "y", "classes", "features"):
            mine, theirs = getattr(self, role), getattr(others, role)
            if mine != theirs:
                what = "x (and what may be missing)" if role == "features" else role
                raise ValueError(
                    f"tasks: expected columns that become numbers as in training, {what}={mine!r}, got {theirs!r}; make them by "
                    "learner.columns.tasks(frame, shots=...)"
                )

    def names(self, frame: Any) -> Array:
        """The rows' tasks, ``(rows,)`` of the column's values, or of tuples where several columns name a task."""
        self.check(frame, ("task",))
        parts = [np.asarray(frame[name], dtype=object) for name in self.task]
        found = np.empty(len(parts[0]), dtype=object)
        found[:] = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))  # of tuples numpy would make rows
        return found

    def tasks(
        self, frame: Any, *, horizon: Any = None, dtype: torch.dtype | None = None, **division: Unpack[Division]
    ) -> ArrayTasks:
        """The tasks of a table, such as those held out for validation or test, as numbers like those of training.

        Args:
            frame: the table, with all columns.
            horizon, dtype: see `tasks_from_arrays`.
            division: batch, shots, queries, seed, length: see `ArrayTasks`.

        Raises:
            TypeError: there is no such option, or the columns say it.
            ValueError: as `tasks_from_frame`.
        """
        for name in division:
            if name in vars(self):
                raise TypeError(
                    f"{name}: expected how tasks are divided, got what the columns say, {name}={getattr(self, name)!r}; leave it "
                    "out, or make other columns by tasks_from_frame"
                )
        check_options(division, self.tasks)
        self.check(frame, ("order",))
        x, (y, known), names = self.inputs(frame), self.targets(frame), self.names(frame)
        order = None if self.order is None else as_names(moments(frame[self.order]))
        kept = np.asarray(known.any(1))
        if not kept.all():
            warnings.warn(
                f"{', '.join(map(str, self.y))}: {count(~kept)} of {len(kept)} have no target, and are left out",
                stacklevel=2,
            )
            x, y, known, names, order = (
                x[kept],
                y[kept],
                known[kept],
                names[kept],
                None if order is None else order[kept],
            )
        tasks = tasks_from_arrays(
            x,
            y[:, 0] if len(self.y) == 1 else y,
            names,
            mask=None if known.all() else known,
            order=order,
            horizon=horizon,
            classes=len(self.labels) or None,
            whole=self.whole,
            dtype=dtype,
            **division,
        )
        tasks.columns = self
        return tasks

    def check(self, frame: Any, roles: Sequence[Literal["task", "x", "y", "order"]]) -> None:
        """Raises a ValueError if a table lacks a column, has it twice, or columns differ in length."""
        there = names_of(frame)
        index = list(getattr(getattr(frame, "index", None), "names", []))  # of a panel's rows
        mine = {role: getattr(self, role) for role in roles if role != "order" or self.order is not None}
        mine |= {"order": (self.order,)} if "order" in mine else {}
        for role, names in mine.items():
            for name in names:
                if there.count(name) > 1:
                    raise ValueError(
                        f"{role}: expected one column named {name!r}, got {there.count(name)}; rename them"
                    )
                if name not in there:
                    remedy = (
                        "it is a level of the index: pass frame.reset_index()"
                        if name in index
                        else "choose one of them"
                    )
                    raise ValueError(
                        f"{role}: expected a column of the frame, got {name!r}; its columns are "
                        f"{', '.join(map(str, there))}; {remedy}"
                    )
        check_columns(frame, [name for names in mine.values() for name in names])
