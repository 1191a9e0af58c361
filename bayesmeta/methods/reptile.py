"""Reptile: move the initialisation towards what plain training on each task leads to.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", https://arxiv.org/abs/1803.02999 (algorithm 1).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.functional import first_order
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, nll
from bayesmeta.posteriors import PointEstimate, adapt, check_inner_loop

__all__ = ["Reptile"]


@final
class Reptile(Learner):
    """Meta-learns an initialisation θ without any second derivative.

    A task is trained on for `steps` steps on its support, which gives φ_S, and as many on support and query
    together, which gives φ. The loss is ½‖θ - φ‖² with φ constant, whose gradient θ - φ is Reptile's direction,
    and beside it the query's NLL at φ_S, from which the likelihood's parameters (the noise) learn and nothing else.
    The number returned is that NLL, so that losses of different learners compare; the gradient is of both.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        steps: the number of steps of each of the two phases, and of adaptation to a new task; the attribute may be changed for
            testing.
        rate: the inner step size.

    Example:
        >>> learner = Reptile(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(self, network: nn.Module, likelihood: Likelihood, *, steps: int = 8, rate: float = 0.02) -> None:
        super().__init__()
        check_inner_loop(network, likelihood, steps, rate)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate

    def forward(self, support: Points) -> PointEstimate:
        return adapt(
            self.network,
            self.likelihood,
            support,
            steps=self.steps,
            rates=self.rate,
            gradient=first_order,
            strategy=self.strategy,
        )

    def loss(self, episode: Episode) -> Tensor:
        posterior = self.forward(episode.support)
        posterior.weights = {name: weight.detach() for name, weight in posterior.weights.items()}
        trained = posterior.learn(concatenate(*episode), posterior.weights)  # type: ignore[misc]
        values = nll(posterior(episode.query.x), episode.query)
        initial = posterior.network.weights
        distance = torch.stack(
            [0.5 * (weight - trained[name]).square().flatten(1).sum(1) for name, weight in initial.items()]
        ).sum(0)
        return (values + distance - distance.detach()).mean()
