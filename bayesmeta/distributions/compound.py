"""Distributions made of others: independent entries of an event, and mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Independent, MixtureSameFamily
from torch import Tensor

from bayesmeta.distributions.family import Family, Kind, family, register
from bayesmeta.warps import Warp

__all__ = ["IndependentFamily", "MixtureFamily", "of_parts"]


@register(torch.distributions.Independent)
class IndependentFamily(Family):
    """Entries of an event, each by itself."""

    def map(self, d: Any, f: Callable[[Tensor], Tensor]) -> Any:
        return _again(d, family(d.base_dist).map(d.base_dist, f))

    def leaf(self, d: Any) -> Any:
        return family(d.base_dist).leaf(d.base_dist)

    def name(self, d: Any) -> str:
        return family(d.base_dist).name(d.base_dist)

    def marginals(self, d: Any) -> Any:
        return d.base_dist

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        if not isinstance(self.leaf(draws), torch.distributions.Categorical):
            return super().mix(draws, log_weights)
        each = log_weights.reshape(*log_weights.shape, *[1] * draws.reinterpreted_batch_ndims)
        return _again(draws, family(draws.base_dist).mix(draws.base_dist, each))  # labels collapse, each by itself

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        each = family(d.base_dist).log_prob(d.base_dist, y, mask)
        return each.flatten(len(d.batch_shape)).sum(-1) if d.reinterpreted_batch_ndims else each

    def undefined(self, d: Any) -> Tensor:
        inner = family(d.base_dist).undefined(d.base_dist)
        return inner.flatten(len(d.batch_shape)).any(-1) if d.reinterpreted_batch_ndims else inner

    def expects(self, d: Any) -> str:
        return family(d.base_dist).expects(d.base_dist)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        return _again(d, family(d.base_dist).affine(d.base_dist, loc, scale))

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        return _again(d, family(d.base_dist).temper(d.base_dist, temperature, centre))

    def centre(self, d: Any) -> Tensor:
        return family(d.base_dist).centre(d.base_dist)

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        return family(d.base_dist).moments(d.base_dist, warp)

    def probabilities(self, d: Any) -> Tensor:
        return family(d.base_dist).probabilities(d.base_dist)

    def sample(self, d: Any, samples: int) -> Tensor:
        return family(d.base_dist).sample(d.base_dist, samples)


def _again(d: Any, base: Any) -> Any:
    return Independent(base, d.reinterpreted_batch_ndims, validate_args=False)


@register(torch.distributions.MixtureSameFamily)
class MixtureFamily(Family):
    """Components stand in the last batch dimension."""

    def map(self, d: Any, f: Callable[[Tensor], Tensor]) -> Any:
        weights, components = d.mixture_distribution, d.component_distribution
        mapped = family(weights).map(weights, f), family(components).map(components, f)
        return MixtureSameFamily(*mapped, validate_args=False)

    def leaf(self, d: Any) -> Any:
        return family(d.component_distribution).leaf(d.component_distribution)

    def name(self, d: Any) -> str:
        return f"mixture of {family(d.component_distribution).name(d.component_distribution)}"

    def marginals(self, d: Any) -> Any:
        place, events = len(d.batch_shape), len(d.event_shape)
        if not events and self._kind(d) != "classes":
            return d
        single = family(d.component_distribution).marginals(d.component_distribution)
        draws = family(single).map(single, lambda p: p.movedim(place, 0))
        log_weights = d.mixture_distribution.logits.movedim(-1, 0)
        return family(draws).mix(draws, log_weights.reshape(*log_weights.shape, *[1] * events))

    def mix(self, draws: Any, log_weights: Tensor) -> Any:  # a mixture of mixtures is one
        inner, last = draws.component_distribution, len(draws.batch_shape)
        flat = family(inner).map(inner, lambda p: p.movedim(last, 1).flatten(0, 1))
        within = draws.mixture_distribution.logits.log_softmax(-1)
        joint = log_weights.log_softmax(0)[..., None] + within
        return family(flat).mix(flat, joint.movedim(-1, 1).flatten(0, 1))

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        place, parts = len(d.batch_shape), d.component_distribution
        each = family(parts).log_prob(parts, y.unsqueeze(y.dim() - len(d.event_shape)), mask.unsqueeze(place))
        return (d.mixture_distribution.logits.log_softmax(-1) + each).logsumexp(-1)

    def undefined(self, d: Any) -> Tensor:
        parts = d.component_distribution, d.mixture_distribution
        components, weights = (family(part).undefined(part) for part in parts)
        return (components | weights[..., None]).any(-1)

    def expects(self, d: Any) -> str:
        return family(d.component_distribution).expects(d.component_distribution)

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        weights, components = d.mixture_distribution.logits.softmax(-1), d.component_distribution
        return (weights * family(components).cdf(components, value[..., None])).sum(-1)

    def below(self, d: Any) -> Callable[[Tensor], Tensor]:
        weights = d.mixture_distribution.logits.softmax(-1)
        each = family(d.component_distribution).below(d.component_distribution)
        return lambda value: (weights * each(value[..., None])).sum(-1)

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        lows, highs = family(d.component_distribution).bracket(d.component_distribution)
        return lows.amin(-1), highs.amax(-1)

    def grid(self, d: Any) -> Tensor:
        return family(d.component_distribution).grid(d.component_distribution).flatten(-2)

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        means, variances = family(d.component_distribution).moments(d.component_distribution, warp)
        return of_parts(d.mixture_distribution.logits, means, variances, len(d.event_shape))

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        events = len(d.event_shape)
        loc, scale = (t.unsqueeze(-1 - events) if t.dim() > events else t for t in (loc, scale))  # before the event
        moved = family(d.component_distribution).affine(d.component_distribution, loc, scale)
        return MixtureSameFamily(d.mixture_distribution, moved, validate_args=False)

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        if self._kind(d) != "classes":
            if type(family(self.leaf(d))).temper is Family.temper:
                return super().temper(d, temperature, centre)
            parts = d.component_distribution  # with a temperature of their own, such as whole pictures of boxes
            each = family(parts).temper(parts, temperature, None)
            return MixtureSameFamily(d.mixture_distribution, each, validate_args=False)
        single = self.marginals(d)
        return family(single).temper(single, temperature, None).to_event(len(d.event_shape))

    def crps(self, d: Any, y: Tensor) -> Tensor:
        return family(d.component_distribution).crps_of_mixture(d, y)

    def probabilities(self, d: Any) -> Tensor:
        if self._kind(d) != "classes":
            return super().probabilities(d)
        single = self.marginals(d)
        return family(single).probabilities(single)

    def sample(self, d: Any, samples: int) -> Tensor:
        parts, shape = (d.component_distribution, d.mixture_distribution), (samples, *d.batch_shape)
        each, place = (family(part).sample(part, samples) for part in parts)  # (S, ..., K, *Y) and (S, ...)
        place = place.reshape(*shape, *[1] * (len(d.event_shape) + 1)).expand(*shape, 1, *d.event_shape)
        return each.gather(len(shape), place).squeeze(len(shape))

    def _kind(self, d: Any) -> Kind:
        return family(self.leaf(d)).kind


def of_parts(logits: Tensor, means: Tensor, variances: Tensor, events: int) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(..., *Y)`` of a mixture from those of its K parts ``(..., K, *Y)``, by the law of total variance.

    Args:
        logits: of the parts, ``(..., K)``; what has no weight may be infinite.
        means: of the parts.
        variances: of the parts.
        events: how many dimensions Y has.
    """
    weights = logits.softmax(-1).to(means)
    weights = weights.reshape(*weights.shape, *[1] * events)
    means, variances = (part.where(weights > 0, 0.0) for part in (means, variances))
    place = -1 - events
    mean = (weights * means).sum(place)
    variance = (weights * (variances + (means - mean.unsqueeze(place)).square())).sum(place)
    return mean, variance.masked_fill(mean.isinf(), torch.inf)
