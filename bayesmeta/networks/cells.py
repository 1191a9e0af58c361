"""A network from pictures to a grid of cells: features of each cell and a linear head.

Convolutions with strides take the place of pooling (Springenberg, Dosovitskiy, Brox & Riedmiller 2015, "Striving for Simplicity:
The All Convolutional Net", https://arxiv.org/abs/1412.6806), so that a cell's features keep where in it something lies.

Shape letters: N pictures, C channels, H rows, V columns, G and K rows and columns of cells, F features of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from bayesmeta.networks.norms import GroupNorm, Norm, precise
from bayesmeta.recorded import Recorded

__all__ = ["Cells"]


class CellConvolution(Recorded):
    """A convolution, a normalisation and a ReLU: 5x5 with a stride of 2, 3x3 without."""

    def __init__(self, channels: int, width: int, stride: int, norm: Callable[[int], Norm]) -> None:
        super().__init__()
        side = 2 * stride + 1
        self.conv = nn.Conv2d(channels, width, side, stride=stride, padding=stride, bias=False)
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = precise(y)
        scale, shift = (
            part.to(y.dtype)[..., None, None] for part in self.norm(z.mean((2, 3)), z.square().mean((2, 3)))
        )
        return (y * scale + shift).relu()


class CellFeatures(Recorded):
    """The maps of `Cells` before its head, channels last: ``(N, C, H, V)`` to ``(N, G, K, F)``."""

    def __init__(self, channels: int, widths: Sequence[int], norm: Callable[[int], Norm]) -> None:
        super().__init__()
        self.channels = channels
        down = [CellConvolution(a, b, 2, norm) for a, b in pairwise([channels, *widths])]
        self.layers = nn.Sequential(*down, *(CellConvolution(widths[-1], widths[-1], 1, norm) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x: expected pictures (N, {self.channels}, H, V), got {tuple(x.shape)}; build Cells with their channels"
            )
        maps: Tensor = self.layers(x)
        return maps.movedim(1, -1)


class Cells(Recorded):
    """Pictures ``(N, C, H, V)`` to ``(N, G, K, outputs)``: `features` of each cell, and a linear `head`.

    Each of the `widths` halves rows and columns: three of them make cells of 8 x 8 pixels. Two more convolutions let a cell see
    what is around it. With `Boxes` it is a network for learners that adapt weights: `ANIL` (its `features` and its `head`),
    `MAML`, `PLATIPUS`.

    Args:
        channels: C, of the pictures.
        outputs: of each cell: 9 for `Boxes`.
        widths: channels of the maps at a half of the pictures' size, at a quarter, and so on; under `GroupNorm` multiples of 8.
            (16, 32, 64) has 139,000 weights.
        norm: `GroupNorm`, which treats each picture by itself, or `BatchNorm`, which is transductive.

    Raises:
        ValueError: there is no width, or a number is below 1; at a call, the pictures have other channels.

    Example:
        >>> network = Cells(3, 9, widths=(8, 16))
        >>> x = torch.zeros(4, 3, 32, 48)
        >>> network(x).shape, network.features(x).shape
        (torch.Size([4, 8, 12, 9]), torch.Size([4, 8, 12, 16]))
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 9,
        *,
        widths: Sequence[int] = (16, 32, 64),
        norm: Callable[[int], Norm] = GroupNorm,
    ) -> None:
        super().__init__()
        if not widths or min(channels, outputs, *widths) < 1:
            raise ValueError(
                f"channels, outputs and widths: expected at least 1 of each, one width, got {channels}, {outputs}, {widths};"
                " e.g. Cells(3, 9, widths=(16, 32, 64))"
            )
        self.features = CellFeatures(channels, widths, norm)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(x))
        return outputs
