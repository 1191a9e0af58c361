"""What posteriors answer in several parts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Decomposition"]


class Decomposition(NamedTuple):
    """The uncertainty at M inputs in two parts, each ``(B, M, *Y)``; of classes ``(B, M)``. See `Posterior.decompose`."""

    total: Tensor
    """The sum of the other two."""
    aleatoric: Tensor
    """What would remain if the task were known: the noise."""
    epistemic: Tensor
    """What more support points would remove: the doubt about the function."""
