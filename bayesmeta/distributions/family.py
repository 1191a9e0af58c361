"""What the library must know of a family of distributions: one class a family, registered once."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.warps import Warp

__all__ = ["Family", "Kind", "family", "register"]

Kind = Literal["real", "counts", "classes"]


class Family:
    """A family of distributions, of which each operation of `bayesmeta.distributions` asks what it needs.

    With `parameters` alone, predictions of the family can be stacked, selected and mixed, are checked for NaN, and have NLL, RMSE
    and variance; with torch's own ``cdf``, coverage and quantiles too. What else the family can do is a method to override; one
    that does not apply raises a TypeError as it is. Every method is given the distribution, whose batch is ``(...)``.

    Attributes:
        kind: ``"real"`` numbers; ``"counts"``, which are whole numbers; or ``"classes"``, labels and yes or no.
        parameters: names of the constructor's arguments, which are attributes too, each a tensor ``(..., *P)``.
        make: what builds a distribution of the family from these; the class that is registered, if not given.

    Example:
        Gumbel's, of the largest of many values:

        >>> from pyro.distributions import Gumbel
        >>> from bayesmeta.distributions import mixture
        >>> @register(Gumbel)
        ... class GumbelFamily(Family):
        ...     parameters = ("loc", "scale")
        ...
        ...     def affine(self, d, loc, scale):
        ...         return Gumbel(loc + scale * d.loc, scale * d.scale, validate_args=False)
        >>> mixture(Gumbel(torch.zeros(3, 2), torch.ones(3, 2))).mean
        tensor([0.5772, 0.5772])
    """

    kind: ClassVar[Kind] = "real"
    parameters: ClassVar[tuple[str, ...]] = ()
    make: ClassVar[Any] = None

    # --- structure

    def map(self, d: Any, f: Callable[[Tensor], Tensor]) -> Any:
        """The distribution with f applied to its parameters, whose leading dimensions are the batch shape."""
        if not self.parameters:
            raise unknown(d, "of a known family")
        return type(self).make(**{name: f(getattr(d, name)) for name in self.parameters}, validate_args=False)

    def leaf(self, d: Any) -> Any:
        """The distribution of a single entry's component, which has the kind and the parameters."""
        return d

    def name(self, d: Any) -> str:
        """The family in a word; distributions of different names cannot be stacked."""
        return type(d).__name__

    def marginals(self, d: Any) -> Any:
        """The distribution of each entry of the event by itself."""
        if len(d.event_shape):
            raise unknown(d, "with independent event entries")
        return d

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        """The mixture over the first batch dimension; `log_weights` ``(S, ...)`` broadcast against the batch."""
        batch = draws.batch_shape
        components = self.map(draws, lambda p: p.movedim(0, len(batch) - 1))
        weights = Categorical(logits=log_weights.expand(batch).movedim(0, -1), validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        """log p(y) of those entries of the event that are observed, by a mask ``(..., *Y)``."""
        if len(d.event_shape):
            raise unknown(d, "with independent event entries")
        return d.log_prob(y).masked_fill(~mask, 0.0)

    # --- checks

    def undefined(self, d: Any) -> Tensor:
        """Which predictions are no distributions, ``(...)`` bool: a parameter is NaN or infinite."""
        if not self.parameters:
            return _any(d.mean.isnan(), d)
        return reduce(torch.logical_or, (_any(~getattr(d, name).isfinite(), d) for name in self.parameters))

    def expects(self, d: Any) -> str:
        """The targets that are possible, in words."""
        return "whole numbers from 0 on" if self.kind == "counts" else f"values in {d.support}"

    # --- numbers

    def cdf(self, d: Any, value: Tensor) -> Tensor:
        """The probability of at most `value`, for any real value."""
        if self.parameters:
            try:
                return d.cdf(value)
            except NotImplementedError:
                pass
        raise unknown(d, "with a cumulative distribution function", "cdf")

    def below(self, d: Any) -> Callable[[Tensor], Tensor]:
        """The cdf, to be asked many times: to 1e-7 where that is quicker."""
        return lambda value: self.cdf(d, value)

    def bracket(self, d: Any) -> tuple[Tensor, Tensor]:
        """A first guess of an interval that holds a quantile; counts may begin at -1, where the cdf is 0."""
        mean, reach = d.mean, 3 * d.stddev
        low = mean - reach
        least = getattr(d.support, "lower_bound", None)
        return (low if least is None else low.clamp(min=least - (self.kind == "counts"))), mean + reach

    def quantile(self, d: Any, p: float) -> Tensor:
        """The least value that has a cdf of p: by bisection, if not overridden.

        The cdf of `below`, which may be many times as quick, first says where it is about p, and the exact one then where in
        there.
        """
        whole = family(self.leaf(d)).kind == "counts"
        low, high = self.bracket(d)
        coarse = None if whole else 1e-5 * (high - low)
        if not whole and _ROUGH < p < 1 - _ROUGH:
            quick = self.below(d)
            low, high = (bisect(quick, low, high, about, whole, coarse) for about in (p - _ROUGH, p + _ROUGH))
            slack = (high - low) + 4 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
            low, high = low - slack, high + slack
        return bisect(lambda value: self.cdf(d, value), low, high, p, whole, coarse)

    def affine(self, d: Any, loc: Tensor, scale: Tensor) -> Any:
        """The distribution of ``loc + scale * y``, of the same family."""
        raise unknown(d, "of real numbers", "affine")

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        """More doubt (above 1) or less: real targets spread from the centre, if they know `affine`."""
        if family(self.leaf(d)).kind == "counts":
            raise TypeError(
                f"distribution: expected real numbers or classes, which have a temperature, got {self.name(d)}, whose counts "
                "must stay whole; use the likelihood NegativeBinomial, which learns their spread"
            )
        centre = self.centre(d) if centre is None else centre
        return self.affine(self.affine(d, -centre, torch.ones_like(temperature)), centre, temperature)

    def centre(self, d: Any) -> Tensor:
        """What `temper` spreads real targets from, if nothing else is said."""
        return d.mean

    def grid(self, d: Any) -> Tensor:
        """Of single numbers, ``(..., G)``: points between which the cdf is smooth, and beyond which little is left."""
        raise unknown(d, "of real numbers", "grid")

    def moments(self, d: Any, warp: Warp) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``warp.inverse(z)`` for z of the distribution, by quadrature in float64."""
        raise unknown(d, "of real numbers", "moments")

    def crps(self, d: Any, y: Tensor) -> Tensor:
        """The continuous ranked probability score of y ``(...)``: counts are summed, the cost grows as they do."""
        if self.kind != "counts":
            raise TypeError(
                "distribution: expected normals, Student's t, mixtures of these, warped or not, or counts for CRPS, got "
                f"{type(d).__name__}; use NLL"
            )
        return _summed(d, y)

    def crps_of_mixture(self, d: Any, y: Tensor) -> Tensor:
        """The same of a mixture of the family."""
        return Family.crps(self, d, y)

    # --- classes

    def probabilities(self, d: Any) -> Tensor:
        """Of each class, ``(..., W)``."""
        raise TypeError(
            f"distribution: expected Categorical or Bernoulli, got {type(d).__name__}, which is of numbers; "
            "use NLL, RMSE, CRPS or Coverage"
        )

    # --- draws

    def sample(self, d: Any, samples: int) -> Tensor:
        """Draws ``(S, ..., *Y)``: by the distribution's own `sample`, from torch's global generator, if not overridden."""
        return d.sample(torch.Size([samples]))


_FAMILIES: dict[type, Family] = {}
_UNKNOWN = Family()
_Class = TypeVar("_Class", bound=type[Family])


def register(of: type[Distribution]) -> Callable[[_Class], _Class]:
    """Registers the `Family` below it as what is known of a class of distributions, and of its subclasses.

    Args:
        of: the class of distributions; one that has a family already gets this one in its place.
    """

    def keep(known: _Class) -> _Class:
        if known.make is None:
            known.make = of
        _FAMILIES[of] = known()
        return known

    return keep


def family(d: Any) -> Family:
    """What is registered of a distribution's class, or of the nearest class above it; else a family without parameters."""
    for base in type(d).__mro__:  # and no cache: the compiler reads through a dictionary, but not through functools
        if base in _FAMILIES:
            return _FAMILIES[base]
    return _UNKNOWN


def unknown(d: Any, wanted: str, operation: str = "map") -> TypeError:
    """The error of an operation that a family does not know; it names those that do."""
    known = {of.__name__: kind for of, kind in _FAMILIES.items() if kind.parameters}
    if operation != "map":
        known = {name: kind for name, kind in known.items() if operation in vars(type(kind))}
    return TypeError(
        f"distribution: expected one {wanted} ({', '.join(sorted(known))}, or an Independent or MixtureSameFamily of these), got "
        f"{type(d).__name__}; let the likelihood return one of these, or register the family's own way with "
        "bayesmeta.distributions.register"
    )


_ROUGH = 1e-6
"""Of a probability: ten times as far as `Family.below` is from the cdf."""


def bisect(
    cdf: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, p: float, whole: bool, coarse: Tensor | None = None
) -> Tensor:
    """Where a cdf reaches p, from a bracket that is widened first until it holds p; of whole numbers the least.

    Where the cdf is p to nearly all digits, within a bracket no wider than `coarse`, it looks no further.
    """
    if whole:
        low, high = low.floor(), high.ceil()
    width = high - low
    for _ in range(60):
        outside_low, outside_high = cdf(low) > p, cdf(high) < p
        if not (outside_low | outside_high).any():
            break
        low, high = torch.where(outside_low, low - width, low), torch.where(outside_high, high + width, high)
        width = 2 * width
    for _ in range(60):
        middle = (low + high) / 2
        if whole:
            if not (high - low > 1).any():
                return high
            middle = middle.floor()
        elif ((middle == low) | (middle == high)).all():
            break  # there are no numbers between
        at = cdf(middle)
        below = at < p
        found = torch.zeros_like(below)
        if coarse is not None:
            found = ((at - p).abs() <= 8 * torch.finfo(at.dtype).eps * p) & (high - low <= coarse)
        low, high = torch.where(below | found, middle, low), torch.where(below & ~found, high, middle)
    return high if whole else (low + high) / 2


def _any(bad: Tensor, d: Any) -> Tensor:
    """Whether any is, of the entries of each prediction."""
    return bad.flatten(len(d.batch_shape)).any(-1) if bad.dim() > len(d.batch_shape) else bad


def _summed(d: Any, y: Tensor) -> Tensor:
    """Σ_k (F(k) - [k ≥ y])², until F is 1 to nine digits."""
    exact = family(d).map(d, lambda p: p.double())
    if not y.numel():
        return y.double()
    last = max(float(family(exact).quantile(exact, 1 - 1e-9).max()), float(y.max()))
    below = score = torch.zeros_like(y, dtype=torch.float64)
    for count in range(int(last) + 1):
        below = below + exact.log_prob(torch.full_like(below, count)).exp()
        score = score + (below - (y <= count).double()).square()
    return score
