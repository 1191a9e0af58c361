"""A posterior of weighted particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.distributions import mixture, select, uncertainty
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Particles"]


class Particles(Posterior):
    """A posterior over functions by weighted particles: K functions, each with a weight in each task.

    Args:
        predict: from what is known of the tasks and x ``(B, M, *X)`` to the particles' predictions, batch ``(K, B, M)``.
        known: of the tasks, a tree of tensors ``(B, ...)``: the particles.
        log_weights: ``(B, K)``, not necessarily normalised.
        support: what was learned from.
    """

    _of_tasks = ("known", "log_weights")

    def __init__(
        self, predict: Callable[[Any, Any], Distribution], known: Any, log_weights: Tensor, support: Points
    ) -> None:
        super().__init__(support)
        self.predict, self.known = predict, known
        self.log_weights = log_weights

    def _particles(self, x: Any) -> Distribution:
        return self.predict(self.known, x)

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(self._particles(x), self.log_weights.mT[..., None])

    def _functions(self, samples: int) -> Functions:
        weights = self.log_weights.softmax(1)
        chosen = torch.multinomial(weights, samples, replacement=True, generator=generator(weights.device)).mT  # (S, B)
        return lambda x, own: select(self._particles(x), chosen, own=own)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        particles = self._particles(x)
        each, log_weights = uncertainty(particles), self.log_weights.mT
        weights = log_weights.softmax(0)[..., None].reshape(*log_weights.shape, *[1] * (each.dim() - 2))
        aleatoric = (weights * each).sum(0)
        total = uncertainty(mixture(particles, log_weights[..., None]))
        return aleatoric, (total - aleatoric).clamp(min=0)
