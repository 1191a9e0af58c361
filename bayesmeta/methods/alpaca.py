"""A Bayesian last layer on learned features: the posterior in closed form, a Gaussian process with a linear kernel.

Harrison, Sharma & Pavone 2018, "Meta-Learning Priors for Efficient Online Bayesian Regression" (ALPaCA),
https://arxiv.org/abs/1807.08912 (equations 3 to 6). With features φ(x), a constant among them,

    y = φ(x) W + ε,   ε ~ N(0, σ²),   W ~ N(W₀, L Lᵀ),   minimise the query's NLL under the exact p(y | x, support).

φ, W₀, L and σ are learned.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.border import check_positive
from bayesmeta.data import Points
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Gaussian, check_event, check_gaussian
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import BayesianLinear, linear_prior, on_features

__all__ = ["ALPaCA"]


@final
class ALPaCA(Learner):
    """Exact Bayesian linear regression on features that all tasks share. For real targets.

    Predictions are deterministic, in closed form. Smooth features suit it: tanh rather than ReLU.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``.
        head: the linear module from features to targets, whose weights are the prior's mean W₀.
        likelihood: the noise of the targets, a `Gaussian` with one σ.
        prior_scale: the initial standard deviation of the prior of every weight: L starts as this times the identity.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, or the features keep running statistics.

    Example:
        >>> network = MLP(1, 1, activation=nn.Tanh)
        >>> learner = ALPaCA(network.features, network.head, Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(self, features: nn.Module, head: nn.Linear, likelihood: Gaussian, *, prior_scale: float = 1.0) -> None:
        super().__init__()
        check_network(features, "features")
        check_gaussian(likelihood)
        check_positive("prior_scale", prior_scale)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"head: expected the nn.Linear from features to targets, got {type(head).__name__}")
        self.features = features
        self.head = head
        self.likelihood = likelihood
        width = head.in_features + 1
        self.root = nn.Parameter(head.weight.detach().new_zeros(width, width))
        self.prior_scale = prior_scale

    def prior(self) -> tuple[Tensor, Tensor]:
        """W₀ ``(F + 1, Y)``, and L ``(F + 1, F + 1)``, lower triangular."""
        return linear_prior(self.head, self.root, self.prior_scale)

    def forward(self, support: Points) -> Posterior:
        check_event(torch.Size([self.head.out_features]), support.y.shape[2:])
        mean, root = self.prior()
        features = Frozen(self.features, self.strategy)
        embedded = support._replace(x=features.over_tasks(support.x))
        inner = BayesianLinear(mean, root @ root.mT, self.likelihood.scale, embedded)
        return on_features(inner, support, features)
