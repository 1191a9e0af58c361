"""Adaptive deep kernel fitting by the implicit function theorem: each task fits its kernel, all tasks share the features.

Chen, Tripp & Hernández-Lobato 2023, "Meta-learning Adaptive Deep Kernel Gaussian Processes for Molecular Property
Prediction", https://arxiv.org/abs/2205.02708 (equations 4 to 7). φ are the kernel's parameters and log σ, ω those of the
features. A task fits

    φ*(ω) = argmin_φ  L(φ, ω) = -log p(y_S | x_S, φ, ω) + ‖φ - φ₀‖² / 2τ²

on its support S, less log p(φ) if the kernel was built with priors, from the shared φ₀, by J damped Newton steps, and ω and φ₀
descend the query's ``-(1/M) Σ log p(y | x, S, φ*(ω), ω)`` with the hypergradient through ``φ*``,

    dφ*/dω = -(∂²L/∂φ²)⁻¹ ∂²L/∂φ∂ω,

and likewise for φ₀, exact where φ* is the minimum. The term in τ keeps a task of few points near what other tasks have.
"""

from __future__ import annotations

from typing import Any, final

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from bayesmeta.answers import refuse_update
from bayesmeta.border import check_count, check_positive, readable
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, adaptable, ravel, unravel
from bayesmeta.gaussian_process import GaussianProcess, check_kernel, cholesky, covariance, log_prior, noisy
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Gaussian, check_gaussian, standard_deviation
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed

__all__ = ["ADKF"]

_DAMPING = (0.0, 1.0, 10.0, 100.0)
"""Added to the Hessian's diagonal, in units of 1/τ²; of the steps that these give, each task takes the best."""


