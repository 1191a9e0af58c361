"""Online Laplace and elastic weight consolidation: a point estimate, held where earlier parts' curvature is high.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", https://arxiv.org/abs/1612.00796 (equation 3);
with one running sum in the place of a term a part, Ritter, Botev & Barber 2018, "Online Structured Laplace Approximations",
https://arxiv.org/abs/1805.07810 (section 3, its diagonal form); with forgetting, Schwarz et al. 2018, "Progress & Compress",
https://arxiv.org/abs/1805.06370 (section 4). From θ₀ = 0 and Λ₀ = 1/s²,

    θ_t = argmax_θ  log p(D_t | θ) - ½ w Σ_i Λ_{t-1,i} (θ_i - θ_{t-1,i})²,
    Λ_t = γ Λ_{t-1} + diag Σ_n J_nᵀ H_n J_n,      H_n = -∇∇ log p(y_n | f) at f_n = f(x_n; θ_t),

with J_n the slope of the network's outputs f_n: the diagonal of the generalised Gauss-Newton matrix, which is the Fisher
information where the outputs are natural parameters (logits, the mean of a Gaussian). It sums the squares of J_nᵀ H_n^½ z
over the axes z; of parts that are larger than a minibatch, each point gives one of random signs z, which is right on average.
After each part the weights are N(θ_t, 1/Λ_t), and functions of them f(x; θ_t) + J(x) (θ - θ_t), the model whose posterior that is
(Immer, Korzepa & Bauer 2021, https://arxiv.org/abs/2008.08171): networks with weights that far from θ_t are no longer good ones.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.answers import Functions
from bayesmeta.border import check_positive, check_probability
from bayesmeta.data import Points, seen
from bayesmeta.distributions import apart, log_prob
from bayesmeta.functional import Frozen, Params, adaptable, ravel
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, check_event, check_likelihood
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import LearnedInParts, Minibatches, Weights
from bayesmeta.randomness import standard_normal

__all__ = ["OnlineLaplace"]

_NUMBERS = 2**23
"""How many slopes to hold at a time, some 30 MB of them."""


@final
class OnlineLaplace(Learner):
    """Learns a stream in parts of many points each, by a penalty on moving the weights that earlier parts depended on.

    It needs no meta-training: ``learner(support)`` learns the first part, `Posterior.update` every further one. Of constant
    size, and sequential. A task that was told nothing has the prior. Minibatches, signs and predictions are random, by torch's
    global generator. The precisions carry no gradient.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are where a task's first part starts.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        weight: w, how much the past counts: 1 as Bayes' rule has it, more holds faster to it, 0 is plain fine-tuning, which
            forgets.
        memory: γ, the share of the past's precision that a part leaves; 1 forgets nothing.
        prior_scale: s, the initial standard deviation of the prior of every weight.
        epochs: how often each point of a part is shown.
        batch: the largest number of points that one step sees.
        rate: Adam's step size at the start of each part, from which it falls to zero.

    Raises:
        ValueError: an argument is out of range, or the network keeps running statistics.

    Example:
        >>> posterior = OnlineLaplace(MLP(1, 1), Gaussian(), epochs=2)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        weight: float = 1.0,
        memory: float = 1.0,
        prior_scale: float = 1.0,
        epochs: int = 20,
        batch: int = 256,
        rate: float = 1e-3,
    ) -> None:
        super().__init__()
        check_network(network)
        check_likelihood(likelihood)
        if weight != 0:
            check_positive("weight", weight, finite=True)
        if memory != 1:
            check_probability("memory", memory)
        check_positive("prior_scale", prior_scale, finite=True)
        Minibatches(epochs, batch, rate)
        self.network, self.likelihood = network, likelihood
        like = ravel(adaptable(network)).detach()
        self.prior_log_scale = nn.Parameter(like.new_tensor(prior_scale).log())
        self.weight, self.memory = weight, memory
        self.epochs, self.batch, self.rate = epochs, batch, rate

    def forward(self, support: Points) -> Posterior:
        return _Posterior(_Estimate(self), support)


