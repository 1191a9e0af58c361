"""A transformer that reads one sequence and writes another, token by token.

Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762, section 3, with one stack of layers for
both sequences, as Liu et al. 2018, "Generating Wikipedia by Summarizing Long Sequences", https://arxiv.org/abs/1801.10198,
section 4.2.3: a token of the source attends to all of the source, one of the prefix to the source and to what stands before it.
Layers are normalised first (Xiong et al. 2020, https://arxiv.org/abs/2002.04745).

Shape letters of sequences: N pairs, L tokens of the source, T of the prefix, V of the vocabulary, D features of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.recorded import Recorded

__all__ = ["BEGIN", "END", "PADDING", "NextToken", "Transformer"]

PADDING, BEGIN, END = 0, 1, 2
"""Ids of the tokens that stand for no text: what fills up a sequence, and where one begins and ends."""

_NEVER = -1e6
"""A logit whose probability is 0 exactly, and which stays finite if divided by a temperature."""


class TransformerBlock(Recorded):
    """Attention and a layer of width 4 D, each added to what comes in: ``(N, L + T, D)`` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)
        self.found = nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        query, key, value = self.asked(self.first(x)).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1).unbind(-2)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)  # (N, heads, L + T, D / heads)
        x = x + self.found(found.movedim(1, -2).flatten(-2))
        widened: Tensor = x + self.wide(self.second(x))
        return widened


class TransformerFeatures(Recorded):
    """What `Transformer` knows of the next token after each prefix: ``(N, T, D + 1)``, the last whether the text has ended."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, longest: int) -> None:
        super().__init__()
        self.vocabulary, self.longest = vocabulary, longest
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(2, longest, width))  # in the source, and in the prefix
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, x: Any) -> Tensor:
        source, prefix = self._sequences(x)
        length, written = source.shape[-1], prefix.shape[-1]
        both = torch.cat([source, prefix], -1)
        try:
            embedded = self.tokens(both)
        except IndexError as error:
            raise ValueError(
                f"x: expected token ids from 0 to {self.vocabulary - 1}, of Transformer({self.vocabulary}), got others "
                f"({error}); encode with the tokenizer that the network was built for"
            ) from error
        h = embedded + torch.cat([self.places[0, :length], self.places[1, :written]])
        order = torch.arange(length + written, device=both.device)
        before = (order < length) | (order <= order[:, None])  # the source, and what stands before
        before = before & ((order < length) | (order[:, None] >= length))  # the source sees no prefix
        shown = torch.cat([source != PADDING, torch.ones_like(prefix, dtype=torch.bool)], -1)
        itself = order == order[:, None]  # so that there is something to see, also for padding
        sees = (before & shown[..., None, :] | itself)[..., None, :, :]
        for block in self.blocks:
            h = block(h, sees)
        ended = (prefix == PADDING) | (prefix == END)
        return torch.cat([self.last(h[..., length:, :]), ended[..., None].to(h)], -1)

    def _sequences(self, x: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(x, dict) or set(x) != {"source", "prefix"}:
            got = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                f'x: expected {{"source": (N, L), "prefix": (N, T)}}, token ids, got {got}; name the two so'
            )
        for name, tokens in x.items():
            if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool:
                got = str(tokens.dtype) if isinstance(tokens, Tensor) else type(tokens).__name__
                raise ValueError(
                    f"x[{name!r}]: expected token ids, torch.long, got {got}; build the points with whole=True"
                )
            if tokens.shape[-1] > self.longest:
                raise ValueError(
                    f"x[{name!r}]: expected at most {self.longest} tokens, of Transformer(longest={self.longest}), got "
                    f"{tokens.shape[-1]}; cut or leave out longer texts, generate with longest={self.longest}, or build a "
                    "network of more"
                )
        if x["source"].shape[:-1] != x["prefix"].shape[:-1]:
            raise ValueError(
                f"x: expected a prefix for each source, got {tuple(x['source'].shape)} and {tuple(x['prefix'].shape)}; pair "
                "them one by one"
            )
        return x["source"], x["prefix"]


class NextToken(Recorded):
    """Logits of the next token, linear in features: ``(..., D + 1)`` to ``(..., V)``.

    Before the end all tokens are possible but `PADDING` and `BEGIN`, and after it `PADDING` alone: with probability 1, so that it
    adds 0 to the log-probability of a sequence.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, vocabulary)

    def forward(self, features: Tensor) -> Tensor:
        logits, ended = self.linear(features[..., :-1]), features[..., -1:] > 0.5
        never = max(_NEVER, torch.finfo(logits.dtype).min / 4)
        order = torch.arange(logits.shape[-1], device=logits.device)
        impossible = torch.where(ended, order != PADDING, (order == PADDING) | (order == BEGIN))
        possible: Tensor = torch.where(impossible, never, torch.where(ended, 0.0, logits))
        return possible


class Transformer(Recorded):
    """A transformer from a source and the beginning of its translation to the next token: `features`, then a linear `head`.

    x is ``{"source": (N, L), "prefix": (N, T)}``, token ids; outputs are ``(N, T, V)``, the logits of y, the prefix's next
    tokens. A text of three tokens a b c is the prefix ``BEGIN a b c``, and y is ``a b c END``; both, and the source, are filled
    up with `PADDING` at their ends, to any length up to `longest`. With `Categorical(event_dims=1)` the log-probability of y is
    that of the whole text, exactly; padding costs 0. `bayesmeta.generate` writes texts.

    Args:
        vocabulary: V, as many as the tokenizer has.
        width: D, a multiple of `heads`.
        heads: parts of the features that attend to other tokens by themselves.
        layers: how many. V = 1,000 with the other defaults has 0.54 million weights.
        longest: of a source, and of a prefix, in tokens.

    Raises:
        ValueError: a number is below 1, there is no token beside the three, or heads do not divide the width. At a call, there
            are other inputs than the two, ids beyond the vocabulary, or sequences that are too long.

    Example:
        >>> network = Transformer(100, width=16, heads=2, layers=1)
        >>> x = {"source": torch.tensor([[5, 9, 7]]), "prefix": torch.tensor([[BEGIN, 8, 4, 6, END, PADDING]])}
        >>> network(x).shape
        torch.Size([1, 6, 100])
    """

    def __init__(self, vocabulary: int, *, width: int = 96, heads: int = 4, layers: int = 3, longest: int = 64) -> None:
        super().__init__()
        numbers = (vocabulary, width, heads, layers, longest)
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if not whole or min(numbers) < 1 or vocabulary <= 3:
            raise ValueError(
                "vocabulary, width, heads, layers and longest: expected whole numbers of at least 1, and more tokens than the 3 "
                f"without text, got {vocabulary!r}, {width!r}, {heads!r}, {layers!r} and {longest!r}; e.g. "
                "Transformer(tokens.size, width=96, heads=4)"
            )
        if width % heads:
            raise ValueError(f"width: expected a multiple of the {heads} heads, got {width}; e.g. {heads * 16}")
        self.features = TransformerFeatures(vocabulary, width, heads, layers, longest)
        self.head = NextToken(width, vocabulary)

    def forward(self, x: Any) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits
