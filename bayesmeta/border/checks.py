"""Checks of points, episodes and arguments, where they enter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesmeta.border.arrays import convert
from bayesmeta.border.values import check_values
from bayesmeta.data import Episode, Points, _reference, seen

__all__ = ["check", "check_count", "check_positive", "check_probability"]


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


def check_probability(name: str, value: float | Tensor) -> None:
    """Raises a ValueError if an argument is not a number strictly between 0 and 1."""
    try:
        inside = not isinstance(value, (str, bytes)) and 0 < float(value) < 1
    except (TypeError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise ValueError(f"{name}: expected a probability strictly between 0 and 1, got {value!r}; e.g. {name}=0.9")