@final
class ADKF(Learner):
    """A Gaussian process on shared features whose kernel and noise each task fits for itself (ADKF-IFT). For real targets.

    Predictions are deterministic, in closed form. Where tasks differ in scale, smoothness or noise it has what `DKT` lacks.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``.
        kernel: any gpytorch kernel on features, with few parameters: φ, whose Hessian is built. `fit` starts its lengthscales,
            in φ₀, if they are gpytorch's own.
        likelihood: a `Gaussian` with one σ, where each task starts.
        steps: J, the number of Newton steps by which a task fits its kernel.
        deviation: τ, how far a task's φ may go from the shared one, as a standard deviation of raw parameters, which are
            logarithms or nearly so.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, the features keep running statistics, or a number is out
            of range.

    Example:
        >>> learner = ADKF(MLP(1, 1).features, RBFKernel(), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self, features: nn.Module, kernel: Kernel, likelihood: Gaussian, *, steps: int = 6, deviation: float = 1.0
    ) -> None:
        super().__init__()
        check_network(features)
        check_gaussian(likelihood)
        check_kernel(kernel)
        check_count("steps", steps)
        check_positive("deviation", deviation)
        self.features = features
        self.fitted = nn.ModuleDict({"kernel": kernel, "likelihood": likelihood})
        self.steps = steps
        self.deviation = deviation

    def infer(self, support: Points) -> Tensor:
        """φ* of each task, ``(B, P)``, float64."""
        return self._fit(self._embedded(support))

    def forward(self, support: Points) -> Posterior:
        embedded = self._embedded(support)
        own, noise = _own(self.fitted, self._fit(embedded))
        process = GaussianProcess(self._kernel, None, noise, embedded, own)
        return Transformed(process, support, Frozen(self.features, self.strategy).over_tasks, further=_refuse)

    def _embedded(self, support: Points) -> Points:
        return support._replace(x=Frozen(self.features, self.strategy).over_tasks(support.x))

    @property
    def _kernel(self) -> Any:
        return self.fitted["kernel"]

    def _fit(self, embedded: Points) -> Tensor:
        start = ravel(adaptable(self.fitted)).double()
        embedded = embedded._replace(x=embedded.x.double(), y=embedded.y.double())  # near a minimum digits decide
        fixed = _Objective(self.fitted, embedded._replace(x=embedded.x.detach()), start.detach(), self.deviation)
        fitted = start.detach().expand(len(embedded.mask), -1)
        for _ in range(self.steps):
            before, fitted = fitted, _newton(fixed, fitted)
            if readable(fitted) and torch.allclose(
                fitted, before, rtol=0, atol=1e-5
            ):  # the next would move by the square
                break
        if not torch.is_grad_enabled():
            return fitted
        # One more step, of which only the slope is differentiated: it moves nothing at the minimum, and its derivative
        # is the implicit function theorem's.
        at = fitted.detach().requires_grad_()
        value = _Objective(self.fitted, embedded, start, self.deviation)(at).sum()
        (slope,) = torch.autograd.grad(value, at, create_graph=True)
        return fitted - _solve(fixed.derivatives(fitted)[1], slope - slope.detach())


class _Objective:
    """L of B tasks, but for a constant, and its first two derivatives in φ.

    Args:
        module: the kernel and the likelihood.
        embedded: the tasks' supports, of features, float64.
        start: φ₀ ``(P,)``.
        deviation: τ.
    """

    def __init__(self, module: nn.ModuleDict, embedded: Points, start: Tensor, deviation: float) -> None:
        self.module, self.embedded, self.start, self.deviation = module, embedded, start, deviation
        self.y = embedded.y * embedded.mask[..., None]
        self.kernel = covariance(module["kernel"])

    def _cholesky(self, matrix: Tensor) -> Tensor:
        return cholesky(matrix, type(self.module["kernel"]).__name__)

    def _covariance(self, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """C = K + σ² I ``(K B, N, N)`` and log p(φ) at φ ``(K B, P)``, the tasks K times in turn."""
        own, noise = _own(self.module, fitted)
        x = _repeated(self.embedded.x, len(fitted))
        mask = _repeated(self.embedded.mask, len(fitted))
        between = noisy(self.kernel(x, x, False, own), noise.double()[:, None, None], mask)
        return between, log_prior(self.module["kernel"], own)

    def __call__(self, fitted: Tensor) -> Tensor:
        """L ``(K B,)`` at φ ``(K B, P)``, the tasks K times in turn."""
        between, density = self._covariance(fitted)
        root, y = self._cholesky(between), _repeated(self.y, len(fitted))
        misfit = 0.5 * torch.linalg.solve_triangular(root, y, upper=False).square().sum((1, 2))
        volume = y.shape[2] * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return misfit + volume - density + (fitted - self.start).square().sum(1) / (2 * self.deviation**2)

    def derivatives(self, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """Slope ``(B, P)`` and Hessian ``(B, P, P)`` at φ ``(B, P)``, of which autograd sees C alone.

        With C = R Rᵀ, α = C⁻¹ y and V = (C⁻¹ - α αᵀ) / 2, of one target, the slope of -log p(y) is ⟨V, ∂ᵢC⟩ (Rasmussen & Williams
        2006, eq. 5.9), and its Hessian ⟨V, ∂ᵢ∂ⱼC⟩ + (R⁻¹ ∂ᵢC α)·(R⁻¹ ∂ⱼC α) - ⟨R⁻¹ ∂ᵢC R⁻ᵀ, R⁻¹ ∂ⱼC R⁻ᵀ⟩ / 2. The tasks come in
        a copy for each i: ⟨V, ∂ᵢC⟩ has the derivative ∂ᵢC in V and ⟨V, ∂ᵢ∂ⱼC⟩ in φ, all at once.
        """
        tasks, size = fitted.shape
        targets = self.y.shape[2]
        with torch.enable_grad():
            at = fitted.detach().repeat(size, 1).requires_grad_()
            between, density = self._covariance(at)
            root = self._cholesky(between[:tasks].detach())
            alpha = torch.cholesky_solve(self.y, root)
            weight = 0.5 * (targets * torch.cholesky_inverse(root) - alpha @ alpha.mT)
            weight = weight.repeat(size, 1, 1).requires_grad_()
            value = (weight * between).sum() - density.sum()
            (slope,) = torch.autograd.grad(value, at, create_graph=True)
            picked = slope.unflatten(0, (size, tasks)).diagonal(dim1=0, dim2=2).sum()  # of the i-th copy the i-th
            first, second = torch.autograd.grad(picked, (weight, at))
        half = torch.linalg.solve_triangular(root, first.unflatten(0, (size, tasks)), upper=False)  # (P, B, N, N)
        pulls = (half @ alpha).flatten(2).movedim(0, 1)  # (B, P, N Y)
        whole = torch.linalg.solve_triangular(root, half.mT, upper=False).flatten(2).movedim(0, 1)
        hessian = second.unflatten(0, (size, tasks)).movedim(0, 1) + pulls @ pulls.mT - targets / 2 * whole @ whole.mT
        away = (fitted - self.start) / self.deviation**2
        return slope[:tasks].detach() + away, hessian + torch.eye(size).to(hessian) / self.deviation**2


def _newton(objective: _Objective, fitted: Tensor) -> Tensor:
    """The best of the steps with more or less damping, and of none."""
    slope, hessian = objective.derivatives(fitted)
    damping = torch.tensor(_DAMPING, dtype=fitted.dtype, device=fitted.device)[:, None, None, None]
    unit = torch.eye(fitted.shape[1], dtype=fitted.dtype, device=fitted.device) / objective.deviation**2
    steps = _solve(hessian + damping * unit, slope).clamp(-2 * objective.deviation, 2 * objective.deviation)
    candidates = torch.cat([fitted - steps, fitted[None]])  # (C, B, P), asked as so many tasks
    with torch.no_grad():
        values = objective(candidates.flatten(0, 1)).unflatten(0, (len(candidates), -1))
    rounding = 1e-9 * torch.arange(len(candidates), device=values.device)  # near the minimum the full step converges
    best = (values.nan_to_num(nan=torch.inf) + rounding[:, None]).argmin(0)
    return candidates[best, torch.arange(len(best), device=best.device)]


def _own(module: nn.ModuleDict, fitted: Tensor) -> tuple[Params, Tensor]:
    """Each task's parameters of the kernel, by name, and its σ ``(B,)``."""
    values = unravel(fitted, adaptable(module))
    own = {name.removeprefix("kernel."): value for name, value in values.items() if name.startswith("kernel.")}
    likelihood: Any = module["likelihood"]
    return own, standard_deviation(values.get("likelihood.log_scale", likelihood.log_scale)).expand(len(fitted))


def _repeated(part: Tensor, count: int) -> Tensor:
    """What B tasks have, until there are so many: one copy of all after the other."""
    return part.repeat(count // len(part), *[1] * (part.dim() - 1))


def _refuse(points: Points) -> Points:
    refuse_update("one whose kernel was fitted to the whole support")


def _solve(hessian: Tensor, slope: Tensor) -> Tensor:
    """H⁻¹ slope, with the sign of negative eigenvalues turned: a step then goes downhill."""
    values, vectors = torch.linalg.eigh(hessian)
    along = (vectors.mT @ slope[..., None]) / values.abs().clamp(min=1e-6)[..., None]
    return (vectors @ along).squeeze(-1)
