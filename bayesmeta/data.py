"""Points and episodes: what learners read.

Shapes, here and everywhere: B tasks, N support points, M query points, S draws, R task-encoding size,
W ways (classes); ``*X``, ``*Y``, ``*O`` are the event shapes of inputs, targets and network outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_map, tree_unflatten

from bayesmeta.border import as_tensor, check_bytes, check_values, convert, is_whole

__all__ = [
    "Episode",
    "Points",
    "check",
    "check_count",
    "check_positive",
    "concatenate",
    "move",
    "observed",
    "points",
    "seen",
    "split",
]

T = TypeVar("T")


class Points(NamedTuple):
    """The observed points of B tasks, padded to the longest task.

    Attributes:
        x: inputs ``(B, N, *X)``, or a pytree of such tensors: floating, or ``torch.long`` for tokens and indices.
        y: targets ``(B, N, *Y)``: floating for regression, ``torch.long`` labels for classes (``*Y`` empty for one a point).
        mask: ``(B, N)`` bool, true where a point is observed; or ``(B, N, *Y)``, true where an entry of its target is. What is
            not observed is zero in y, and in x where it is a whole point.

    N is at least 1: an empty support is one masked row. Build it with :func:`points`, which also checks it.
    """

    x: Any
    y: Tensor
    mask: Tensor


class Episode(NamedTuple):
    """B tasks, each with a support to learn from and a query to be judged on."""

    support: Points
    query: Points


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
            of such arrays, one a task (a list is a list of tasks only if its elements have a dimension).
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
    names: Sequence[str] | None = None,
) -> Points:
    """`points` of tasks that are tensors (x: trees of them) already; messages call the tasks by their names, or by number."""
    if classes is not None:
        check_count("classes", classes)
    check_count("event_dims", event_dims, least=0)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating type, got {dtype}; labels are given as such by classes=W")
    if len(xs) != len(ys):
        raise ValueError(
            f"x and y: expected as many tasks in both, got {len(xs)} in x and {len(ys)} in y; "
            "pass two lists of equal length, one array a task"
        )
    if masks is not None:
        ys = _blanked(ys, masks)
    if classes is None:
        ys = [_column(a).to(device) for a in convert(ys, dtype, "y", names)]
    else:
        ys = [_labels(a, classes, event_dims, b).to(device) for b, a in enumerate(ys)]
    flat = [tree_flatten(task) for task in xs]
    for b, (_, structure) in enumerate(flat):
        if structure != flat[0][1]:
            raise ValueError(
                f"x of task {b}: expected a dictionary with the keys of task 0, got another structure, {structure}; give all "
                "tasks the same inputs"
            )
    leaves = []
    for i, (path, _) in enumerate(tree_flatten_with_path(xs[0])[0]):
        name, column = "x" + keystr(path), [leaves[i] for leaves, _ in flat]
        for b, (a, t) in enumerate(zip(column, ys, strict=True)):
            check_bytes(a, dimensions=2)
            if len(a) != len(t):
                raise ValueError(
                    f"{name} and y of task {b}: expected the same number of points, got {len(a)} in {name} and {len(t)} in y; "
                    "give every point an input and a target"
                )
        kept = (
            [a.long() for a in column] if whole and all(map(is_whole, column)) else convert(column, dtype, name, names)
        )
        leaves.append(_pad([_column(a).to(device) for a in kept], name))
    mask = (
        _mask([len(t) for t in ys])
        if masks is None
        else _pad([_column(m) if classes is None else m for m in masks], "mask")
    )
    padded = Points(tree_unflatten(leaves, flat[0][1]), _pad(ys, "y"), mask.to(device))
    check(padded)
    return padded


def _blanked(ys: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Targets with zeros where they are not observed."""
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
    tensors = [as_tensor(v, name) for v in value] if ragged else [as_tensor(value, name)]
    if tensors[0].dim() == 0:
        raise ValueError(
            f"{name}: expected at least one dimension (the points), got a single number; pass a list of numbers"
        )
    return tensors


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
    padded = tasks[0].new_zeros(len(tasks), longest, *event)
    for b, task in enumerate(tasks):
        padded[b, : len(task)] = task
    return padded


def _mask(lengths: Sequence[int]) -> Tensor:
    ends = torch.tensor(lengths, device="cpu")
    return torch.arange(max(1, *lengths), device="cpu") < ends[:, None]


