"""Counts that vary more than those of one rate: a Poisson's, whose rate is a Gamma's."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import NegativeBinomial
from torch import Tensor
from torch.nn import functional as F

from bayesmeta.distributions.family import Family, register
from bayesmeta.randomness import generator

__all__ = ["NegativeBinomialFamily"]


@register(torch.distributions.NegativeBinomial)
class NegativeBinomialFamily(Family):
    """With r failures and the log odds l of a success: mean r exp(l), variance mean + mean² / r."""

    kind = "counts"
    make = NegativeBinomial
    parameters = ("total_count", "logits")

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        count = value.double().floor()
        below = _beta(d.total_count.double(), (count + 1).clamp(min=1), -d.logits.double())
        return torch.where(count < 0, 0.0, below).to(value.dtype)

    def sample(self, d: Any, samples: int) -> Tensor:
        count = d.total_count.expand(samples, *d.batch_shape).contiguous()
        gamma = torch._standard_gamma(count, generator=generator(count.device))
        return torch.poisson(gamma * d.logits.exp(), generator=generator(count.device))


def _beta(a: Tensor, b: Tensor, logits: Tensor) -> Tensor:
    """The regularised incomplete beta function I_x(a, b) at x = σ(logits), float64: torch has none.

    By its continued fraction (NIST Digital Library of Mathematical Functions, 8.17.22), on the side of the mean where that
    converges, by Lentz's method; it takes some √(a + b) terms.
    """
    a, b, logits = torch.broadcast_tensors(a, b, logits)
    swap = logits.sigmoid() > (a + 1) / (a + b + 2)
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    logits = torch.where(swap, -logits, logits)
    x, least = logits.sigmoid(), 1e-300

    def away(from_zero: Tensor) -> Tensor:
        return torch.where(from_zero.abs() < least, least, from_zero)

    c = torch.ones_like(x)
    d = 1 / away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        change = torch.ones_like(x)
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = away(1 + term / c), 1 / away(1 + term * d)
            change = change * c * d
        fraction = fraction * change
        if m % 8 == 0 and not ((change - 1).abs() > 1e-13).any():
            break
    log_front = a * F.logsigmoid(logits) + b * F.logsigmoid(-logits) - a.log()
    value = fraction * (log_front + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)).exp()
    return torch.where(swap, 1 - value, value)
