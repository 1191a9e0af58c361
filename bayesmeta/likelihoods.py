"""From network outputs to distributions of targets, and the parameter-free errors that inner loops descend."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params
from bayesmeta.recorded import Recorded

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "OneVsEach",
    "StudentT",
    "check_gaussian",
    "check_likelihood",
    "check_targets",
    "nll",
    "standard_deviation",
    "support_error",
]


class Likelihood(Recorded, ABC):
    """p(y | network outputs). It owns its parameters, such as the noise, which are shared by all tasks."""

    discrete: ClassVar[bool] = False
    """Whether targets are counts, labels, or yes and no, which have no unit that could be scaled."""

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


def _scale(initial: float | Sequence[float]) -> nn.Parameter:
    scale = torch.as_tensor(initial, dtype=torch.get_default_dtype())
    if scale.dim() > 1 or not ((scale > _FLOOR) & (scale < math.inf)).all():
        raise ValueError(
            f"scale: expected a positive number above {_FLOOR}, got {initial}; it is the initial standard deviation, "
            "one for all targets or a sequence with one for each"
        )
    return nn.Parameter((scale - _FLOOR).log())


_FLOOR = 1e-4
"""Added to every standard deviation, in units of y: a learned noise cannot reach zero, where the likelihood has no maximum."""


def standard_deviation(log_scale: Tensor) -> Tensor:
    """σ of a `Gaussian` whose parameter has this value."""
    return _FLOOR + log_scale.exp()


def _expanded(log_scale: Tensor, outputs: Tensor) -> Tensor:
    """The standard deviation of each output."""
    if log_scale.dim() == 1 and len(log_scale) != outputs.shape[-1]:
        raise ValueError(
            f"scale: expected one standard deviation for all targets or one for each of {outputs.shape[-1]}, "
            f"got {len(log_scale)}; match it to the network's outputs"
        )
    return standard_deviation(log_scale).expand_as(outputs)


def _said(scale: Tensor) -> str:
    """A parameter's present value, for people: four digits of one number or of a tuple."""
    if scale.is_meta:
        return "?"
    values = [f"{value:.4g}" for value in scale.detach().reshape(-1).tolist()]
    return f"({', '.join(values)})" if scale.dim() else values[0]


