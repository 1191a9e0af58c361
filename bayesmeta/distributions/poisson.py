"""Counts with one rate."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Poisson
from torch import Tensor

from bayesmeta.distributions.family import Family, register
from bayesmeta.randomness import generator

__all__ = ["PoissonFamily"]


@register(torch.distributions.Poisson)
class PoissonFamily(Family):
    """Mean and variance are the rate."""

    kind = "counts"
    make = Poisson
    parameters = ("rate",)

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        count = value.double().floor()
        below = torch.special.gammaincc((count + 1).clamp(min=1), d.rate.double())
        return torch.where(count < 0, 0.0, below).to(value.dtype)

    def sample(self, d: Any, samples: int) -> Tensor:
        rate = d.rate.expand(samples, *d.batch_shape)
        return torch.poisson(rate, generator=generator(rate.device))
