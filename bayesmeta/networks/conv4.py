"""Conv4, the network of few-shot images: a body of features and a linear head.

Shape letters: N images, C channels, W width (channels of a block), H rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.networks.norms import GroupNorm, Norm, precise
from bayesmeta.recorded import Recorded

__all__ = ["Conv4"]


PIECE = 2**19
"""Numbers of a map that are worked on at a time on a CPU: two megabytes, which its cache holds."""


class Block(Recorded):
    """Convolution, normalisation, ReLU and 2x2 max-pool: (N, C, H, H) to (N, W, H // 2, H // 2).

    The pool comes first, since relu(a·y + b) commutes with it where a >= 0, and the rest then works on a quarter of the map.
    Channels with a < 0 are convolved with the opposite sign: a·y is (-a)·(-y).
    """

    def __init__(self, channels: int, width: int, norm: Callable[[int], Norm]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)  # only its weight is used
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.ones_like(self.norm.weight).copysign(self.norm.weight.detach())
        y = F.conv2d(x, self.conv.weight * sign[:, None, None, None], padding=1)
        z, size = precise(y), y.shape[2] * y.shape[3]
        # sums and products, as var_mean takes ten times as long, mean and square twice
        scale, shift = self.norm(z.sum((2, 3)) / size * sign, (z * z).sum((2, 3)) / size)
        scale, shift = (scale * sign).to(y.dtype), shift.to(y.dtype)
        return (F.max_pool2d(y, 2) * scale[..., None, None] + shift[..., None, None]).relu()


class FirstBlock(Block):
    """The same for few channels C, where it is faster to multiply the patches of 3x3 pixels by the weights, as matrices.

    The output at a patch p is w·p, so its mean is w·E[p] and its mean square is w·E[ppᵀ]·w: they are known beforehand, and
    the scale goes into the weights. The largest map of all is then made and pooled piece by piece, each within the cache.
    """

    def forward(self, x: Tensor) -> Tensor:
        windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, H, H, 3, 3)
        patches = windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3).flatten(2)  # (N, 9C, H*H), faster than F.unfold
        w = self.conv.weight.flatten(1).T  # (9C, W)
        with torch.autocast(x.device.type, enabled=False):  # the variance is a difference of large numbers
            z, v = precise(patches), precise(w)
            second = z @ z.mT / z.shape[2]  # (N, 9C, 9C)
            scale, shift = (part.to(x.dtype) for part in self.norm(z.mean(2) @ v, (second @ v * v).sum(1)))
        w = (w * scale[:, None]).expand(len(x), -1, -1)  # (N, 9C, W)
        shift = shift[..., None, None].expand(len(x), -1, -1, -1)  # (N, W, 1, 1)

        def pooled(patches: Tensor, w: Tensor, shift: Tensor) -> Tensor:
            y = (patches.mT @ w).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # channels last in memory, as later
            return (F.max_pool2d(y, 2) + shift).relu()

        images = max(1, PIECE // (w.shape[2] * patches.shape[2])) if x.device.type == "cpu" else len(x)
        pieces = zip(patches.split(images), w.split(images), shift.split(images), strict=True)
        return torch.cat([pooled(*piece) for piece in pieces])


class Conv4(Recorded):
    """The four-block network of the few-shot literature: `features`, then a linear `head`.

    Images ``(N, channels, image_size, image_size)`` to ``(N, outputs)``. Each block is a 3x3 convolution, a normalisation,
    a ReLU and a 2x2 max-pool (Vinyals et al. 2016, https://arxiv.org/abs/1606.04080).

    Args:
        channels: of the images.
        outputs: number of outputs, W for classes.
        width: channels of each block; a multiple of 8 under `GroupNorm`.
        image_size: rows and columns of the images, at least 16.
        norm: `GroupNorm`, which treats each image by itself, or `BatchNorm`, which reproduces papers and is
            transductive: its predictions depend on which other images are asked about in the same call.

    Raises:
        ValueError: images of other channels or size at a call, or an image_size below 16.

    Example:
        >>> Conv4(width=8)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        channels: int = 1,
        outputs: int = 5,
        *,
        width: int = 64,
        image_size: int = 28,
        norm: Callable[[int], Norm] = GroupNorm,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(
                f"image_size: expected at least 16 (four blocks halve it), got {image_size}; enlarge the images"
            )
        self.image = (channels, image_size, image_size)
        self.features = nn.Sequential(
            FirstBlock(channels, width, norm),
            *(Block(width, width, norm) for _ in range(3)),
            nn.Flatten(),
        )
        self.head = nn.Linear(width * (image_size // 16) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-3:] != self.image:
            raise ValueError(
                f"x: expected images of shape {self.image} (channels, rows, columns), got {tuple(x.shape[-3:])}; "
                "build Conv4 with their channels and image_size, or reshape them"
            )
        output: Tensor = self.head(self.features(x))
        return output
