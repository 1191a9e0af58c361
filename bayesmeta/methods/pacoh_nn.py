"""PACOH-NN: a distribution over priors of a Bayesian neural network, learned from few tasks.

Rothfuss, Fortuin, Josifoski & Krause 2021, "PACOH: Bayes-Optimal Meta-Learning with PAC-Guarantees",
https://arxiv.org/abs/2002.05551 (section 5). A prior P_θ is a Gaussian N(μ_θ, diag(σ_θ²)) over the weights w of a network,
beside the noise of the targets. The log evidence of a task is estimated from L weights of the prior,

    ln Z(S, P_θ) ≈ ln (1/L) Σ_l p(y_S | x_S, w_l),   w_l ~ P_θ,

which is a lower bound in expectation. A task's posterior under each prior is L particles of w, which start as draws of the
prior and follow the Stein direction of log p(y_S | x_S, w) + log P_θ(w); predictions mix the K·L networks.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, adaptable, stein_direction
from bayesmeta.likelihoods import Gaussian, check_event, check_gaussian, standard_deviation
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Particles
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import HyperPosterior, HyperPosteriorLearner

__all__ = ["PACOHNN"]


class _Spread(nn.Module):
    """log σ of the prior over a network's weights."""

    def __init__(self, size: int, initial: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((size,), math.log(initial)))


