"""Meta-SGD: the initialisation and a step size for every parameter are learned together.

Li, Zhou, Chen & Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", https://arxiv.org/abs/1707.09835
(equation 2): φ = θ - α ∘ ∇L_S(θ), with the elementwise product ∘ and L_Q(φ) minimised over θ and α.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from bayesmeta.data import Points
from bayesmeta.functional import adaptable, ravel, unravel
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import adapt, check_inner_loop

__all__ = ["MetaSGD"]


@final
class MetaSGD(Learner):
    """MAML with a learned inner rate for every parameter; rates may change sign.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        steps: K, the number of inner steps (the paper's is 1); the attribute may be changed for testing.
        rate: every parameter's initial step size.

    Example:
        >>> learner = MetaSGD(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(self, network: nn.Module, likelihood: Likelihood, *, steps: int = 1, rate: float = 0.02) -> None:
        super().__init__()
        check_inner_loop(network, likelihood, steps, rate)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rates = nn.ParameterList(torch.full_like(p, rate) for p in adaptable(network).values())

    def forward(self, support: Points) -> Posterior:
        # Cloned, as the posterior's graph must survive an update of the learner.
        flat = ravel({str(place): rate for place, rate in enumerate(self.rates)})
        rates = unravel(flat, adaptable(self.network))
        return adapt(self.network, self.likelihood, support, steps=self.steps, rates=rates, strategy=self.strategy)
