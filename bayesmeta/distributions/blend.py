"""Mixtures of distributions of several families, such as a normal and a log-normal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from bayesmeta.distributions.compound import of_parts
from bayesmeta.distributions.family import Family, family, register
from bayesmeta.distributions.operations import mixture, stack
from bayesmeta.distributions.quadrature import integrated_crps
from bayesmeta.warps import Warp

__all__ = ["Blend", "BlendFamily", "blend", "choose"]


class Blend(TorchDistribution):
    """A mixture of K distributions of numbers, which may be of different families; `blend` makes it where it is needed.

    Args:
        parts: K of them, of one batch shape ``(...)`` and event ``*Y``.
        log_weights: ``(..., K)``, not necessarily normalised, broadcast against the batch; minus infinity leaves a part out.

    A part that is a blend itself is taken apart, so that no part is one.

    Raises:
        ValueError: there is no part, or they differ in shape.

    Example:
        >>> parts = [Normal(torch.ones(2), 1.0), Unwarped(Normal(torch.zeros(2), 1.0), bm.warps.Log())]
        >>> Blend(parts, torch.tensor([0.5, 0.5]).log()).mean
        tensor([1.3244, 1.3244])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's own form)

    def __init__(self, parts: Sequence[Any], log_weights: Tensor, validate_args: bool | None = None) -> None:
        shapes = {(part.batch_shape, part.event_shape) for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"parts: expected distributions of one batch and event shape, got {sorted(shapes)}")
        ((batch, event),) = shapes
        log_weights = log_weights.expand(*batch, len(parts)).log_softmax(-1)
        self.parts, self.log_weights = _flat(parts, log_weights)
        super().__init__(batch, event, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return False

    @property
    def support(self) -> constraints.Constraint:
        return _Either([part.support for part in self.parts])

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        events = len(self.event_shape)
        means, variances = (
            torch.stack([getattr(part, name) for part in self.parts], -1 - events) for name in ("mean", "variance")
        )
        return of_parts(self.log_weights, means, variances, events)

    def log_prob(self, value: Tensor) -> Tensor:
        return _weighed(self, torch.stack([part.log_prob(value) for part in self.parts], -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        drawn = family(self).sample(self, shape.numel())
        return drawn.reshape(*shape, *drawn.shape[1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        batch = torch.Size(batch_shape)
        return Blend([part.expand(batch) for part in self.parts], self.log_weights.expand(*batch, len(self.parts)))


def blend(parts: Sequence[Distribution], log_weights: Tensor | None = None) -> Distribution:
    """The mixture of K predictions, batch ``(...)``: `mixture` where they are of one family, else a `Blend` of numbers.

    Args:
        parts: of numbers, if they are of several families.
        log_weights: ``(..., K)``, broadcast against the batch, not necessarily normalised; equal weights if None.

    Raises:
        TypeError: they are of several families, and not all of real numbers.

    Example:
        >>> blend([Normal(torch.zeros(2), 1.0), Normal(torch.ones(2), 1.0)]).mean
        tensor([0.5000, 0.5000])
    """
    if len({family(part).name(part) for part in parts}) == 1:
        each = stack(parts)
        if log_weights is None:
            return mixture(each)
        return mixture(each, log_weights.expand(*each.batch_shape[1:], len(parts)).movedim(-1, 0))
    leaves = [family(part).leaf(part) for part in parts]
    if any(family(leaf).kind != "real" for leaf in leaves):
        stack(parts)  # whose error names them
    like = getattr(leaves[0], family(leaves[0]).parameters[0])
    return Blend(parts, like.new_zeros(len(parts)) if log_weights is None else log_weights.to(like))


def choose(draws: Sequence[Distribution], index: Tensor) -> Distribution:
    """Of K members' draws, batch ``(S, ...)``, one a draw: by an index ``(S,)`` into K.

    Example:
        >>> choose([Normal(torch.zeros(2), 1.0), Normal(torch.ones(2), 1.0)], torch.tensor([1, 0])).mean
        tensor([1., 0.])
    """
    if len({family(part).name(part) for part in draws}) == 1:
        each, place = stack(draws), torch.arange(len(index), device=index.device)
        chosen: Distribution = family(each).map(each, lambda p: p[index, place])
        return chosen
    one = torch.nn.functional.one_hot(index, len(draws)).double().log()
    return blend(draws, one.reshape(len(index), *[1] * (len(draws[0].batch_shape) - 1), len(draws)))


def _flat(parts: Sequence[Any], log_weights: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """Parts and their weights, with those of each part that is a blend in its place."""
    each = [part.parts if isinstance(part, Blend) else (part,) for part in parts]
    inner = [part.log_weights if isinstance(part, Blend) else 0.0 for part in parts]
    weights = [own[..., None] + more for own, more in zip(log_weights.unbind(-1), inner, strict=True)]
    return tuple(part for several in each for part in several), torch.cat(weights, -1)


class _Either(constraints.Constraint):
    """What one of several constraints allows."""

    def __init__(self, parts: Sequence[constraints.Constraint]) -> None:
        self.parts = parts
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        allowed = [part.check(value) for part in self.parts]
        fewest = min(each.dim() for each in allowed)
        return torch.stack([each.flatten(fewest).all(-1) if each.dim() > fewest else each for each in allowed]).any(0)


def _weighed(d: Blend, each: Tensor) -> Tensor:
    """log Σ w p from log p ``(..., K)``, of which some may be impossible."""
    joint = d.log_weights + each
    none = (joint == -torch.inf).all(-1)
    return joint.masked_fill(none[..., None], 0.0).logsumexp(-1).masked_fill(none, -torch.inf)


@register(Blend)
class BlendFamily(Family):
    """Each part by its own family."""

    def map(self, d: Any, f: Callable[[Tensor], Tensor]) -> Any:
        return Blend([family(part).map(part, f) for part in d.parts], f(d.log_weights))

    def leaf(self, d: Any) -> Any:
        return family(d.parts[0]).leaf(d.parts[0])

    def name(self, d: Any) -> str:
        return f"blend of {' and '.join(family(part).name(part) for part in d.parts)}"

    def marginals(self, d: Any) -> Any:
        single = [family(part).marginals(part) for part in d.parts]
        events = [1] * len(d.event_shape)
        return Blend(single, d.log_weights.reshape(*d.batch_shape, *events, len(d.parts)))

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        joint = log_weights.log_softmax(0)[..., None] + draws.log_weights  # (S, ..., K)
        total = joint.logsumexp(0)
        joint = joint.masked_fill(total == -torch.inf, 0.0)  # of a part that has no weight in any
        parts = [family(part).mix(part, own) for part, own in zip(draws.parts, joint.unbind(-1), strict=True)]
        return Blend(parts, total)

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        return _weighed(d, torch.stack([family(part).log_prob(part, y, mask) for part in d.parts], -1))

    def undefined(self, d: Any) -> Tensor:
        bad = torch.stack([family(part).undefined(part) for part in d.parts], -1)
        return (bad & (d.log_weights > -torch.inf)).any(-1) | d.log_weights.isnan().any(-1)

    def expects(self, d: Any) -> str:
        return ", or ".join(dict.fromkeys(family(part).expects(part) for part in d.parts))

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        each = torch.stack([family(part).cdf(part, value) for part in d.parts], -1)
        return (d.log_weights.exp() * each).sum(-1)

    def below(self, d: Any) -> Callable[[Tensor], Tensor]:
        weights, each = d.log_weights.exp().unbind(-1), [family(part).below(part) for part in d.parts]
        return lambda value: sum(w * ask(value) for w, ask in zip(weights, each, strict=True))

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        lows, highs = zip(*(family(part).bracket(part) for part in d.parts), strict=True)
        return torch.stack(lows).amin(0), torch.stack(highs).amax(0)

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        events = len(d.event_shape)
        each = zip(*(family(part).moments(part, warp) for part in d.parts), strict=True)
        means, variances = (torch.stack(values, -1 - events) for values in each)
        return of_parts(d.log_weights, means, variances, events)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        return Blend([family(part).affine(part, loc, scale) for part in d.parts], d.log_weights)

    def centre(self, d: Any) -> Tensor:
        """Of each part its own: ``(..., K, *Y)``."""
        return torch.stack([family(part).centre(part) for part in d.parts], -1 - len(d.event_shape))

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        """Each part around its own centre."""
        centres = self.centre(d) if centre is None else centre
        each = zip(d.parts, centres.unbind(-1 - len(d.event_shape)), strict=True)
        return Blend([family(part).temper(part, temperature, own) for part, own in each], d.log_weights)

    def grid(self, d: Any) -> Tensor:
        return torch.cat([family(part).grid(part) for part in d.parts], -1)

    def crps(self, d: Any, y: Tensor) -> Tensor:
        """By an integral; infinite as the mean is."""
        return integrated_crps(d, y).masked_fill(d.mean.isinf(), torch.inf)

    def sample(self, d: Any, samples: int) -> Tensor:
        each = torch.stack([family(part).sample(part, samples) for part in d.parts], 1 + len(d.batch_shape))
        which = Categorical(logits=d.log_weights, validate_args=False)
        place = family(which).sample(which, samples)
        place = place.reshape(*place.shape, *[1] * (1 + len(d.event_shape)))
        size = (samples, *d.batch_shape, 1, *d.event_shape)
        return each.gather(1 + len(d.batch_shape), place.expand(size)).squeeze(1 + len(d.batch_shape))
