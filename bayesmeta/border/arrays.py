"""Users' values as tensors: what counts as a number, and what a floating type can hold of it."""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_inputs", "as_numbers", "as_tensor", "convert", "is_whole", "stack"]

Array = np.ndarray[Any, Any]

_HOURS = (
    'say which number counts, such as hours since the first: (t - t.min()) / np.timedelta64(1, "h"), with t.min()'
    ' or the first of each task, frame.groupby(task)[time].transform("min")'
)
_REMEDIES = {
    "a date": _HOURS,
    "a period": f"take a moment of each, t = t.dt.start_time, and {_HOURS}",
    "a duration": 'say in which unit, such as hours: t / np.timedelta64(1, "h")',
    "text": "convert it (pd.to_numeric; pd.to_datetime if they are dates), or number its values if they are classes",
    "a category": "say what it counts: .cat.codes if it is a label, .astype(float) if it is an amount, and pd.get_dummies for "
    "an input that is neither",
    "complex": "pass real and imaginary parts as two features",
}
_KINDS = {"M": "a date", "m": "a duration", "U": "text", "S": "text", "T": "text", "c": "complex"}


def as_tensor(value: Any, name: str) -> Tensor:
    """An array, series, frame, list or tensor of numbers as a tensor of its own type; on the CPU, unless it is a tensor.

    A frame is read column by column, so that columns may differ in type. Numbers are whole or floating, ``Decimal`` or
    ``Fraction``; true and false are 1 and 0; None and pandas' NA, among numbers, are NaN, which a check of values refuses by
    its place. Nothing else is a number: see `as_numbers`.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            _refuse(name, "numbers", f"{value.dtype}, complex numbers", "complex")
        if value.layout != torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got one of {value.layout}; pass it as t.to_dense()")
        return value
    first = value
    while isinstance(first, (list, tuple)) and len(first):
        first = first[0]
    if isinstance(first, Tensor) and first is not value:
        return torch.stack([as_tensor(one, name) for one in value])
    if hasattr(value, "columns"):
        array = stack([as_numbers(value[column], str(column), "a numeric column") for column in value.columns], name)
    else:
        array = as_numbers(value, name)
    return torch.from_numpy(
        np.require(array, requirements=["C", "W"])
    )  # torch takes neither read-only nor reversed ones


def as_inputs(x: Any, *, whole: bool, dtype: torch.dtype, name: str = "x") -> Any:
    """Inputs ``(n, *X)`` as a tensor, or a dictionary of such, nested or not, as a dictionary of tensors.

    Args:
        x: arrays, tensors or lists; rows come first.
        whole: whether whole numbers stay what they are, as ``torch.long``; else they become floating.
        dtype: the floating type.
        name: of the argument, for messages; entries of a dictionary are called ``x['key']``.
    """
    if isinstance(x, dict):
        if not x:
            raise ValueError(f"{name}: expected arrays by name, got an empty dictionary; leave it out")
        return {key: as_inputs(x[key], whole=whole, dtype=dtype, name=f"{name}[{key!r}]") for key in x}
    read = as_tensor(x, name)
    if read.dim() == 0:
        raise ValueError(f"{name}: expected at least one dimension (the rows), got a single number; pass a list")
    return read.long() if whole and is_whole(read) else convert([read], dtype, name)[0]


def is_whole(values: Tensor) -> bool:
    """Whether numbers are whole by their type; true and false are not."""
    return not values.is_floating_point() and values.dtype != torch.bool


def as_numbers(values: Any, name: str, expected: str = "numbers, an array, a tensor, or a list of these") -> Array:
    """An array, series or list as a native array of bool, int, uint8 or floating type up to float64.

    Raises:
        ValueError: it holds dates (with or without a time zone), periods, durations, categories (numeric ones too: whether they
            count or name is the user's to say), text (``"1.5"`` too, as Python reads ``"1_000"`` as 1000), complex numbers or
            other objects; a mask hides entries; or float64 cannot hold its whole numbers or tell its longer floats apart.
    """
    if str(getattr(values, "dtype", "")) == "category":
        _refuse(name, expected, "categories", "a category")
    if not isinstance(values, np.ndarray) and hasattr(values, "toarray"):  # one of scipy, such as TF-IDF
        raise ValueError(f"{name}: expected {expected}, got a sparse {type(values).__name__}; pass it as x.toarray()")
    if np.ma.isMaskedArray(values):
        if np.ma.getmaskarray(values).any():
            raise ValueError(
                f"{name}: expected {expected}, got a masked array that hides some entries; drop those points"
            )
        values = values.data
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: expected {expected}, got {type(values).__name__} that does not convert ({error}); make it an array first"
        ) from error
    kind = array.dtype.kind
    if kind == "O":
        array = _objects(array, name, expected)
    elif kind not in "biuf":
        _refuse(name, expected, str(array.dtype), _KINDS.get(kind, ""))
    elif kind == "f" and array.dtype.itemsize > 8:
        array = _shortened(array, name)
    elif kind == "u" and array.dtype.itemsize > 1:  # which torch hardly supports
        array = array.astype(np.int64) if array.max(initial=0) < 2**63 else _floating(array, name)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def stack(columns: Sequence[Array], name: str) -> Array:
    """Columns side by side, ``(N, D)``, in a type that holds each."""
    if len({column.shape for column in columns}) != 1:
        raise ValueError(
            f"{name}: expected columns of one length, at least one, got shapes {[c.shape for c in columns]}"
        )
    if np.result_type(*columns).kind == "f":
        columns = [_floating(column, name) if column.dtype.kind in "iu" else column for column in columns]
    return np.stack(columns, 1)


def _refuse(name: str, expected: str, got: str, kind: str) -> NoReturn:
    raise ValueError(f"{name}: expected {expected}, got {got}; {_REMEDIES.get(kind, 'convert it to numbers first')}")


def _objects(array: Array, name: str, expected: str) -> Array:
    """An array of Python objects as float64."""
    for element in array.flat:
        if isinstance(element, (datetime.timedelta, np.timedelta64)):  # numpy counts its own among the whole numbers
            kind = "a duration"
        elif isinstance(element, (numbers.Real, decimal.Decimal, np.bool_)) or (_missing(element) and array.ndim):
            continue
        elif isinstance(element, (datetime.date, np.datetime64)) or type(element).__name__ == "NaTType":
            kind = "a date"
        else:
            kind = {"Period": "a period"}.get(
                type(element).__name__, "text" if isinstance(element, (str, bytes)) else ""
            )
        _refuse(name, expected, f"{type(element).__name__} {str(element)[:40]!r}", kind)
    try:
        floats = np.array([np.nan if _missing(element) else float(element) for element in array.flat]).reshape(
            array.shape
        )
    except OverflowError as error:
        raise ValueError(
            f"{name}: expected numbers that float64 holds, got one beyond ({error}); change the unit"
        ) from error
    whole = np.array([isinstance(element, numbers.Integral) for element in array.flat], bool).reshape(array.shape)
    _check_whole(array[whole], floats[whole], name)
    return floats


def _missing(element: Any) -> bool:
    return element is None or type(element).__name__ == "NAType"


def _floating(whole: Array, name: str) -> Array:
    floats = whole.astype(np.float64)
    large = (whole > 2**53) | (whole < -(2**53))
    _check_whole(whole[large].astype(object), floats[large], name)
    return floats


def _check_whole(whole: Array, floats: Array, name: str) -> None:
    wrong = whole != floats.astype(object)  # Python compares whole and floating numbers exactly
    if wrong.any():
        raise ValueError(
            f"{name}: expected whole numbers that float64 holds, got {whole[wrong][0]}; subtract an offset first, or number "
            "them anew if they are names"
        )


def _shortened(array: Array, name: str) -> Array:
    """An array of longer floats as float64."""
    with np.errstate(over="ignore"):
        short = array.astype(np.float64)
    if (np.isinf(short) & ~np.isinf(array)).any() or len(np.unique(short)) < len(np.unique(array)):
        raise ValueError(
            f"{name}: expected numbers that float64 holds and can tell apart, got {array.dtype}; subtract an offset first, or "
            "change the unit"
        )
    return short


def convert(
    tasks: Sequence[Tensor] | Tensor, dtype: torch.dtype, name: str, names: Sequence[Any] | None = None
) -> list[Tensor]:
    """Each task's values ``(N, *E)`` in a floating type that is no worse for them.

    Within a task and a feature, recorded numbers (whole, or of up to three decimals) that differ must stay different. Of other
    numbers the distance of two neighbours may change by a twentieth of itself, or of the task's typical spread where that is
    more: of many measurements some agree to seven digits, and that is no reason to refuse them. The typical spread is the data's
    median distance of neighbours times their number, which neither an outlier nor a second cluster moves.

    Args:
        tasks: what to convert.
        dtype: the floating type.
        name: of the argument, for messages.
        names: of the tasks, for messages; None for their numbers.

    Raises:
        ValueError: dtype cannot hold a value, or not tell a task's values apart.
    """
    converted = [task.to(dtype) for task in tasks]
    lost: list[tuple[int, Tensor, Tensor]] = []  # the number of a task, its sorted values, the same in dtype
    for number, (task, kept) in enumerate(zip(tasks, converted, strict=True)):
        if task.dtype == dtype or torch.equal(kept.detach().to(task.dtype), task.detach()):
            continue
        values = task.detach().cpu().reshape(len(task), -1)
        kept = kept.detach().cpu().reshape(len(task), -1)
        beyond = values.isfinite() & ~kept.isfinite()
        if beyond.any():
            raise ValueError(
                f"{name}: expected numbers up to {torch.finfo(dtype).max:.2g}, the largest of {dtype}, got "
                f"{values[beyond][0].item():.3g} in task {_called(number, names)}; {_unit(dtype)}"
            )
        lost.append((number, values.sort(0).values, kept.sort(0).values.double()))  # rounding keeps the order
    if len({values.shape[1] for _, values, _ in lost}) != 1:
        return converted  # exactly; or tasks of different features, which are refused elsewhere
    gaps = [values.diff(dim=0).double() for _, values, _ in lost]
    size = torch.stack([values.double().abs().amax(0) for _, values, _ in lost]).amax(0)
    recorded = torch.stack([_recorded(values, size) for _, values, _ in lost]).all(0)
    rounding = torch.where(recorded, 5e-4, 1e-13 * size)  # by which equal numbers may differ in float64
    gaps = [gap.masked_fill(gap < rounding, 0) for gap in gaps]
    pooled = torch.cat(gaps)
    typical = pooled.masked_fill(pooled == 0, torch.nan).nanmedian(0).values if len(pooled) else size
    for (number, values, kept), gap in zip(lost, gaps, strict=True):
        error = (kept.diff(dim=0) - gap).abs()
        wrong = (gap > 0) & ((recorded & (error == gap)) | (error > 0.05 * gap.maximum(typical * len(gap))))
        if wrong.any():
            at, feature = wrong.nonzero()[0].tolist()
            a, b = (values[row, feature].item() for row in (at, at + 1))
            became = " and ".join(f"{kept[row, feature].item():.17g}" for row in (at, at + 1))
            raise ValueError(
                f"{name}: expected values that {dtype} can tell apart, got {a!r} and {b!r} in task "
                f"{_called(number, names)}, which become {became}; subtract an offset first (each task's earliest "
                f"date, say), {_unit(dtype)}"
            )
    return converted


def _recorded(values: Tensor, size: Tensor) -> Tensor:
    """Of which features ``(D,)`` all values have three decimals at most, but for the rounding of a float64 of that size."""
    values = values.double()
    return ((values - (values * 1000).round() / 1000).abs() <= 1e-15 * size).all(0)


def _called(task: int, names: Sequence[Any] | None) -> str:
    return repr(names[task]) if names else str(task)


def _unit(dtype: torch.dtype) -> str:
    double = ", or keep float64: dtype=torch.float64, and learner.double()" if dtype != torch.float64 else ""
    return f"change the unit{double}"
