"""Modules that know what they were built with."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Arguments", "Named", "Recorded", "Setting"]


class Named(NamedTuple):
    """In the place of an argument that is no value, such as a class or a function: its name."""

    name: str


class Arguments(NamedTuple):
    """What a constructor was called with, as it was then: parts, numbers, texts, settings, tensors, tuples of these; names."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class Setting:
    """A value that constructors take for several settings: a frozen dataclass of numbers and texts, one of the library's."""


class Recorded(nn.Module):
    """A module that keeps the arguments of its constructor, by which a file says how to build it again.

    See `bayesmeta.files.blueprint`.
    """

    _built_with: Arguments

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        vars(made)["_built_with"] = Arguments(kept(args), {name: kept(value) for name, value in kwargs.items()})
        return made


def kept(value: Any) -> Any:
    """An argument as it is now, to be kept."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value)) if value.ndim else value.item()
    if value is None or isinstance(value, (bool, int, float, str, nn.Module)):
        return value
    if isinstance(value, Setting):
        return type(value)(**{name: kept(part) for name, part in vars(value).items()})
    if isinstance(value, (list, tuple)):
        return tuple(kept(part) for part in value)
    if isinstance(value, Tensor):
        return value.detach().clone()
    return Named(spelled(value if hasattr(value, "__qualname__") else type(value)))


def spelled(what: Any) -> str:
    """The full name of a class or a function."""
    return f"{what.__module__}.{what.__qualname__}"
