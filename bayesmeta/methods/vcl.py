"""Variational continual learning: a Gaussian over all weights, whose posterior of one part is the prior of the next.

Nguyen, Li, Bui & Turner 2018, "Variational Continual Learning", https://arxiv.org/abs/1710.10628. With q₀ = N(0, s²) and the
points D_t of part t, a factorised Gaussian over a network's weights θ follows (equation 4)

    q_t = argmax_q  E_q [log p(D_t | θ)] - KL(q ‖ q_{t-1}),

by stochastic gradients. With a coreset C_t of points that are kept aside of each part (section 2.2, algorithm 1), q_t learns from
the others alone, and predictions come from

    q̃_t = argmax_q  E_q [log p(C_1, ..., C_t | θ)] - KL(q ‖ q_t),

which no later part is told of. The expectation is over pairs of draws of opposite noise.
"""

from __future__ import annotations

from typing import Any, final

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_positive, readable
from bayesmeta.data import Episode, Points, concatenate, seen
from bayesmeta.distributions import log_prob
from bayesmeta.functional import Frozen, Params, adaptable, ravel
from bayesmeta.likelihoods import Likelihood, check_event
from bayesmeta.networks import check_network
from bayesmeta.objectives import ELBO, Objective
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import LearnedInParts, Minibatches, Weights
from bayesmeta.randomness import standard_normal, uniform
from bayesmeta.variational import VariationalLearner

__all__ = ["VCL"]

_FASTER = 10.0
"""By how much log σ moves faster than μ: it has far to go, and a σ that stays small lets later parts learn nothing."""


