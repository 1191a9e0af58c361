"""Adaptive deep kernel fitting by the implicit function theorem: each task fits its kernel, all tasks share the features.

Chen, Tripp & Hernández-Lobato 2023, "Meta-learning Adaptive Deep Kernel Gaussian Processes for Molecular Property
Prediction", https://arxiv.org/abs/2205.02708 (equations 4 to 7). φ are the kernel's parameters and log σ, ω those of the
features. A task fits

    φ*(ω) = argmin_φ  L(φ, ω) = -log p(y_S | x_S, φ, ω) + ‖φ - φ₀‖² / 2τ²

on its support S, less log p(φ) if the kernel was built with priors, from the shared φ₀, by J damped Newton steps, and ω and φ₀
descend the query's -(1/M) Σ log p(y | x, S, φ*(ω), ω) with the hypergradient through φ*,

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
from bayesmeta.gaussian_process import GaussianProcess, check_kernel, log_prior
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
        process = self._process(embedded, self._fit(embedded))
        return Transformed(process, support, Frozen(self.features, self.strategy).over_tasks, further=_refuse)

    def _embedded(self, support: Points) -> Points:
        return support._replace(x=Frozen(self.features, self.strategy).over_tasks(support.x))

    @property
    def _kernel(self) -> Any:
        return self.fitted["kernel"]

    def _own(self, fitted: Tensor) -> tuple[Params, Tensor]:
        """Each task's parameters of the kernel, by name, and its σ ``(B,)``."""
        like = adaptable(self.fitted)
        values = unravel(fitted, like)
        own = {name.removeprefix("kernel."): value for name, value in values.items() if name.startswith("kernel.")}
        likelihood: Any = self.fitted["likelihood"]
        return own, standard_deviation(values.get("likelihood.log_scale", likelihood.log_scale)).expand(len(fitted))

    def _process(self, embedded: Points, fitted: Tensor) -> GaussianProcess:
        own, noise = self._own(fitted)
        return GaussianProcess(self._kernel, None, noise, embedded, own)

    def _objective(self, embedded: Points, fitted: Tensor, start: Tensor) -> Tensor:
        """L of each task, ``(B,)``."""
        evidence = self._process(embedded, fitted).log_marginal_likelihood()
        density = evidence.to(fitted) + log_prior(self._kernel, self._own(fitted)[0]).to(fitted)
        return (fitted - start).square().sum(1) / (2 * self.deviation**2) - density

    def _fit(self, embedded: Points) -> Tensor:
        start = ravel(adaptable(self.fitted)).double()
        fixed = embedded._replace(x=embedded.x.detach())
        fitted = start.detach().expand(len(embedded.mask), -1)
        for _ in range(self.steps):
            before, fitted = fitted, self._newton(fixed, fitted, start.detach())
            if readable(fitted) and torch.allclose(fitted, before, rtol=0, atol=1e-9):
                break
        if not torch.is_grad_enabled():
            return fitted
        # One more step, of which only the slope is differentiated: it moves nothing at the minimum, and its derivative
        # is the implicit function theorem's.
        slope, hessian = self._derivatives(embedded, fitted, start, create_graph=True)
        return fitted - _solve(hessian.detach(), slope - slope.detach())

    def _newton(self, embedded: Points, fitted: Tensor, start: Tensor) -> Tensor:
        """The best of the steps with more or less damping, and of none."""
        slope, hessian = self._derivatives(embedded, fitted, start)
        damping = torch.tensor(_DAMPING, dtype=fitted.dtype, device=fitted.device)[:, None, None, None]
        unit = torch.eye(fitted.shape[1], dtype=fitted.dtype, device=fitted.device) / self.deviation**2
        steps = _solve(hessian + damping * unit, slope).clamp(-2 * self.deviation, 2 * self.deviation)
        candidates = torch.cat([fitted - steps, fitted[None]])  # (C, B, P), asked as so many tasks
        count = len(candidates)
        with torch.no_grad():
            values = self._objective(_copies(embedded, count), candidates.flatten(0, 1), start).unflatten(
                0, (count, -1)
            )
        rounding = 1e-9 * torch.arange(count, device=values.device)  # near the minimum the full step converges
        best = (values.nan_to_num(nan=torch.inf) + rounding[:, None]).argmin(0)
        return candidates[best, torch.arange(len(best), device=best.device)]

    def _derivatives(
        self, embedded: Points, fitted: Tensor, start: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Slope ``(B, P)`` and Hessian ``(B, P, P)`` of L in φ: of a copy of the tasks for each row, so that all come at once."""
        tasks, size = fitted.shape
        with torch.enable_grad():
            at = fitted.detach().repeat(size, 1).requires_grad_()
            value = self._objective(_copies(embedded, size), at, start).sum()
            (slope,) = torch.autograd.grad(value, at, create_graph=True)
            picked = slope.unflatten(0, (size, tasks)).diagonal(dim1=0, dim2=2).sum()  # of the i-th copy the i-th
            (rows,) = torch.autograd.grad(picked, at, retain_graph=create_graph)
        slope = slope[:tasks]
        return slope if create_graph else slope.detach(), rows.unflatten(0, (size, tasks)).movedim(0, 1)


def _copies(points: Points, count: int) -> Points:
    """The same tasks so many times, one copy after the other."""
    return Points(*(part.repeat(count, *[1] * (part.dim() - 1)) for part in points))


def _refuse(points: Points) -> Points:
    refuse_update("one whose kernel was fitted to the whole support")


def _solve(hessian: Tensor, slope: Tensor) -> Tensor:
    """H⁻¹ slope, with the sign of negative eigenvalues turned: a step then goes downhill."""
    values, vectors = torch.linalg.eigh(hessian)
    along = (vectors.mT @ slope[..., None]) / values.abs().clamp(min=1e-6)[..., None]
    return (vectors @ along).squeeze(-1)
