"""Exact Gaussian-process conditioning of B tasks at once, with any gpytorch kernel and mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import pyro
import torch
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from pyro.distributions import MultivariateNormal, Normal
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.data import Points, concatenate
from bayesmeta.functional import Params, call, named
from bayesmeta.learner import Posterior
from bayesmeta.likelihoods import check_event

__all__ = ["GaussianProcess", "check_inputs", "check_kernel", "cholesky", "covariance"]

_JITTER = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Relative to the mean of the diagonal; each is tried only where the one before fails."""


class _Dense(nn.Module):
    """Evaluates a kernel at once: gpytorch itself would do so later, when swapped parameters are back in place."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, first: Tensor, second: Tensor, diag: bool = False) -> Tensor:
        if torch.is_grad_enabled() and not first.requires_grad:
            # For constant inputs gpytorch takes a function of its own whose second derivatives are wrong.
            first = first.detach().requires_grad_()
        matrix: Tensor = self.kernel(first, second, diag=diag)
        return matrix if diag else matrix.to_dense()


def _double(module: nn.Module, parameters: Params | None = None) -> Callable[..., Tensor]:
    """The module as a function in float64, with its present parameters or others: differentiable, unmoved by updates."""
    state = {name: _widened(value).clone() for name, value in [*named(module).items(), *module.named_buffers()]}
    state |= {name: value.double() for name, value in (parameters or {}).items()}
    return lambda *arguments: call(module, state, *arguments)


def _widened(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value  # a kernel's active_dims are whole numbers


def covariance(kernel: Kernel, parameters: Params | None = None) -> Callable[..., Tensor]:
    """The kernel, as it is now, as a function of float64 inputs ``(B, N, D)`` and ``(B, M, D)`` to ``(B, N, M)``.

    With a third argument True, it takes two ``(B, N, D)`` and gives the diagonal ``(B, N)``. `parameters` by the kernel's
    names, each with a leading B, give each task a kernel of its own.
    The kernel itself is evaluated in float64: rounding in float32 makes covariances of close points indefinite.

    Example:
        >>> x = torch.zeros(1, 2, 1, dtype=torch.float64)
        >>> covariance(RBFKernel())(x, x).dtype
        torch.float64
    """
    return _double(_Dense(kernel), {f"kernel.{name}": value for name, value in (parameters or {}).items()})


def check_kernel(kernel: Kernel) -> None:
    """Raises a TypeError if something is no kernel."""
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel: expected a gpytorch kernel such as RBFKernel(), got {kernel!r}; build one")


def check_inputs(x: Any) -> None:
    """Raises a ValueError where a kernel is given other inputs than vectors."""
    if not isinstance(x, Tensor) or x.dim() != 3:
        raise ValueError(
            f"x: expected a kernel's inputs (B, N, D), got shape {tuple(getattr(x, 'shape', ()))}; let the features end in "
            "nn.Flatten(), as those of MLP and Conv4 do"
        )


def cholesky(matrix: Tensor, name: str) -> Tensor:
    """The lower Cholesky factors of B matrices ``(B, N, N)``, with a little jitter where one needs it.

    Raises:
        torch.linalg.LinAlgError: a matrix is not positive definite even with the largest jitter; the message names
            the kernel, the task and the condition number.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    jitter = torch.zeros_like(diagonal)
    failed = torch.ones_like(diagonal, dtype=torch.bool)
    for step in _JITTER:
        jitter = torch.where(failed, step * diagonal, jitter)
        factor, info = torch.linalg.cholesky_ex(matrix + jitter[..., None, None] * identity)
        failed = info > 0
        if not failed.any():
            return factor
    task = int(failed.nonzero()[0, 0])
    values = torch.linalg.eigvalsh(matrix.detach()[task].nan_to_num())
    raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
        f"kernel {name}: expected a positive definite covariance, got eigenvalues {values[0]:.2e} to {values[-1]:.2e} "
        f"(condition number {(values[-1] / values[0].abs()).item():.1e}) in task {task}; raise the noise, "
        "remove duplicate inputs, or look for NaN in the kernel's inputs and parameters"
    )


