"""Choosing among candidates, each by numbers of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesmeta.recorded import Recorded

__all__ = ["Choice"]

_NEVER = -1e6
"""A logit whose probability is 0 exactly."""


class Choice(Recorded):
    """A score for each candidate, by one network for all: ``(N, W, F + 1)`` to logits ``(N, W)``, for a `Categorical`.

    The last number of a candidate says whether there is one, 1 or 0: points have unequally many, filled up with zeros, and what
    is not there has probability 0. So it chooses a sentence, an answer of several, or a span among all.

    Args:
        network: from a candidate's numbers ``(..., F)`` to its score ``(..., 1)``, such as ``MLP(F, 1)``.

    Raises:
        ValueError: at a call, x is not ``(N, W, F + 1)``, or the network has not one score for each candidate.

    Example:
        >>> x = torch.tensor([[[0.3, 1.0], [0.9, 1.0], [0.0, 0.0]]])
        >>> Choice(nn.Linear(1, 1))(x).softmax(-1)[0, 2]
        tensor(0., grad_fn=<SelectBackward0>)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3 or x.shape[-1] < 2:
            raise ValueError(
                f"x: expected candidates (N, W, F + 1), the last number 1 for those that there are, got {tuple(x.shape)}; give "
                "each point a row for each candidate"
            )
        score = self.network(x[..., :-1])
        if score.shape != (*x.shape[:-1], 1):
            raise ValueError(
                f"network: expected one score for each candidate, {(*x.shape[:-1], 1)}, got {tuple(score.shape)}; build one with "
                f"one output, e.g. MLP({x.shape[-1] - 1}, 1)"
            )
        score = score.squeeze(-1)
        logits: Tensor = torch.where(x[..., -1] > 0.5, score, max(_NEVER, torch.finfo(score.dtype).min / 4))
        return logits
