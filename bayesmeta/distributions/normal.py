"""Normals, and the CRPS of their mixtures."""

from __future__ import annotations

import math
from typing import Any

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
        first, last, nodes = torch.full_like(loc, -9.0), torch.full_like(loc, 9.0), 48  # which are exact to 1e-12
        if warp.growth == math.inf:
            last, nodes = 9 + 2 * scale, 128  # the square of an exponential shifts a normal by that
        bend = torch.minimum(((warp.bend - loc) / scale).clamp(min=-9.0), last)
        return moments_by(warp, [first, bend, last], lambda u: loc + scale * u, lambda u: -u.square() / 2, nodes)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        moved = loc + scale * d.loc
        return Normal(moved, (scale * _unexpanded(d.scale)).expand_as(moved), validate_args=False)

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
        loc, scale = loc.contiguous(), scale.contiguous()  # draws were the first dimension
        return (weight * _absolute(y[..., None] - loc, scale)).sum(-1) - _half_apart(weight, loc, scale)


def _unexpanded(values: Tensor) -> Tensor:
    """Values of which those that were expanded stand once, as a noise that all predictions share."""
    return values[tuple(slice(None if stride else 1) for stride in values.stride())]


_PAIRS = 128
"""Components of a mixture up to which their pairs may be summed."""
_NODES = 256
_FAR = 5.0
"""Standard deviations of a component beyond which F (1 - F) has less than 1e-7 of its integral."""
_AT_ONCE = 2**16
"""Numbers that are held at once."""


def _absolute(mean: Tensor, scale: Tensor) -> Tensor:
    """E|z| of a normal z."""
    ratio = mean / scale
    signed = mean * torch.erf(math.sqrt(0.5) * ratio)
    return torch.addcmul(signed, scale, torch.exp(-0.5 * ratio.square()), value=math.sqrt(2 / math.pi))


def _half_apart(weight: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """½ E|Y - Y'| = ∫ F (1 - F) of two draws of a mixture ``(..., K)``, by evenly spaced nodes, or pair by pair.

    With σ the least standard deviation, the Fourier transform of F (1 - F) at t falls as exp(-σ² t² / 4), so that a step of h
    errs by some h / π · exp(-π² σ² / h²) (Trefethen & Weideman 2014, https://doi.org/10.1137/130932132, section 5): of 0.8 σ by
    a ten millionth of the value, which is at least σ / √π. Where that asks for too many nodes, pairs of up to 128 components
    are summed; more of them have 256 nodes, which resolve what is no narrower than a two-hundredth of the whole.
    """
    low = (loc - _FAR * scale).amin(-1, keepdim=True)
    wide = (loc + _FAR * scale).amax(-1, keepdim=True) - low
    components, widths = weight.shape[-1], wide / scale.amin(-1, keepdim=True)
    nodes = widths.max().item() / 0.8 if widths.numel() else 0.0
    if not nodes < 2 * components and components <= _PAIRS:  # nor where it is no number
        return _of_pairs(weight, loc, scale)
    count = int(nodes) + 2 if nodes < _NODES else _NODES
    steps = torch.arange(count, dtype=loc.dtype, device=loc.device)
    step, per = wide / (count - 1), math.sqrt(0.5) / scale
    first = (low - loc) * per
    total = torch.zeros_like(low[..., 0])
    for some in steps.split(max(1, _AT_ONCE // max(1, loc.numel()))):
        place = step * some.reshape(-1, *[1] * loc.dim())
        above = (weight * torch.erf(torch.addcmul(first, place, per))).sum(-1)  # 2 F - 1
        total = total + (1 - above.square()).sum(0)
    return total * step[..., 0] / 4


def _of_pairs(weight: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The same, each pair once, a row at a time: 64 draws have 2,016 of them."""
    half = (weight.square() * scale).sum(-1) / math.sqrt(math.pi)  # those of a component with itself
    for k in range(1, weight.shape[-1]):
        pairs = _absolute(loc[..., :k] - loc[..., k : k + 1], torch.hypot(scale[..., :k], scale[..., k : k + 1]))
        half = half + weight[..., k] * (weight[..., :k] * pairs).sum(-1)
    return half
