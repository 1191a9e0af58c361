"""Checks of a stream's parts, before a learner is told the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten

from bayesmeta.border.checks import check
from bayesmeta.data import Episode, Points, seen

__all__ = ["check_parts"]


def check_parts(parts: Sequence[Episode], name: str = "parts") -> None:
    """Raises a ValueError if episodes are not the parts of one stream: of the same tasks, features and targets, none empty.

    Args:
        parts: in their order in time.
        name: of the argument, for messages.

    Example:
        >>> part = Episode(points([0.0], [0.0]), points([0.5], [0.0]))
        >>> check_parts([part])
        Traceback (most recent call last):
        ...
        ValueError: parts: expected at least two parts, got 1; ...
    """
    if not isinstance(parts, Sequence) or not all(isinstance(part, Episode) for part in parts):
        got = type(parts).__name__ if not isinstance(parts, Sequence) else [type(part).__name__ for part in parts]
        raise ValueError(
            f"{name}: expected a list of episodes, one a part, got {got}; give each part its support and query"
        )
    if len(parts) < 2:
        raise ValueError(
            f"{name}: expected at least two parts, got {len(parts)}; what is learned at once is no stream: `evaluate` judges it"
        )
    for t, part in enumerate(parts):
        for given, field in zip(part, Episode._fields, strict=True):
            _check_device(given, parts[0].support, f"{name}[{t}].{field}")
            check(given, f"{name}[{t}].{field}")
            if not seen(given).any():
                raise ValueError(f"{name}[{t}].{field}: expected at least one point, got none; leave the part out")
            known, found = _form(getattr(parts[0], field)), _form(given)
            if known != found:
                raise ValueError(
                    f"{name}[{t}].{field}: expected tasks, features and targets as part 0 has them, {known}, got {found}; a "
                    "stream's parts are further points of the same tasks"
                )


def _check_device(given: Points, like: Points, name: str) -> None:
    """Raises a ValueError where points are on another device than the first ones."""
    here, there = (str(getattr(part.mask, "device", None)) for part in (like, given))
    if here != there:
        raise ValueError(
            f"{name}: expected points on the device of part 0, {here}, got some on {there}; have the source make all on one: the "
            "learner's device is where evaluate_stream takes them"
        )


def _form(given: Points) -> Any:
    """What further points must have in common with the first: the number of tasks, types and event shapes, of x and of y."""
    leaves, structure = tree_flatten(given.x)
    forms = [_event(leaf) for leaf in leaves]
    x = forms[0] if len(forms) == 1 and structure.is_leaf() else (str(structure), *forms)
    return {"tasks": len(given.mask), "x": x, "y": _event(given.y)}


def _event(leaf: Tensor) -> str:
    return f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape[2:])} on {leaf.device}"
