"""What posteriors answer in several parts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Decomposition", "Joint"]


class Decomposition(NamedTuple):
    """The uncertainty at M inputs in two parts, each ``(B, M, *Y)``; of classes ``(B, M)``. See `Posterior.decompose`."""

    total: Tensor
    """The sum of the other two."""
    aleatoric: Tensor
    """What would remain if the task were known: the noise."""
    epistemic: Tensor
    """What more support points would remove: the doubt about the function."""


class Joint(NamedTuple):
    """What is known together of the function's values at M inputs, for Y targets, of float64. See `Posterior.joint`."""

    mean: Tensor
    """Of the function, ``(B, M, Y)``."""
    covariance: Tensor
    """Of each target's values at the inputs, without noise, ``(B, Y, M, M)``; the targets are independent."""
    noise: Tensor
    """The standard deviation of a target given the function, ``(B, M, Y)``."""
