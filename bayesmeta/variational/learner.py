"""Learners that are Pyro programs: a model, a guide, and the loss that Pyro's ELBO makes of them."""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor
from torch.distributions.kl import register_kl

from bayesmeta.data import Episode, Points, observed
from bayesmeta.distributions import log_prob, marginals
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, check_likelihood, nll
from bayesmeta.objectives import ELBO, JointPredictive, Objective, Predictive, check_objective
from bayesmeta.randomness import standard_normal

__all__ = ["Latent", "VariationalLearner", "registered"]

_PYRO = threading.RLock()
"""Pyro keeps its stacks of handlers and plates in globals, which two threads must not share."""


def _start_anew() -> None:
    """In a forked process the thread that held the lock is no more, and what it left on Pyro's stacks means nothing."""
    global _PYRO
    if not _PYRO._is_owned():  # type: ignore[attr-defined]
        _PYRO = threading.RLock()
        _PYRO_STACK.clear()
        _DIM_ALLOCATOR._stack.clear()  # of the plates


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Latent(TorchDistribution):
    """N(mean, diag(scale²)) over a task's latent vector, event ``(P,)``, for B tasks.

    It is ``Normal(mean, scale).to_event(1)``, except that plates expand its batch shape alone and not its parameters, so
    that the KL of S particles is computed once, and that its noise may be shared by the tasks.

    Args:
        mean: the mean of each task's latent, ``(B, P)``.
        scale: the standard deviation of each of its entries, of the same shape.
        shared: whether all tasks share the noise, as guides' latents do: each task's draw has its own distribution, so every
            expectation over one task is right, and B tasks at once equal B one by one.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, mean: Tensor, scale: Tensor, shared: bool, batch: torch.Size | None = None) -> None:
        self.loc, self.scale, self.shared = mean, scale, shared
        super().__init__(mean.shape[:-1] if batch is None else batch, mean.shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.scale.square().expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Latent:
        return Latent(self.loc, self.scale, self.shared, torch.Size(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = list(self._extended_shape(torch.Size(sample_shape)))
        if self.shared:
            shape[-2] = 1
        return self.loc + self.scale * standard_normal(*shape, like=self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        distance = ((value - self.loc) / self.scale).square().sum(-1)
        return -0.5 * distance - self.scale.log().sum(-1) - 0.5 * value.shape[-1] * math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        size = self.event_shape[0]
        return (self.scale.log().sum(-1) + 0.5 * size * (1 + math.log(2 * math.pi))).expand(self.batch_shape)


@register_kl(Latent, Latent)  # type: ignore[untyped-decorator]
def _kl(q: Latent, p: Latent) -> Tensor:
    ratio = q.scale / p.scale
    distance = ((q.loc - p.loc) / p.scale).square()
    return 0.5 * (ratio.square() + distance - 1 - 2 * ratio.log()).sum(-1).expand(q.batch_shape)


class VariationalLearner(Learner, ABC):
    """A learner whose objective is a Pyro ELBO. It implements `model` and `guide`, both plain Pyro, and `forward`.

    Both programs hold one ``pyro.plate("tasks", B, dim=-1)``; the latents of a task are one flat vector, event ``(P,)``, drawn by
    `latent`; the targets are observed by `observe` as the site ``"y"``. The loss is that of `objective`: an `ELBO`, as
    ``pyro.infer.TraceMeanField_ELBO`` has it with its draws in one vectorised run, or `Predictive`. It is an attribute, which may
    be changed between two calls of `fit`: a warm-up of the KL is a first fit with a small weight, `ELBO(kl_weight=0.01)`.

    ``pyro.infer.Predictive``, ``pyro.poutine.trace`` and ``pyro.render_model`` work on the two programs as they are;
    ``pyro.infer.SVI`` needs the parameters registered: see `registered`. SVI descends an ELBO, whatever `objective` says.

    Args:
        likelihood: makes the distribution p(y | x) of network outputs.
        objective: what training descends, an `ELBO`, `Predictive` or `JointPredictive`.

    Raises:
        TypeError: the likelihood or the objective is something else.
        ValueError: the objective asks for draws of functions, which the learner integrates out.
    """

    def __init__(self, likelihood: Likelihood, *, objective: Objective) -> None:
        super().__init__()
        check_likelihood(likelihood)
        self._check(objective)
        self.likelihood = likelihood
        self.objective = objective

    def evidence(self, episode: Episode) -> Tensor | None:
        """log p(y) of each task ``(B,)``, for a model that has integrated its latents out, so that its guide is empty.

        It equals the ELBO of the two programs and spares Pyro's overhead. None, and the ELBO is taken, where there are latents.
        """
        return None

    @abstractmethod
    def model(self, episode: Episode) -> None:
        """p(latents | support) p(y | latents, x): draws latents and observes the targets."""

    @abstractmethod
    def guide(self, episode: Episode) -> None:
        """q(latents | episode): draws the latents of the same names."""

    def observed(self, episode: Episode) -> Points:
        """The points that the model observes: the query, unless the method's paper says otherwise."""
        return episode.query

    def latent(self, name: str, mean: Tensor, scale: Tensor, *, shared: bool = False) -> Tensor:
        """Samples a `Latent` inside the plate, weighted by the ELBO's `kl_weight`; with shared noise in guides."""
        with poutine.scale(scale=self.objective.kl_weight if isinstance(self.objective, ELBO) else 1.0):
            value: Tensor = pyro.sample(name, Latent(mean, scale, shared))
        return value

    def observe(self, outputs: Tensor, points: Points) -> None:
        """Observes the points' targets, given network outputs ``(..., B, M, *O)``."""
        distribution: Any = self.likelihood(outputs)  # one of pyro's, which have mask and to_event
        dims = 1
        if points.mask.dim() > 2:
            distribution, dims = marginals(distribution), 1 + len(distribution.event_shape)
        pyro.sample("y", distribution.mask(points.mask).to_event(dims), obs=points.y)

    def loss(self, episode: Episode) -> Tensor:
        self._check(self.objective)
        if isinstance(self.objective, Predictive):
            return self._predictive_loss(episode)
        if isinstance(self.objective, JointPredictive):
            return self._joint_loss(episode)
        weight = self._weight(episode)
        evidence = self.evidence(episode)
        if evidence is not None:
            return -(weight * evidence).mean()
        return self._negative_elbo(episode, weight / len(weight))

    def _predictive_loss(self, episode: Episode) -> Tensor:
        predictive = self(episode.support)(episode.query.x, self.objective.draws)
        return nll(predictive, episode.query).mean()

    def _joint_loss(self, episode: Episode) -> Tensor:
        query = episode.query
        drawn = self(episode.support).draws(query.x, self.objective.draws)
        together = log_prob(drawn, query.y, query.mask).sum(-1)  # (S, B)
        log_mean = together.logsumexp(0) - math.log(len(together))
        return -(log_mean / observed(query).sum(1).clamp(min=1)).mean()

    def _check(self, objective: Objective) -> None:
        check_objective(objective, drawn=type(self).evidence is VariationalLearner.evidence)

    def _weight(self, episode: Episode) -> Tensor:
        """One over the number of each task's observed targets, ``(B,)``."""
        points = self.observed(episode)
        parameter = next(self.parameters())
        return 1 / observed(points).sum(1).clamp(min=1).to(parameter)

    def _negative_elbo(self, episode: Episode, weight: Tensor) -> Tensor:
        elbo = TraceMeanField_ELBO(num_particles=self.objective.draws, vectorize_particles=True, max_plate_nesting=1)
        with _PYRO:
            loss: Tensor = elbo.differentiable_loss(
                poutine.scale(self.model, weight), poutine.scale(self.guide, weight), episode
            )
        return loss


def registered(learner: VariationalLearner) -> tuple[Callable[[Episode], None], Callable[[Episode], None]]:
    """The learner's model and guide for ``pyro.infer.SVI``, which register its parameters in Pyro's global store.

    Without that, SVI runs and trains nothing, silently. Call ``pyro.clear_param_store()`` before another learner's turn.

    Example:
        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> learner, tasks = PLATIPUS(MLP(1, 1), Gaussian()), Sinusoids()
        >>> model, guide = registered(learner)
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
        >>> loss = svi.step(tasks[0])
        >>> pyro.clear_param_store()
    """

    def register(program: Callable[[Episode], None]) -> Callable[[Episode], None]:
        def run(episode: Episode) -> None:
            pyro.module("learner", learner)
            program(episode)

        return run

    return register(learner.model), register(learner.guide)
