"""Matrices of gpytorch's kernels: of the common ones by formula, which `torch.compile` traces, of others by gpytorch itself.

Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", sections 4.2.1 and 4.2.2, http://gaussianprocess.org/gpml.
gpytorch makes a lazy matrix first, which takes as long as the rest of a small process, and compares the two sets of points, by
which a compiler cannot branch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from gpytorch.kernels import (
    AdditiveKernel,
    CylindricalKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PolynomialKernel,
    ProductKernel,
    RBFKernel,
    ScaleKernel,
)
from torch import Tensor

__all__ = ["between", "dense"]


def between(kernel: Kernel, first: Tensor, second: Tensor, diag: bool = False) -> Tensor:
    """`dense`, with the right slopes for all of its inputs, of a kernel that is thrown away."""
    if all(_formula(part, first) for part in kernel.modules() if isinstance(part, Kernel)):
        return dense(kernel, first, second, diag)
    _say_batches(kernel)
    if first is not second and first.shape == second.shape and not diag:
        # Of sets that are equal in value gpytorch reads the first alone: the second would have no slope.
        longer = torch.cat([second, second[:, :1]], 1)
        return between(kernel, first, longer)[..., : second.shape[1]]
    if torch.is_grad_enabled() and not first.requires_grad:
        # For constant inputs gpytorch takes a function of its own whose second derivatives are wrong.
        first = first.detach().requires_grad_()
    return dense(kernel, first, second, diag)


def dense(kernel: Kernel, first: Tensor, second: Tensor, diag: bool = False) -> Tensor:
    """A kernel's values between points ``(B, N, D)`` and ``(B, M, D)``: ``(B, N, M)``, or the diagonal ``(B, N)``."""
    formula = _formula(kernel, first)
    if formula is None:
        values: Any = kernel(first, second, diag=diag)
        return values if diag else values.to_dense()
    if kernel.active_dims is not None and formula is not _scaled:  # which has those of the kernel that it scales
        first, second = (part.index_select(-1, kernel.active_dims) for part in (first, second))
    return formula(kernel, first, second, diag)


def _formula(kernel: Kernel, x: Tensor) -> Callable[[Any, Tensor, Tensor, bool], Tensor] | None:
    """The kernel's formula, of gpytorch's own kernels that nobody has given another `forward`, and of inputs that fit them."""
    width = x.shape[-1] if kernel.active_dims is None else len(kernel.active_dims)
    if "forward" in kernel.__dict__ or kernel.ard_num_dims not in (None, width):
        return None
    return _FORMULAS.get(type(kernel))


def _say_batches(kernel: Kernel) -> None:
    """Tells kernels that bring their parameters into the shape of their batch when each task has its own, ``(B, ...)``."""
    for part in kernel.modules():
        if isinstance(part, PolynomialKernel):
            part.batch_shape = part.raw_offset.shape[:-1]
        elif isinstance(part, CylindricalKernel):
            part.batch_shape = part.raw_alpha.shape[:-1]


def _squares(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    """|x - x'|² in lengthscales."""
    centre, inverse = (
        first.detach().mean(-2, keepdim=True),
        1 / kernel.lengthscale,
    )  # far from the origin squares would cancel
    same, first = second is first, (first - centre) * inverse
    second = first if same else (second - centre) * inverse
    if diag:
        return (first - second).square().sum(-1)
    product = first @ second.mT
    if same:
        rows = columns = product.diagonal(dim1=-2, dim2=-1)
    else:
        rows, columns = first.square().sum(-1), second.square().sum(-1)
    return (rows[..., None] + columns[..., None, :] - 2 * product).clamp(min=0)


def _rbf(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    return (-0.5 * _squares(kernel, first, second, diag)).exp()


def _matern(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    squares = 2 * kernel.nu * _squares(kernel, first, second, diag)
    distance = squares.clamp(min=1e-30).sqrt()
    series = {0.5: 1.0, 1.5: 1 + distance, 2.5: 1 + distance + squares / 3}[kernel.nu]
    return series * (-distance).exp()


def _linear(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    weighted = first * kernel.variance
    return (weighted * second).sum(-1) if diag else weighted @ second.mT


def _scaled(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    scale: Tensor = kernel.outputscale[..., None]
    return (scale if diag else scale[..., None]) * dense(kernel.base_kernel, first, second, diag)


def _sum(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    return reduce(torch.add, [dense(part, first, second, diag) for part in kernel.kernels])


def _product(kernel: Any, first: Tensor, second: Tensor, diag: bool) -> Tensor:
    return reduce(torch.mul, [dense(part, first, second, diag) for part in kernel.kernels])


_FORMULAS: dict[type, Callable[[Any, Tensor, Tensor, bool], Tensor]] = {
    RBFKernel: _rbf,
    MaternKernel: _matern,
    LinearKernel: _linear,
    ScaleKernel: _scaled,
    AdditiveKernel: _sum,
    ProductKernel: _product,
}
