"""Posteriors whose predictions are averages over fixed draws of each point by itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.quasirandom import SobolEngine

from bayesmeta.distributions import mixture, uncertainty
from bayesmeta.posterior import Posterior

__all__ = ["MarginallyDrawn", "normal_numbers"]


class MarginallyDrawn(Posterior):
    """A posterior of labels or counts that has no closed form, but a normal at each point: deterministic predictions."""

    @abstractmethod
    def _marginal_draws(self, x: Any, samples: int) -> Distribution:
        """S fixed draws at each point by itself: batch ``(S, B, M)``."""

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(self._marginal_draws(x, samples or self._samples))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        draws = self._marginal_draws(x, samples)
        aleatoric = uncertainty(draws).mean(0)
        return aleatoric, (uncertainty(mixture(draws)) - aleatoric).clamp(min=0)


def normal_numbers(count: int, dimensions: int) -> Tensor:
    """Normal numbers ``(S, W)`` that fill the space evenly: the same at each call."""
    uniform = SobolEngine(dimensions, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
