"""Learners that are themselves Bayesian: a distribution over priors, held near a hyper-prior for want of tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils.data import Dataset

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points, concatenate, move
from bayesmeta.functional import adaptable, ravel, redrawn, stein_direction
from bayesmeta.likelihoods import Likelihood
from bayesmeta.objectives import ELBO
from bayesmeta.randomness import generator, standard_normal
from bayesmeta.variational.learner import Latent, VariationalLearner

__all__ = ["Bound", "HyperPosterior", "HyperPosteriorLearner"]

HyperPosterior: TypeAlias = Literal["map", "variational", "svgd"]


class Bound(NamedTuple):
    """The PAC-Bayes bound on the NLL of new tasks, but for a constant that is free of the learner. In nats per point."""

    value: Tensor
    """The sum of the next two, a scalar."""
    evidence: Tensor
    """-(1/n) Σ_i (1/m_i) E_Q[ln Z(S_i, P)]."""
    complexity: Tensor
    """(1/n) Σ_i (1/n + 1/(n m_i)) KL(Q ‖ hyper-prior)."""


class HyperPosteriorLearner(VariationalLearner):
    """A hyper-posterior Q over priors P_θ, from n tasks of m_i points S_i each.

    Rothfuss, Fortuin, Josifoski & Krause 2021, "PACOH", https://arxiv.org/abs/2002.05551. With ln Z(S, P_θ) the log evidence of
    a task under the prior P_θ, the bound of theorem 2 with λ = n and β = m_i is, but for a constant,

        (1/n) Σ_i { -(1/m_i) E_Q[ln Z(S_i, P_θ)] + (1/n + 1/(n m_i)) KL(Q ‖ 𝒫) },

    where the hyper-prior 𝒫 is a Gaussian. It is the loss of this learner, over all of a task's points, support and query. Its
    minimiser is Q*(θ) ∝ 𝒫(θ) exp(Σ_i ln Z(S_i, P_θ) / (m_i + 1)) (proposition 1), which is sought as one θ (``"map"``), as a
    diagonal Gaussian (``"variational"``), or as K particles moved by Stein variational gradient descent (``"svgd"``).

    A subclass implements `log_evidence` and `forward`.

    Args:
        prior: holds all parameters of P_θ; its present values are the first θ, and what the hyper-prior is centred on.
            Frozen ones are no part of θ: all priors share them.
        zero: the parts of `prior`, by name, whose hyper-prior is centred on zero: networks.
        likelihood: the noise of the targets; it is part of `prior` too.
        tasks: n, the number of meta-training tasks.
        hyper_posterior: the form of Q, ``"map"``, ``"variational"`` or ``"svgd"`` as above.
        particles: K, the number of particles of ``"svgd"``; of ``"variational"`` the number of draws of an update and a
            prediction.
        hyper_scale: the standard deviation of the hyper-prior 𝒫 of every parameter.
    """

    centre: Tensor

    def __init__(
        self,
        prior: nn.Module,
        zero: Sequence[str],
        likelihood: Likelihood,
        *,
        tasks: int,
        hyper_posterior: HyperPosterior,
        particles: int,
        hyper_scale: float,
    ) -> None:
        if hyper_posterior not in get_args(HyperPosterior):
            raise ValueError(
                f"hyper_posterior: expected 'map', 'variational' or 'svgd', got {hyper_posterior!r}; write it so"
            )
        check_count("tasks", tasks)
        check_count("particles", particles)
        check_positive("hyper_scale", hyper_scale)
        super().__init__(likelihood, objective=ELBO(draws=particles if hyper_posterior == "variational" else 1))
        self.prior = prior
        self.tasks = tasks
        self.hyper_posterior = hyper_posterior
        self.particles = particles if hyper_posterior == "svgd" else 1
        self.hyper_scale = hyper_scale
        centre = [
            torch.zeros_like(value) if name.split(".")[0] in zero else value.detach()
            for name, value in adaptable(prior).items()
        ]
        self.register_buffer("centre", torch.cat([value.reshape(-1) for value in centre]))
        if hyper_posterior == "svgd":
            self.others = nn.Parameter(redrawn(prior, particles - 1))
        elif hyper_posterior == "variational":
            self.log_spread = nn.Parameter(torch.full_like(self.centre, -3.0))

    @abstractmethod
    def log_evidence(self, theta: Tensor, points: Points) -> Tensor:
        """ln Z of each task under each prior θ ``(K, P)``: ``(K, B)`` nats."""

    def _first(self) -> Tensor:
        """The prior's own values, the first θ: ``(P,)``."""
        return ravel(adaptable(self.prior, len(self.centre)))

    def theta(self, draws: int | None = None) -> Tensor:
        """The K priors of the hyper-posterior, ``(K, P)``: for ``"variational"`` draws of it, from torch's global generator."""
        first = self._first()
        if self.hyper_posterior == "svgd":
            return torch.cat([first[None], self.others])
        if self.hyper_posterior == "map":
            return first[None]
        draws = self.objective.draws if draws is None else draws
        return first + self.log_spread.exp() * standard_normal(draws, len(first), like=first)

    def shift(self, change: Tensor) -> None:
        """Follows a change ``(P,)`` of the prior's values since construction: the hyper-prior's centre and all particles move."""
        with torch.no_grad():
            for held in [self.centre, self.others] if self.hyper_posterior == "svgd" else [self.centre]:
                held.add_(change)

    def observed(self, episode: Episode) -> Points:
        return concatenate(*episode)

    def hyper_prior(self) -> Latent:
        """𝒫, over θ ``(P,)``."""
        return Latent(self.centre, self.hyper_scale * torch.ones_like(self.centre), False)

    def model(self, episode: Episode) -> None:
        """θ ~ 𝒫, and the tasks' evidence to the power of 1/(m_i + 1), for n tasks: its posterior is Q*."""
        points = self.observed(episode)
        theta = pyro.sample("theta", self.hyper_prior())
        evidence = self.log_evidence(theta.reshape(-1, theta.shape[-1]), points)
        power = self.tasks / len(points.mask) / (_count(points, evidence) + 1)
        with pyro.plate("tasks", len(points.mask), dim=-1):
            pyro.factor("y", power * evidence.reshape(*theta.shape[:-2], -1))

    def guide(self, episode: Episode) -> None:
        """Q: a Gaussian, or one of the particles."""
        if self.hyper_posterior == "variational":
            pyro.sample("theta", Latent(self._first(), self.log_spread.exp(), False))
        else:
            theta = self.theta()
            chosen = torch.randint(len(theta), (), device=theta.device, generator=generator(theta.device))
            pyro.sample("theta", Delta(theta[chosen], event_dim=1))

    def _parts(self, evidence: Tensor, theta: Tensor, points: Points) -> Tensor:
        """Each task's part of the bound, ``(B,)``; particles have minus their log density in the place of a KL."""
        if self.hyper_posterior == "variational":
            guide = Latent(self._first(), self.log_spread.exp(), False)
            complexity = kl_divergence(guide, self.hyper_prior())
        else:
            complexity = -self.hyper_prior().log_prob(theta).mean()
        count = _count(points, evidence)
        return -evidence.mean(0) / count + (1 + 1 / count) / self.tasks * complexity

    def loss(self, episode: Episode) -> Tensor:
        """The bound; for ``"svgd"`` its gradient is the Stein direction towards Q*: particles stay apart."""
        theta, points = self.theta(), self.observed(episode)
        evidence = self.log_evidence(theta, points)  # (K, B)
        value = self._parts(evidence, theta, points).mean()
        if self.hyper_posterior != "svgd" or not torch.is_grad_enabled():
            return value
        value = value.detach()
        powered = self.tasks * (evidence / (_count(points, evidence) + 1)).mean(1)
        log_target = powered + self.hyper_prior().log_prob(theta)
        (score,) = torch.autograd.grad(log_target.sum(), theta)
        descent = -(stein_direction(theta.detach(), score) * theta).sum() / self.tasks
        return value + descent - descent.detach()

    def bound(self, tasks: Dataset[Episode], *, episodes: int = 1, draws: int = 64, blur: float = 0.05) -> Bound:
        """The PAC-Bayes bound (theorem 2) on the expected NLL of a new task's points, but for its constant.

        The constant depends on the confidence and on the range of the loss, not on the learner: differences of bounds
        are free of it. A point has no KL, so that ``"map"`` and ``"svgd"`` are blurred: Q is an equal mixture of
        N(θ_k, blur²), whose KL is at most the mean of its parts' (KL is convex).

        Args:
            tasks: the n meta-training tasks.
            episodes: how many of their episodes to average; one is enough where it holds all tasks.
            draws: the number of draws of Q that the evidence averages; from torch's global generator.
            blur: the standard deviation around each particle.

        Example:
            >>> tasks = Sinusoids(noise=0.1, batch=4)
            >>> learner = PACOH(nn.Identity(), RBFKernel(), Gaussian(), tasks=4)
            >>> learner.bound(tasks).value > learner.bound(tasks).evidence
            tensor(True)
        """
        check_count("episodes", episodes)
        check_count("draws", draws)
        check_positive("blur", blur)
        with torch.no_grad():
            if self.hyper_posterior == "variational":
                theta, spread = self._first()[None], self.log_spread.exp()
            else:
                theta, spread = self.theta(), torch.full_like(self.centre, blur)
            around = Latent(theta, spread.expand_as(theta), False)
            divergence = kl_divergence(around, self.hyper_prior()).mean()
            rows = -(-draws // len(theta))
            noise = standard_normal(rows, *theta.shape, like=theta)
            drawn = (theta + spread * noise).flatten(0, 1)
            parts = []
            for i in range(episodes):
                points = self.observed(move(tasks[i], self))
                evidence = self.log_evidence(drawn, points).mean(0)
                count = _count(points, evidence)
                parts.append(torch.stack([-evidence / count, (1 + 1 / count) / self.tasks * divergence]))
            evidence, complexity = torch.cat(parts, 1).mean(1)
        return Bound(evidence + complexity, evidence, complexity)


def _count(points: Points, like: Tensor) -> Tensor:
    """m_i, the number of each task's observed points."""
    return points.mask.sum(1).clamp(min=1).to(like)
