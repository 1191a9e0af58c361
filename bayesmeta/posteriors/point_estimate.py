"""One set of adapted weights a task, and the inner loop that finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.answers import Functions, repeated
from bayesmeta.border import check_count
from bayesmeta.data import Points, seen
from bayesmeta.distributions import uncertainty
from bayesmeta.functional import (
    Frozen,
    Gradient,
    Params,
    Strategy,
    adaptable,
    descend,
    second_order,
)
from bayesmeta.likelihoods import Likelihood, check_likelihood, support_error
from bayesmeta.networks import check_network, check_padding
from bayesmeta.posterior import Posterior

__all__ = ["PointEstimate", "adapt", "check_inner_loop"]


class PointEstimate(Posterior):
    """One set of adapted weights a task; the predictive's spread is the likelihood's alone.

    Args:
        network: maps inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: maps outputs to distributions.
        weights: the adapted parameters by name, each ``(B, ...)``; the others are the network's own.
        support: what was learned from.
        learn: moves the tasks' weights to where their further points lead, for updates; None if there are none.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = ("weights",)
    _entries = True

    def __init__(
        self,
        network: Frozen,
        likelihood: Likelihood,
        weights: Params,
        support: Points,
        learn: Callable[[Points, Params], Params] | None = None,
    ) -> None:
        super().__init__(support, samples=1)
        self.network = network
        self.weights = weights
        self.likelihood = Frozen(likelihood)
        self.learn = learn

    def _updated(self, points: Points) -> Posterior:
        if self.learn is None:
            return super()._updated(points)
        check_padding(self.network.module, seen(points), "points")
        later = self._later()
        later.weights = self.learn(points, self.weights)
        return later

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        distribution: Distribution = self.likelihood(self.network.over_tasks(x, self.weights))
        return distribution

    def _functions(self, samples: int) -> Functions:
        return repeated(self._predictive, samples)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric = uncertainty(self._predictive(x))
        return aleatoric, torch.zeros_like(aleatoric)


def check_inner_loop(network: nn.Module, likelihood: Likelihood, steps: int, rate: float) -> None:
    """Raises an error where a learner of the MAML family is built around something else than it needs."""
    check_network(network)
    check_likelihood(likelihood)
    adaptable(network)
    check_count("steps", steps, least=0)
    if not isinstance(rate, (int, float)) or not 0 <= rate < float("inf"):
        raise ValueError(f"rate: expected a finite inner step size, at least 0, got {rate!r}; e.g. 0.01")


def adapt(
    network: nn.Module,
    likelihood: Likelihood,
    support: Points,
    *,
    steps: int,
    rates: float | Params,
    gradient: Gradient = second_order,
    strategy: Strategy = "auto",
) -> PointEstimate:
    """K gradient steps from the network's weights on each task's support error: the inner loop of the MAML family.

    The result is differentiable with respect to the network's parameters and the rates, as far as `gradient` is. Its update takes
    as many steps again, on the new points alone.
    """
    frozen = Frozen(network, strategy)
    start = frozen.weights

    def descended(points: Points, weights: Params, lead: int = 1) -> Params:
        return descend(support_error(frozen, likelihood, points, lead), weights, steps, rates, gradient)

    def learn(points: Points, weights: Params) -> Params:
        if frozen.layer_by_layer(points.x):  # contiguous, so that what a file gives back is of the same bits in use
            return {name: value.contiguous() for name, value in descended(points, weights, lead=2).items()}
        found: Params = frozen.map(descended, points, weights)
        return found

    if frozen.layer_by_layer(support.x):
        weights = learn(support, {name: value.expand(len(support.mask), *value.shape) for name, value in start.items()})
    else:
        weights = frozen.map(lambda support: descended(support, start), support)
    return PointEstimate(frozen, likelihood, weights, support, learn)
