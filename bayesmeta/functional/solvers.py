"""Directions other than the gradient: Hessian products, conjugate gradients, Stein's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from bayesmeta.functional.descent import Objective
from bayesmeta.functional.vectors import Params, ravel

__all__ = ["conjugate_gradient", "hessian_product", "stein_direction"]


def hessian_product(objective: Objective, params: Params, vector: Params) -> Params:
    """The Hessian of a scalar objective at `params`, times a vector: reverse over reverse, no matrix is built.

    Forward over reverse is no faster, and torch counts its levels for all threads together: two at a time break each other.
    """
    product: Params = grad(lambda at: ravel(grad(objective)(at)) @ ravel(vector))(params)
    return product


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solves ``product(solution) = target`` for a symmetric positive definite linear map of vectors ``(P,)``.

    The method of Hestenes & Stiefel (1952), exact after P iterations but for rounding. It stops where the residual
    vanishes, and where a direction has no positive curvature (the map was not positive definite after all), with the
    solution so far, or the target itself if that is the first direction: the truncated method of Steihaug (1983).

    Example:
        >>> conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 8.0]), iterations=2)
        tensor([1., 2.])
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    size = residual @ residual
    going = torch.ones_like(size, dtype=torch.bool)
    for _ in range(iterations):
        image = product(direction)
        curvature = direction @ image
        going = going & (curvature > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        next_size = residual @ residual
        direction = residual + next_size / torch.where(size > 0, size, 1.0) * direction
        size = next_size
    return torch.where(going | solution.any(), solution, target)


def stein_direction(particles: Tensor, scores: Tensor) -> Tensor:
    """The direction of Stein variational gradient descent for K particles ``(..., K, P)``, to be added to them.

    (1/K) Σ_j [k(θ_j, θ) ∇ log p(θ_j) + ∇_{θ_j} k(θ_j, θ)] with k(θ, θ') = exp(-‖θ - θ'‖² / h), where h is the median of the
    squared distances over log K (Liu & Wang 2016, eq. 8, https://arxiv.org/abs/1608.04471), but no less than float32 can tell
    from rounding: 1e-4 of the largest squared distance to their mean, and 1e-6. Leading dimensions are of sets by themselves.

    Args:
        particles: the K points θ that move, ``(..., K, P)``.
        scores: ∇ log p at each particle, ``(..., K, P)``.

    Example:
        >>> stein_direction(torch.zeros(1, 2), torch.ones(1, 2))  # one particle climbs the density
        tensor([[1., 1.]])
    """
    count = particles.shape[-2]
    centred = particles - particles.detach().mean(-2, keepdim=True)  # products of large numbers round differences away
    products = centred @ centred.mT  # (..., K, K)
    norm = products.diagonal(dim1=-2, dim2=-1)
    distance = (norm[..., None] + norm[..., None, :]).sub(products, alpha=2)
    middle = (count * count + count) // 2 + (count > 1)  # behind the K zeros of each with itself
    bandwidth = distance.detach().flatten(-2).kthvalue(middle).values / (math.log(count) or 1.0)
    bandwidth = bandwidth.maximum(1e-4 * norm.detach().amax(-1)).clamp(min=1e-6)  # rounding decides what is smaller
    pull = 2 / bandwidth[..., None, None]
    kernel = torch.exp(-0.5 * pull * distance) / count
    drawn = kernel @ torch.addcmul(scores, pull, centred, value=-1)
    return torch.addcmul(drawn, pull * kernel.sum(-1, keepdim=True), centred)
