"""A factorised Gaussian over all weights of a network, a task."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bayesmeta.answers import Functions
from bayesmeta.data import Points, seen
from bayesmeta.functional import Frozen
from bayesmeta.networks import check_padding
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors.sampled import networks
from bayesmeta.randomness import standard_normal

__all__ = ["GaussianWeights", "LearnedInParts", "Weights"]


class Weights(NamedTuple):
    """A Gaussian over the weights of each task."""

    mean: Tensor
    """μ ``(B, P)``."""
    log_scale: Tensor
    """log σ ``(B, P)``."""


class GaussianWeights(Posterior):
    """A Gaussian over each task's weights: its functions are networks with weights drawn from it.

    A subclass implements `_learn`, which moves `weights` to where points lead.

    Args:
        weights: the Gaussian of each task.
        network: maps inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: maps outputs to distributions.
        support: what was learned from.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = ("weights",)
    _entries = True

    def __init__(self, weights: Weights, network: Frozen, likelihood: Frozen, support: Points) -> None:
        super().__init__(support)
        self.weights, self.network, self.likelihood = weights, network, likelihood

    @abstractmethod
    def _learn(self, points: Points) -> None:
        """Moves `weights` to where points lead; those of a task without any stay."""

    def _functions(self, samples: int) -> Functions:
        mean, log_scale = self.weights
        noise = standard_normal(samples, 1, mean.shape[1], like=mean)  # shared by the tasks
        outputs = networks(self.network, mean + log_scale.exp() * noise)
        return lambda x, own: self.likelihood(outputs(x, own))

    def _updated(self, points: Points) -> Posterior:
        check_padding(self.network.module, seen(points), "points")
        later = self._later()
        later._learn(points)
        return later


class LearnedInParts(GaussianWeights):
    """One that begins as the prior, and learns its support as it learns every further part.

    A subclass implements `_descend`. What it needs for that it holds before it calls this constructor.

    Args:
        prior: the Gaussian of each task before any points.
        network: maps inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: maps outputs to distributions.
        support: the first part.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = ("weights", "told")

    def __init__(self, prior: Weights, network: Frozen, likelihood: Frozen, support: Points) -> None:
        super().__init__(prior, network, likelihood, support)
        self.told = torch.zeros_like(support.mask.flatten(1)[:, :1])
        """Whether a task has been told anything, ``(B, 1)``: a descent then starts from where the last one led."""
        self._learn(support)

    def _learn(self, points: Points) -> None:
        self._descend(points)
        self.told = self.told | seen(points).any(1, keepdim=True)

    @abstractmethod
    def _descend(self, points: Points) -> None:
        """Moves `weights` to where points lead; those of a task without any stay."""
