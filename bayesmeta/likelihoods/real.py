"""Real targets: normals and Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.border import as_tensor
from bayesmeta.likelihoods.base import Likelihood, check_event, check_likelihood, said

__all__ = ["Gaussian", "HeteroscedasticGaussian", "StudentT", "check_gaussian", "standard_deviation"]


def _scale(initial: float | Sequence[float]) -> nn.Parameter:
    scale = as_tensor(initial, "scale").to(torch.get_default_dtype())
    if scale.dim() > 1 or not scale.numel() or not ((scale > _FLOOR) & (scale < math.inf)).all():
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
        return f"scale={said(self.scale)}"

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
        return f"scale={said(self.scale)}, df={said(self.df)}"

    def forward(self, outputs: Tensor) -> Distribution:
        scale = _expanded(self.log_scale, outputs)
        return dist.StudentT(self.df.expand_as(outputs), outputs, scale, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return _half_square(outputs, y)


def _half_square(outputs: Tensor, y: Tensor) -> Tensor:
    check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
    return 0.5 * (outputs - y).square()


def _halves(outputs: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.shape[-1] % 2:
        raise ValueError(
            f"outputs: expected an even number of network outputs (means, then scales), got {outputs.shape[-1]}; "
            "give the network twice as many outputs as the targets have entries"
        )
    mean, raw = outputs.chunk(2, -1)
    return mean, raw


def check_gaussian(likelihood: Likelihood) -> None:
    """Raises an error if the likelihood is not a Gaussian with one σ, for which posteriors have a closed form."""
    check_likelihood(likelihood)
    if not isinstance(likelihood, Gaussian) or likelihood.log_scale.dim() > 0:
        raise ValueError(
            f"likelihood: expected a Gaussian with one σ, for which the posterior has a closed form, got {likelihood}; "
            "pass Gaussian(), or for other likelihoods use VERSA"
        )
