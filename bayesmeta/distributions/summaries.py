"""Numbers that distributions are summed up by: cdf, quantiles, class probabilities, uncertainty, CRPS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.distributions.family import family
from bayesmeta.distributions.operations import has_classes, marginals

__all__ = ["cdf", "class_probabilities", "crps", "expects", "quantile", "uncertainty", "undefined"]


def cdf(d: Distribution, value: Tensor) -> Tensor:
    """The cumulative distribution function of a distribution of single numbers; see `marginals` for others."""
    return family(d).cdf(d, value)


def quantile(d: Distribution, p: float | Sequence[float] | Tensor) -> Tensor:
    """The value below which each entry of y lies with probability p: ``(B, M, *Y)`` for predictions of ``(B, M)``.

    Computed by bisection where no inverse is known. The interval from p = 0.05 to 0.95 holds 90 %. Of counts it is the least
    whole number that is not exceeded with probability p or more. It has no gradient.

    Args:
        d: predictions of numbers.
        p: a probability strictly between 0 and 1, or L of them, whose quantiles then lead: ``(L, B, M, *Y)``.

    Raises:
        ValueError: p is not strictly between 0 and 1, or is an empty list.
        TypeError: the distribution has no quantiles.

    Example:
        >>> quantile(Normal(torch.zeros(1), torch.ones(1)), 0.975)
        tensor([1.9600])
        >>> quantile(Normal(torch.zeros(1), torch.ones(1)), [0.05, 0.95])
        tensor([[-1.6449],
                [ 1.6449]])
    """
    try:
        levels = torch.as_tensor(p, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):  # no numbers
        levels = torch.empty(0)
    if levels.dim() > 1 or levels.numel() == 0 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"p: expected a probability strictly between 0 and 1, or a list of them, got {p!r}; the ends lie at infinity"
        )
    with torch.no_grad():
        single = marginals(d)
        found = [family(single).quantile(single, level) for level in levels.reshape(-1).tolist()]
        return found[0] if levels.dim() == 0 else torch.stack(found)


def undefined(d: Any) -> Tensor:
    """Which predictions are no distributions, ``(...)`` bool: parameters are NaN, or those of numbers infinite."""
    return family(d).undefined(d)


def expects(d: Distribution) -> str:
    """The targets that are possible, in words.

    Example:
        >>> expects(Categorical()(torch.zeros(4, 3)))
        'labels 0 to 2, as many as the network has outputs'
    """
    return family(d).expects(d)


def class_probabilities(d: Distribution) -> Tensor:
    """Probabilities of the classes, ``(..., W)``; a Bernoulli has two.

    Raises:
        TypeError: the distribution has no classes.
    """
    return family(d).probabilities(d)


def uncertainty(d: Distribution) -> Tensor:
    """The variance of each number ``(..., *Y)``, the entropy in nats of each label, or yes or no.

    Example:
        >>> uncertainty(Categorical()(torch.zeros(1, 2)))
        tensor([0.6931])
    """
    if has_classes(d):
        probabilities = class_probabilities(d)
        return -torch.special.xlogy(probabilities, probabilities).sum(-1)
    variance: Tensor = d.variance
    return variance


def crps(d: Distribution, y: Tensor) -> Tensor:
    """The continuous ranked probability score ``(...)`` of single numbers y, see `bayesmeta.metrics.CRPS`.

    Raises:
        TypeError: it is not known of the family.

    Example:
        >>> crps(Normal(torch.zeros(1), 1.0), torch.zeros(1))
        tensor([0.2337])
    """
    return family(d).crps(d, y)