def check(given: Points | Episode, name: str = "points", like: nn.Module | None = None) -> None:
    """Raises a ValueError that names what is wrong with the shapes, types or values of points or an episode.

    It reads every value, so it stands where data enter (`points`, the first episode of `fit` and `evaluate`).

    Args:
        given: the points.
        name: of the argument, for messages.
        like: the module to whose floating type `move` will take the values; it must be able to tell them apart.

    Example:
        >>> check(Points(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), torch.ones(2, 4, dtype=torch.bool)))
        Traceback (most recent call last):
        ...
        ValueError: points.x: expected shape (B, N, ...) = (2, 4, ...) as the mask has, got (2, 3, 1); ...
    """
    if isinstance(given, Episode):
        check(given.support, "support", like)
        check(given.query, "query", like)
        if given.support.mask.shape[0] != given.query.mask.shape[0]:
            raise ValueError(
                f"episode: expected as many tasks in support and query, got {given.support.mask.shape[0]} and "
                f"{given.query.mask.shape[0]}; build both from the same tasks in the same order"
            )
        empty = (~seen(given.query).any(1)).nonzero()
        if len(empty):
            raise ValueError(
                f"query: expected at least one point a task, got none in task {int(empty[0, 0])}; "
                "leave out the task or give it fewer support points"
            )
        return
    check_shapes(given, name)
    for field, value in (("x", given.x), ("y", given.y)):
        for leaf in tree_leaves(value):
            check_values(leaf, f"{name}.{field}")
    if not given.y.is_floating_point() and (given.y < 0).any():
        raise ValueError(
            f"{name}.y: expected labels from 0 on, got {int(given.y.min())}; number each task's classes from 0"
        )
    if like is not None:
        check_type(given, like, name)


def check_type(given: Points, like: nn.Module, name: str = "points") -> None:
    """Raises a ValueError if the module's floating type cannot tell the points apart, for example of a learner in float32."""
    reference = _reference(like)
    if reference is None:
        return
    for field, value in (("x", given.x), ("y", given.y)):
        for leaf in tree_leaves(value):
            if leaf.is_floating_point() and leaf.dtype != reference.dtype:
                convert(leaf, reference.dtype, f"{name}.{field}")


def check_shapes(given: Points, name: str = "points") -> None:
    """The part of `check` that reads no values: cheap enough for every call."""
    if not isinstance(given, Points) or not isinstance(given.mask, Tensor) or not isinstance(given.y, Tensor):
        raise ValueError(f"{name}: expected Points, got {type(given).__name__}; build them with bayesmeta.points(x, y)")
    mask = given.mask
    if mask.dim() < 2 or mask.dtype != torch.bool or mask.shape[1] == 0:
        raise ValueError(
            f"{name}.mask: expected a bool tensor (B, N) with N >= 1, got {mask.dtype} {tuple(mask.shape)}; "
            "an empty support is one masked row of zeros: points([], [])"
        )
    if mask.dim() > 2 and mask.shape != given.y.shape:
        raise ValueError(
            f"{name}.mask: expected the shape (B, N) of points, or that of y, {tuple(given.y.shape)}, for a mask of its entries, "
            f"got {tuple(mask.shape)}; build the points with bayesmeta.points(x, y, mask=...)"
        )
    for field, value in (("x", given.x), ("y", given.y)):
        for leaf in tree_leaves(value):
            if leaf.shape[:2] != mask.shape[:2]:
                raise ValueError(
                    f"{name}.{field}: expected shape (B, N, ...) = ({mask.shape[0]}, {mask.shape[1]}, ...) as the mask has, "
                    f"got {tuple(leaf.shape)}; build the points with bayesmeta.points(x, y)"
                )


def seen(given: Points) -> Tensor:
    """Which points are observed, in one entry of their target at least: ``(B, N)`` bool."""
    return given.mask if given.mask.dim() == 2 else given.mask.flatten(2).any(2)


def observed(given: Points, lead: int = 2) -> Tensor:
    """How many observed targets each point has, ``(B, N)``, by whose sum losses are divided.

    Labels count one by one; the numbers of a point are one target, of which a part may be observed.

    Args:
        given: the points.
        lead: 2, or 1 for the points of one task, without B.
    """
    mask, y = given.mask, given.y
    if mask.dim() == lead and (y.dim() == lead or y.is_floating_point()):
        return mask
    if y.is_floating_point():
        return mask.flatten(lead).any(lead)
    return mask.reshape(mask.shape + (1,) * (y.dim() - mask.dim())).expand_as(y).flatten(lead).sum(lead)


