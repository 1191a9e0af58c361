"""U-Net, a network from pictures to maps: features of each pixel and a head.

Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
https://arxiv.org/abs/1505.04597, figure 1, with padding, so that maps are of the pictures' size, and group normalisation.

Shape letters: N pictures, C channels, H rows, V columns, F features of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.networks.norms import GroupNorm, Norm, precise
from bayesmeta.recorded import Recorded

__all__ = ["UNet"]


class UNetConvolution(Recorded):
    """A 3x3 convolution, a normalisation and an activation: (N, C, H, V) to (N, width, H, V)."""

    def __init__(
        self, channels: int, width: int, norm: Callable[[int], Norm], activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = norm(width)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = precise(y)
        scale, shift = (
            part.to(y.dtype)[..., None, None] for part in self.norm(z.mean((2, 3)), z.square().mean((2, 3)))
        )
        normed: Tensor = self.activation(y * scale + shift)
        return normed


class UNetFeatures(Recorded):
    """The maps of `UNet` before its head: down by halves, and up again, each step beside what was there on the way down."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        norm: Callable[[int], Norm],
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.channels = channels

        def block(inside: int, width: int) -> nn.Sequential:
            return nn.Sequential(
                UNetConvolution(inside, width, norm, activation), UNetConvolution(width, width, norm, activation)
            )

        self.down = nn.ModuleList(map(block, [channels, *widths[:-1]], widths))
        self.up = nn.ModuleList(block(a + b, a) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x: expected pictures (N, {self.channels}, H, V), got {tuple(x.shape)}; build UNet with their channels"
            )
        height, width = x.shape[2:]
        multiple = 2 ** (len(self.down) - 1)
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        kept: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for place in reversed(range(len(self.up))):
            x = self.up[place](torch.cat([kept[place], F.interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return x[..., :height, :width]


class UNet(Recorded):
    """A small U-Net, from pictures ``(N, C, H, V)`` to maps ``(N, outputs, H, V)``: `features` of pixels and a linear `head`.

    With `Categorical(event_dims=2, classes_first=True)` it is a network for learners that adapt weights: `MAML`, `ANIL`
    (its `features` and its `head`), `PLATIPUS`. Its features, ``(N, widths[0], H, V)``, are ones for `Dense`, around any learner.

    Args:
        channels: C, of the pictures.
        outputs: of each pixel: W for classes.
        widths: channels of the maps at the pictures' size, at half of it, at a quarter, and so on; under `GroupNorm` multiples
            of 8. (16, 32, 64) has 119,000 weights.
        norm: `GroupNorm`, which treats each picture by itself, or `BatchNorm`, which is transductive.
        activation: tanh and its like where something is to be integrated over the features (`Dense` with `LaplaceHead`).

    Raises:
        ValueError: there is no width, or a number is below 1; at a call, the pictures have other channels.

    Example:
        >>> network = UNet(3, 2, widths=(8, 16))
        >>> x = torch.zeros(4, 3, 30, 41)
        >>> network(x).shape, network.features(x).shape
        (torch.Size([4, 2, 30, 41]), torch.Size([4, 8, 30, 41]))
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 2,
        *,
        widths: Sequence[int] = (16, 32, 64),
        norm: Callable[[int], Norm] = GroupNorm,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if not widths or min(channels, outputs, *widths) < 1:
            raise ValueError(
                f"channels, outputs and widths: expected at least 1 of each, one width, got {channels}, {outputs}, {widths};"
                " e.g. UNet(3, 2, widths=(16, 32, 64))"
            )
        self.features = UNetFeatures(channels, widths, norm, activation)
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.features(x))
        return maps
