"""Attention over a task's points: what they say about each query."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.encoders.base import Encoder
from bayesmeta.networks import MLP

__all__ = ["Attention"]


@final
class Attention(Encoder):
    """A transformer over the points; queries attend to the points of every layer, and not to each other.

    The set encoder of Kim et al. 2019, "Attentive Neural Processes", https://arxiv.org/abs/1901.05761, in the form of Nguyen &
    Grover 2022 (TNP-D), "Transformer Neural Processes", https://arxiv.org/abs/2207.04179. A learned token, the prior, stands
    among the points, and is the encoding of the task.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes where y holds labels.
        size: R, a multiple of `heads`.
        layers: of self-attention.
        heads: of each layer.
        features: see `Encoder`.

    Example:
        >>> encoder, support = Attention(1, 1), points([0.0, 1.0], [0.0, 1.0])
        >>> encoder(support).shape, encoder(support, torch.zeros(1, 5, 1)).shape
        (torch.Size([1, 64]), torch.Size([1, 5, 64]))
    """

    def __init__(
        self,
        inputs: int,
        targets: int,
        size: int = 64,
        *,
        layers: int = 2,
        heads: int = 4,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, targets, size, features)
        check_count("layers", layers)
        check_count("heads", heads)
        if size % heads:
            raise ValueError(
                f"size: expected a multiple of the {heads} heads, got {size}; e.g. {heads * (size // heads + 1)}"
            )
        self.prior = nn.Parameter(0.1 * torch.randn(size))
        self.point = MLP(inputs + targets, size, hidden=(size,))
        self.query = MLP(inputs, size, hidden=(size,))
        self.layers = nn.ModuleList(_Layer(size, heads) for _ in range(layers))

    def encode(self, points: Points) -> Tensor:
        tokens, mask = self._tokens(points)
        for layer in self.layers:
            tokens = layer(tokens, tokens, mask)
        return tokens[:, 0]

    def tell(self, points: Points, embedded: Tensor) -> Tensor:
        tokens, mask = self._tokens(points)
        queries: Tensor = self.query(embedded)
        for layer in self.layers:
            queries, tokens = layer(queries, tokens, mask), layer(tokens, tokens, mask)
        return queries

    def _tokens(self, points: Points) -> tuple[Tensor, Tensor]:
        """The prior and the points as tokens ``(B, 1 + N, R)``, and which of them are there."""
        prior = self.prior.expand(len(points.mask), 1, -1)
        there = torch.ones_like(points.mask[:, :1])
        return torch.cat([prior, self.point(self.pairs(points))], 1), torch.cat([there, points.mask], 1)


class _Layer(nn.Module):
    """A pre-norm transformer layer in which x attends to the tokens."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key_value = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)
        self.mlp = MLP(size, size, hidden=(2 * size,))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        query = self.query(self.before_attention(x))
        key, value = self.key_value(self.before_attention(tokens)).chunk(2, -1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x))
