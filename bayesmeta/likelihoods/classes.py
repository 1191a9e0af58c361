"""Labels, and yes or no."""

from __future__ import annotations

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from bayesmeta.likelihoods.base import Likelihood, check_event, check_labels

__all__ = ["Bernoulli", "Categorical", "OneVsEach", "at_once"]


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
        check_labels(y)
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
        check_labels(y)
        return -self(outputs).log_prob(y)


class Bernoulli(Likelihood):
    """Yes-or-no targets, 0.0 or 1.0, with the outputs as logits. ``*O = *Y = (outputs,)``.

    Example:
        >>> Bernoulli()(torch.zeros(4, 1)).mean[0]
        tensor([0.5000])
    """

    discrete = True
    support = constraints.boolean

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Bernoulli(logits=outputs, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
        return F.binary_cross_entropy_with_logits(outputs, y, reduction="none").sum(-1)
