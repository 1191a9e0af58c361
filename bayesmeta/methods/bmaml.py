"""Bayesian MAML: an ensemble of initialisations, moved together by Stein variational gradient descent.

Yoon et al. 2018, "Bayesian Model-Agnostic Meta-Learning", https://arxiv.org/abs/1806.03836 (algorithms 2 and 3). M particles Θ
are each task's posterior after K steps along the Stein direction of the points D,

    SVGD(Θ; D, K): θ_m <- θ_m + α (1/M) Σ_j [k(θ_j, θ_m) ∇ log p(D, θ_j) + ∇_{θ_j} k(θ_j, θ_m)] / |D|,
    log p(D, θ) = -Σ error(θ) - ‖θ‖² / 2 σ_0²,

and the meta-objective is the chaser loss of particles that know the support and a leader that goes on with all points:

    chaser = SVGD(Θ; support, K),   leader = SVGD(chaser; support ∪ query, L),   Σ_m ‖chaser_m - stopgrad(leader_m)‖².

The chaser loss says nothing of the likelihood's noise, which learns from the query's NLL under the chaser, held constant.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points, concatenate, observed
from bayesmeta.functional import Frozen, adaptable, ravel, redrawn, stein_direction
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, check_likelihood, nll, support_error
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Particles

__all__ = ["BMAML"]


@final
class BMAML(Learner):
    """M networks that learn each task together, and are held apart where the support leaves them free.

    The first particle starts as the network is given, the others with newly drawn weights (torch's global generator).

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: makes the distribution p(y | x) of the network's outputs. Its `error` is that of the inner steps.
        particles: M, the number of networks of a task.
        steps: K, the number of Stein steps that the chaser takes on the support, and so a new task.
        leader_steps: L, the number of steps that the leader goes on, on support and query.
        rate: α, the step size of a Stein step.
        prior_scale: σ_0, the prior's standard deviation of every weight, around zero.
        clamp: the largest size of any entry of a score, per point: what exceeds it is cut.

    Raises:
        ValueError: an argument is out of range, or the network keeps running statistics.

    Example:
        >>> learner = BMAML(MLP(1, 1), Gaussian(), particles=3)
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        particles: int = 5,
        steps: int = 5,
        leader_steps: int = 5,
        rate: float = 0.1,
        prior_scale: float = 10.0,
        clamp: float = 10.0,
    ) -> None:
        super().__init__()
        check_network(network)
        check_likelihood(likelihood)
        check_count("particles", particles)
        check_count("steps", steps)
        check_count("leader_steps", leader_steps)
        check_positive("rate", rate)
        check_positive("prior_scale", prior_scale)
        check_positive("clamp", clamp)
        self.network = network
        self.likelihood = likelihood
        self.others = nn.Parameter(redrawn(network, particles - 1))
        self.steps = steps
        self.leader_steps = leader_steps
        self.rate = rate
        self.prior_scale = prior_scale
        self.clamp = clamp

    def initialisation(self) -> Tensor:
        """Θ, ``(M, P)``."""
        return torch.cat([ravel(adaptable(self.network, self.others.shape[1]))[None], self.others])

    def _svgd(self, particles: Tensor, given: Points, steps: int) -> Tensor:
        """Particles of each task, ``(B, M, P)``, after some steps on its points."""
        network = Frozen(self.network, self.strategy)

        def of_task(particles: Tensor, given: Points) -> Tensor:
            error = support_error(network, self.likelihood, given)
            count = observed(given, lead=1).sum().clamp(min=1)

            def log_density(weights: Tensor) -> Tensor:  # per point
                return -error(weights) - weights.square().sum() / (2 * self.prior_scale**2 * count)

            for _ in range(steps):
                scores: Tensor = network.map(torch.func.grad(log_density), particles)
                scores = count * scores.clamp(-self.clamp, self.clamp)
                particles = particles + self.rate * stein_direction(particles, scores) / count
            return particles

        moved: Tensor = network.map(of_task, particles, given)
        return moved

    def infer(self, support: Points) -> Tensor:
        """The chaser: each task's particles, ``(B, M, P)``."""
        return self._svgd(self.initialisation().expand(len(support.mask), -1, -1), support, self.steps)

    def forward(self, support: Points) -> Posterior:
        return self._posterior(self.infer(support), support)

    def _posterior(self, particles: Tensor, support: Points) -> Posterior:
        network, likelihood = Frozen(self.network, self.strategy), Frozen(self.likelihood)

        def predictions(particles: Tensor, x: Any) -> Distribution:
            distribution: Distribution = likelihood(network.over_tasks(x, particles.movedim(1, 0)))
            return distribution

        return Particles(predictions, particles, particles.new_zeros(particles.shape[:2]), support)

    def loss(self, episode: Episode) -> Tensor:
        chaser = self.infer(episode.support)
        with torch.no_grad():  # constant, and by itself no small part of the time
            leader = self._svgd(chaser, concatenate(*episode), self.leader_steps)
        distance = (chaser - leader).square().sum((1, 2))
        query = episode.query
        return (distance + nll(self._posterior(chaser.detach(), episode.support)(query.x), query)).mean()
