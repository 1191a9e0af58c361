"""Operations on distributions, chosen by their type: mixtures of draws, marginals, cdf, quantiles, affine maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    StudentT,
)
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.randomness import generator, standard_normal

__all__ = [
    "affine",
    "apart",
    "cdf",
    "class_probabilities",
    "has_classes",
    "marginals",
    "mixture",
    "quantile",
    "sample",
    "select",
    "stack",
    "temper",
    "uncertainty",
    "undefined",
    "uniform",
]


def _map_parameters(d: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """The distribution with f applied to its parameters, whose leading dimensions are the batch shape."""
    if isinstance(d, torch.distributions.Independent):
        return Independent(_map_parameters(d.base_dist, f), d.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        mixing = _map_parameters(d.mixture_distribution, f)
        return MixtureSameFamily(mixing, _map_parameters(d.component_distribution, f), validate_args=False)
    if isinstance(d, torch.distributions.Categorical):
        return Categorical(logits=f(d.logits), validate_args=False)
    if isinstance(d, torch.distributions.Bernoulli):
        return Bernoulli(logits=f(d.logits), validate_args=False)
    if isinstance(d, torch.distributions.StudentT):  # torch broadcasts the parameters of both to the batch shape
        return StudentT(f(d.df), f(d.loc), f(d.scale), validate_args=False)
    if isinstance(d, torch.distributions.Normal):
        return Normal(f(d.loc), f(d.scale), validate_args=False)
    raise _unknown(d, "of a known family", "Normal, StudentT, Bernoulli, Categorical")


def _unknown(d: Any, wanted: str, families: str = "Normal, StudentT") -> TypeError:
    return TypeError(
        f"distribution: expected one {wanted} ({families}, or an Independent or MixtureSameFamily of these), got "
        f"{type(d).__name__}; let the likelihood return one of these"
    )


def mixture(draws: Distribution, log_weights: Tensor | None = None) -> Distribution:
    """The mixture over the first batch dimension: ``(S, B, M)`` to ``(B, M)``, with the event shape kept.

    Args:
        draws: one distribution a draw, batch ``(S, ...)``.
        log_weights: ``(S, ...)``, broadcast against the batch, not necessarily normalised; equal weights if None.

    Classes collapse to one `Categorical` of the mean probabilities, a single draw to itself; all else becomes a
    `MixtureSameFamily`.

    Example:
        >>> mixture(Normal(torch.tensor([[-1.0], [1.0]]), 1.0)).mean
        tensor([0.])
    """
    batch = draws.batch_shape
    if log_weights is not None and log_weights.dim() != len(batch):
        raise ValueError(
            f"log_weights: expected {len(batch)} dimensions as the batch {tuple(batch)} has, got {tuple(log_weights.shape)}; "
            "add dimensions of size 1, e.g. log_weights[..., None]"
        )
    if batch[0] == 1:
        single: Distribution = _map_parameters(draws, lambda p: p[0])
        return single
    weights = torch.zeros(batch[0], *[1] * (len(batch) - 1)) if log_weights is None else log_weights
    if isinstance(draws, torch.distributions.Categorical):
        weights = weights.to(draws.logits).log_softmax(0)
        joint = draws.logits.log_softmax(-1) + weights[..., None]
        return Categorical(logits=joint.logsumexp(0), validate_args=False)
    components = _map_parameters(draws, lambda p: p.movedim(0, len(batch) - 1))
    reference = _any_parameter(components)
    logits = weights.to(reference).expand(batch).movedim(0, -1)
    if isinstance(components, torch.distributions.MixtureSameFamily):  # a mixture of mixtures is one
        logits = (logits.log_softmax(-1)[..., None] + components.mixture_distribution.logits.log_softmax(-1)).flatten(
            -2
        )
        components = _map_parameters(components.component_distribution, lambda p: p.flatten(len(batch) - 1, len(batch)))
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)


def stack(distributions: Sequence[Distribution]) -> Distribution:
    """K distributions of one family, batch ``(...)``, as one of batch ``(K, ...)``.

    Raises:
        TypeError: they are of several families.

    Example:
        >>> stack([Normal(torch.zeros(2), 1.0), Normal(torch.ones(2), 1.0)]).mean
        tensor([[0., 0.],
                [1., 1.]])
    """
    kinds = {_kind(d) for d in distributions}
    if len(kinds) > 1:
        raise TypeError(
            f"distributions: expected one family, got kinds {' and '.join(sorted(kinds))}; use learners of one kind"
        )
    columns = iter(list(zip(*map(_parameters, distributions), strict=True)))
    joined: Distribution = _map_parameters(distributions[0], lambda _: torch.stack(next(columns)))
    return joined


def _kind(d: Any) -> str:
    if isinstance(d, torch.distributions.Independent):
        return _kind(d.base_dist)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return f"mixture of {_kind(d.component_distribution)}"
    return type(d).__name__


def _parameters(d: Distribution) -> list[Tensor]:
    found: list[Tensor] = []

    def note(parameter: Tensor) -> Tensor:
        found.append(parameter)
        return parameter

    _map_parameters(d, note)
    return found


def select(draws: Distribution, index: Tensor, *, own: bool = False) -> Distribution:
    """Chooses draws by task: batch ``(K, B, M)`` and an index ``(S, B)`` into K give batch ``(S, B, M)``.

    With `own` the batch is ``(K, B, S M)``, at M points for each of the S choices in turn.
    """
    tasks = torch.arange(index.shape[1], device=index.device)
    place = torch.arange(len(index), device=index.device)[:, None]
    size = (len(index), draws.batch_shape[2] // len(index))
    chosen: Distribution = _map_parameters(
        draws, lambda p: p.unflatten(2, size)[index, tasks, place] if own else p[index, tasks]
    )
    return chosen


def apart(values: Any, samples: int) -> Any:
    """Tensors or predictions at points of S functions in turn, ``(B, S M, ...)``, by function: ``(S, B, M, ...)``.

    Example:
        >>> apart(torch.zeros(3, 2 * 5, 1), 2).shape
        torch.Size([2, 3, 5, 1])
    """
    if isinstance(values, Tensor):
        return values.unflatten(1, (samples, values.shape[1] // samples)).movedim(1, 0)
    return _map_parameters(values, lambda p: apart(p, samples))


def _any_parameter(d: Any) -> Tensor:
    while isinstance(d, (torch.distributions.Independent, torch.distributions.MixtureSameFamily)):
        d = d.base_dist if isinstance(d, torch.distributions.Independent) else d.component_distribution
    name = "logits" if isinstance(d, torch.distributions.Bernoulli) else "loc"
    parameter: Tensor = getattr(d, name)
    return parameter


def marginals(d: Distribution) -> Distribution:
    """The distribution of each entry of the event by itself: event dimensions become batch dimensions.

    Example:
        >>> marginals(Normal(torch.zeros(5, 2), 1.0).to_event(1)).batch_shape
        torch.Size([5, 2])
    """
    if isinstance(d, torch.distributions.Independent):
        return d.base_dist
    if isinstance(d, torch.distributions.MixtureSameFamily) and len(d.event_shape) > 0:
        component: Any = d.component_distribution
        place, events = len(d.batch_shape), len(d.event_shape)
        base = _map_parameters(component.base_dist, lambda p: p.movedim(place, place + events))
        logits = d.mixture_distribution.logits
        logits = logits.reshape(*d.batch_shape, *[1] * events, logits.shape[-1])
        logits = logits.expand(*d.batch_shape, *d.event_shape, logits.shape[-1])
        return MixtureSameFamily(Categorical(logits=logits, validate_args=False), base, validate_args=False)
    if len(d.event_shape) == 0:
        return d
    raise _unknown(d, "with independent event entries", "Normal, StudentT, Bernoulli")


def cdf(d: Distribution, value: Tensor) -> Tensor:
    """The cumulative distribution function of a distribution of single numbers; see `marginals` for others."""
    if isinstance(d, torch.distributions.MixtureSameFamily):
        weights = d.mixture_distribution.logits.softmax(-1)
        return (weights * cdf(d.component_distribution, value[..., None])).sum(-1)
    if isinstance(d, torch.distributions.StudentT):
        return _student_cdf(d.df, (value - d.loc) / d.scale)
    if isinstance(d, torch.distributions.Normal):
        return torch.special.ndtr((value - d.loc) / d.scale)
    raise _unknown(d, "with a cumulative distribution function")


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def _student_cdf(df: Tensor, t: Tensor) -> Tensor:
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


def quantile(d: Distribution, p: float | Sequence[float] | Tensor) -> Tensor:
    """The value below which each entry of y lies with probability p: ``(B, M, *Y)`` for predictions of ``(B, M)``.

    Computed by bisection where no inverse is known. The interval from p = 0.05 to 0.95 holds 90 %. It has no gradient.

    Args:
        d: predictions of numbers.
        p: a probability strictly between 0 and 1, or L of them, whose quantiles then lead: ``(L, B, M, *Y)``.

    Raises:
        ValueError: p is not strictly between 0 and 1.
        TypeError: the distribution has no quantiles.

    Example:
        >>> quantile(Normal(torch.zeros(1), torch.ones(1)), 0.975)
        tensor([1.9600])
        >>> quantile(Normal(torch.zeros(1), torch.ones(1)), [0.05, 0.95])
        tensor([[-1.6449],
                [ 1.6449]])
    """
    levels = torch.as_tensor(p, dtype=torch.float64)
    if levels.dim() > 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"p: expected a probability strictly between 0 and 1, or a list of them, got {p}; the ends lie at infinity"
        )
    with torch.no_grad():
        if levels.dim() == 0:
            return _quantile(marginals(d), float(levels))
        return torch.stack([_quantile(marginals(d), level) for level in levels.tolist()])


def _quantile(d: Distribution, p: float) -> Tensor:
    if isinstance(d, torch.distributions.Normal):
        return d.loc + d.scale * torch.special.ndtri(torch.as_tensor(p, dtype=d.loc.dtype, device=d.loc.device))
    low, high = _bracket(d)
    width = high - low
    for _ in range(60):  # widen until the bracket holds p
        outside_low, outside_high = cdf(d, low) > p, cdf(d, high) < p
        if not (outside_low | outside_high).any():
            break
        low, high = torch.where(outside_low, low - width, low), torch.where(outside_high, high + width, high)
        width = 2 * width
    for _ in range(60):
        middle = (low + high) / 2
        below = cdf(d, middle) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _bracket(d: Any) -> tuple[Tensor, Tensor]:
    """A first guess of an interval that holds a quantile."""
    if isinstance(d, torch.distributions.MixtureSameFamily):
        lows, highs = _bracket(d.component_distribution)
        return lows.amin(-1), highs.amax(-1)
    if isinstance(d, (torch.distributions.StudentT, torch.distributions.Normal)):
        return d.loc - 3 * d.scale, d.loc + 3 * d.scale
    raise _unknown(d, "with quantiles")


def affine(d: Distribution, loc: Tensor, scale: Tensor) -> Distribution:
    """The distribution of ``loc + scale * y``, of the same family. `loc` and `scale` broadcast against ``*Y``; scale > 0.

    Example:
        >>> affine(Normal(torch.zeros(1), 1.0), torch.tensor(3.0), torch.tensor(2.0))
        Normal(loc: tensor([3.]), scale: tensor([2.]))
    """
    if isinstance(d, torch.distributions.Independent):
        return Independent(affine(d.base_dist, loc, scale), d.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        component = d.component_distribution
        if len(component.event_shape) == 0:  # the components stand last, where the event would be broadcast
            loc, scale = loc[..., None], scale[..., None]
        return MixtureSameFamily(d.mixture_distribution, affine(component, loc, scale), validate_args=False)
    if isinstance(d, torch.distributions.StudentT):
        return StudentT(d.df, loc + scale * d.loc, scale * d.scale, validate_args=False)
    if isinstance(d, torch.distributions.Normal):
        return Normal(loc + scale * d.loc, scale * d.scale, validate_args=False)
    raise _unknown(d, "of real numbers")


def temper(d: Distribution, temperature: Tensor, centre: Tensor | None = None) -> Distribution:
    """The same predictions with more or less confidence: surer below a temperature of 1, in more doubt above it.

    Classes: probabilities to the power 1/τ, normalised (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2). Real
    targets: the distribution of centre + τ (y - centre), so that standard deviations grow by τ.

    Args:
        d: predictions, batch ``(...)``, event ``*Y``.
        temperature: τ > 0, a scalar tensor.
        centre: ``(..., *Y)``, what real targets spread around: the mean if None.

    Example:
        >>> temper(Normal(torch.ones(1), 1.0), torch.tensor(2.0))
        Normal(loc: tensor([1.]), scale: tensor([2.]))
    """
    if isinstance(d, torch.distributions.Categorical):
        return Categorical(logits=d.logits.log_softmax(-1) / temperature, validate_args=False)
    if has_classes(d):
        no, yes = class_probabilities(d).unbind(-1)
        logits = (yes.log() - no.log()).clamp(-80, 80)  # where rounding leaves no doubt, a temperature must find some
        return Bernoulli(logits=logits / temperature, validate_args=False).to_event(len(d.event_shape))
    return _spread(d, temperature, d.mean if centre is None else centre)


def _spread(d: Any, factor: Tensor, centre: Tensor) -> Distribution:
    if isinstance(d, torch.distributions.Independent):
        return Independent(_spread(d.base_dist, factor, centre), d.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        centre = centre.unsqueeze(-1 - len(d.event_shape))  # the components stand before the event
        return MixtureSameFamily(
            d.mixture_distribution, _spread(d.component_distribution, factor, centre), validate_args=False
        )
    if isinstance(d, torch.distributions.StudentT):
        return StudentT(d.df, centre + factor * (d.loc - centre), factor * d.scale, validate_args=False)
    if isinstance(d, torch.distributions.Normal):
        return Normal(centre + factor * (d.loc - centre), factor * d.scale, validate_args=False)
    raise _unknown(d, "of real numbers or classes", "Normal, StudentT, Bernoulli, Categorical")


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform numbers on [0, 1), of the device and floating type of `like`."""
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.rand(tuple(shape), device=like.device, dtype=dtype, generator=generator(like.device))


