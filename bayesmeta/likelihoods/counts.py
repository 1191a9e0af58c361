"""Counts: whole numbers from 0 on, kept in a floating type, as the network's logarithm of a rate has it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from bayesmeta.border import as_tensor
from bayesmeta.likelihoods.base import Likelihood, check_event, said

__all__ = ["NegativeBinomial", "Poisson"]


class Poisson(Likelihood):
    """Counts with the outputs as the logarithm of their rate, the mean and the variance. ``*O = *Y = (outputs,)``.

    Targets are whole numbers from 0 on, given as floating numbers. Rates are exp(outputs) from e^-20 to e^20; beyond, the
    logarithm of the rate grows slowly, so that nothing overflows. In float32 the log-likelihood of a count of ten thousand is
    wrong by some 0.01 nats: use ``learner.double()`` for such counts.

    The inner error is half the deviance (McCullagh & Nelder 1989, Generalized Linear Models, section 2.3): the NLL less that of a
    rate equal to y. Its curvature is the rate, so that large counts need a small inner rate.

    Example:
        >>> Poisson()(torch.zeros(4, 1)).mean[0]
        tensor([1.])
    """

    discrete = True
    support = constraints.nonnegative_integer

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Poisson(_log_rate(outputs).exp(), validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
        log_rate = _log_rate(outputs)
        return log_rate.exp() - y - y * log_rate + torch.special.xlogy(y, y)


class NegativeBinomial(Likelihood):
    """Counts that vary more than a `Poisson`'s: mean μ = exp(outputs), variance μ + α μ². ``*O = *Y = (outputs,)``.

    The dispersion α is learned, and shared by all tasks; it stays above 0.001, and a Poisson's is 0. Targets and rates are as
    those of a `Poisson`. Hilbe 2011, Negative Binomial Regression, https://doi.org/10.1017/CBO9780511973420 (there NB2).

    The inner error is half the deviance with α = 1 (a geometric distribution), whose slope (μ - y) / (1 + μ) large rates do not
    make steep; like the Poisson's it is least at the mean, whatever α is.

    Args:
        dispersion: the initial α; a sequence gives each target its own.

    Example:
        >>> NegativeBinomial(dispersion=0.5)(torch.zeros(4, 1)).variance[0]
        tensor([1.5000], grad_fn=<SelectBackward0>)
    """

    discrete = True
    support = constraints.nonnegative_integer

    def __init__(self, dispersion: float | Sequence[float] = 0.5) -> None:
        super().__init__()
        initial = as_tensor(dispersion, "dispersion").to(torch.get_default_dtype())
        if initial.dim() > 1 or not initial.numel() or not ((initial > _LEAST) & (initial < math.inf)).all():
            raise ValueError(
                f"dispersion: expected a positive number above {_LEAST}, got {dispersion}; the variance is μ + dispersion μ², "
                "with one dispersion for all targets or a sequence with one for each; without any, use Poisson"
            )
        self.log_dispersion = nn.Parameter((initial - _LEAST).log())

    @property
    def dispersion(self) -> Tensor:
        """α, a scalar, or one for each target."""
        return _LEAST + self.log_dispersion.exp()

    def extra_repr(self) -> str:
        return f"dispersion={said(self.dispersion)}"

    def forward(self, outputs: Tensor) -> Distribution:
        dispersion = self.dispersion
        if dispersion.dim() == 1 and len(dispersion) != outputs.shape[-1]:
            raise ValueError(
                f"dispersion: expected one for all targets or one for each of {outputs.shape[-1]}, got {len(dispersion)}; "
                "match it to the network's outputs"
            )
        failures = (1 / dispersion).expand_as(outputs)
        logits = _log_rate(outputs) + dispersion.log()
        return dist.NegativeBinomial(failures, logits=logits, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
        log_rate = _log_rate(outputs)
        of_outputs = (1 + y) * F.softplus(log_rate) - y * log_rate
        return of_outputs + torch.special.xlogy(y, y) - (1 + y) * torch.log1p(y)


_LEAST = 1e-3
"""Added to every dispersion: the log-gammas of a smaller one's inverse cancel in float32."""
_WIDEST = 20.0


def _log_rate(outputs: Tensor) -> Tensor:
    """The outputs, but beyond ±20 their excess as a logarithm, with a slope of 1 at the joints and none that vanishes."""
    within = outputs.clamp(-_WIDEST, _WIDEST)
    return within + torch.asinh(outputs - within)
