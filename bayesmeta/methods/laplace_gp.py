"""Gaussian-process classification by Laplace's approximation, with a kernel on features that all tasks share.

Williams & Barber 1998, "Bayesian classification with Gaussian processes"; Rasmussen & Williams 2006, "Gaussian Processes for
Machine Learning", section 3.5, http://gaussianprocess.org/gpml/. One latent function a class, f_c ~ GP(0, k(h(x), h(x'))), and

    p(y | f) = softmax(f)_y,    f̂ = argmax log p(y | f) - ½ fᵀ K⁻¹ f   (Newton steps, eq. 3.39),
    q(f) = N(f̂, (K⁻¹ + Λ)⁻¹),   Λ = diag(p) - p pᵀ at each point,
    log p(y) ≈ log p(y | f̂) - ½ f̂ᵀ K⁻¹ f̂ - ½ log |I + Sᵀ K S|,   Λ = S Sᵀ   (eq. 3.44).
"""

from __future__ import annotations

from typing import final

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from bayesmeta.data import Episode, Points
from bayesmeta.gaussian_process import GPClassifier, Sites
from bayesmeta.gaussian_process.class_process import precision_factor
from bayesmeta.likelihoods import Categorical
from bayesmeta.objectives import Objective, Predictive

__all__ = ["LaplaceGP"]

_STEPS = 12
"""Newton's steps to the mode, at most; it converges quadratically."""
_LENGTHS = (1.0, 0.5, 0.1, 0.01)
"""Of a step, of which each task takes the best: a full step may overshoot where the kernel is large."""


@final
class LaplaceGP(GPClassifier):
    """A softmax Gaussian process whose posterior is the Gaussian at the mode. For labels.

    Predictions are deterministic: the softmax is averaged over 128 fixed quasi-random draws of each point's functions.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``.
        kernel: any gpytorch kernel on features, shared by the W functions; `fit` starts its lengthscales if they are gpytorch's
            own.
        classes: W, the number of classes of a task; an attribute, which may be set to another number for other tasks.
        objective: what training descends, `Predictive`, or an `ELBO`, here the approximate log evidence of all of a task's
            points in the place of the two programs' bound.

    Raises:
        ValueError: a label is not below `classes`, points times classes are too many for a matrix of their pairs, or the
            features keep running statistics.

    Example:
        >>> learner = LaplaceGP(MLP(1, 1).features, RBFKernel(), classes=2)
        >>> learner(points([-1.0, 1.0], [0, 1], classes=2))([0.5]).probs.shape
        torch.Size([1, 1, 2])
    """

    def __init__(
        self, features: nn.Module, kernel: Kernel, *, classes: int, objective: Objective = Predictive(draws=64)
    ) -> None:
        super().__init__(features, kernel, Categorical(), classes=classes, objective=objective)

    def log_likelihood(self, values: Tensor, points: Points) -> Tensor:
        chosen = values.log_softmax(-1).gather(-1, points.y.expand(values.shape[:-1])[..., None]).squeeze(-1)
        return (chosen * points.mask).sum(-1)

    def _mode(self, kernel: Tensor, points: Points) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """At the mode: f̂ ``(B, N, W)``, the weights K⁻¹ f̂, S ``(B, N, W, W)`` and the Cholesky factor of I + Sᵀ K S.

        The steps to the mode carry no gradient. One more from there does, and its gradient is the mode's own: a Newton step
        does not depend, to first order, on where near the fixed point it starts.
        """
        name = type(self.kernel).__name__
        labels = nn.functional.one_hot(points.y.clamp(max=self.classes - 1), self.classes).to(kernel)

        def newton(weights: Tensor, kernel: Tensor) -> Tensor:
            values = kernel @ weights
            p, factor = _softmax(values, points.mask)
            curved = torch.einsum("bnvj,bnwj,bnw->bnv", factor, factor, values)
            linear = curved + (labels - p) * points.mask[..., None]
            root = precision_factor(kernel, factor[None], name)[0]
            seen = torch.einsum("bnwj,bnw->bnj", factor, kernel @ linear).flatten(1)
            solved = torch.cholesky_solve(seen[..., None], root).reshape(*factor.shape[:2], -1)
            return linear - torch.einsum("bnwj,bnj->bnw", factor, solved)

        with torch.no_grad():
            weights = torch.zeros_like(labels)
            for _ in range(_STEPS):
                direction = newton(weights, kernel) - weights
                steps = torch.tensor(_LENGTHS).to(kernel)[:, None, None, None] * direction + weights
                best = self._objective(kernel @ steps, steps, points).argmax(0)  # (B,)
                weights = steps.gather(0, best[None, :, None, None].expand(1, *weights.shape))[0]
                if (direction.abs().amax((1, 2)) < 1e-10).all():
                    break
        weights = newton(weights, kernel)
        values = kernel @ weights
        _, factor = _softmax(values, points.mask)
        return values, weights, factor, precision_factor(kernel, factor[None], name)[0]

    def _objective(self, values: Tensor, weights: Tensor, points: Points) -> Tensor:
        """log p(y | f) - ½ fᵀ K⁻¹ f, ``(..., B)``."""
        return self.log_likelihood(values, points) - 0.5 * (values * weights).sum((-2, -1))

    def sites(self, kernel: Tensor, points: Points) -> Sites:
        _, weights, factor, _ = self._mode(kernel, points)
        return Sites(weights[None], factor[None])

    def evidence(self, episode: Episode) -> Tensor:
        points = self._embedded(self.observed(episode))
        values, weights, _, root = self._mode(self._gram(points), points)
        log_determinant = root.diagonal(dim1=1, dim2=2).log().sum(1)
        return (self._objective(values, weights, points) - log_determinant).to(points.x.dtype) + self.log_prior()


def _softmax(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """p ``(B, N, W)`` and S = diag(√p) - p √pᵀ, ``(B, N, W, W)``, which is zero where nothing is observed."""
    p = values.softmax(-1)
    root = p.clamp(min=1e-300).sqrt()
    factor = torch.diag_embed(root) - p[..., :, None] * root[..., None, :]
    return p, factor * mask[..., None, None]
