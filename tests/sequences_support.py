"""Toy texts and a toy transformer, which the tests of sequences share."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.networks import BEGIN, END, PADDING, Transformer

LIKELIHOOD = bm.likelihoods.Categorical(event_dims=1)


def prefixes(y: Tensor) -> Tensor:
    return torch.cat([torch.full_like(y[:, :1], BEGIN), y[:, :-1]], 1)


def short_texts(vocabulary: int, length: int) -> Tensor:
    """All texts that end within so many tokens, and all beginnings of so many."""
    rows = []
    for size in range(length + 1):
        texts = itertools.product(range(3, vocabulary), repeat=size)
        rows += [[*text, END, *[PADDING] * length][:length] if size < length else list(text) for text in texts]
    return torch.tensor(rows)


def transformer(vocabulary: int = 6, layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(vocabulary, width=8, heads=2, layers=layers, longest=12).double()
    for parameter in made.parameters():  # far from uniform
        torch.nn.init.normal_(parameter, std=0.7)
    return made
