"""A network from pictures to a grid of cells: features of each cell and a linear head.

Shape letters: N pictures, C channels, H rows, V columns, G and K rows and columns of cells, F features of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bayesmeta.networks.norms import GroupNorm, Norm, precise
from bayesmeta.recorded import Recorded

__all__ = ["Cells"]


class Convolution(Recorded):
    """A 3x3 convolution, a normalisation and a ReLU, with a stride."""

    def __init__(self, channels: int, width: int, stride: int, norm: Callable[[int], Norm]) -> None:
        super().__init__()
        side = 2 * stride + 1
        self.conv = nn.Conv2d(channels, width, side, stride=stride, padding=side // 2, bias=False)
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = precise(y)
        scale, shift = (part.to(y.dtype)[..., None, None] for part in self.norm(z.mean((2, 3)), z.square().mean((2, 3))))
        return (y * scale + shift).relu()


class Features(Recorded):
    def __init__(self, channels: int, widths: Sequence[int], norm: Callable[[int], Norm]) -> None:
        super().__init__()
        layers = [Convolution(a, b, 2, norm) for a, b in pairwise([channels, *widths])]
        self.layers = nn.Sequential(*layers, *(Convolution(widths[-1], widths[-1], 1, norm) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).movedim(1, -1)


class Cells(Recorded):
    def __init__(
        self, channels: int = 3, outputs: int = 9, *, widths: Sequence[int] = (16, 32, 64), norm: Callable[[int], Norm] = GroupNorm
    ) -> None:
        super().__init__()
        self.features = Features(channels, widths, norm)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
