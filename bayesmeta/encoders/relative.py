"""Attention by differences of inputs: a task that is shifted in x has its answers shifted, and nothing else."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.encoders.base import Encoder
from bayesmeta.networks import MLP

__all__ = ["RelativeAttention"]

_SCALES = 6
"""Differences are seen at units of 1/8, 1/4, ..., 4."""


@final
class RelativeAttention(Encoder):
    """A transformer over the points that sees x - x' in the place of x: shifted tasks have the same answers, shifted.

    Ashman et al. 2024, "Translation Equivariant Transformer Neural Processes", https://arxiv.org/abs/2406.12409, section 3: how
    much one point heeds another depends on what both say and on the difference of their inputs, here as a term added to the
    logits. Points enter by y alone, queries as one learned token, and a decoder is not shown x. Beyond the range of the training
    tasks it so answers as within. Queries attend to the points of every layer, and not to each other. A learned token, the
    prior, stands among the points, without a place.

    Differences enter as tanh(2^k (x - x')), k = -2, ..., 3, of every feature: bounded, so that what is far is all alike. Give
    inputs of about unit size (`Standardized`). A small network sees each pair of points: time and memory grow with N (N + M).

    Args:
        inputs: D, the number of features of x, after `features` if given; a shift is one of these.
        targets: the number of targets, or of classes where y holds labels.
        size: R, a multiple of `heads`.
        layers: of attention.
        heads: of each layer.
        features: see `Encoder`.

    Example:
        >>> encoder, support = RelativeAttention(1, 1), points([0.0, 1.0], [0.0, 1.0])
        >>> encoder(support).shape, encoder(support, torch.zeros(1, 5, 1)).shape
        (torch.Size([1, 64]), torch.Size([1, 5, 64]))
    """

    relative = True

    def __init__(
        self,
        inputs: int,
        targets: int,
        size: int = 64,
        *,
        layers: int = 3,
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
        self.query = nn.Parameter(0.1 * torch.randn(size))
        self.point = MLP(targets, size, hidden=(size,))
        self.place = MLP(_SCALES * inputs + 1, layers * heads, hidden=(32,))
        self.layers = nn.ModuleList(_RelativeLayer(size, heads) for _ in range(layers))

    def encode(self, points: Points) -> Tensor:
        return self._attend(self.prior.expand(len(points.mask), 1, -1), None, points)[:, 0]

    def tell(self, points: Points, embedded: Tensor) -> Tensor:
        return self._attend(self.query.expand(*embedded.shape[:2], -1), embedded, points)

    def _attend(self, asking: Tensor, asked: Tensor | None, points: Points) -> Tensor:
        """What the tokens `asking` ``(B, M, R)``, at places ``(B, M, D)`` or at none, are told: ``(B, M, R)``."""
        x, size = self.embed(points.x), len(points.mask)
        tokens = torch.cat([self.prior.expand(size, 1, -1), self.point(self._targets(points))], 1)
        mask = torch.cat([torch.ones_like(points.mask[:, :1]), points.mask], 1)
        heed = self._heed(
            x.new_zeros(*asking.shape[:2], self.inputs) if asked is None else asked, x, mask, asked is None
        )
        among = torch.cat([self._heed(x[:, :1], x, mask, True), self._heed(x, x, mask, False)], -2)
        for n, layer in enumerate(self.layers):
            asking = layer(asking, tokens, heed[n])
            if n + 1 < len(self.layers):
                tokens = layer(tokens, tokens, among[n])
        return asking

    def _heed(self, asked: Tensor, x: Tensor, mask: Tensor, nowhere: bool) -> Tensor:
        """What is added to the logits of each layer, ``(layers, B, heads, M, 1 + N)``; minus infinity for what is not there."""
        difference = asked[:, :, None] - x[:, None]  # (B, M, N, D)
        scales = torch.exp2(torch.arange(_SCALES, dtype=x.dtype, device=x.device) - 2)
        seen = torch.tanh(difference[..., None] * scales).flatten(3)
        placed = torch.cat([seen, torch.ones_like(seen[..., :1])], -1) * (0.0 if nowhere else 1.0)
        term = self.place(F.pad(placed, (0, 0, 1, 0)))  # the prior comes first, and has no place
        term = term.unflatten(-1, (len(self.layers), -1)).movedim((-2, -1), (0, 2))
        return term.masked_fill(~mask[:, None, None], -torch.inf)


class _RelativeLayer(nn.Module):
    """A pre-norm transformer layer in which x attends to the tokens, with a term added to the logits."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key_value = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)
        self.mlp = MLP(size, size, hidden=(2 * size,))

    def forward(self, x: Tensor, tokens: Tensor, term: Tensor) -> Tensor:
        query = self.query(self.before_attention(x))
        key, value = self.key_value(self.before_attention(tokens)).chunk(2, -1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=term)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x))
