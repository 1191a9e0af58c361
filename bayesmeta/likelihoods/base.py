"""What a likelihood is, the masked NLL, the inner objective, and checks of targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from bayesmeta.data import Points
from bayesmeta.distributions import expects
from bayesmeta.functional import Frozen, Params
from bayesmeta.recorded import Recorded

__all__ = [
    "Likelihood",
    "check_event",
    "check_labels",
    "check_likelihood",
    "check_support",
    "check_targets",
    "nll",
    "said",
    "support_error",
]


class Likelihood(Recorded, ABC):
    """p(y | network outputs). It owns its parameters, such as the noise, which are shared by all tasks."""

    discrete: ClassVar[bool] = False
    """Whether targets are counts, labels, or yes and no, which have no unit that could be scaled."""
    support: ClassVar[constraints.Constraint | None] = None
    """What targets must be, where that does not depend on the outputs."""

    def __call__(self, outputs: Tensor) -> Distribution:
        distribution: Distribution = super().__call__(outputs)
        return distribution

    @abstractmethod
    def forward(self, outputs: Tensor) -> Distribution:
        """Network outputs ``(..., *O)`` to a distribution of batch ``(...)`` and event ``*Y``."""

    @abstractmethod
    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The inner loss of gradient-based learners, ``(...)``: free of the likelihood's own parameters.

        With the noise inside, a small noise makes the inner step overflow (the gradient grows as 1/σ²).
        """


def said(scale: Tensor) -> str:
    """A parameter's present value, for people: four digits of one number or of a tuple."""
    if scale.is_meta:
        return "?"
    values = [f"{value:.4g}" for value in scale.detach().reshape(-1).tolist()]
    return f"({', '.join(values)})" if scale.dim() else values[0]


def check_event(expected: torch.Size, given: torch.Size) -> None:
    """Raises a ValueError where targets have another event shape than predictions: they would broadcast in silence."""
    if given != expected:
        raise ValueError(
            f"y: expected targets of event shape {tuple(expected)} as the predictions have, got {tuple(given)}; "
            "let the network map (N, *X) to (N, O) with as many outputs as y has numbers, or pass y as (B, N, *Y)"
        )


def check_labels(y: Tensor) -> None:
    """Raises a ValueError where labels are floating numbers."""
    if y.is_floating_point():
        raise ValueError(
            f"y: expected integer labels for a Categorical, got {y.dtype}; build the points with points(x, y, classes=W)"
        )


def nll(distribution: Distribution, given: Points) -> Tensor:
    """Negative log-likelihood of each task's targets, ``(B,)`` nats: the mean over its observed points.

    Args:
        distribution: predictions, batch ``(B, M)``, event ``*Y``.
        given: the points predicted, M of them.
    """
    if isinstance(distribution, torch.distributions.Categorical):
        check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    total = distribution.log_prob(given.y).masked_fill(~given.mask, 0.0).sum(1)
    return -total / given.mask.sum(1).clamp(min=1)


def check_likelihood(likelihood: Likelihood) -> None:
    """Raises a TypeError if something is no likelihood: its class, say."""
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood: expected a likelihood such as Gaussian(), got {likelihood!r}; call its class")


def check_targets(distribution: Distribution, given: Points) -> None:
    """Raises a ValueError where an observed target is outside what the distribution can produce."""
    if isinstance(distribution, torch.distributions.Categorical):
        check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    constraint = distribution.support
    assert constraint is not None
    _check_inside(constraint.check(given.y), given, expects(distribution))


def check_support(module: nn.Module, support: Points) -> None:
    """Raises a ValueError where an observed target of a support is impossible under a likelihood of the learner's."""
    for part in module.modules():
        if isinstance(part, Likelihood) and part.support is not None:
            inside = part.support.check(support.y).flatten(2).all(2)
            words = _WORDS.get(part.support, f"values in {part.support}")
            _check_inside(inside, support, f"targets that a {type(part).__name__} can produce, {words}")


_WORDS = {constraints.boolean: "0.0 or 1.0", constraints.nonnegative_integer: "whole numbers from 0 on"}


def _check_inside(inside: Tensor, given: Points, expected: str) -> None:
    bad = ~inside & given.mask
    if bad.any():
        task, point = bad.nonzero()[0].tolist()
        raise ValueError(
            f"y: expected {expected}, got {given.y[task, point].tolist()} at task {task}, point {point}; "
            "renumber the targets or change the likelihood or the network's outputs"
        )


def support_error(network: Frozen, likelihood: Likelihood, support: Points) -> Callable[[Params | Tensor], Tensor]:
    """One task's inner objective: the mean error over its observed support points, as a function of the adapted weights.

    `support` is one task's, without B. With nothing observed the objective is zero.
    """
    like = next(iter(network.state.values()))
    share = support.mask.to(like) / support.mask.sum().clamp(min=1)  # once, and not at each step

    def objective(weights: Params | Tensor) -> Tensor:
        return (likelihood.error(network(support.x, weights=weights), support.y) * share).sum()

    return objective
