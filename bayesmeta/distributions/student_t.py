"""Student's t: torch has neither its cdf nor its CRPS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.distributions import StudentT
from torch import Tensor

from bayesmeta.distributions.family import Family, bisect, register
from bayesmeta.distributions.quadrature import LEVELS, integrated_crps, moments_by
from bayesmeta.randomness import generator, standard_normal
from bayesmeta.warps import Warp

__all__ = ["StudentTFamily"]


@register(torch.distributions.StudentT)
class StudentTFamily(Family):
    """loc + scale t, with df degrees of freedom."""

    make = StudentT
    parameters = ("df", "loc", "scale")

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        return _cdf(d.df, (value - d.loc) / d.scale)

    def below(self, d: Any) -> Callable[[Tensor], Tensor]:
        """Of each number of degrees of freedom one table, by cubic Hermite interpolation in the u of `_cdf`."""
        which, far, _, known, slope = _table(d.df)
        loc, wide, first = d.loc.double(), (d.scale * d.df.sqrt()).double(), which * (_STEPS + 1)
        per = (_STEPS / far)[which]

        def ask(value: Tensor) -> Tensor:
            z = (value.double() - loc) / wide
            place = (torch.asinh(z.abs()) * per).clamp(max=_STEPS * (1 - 1e-12))
            j = place.long()
            s, at = place - j, first + j
            left, right = known.take(at), known.take(at + 1)
            bent = (1 - s) * slope.take(at) - s * slope.take(at + 1) + (1 - 2 * s) * (left - right)
            found = (1 - s) * left + s * right + s * (1 - s) * bent
            return torch.where(z < 0, 1 - found, found).to(value.dtype)

        return ask

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        return d.loc - 3 * d.scale, d.loc + 3 * d.scale  # the variance may be infinite

    def quantile(self, d: Any, p: float) -> Tensor:
        """The standard one of each number of degrees of freedom, moved and scaled."""
        degrees, which = d.df.unique(return_inverse=True)
        far = 3 * torch.ones_like(degrees)
        return d.loc + d.scale * bisect(lambda t: _cdf(degrees, t), -far, far, p, whole=False)[which]

    def grid(self, d: Any) -> Tensor:
        """From the same table: which points they are matters little."""
        which, _, t, known, _ = _table(d.df)
        upper = torch.tensor(LEVELS, dtype=torch.float64, device=t.device)
        upper = upper[upper >= 0.5].expand(len(t), -1).contiguous()
        half = t.gather(1, torch.searchsorted(known, upper).clamp(max=_STEPS))[which]  # (..., L)
        return d.loc[..., None] + d.scale[..., None] * torch.cat([-half, half], -1).to(d.loc)

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        """By the substitution of its cdf; infinite where the integrals are."""
        df, loc, scale = (part.double() for part in (d.df, d.loc, d.scale))
        if warp.growth == math.inf:
            infinite = torch.full_like(loc, math.inf)
            return infinite, infinite
        far, wide = _reach(30 / df), scale * df.sqrt()
        rate = torch.where(df > 2 * warp.growth, df - 2 * warp.growth, df - warp.growth).clamp(min=0.01)  # of decay
        last = far + (30 / rate).clamp(max=600 / max(1.0, 2 * warp.growth))
        bend = torch.maximum(torch.minimum(torch.asinh((warp.bend - loc) / wide), far), -far)
        mean, variance = moments_by(
            warp, [-far, bend, far, last], lambda u: loc + wide * torch.sinh(u), lambda u: -df * _log_cosh(u)
        )
        return mean.masked_fill(df <= warp.growth, math.inf), variance.masked_fill(df <= 2 * warp.growth, math.inf)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        return StudentT(d.df, loc + scale * d.loc, scale * d.scale, validate_args=False)

    def sample(self, d: Any, samples: int) -> Tensor:
        noise = standard_normal(samples, *d.batch_shape, like=d.loc)
        half = (d.df / 2).expand(noise.shape)
        gamma = torch._standard_gamma(half, generator=generator(half.device))
        wider = (half / gamma.clamp(min=torch.finfo(gamma.dtype).tiny)).sqrt()
        return d.loc + d.scale * (noise * wider)

    def crps(self, d: Any, y: Tensor) -> Tensor:
        """In closed form (Jordan, Krüger & Lerch 2019, https://arxiv.org/abs/1709.04743)."""
        df = d.df.double()
        z = ((y - d.loc) / d.scale).double()
        density, rank = torch.distributions.StudentT(df, validate_args=False).log_prob(z).exp(), _cdf(df, z)

        def log_beta(b: Tensor) -> Tensor:
            return math.lgamma(0.5) + torch.lgamma(b) - torch.lgamma(b + 0.5)

        spread = 2 * df.sqrt() / (df - 1) * (log_beta(df - 0.5) - 2 * log_beta(df / 2)).exp()
        return d.scale * (z * (2 * rank - 1) + 2 * density * (df + z.square()) / (df - 1) - spread)

    def crps_of_mixture(self, d: Any, y: Tensor) -> Tensor:
        return integrated_crps(d, y)


_STEPS = 256
_RULES = {nodes: np.polynomial.legendre.leggauss(nodes) for nodes in (8, 64, 128)}


def _cdf(df: Tensor, t: Tensor) -> Tensor:
    """Student's cdf: torch has no incomplete beta function.

    Gauss-Legendre quadrature over u, t = √df sinh u, where the density is proportional to cosh^(-df) u: smooth for every
    df. The constant is the same quadrature over all of u, since a difference of log-gammas cancels at large df.
    """
    degrees = df.double()
    distinct, which = degrees.unique(return_inverse=True)
    far = _reach(50 / degrees)
    lower = t < 0  # the nearer tail, whose small probabilities then keep their digits
    place = torch.asinh(t.double() / degrees.sqrt())
    start = torch.minimum(torch.where(lower, -place, place), far)
    half = _area(distinct, torch.zeros_like(distinct), _reach(50 / distinct))[which]
    tail = _area(degrees, start, far) / half / 2
    return torch.where(lower, tail, 1 - tail).to(t.dtype)


def _area(degrees: Tensor, start: Tensor, far: Tensor) -> Tensor:
    """Twice the integral of cosh^(-df) u from `start` to `far`, where little is left."""
    return _integral(degrees, start, far, 64 if (degrees >= 1).all() else 128)  # heavy tails reach far


def _integral(degrees: Tensor, start: Tensor, end: Tensor, nodes: int) -> Tensor:
    """Twice the integral of cosh^(-df) u, by Gauss-Legendre nodes."""
    places, weights = (torch.as_tensor(a, device=end.device) for a in _RULES[nodes])
    u = start[..., None] + (end - start)[..., None] * (places + 1) / 2
    return (weights * torch.exp(-degrees[..., None] * _log_cosh(u))).sum(-1) * (end - start)


def _table(df: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of each number of degrees of freedom the upper half of the cdf at evenly spaced u of `_cdf`.

    Returns:
        Which row is each one's, in the shape of df; the largest u ``(rows,)``; t, the cdf, and its slope by the step, each
        ``(rows, steps + 1)``.
    """
    degrees, which = df.double().unique(return_inverse=True)
    far = _reach(25 / degrees)
    u = far[:, None] * torch.linspace(0, 1, _STEPS + 1, dtype=torch.float64, device=far.device)
    parts = _integral(degrees[:, None], u[:, :-1], u[:, 1:], 8).cumsum(-1)
    known = torch.cat([torch.zeros_like(far)[:, None], parts / parts[:, -1:]], 1) / 2 + 0.5
    slope = torch.exp(-degrees[:, None] * _log_cosh(u)) / parts[:, -1:] * far[:, None] / _STEPS
    return which, far, degrees.sqrt()[:, None] * torch.sinh(u), known, slope


def _reach(decay: Tensor) -> Tensor:
    """u where cosh u is exp(decay)."""
    return (decay + torch.log1p((-torch.expm1(-2 * decay)).sqrt())).clamp(max=700.0)


def _log_cosh(u: Tensor) -> Tensor:
    far = u.abs()
    held = far.clamp(max=700.0)  # beyond it the square is infinite, and the logarithm a line
    return torch.log1p(2 * torch.sinh(held / 2).square()) + (far - held)
