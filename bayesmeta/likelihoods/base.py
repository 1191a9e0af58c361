"""What a likelihood is, the masked NLL, the inner objective, and checks of targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from bayesmeta.data import Points, observed, seen
from bayesmeta.distributions import expects, has_labels, log_prob, marginals
from bayesmeta.functional import Frozen, Params
from bayesmeta.networks import parts
from bayesmeta.recorded import Recorded

__all__ = [
    "Likelihood",
    "check_event",
    "check_labels",
    "check_likelihood",
    "check_one_label",
    "check_support",
    "check_targets",
    "log_likelihood",
    "mean_error",
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
    event_dims: int = 0
    """How many dimensions the labels of one point have, see `Categorical`."""

    def __call__(self, outputs: Tensor) -> Distribution:
        distribution: Distribution = super().__call__(outputs)
        return distribution

    @abstractmethod
    def forward(self, outputs: Tensor) -> Distribution:
        """Network outputs ``(..., *O)`` to a distribution of batch ``(...)`` and event ``*Y``."""

    @abstractmethod
    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The inner loss of gradient-based learners, of each entry of y, ``(..., *Y)``: free of the likelihood's own parameters.

        The sum over entries, ``(...)``, will do where no mask of entries is met. With the noise inside, a small noise makes the
        inner step overflow (the gradient grows as 1/σ²).
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


def check_labels(y: Tensor, name: str = "y") -> None:
    """Raises a ValueError where labels are floating numbers."""
    if y.is_floating_point():
        raise ValueError(
            f"{name}: expected integer labels for a Categorical, got {y.dtype}; build the points with points(x, y, classes=W)"
        )


def nll(distribution: Distribution, given: Points) -> Tensor:
    """Negative log-likelihood of each task's targets, ``(B,)`` nats: the mean over what is observed of them.

    Of labels of an event, such as tokens, it is the mean over labels; of several numbers a point, over points, see
    `bayesmeta.data.observed`.

    Args:
        distribution: predictions, batch ``(B, M)``, event ``*Y``.
        given: the points predicted, M of them.
    """
    return -log_likelihood(distribution, given).sum(1) / observed(given).sum(1).clamp(min=1)


def log_likelihood(distribution: Distribution, given: Points) -> Tensor:
    """log p of what is observed of each point's target, ``(B, M)``, 0 where nothing is; arguments as in `nll`."""
    if has_labels(distribution):
        check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    return log_prob(distribution, given.y, given.mask)


def check_likelihood(likelihood: Likelihood) -> None:
    """Raises a TypeError if something is no likelihood: its class, say."""
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood: expected a likelihood such as Gaussian(), got {likelihood!r}; call its class")


def check_one_label(likelihood: Likelihood, method: str) -> None:
    """Raises a ValueError if a method knows one label a point alone, and the likelihood is of more."""
    check_likelihood(likelihood)
    if likelihood.event_dims:
        raise ValueError(
            f"likelihood: expected one label a point, as {method} encodes them by class, got {likelihood}; use a learner that "
            "adapts a network's weights, such as MAML or PLATIPUS"
        )


def check_targets(distribution: Distribution, given: Points) -> None:
    """Raises a ValueError where an observed target is outside what the distribution can produce."""
    if has_labels(distribution):
        check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    if not (has_labels(distribution) or given.y.is_floating_point()):
        raise ValueError(
            f"y: expected floating numbers, as predictions of them need, got labels, {given.y.dtype}; build the points "
            "with points(x, y), without classes, or use a Categorical"
        )
    single = marginals(distribution) if has_labels(distribution) else distribution
    constraint = single.support
    assert constraint is not None
    _check_inside(constraint.check(given.y), given, expects(distribution))


