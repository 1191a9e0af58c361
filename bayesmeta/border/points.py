"""`points`: what users have of one task or several, padded, cast and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_map, tree_unflatten

from bayesmeta.border.arrays import as_tensor, convert, is_whole
from bayesmeta.border.checks import check, check_count
from bayesmeta.border.values import check_bytes
from bayesmeta.data import Points

__all__ = ["points"]


def points(
    x: Any,
    y: Any,
    *,
    classes: int | None = None,
    event_dims: int = 0,
    mask: Any = None,
    whole: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Points:
    """Makes `Points` of one task, or of a list of tasks that may differ in length.

    Args:
        x: one task's inputs, ``(N,)`` or ``(N, *X)``, as an array, a tensor or a list of numbers; or a list
            of such arrays, one a task (a list is a list of tasks only if its elements have a dimension; a tensor ``(B, N, F)``
            is one task whose points have two dimensions, and ``list(x)`` is B tasks).
            ``(N,)`` is read as one feature, ``*X = (1,)``. Or a dictionary, nested or not, whose leaves are all this, or a list
            of dictionaries, one a task; each leaf is padded by itself.
        y: targets in the same form. For regression ``(N,)`` is read as ``*Y = (1,)``.
        classes: the number W of classes; y then holds the labels 0 to W - 1. None means regression, and
            whole numbers in y are converted to floating point.
        event_dims: how many dimensions the labels of one point have: 0 for one label, 1 for a sequence of tokens, 2 for the
            pixels of a picture; y is then ``(N, *Y)``. It is 0 for regression, whose targets may have any shape.
        mask: which entries of y are observed, bool, of the form and shape of y; None for all. Others may hold anything, such
            as NaN or -100, and become zeros.
        whole: whether whole numbers in x stay what they are, ``torch.long``, as token ids must; else they become floating.
        dtype: floating type of the result; torch's default type if None.
        device: where the result lives; the CPU if None.

    Raises:
        ValueError: x and y differ in tasks or points, tasks differ in their event shapes, a value is NaN
            or infinite, a label is outside 0 to W - 1, the mask has another shape than y, x holds pictures as bytes,
            something is not a number (dates, categories, text: see `tasks_from_frame`), or the floating type cannot hold the
            values or tell those of one task apart.

    Example:
        >>> support = points([0.0, 1.0, 2.0], [0.1, 0.9, 2.1])
        >>> support.x.shape, support.y.shape
        (torch.Size([1, 3, 1]), torch.Size([1, 3, 1]))
        >>> ragged = points([torch.rand(3, 2), torch.rand(5, 2)], [torch.tensor([0, 1, 1]), torch.zeros(5)], classes=2)
        >>> ragged.mask.sum(1)
        tensor([3, 5])
        >>> words, tags = torch.tensor([[5, 2, 0]]), torch.tensor([[1, 1, -100]])
        >>> tags = points({"words": words}, tags, classes=2, event_dims=1, mask=tags >= 0, whole=True)
        >>> tags.x["words"].dtype, tags.y[0]
        (torch.int64, tensor([[1, 1, 0]]))
    """
    return assemble(
        _inputs(x, "x"),
        _tasks(y, "y"),
        classes=classes,
        event_dims=event_dims,
        masks=None if mask is None else _tasks(mask, "mask"),
        whole=whole,
        dtype=dtype,
        device=device,
    )


def assemble(
    xs: Sequence[Any],
    ys: Sequence[Tensor],
    *,
    classes: int | None = None,
    event_dims: int = 0,
    masks: Sequence[Tensor] | None = None,
    whole: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    names: Sequence[Any] | None = None,
) -> Points:
    """`points` of tasks that are tensors (x: trees of them) already; messages call the tasks by their names, or by number."""
    if classes is not None:
        check_count("classes", classes)
    check_count("event_dims", event_dims, least=0)
    dtype = dtype or torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"dtype: expected a floating type of torch, got {dtype!r}; labels are given as such by classes=W"
        )
    if len(xs) != len(ys):
        raise ValueError(
            f"x and y: expected as many tasks in both, got {len(xs)} in x and {len(ys)} in y; "
            "pass two lists of equal length, one array a task; a single task of several inputs as one array, torch.tensor(x)"
        )
    if masks is not None:
        ys = _blanked(ys, masks)
    if classes is None:
        ys = [_column(a).to(device) for a in convert(ys, dtype, "y", names)]
    else:
        ys = [_labels(a, classes, event_dims, b).to(device) for b, a in enumerate(ys)]
    structure = tree_flatten(xs[0])[1]
    flat = [_in_order(task, xs[0], b) for b, task in enumerate(xs)]
    leaves = []
    for i, (path, _) in enumerate(tree_flatten_with_path(xs[0])[0]):
        name, column = "x" + keystr(path), [leaves[i] for leaves in flat]
        for b, (a, t) in enumerate(zip(column, ys, strict=True)):
            check_bytes(a, dimensions=2)
            if len(a) != len(t):
                raise ValueError(
                    f"{name} and y of task {b}: expected the same number of points, got {len(a)} in {name} and {len(t)} in y; "
                    "give every point an input and a target"
                )
        kept = [a.long() for a in column] if whole and _are_whole(column) else convert(column, dtype, name, names)
        leaves.append(_pad([_column(a).to(device) for a in kept], name))
    mask = (
        _mask([len(t) for t in ys])
        if masks is None
        else _pad([_column(m) if classes is None else m for m in masks], "mask")
    )
    padded = Points(tree_unflatten(leaves, structure), _pad(ys, "y"), mask.to(device))
    check(padded)
    return padded


def _in_order(task: Any, first: Any, number: int) -> list[Tensor]:
    """A task's inputs in the order in which the first task has them."""
    try:
        return tree_leaves(tree_map(lambda _, leaf: leaf, first, task))
    except ValueError:
        known, given = ([keystr(path) or "an array" for path, _ in tree_flatten_with_path(x)[0]] for x in (first, task))
        raise ValueError(
            f"x of task {number}: expected a dictionary with the keys of task 0, {', '.join(known)}, got {', '.join(given)}; "
            "give all tasks the same inputs"
        ) from None


