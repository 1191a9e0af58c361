"""Laplace's approximation over a task's head: a Bayesian linear layer on learned features, for counts, yes or no, and labels.

MacKay 1992, "The Evidence Framework Applied to Classification Networks", https://doi.org/10.1162/neco.1992.4.5.720; Bishop 2006,
"Pattern Recognition and Machine Learning", sections 4.4 and 4.5. With features φ(x), a constant among them, outputs
f(x) = Wᵀ φ(x), and a prior that tasks share, each column of W ~ N(its W₀, L Lᵀ),

    Ŵ = argmax log p(y | W) + log p(W)   (Newton's steps),
    q(W) = N(Ŵ, Λ⁻¹),   Λ = Λ₀ + Σ_n φ_n φ_nᵀ ⊗ H_n,   H_n = -∇∇ log p(y_n | f) at f_n   (eq. 4.132),
    log p(y) ≈ log p(y | Ŵ) + log p(Ŵ) + ½ P log 2π - ½ log |Λ|   (eq. 4.137).

It is the generalised linear mixed model of statistics, with features that are learned. φ, W₀, L and the likelihood are learned.

Points that repeat each other, as neighbouring pixels do, are less evidence than as many independent ones. With p(y | W) to the
power η, here and in Λ, each counts as η of a point (Grünwald & van Ommen 2017, "Inconsistency of Bayesian inference for
misspecified linear models, and a proposal for repairing it", https://doi.org/10.1214/17-BA1085, section 1); η is learned by how
well the support foretells the query.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.answers import Functions
from bayesmeta.border import check_positive
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.distributions import has_labels
from bayesmeta.functional import Frozen, with_bias
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import (
    HeteroscedasticGaussian,
    Likelihood,
    StudentT,
    check_event,
    check_labels,
    check_likelihood,
    check_one_label,
    nll,
)
from bayesmeta.networks import check_network
from bayesmeta.objectives import Objective, Predictive, check_objective
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import MarginallyDrawn, heads, linear_prior, normal_numbers, on_features
from bayesmeta.randomness import standard_normal

__all__ = ["LaplaceHead"]

_STEPS = 30
"""Newton's steps to the mode, at most; it converges quadratically, but comes down from a rate that is too high by 1 a step."""
_LENGTHS = (1.0, 0.5, 0.2, 0.05, 0.01, 0.001, 1e-4, 0.0)
"""Of a step, of which each task takes the best: a full step may overshoot, to a rate of exp(count)."""


_REACH = 20.0
"""By how much a step may move a log rate or a logit, so that one of these lengths does: from 0, counts of 1e6 ask for 1e6."""