def check_support(module: nn.Module, support: Points, name: str = "support") -> None:
    """Raises a ValueError where an observed target of a support is impossible under a likelihood of the learner's."""
    likelihoods = parts(module, Likelihood, alike=True)  # type: ignore[type-abstract]
    if likelihoods and all(likelihood.discrete and likelihood.support is None for likelihood in likelihoods):
        check_labels(support.y, f"{name}.y")  # which a learner would else cut to whole numbers, in silence
    dims, known = support.y.dim() - 2, {likelihood.event_dims for likelihood in likelihoods}
    if dims not in known:  # only then, as every call pays for it
        known |= {getattr(type(part), "label_dims", 0) for part in parts(module, nn.Module, alike=True)} - {0}
        known = known or {0}
    if not support.y.is_floating_point() and dims not in known:
        remedy = "give the learner's likelihood as many, Categorical(event_dims=...)"
        if not any(known) and dims:
            remedy = f"use a learner of a network and Categorical(event_dims={dims}), such as MAML"
        raise ValueError(
            f"{name}.y: expected labels of {max(known)} dimensions a point as the learner's likelihood has them, got {dims}, "
            f"shape {tuple(support.y.shape)}; {remedy}, or give every point one label"
        )
    for part in likelihoods:
        if part.support is not None:
            if not support.y.is_floating_point():
                raise ValueError(
                    f"{name}.y: expected floating targets, as a {type(part).__name__} has them, got labels, {support.y.dtype}; "
                    "build the points without classes, or use Categorical()"
                )
            inside = part.support.check(support.y).flatten(2).all(2)
            words = _WORDS.get(part.support, f"values in {part.support}")
            _check_inside(inside, support, f"targets that a {type(part).__name__} can produce, {words}")


_WORDS = {constraints.boolean: "0.0 or 1.0", constraints.nonnegative_integer: "whole numbers from 0 on"}


def _check_inside(inside: Tensor, given: Points, expected: str) -> None:
    mask = (
        given.mask.reshape(given.mask.shape + (1,) * (inside.dim() - given.mask.dim()))
        if inside.dim() > 2
        else seen(given)
    )
    bad = ~inside & mask
    if bad.any():
        task, point, *entry = place = tuple(bad.nonzero()[0].tolist())
        within = f", entry {tuple(entry)}" if entry else ""
        raise ValueError(
            f"y: expected {expected}, got {given.y[place].tolist()} at task {task}, point {point}{within}; "
            "renumber the targets or change the likelihood, the network's outputs or the learner's classes"
        )


def mean_error(support: Points, like: Tensor, lead: int = 1) -> Callable[[Tensor], Tensor]:
    """The mean of errors ``(N, *Y)`` or ``(N,)`` over what is observed of one task's targets; with nothing observed, zero.

    Args:
        support: one task's points, without B.
        like: of whose floating type and device the errors are.
        lead: 1, or 2 for the points of B tasks, whose means are added.
    """
    mask = support.mask.flatten(lead) if support.mask.dim() > lead else support.mask[..., None]
    counts = observed(support, lead).sum(-1).clamp(min=1)
    share = mask.to(like) / counts[..., None, None]  # once, and not at each step
    entries = mask.shape[-1]

    def mean(errors: Tensor) -> Tensor:
        each = errors.reshape(*errors.shape[:lead], -1)
        if entries not in (1, each.shape[-1]):
            raise ValueError(
                f"mask: expected errors of {entries} entries a point, as the mask has them, got {each.shape[-1]}; let the "
                "likelihood's error be (..., *Y), without a sum"
            )
        return (each * share).sum()

    return mean


def support_error(
    network: Frozen, likelihood: Likelihood, support: Points, lead: int = 1
) -> Callable[[Params | Tensor], Tensor]:
    """One task's inner objective: the mean error over its observed support targets, as a function of the adapted weights.

    With nothing observed the objective is zero.

    Args:
        network: what is adapted.
        likelihood: whose error it is.
        support: one task's, without B.
        lead: 1, or 2 for the points of B tasks, whose objectives are added: the gradient of each task's weights is its own.
    """
    mean = mean_error(support, next(iter(network.state.values())), lead)
    outputs = network if lead == 1 else network.over_tasks

    def objective(weights: Params | Tensor) -> Tensor:
        return mean(likelihood.error(outputs(support.x, weights=weights), support.y))

    return objective