class _Estimate:
    """The penalised descent and the curvature, of a learner as it is now: later updates do not move it."""

    def __init__(self, learner: OnlineLaplace) -> None:
        self.network, self.likelihood = Frozen(learner.network, learner.strategy), Frozen(learner.likelihood)
        self.descend = Minibatches(learner.epochs, learner.batch, learner.rate)
        self.start = ravel(self.network.weights)
        self.prior = learner.prior_log_scale.clone()
        self.weight, self.memory = learner.weight, learner.memory

    def __call__(self, points: Points, before: Weights, told: Tensor) -> Weights:
        precision = (-2 * before.log_scale).exp()

        def penalised(found: Params, part: Points, share: float) -> Tensor:
            outputs = self.network.over_tasks(part.x, found["mean"])
            prediction = self.likelihood(outputs)
            check_event(prediction.event_shape, part.y.shape[2:])
            fit = log_prob(prediction, part.y, part.mask).sum()
            return 0.5 * self.weight * (precision * (found["mean"] - before.mean).square()).sum() - share * fit

        mean = self.descend(penalised, {"mean": torch.where(told, before.mean, self.start)}, points)["mean"]
        known = self.memory * precision + self._curvature(mean.detach(), points)
        there = seen(points).any(1, keepdim=True)
        return Weights(torch.where(there, mean, before.mean), torch.where(there, -0.5 * known.log(), before.log_scale))

    @torch.no_grad()
    def _curvature(self, mean: Tensor, points: Points) -> Tensor:
        """The diagonal of Σ_n J_nᵀ H_n J_n of each task, ``(B, P)``."""
        network = self.network

        def of_point(x: Any, directions: Tensor, weights: Tensor) -> Tensor:
            one = tree_map(lambda leaf: leaf[None], x)
            pull = torch.func.vjp(lambda weights: network(one, weights=weights)[0], weights)[1]
            slopes: Tensor = network.map(lambda direction: pull(direction)[0], directions)
            return slopes.square().sum(0)

        def of_task(x: Any, directions: Tensor, weights: Tensor) -> Tensor:
            each: Tensor = network.map(lambda x, directions: of_point(x, directions, weights), x, directions)
            return each.sum(0)

        directions = self._directions(mean, points)
        total = torch.zeros_like(mean)
        size = max(1, _NUMBERS // (directions.shape[2] * mean.numel()))
        for first in range(0, points.mask.shape[1], size):
            x, z = tree_map(lambda leaf, at=first: leaf[:, at : at + size], (points.x, directions))
            total = total + network.map(of_task, x, z, mean)
        return total

    def _directions(self, mean: Tensor, points: Points) -> Tensor:
        """H_n^½ z of each point, ``(B, N, Z, *O)``; random signs z are the same of all tasks."""
        outputs = self.network.over_tasks(points.x, mean)
        flat = outputs.flatten(2).double()

        def slopes(flat: Tensor) -> Tensor:
            def fit(flat: Tensor) -> Tensor:
                likelihood = self.likelihood(flat.to(outputs).reshape(outputs.shape))
                return log_prob(likelihood, points.y, points.mask).sum()

            found: Tensor = torch.func.grad(fit)(flat)
            return found

        pull = torch.func.vjp(slopes, flat)[1]
        axes = torch.eye(flat.shape[-1]).to(flat)
        curvature = -torch.stack([pull(axis.expand_as(flat))[0] for axis in axes], -1)
        # Below zero where the logarithm is not concave: cut, as Gauss and Newton do.
        values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
        root = vectors * values.clamp(min=0).sqrt()[..., None, :] @ vectors.mT
        if points.mask.shape[1] > self.descend.batch:
            axes = standard_normal(1, flat.shape[1], 1, flat.shape[2], like=flat).sign()
        return (axes @ root).to(outputs).unflatten(-1, outputs.shape[2:])


class _Posterior(LearnedInParts):
    """N(θ_t, 1/Λ_t)."""

    def __init__(self, estimate: _Estimate, support: Points) -> None:
        self.estimate = estimate
        mean = torch.zeros_like(estimate.start).expand(len(support.mask), -1)
        super().__init__(Weights(mean, estimate.prior.expand_as(mean)), estimate.network, estimate.likelihood, support)

    def _descend(self, points: Points) -> None:
        self.weights = self.estimate(points, self.weights, self.told)

    def _functions(self, samples: int) -> Functions:
        mean, log_scale = self.weights
        away = log_scale.exp() * standard_normal(samples, 1, mean.shape[1], like=mean)  # shared by the tasks
        network = self.network

        def of_task(x: Any, mean: Tensor, away: Tensor) -> Tensor:
            values, pull = torch.func.vjp(lambda weights: network(x, weights=weights), mean)[:2]
            # What a direction changes, by the slope of the slope: forward mode is not for several threads.
            push = torch.func.vjp(lambda along: pull(along)[0], torch.zeros_like(values))[1]
            changes: Tensor = network.map(lambda direction: push(direction)[0], away)
            return values + changes

        def outputs(x: Any, own: bool) -> Tensor:
            if not own:
                found: Tensor = network.map(of_task, x, mean, away.movedim(0, 1))
                return found.movedim(1, 0)
            each = tree_map(lambda leaf: apart(leaf, samples).flatten(0, 1), x)  # as many tasks of M points
            found = network.map(of_task, each, mean.repeat(samples, 1), away.flatten(0, 1)[:, None])
            return found[:, 0].unflatten(0, (samples, -1))

        return lambda x, own: self.likelihood(outputs(x, own))
