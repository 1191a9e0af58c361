"""A small encoder of texts, from token ids to a vector: learned embeddings, convolutions, and a sum in which tokens weigh.

Kim 2014, "Convolutional Neural Networks for Sentence Classification", https://arxiv.org/abs/1408.5882, with residual blocks that
are normalised first; the weight of each token is what Bao et al. 2020, "Few-shot Text Classification with Distributional
Signatures", https://arxiv.org/abs/1908.06039 (section 4), find is what new classes need, here learned for each token by itself.

Shape letters of texts: N texts, L tokens, V of the vocabulary, D features of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayesmeta.networks.transformer import PADDING
from bayesmeta.recorded import Recorded

__all__ = ["TextEncoder"]


class TextConvolution(Recorded):
    """What a token and its two neighbours say, added to it: ``(..., L, D)`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.near = nn.LayerNorm(width), nn.Linear(3 * width, width)

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        z = self.norm(h) * there
        edge = torch.zeros_like(z[..., :1, :])
        left, right = torch.cat([edge, z[..., :-1, :]], -2), torch.cat([z[..., 1:, :], edge], -2)
        added: Tensor = h + self.near(torch.cat([left, z, right], -1)).relu()
        return added


class TextFeatures(Recorded):
    """Texts ``(..., L)`` to features ``(..., D)``: the weighted sum of their tokens by the root of their number."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.tokens, self.log_weight = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, 1)
        self.layers = nn.ModuleList(TextConvolution(width) for _ in range(layers))
        nn.init.zeros_(self.log_weight.weight)

    def forward(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor) or x.dtype not in (torch.long, torch.int) or x.dim() < 1 or not x.shape[-1]:
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"x: expected token ids (..., L), torch.long, at least one a text, got {got}; encode the texts, and build points "
                "and tasks with whole=True"
            )
        try:
            h = self.tokens(x)
        except IndexError as error:
            raise ValueError(
                f"x: expected token ids from 0 to {self.vocabulary - 1}, of TextEncoder({self.vocabulary}), got others "
                f"({error}); encode with the tokenizer that the network was built for"
            ) from error
        there = (x != PADDING)[..., None].to(h.dtype)
        for layer in self.layers:
            h = layer(h, there)
        weighted = h * self.log_weight(x).exp() * there
        # One after the other, so that zeros at the end change not even how sums are rounded.
        total: Tensor = weighted.cumsum(-2)[..., -1, :]
        return total / there.sum(-2).clamp(min=1).sqrt()


class TextEncoder(Recorded):
    """Texts as token ids to a vector: `features`, then a linear `head`.

    Ids ``(N, L)`` to ``(N, outputs)``. A text ends where `PADDING`, 0, begins, and how much of it follows changes nothing, not
    even a bit; a text of no tokens has features of zero. At first it counts tokens, each by a random vector, which alone tells
    many classes apart; trained, it knows which words count, and which are alike. For learners of features: ``encoder.features``.

    Args:
        vocabulary: V, as many ids as the tokenizer has (``Tokens.size``).
        outputs: number of outputs, W for classes.
        width: D.
        layers: convolutions over three tokens, for what the order of words says; none counts words.

    Raises:
        ValueError: a number is below 1 (layers: 0). At a call, ids are no whole numbers, or beyond the vocabulary.

    Example:
        >>> network = TextEncoder(100, outputs=5, width=16)
        >>> network(torch.tensor([[5, 9, 7], [8, 0, 0]])).shape
        torch.Size([2, 5])
    """

    def __init__(self, vocabulary: int, outputs: int = 5, *, width: int = 128, layers: int = 0) -> None:
        super().__init__()
        given = (vocabulary, outputs, width, layers)
        if not all(isinstance(number, int) for number in given) or min(given[:3]) < 1 or layers < 0:
            raise ValueError(
                "vocabulary, outputs, width and layers: expected whole numbers of at least 1, of layers 0, got "
                f"{', '.join(map(repr, given))}; e.g. TextEncoder(2000, 5, width=128)"
            )
        self.features = TextFeatures(vocabulary, width, layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Any) -> Tensor:
        outputs: Tensor = self.head(self.features(x))
        return outputs
