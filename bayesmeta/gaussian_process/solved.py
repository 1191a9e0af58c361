"""Solutions and determinants of covariance matrices, with slopes that need no derivative of the Cholesky factor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Solved", "solved"]


def solved(right: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """K⁻¹ R ``(B, N, Y)`` and log |K| ``(B,)``, of the lower Cholesky factor L of K ``(B, N, N)`` and of R."""
    return torch.cholesky_solve(right, factor), 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class Solved(torch.autograd.Function):
    """`solved`, as a function of K and R: L, which K determines, is given beside them.

    With the slopes a of the first and d of the second, u = K⁻¹ a is the slope of R, and d K⁻¹ - u (K⁻¹ R)ᵀ that of K (Rasmussen &
    Williams 2006, eqs. A.14 and A.15): a third to a half of the work that the derivative of a factorisation takes. They are made
    of L and of K⁻¹ R, and so may be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, right: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return solved(right, factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[2], output[0])

    @staticmethod
    def backward(ctx: Any, of_solution: Tensor | None, of_determinant: Tensor | None) -> tuple[Tensor | None, ...]:
        factor, solution = ctx.saved_tensors
        slope, of_right = None, None
        if of_determinant is not None:
            slope = of_determinant[..., None, None] * torch.cholesky_inverse(factor)
        if of_solution is not None:
            of_right = torch.cholesky_solve(of_solution, factor)
            outer = of_right @ solution.mT
            slope = -outer if slope is None else slope - outer
        return slope, of_right, None