class GaussianProcess(Posterior):
    """The exact posterior of a Gaussian process with Gaussian noise, for B tasks at once.

    f* | y ~ N(m* + K*ᵀ (K + σ² I)⁻¹ (y - m), K** - K*ᵀ (K + σ² I)⁻¹ K*) (Rasmussen & Williams 2006, eqs. 2.22 to 2.24).
    Unobserved rows become rows of the identity, which leave the others as they are.

    Args:
        kernel: a gpytorch kernel on inputs ``(B, N, D)``.
        mean: a gpytorch mean, or None for zero.
        noise: σ, the noise's standard deviation: a scalar tensor, or each task's own ``(B,)``.
        support: the B tasks' points, ``*X = (D,)``. Several targets are independent given the kernel.
        parameters: of the kernel by name, each with a leading B: each task's own, in the place of the kernel's.
    """

    def __init__(
        self, kernel: Kernel, mean: Mean | None, noise: Tensor, support: Points, parameters: Params | None = None
    ) -> None:
        super().__init__(support)
        check_inputs(support.x)
        self.name = type(kernel).__name__
        self.kernel = covariance(kernel, parameters)
        self.mean = None if mean is None else _double(mean)
        self.noise = noise.double().clone().reshape(-1, 1, 1)
        x, mask = support.x.double().clone(), support.mask.clone()  # the user may fill the same tensors anew
        self._condition(x, support.y.double(), mask, cholesky(self._noisy(x, mask), self.name))

    def _noisy(self, x: Tensor, mask: Tensor) -> Tensor:
        """K + σ² I ``(B, N, N)``, with rows of the identity where nothing is observed."""
        observed = mask[:, :, None] & mask[:, None, :]
        identity = torch.eye(mask.shape[1], dtype=x.dtype, device=x.device)
        return torch.where(observed, self.kernel(x, x) + self.noise**2 * identity, identity)

    def _condition(self, x: Tensor, y: Tensor, mask: Tensor, factor: Tensor) -> None:
        self.x, self.y, self.mask, self.cholesky = x, y, mask, factor
        self.residual = (y - self._mean(x)) * mask[..., None]  # (B, N, Y)
        self.solution = torch.cholesky_solve(self.residual, factor)  # (B, N, Y)

    def log_marginal_likelihood(self) -> Tensor:
        """log p(y | x) of each task's support, ``(B,)`` nats, summed over points and targets (eq. 2.30 of the book)."""
        count = self.mask.sum(1) * self.residual.shape[-1]
        quadratic = (self.residual * self.solution).sum((1, 2))
        log_determinant = 2 * self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1) * self.residual.shape[-1]
        log_density = -0.5 * (quadratic + log_determinant + count * math.log(2 * math.pi))
        return log_density.to(self.support.y.dtype)

    def observe(self, name: str) -> None:
        """Observes the support's targets as one joint normal for each target: a Pyro site, inside a plate of the B tasks."""
        mean = ((self.y - self.residual) * self.mask[..., None]).mT  # (B, Y, N)
        normal: Any = MultivariateNormal(mean, scale_tril=self.cholesky[:, None], validate_args=False)
        unobserved = (~self.mask).sum(1) * mean.shape[1]  # standard normals at zero
        pyro.factor(f"{name} padding", 0.5 * math.log(2 * math.pi) * unobserved)
        pyro.sample(name, normal.to_event(1), obs=(self.y * self.mask[..., None]).mT)

    def leave_one_out(self) -> Distribution:
        """Each support point's predictive from all others of its task, batch ``(B, N)``, event ``(Y,)`` (eqs. 5.10 to 5.12).

        Its entries where nothing is observed mean nothing.
        """
        precision = torch.cholesky_inverse(self.cholesky).diagonal(dim1=1, dim2=2)[..., None]
        return self._normal(self.y - self.solution / precision, precision.rsqrt())

    def covariance(self, x: Any) -> Tensor:
        """The covariance of the function's values at x given the support, without noise: ``(B, M, M)``, float64."""
        inputs = self._inputs(x).double()
        _, reduced = self._cross(inputs)
        return self.kernel(inputs, inputs) - reduced.mT @ reduced

    def update(self, points: Points) -> GaussianProcess:
        """The posterior after some more points of the same B tasks, ``(B, M, D)``: this one stays as it is.

        The Cholesky factor grows by a block, in O(N² M) operations where a new posterior takes O((N + M)³).

        Example:
            >>> first = points([0.0, 1.0], [0.0, 1.0])
            >>> posterior = GaussianProcess(RBFKernel(), None, torch.tensor(0.1), first)
            >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
            torch.Size([1, 1, 1])
        """
        points = Points(self._inputs(points.x), points.y.to(self.support.y), points.mask.to(self.mask.device))
        check_event(self.support.y.shape[2:], points.y.shape[2:])
        x, mask = points.x.double(), points.mask
        cross = self.kernel(self.x, x) * self.mask[..., None] * mask[:, None]  # (B, N, M)
        below = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
        corner = cholesky(self._noisy(x, mask) - below.mT @ below, self.name)
        factor = torch.cat(
            [
                torch.cat([self.cholesky, torch.zeros_like(cross)], 2),
                torch.cat([below.mT, corner], 2),
            ],
            1,
        )
        later = copy(self)
        later.support = concatenate(self.support, points)
        y = torch.cat([self.y, points.y.double()], 1)
        later._condition(torch.cat([self.x, x], 1), y, torch.cat([self.mask, mask], 1), factor)
        return later

    def _mean(self, x: Tensor) -> Tensor:
        if self.mean is None:
            return x.new_zeros(*x.shape[:2], 1)
        return self.mean(x)[..., None]

    def _cross(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean ``(B, M, Y)`` and L⁻¹ K* ``(B, N, M)``."""
        cross = self.kernel(self.x, x) * self.mask[..., None]
        mean = self._mean(x) + cross.mT @ self.solution
        return mean, torch.linalg.solve_triangular(self.cholesky, cross, upper=False)

    def _predictive(self, x: Any) -> Distribution:
        mean, variance = self._function(x.double())
        return self._normal(mean, (variance + self.noise**2).sqrt())

    def _function(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(B, M, Y)`` and variance ``(B, M, 1)`` of the function without noise."""
        mean, reduced = self._cross(x)
        return mean, (self.kernel(x, x, True) - reduced.square().sum(1)).clamp(min=0)[..., None]

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        mean, variance = self._function(x.double())
        epistemic = variance.expand_as(mean).to(self.support.y.dtype)
        return (self.noise**2).to(epistemic).expand_as(epistemic), epistemic

    def _draws(self, x: Any, samples: int) -> Distribution:
        mean, _ = self._cross(x.double())
        factor = cholesky(self.covariance(x), self.name)
        normal = torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        return self._normal(mean + factor @ normal, self.noise)

    def _normal(self, mean: Tensor, scale: Tensor) -> Distribution:
        dtype = self.support.y.dtype
        return Normal(mean.to(dtype), scale.expand_as(mean).to(dtype), validate_args=False).to_event(1)
