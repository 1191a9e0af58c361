"""Model-agnostic meta-learning: an initialisation from which a few gradient steps solve a new task.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
https://arxiv.org/abs/1703.03400. With the support error L_S and the query's negative log-likelihood L_Q,

    φ = θ - α ∇L_S(θ), repeated K times,      minimise over θ the mean over tasks of L_Q(φ(θ)).
"""

from __future__ import annotations

from typing import final

from torch import nn

from bayesmeta.data import Points
from bayesmeta.functional import first_order
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import adapt, check_inner_loop

__all__ = ["MAML", "FirstOrderMAML"]


@final
class MAML(Learner):
    """Meta-learns an initialisation by differentiating through the inner loop.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are the initialisation.
        likelihood: makes the distribution p(y | x) of the network's outputs. Its `error` is the inner loss, its NLL the outer
            one.
        steps: K, the number of inner steps; the attribute may be changed for testing.
        rate: α, the inner step size. The paper's sinusoids use K = 1 and α = 0.01.

    Example:
        >>> learner = MAML(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(self, network: nn.Module, likelihood: Likelihood, *, steps: int = 1, rate: float = 0.01) -> None:
        super().__init__()
        check_inner_loop(network, likelihood, steps, rate)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate

    def forward(self, support: Points) -> Posterior:
        return adapt(self.network, self.likelihood, support, steps=self.steps, rates=self.rate, strategy=self.strategy)


@final
class FirstOrderMAML(Learner):
    """MAML with the inner gradients taken as constants: ∂φ/∂θ is the identity (the paper's section 5.2).

    The arguments are those of `MAML`. A meta-update costs less time and memory, and ignores curvature.

    Example:
        >>> learner = FirstOrderMAML(MLP(1, 1), Gaussian(), steps=5)
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(self, network: nn.Module, likelihood: Likelihood, *, steps: int = 1, rate: float = 0.01) -> None:
        super().__init__()
        check_inner_loop(network, likelihood, steps, rate)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate

    def forward(self, support: Points) -> Posterior:
        return adapt(
            self.network,
            self.likelihood,
            support,
            steps=self.steps,
            rates=self.rate,
            gradient=first_order,
            strategy=self.strategy,
        )