@final
class LaplaceHead(Learner):
    """A Bayesian linear head on features that all tasks share, whose posterior is the Gaussian at the mode.

    For every likelihood whose logarithm is concave in the outputs, so that there is one mode: `Poisson`, `NegativeBinomial`,
    `Bernoulli`, `Categorical`. (With a `Gaussian` it is `ALPaCA`, but for the objective.) Predictions are deterministic: the
    likelihood is averaged over 128 fixed quasi-random draws of each point's outputs. Smooth features suit it: tanh rather than
    ReLU.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``; `nn.Identity` makes it a mixed model.
        head: the linear module from features to outputs: the prior's mean W₀.
        likelihood: from outputs to p(y | x).
        prior_scale: the initial L is this times the identity.
        objective: what training descends, `Predictive`, the query's NLL given the support, or an `ELBO`, here the approximate log
            evidence of all of a task's points, which needs no draws.
        evidence: the initial η, as how much of a point each one counts, which is then learned; None for points that are
            independent given the outputs, each of which counts as one. Pixels: 0.5.

    Raises:
        TypeError: the head is no linear module, or the likelihood is no likelihood.
        ValueError: another argument is out of range, or the features keep running statistics; η is to be learned by an `ELBO`,
            which would be largest without any evidence; when it adapts, the likelihood is not concave.

    Example:
        >>> learner = LaplaceHead(nn.Identity(), nn.Linear(1, 1), Poisson())
        >>> learner(points([0.0, 1.0], [3, 0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear,
        likelihood: Likelihood,
        *,
        prior_scale: float = 1.0,
        objective: Objective = Predictive(draws=128),
        evidence: float | None = None,
    ) -> None:
        super().__init__()
        check_network(features, "features")
        check_likelihood(likelihood)
        check_one_label(likelihood, "LaplaceHead")
        check_positive("prior_scale", prior_scale)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"head: expected the nn.Linear from features to outputs, got {type(head).__name__}")
        if isinstance(likelihood, (StudentT, HeteroscedasticGaussian)):
            raise ValueError(
                f"likelihood: expected one whose logarithm is concave in the outputs, such as Poisson(), got {likelihood}; "
                "for this one use ABML or VERSA"
            )
        check_objective(objective, drawn=False)
        if evidence is not None:
            check_positive("evidence", evidence)
            if not isinstance(objective, Predictive):
                raise ValueError(
                    f"objective: expected Predictive() where points' evidence is learned, got {objective}, of which it is a "
                    "part; leave one of them out"
                )
        self.features = features
        self.head = head
        self.likelihood = likelihood
        self.objective = objective
        width = head.in_features + 1
        self.root = nn.Parameter(head.weight.detach().new_zeros(width, width))
        self.prior_scale = prior_scale
        self.log_evidence = None if evidence is None else nn.Parameter(self.root.new_tensor(evidence).log())

    def prior(self) -> tuple[Tensor, Tensor]:
        """W₀ ``(F + 1, O)``, and L ``(F + 1, F + 1)``, lower triangular."""
        return linear_prior(self.head, self.root, self.prior_scale)

    def _posterior(self, points: Points, features: Frozen) -> _Mode:
        mean, root = self.prior()
        precision = torch.cholesky_inverse(root.double())
        share = 1.0 if self.log_evidence is None else self.log_evidence.double().exp()
        return _Mode(mean.double(), precision, self.likelihood, points._replace(x=features.over_tasks(points.x)), share)

    def forward(self, support: Points) -> Posterior:
        features = Frozen(self.features, self.strategy)
        return on_features(self._posterior(support, features), support, features)

    def loss(self, episode: Episode) -> Tensor:
        if isinstance(self.objective, Predictive):
            predictive = self(episode.support)(episode.query.x, self.objective.draws)
            return nll(predictive, episode.query).mean()
        points = concatenate(*episode)
        found = self._posterior(points, Frozen(self.features, self.strategy))
        return (-found.evidence / points.mask.sum(1).clamp(min=1)).mean().to(found.dtype)


class _Mode(MarginallyDrawn):
    """q(W) on features: the mode ``(B, F + 1, O)``, the Cholesky factor of Λ ``(B, P, P)``, and log p(y) ``(B,)``, in float64.

    Args:
        mean: W₀ ``(F + 1, O)``.
        precision: (L Lᵀ)⁻¹, ``(F + 1, F + 1)``.
        likelihood: from outputs to p(y | x).
        support: the B tasks' points, ``*X = (F,)``.
        share: η, as how much of a point each one counts.
    """

    _of_tasks = ("mean", "cholesky", "evidence")

    def __init__(
        self, mean: Tensor, precision: Tensor, likelihood: Likelihood, support: Points, share: float | Tensor
    ) -> None:
        super().__init__(support, samples=128)
        self.likelihood = Frozen(likelihood)
        self.dtype = support.x.dtype
        outputs = mean.shape[1]
        phi = with_bias(support.x).double() * support.mask[..., None]
        if phi.shape[-1] != len(mean):
            raise ValueError(
                f"head: expected as many inputs as there are features, {phi.shape[-1] - 1}, got {len(mean) - 1}; build it as "
                f"nn.Linear({phi.shape[-1] - 1}, {outputs})"
            )
        prediction = self.likelihood(phi @ mean)
        if has_labels(prediction):
            check_labels(support.y)
        check_event(prediction.event_shape, support.y.shape[2:])

        def density(outputs: Tensor) -> Tensor:
            """log p(y | f), ``(..., B)``."""
            return share * self._density(outputs, support)

        def prior(weights: Tensor) -> Tensor:
            """log p(W) but for what does not depend on W."""
            away = weights - mean
            return -0.5 * (away * (precision @ away)).sum((-2, -1))

        def newton(weights: Tensor) -> tuple[Tensor, Tensor]:
            """The Cholesky factor of Λ, and the step to the next W."""
            slope, curvature = (share * part for part in self._derivatives(phi @ weights, support))
            seen = torch.einsum("bnf,bnop,bng->bfogp", phi, curvature, phi)
            identity = torch.eye(outputs).to(precision)
            known = torch.einsum("fg,op->fogp", precision, identity)
            factor, failed = torch.linalg.cholesky_ex((known + seen).flatten(3, 4).flatten(1, 2))
            if failed.any():
                raise ValueError(
                    f"likelihood: expected one whose logarithm is concave in the outputs, got {likelihood} with a curvature "
                    "that is not positive; for such a likelihood use ABML or VERSA; if outputs are beyond ±20, scale x"
                )
            uphill = phi.mT @ slope - precision @ (weights - mean)
            return factor, torch.cholesky_solve(uphill.flatten(1)[..., None], factor).reshape(weights.shape)

        # The steps to the mode carry no gradient. One more from there does, and its gradient is the mode's own: a Newton step
        # does not depend, to first order, on where near the fixed point it starts.
        with torch.no_grad():
            weights = mean.expand(len(phi), *mean.shape)
            for _ in range(_STEPS):
                factor, direction = newton(weights)
                left = (
                    (factor.mT @ direction.flatten(1)[..., None]).square().sum()
                )  # in nats, twice what is to be gained
                moved = phi @ direction
                part = _REACH / moved.abs().amax((1, 2), keepdim=True).clamp(min=_REACH)
                lengths = phi.new_tensor(_LENGTHS)[:, None, None, None] * part
                steps = weights + lengths * direction
                heights = (density(phi @ weights + lengths * moved) + prior(steps)).nan_to_num(-torch.inf)
                best = heights.argmax(0)[None, :, None, None].expand(1, *weights.shape)
                weights = steps.gather(0, best)[0]
                if left < 1e-10:  # below it the rounding of many points' densities hides which step is best
                    break
        # Contiguous, so that what a file gives back is of the same bits in use.
        self.mean = (weights + newton(weights)[1]).contiguous()
        self.cholesky = newton(self.mean)[0].contiguous()
        halves = outputs * torch.linalg.cholesky(precision).diagonal().log().sum()
        volume = halves - self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        self.evidence = density(phi @ self.mean) + prior(self.mean) + volume

    def _density(self, outputs: Tensor, points: Points) -> Tensor:
        y = points.y.to(outputs) if points.y.is_floating_point() else points.y  # or torch computes in y's type
        log_prob: Tensor = self.likelihood(outputs).log_prob(y)
        return log_prob.masked_fill(~points.mask, 0.0).sum(-1)

    def _derivatives(self, outputs: Tensor, points: Points) -> tuple[Tensor, Tensor]:
        """Of log p(y | f): its slope in f ``(B, N, O)``, and minus its second derivative ``(B, N, O, O)``."""

        def slopes(outputs: Tensor) -> Tensor:
            result: Tensor = torch.func.grad(lambda outputs: self._density(outputs, points).sum())(outputs)
            return result

        slope, pull = torch.func.vjp(slopes, outputs)[:2]
        basis = torch.eye(outputs.shape[-1]).to(outputs)
        return slope, -torch.stack([pull(one.expand_as(outputs))[0] for one in basis], -1)

    def _marginal_draws(self, x: Any, samples: int) -> Distribution:
        """S fixed draws of the outputs at each point by itself: batch ``(S, B, M)``."""
        phi = with_bias(x).double()
        outputs = self.mean.shape[2]
        identity = torch.eye(outputs).to(phi)
        columns = torch.einsum("bmf,op->bfomp", phi, identity).flatten(3, 4).flatten(1, 2)  # (B, P, M O)
        solved = torch.linalg.solve_triangular(self.cholesky, columns, upper=False).unflatten(2, (-1, outputs))
        spread = torch.einsum("bkmv,bkmw->bmvw", solved, solved)
        jitter = 1e-10 * spread.diagonal(dim1=2, dim2=3).mean(-1) + 1e-14
        root = torch.linalg.cholesky(spread + jitter[..., None, None] * identity)
        numbers = normal_numbers(samples, outputs).to(phi)
        values = phi @ self.mean + torch.einsum("bmvw,sw->sbmv", root, numbers)
        distribution: Distribution = self.likelihood(values.to(self.dtype))
        return distribution

    def _functions(self, samples: int) -> Functions:
        noise = standard_normal(samples, 1, self.cholesky.shape[-1], 1, like=self.mean)  # shared by the tasks
        away = torch.linalg.solve_triangular(self.cholesky.mT, noise, upper=True)
        weights = self.mean + away.reshape(samples, *self.mean.shape)
        outputs = heads(lambda x: x, weights.mT.to(self.dtype))
        return lambda x, own: self.likelihood(outputs(x, own))