@final
class PACOHNN(HyperPosteriorLearner):
    """K priors over a network's weights, and Bayesian networks that learn a task from them. For real targets.

    Predictions start from random draws of the priors (torch's global generator) and take `steps` updates: PACOH, whose posteriors
    are in closed form, is faster and needs no such draws.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, Y)``; its weights are the first μ.
        likelihood: the noise of the targets, a `Gaussian` with one σ.
        tasks: n, the number of meta-training tasks.
        hyper_posterior: the form of Q: one prior (``"map"``), a diagonal Gaussian over priors (``"variational"``), or particles
            that are held apart (``"svgd"``).
        particles: K, the number of priors: particles of ``"svgd"``, or draws of an update and a prediction of ``"variational"``.
        weights: L, the number of networks that each prior has in an estimate of the evidence, and in a posterior.
        steps: the number of updates of Adam by which a task's networks learn its support.
        rate: the step size of these updates, in units of the prior's σ.
        spread: the initial σ, the prior's standard deviation of every weight.
        hyper_scale: the standard deviation of the hyper-prior, around 0 for μ and around the given values for log σ.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, the network keeps running statistics, or a number is out of
            range.

    Example:
        >>> learner = PACOHNN(MLP(1, 1), Gaussian(), tasks=20)
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    likelihood: Gaussian

    def __init__(
        self,
        network: nn.Module,
        likelihood: Gaussian,
        *,
        tasks: int,
        hyper_posterior: HyperPosterior = "svgd",
        particles: int = 4,
        weights: int = 10,
        steps: int = 100,
        rate: float = 0.1,
        spread: float = 0.1,
        hyper_scale: float = 1.0,
    ) -> None:
        check_network(network)
        check_gaussian(likelihood)
        check_count("weights", weights)
        check_count("steps", steps)
        check_positive("rate", rate)
        check_positive("spread", spread)
        size = sum(parameter.numel() for parameter in adaptable(network).values())
        super().__init__(
            nn.ModuleDict({"network": network, "spread": _Spread(size, spread), "likelihood": likelihood}),
            ("network",),
            likelihood,
            tasks=tasks,
            hyper_posterior=hyper_posterior,
            particles=particles,
            hyper_scale=hyper_scale,
        )
        self.weights = weights
        self.steps = steps
        self.rate = rate

    @property
    def network(self) -> nn.Module:
        """The network whose weights are the first μ."""
        parts: Any = self.prior
        network: nn.Module = parts["network"]
        return network

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """μ and σ of the weights, each ``(K, P)``, and σ of the targets ``(K,)``."""
        size = theta.shape[-1] // 2
        mean, log_spread, log_noise = theta[..., :size], theta[..., size : 2 * size], theta[..., 2 * size :].squeeze(-1)
        if theta.shape[-1] % 2 == 0:  # a frozen likelihood is no part of θ
            log_noise = self.likelihood.log_scale.expand(theta.shape[:-1])
        return mean, log_spread.exp(), standard_deviation(log_noise)

    def log_evidence(self, theta: Tensor, points: Points) -> Tensor:
        mean, spread, noise = self._split(theta)
        weights = mean[:, None] + spread[:, None] * standard_normal(self.weights, mean.shape[1], like=mean)  # (K, L, P)
        network, flat = Frozen(self.network, self.strategy), tree_map(lambda leaf: leaf.flatten(0, 1), points.x)
        values: Tensor = network.map(lambda weights: network(flat, weights=weights), weights.flatten(0, 1))
        values = values.unflatten(1, points.mask.shape).unflatten(0, weights.shape[:2])  # (K, L, B, N, Y)
        return self._log_likelihood(values, noise, points).logsumexp(1) - math.log(self.weights)

    def _log_likelihood(self, values: Tensor, noise: Tensor, points: Points) -> Tensor:
        """Of network outputs ``(K, L, B, N, Y)``, summed over each task's observed points: ``(K, L, B)``."""
        check_event(values.shape[-1:], points.y.shape[2:])
        density = _normal(values, noise).log_prob(points.y)
        return density.masked_fill(~points.mask, 0.0).sum(-1)

    def forward(self, support: Points) -> Posterior:
        mean, spread, noise = (part.detach().clone() for part in self._split(self.theta()))
        network, lead = Frozen(self.network, self.strategy), (len(mean), len(support.mask), self.weights)  # K, B, L
        mean, spread = mean[:, None, None], spread[:, None, None]
        y, precision = support.y[:, None], (support.mask / noise.square().reshape(-1, 1, 1))[:, :, None, :, None]

        def slope(values: Tensor) -> Tensor:
            """The gradient of log p(y | x, w) by the networks' outputs ``(K B L, N, Y)``."""
            check_event(values.shape[-1:], support.y.shape[2:])
            return (y - values.unflatten(0, lead)).mul_(precision).flatten(0, 2).to(values)

        shared = standard_normal(lead[0], 1, self.weights, mean.shape[-1], like=mean)
        standard = shared.expand(*lead, -1).clone()  # weights in units of the prior
        weights = torch.empty_like(standard)
        x = tree_map(lambda leaf: leaf[None, :, None].expand(*lead, *leaf.shape[1:]).flatten(0, 2), support.x)
        by_weights = network.pullback(x, weights.flatten(0, 2))
        optimizer = torch.optim.Adam([standard], self.rate, fused=True, maximize=True)
        for _ in range(self.steps):
            torch.addcmul(mean, spread, standard, out=weights)
            score = by_weights(slope).view(standard.shape).mul_(spread).sub_(standard)  # of log p(y | x, w) + log P(w)
            standard.grad = stein_direction(standard, score).to(standard)  # of another type under autocast
            optimizer.step()
        learned = torch.addcmul(mean, spread, standard, out=weights).movedim(1, 0).flatten(1, 2)

        def predictions(known: tuple[Tensor, Tensor], x: Any) -> Distribution:
            learned, noise = known
            values = network.over_tasks(x, learned.movedim(1, 0)).unflatten(0, lead[::2])
            scale = noise.mT[:, None, :, None, None].expand_as(values)
            return Normal(values.flatten(0, 1), scale.flatten(0, 1), validate_args=False).to_event(1)

        known = (learned, noise.expand(len(learned), -1))
        return Particles(predictions, known, mean.new_zeros(learned.shape[:2]), support)


def _normal(values: Tensor, noise: Tensor) -> Distribution:
    """Of outputs ``(K, ..., Y)`` with the noise of each prior ``(K,)``."""
    scale = noise.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
    normal: Distribution = Normal(values, scale, validate_args=False).to_event(1)
    return normal
