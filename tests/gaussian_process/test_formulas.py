"""Matrices of kernels by formula against gpytorch's own, and slopes that need no derivative of a factorisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpytorch.kernels import AdditiveKernel, Kernel, LinearKernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from bayesmeta.gaussian_process.formulas import dense
from bayesmeta.gaussian_process.kernels import covariance
from bayesmeta.gaussian_process.solved import Solved, solved

B, N, M, D = 2, 5, 4, 3
KERNELS: dict[str, Callable[[], Kernel]] = {
    "RBF": RBFKernel,
    "RBF, a lengthscale a feature": lambda: RBFKernel(ard_num_dims=D),
    "RBF of two features": lambda: ScaleKernel(RBFKernel(active_dims=(0, 2), ard_num_dims=2)),
    "Matern 1/2": lambda: MaternKernel(nu=0.5),
    "Matern 3/2": lambda: MaternKernel(nu=1.5),
    "Matern 5/2": lambda: ScaleKernel(MaternKernel(nu=2.5)),
    "linear": LinearKernel,
    "linear, a variance a feature": lambda: LinearKernel(ard_num_dims=D),
    "sum": lambda: ScaleKernel(RBFKernel(active_dims=(0,))) + LinearKernel(),
    "product": lambda: RBFKernel(active_dims=(0,)) * MaternKernel(active_dims=(1, 2)),
    "product with one that has no formula": lambda: RBFKernel() * RQKernel(),
}


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return 3 + torch.randn(B, *shape, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(name: str) -> Kernel:
    kernel = KERNELS[name]().double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return kernel


def theirs(kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
    parts = (
        kernel.kernels if isinstance(kernel, AdditiveKernel) else [kernel]
    )  # to add a linear one gpytorch would factorise
    return sum(part(x, z).to_dense() for part in parts)


@pytest.mark.parametrize("name", KERNELS)
def test_a_formula_gives_gpytorchs_values(name: str) -> None:
    kernel, x, z = made(name), inputs(N), inputs(M, seed=1)
    x[0, 1] = x[0, 0]
    between = covariance(kernel)
    tolerances = {
        "rtol": 1e-9,
        "atol": 1e-7 if "Matern" in name or name == "product" else 1e-12,
    }  # roots of rounding at 0
    torch.testing.assert_close(between(x, z), theirs(kernel, x, z), **tolerances)
    torch.testing.assert_close(between(x, x), theirs(kernel, x, x), **tolerances)
    torch.testing.assert_close(between(x, x, True), theirs(kernel, x, x).diagonal(dim1=1, dim2=2), **tolerances)


@pytest.mark.parametrize("name", KERNELS)
def test_a_formula_is_differentiable_twice(name: str) -> None:
    kernel, x, z = made(name), inputs(2).requires_grad_(), inputs(2, seed=1).requires_grad_()
    parameters = dict(kernel.named_parameters())

    def at(x: Tensor, z: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
        between = covariance(kernel)
        repeated = {key: value.expand(B, *value.shape) for key, value in zip(parameters, own, strict=True)}
        return between(x, z, False, repeated), between(x, x, False, repeated)

    assert gradcheck(at, (x, z, *parameters.values()))
    if "Matern 1/2" not in name:  # whose slope jumps where a point meets itself
        assert gradgradcheck(at, (x, z, *parameters.values()))


def test_a_kernel_of_ones_own_or_with_a_forward_of_its_own_is_gpytorchs() -> None:
    class Half(RBFKernel):
        def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
            return 0.5 * super().forward(x1, x2, diag=diag, **params)

    x, kernel = inputs(N), RBFKernel().double()
    expected = 0.5 * dense(kernel, x, x)
    torch.testing.assert_close(dense(Half().double(), x, x), expected)
    kernel.forward = Half().double().forward  # type: ignore[method-assign]
    torch.testing.assert_close(dense(kernel, x, x), expected)


def test_inputs_that_do_not_fit_a_kernels_lengthscales_are_gpytorchs_error() -> None:
    with pytest.raises(RuntimeError, match="Expected the input to have 1 dimensionality"):
        dense(RBFKernel(ard_num_dims=1).double(), inputs(N), inputs(N))


def test_slopes_of_solutions_and_determinants_are_those_of_the_factorisation() -> None:
    root = inputs(N)
    right = inputs(N, seed=1).requires_grad_()
    spread = (root @ root.mT + 0.5 * torch.eye(N, dtype=torch.float64)).requires_grad_()

    def ours(half: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        matrix = 0.5 * (half + half.mT)
        return Solved.apply(matrix, right, torch.linalg.cholesky(matrix))

    def plain(half: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return solved(right, torch.linalg.cholesky(0.5 * (half + half.mT)))

    for solution in (0.0, 1.0):  # one without the other, and both
        for determinant in (1.0, 0.0):
            if solution or determinant:
                totals = [
                    solution * found[0].sin().sum() + determinant * found[1].sum()
                    for found in (ours(spread, right), plain(spread, right))
                ]
                slopes = [
                    torch.autograd.grad(total, (spread, right), allow_unused=True, materialize_grads=True)
                    for total in totals
                ]
                torch.testing.assert_close(slopes[0], slopes[1])
    assert gradcheck(ours, (spread, right))
    assert gradgradcheck(ours, (spread, right))