def sample(d: Any, samples: int) -> Tensor:
    """Draws of each prediction, ``(S, ..., *Y)``, from `generator`; a family of the user's draws by its own `sample`.

    Example:
        >>> sample(Normal(torch.zeros(4, 3), 1.0), 2).shape
        torch.Size([2, 4, 3])
    """
    shape = torch.Size([samples]) + d.batch_shape
    with torch.no_grad():
        if isinstance(d, torch.distributions.Independent):
            return sample(d.base_dist, samples)
        if isinstance(d, torch.distributions.MixtureSameFamily):
            each = sample(d.component_distribution, samples)  # (S, ..., K, *Y)
            place = sample(d.mixture_distribution, samples).reshape(shape + torch.Size([1] * (len(d.event_shape) + 1)))
            return each.gather(len(shape), place.expand(shape + torch.Size([1]) + d.event_shape)).squeeze(len(shape))
        if isinstance(d, torch.distributions.Categorical):
            p = d.logits.softmax(-1).reshape(-1, d.logits.shape[-1])
            return torch.multinomial(p, samples, replacement=True, generator=generator(p.device)).mT.reshape(shape)
        if isinstance(d, torch.distributions.Bernoulli):
            return (uniform(shape, d.logits) < d.logits.sigmoid()).to(d.logits.dtype)
        if isinstance(d, (torch.distributions.Normal, torch.distributions.StudentT)):
            noise = standard_normal(*shape, like=d.loc)
            if isinstance(d, torch.distributions.StudentT):
                half = (d.df / 2).expand(shape)
                gamma = torch._standard_gamma(half, generator=generator(half.device))
                noise = noise * (half / gamma.clamp(min=torch.finfo(gamma.dtype).tiny)).sqrt()
            return d.loc + d.scale * noise
        drawn: Tensor = d.sample(torch.Size([samples]))
        return drawn


