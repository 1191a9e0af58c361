"""Integrals over distributions of single numbers that have no closed form: moments of warped ones, and the CRPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesmeta.distributions.family import family
from bayesmeta.warps import Warp

__all__ = ["LEVELS", "integrated_crps", "moments_by"]

_RULES = {nodes: np.polynomial.legendre.leggauss(nodes) for nodes in (48, 128)}
_FEW_NODES, _FEW_MASSES = np.polynomial.legendre.leggauss(6)
_AT_ONCE = 2**18
"""Numbers that are held at once."""

LEVELS = (1e-8, 1e-5, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999, 1 - 1e-5, 1 - 1e-8)
"""Of the quantiles between which a family's cdf is smooth."""
_PANELS = 128


def moments_by(
    warp: Warp,
    ends: Sequence[Tensor],
    place: Callable[[Tensor], Tensor],
    log_density: Callable[[Tensor], Tensor],
    nodes: int = 128,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``warp.inverse(place(u))``, by Gauss-Legendre quadrature between each two ends.

    Args:
        warp: of the numbers.
        ends: of panels, float64 ``(...)``, in order; the density's mass lies between the first and the last.
        place: from u, with leading dimensions, to the warped scale.
        log_density: of u, but for a constant.
        nodes: between two ends, 48 or 128.
    """
    places, masses = (torch.as_tensor(a, device=ends[0].device) for a in _RULES[nodes])
    shape = (-1, *[1] * ends[0].dim())
    centre = warp.inverse(place(torch.zeros_like(ends[0])))
    centre = torch.where(centre.isfinite(), centre, 0.0)
    total, first, second = (torch.zeros_like(centre) for _ in range(3))
    several = max(1, _AT_ONCE // max(1, centre.numel()))
    for start, end in pairwise(ends):
        for some, mass in zip(places.split(several), masses.split(several), strict=True):
            u = (start + end) / 2 + (end - start) / 2 * some.reshape(shape)
            weight = mass.reshape(shape) * (end - start) / 2 * log_density(u).exp()
            off = warp.inverse(place(u)) - centre
            off = torch.where(weight > 0, off, 0.0)  # an infinity beyond all mass
            total, first = total + weight.sum(0), first + (weight * off).sum(0)
            second = second + (weight * off.square()).sum(0)
    mean = first / total
    variance = (second / total - mean.square()).clamp(min=0)
    return centre + mean, torch.where(second.isinf(), torch.inf, variance)


def integrated_crps(d: Any, y: Tensor) -> Tensor:
    """∫ (F(v) - [v ≥ y])² dv of single numbers ``(...)``, by 6 Gauss-Legendre nodes between the points of `Family.grid` and y.

    To about 1e-5 of itself for one component; many components share 128 panels, where they lie close together. What lies beyond
    the outermost quantiles (1e-8) and y is left out.
    """
    exact = family(d).map(d, lambda p: p.double())
    edges = family(exact).grid(exact).movedim(-1, 0).sort(0).values
    if len(edges) > _PANELS + 1:
        edges = edges[torch.linspace(0, len(edges) - 1, _PANELS + 1, device=edges.device).round().long()]
    value = y.double().expand(edges.shape[1:])
    edges = torch.cat([edges, value[None]]).sort(0).values
    score, cdf = torch.zeros_like(value), family(exact).below(exact)
    several = max(1, _AT_ONCE // 4 // max(1, _size(exact)))
    for low, high in zip(edges[:-1].split(several), edges[1:].split(several), strict=True):
        for node, mass in zip(_FEW_NODES, _FEW_MASSES, strict=True):
            at, half = (low + high) / 2, (high - low) / 2
            off = cdf(at + float(node) * half) - (at >= value).double()
            score = score + (float(mass) * half * off.square()).sum(0)
    return score.to(y)


def _size(d: Any) -> int:
    """How many numbers the parameters of a distribution are."""
    sizes = [1]

    def note(parameter: Tensor) -> Tensor:
        sizes.append(parameter.numel())
        return parameter

    family(d).map(d, note)
    return max(sizes)
