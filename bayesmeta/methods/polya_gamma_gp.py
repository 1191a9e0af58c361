"""Gaussian-process classification with the one-vs-each likelihood, made conjugate by Pólya-Gamma variables.

Snell & Zemel 2021, "Bayesian Few-Shot Classification with One-vs-Each Pólya-Gamma Augmented Gaussian Processes",
https://arxiv.org/abs/2007.10417 (equations 5 to 12). One latent function a class, f_c ~ GP(0, k(h(x), h(x'))), and

    p(y | f) ∝ Π_{c ≠ y} σ(f_y - f_c).

With ψ = Uᵀ f all differences f_y - f_c of all points and H = Uᵀ K U their prior covariance, each factor is
σ(ψ) = ½ ∫ exp(ψ/2 - ω ψ²/2) PG(ω | 1, 0) dω (Polson, Scott & Windle 2013, https://arxiv.org/abs/1205.0310), so that given ω

    ψ | ω, y ~ N(Σ ½, Σ),   Σ = (H⁻¹ + diag(ω))⁻¹,   ω | ψ ~ PG(1, ψ).

Mean field: ω = E PG(1, c) = tanh(c/2) / (2c) with c² = E ψ², a bound on the log evidence that each round raises:
Σ [ln σ(c) - c/2 + ω c²/2] - ½ log |I + √ω H √ω| + ½ ½ᵀ Σ ½. Gibbs: draws of the two in turn, in C chains.
"""

from __future__ import annotations

import math
from typing import final

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.gaussian_process import GPClassifier, Sites, cholesky
from bayesmeta.likelihoods import OneVsEach
from bayesmeta.objectives import Objective, Predictive
from bayesmeta.randomness import standard_normal

__all__ = ["PolyaGammaGP", "polya_gamma"]


