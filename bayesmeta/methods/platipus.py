"""Probabilistic MAML: a distribution over initialisations, each draw of which adapts by gradient steps.

Finn, Xu & Levine 2018, "Probabilistic Model-Agnostic Meta-Learning", https://arxiv.org/abs/1806.02817 (algorithms 1 and 2).
With the error L of a set of points, g_S = ∇L(μ_θ; support) and g_Q = ∇L(μ_θ; query),

    p(θ | support) = N(μ_θ - γ_p ∘ g_S, σ_θ²),     q(θ | query) = N(μ_θ - γ_q ∘ g_Q, v_q),
    φ = θ - α_k ∘ ∇L(θ; support), repeated K times.

``objective=ELBO()`` (the paper's, the default) draws θ from q and descends -(1/M) {log p(query | φ) - w KL(q ‖ p)}, w its
`kl_weight`; ``Predictive()`` draws from p, as at test, and needs no q.
"""

from __future__ import annotations

import math
from typing import final

import pyro
import torch
from torch import Tensor, nn

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points
from bayesmeta.functional import Frozen, adaptable, clamped, descend, ravel, unravel
from bayesmeta.likelihoods import Likelihood, support_error
from bayesmeta.networks import check_network
from bayesmeta.objectives import ELBO, Objective
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Outputs, Sampled, networks
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import VariationalLearner

__all__ = ["PLATIPUS"]

_FLOOR, _CAP = -9.0, 0.0
"""Bounds of every log σ: below the one draws equal the mean, above the other the network's outputs are noise."""


@final
class PLATIPUS(VariationalLearner):
    """Gradient steps from initialisations that are drawn from a posterior which the support conditions.

    Learned for every weight: μ_θ, σ_θ, v_q, γ_p, γ_q, and a rate α for each step. Predictions are random: draws use torch's
    global generator.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are μ_θ.
        likelihood: makes the distribution p(y | x) of the network's outputs. Its `error` is L.
        steps: K, the number of inner steps.
        rate: the initial step size of every weight in the inner steps (α) and in those to the means of p and q (γ_p and γ_q).
        scale: the initial standard deviation of every weight under p (σ_θ) and under q (√v_q).
        clamp: the largest size of any entry of an inner gradient: what exceeds it is cut.
        objective: what training descends, an `ELBO` or `Predictive`.

    Raises:
        ValueError: an argument is out of range, or the network keeps running statistics.

    Example:
        >>> learner = PLATIPUS(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        steps: int = 5,
        rate: float = 0.05,
        scale: float = 0.018,
        clamp: float = 10.0,
        objective: Objective = ELBO(draws=4),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_network(network)
        check_count("steps", steps)
        check_positive("rate", rate)
        check_positive("scale", scale, math.exp(_FLOOR), math.exp(_CAP))
        check_positive("clamp", clamp)
        self.network = network
        flat = ravel(adaptable(network)).detach()
        self.prior_log_scale = nn.Parameter(torch.full_like(flat, scale).log())
        self.prior_rate = nn.Parameter(torch.full_like(flat, rate))
        self.guide_log_scale = nn.Parameter(torch.full_like(flat, scale).log())
        self.guide_rate = nn.Parameter(torch.full_like(flat, rate))
        self.rates = nn.Parameter(flat.new_full((steps, len(flat)), rate))
        self.clamp = clamp

    def initialisation(self, given: Points, rate: Tensor) -> Tensor:
        """μ_θ after one step on the given points, ``(B, P)``: the mean of p or of q."""
        network = Frozen(self.network, self.strategy)
        weights = ravel(network.weights)
        return self._descend(network, weights.expand(len(given.mask), -1), given, rate[None], self.clamp)

    def _descend(self, network: Frozen, weights: Tensor, given: Points, rates: Tensor, clamp: float) -> Tensor:
        """Steps from weights ``(B, P)`` or ``(S, B, P)`` on each task's error, with rates ``(K, P)``."""
        like = network.weights

        def of_task(weights: Tensor, given: Points) -> Tensor:
            if weights.dim() == 2:
                drawn: Tensor = network.map(lambda w: of_task(w, given), weights)
                return drawn
            error = support_error(network, self.likelihood, given)
            params = unravel(weights, like)
            for rate in rates:
                params = descend(error, params, 1, unravel(rate, like), clamped(clamp))
            return ravel(params)

        result: Tensor = network.map(of_task, weights.movedim(-2, 0), given)
        return result.movedim(0, -2)

    def forward(self, support: Points) -> Posterior:
        mean, network = self.initialisation(support, self.prior_rate), Frozen(self.network, self.strategy)
        scale, rates, clamp = self.prior_log_scale.clamp(_FLOOR, _CAP).exp(), self.rates.clone(), self.clamp

        def draw(known: tuple[Tensor, Points], samples: int) -> Outputs:
            mean, support = known
            weights = mean + scale * standard_normal(samples, 1, mean.shape[1], like=mean)
            return networks(network, self._descend(network, weights, support, rates, clamp))

        return Sampled(draw, (mean, support), self.likelihood, support)

    def model(self, episode: Episode) -> None:
        support, query = episode
        mean, network = self.initialisation(support, self.prior_rate), Frozen(self.network, self.strategy)
        with pyro.plate("tasks", len(mean), dim=-1):
            weights = self.latent("weights", mean, self.prior_log_scale.clamp(_FLOOR, _CAP).exp())
            adapted = self._descend(network, weights, support, self.rates, self.clamp)
            self.observe(network.over_tasks(query.x, adapted), query)

    def guide(self, episode: Episode) -> None:
        mean = self.initialisation(episode.query, self.guide_rate)
        with pyro.plate("tasks", len(mean), dim=-1):
            self.latent("weights", mean, self.guide_log_scale.clamp(_FLOOR, _CAP).exp(), shared=True)