def has_classes(d: Distribution) -> bool:
    """Whether the targets are classes, or yes or no, rather than numbers."""
    if isinstance(d, torch.distributions.Independent):
        return has_classes(d.base_dist)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return has_classes(d.component_distribution)
    return isinstance(d, (torch.distributions.Categorical, torch.distributions.Bernoulli))


def undefined(d: Any) -> Tensor:
    """Which predictions are no distributions, ``(...)`` bool: parameters are NaN, or those of numbers infinite."""
    if isinstance(d, torch.distributions.Independent):
        inner = undefined(d.base_dist)
        return inner.flatten(len(d.batch_shape)).any(-1) if d.reinterpreted_batch_ndims else inner
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return (undefined(d.component_distribution) | undefined(d.mixture_distribution)[..., None]).any(-1)
    if isinstance(d, torch.distributions.Categorical):
        return d.logits.isnan().any(-1)
    if isinstance(d, torch.distributions.Bernoulli):
        return d.logits.isnan()
    if isinstance(d, (torch.distributions.Normal, torch.distributions.StudentT)):
        return ~(d.loc.isfinite() & d.scale.isfinite()).expand(d.batch_shape)
    mean: Tensor = d.mean  # a family of the user's
    return mean.isnan().flatten(len(d.batch_shape)).any(-1) if d.event_shape else mean.isnan()


def class_probabilities(d: Distribution) -> Tensor:
    """Probabilities of the classes, ``(..., W)``; a Bernoulli has two.

    Raises:
        TypeError: the distribution has no classes.
    """
    if isinstance(d, torch.distributions.Categorical):
        return d.logits.softmax(-1)
    if has_classes(d):
        yes: Tensor = marginals(d).mean
        return torch.stack([1 - yes, yes], -1)
    raise TypeError(
        f"distribution: expected Categorical or Bernoulli, got {type(d).__name__}, which is of numbers; "
        "use NLL, RMSE, CRPS or Coverage"
    )


def uncertainty(d: Distribution) -> Tensor:
    """The variance of each real target ``(..., *Y)``, the entropy in nats of each discrete one.

    Example:
        >>> uncertainty(Categorical(logits=torch.zeros(1, 2)))
        tensor([0.6931])
    """
    if has_classes(d):
        probabilities = class_probabilities(d)
        return -torch.special.xlogy(probabilities, probabilities).sum(-1)
    variance: Tensor = d.variance
    return variance
