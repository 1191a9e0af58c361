"""Exact Gaussian-process conditioning of B tasks at once, with any gpytorch kernel and mean."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyro
import torch
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from pyro.distributions import MultivariateNormal, Normal
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.functional import Params
from bayesmeta.gaussian_process.functions import Paths, each
from bayesmeta.gaussian_process.kernels import check_inputs, covariance, trend
from bayesmeta.gaussian_process.solved import Solved, solved
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import standard_normal

__all__ = ["GaussianProcess", "JointNormal", "cholesky", "noisy"]

_JITTER = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Relative to the mean of the diagonal; each is tried only where the one before fails."""


def cholesky(matrix: Tensor, name: str) -> Tensor:
    """The lower Cholesky factors of B matrices ``(B, N, N)``, with a little jitter where one needs it.

    Compiled code, which does not branch by values, has NaN instead where one needs it.

    Raises:
        torch.linalg.LinAlgError: a matrix is not positive definite even with the largest jitter; the message names
            the kernel, the task and the condition number.
    """
    if torch.compiler.is_compiling():
        factor, info = torch.linalg.cholesky_ex(matrix)
        return torch.where(info[:, None, None] > 0, torch.nan, factor)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    diagonal = torch.where(diagonal > 0, diagonal, 1.0)  # zeros, as of a linear kernel at the origin, are legal
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


