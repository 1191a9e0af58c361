"""Labels 0 to W - 1."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Categorical
from torch import Tensor

from bayesmeta.distributions.family import Family, register
from bayesmeta.randomness import generator

__all__ = ["CategoricalFamily"]


@register(torch.distributions.Categorical)
class CategoricalFamily(Family):
    """One of W classes."""

    kind = "classes"
    make = Categorical
    parameters = ("logits",)

    def mix(self, draws: Any, log_weights: Tensor) -> Any:
        joint = draws.logits.log_softmax(-1) + log_weights.log_softmax(0)[..., None]
        return Categorical(logits=joint.logsumexp(0), validate_args=False)

    def undefined(self, d: Any) -> Tensor:
        return d.logits.isnan().any(-1)  # a class without probability is no fault

    def expects(self, d: Any) -> str:
        return f"labels 0 to {d.logits.shape[-1] - 1}, as many as the network has outputs"

    def probabilities(self, d: Any) -> Tensor:
        p = d.logits.exp()  # logits are normalised but for rounding, and a softmax over a few classes is slow
        return p / p.sum(-1, keepdim=True)

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        return Categorical(logits=d.logits.log_softmax(-1) / temperature, validate_args=False)

    def sample(self, d: Any, samples: int) -> Tensor:
        p = d.logits.softmax(-1).reshape(-1, d.logits.shape[-1])
        drawn = torch.multinomial(p, samples, replacement=True, generator=generator(p.device))
        return drawn.mT.reshape(samples, *d.batch_shape)