@final
class VCL(VariationalLearner):
    """Learns a stream in parts of many points each, by variational inference of a network's weights.

    It needs no meta-training: ``learner(support)`` learns the first part, `Posterior.update` every further one, and
    predictions average draws of the weights. Of constant size without a coreset; sequential: in another order or division,
    parts lead elsewhere. A task that was told nothing has the prior. Inference, coresets and predictions are random, by torch's
    global generator.

    `fit`, which it can do without, learns the prior's scale and the likelihood's noise, and the start of the means as far as the
    last ten steps of the inference depend on it, from the objective: by default the bound on a task's support.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are where the means start from at a
            task's first part, as all zeros would never part.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        prior_scale: s, the initial standard deviation of the prior of every weight.
        scale: the σ from which inference starts at a task's first part; small, or draws hide what the means have to learn.
        epochs: how often each point of a part is shown.
        batch: the largest number of points that one step sees.
        rate: Adam's step size at the start of each part, from which it falls to zero.
        coreset: the number of points of each part that are kept aside, chosen at random; the state grows by them.
        objective: what `fit` descends, an `ELBO` or `Predictive`; it does not change how a task is learned.

    Raises:
        ValueError: an argument is out of range, or the network keeps running statistics; when it learns, a part has no more
            points than the coreset takes.

    Example:
        >>> posterior = VCL(MLP(1, 1), Gaussian(), epochs=2)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        prior_scale: float = 0.1,
        scale: float = 0.01,
        epochs: int = 20,
        batch: int = 256,
        rate: float = 2e-3,
        coreset: int = 0,
        objective: Objective = ELBO(draws=4),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_network(network)
        check_positive("prior_scale", prior_scale, finite=True)
        check_positive("scale", scale, finite=True)
        check_count("coreset", coreset, least=0)
        Minibatches(epochs, batch, rate)
        self.network = network
        like = ravel(adaptable(network)).detach()
        self.prior_log_scale = nn.Parameter(like.new_tensor(prior_scale).log())
        self.scale = scale
        self.epochs, self.batch, self.rate = epochs, batch, rate
        self.coreset = coreset

    def prior(self, tasks: int) -> Weights:
        """The prior of the weights of B tasks, each ``(B, P)``."""
        mean = torch.zeros_like(ravel(adaptable(self.network))).expand(tasks, -1)
        return Weights(mean, self.prior_log_scale.expand_as(mean))

    def forward(self, support: Points) -> Posterior:
        return _Posterior(self.prior(len(support.mask)), _Inference(self), self.coreset, support)

    def observed(self, episode: Episode) -> Points:
        return episode.support

    def model(self, episode: Episode) -> None:
        points = self.observed(episode)
        with pyro.plate("tasks", len(points.mask), dim=-1):
            mean, log_scale = self.prior(len(points.mask))
            weights = self.latent("weights", mean, log_scale.exp())
            self.observe(Frozen(self.network, self.strategy).over_tasks(points.x, weights), points)

    def guide(self, episode: Episode) -> None:
        mean, log_scale = self(episode.support).weights  # type: ignore[attr-defined]
        with pyro.plate("tasks", len(mean), dim=-1):
            self.latent("weights", mean, log_scale.exp(), shared=True)


class _Inference:
    """The descent of the negative bound, of a learner as it is now: later updates do not move it."""

    def __init__(self, learner: VCL) -> None:
        self.network, self.likelihood = Frozen(learner.network, learner.strategy), Frozen(learner.likelihood)
        self.descend = Minibatches(learner.epochs, learner.batch, learner.rate)
        self.start = ravel(self.network.weights)
        self.log_scale = torch.full_like(self.start, learner.scale).log()

    def __call__(self, points: Points, prior: Weights, told: Tensor) -> Weights:
        """Where the points lead from a prior; that is also the start of tasks that were told something before."""
        start = {
            "mean": torch.where(told, prior.mean, self.start),
            "log scale": torch.where(told, prior.log_scale, self.log_scale) / _FASTER,
        }

        def negative_bound(q: Params, part: Points, share: float) -> Tensor:
            mean, log_scale = q["mean"], q["log scale"] * _FASTER
            noise = standard_normal(1, 1, mean.shape[1], like=mean)  # shared by the tasks
            weights = mean + log_scale.exp() * torch.cat([noise, -noise])
            outputs = self.network.over_tasks(part.x, weights)
            prediction = self.likelihood(outputs)
            check_event(prediction.event_shape, part.y.shape[2:])
            fit = log_prob(prediction, part.y, part.mask).mean(0).sum()
            ratio, away = log_scale - prior.log_scale, (mean - prior.mean) * (-prior.log_scale).exp()
            return 0.5 * ((2 * ratio).exp() + away.square() - 1 - 2 * ratio).sum() - share * fit

        found = self.descend(negative_bound, start, points)
        there = seen(points).any(1, keepdim=True)
        return Weights(
            torch.where(there, found["mean"], prior.mean),
            torch.where(there, found["log scale"] * _FASTER, prior.log_scale),
        )


class _Posterior(LearnedInParts):
    """q̃_t; with a coreset also q_t and the points kept aside."""

    _of_tasks = (*LearnedInParts._of_tasks, "kept")

    def __init__(self, prior: Weights, infer: _Inference, coreset: int, support: Points) -> None:
        self.infer, self.coreset = infer, coreset
        self.kept: tuple[Any, ...] = ()
        """q_t and the coresets of the parts so far, where there are any."""
        super().__init__(prior, infer.network, infer.likelihood, support)

    def _descend(self, points: Points) -> None:
        if not self.coreset:
            self.weights = self.infer(points, self.weights, self.told)
            return
        aside, rest = _divided(points, self.coreset)
        known, *kept = self.kept or (self.weights,)
        known, aside = self.infer(rest, known, self.told), concatenate(*kept, aside) if kept else aside
        there = seen(points).any(1, keepdim=True)
        refined = self.infer(aside, known, self.told | there)
        self.weights = Weights(*(torch.where(there, *pair) for pair in zip(refined, self.weights, strict=True)))
        self.kept = (known, aside)


def _divided(points: Points, coreset: int) -> tuple[Points, Points]:
    """Random points of each task, at most so many, and the others."""
    there = seen(points)
    count = there.sum(1)
    if readable(count) and ((count > 0) & (count <= coreset)).any():
        task = int(((count > 0) & (count <= coreset)).nonzero()[0, 0])
        raise ValueError(
            f"coreset: expected fewer points than a part has, got {coreset} of the {int(count[task])} of task {task}; keep fewer "
            "aside, or make the parts larger"
        )
    order = uniform(there.shape[1:], like=points.mask).expand_as(there).masked_fill(~there, 2.0).argsort(1)
    tasks = torch.arange(len(order), device=order.device)[:, None]
    cut = min(coreset, order.shape[1])
    parts = (order[:, :cut], order[:, cut:] if cut < order.shape[1] else order[:, :1])
    aside, rest = (Points(*tree_map(lambda leaf, at=at: leaf[tasks, at], tuple(points))) for at in parts)
    return aside, rest
