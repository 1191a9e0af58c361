"""Trees of parameters as vectors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Params", "ravel", "unravel", "with_bias"]

Params: TypeAlias = dict[str, Tensor]


def ravel(params: Params) -> Tensor:
    """A tree of parameters as one vector ``(P,)``."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unravel(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The inverse of `ravel`: a vector ``(P,)`` in the names and shapes of `like`, or vectors ``(..., P)``, whose lead stays.

    Raises:
        ValueError: the vector has not as many entries.
    """
    sizes = [value.numel() for value in like.values()]
    check_size(sum(sizes), vector.shape[-1])
    pieces, lead = vector.split(sizes, -1), vector.shape[:-1]
    return {name: piece.reshape(lead + value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}


def check_size(found: int, expected: int) -> None:
    """Raises a ValueError where a network has not as many weights for tasks to adapt as its learner knows of."""
    if found != expected:
        raise ValueError(
            f"network: expected {expected} weights that a task adapts, as when the learner was built, got {found}; freeze or "
            "unfreeze weights (requires_grad_) before a learner is built around them"
        )


def with_bias(features: Tensor) -> Tensor:
    """Features ``(..., F)`` beside a constant 1, ``(..., F + 1)``: the last weight of a linear map is then its bias."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)
