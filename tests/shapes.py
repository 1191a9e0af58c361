"""Episodes of tokens, trees and labels of an event, and networks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points

B, N, M, S, T, W, VOCABULARY = 2, 4, 3, 6, 3, 3, 11


class Read(nn.Module):
    """Inputs of any form to 2 features a point: token ids are embedded, entries of a dictionary joined."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 2)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, dict):
            return self.embed(x["text"]["tokens"]).mean(-2) + x["more"]
        return self.embed(x).mean(-2)


class Network(nn.Module):
    """As the contract suite's MLP: features and a head."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Read(), nn.Linear(2, 8), nn.Tanh())
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Any) -> Tensor:
        found: Tensor = self.head(self.features(x))
        return found


class Labels(nn.Module):
    """Logits of an event, the classes last or first."""

    def __init__(self, event: tuple[int, ...], first: bool) -> None:
        super().__init__()
        self.shape = (W, *event) if first else (*event, W)
        self.inner = bm.networks.MLP(2, torch.Size(self.shape).numel(), hidden=(8,), activation=nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).unflatten(-1, self.shape)


def inputs(kind: str, points: int, generator: torch.Generator) -> Any:
    tokens = torch.randint(VOCABULARY, (B, points, T), generator=generator)
    more = torch.randn(B, points, 2, generator=generator, dtype=torch.float64)
    return tokens if kind == "tokens" else {"text": {"tokens": tokens}, "more": more}


def episode(draw_x: Callable[[int], Any], draw_y: Callable[[int], Tensor]) -> Episode:
    parts = (Points(draw_x(n), draw_y(n), torch.ones(B, n, dtype=torch.bool)) for n in (N, M))
    return Episode(*parts)


def of_inputs(kind: str, classes: bool) -> Episode:
    g = torch.Generator().manual_seed(0)

    def y(points: int) -> Tensor:
        if classes:
            return torch.randint(W, (B, points), generator=g)
        return torch.randn(B, points, 1, generator=g, dtype=torch.float64)

    return episode(lambda n: inputs(kind, n, g), y)


def tagged(event: tuple[int, ...]) -> Episode:
    g = torch.Generator().manual_seed(0)
    return episode(
        lambda n: torch.randn(B, n, 2, generator=g, dtype=torch.float64),
        lambda n: torch.randint(W, (B, n, *event), generator=g),
    )


class Source(torch.utils.data.Dataset[Episode]):
    def __init__(self, given: Episode) -> None:
        self.given = given

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Episode:
        return self.given
