"""Functions of Gaussian processes, drawn as far as they are asked: each answer given all that were given before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Paths", "each"]

Covariance = Callable[[Tensor, Tensor], Tensor]
"""Of the values at points ``(B, N, D)`` and ``(B, M, D)``, or ``(S, B, ...)``: ``(B, N, M)``, or ``(S, B, N, M)``."""

_RANK = 1e-10
"""Directions of less variance, relative to the prior's, are rounding: nothing varies along them."""


class Paths:
    """S functions of mean zero at any points, one question after the other: exact draws of their joint normal, singular or not.

    With Σ the covariance of all values so far, and whitened values ε = W f, W Σ Wᵀ = I, the values at new points are normal with
    mean A ε and covariance Σ' - A Aᵀ, where A is their covariance with ε; the symmetric root of that gives a draw. At points that
    were asked before nothing is left, and the answer is the one that was given.

    Answers are differentiable, once. Moving a point moves its own value alone, by the slope that is expected of the function
    given all values so far, E[f'(x) | f]: so slopes are never larger than those of the process, and with the chain rule they give
    unbiased gradients of any expectation over these values, as f enters E[∂g(f) f'(x)] through E[f'(x) | f] alone (values that
    come later were not known to it; asked anew, the function has the slope that they leave). The derivative of a Cholesky factor
    has neither property: it divides by pivots that are rounding where points are close. Likewise a parameter that changes the
    mean of new values given old ones, and their covariance Σ by dΣ, moves them by the change of the mean and by ½ dΣ Σ⁻¹ times
    their distance from it, which leaves their law.

    Args:
        between: the covariance of values at two sets of points, of float64.
        name: of the kernel, for errors.
    """

    def __init__(self, between: Covariance, name: str) -> None:
        self.between = between
        self.name = name
        self.x: Tensor | None = None

    def __call__(self, x: Tensor, variance: Tensor, normal: Tensor) -> Tensor:
        """The S functions' values at x, ``(S, B, M, Y)``.

        Args:
            x: ``(B, M, D)``, or ``(S, B, M, D)``: each function's own.
            variance: the prior's at x, ``(B, M)`` or ``(S, B, M)``, beside the largest of which rounding is judged.
            normal: independent standard normal numbers, ``(S, B, M, Y)``.

        Raises:
            torch.linalg.LinAlgError: the covariance is not finite.
        """
        if not x.shape[-2]:
            return normal
        if self.x is None:
            self.x, self.whiten = x.detach()[..., :0, :], x.new_zeros(*x.shape[:-2], 0, 0)
            self.whitened = self.values = normal[..., :0, :]
        elif x.dim() > self.x.dim():  # from here on each function has points of its own
            self.x, self.whiten = (part.expand(len(x), *part.shape) for part in (self.x, self.whiten))
        x = x.expand(*self.x.shape[:-2], *x.shape[-2:])
        fixed, whitened = x.detach(), self.whitened
        with torch.no_grad():
            matrix = self.between(fixed, fixed)
            self._check(matrix)
            known = self.between(fixed, self.x) @ self.whiten.mT if self.x.shape[-2] else matrix[..., :0]  # A
            values, vectors = torch.linalg.eigh(matrix - known @ known.mT)
            kept = values > _RANK * variance.amax(-1, keepdim=True)
            coordinates = (vectors.mT @ normal) * kept[..., None]
            # Of the symmetric root, which unlike eigenvectors is unique and continuous.
            result = known @ whitened + vectors @ (values.clamp(min=0).sqrt()[..., None] * coordinates)
            inverse = torch.where(kept, torch.where(kept, values, 1.0).rsqrt(), 0.0)
            contrast = torch.cat([-(known @ self.whiten), torch.eye(x.shape[-2]).to(x).expand_as(matrix)], -1)
            rows = inverse[..., None] * (vectors.mT @ contrast)
            self.whiten = torch.cat([torch.nn.functional.pad(self.whiten, (0, x.shape[-2])), rows], -2)
            self.whitened = torch.cat([whitened, coordinates], -2)
            everything = torch.cat([self.x, fixed], -2)
        moved = result
        if torch.is_grad_enabled():
            before = self.whiten[..., : whitened.shape[-2], :].mT @ whitened  # Σ⁻¹ f of the values before
            pull = self.whiten.mT @ self.whitened  # and of all
            matrix = self.between(everything, everything)
            mean = contrast @ (matrix @ ((before + pull) / 2)) - contrast[..., : self.x.shape[-2]] @ self.values
            moved = result + mean - mean.detach()
            slope = (self.between(x, everything) - matrix[..., self.x.shape[-2] :, :]) @ pull
            result = moved + slope - slope.detach()
        self.x, self.values = everything, torch.cat([self.values, moved], -2)
        return result

    def _check(self, matrix: Tensor) -> None:
        if not matrix.isfinite().all():
            task = int((~matrix.isfinite()).flatten(-2).any(-1).nonzero()[0, -1])
            raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
                f"kernel {self.name}: expected finite covariances, got NaN or infinity in task {task}; look for them in the "
                "kernel's inputs and parameters"
            )


def each(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors that lead with B, also of those that lead with S and B: as of S B tasks."""

    def over(*given: Tensor) -> Tensor:
        if given[0].dim() < 4:
            return function(*given)
        flat = [part.flatten(0, 1) for part in given]
        same = len(given) == 2 and given[0] is given[1]  # which kernels want to know
        return function(*(flat[:1] * 2 if same else flat)).unflatten(0, given[0].shape[:2])

    return over