def noisy(covariance: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """K + σ² I ``(B, N, N)``, of K and σ ``(B, 1, 1)``, with rows of the identity where nothing is observed."""
    observed = mask[:, :, None] & mask[:, None, :]
    identity = torch.eye(mask.shape[1], dtype=covariance.dtype, device=covariance.device)
    return torch.where(observed, covariance + noise**2 * identity, identity)


class JointNormal(MultivariateNormal):
    """Pyro's multivariate normal, of the library's own random numbers."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        normal = standard_normal(*self._extended_shape(torch.Size(sample_shape)), like=self.loc)
        return self.loc + (self._unbroadcasted_scale_tril @ normal[..., None]).squeeze(-1)


class GaussianProcess(Posterior):
    """The exact posterior of a Gaussian process with Gaussian noise, for B tasks at once.

    ``f* | y ~ N(m* + K*ᵀ (K + σ² I)⁻¹ (y - m), K** - K*ᵀ (K + σ² I)⁻¹ K*)`` (Rasmussen & Williams 2006, eqs. 2.22 to
    2.24). Unobserved rows become rows of the identity, which leave the others as they are.

    Args:
        kernel: a gpytorch kernel on inputs ``(B, N, D)``.
        mean: a gpytorch mean, or None for zero.
        noise: σ, the noise's standard deviation: a scalar tensor, or each task's own ``(B,)``.
        support: the B tasks' points, ``*X = (D,)``. Several targets are independent given the kernel.
        parameters: of the kernel by name, each with a leading B: each task's own, in the place of the kernel's.
    """

    _of_tasks = ("x", "y", "mask", "cholesky", "residual", "solution", "noise", "parameters")

    def __init__(
        self, kernel: Kernel, mean: Mean | None, noise: Tensor, support: Points, parameters: Params | None = None
    ) -> None:
        super().__init__(support)
        check_inputs(support.x)
        self.name = type(kernel).__name__
        self._kernel = covariance(kernel)
        self.parameters = {name: value.double() for name, value in (parameters or {}).items()}
        self.mean = trend(mean)
        self.noise = noise.double().clone().reshape(-1, 1, 1).expand(len(support.mask), 1, 1)
        x, mask = support.x.double().clone(), support.mask.clone()  # the user may fill the same tensors anew
        matrix = self._noisy(x, mask)
        self._condition(x, support.y.double(), mask, cholesky(matrix, self.name), matrix)

    def kernel(self, first: Tensor, second: Tensor, diag: bool = False) -> Tensor:
        """The prior's covariances, see `bayesmeta.gaussian_process.kernels.covariance`, with each task's own parameters."""
        return self._kernel(first, second, diag, self.parameters)

    def _noisy(self, x: Tensor, mask: Tensor) -> Tensor:
        return noisy(self.kernel(x, x), self.noise, mask)

    def _condition(self, x: Tensor, y: Tensor, mask: Tensor, factor: Tensor, matrix: Tensor | None = None) -> None:
        self.x, self.y, self.mask, self.cholesky = x, y, mask, factor
        self.residual = (y - self.mean(x)) * mask[..., None]  # (B, N, Y)
        of_matrix: Any = solved if matrix is None else partial(Solved.apply, matrix)
        self.solution: Tensor
        self.solution, determinant = of_matrix(self.residual, factor)  # (B, N, Y), (B,)
        self._determined = factor, determinant

    def log_marginal_likelihood(self) -> Tensor:
        """log p(y | x) of each task's support, ``(B,)`` nats, summed over points and targets (eq. 2.30 of the book)."""
        count = self.mask.sum(1) * self.residual.shape[-1]
        quadratic = (self.residual * self.solution).sum((1, 2))
        factor, log_determinant = self._determined
        if factor is not self.cholesky:  # of other tasks, or read from a file
            log_determinant = solved(self.residual, self.cholesky)[1]
        log_density = -0.5 * (quadratic + log_determinant * self.residual.shape[-1] + count * math.log(2 * math.pi))
        return log_density.to(self.support.y.dtype)

    def _misfit(self) -> tuple[Tensor, Tensor]:
        return self.mask.sum(1), (self.residual * self.solution).sum(1)

    def observe(self, name: str) -> None:
        """Observes the support's targets as one joint normal for each target: a Pyro site, inside a plate of the B tasks."""
        mean = ((self.y - self.residual) * self.mask[..., None]).mT  # (B, Y, N)
        normal: Any = JointNormal(mean, scale_tril=self.cholesky[:, None], validate_args=False)
        unobserved = (~self.mask).sum(1) * mean.shape[1]  # standard normals at zero
        pyro.factor(f"{name} padding", 0.5 * math.log(2 * math.pi) * unobserved)
        pyro.sample(name, normal.to_event(1), obs=(self.y * self.mask[..., None]).mT)

    def leave_one_out(self) -> Distribution:
        """Each support point's predictive from all others of its task, batch ``(B, N)``, event ``(Y,)`` (eqs. 5.10 to 5.12).

        Its entries where nothing is observed mean nothing.
        """
        precision = torch.cholesky_inverse(self.cholesky).diagonal(dim1=1, dim2=2)[..., None]
        return self._normal(self.y - self.solution / precision, precision.rsqrt())

    def _joint(self, x: Any) -> Joint:
        inputs = x.double()
        mean = self.mean(inputs) + self._cross(inputs).mT @ self.solution
        covariance = self._between(inputs, inputs)[:, None].expand(-1, mean.shape[-1], -1, -1)
        return Joint(mean, covariance, self.noise.expand_as(mean))

    def _between(self, first: Tensor, second: Tensor) -> Tensor:
        """The covariance given the support of the function's values at two sets of points, ``(B, M, L)``.

        Of points of S functions, ``(S, B, M, D)`` and ``(S, B, L, D)``: ``(S, B, M, L)``.
        """
        reduced = self._reduced(first)
        other = reduced if second is first else self._reduced(second)
        return each(self.kernel)(first, second) - reduced.mT @ other

    def _updated(self, points: Points) -> GaussianProcess:
        # The Cholesky factor grows by a block, in O(N² M) operations where a new posterior takes O((N + M)³).
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
        later = self._later()
        y = torch.cat([self.y, points.y.double()], 1)
        later._condition(torch.cat([self.x, x], 1), y, torch.cat([self.mask, mask], 1), factor)
        return later

    def _cross(self, x: Tensor) -> Tensor:
        """K*, ``(B, N, M)``."""
        return self.kernel(self.x, x) * self.mask[..., None]

    def _reduced(self, x: Tensor) -> Tensor:
        """L⁻¹ K*, ``(B, N, M)``; ``(S, B, N, M)`` for points of S functions."""
        if x.dim() == 4:
            together = self._reduced(x.movedim(0, 1).flatten(1, 2))
            return together.unflatten(2, (x.shape[0], x.shape[2])).movedim(2, 0)
        return torch.linalg.solve_triangular(self.cholesky, self._cross(x), upper=False)

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        mean, variance = self._function(x.double())
        return self._normal(mean, (variance + self.noise**2).sqrt())

    def _function(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(B, M, Y)`` and variance ``(B, M, 1)`` of the function without noise."""
        cross = self._cross(x)
        mean = self.mean(x) + cross.mT @ self.solution
        reduced = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
        return mean, (self.kernel(x, x, True) - reduced.square().sum(1)).clamp(min=0)[..., None]

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        mean, variance = self._function(x.double())
        epistemic = variance.expand_as(mean).to(self.support.y.dtype)
        return (self.noise**2).to(epistemic).expand_as(epistemic), epistemic

    def _functions(self, samples: int) -> Functions:
        paths = Paths(self._between, self.name)

        def ask(x: Any, own: bool) -> Distribution:
            inputs = x.double()
            mean = self.mean(inputs) + self._cross(inputs).mT @ self.solution
            variance = self.kernel(inputs.detach(), inputs.detach(), True).detach()
            if own:
                inputs, mean, variance = (apart(part, samples) for part in (inputs, mean, variance))
            normal = standard_normal(samples, *mean.shape[-3:], like=mean)
            return self._normal(mean + paths(inputs, variance, normal), self.noise)

        return ask

    def _normal(self, mean: Tensor, scale: Tensor) -> Distribution:
        dtype = self.support.y.dtype
        return Normal(mean.to(dtype), scale.expand_as(mean).to(dtype), validate_args=False).to_event(1)