class Gaussian(Likelihood):
    """y ~ N(outputs, σ²), with one learned σ for all tasks. ``*O = *Y = (outputs,)``.

    σ stays above 1e-4 in the units of y, as that of all likelihoods here: for targets whose spread is not far larger, wrap the
    learner in `Standardized`, in whose units they have a standard deviation of 1.

    Args:
        scale: the initial σ; a sequence gives each target its own, ``Gaussian(scale=(0.5, 0.5))`` for two.

    Example:
        >>> Gaussian(scale=0.5)(torch.zeros(4, 1)).event_shape
        torch.Size([1])
    """

    def __init__(self, scale: float | Sequence[float] = 0.5) -> None:
        super().__init__()
        self.log_scale = _scale(scale)

    @property
    def scale(self) -> Tensor:
        """σ, a scalar, or one for each target."""
        return standard_deviation(self.log_scale)

    def extra_repr(self) -> str:
        return f"scale={_said(self.scale)}"

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Normal(outputs, _expanded(self.log_scale, outputs), validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return _half_square(outputs, y)


class HeteroscedasticGaussian(Likelihood):
    """y ~ N(mean(x), σ(x)²): the first half of the outputs is the mean, the second σ before a softplus. ``*O = (2 Y,)``.

    The inner error is that of the mean alone; σ(x) is learned by the meta-update. It stays above 1e-4, see `Gaussian`.

    Example:
        >>> HeteroscedasticGaussian()(torch.zeros(4, 2)).event_shape
        torch.Size([1])
    """

    def forward(self, outputs: Tensor) -> Distribution:
        mean, raw = _halves(outputs)
        return dist.Normal(mean, _FLOOR + F.softplus(raw), validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return _half_square(_halves(outputs)[0], y)


class StudentT(Likelihood):
    """y ~ outputs + σ t_ν: heavy tails, so that single wild points do not move the noise. Learns σ and ν > 2.

    σ stays above 1e-4, see `Gaussian`.

    Args:
        scale: the initial σ; a sequence gives each target its own.
        df: the initial degrees of freedom ν, above 2 so that the variance exists.

    Example:
        >>> StudentT()(torch.zeros(4, 1)).event_shape
        torch.Size([1])
    """

    def __init__(self, scale: float | Sequence[float] = 0.5, df: float = 5.0) -> None:
        super().__init__()
        if not 2 < df < math.inf:
            raise ValueError(
                f"df: expected a number above 2, got {df}; at 2 or less the variance is infinite; at infinity use Gaussian"
            )
        self.log_scale = _scale(scale)
        self.log_excess = nn.Parameter(torch.tensor(math.log(df - 2)))

    @property
    def scale(self) -> Tensor:
        """σ, a scalar, or one for each target."""
        return standard_deviation(self.log_scale)

    @property
    def df(self) -> Tensor:
        """ν, a scalar."""
        return 2 + self.log_excess.exp()

    def extra_repr(self) -> str:
        return f"scale={_said(self.scale)}, df={_said(self.df)}"

    def forward(self, outputs: Tensor) -> Distribution:
        scale = _expanded(self.log_scale, outputs)
        return dist.StudentT(self.df.expand_as(outputs), outputs, scale, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return _half_square(outputs, y)


class Categorical(Likelihood):
    """Labels 0 to W - 1 with the outputs as logits. ``*O = (W,)``, ``*Y = ()``.

    Example:
        >>> Categorical()(torch.zeros(4, 5)).probs[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    discrete = True

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Categorical(logits=outputs, validate_args=False)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        _check_labels(y)
        log_probabilities = outputs.log_softmax(-1)
        return -log_probabilities.gather(-1, y[..., None]).squeeze(-1)


def at_once(numbers: int) -> int:
    """How many classes to compare with all others at a time, if one takes so many numbers: some 100 MB of them."""
    return max(1, 2**24 // max(1, numbers))


class OneVsEach(Likelihood):
    """Labels 0 to W - 1, p(y) ∝ Π_{c ≠ y} σ(output_y - output_c). ``*O = (W,)``, ``*Y = ()``.

    The one-vs-each bound on the softmax (Titsias 2016, https://arxiv.org/abs/1609.07410), normalised. It compares every two
    classes, W² numbers a prediction: for hundreds of classes use `Categorical`.

    Example:
        >>> OneVsEach()(torch.zeros(4, 5)).probs[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    discrete = True

    def forward(self, outputs: Tensor) -> Distribution:
        pieces = outputs.split(at_once(outputs.numel()), -1)
        logits = [F.logsigmoid(some[..., :, None] - outputs[..., None, :]).sum(-1) for some in pieces]
        return dist.Categorical(logits=torch.cat(logits, -1), validate_args=False)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        _check_labels(y)
        return -self(outputs).log_prob(y)


class Bernoulli(Likelihood):
    """Yes-or-no targets, 0.0 or 1.0, with the outputs as logits. ``*O = *Y = (outputs,)``.

    Example:
        >>> Bernoulli()(torch.zeros(4, 1)).mean[0]
        tensor([0.5000])
    """

    discrete = True

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Bernoulli(logits=outputs, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
        return F.binary_cross_entropy_with_logits(outputs, y, reduction="none").sum(-1)


def _half_square(outputs: Tensor, y: Tensor) -> Tensor:
    check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
    return 0.5 * (outputs - y).square().sum(-1)


def _halves(outputs: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.shape[-1] % 2:
        raise ValueError(
            f"outputs: expected an even number of network outputs (means, then scales), got {outputs.shape[-1]}; "
            "give the network twice as many outputs as the targets have entries"
        )
    mean, raw = outputs.chunk(2, -1)
    return mean, raw


def check_event(expected: torch.Size, given: torch.Size) -> None:
    if given != expected:
        raise ValueError(
            f"y: expected targets of event shape {tuple(expected)} as the predictions have, got {tuple(given)}; "
            "let the network map (N, *X) to (N, O) with as many outputs as y has numbers, or pass y as (B, N, *Y)"
        )


def _check_labels(y: Tensor) -> None:
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
        _check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    total = distribution.log_prob(given.y).masked_fill(~given.mask, 0.0).sum(1)
    return -total / given.mask.sum(1).clamp(min=1)


def check_likelihood(likelihood: Likelihood) -> None:
    """Raises a TypeError if something is no likelihood: its class, say."""
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood: expected a likelihood such as Gaussian(), got {likelihood!r}; call its class")


def check_gaussian(likelihood: Likelihood) -> None:
    """Raises an error if the likelihood is not a Gaussian with one σ, for which posteriors have a closed form."""
    check_likelihood(likelihood)
    if not isinstance(likelihood, Gaussian) or likelihood.log_scale.dim() > 0:
        raise ValueError(
            f"likelihood: expected a Gaussian with one σ, for which the posterior has a closed form, got {likelihood}; "
            "pass Gaussian(), or for other likelihoods use VERSA"
        )


def check_targets(distribution: Distribution, given: Points) -> None:
    """Raises a ValueError where an observed target is outside what the distribution can produce."""
    if isinstance(distribution, torch.distributions.Categorical):
        _check_labels(given.y)
    check_event(distribution.event_shape, given.y.shape[2:])
    constraint = distribution.support
    assert constraint is not None
    inside = constraint.check(given.y)
    bad = ~inside & given.mask
    if bad.any():
        task, point = bad.nonzero()[0].tolist()
        if isinstance(distribution, torch.distributions.Categorical):
            expected = f"labels 0 to {distribution.logits.shape[-1] - 1}, as many as the network has outputs"
        else:
            expected = f"values in {constraint}"
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
