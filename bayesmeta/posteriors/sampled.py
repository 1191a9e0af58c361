"""A posterior from which functions are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.functional import (
    Frozen,
    with_bias,
)
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior

__all__ = ["Outputs", "Sampled", "heads", "networks"]


Outputs: TypeAlias = Callable[[Any, bool], Tensor]
"""The network outputs ``(S, B, M, *O)`` of S functions, at inputs in the form of `bayesmeta.answers.Functions`."""


class Sampled(Posterior):
    """A posterior over functions from which one can draw: the predictive is the mixture of S draws.

    Args:
        draw: makes S functions, from what is known of the tasks and S. For B tasks at once to equal B one by one, its noise is
            shared over the tasks.
        known: of the tasks, a tree of tensors ``(B, ...)``.
        likelihood: maps outputs to distributions.
        support: what was learned from.
        samples: S, how many draws a prediction averages unless the call says; 1 for a posterior whose draws are all equal.
    """

    _of_tasks = ("known",)

    def __init__(
        self,
        draw: Callable[[Any, int], Outputs],
        known: Any,
        likelihood: Likelihood,
        support: Points,
        samples: int = 64,
    ) -> None:
        super().__init__(support, samples)
        self.draw, self.known = draw, known
        self.likelihood = Frozen(likelihood)

    def _functions(self, samples: int) -> Functions:
        outputs = self.draw(self.known, samples)
        return lambda x, own: self.likelihood(outputs(x, own))


def networks(network: Frozen, weights: Tensor) -> Outputs:
    """A network with S draws of each task's weights, ``(S, B, P)``, as S functions."""

    def outputs(x: Any, own: bool) -> Tensor:
        if not own:
            return network.over_tasks(x, weights)
        each = tree_map(lambda leaf: apart(leaf, len(weights)).flatten(0, 1), x)  # as many tasks of M points
        return network.over_tasks(each, weights.flatten(0, 1)).unflatten(0, weights.shape[:2])

    return outputs


def heads(features: Callable[[Any], Tensor], weights: Tensor) -> Outputs:
    """Linear heads on features, with S draws of each task's weights and biases, ``(S, B, *O, F + 1)``, as S functions.

    Args:
        features: maps inputs ``(B, M, *X)`` to features ``(B, M, F)``.
        weights: of each draw's head; the last weight of each output is its bias.
    """

    def outputs(x: Any, own: bool) -> Tensor:
        embedded = with_bias(features(x))
        return (apart(embedded, len(weights)) if own else embedded) @ weights.mT

    return outputs