def _are_whole(tasks: Sequence[Tensor]) -> bool:
    """Whether the numbers of tasks are whole; a task without a number says nothing, unless all are so."""
    return all(map(is_whole, [task for task in tasks if task.numel()] or tasks))


def _blanked(ys: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Targets with zeros where they are not observed."""
    masks = [m if m.numel() else m.bool() for m in masks]
    shapes, expected = [tuple(m.shape) for m in masks], [tuple(t.shape) for t in ys]
    if shapes != expected or any(m.dtype != torch.bool for m in masks):
        raise ValueError(
            f"mask: expected true or false for each entry of y, of shape {expected}, a task each, got "
            f"{[str(m.dtype) for m in masks]} of {shapes}; give it the form of y"
        )
    return [t.masked_fill(~m.to(t.device), 0) for t, m in zip(ys, masks, strict=True)]


def _inputs(x: Any, name: str) -> list[Any]:
    """The inputs of one task, or of a list of them: tensors, or dictionaries of tensors."""
    if isinstance(x, (list, tuple)) and any(isinstance(task, dict) for task in x):
        if not all(isinstance(task, dict) for task in x):
            raise ValueError(
                f"{name}: expected a dictionary for every task, got other things too; give all the same form"
            )
        return [one for b, task in enumerate(x) for one in _one(_inputs(task, name), f"{name} of task {b}")]
    if not isinstance(x, dict):
        return list(_tasks(x, name))
    if not x:
        raise ValueError(f"{name}: expected arrays by name, got an empty dictionary; give it an entry")
    leaves = {key: _inputs(value, f"{name}[{key!r}]") for key, value in x.items()}
    counts = {key: len(tasks) for key, tasks in leaves.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{name}: expected as many tasks in every entry, got {counts}; pass lists of equal length")
    return [dict(zip(leaves, tasks, strict=True)) for tasks in zip(*leaves.values(), strict=True)]


def _one(tasks: list[Any], name: str) -> list[Any]:
    if len(tasks) != 1:
        raise ValueError(f"{name}: expected arrays of one task, got lists of {len(tasks)}; make each list an array")
    return tasks


def _tasks(value: Any, name: str) -> list[Tensor]:
    """One task, or a list of them, as a list of tensors with at least one dimension."""
    ragged = isinstance(value, (list, tuple)) and len(value) > 0 and all(_dimensions(v) > 0 for v in value)
    tensors = [_numbers(v, name) for v in value] if ragged else [_numbers(value, name)]
    if tensors[0].dim() == 0:
        raise ValueError(
            f"{name}: expected at least one dimension (the points), got a single number; pass a list of numbers"
        )
    return tensors


def _numbers(value: Any, name: str) -> Tensor:
    """As `as_tensor`, but an empty list, which has no type of its own, as whole numbers, of which others can be made."""
    if isinstance(value, (list, tuple)) and not value:
        return torch.zeros(0, dtype=torch.long, device="cpu")
    return as_tensor(value, name)


def _dimensions(value: Any) -> int:
    return 1 if isinstance(value, (list, tuple, range)) else int(getattr(value, "ndim", 0))


def _column(values: Tensor) -> Tensor:
    return values[:, None] if values.dim() == 1 else values


def _labels(y: Tensor, classes: int, event_dims: int, task: int) -> Tensor:
    labels = y.long()
    wrong = (labels != y) | (labels < 0) | (labels >= classes)
    if y.dim() != 1 + event_dims:
        wanted = ", ".join(["N", *["..."] * event_dims]) + ("" if event_dims else ",")
        raise ValueError(
            f"y of task {task}: expected labels of shape ({wanted}), got {tuple(y.shape)}; pass class indices, not one-hot rows, "
            "and say event_dims=1 (2 for pictures) if a point has several labels"
        )
    if wrong.any():
        point, *entry = place = tuple(wrong.nonzero()[0].tolist())
        within = f", entry {tuple(entry)}" if entry else ""
        raise ValueError(
            f"y: expected labels 0 to {classes - 1} (classes={classes}), got {y[place].item()} at task {task}, point {point}"
            f"{within}; number the classes from 0, or raise classes; what is not observed is said by mask="
        )
    return labels


def _pad(tasks: Sequence[Tensor], name: str) -> Tensor:
    event = tasks[0].shape[1:]
    for b, task in enumerate(tasks):
        if task.shape[1:] != event:
            raise ValueError(
                f"{name} of task {b}: expected the event shape {tuple(event)} of task 0, got {tuple(task.shape[1:])}; "
                "give all tasks the same features"
            )
    longest = max(1, *(len(task) for task in tasks))
    try:
        padded = tasks[0].new_zeros(len(tasks), longest, *event)
    except RuntimeError as error:
        size = len(tasks) * longest * max(1, tasks[0][:1].nbytes) / 1e9
        raise ValueError(
            f"{name}: expected tasks that memory holds, padded to the longest, got {len(tasks)} of up to {longest} points, "
            f"{size:.0f} GB; take some of the rows of long tasks, or drop those"
        ) from error
    for b, task in enumerate(tasks):
        padded[b, : len(task)] = task
    return padded


def _mask(lengths: Sequence[int]) -> Tensor:
    ends = torch.tensor(lengths, device="cpu")
    return torch.arange(max(1, *lengths), device="cpu") < ends[:, None]
