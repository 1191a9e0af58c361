"""Normals, and the CRPS of their mixtures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pyro.distributions import Normal
from torch import Tensor

from bayesmeta.distributions.family import Family, register
from bayesmeta.distributions.quadrature import LEVELS, moments_by
from bayesmeta.randomness import standard_normal
from bayesmeta.warps import Warp

__all__ = ["NormalFamily"]


@register(torch.distributions.Normal)
class NormalFamily(Family):
    """N(loc, scale²)."""

    make = Normal
    parameters = ("loc", "scale")

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        return torch.special.ndtr((value - d.loc) / d.scale)

    def quantile(self, d: Any, p: float) -> Tensor:
        return d.loc + d.scale * torch.special.ndtri(torch.as_tensor(p, dtype=d.loc.dtype, device=d.loc.device))

    def grid(self, d: Any) -> Tensor:
        return d.loc[..., None] + d.scale[..., None] * torch.special.ndtri(
            torch.as_tensor(LEVELS, dtype=torch.float64).to(d.loc)
        )

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        loc, scale = d.loc.double(), d.scale.double()
        first, last = torch.full_like(loc, -9.0), torch.full_like(loc, 9.0)
        if warp.growth == math.inf:
            last = 9 + 2 * scale  # the square of an exponential shifts a normal by that
        bend = torch.minimum(((warp.bend - loc) / scale).clamp(min=-9.0), last)
        return moments_by(warp, [first, bend, last], lambda u: loc + scale * u, lambda u: -u.square() / 2)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        return Normal(loc + scale * d.loc, scale * d.scale, validate_args=False)

    def sample(self, d: Any, samples: int) -> Tensor:
        return d.loc + d.scale * standard_normal(samples, *d.batch_shape, like=d.loc)

    def crps(self, d: Any, y: Tensor) -> Tensor:
        return _absolute(y - d.loc, d.scale) - d.scale / math.sqrt(math.pi)

    def crps_of_mixture(self, d: Any, y: Tensor) -> Tensor:
        """E|Y - y| - ½ E|Y - Y'| (Grimit et al. 2006, https://doi.org/10.1256/qj.05.235, eq. 5)."""
        weight, loc, scale = d.mixture_distribution.probs, d.component_distribution.loc, d.component_distribution.scale
        if weight.shape[-1] > _PAIRS:  # an oracle has thousands, nearly all of them without weight
            weight, order = weight.sort(-1, descending=True)
            needed = int((weight.cumsum(-1) < 1 - 1e-9).sum(-1).max()) + 1
            weight, order = weight[..., :needed], order[..., :needed]
            loc, scale = loc.gather(-1, order), scale.gather(-1, order)
            if needed > _PAIRS:
                return _integrated(weight, loc, scale, y)
        error = (weight * _absolute(y[..., None] - loc, scale)).sum(-1)
        half = (weight.square() * scale).sum(-1) / math.sqrt(
            math.pi
        )  # of ½ E|Y - Y'|, those of a component with itself
        for k in range(1, weight.shape[-1]):  # and each other pair once, a row at a time: 64 draws have 2,016 of them
            pairs = _absolute(loc[..., :k] - loc[..., k : k + 1], torch.hypot(scale[..., :k], scale[..., k : k + 1]))
            half = half + weight[..., k] * (weight[..., :k] * pairs).sum(-1)
        return error - half


_PAIRS = 128
"""Components of a mixture up to which their pairs are summed."""


def _absolute(mean: Tensor, scale: Tensor) -> Tensor:
    """E|z| of a normal z."""
    ratio = mean / scale
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    return 2 * scale * density + mean * torch.erf(ratio / math.sqrt(2))


def _integrated(weight: Tensor, loc: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    """∫ (F(z) - [z ≥ y])² dz on both sides of y, by 100 Gauss-Legendre nodes each, out to 6 standard deviations.

    They resolve components no narrower than a hundredth of the whole.
    """
    nodes, masses = np.polynomial.legendre.leggauss(100)
    mean = (weight * loc).sum(-1)
    reach = 6 * (weight * (scale.square() + (loc - mean[..., None]).square())).sum(-1).sqrt()
    score = torch.zeros_like(y)
    for end, left in ((torch.minimum(mean - reach, y), True), (torch.maximum(mean + reach, y), False)):
        half = (y - end) / 2
        for node, mass in zip(nodes, masses, strict=True):
            z = (y + end) / 2 + half * node
            below = (weight * torch.special.ndtr((z[..., None] - loc) / scale)).sum(-1)
            score = score + mass * half.abs() * (below if left else 1 - below).square()
    return score
