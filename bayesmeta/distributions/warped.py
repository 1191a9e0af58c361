"""Numbers whose warp has a known distribution: such as log-normals, and log-t."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayesmeta.distributions.family import Family, family, register
from bayesmeta.distributions.quadrature import integrated_crps
from bayesmeta.warps import Warp

__all__ = ["Unwarped", "UnwarpedFamily"]


class Unwarped(TorchDistribution):
    """The distribution of numbers whose warp is of another distribution: a log-normal's logarithm is normal.

    Density, cdf and quantiles are exact. Mean and variance are integrals by quadrature, exact to about 1e-10, and infinite where
    they do not exist: of Student's t under a logarithm without a `top`.

    Args:
        base: of the warped numbers: normals, Student's t, or mixtures of these, with or without an event.
        warp: from the user's numbers to those of the base.

    Example:
        >>> d = Unwarped(Normal(torch.zeros(2), 1.0), bm.warps.Log())
        >>> d.mean
        tensor([1.6487, 1.6487])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's own form)

    def __init__(self, base: Any, warp: Warp, validate_args: bool | None = None) -> None:
        self.base, self.warp = base, warp
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(_Between(self.warp), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.moments()[0]

    @property
    def variance(self) -> Tensor:
        return self.moments()[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, for the price of one of them."""
        mean, variance = family(self.base).moments(self.base, self.warp)
        like = getattr(leaf := family(self.base).leaf(self.base), family(leaf).parameters[0])
        return mean.to(like), variance.to(like)

    def log_prob(self, value: Tensor) -> Tensor:
        inside, y = _between(self.warp, value)
        each = self.warp.log_slope(y)
        events = len(self.event_shape)
        density: Tensor = self.base.log_prob(self.warp(y)) + (each.flatten(-events).sum(-1) if events else each)
        return density.masked_fill(~(inside.flatten(-events).all(-1) if events else inside), -torch.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return _drawn(self.warp, self.base.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return _drawn(self.warp, self.base.sample(torch.Size(sample_shape)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Unwarped(self.base.expand(torch.Size(batch_shape)), self.warp)


class _Between(constraints.Constraint):
    """Between the bounds of a warp."""

    def __init__(self, warp: Warp) -> None:
        self.warp = warp
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.warp.inside(value)


def _between(warp: Warp, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which numbers are between the bounds; and the numbers, with one that is in the place of all others."""
    inside = warp.inside(y)
    return inside, torch.where(inside, y, warp.inverse(torch.zeros_like(y)))


def _drawn(warp: Warp, z: Tensor) -> Tensor:
    """Draws in the user's units, of which none is rounded to a bound, or beyond: they could not be told as targets."""
    low, high = (torch.tensor(bound, dtype=z.dtype, device=z.device) for bound in warp.bounds)
    least = torch.maximum(low.nextafter(high), low + torch.finfo(z.dtype).tiny)
    return warp.inverse(z).clamp(min=least, max=high.nextafter(low))


def _seen_through(warp: Warp, cdf: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The cdf of numbers whose warp has the given one."""
    low, high = warp.bounds
    _, safe = _between(warp, value)
    found = cdf(warp(safe)).masked_fill(value <= low, 0.0).masked_fill(value >= high, 1.0)
    return found.masked_fill(value.isnan(), torch.nan)


@register(Unwarped)
class UnwarpedFamily(Family):
    """What is asked of it is asked of the base; a mixture of numbers of one warp has that warp."""

    def map(self, d: Any, f: Callable[[Tensor], Tensor]) -> Any:
        return Unwarped(family(d.base).map(d.base, f), d.warp)

    def leaf(self, d: Any) -> Any:
        return family(d.base).leaf(d.base)

    def name(self, d: Any) -> str:
        return f"{family(d.base).name(d.base)} under {d.warp}"

    def marginals(self, d: Any) -> Any:
        return Unwarped(family(d.base).marginals(d.base), d.warp)

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        return Unwarped(family(draws.base).mix(draws.base, log_weights), draws.warp)

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        inside, safe = _between(d.warp, y)
        events = len(d.event_shape)
        slope = d.warp.log_slope(safe).masked_fill(~inside, -torch.inf).masked_fill(~mask, 0.0)
        slope = slope.flatten(-events).sum(-1) if events else slope
        return family(d.base).log_prob(d.base, d.warp(safe), mask) + slope

    def undefined(self, d: Any) -> Tensor:
        return family(d.base).undefined(d.base)

    def expects(self, d: Any) -> str:
        return d.warp.expects

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        return _seen_through(d.warp, lambda z: family(d.base).cdf(d.base, z), value)

    def below(self, d: Any) -> Callable[[Tensor], Tensor]:
        base = family(d.base).below(d.base)
        return lambda value: _seen_through(d.warp, base, value)

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        low, high = family(d.base).bracket(d.base)
        return d.warp.inverse(low), d.warp.inverse(high)

    def quantile(self, d: Any, p: float) -> Tensor:
        return d.warp.inverse(family(d.base).quantile(d.base, p))

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        raise TypeError(
            f"distribution: expected one whose unit can be changed, got {self.name(d)}; standardise within the warp, "
            "Warped.from_tasks(learner, warp, tasks)"
        )

    def centre(self, d: Any) -> Tensor:
        return d.warp.inverse(family(d.base).centre(d.base))

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        """On the warped scale, where deviations grow by τ."""
        around = None if centre is None else d.warp(centre)
        return Unwarped(family(d.base).temper(d.base, temperature, around), d.warp)

    def grid(self, d: Any) -> Tensor:
        points = family(d.base).grid(d.base)
        bend = points.amin(-1, keepdim=True).clamp(min=d.warp.bend).minimum(points.amax(-1, keepdim=True))
        return d.warp.inverse(torch.cat([points, bend], -1))

    def crps(self, d: Any, y: Tensor) -> Tensor:
        """By an integral; infinite as the mean is."""
        return integrated_crps(d, y).masked_fill(d.mean.isinf(), torch.inf)

    def sample(self, d: Any, samples: int) -> Tensor:
        return _drawn(d.warp, family(d.base).sample(d.base, samples))
