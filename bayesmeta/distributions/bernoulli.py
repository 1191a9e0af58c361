"""Yes or no."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Bernoulli
from torch import Tensor
from torch.nn import functional as F

from bayesmeta.distributions.family import Family, register
from bayesmeta.randomness import uniform

__all__ = ["BernoulliFamily"]


@register(torch.distributions.Bernoulli)
class BernoulliFamily(Family):
    """0.0 or 1.0: two classes."""

    kind = "classes"
    make = Bernoulli
    parameters = ("logits",)

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        weights = log_weights.log_softmax(0)
        no, yes = ((weights + F.logsigmoid(sign * draws.logits)).logsumexp(0) for sign in (-1, 1))
        return Bernoulli(logits=yes - no, validate_args=False)

    def undefined(self, d: Any) -> Tensor:
        return d.logits.isnan()

    def expects(self, d: Any) -> str:
        return "0.0 or 1.0"

    def probabilities(self, d: Any) -> Tensor:
        yes = d.mean
        return torch.stack([1 - yes, yes], -1)

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        # Clamped: where rounding leaves no doubt, a temperature must find some.
        return Bernoulli(logits=d.logits.clamp(-80, 80) / temperature, validate_args=False)

    def sample(self, d: Any, samples: int) -> Tensor:
        return (uniform((samples, *d.batch_shape), d.logits) < d.logits.sigmoid()).to(d.logits.dtype)
