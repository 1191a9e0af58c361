"""Checks of points, episodes and arguments, where they enter."""

from __future__ import annotations

from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesmeta.border.arrays import convert
from bayesmeta.border.values import check_values
from bayesmeta.data import Episode, Points, _reference, seen

__all__ = ["check", "check_count", "check_function", "check_not_negative", "check_positive", "check_probability"]


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


ADAPTING = ", or use a learner that adapts a network's weights, such as MAML or PLATIPUS"
"""What else helps where a learner cannot leave out entries."""


def check_whole(given: Points, name: str, what: str, also: str = "") -> None:
    """Raises a ValueError where points have a mask of entries, and what they are for knows targets as a whole alone."""
    if given.mask.dim() > 2:
        raise ValueError(
            f"{name}.mask: expected a mask of points (B, N), as {what} takes or leaves a target as a whole, got one of its "
            f"entries, {tuple(given.mask.shape)}; leave out points that are seen in part{also}"
        )


def check_episodes(tasks: Any, name: str = "tasks") -> None:
    """Raises a TypeError where one episode, or points, stand in the place of a source: as tuples they have a length too."""
    if isinstance(tasks, (Episode, Points)):
        raise TypeError(
            f"{name}: expected a task source or a list of episodes, got one {type(tasks).__name__}; pass a list, [episode], with "
            "Episode(support, query)"
        )


def check_is_episode(given: Any, index: int, name: str = "tasks") -> None:
    """Raises a TypeError where a source gives something else than episodes."""
    if not isinstance(given, Episode):
        raise TypeError(
            f"{name}: expected episodes, got {type(given).__name__} as number {index}; build each as Episode(support, query)"
        )


def check_further(given: Points, like: Points) -> None:
    """Raises a ValueError where further points are not of a support's tasks and kind of targets."""
    check_shapes(given, "points")
    if len(given.mask) != len(like.mask):
        raise ValueError(
            f"points: expected further points of the {len(like.mask)} tasks of the support, got {len(given.mask)} tasks; "
            "give each task a row, without observed points where there are none"
        )
    y = given.y
    if y.shape[2:] != like.y.shape[2:] or y.is_floating_point() != like.y.is_floating_point():
        raise ValueError(
            f"points.y: expected targets as the support has them, {like.y.dtype} of event shape {tuple(like.y.shape[2:])}, "
            f"got {y.dtype} of {tuple(y.shape[2:])}; build both in the same way"
        )


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raises a ValueError if an argument is not a whole number of at least `least`."""
    if not _is_index(value) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}; e.g. {max(least, 1)}")


def _is_index(value: Any) -> bool:
    """Whether something is one whole number: tensors and arrays say what they are when they are asked."""
    try:
        index(value)
    except TypeError:
        return False
    return not isinstance(value, bool) and not getattr(value, "ndim", 0)


def check_positive(
    name: str, value: float, least: float = 0.0, most: float = float("inf"), *, finite: bool = False
) -> None:
    """Raises a ValueError if an argument is not a number above 0, and from `least` to `most`; or finite, if it must."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not value > 0 or not least <= value <= most:
        bounds = " and ".join(
            [f"of at least {least:g}" if least > 0 else "above 0"] + [f"at most {most:g}"] * (most < float("inf"))
        )
        raise ValueError(f"{name}: expected a number {bounds}, got {value!r}; give one within")
    if finite and value == float("inf"):
        raise ValueError(f"{name}: expected a finite number, got {value!r}; give a smaller one")


def check_not_negative(name: str, value: float) -> None:
    """Raises a ValueError if an argument is not a finite number of at least 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}; give one within")


def check_function(name: str, value: Any, expected: str) -> None:
    """Raises a TypeError if an argument cannot be called; `expected` says of what and to what it is a function."""
    if not callable(value):
        raise TypeError(
            f"{name}: expected a function {expected}, got {type(value).__name__}; give it without calling it"
        )


def check_probability(name: str, value: float | Tensor) -> None:
    """Raises a ValueError if an argument is not a number strictly between 0 and 1."""
    try:
        inside = not isinstance(value, (str, bytes)) and 0 < float(value) < 1
    except (TypeError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise ValueError(f"{name}: expected a probability strictly between 0 and 1, got {value!r}; e.g. {name}=0.9")
