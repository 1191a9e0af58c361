"""Posteriors that are read from an encoding of the support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayesmeta.data import Points
from bayesmeta.encoders import Encoder
from bayesmeta.functional import Frozen, Strategy
from bayesmeta.learner import Functions, Posterior
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posteriors import Outputs, check_pointwise

__all__ = ["Encoded"]


class Reader(Protocol):
    """A learner that infers from what its encoder knows of the points (see `Encoder.knows`)."""

    strategy: Strategy
    likelihood: Likelihood

    @property
    def encoder(self) -> Encoder: ...

    def infer(self, known: Any) -> Any: ...


class Encoded(Posterior):
    """A posterior that a learner reads from an encoding of the support: of sums over its points, where the encoder has such.

    Updates then add to the sums: exact, and of the same size after any number of points. With an encoder that has none, such as
    `Attention`, there are no updates.

    Args:
        learner: which is frozen as it is now, for updates.
        draw: makes S functions, from what the encoder knows, what the learner inferred from that, and S. For B tasks at once to
            equal B one by one, noise is shared over the tasks.
        support: what was learned from.
        samples: how many draws a prediction averages; 1 for a posterior without a latent, whose draws are all equal.
    """

    def __init__(
        self, learner: Reader, draw: Callable[[Any, Any, int], Outputs], support: Points, samples: int = 64
    ) -> None:
        super().__init__(support, samples)
        self.known: Any = learner.encoder.knows(support)
        self.inferred = learner.infer(self.known)
        self.likelihood = Frozen(learner.likelihood)
        self.learner: Frozen | None = None
        if isinstance(self.known, Tensor) and not torch.compiler.is_compiling():  # compiled training updates nothing
            self.learner = Frozen(_Opened(learner), learner.strategy)
        self.draw = draw

    def _functions(self, samples: int) -> Functions:
        outputs = self.draw(self.known, self.inferred, samples)
        return lambda x, own: self.likelihood(outputs(x, own))

    def _updated(self, points: Points) -> Posterior:
        if self.learner is None:
            return super()._updated(points)
        later = self._later()
        later.known = self.known.double() + self.learner(_told, points).double()
        later.inferred = self.learner(_inferred, later.known)
        return later


class _Opened(nn.Module):
    """A module that runs functions of a learner, so that with it all is frozen that the learner can do."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        return function(self.learner, *inputs)


def _told(learner: Reader, points: Points) -> Any:
    check_pointwise(learner.encoder)
    return learner.encoder.knows(points)


def _inferred(learner: Reader, known: Tensor) -> Any:
    return learner.infer(known)