def concatenate(first: Points, second: Points) -> Points:
    """All points of the same B tasks: ``(B, N, ...)`` and ``(B, M, ...)`` to ``(B, N + M, ...)``."""
    if first.mask.dim() != second.mask.dim():  # a mask of points beside one of entries
        first, second = (
            part._replace(mask=part.mask.reshape(part.mask.shape[:2] + (1,) * (part.y.dim() - 2)).expand_as(part.y))
            if part.mask.dim() == 2
            else part
            for part in (first, second)
        )
    joined: Points = tree_map(lambda a, b: torch.cat([a, b], 1), first, second)
    return joined


def split(given: Points, shots: Tensor, queries: int | None, generator: torch.Generator) -> Episode:
    """Divides each task's observed points at random into a support and a query.

    Args:
        given: the points of B tasks.
        shots: ``(B,)``, how many points of each task become support.
        queries: how many of the others become query, at most; all of them if None.
        generator: the source of randomness.

    Raises:
        ValueError: a task would be left with no query point.

    Example:
        >>> task = points(torch.arange(6.0), torch.arange(6.0))
        >>> episode = split(task, torch.tensor([2]), None, torch.Generator().manual_seed(0))
        >>> episode.support.mask.sum().item(), episode.query.mask.sum().item()
        (2, 4)
    """
    if (shots < 0).any() or (queries is not None and queries < 1):
        raise ValueError(f"shots and queries: expected shots >= 0 and queries >= 1, got {shots.tolist()} and {queries}")
    there = seen(given)
    count = there.sum(1)
    short = (count <= shots).nonzero()
    if len(short):
        task = int(short[0, 0])
        raise ValueError(
            f"shots: expected fewer support points than the task has, got {int(shots[task])} shots for the "
            f"{int(count[task])} points of task {task}; lower shots or drop the task, so that a query point is left"
        )
    # A random order of each task's observed points, unobserved ones last.
    order = torch.rand(there.shape, generator=generator, dtype=torch.float32, device=generator.device)
    order = order.masked_fill(~there, 2.0).argsort(1)
    left = count - shots if queries is None else (count - shots).clamp(max=queries)
    return Episode(_take(given, order, shots * 0, shots), _take(given, order, shots, left))


def _take(given: Points, order: Tensor, start: Tensor, count: Tensor) -> Points:
    """The points ``order[b, start[b] : start[b] + count[b]]`` of each task, padded with zeros."""
    slots = torch.arange(max(1, int(count.max())), device=count.device)
    mask = slots < count[:, None]
    chosen = order.gather(1, (start[:, None] + slots).clamp(max=order.shape[1] - 1))

    def take(leaf: Tensor) -> Tensor:
        rows = leaf[torch.arange(len(leaf), device=chosen.device)[:, None], chosen]
        return rows * mask.reshape(mask.shape + (1,) * (leaf.dim() - 2)).to(rows.dtype)

    return Points(tree_map(take, given.x), take(given.y), mask if given.mask.dim() == 2 else take(given.mask))


def move(tree: T, like: nn.Module) -> T:
    """The tree's tensors on the module's device, floating ones in the module's floating type."""
    reference = _reference(like)
    if reference is None:
        return tree

    def to(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not torch.compiler.is_compiling() and leaf.is_inference() and not torch.is_inference_mode_enabled():
            leaf = leaf.clone()  # else no gradient may pass through what is computed from it
        return leaf.to(reference.device, reference.dtype if leaf.is_floating_point() else None)

    return tree_map(to, tree)


def _reference(module: nn.Module) -> Tensor | None:
    return next((p for p in module.parameters() if p.is_floating_point()), None)


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raises a ValueError if an argument is not a whole number of at least `least`."""
    if not hasattr(value, "__index__") or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}; e.g. {max(least, 1)}")


def check_positive(name: str, value: float, least: float = 0.0, most: float = float("inf")) -> None:
    """Raises a ValueError if an argument is not a number above 0, and from `least` to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value > 0 or not least <= value <= most:
        bounds = " and ".join(
            [f"of at least {least:g}" if least > 0 else "above 0"] + [f"at most {most:g}"] * (most < float("inf"))
        )
        raise ValueError(f"{name}: expected a number {bounds}, got {value!r}; give one within")
