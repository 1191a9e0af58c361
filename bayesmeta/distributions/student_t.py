"""Student's t: torch has neither its cdf nor its CRPS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pyro.distributions import StudentT
from torch import Tensor

from bayesmeta.distributions.family import Family, bisect, register
from bayesmeta.randomness import generator, standard_normal

__all__ = ["StudentTFamily"]


@register(torch.distributions.StudentT)
class StudentTFamily(Family):
    """loc + scale t, with df degrees of freedom."""

    make = StudentT
    parameters = ("df", "loc", "scale")

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        return _cdf(d.df, (value - d.loc) / d.scale)

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        return d.loc - 3 * d.scale, d.loc + 3 * d.scale  # the variance may be infinite

    def quantile(self, d: Any, p: float) -> Tensor:
        """The standard one of each number of degrees of freedom, moved and scaled."""
        degrees, which = d.df.unique(return_inverse=True)
        far = 3 * torch.ones_like(degrees)
        return d.loc + d.scale * bisect(lambda t: _cdf(degrees, t), -far, far, p, whole=False)[which]

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


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def _cdf(df: Tensor, t: Tensor) -> Tensor:
    """Student's cdf: torch has no incomplete beta function.

    Gauss-Legendre quadrature over u, t = √df sinh u, where the density is proportional to cosh^(-df) u: smooth for every
    df. The constant is the same quadrature over all of u, since a difference of log-gammas cancels at large df.
    """
    nodes, weights = (torch.as_tensor(a, device=t.device) for a in (_NODES, _WEIGHTS))
    degrees = df.double()
    decay = 50 / degrees  # cosh^(-df) u = exp(-50) at u = arcosh(exp(50 / df))
    far = (decay + torch.log1p((-torch.expm1(-2 * decay)).sqrt())).clamp(max=700.0)

    def area(start: Tensor) -> Tensor:
        u = start[..., None] + (far - start)[..., None] * (nodes + 1) / 2
        log_cosh = torch.log1p(2 * torch.sinh(u / 2).square())
        return (weights * torch.exp(-degrees[..., None] * log_cosh)).sum(-1) * (far - start)

    lower = t < 0  # the nearer tail, whose small probabilities then keep their digits
    place = torch.asinh(t.double() / degrees.sqrt())
    start = torch.minimum(torch.where(lower, -place, place), far)
    tail = area(start) / area(torch.zeros_like(start)) / 2
    return torch.where(lower, tail, 1 - tail).to(t.dtype)
