"""Almost no inner loop: only the head adapts, on features that all tasks share.

Raghu, Raghu, Bengio & Vinyals 2020, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
https://arxiv.org/abs/1909.09157 (section 4.1).
"""

from __future__ import annotations

from typing import final

from torch import nn

from bayesmeta.data import Points
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import adapt, check_inner_loop, on_features

__all__ = ["ANIL"]


@final
class ANIL(Learner):
    """MAML whose inner loop moves the head alone: the features are computed once a task, not once a step.

    Args:
        features: the body, any module from ``(N, *X)`` to features; not adapted.
        head: the module from features to outputs ``(N, *O)``; its parameters are the initialisation.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        steps: K, the number of inner steps; the attribute may be changed for testing.
        rate: the inner step size.

    Example:
        >>> network = MLP(1, 1)
        >>> learner = ANIL(network.features, network.head, Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self, features: nn.Module, head: nn.Module, likelihood: Likelihood, *, steps: int = 5, rate: float = 0.01
    ) -> None:
        super().__init__()
        check_network(features, "features")
        check_inner_loop(head, likelihood, steps, rate)
        self.features = features
        self.head = head
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate

    def forward(self, support: Points) -> Posterior:
        features = Frozen(self.features, self.strategy)
        embedded = support._replace(x=features.over_tasks(support.x))
        inner = adapt(self.head, self.likelihood, embedded, steps=self.steps, rates=self.rate, strategy=self.strategy)
        return on_features(inner, support, features)