@final
class PolyaGammaGP(GPClassifier):
    """A one-vs-each Gaussian process, by mean-field updates or by Gibbs chains. For labels.

    Predictions average the normalised one-vs-each likelihood over 128 fixed quasi-random draws of each point's functions:
    deterministic by mean field; with chains ω is drawn at adaptation from torch's global generator.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``.
        kernel: any gpytorch kernel on features, shared by the W functions; `fit` starts its lengthscales if they are gpytorch's
            own.
        classes: W, the number of classes of a task; an attribute, which may be set to another number for other tasks.
        objective: what training descends, `Predictive`, or an `ELBO`, here the mean-field bound on the log evidence of all of a
            task's points in the place of the two programs' bound.
        chains: C Gibbs chains for the posterior, or 0 for mean field. Through the chains' ω goes no gradient: train by mean
            field and set `chains` for testing, or train on the gradient at fixed ω.
        steps: the number of rounds of mean-field updates, or of each Gibbs chain.

    Raises:
        ValueError: a label is not below `classes`, points times classes are too many for a matrix of their pairs, a number is
            out of range, or the features keep running statistics.

    Example:
        >>> learner = PolyaGammaGP(MLP(1, 1).features, RBFKernel(), classes=2)
        >>> learner(points([-1.0, 1.0], [0, 1], classes=2))([0.5]).probs.shape
        torch.Size([1, 1, 2])
    """

    def __init__(
        self,
        features: nn.Module,
        kernel: Kernel,
        *,
        classes: int,
        objective: Objective = Predictive(draws=64),
        chains: int = 0,
        steps: int = 10,
    ) -> None:
        super().__init__(features, kernel, OneVsEach(), classes=classes, objective=objective)
        check_count("chains", chains, least=0)
        check_count("steps", steps)
        self.chains = chains
        self.steps = steps

    def log_likelihood(self, values: Tensor, points: Points) -> Tensor:
        """log Π σ(f_y - f_c), the factors as they are, without the sum over classes that would normalise them."""
        own = values.gather(-1, points.y.expand(values.shape[:-1])[..., None])
        factors = F.logsigmoid(own - values).sum(-1) - math.log(0.5)  # all classes, less the class itself
        return (factors * points.mask).sum(-1)

    def _differences(self, points: Points, dtype: torch.dtype) -> Tensor:
        """U ``(B, N, W, J)``, J = W - 1: at each point e_y - e_c for all c ≠ y; zero where nothing is observed."""
        others = torch.arange(1, self.classes, device=points.y.device)
        columns = F.one_hot((points.y[..., None] + others) % self.classes, self.classes).mT
        own = F.one_hot(points.y % self.classes, self.classes)[..., None]
        return (own - columns).to(dtype) * points.mask[..., None, None]

    def _mean_field(self, kernel: Tensor, points: Points) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ω ``(B, N J)``, E ψ given ω, c, and the log of the normaliser ``(B,)``."""
        gram, observed = self._gram_of_differences(kernel, points)
        second = gram.diagonal(dim1=1, dim2=2)
        for _ in range(self.steps):
            c = torch.where(observed, second, 1.0).clamp(min=1e-12).sqrt()
            omega = torch.tanh(c / 2) / (2 * c) * observed
            mean, variance, log_normaliser = self._condition(gram, omega, observed)
            second = mean.square() + variance
        return omega, mean, c, log_normaliser

    def _gram_of_differences(self, kernel: Tensor, points: Points) -> tuple[Tensor, Tensor]:
        """H ``(B, N J, N J)`` and which of its rows are observed."""
        u = self._differences(points, kernel.dtype)
        gram = torch.einsum("bnwj,bmwl,bnm->bnjml", u, u, kernel)
        size = gram.shape[1] * gram.shape[2]
        return gram.reshape(len(gram), size, size), points.mask.repeat_interleave(self.classes - 1, 1)

    def _condition(self, gram: Tensor, omega: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of ψ given ω, each ``(..., N J)``, and log ∫ N(ψ | 0, H) exp(½ᵀ ψ - ½ ψᵀ diag(ω) ψ) dψ."""
        root, reduced = self._reduced(gram, omega)
        half = 0.5 * observed.to(gram)
        mean = (gram @ half[..., None] - reduced.mT @ (reduced @ half[..., None]))[..., 0]
        variance = gram.diagonal(dim1=-2, dim2=-1) - reduced.square().sum(-2)
        log_normaliser = 0.5 * (half * mean).sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return mean, variance.clamp(min=0), log_normaliser

    def _reduced(self, gram: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
        """L, the Cholesky factor of I + √ω H √ω, and L⁻¹ √ω H."""
        root_omega = (omega + (omega == 0)).sqrt() * (omega != 0)  # the slope of a root at zero is infinite
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        scaled = root_omega[..., None] * gram
        inner = identity + scaled * root_omega[..., None, :]
        root = cholesky(inner.flatten(0, -3), type(self.kernel).__name__).reshape(inner.shape)
        return root, torch.linalg.solve_triangular(root, scaled, upper=False)

    @torch.no_grad()
    def _gibbs(self, kernel: Tensor, points: Points) -> Tensor:
        """ω at the end of C chains, ``(C, B, N J)``."""
        gram, observed = self._gram_of_differences(kernel, points)
        prior_root = cholesky(gram + torch.diag_embed((~observed).to(gram)), type(self.kernel).__name__)
        omega = torch.full((self.chains, *observed.shape), 0.25).to(gram) * observed
        for _ in range(self.steps):
            root, reduced = self._reduced(gram, omega)
            mean, _, _ = self._condition(gram, omega, observed)
            # Matheron's rule: a draw of the prior, shared by the tasks, and its correction.
            noise = standard_normal(2, self.chains, 1, observed.shape[1], like=gram)
            prior = (prior_root @ noise[0][..., None])[..., 0]
            observed_draw = omega.sqrt() * prior + noise[1]
            whitened = torch.linalg.solve_triangular(root, observed_draw[..., None], upper=False)
            psi = mean + prior - (reduced.mT @ whitened)[..., 0]
            normal = standard_normal(2, self.chains, 1, observed.shape[1], _TERMS, like=gram)
            numbers = normal.square().sum(0) / 2  # of the distribution Exp(1)
            omega = polya_gamma(psi, numbers) * observed
        return omega

    def sites(self, kernel: Tensor, points: Points) -> Sites:
        u = self._differences(points, kernel.dtype)
        if self.chains:
            omega = self._gibbs(kernel, points)
            gram, observed = self._gram_of_differences(kernel, points)
            mean = self._condition(gram, omega, observed)[0]
        else:
            omega, mean = (part[None] for part in self._mean_field(kernel, points)[:2])
        shape = (*omega.shape[:2], *u.shape[1:2], u.shape[3])
        slope = (0.5 * points.mask.repeat_interleave(u.shape[3], 1) - omega * mean).reshape(shape)
        scale = (omega + (omega == 0)).sqrt().reshape(shape)
        return Sites(torch.einsum("bnwj,cbnj->cbnw", u, slope), u * scale[..., None, :])

    def evidence(self, episode: Episode) -> Tensor:
        points = self._embedded(self.observed(episode))
        omega, _, c, log_normaliser = self._mean_field(self._gram(points), points)
        observed = points.mask.repeat_interleave(self.classes - 1, 1)
        local = (F.logsigmoid(c) - c / 2 + omega * c.square() / 2) * observed
        return (local.sum(1) + log_normaliser).to(points.x.dtype) + self.log_prior()


_TERMS = 32


def polya_gamma(c: Tensor, numbers: Tensor) -> Tensor:
    """PG(1, c) for each entry of c, made of 32 numbers of the distribution Exp(1) for each, ``(*c.shape, 32)``.

    PG(1, c) = (1 / 2π²) Σ_k g_k / ((k - ½)² + c² / 4π²) with g_k ~ Exp(1) (Polson et al., eq. 1): the terms beyond are
    replaced by their mean, whose neglected variance is below 3e-8 (PG(1, 0) has 1/24).

    Example:
        >>> polya_gamma(torch.zeros(4), torch.ones(4, 32))  # all numbers at their mean: E PG(1, 0)
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    offsets = (torch.arange(_TERMS, device=c.device, dtype=c.dtype) + 0.5).square()
    inverse = 1 / (offsets + (c / (2 * math.pi))[..., None].square()) / (2 * math.pi**2)
    size = c.abs().clamp(min=1e-6)
    mean = torch.tanh(size / 2) / (2 * size)
    return (numbers * inverse).sum(-1) + (mean - inverse.sum(-1))
