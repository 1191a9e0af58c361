"""The choice of normalisation, as a rule from a map's moments to an affine function of each channel."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm", "GroupNorm", "Norm", "precise"]


class Norm(nn.Module, ABC):
    """Normalisation as a rule: from the moments of a map to the affine function of each channel that normalises it."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    @abstractmethod
    def average(self, moment: Tensor) -> Tensor:
        """The moment of every image and channel, (N, W), over the images and channels that share a statistic: (N or 1, W)."""

    def forward(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (N or 1, W), from the mean and mean square of every image and channel, (N, W)."""
        mean, square = self.average(mean), self.average(square)
        variance = (square - mean * mean).clamp_min(0)  # rounding can leave it just below zero
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale


class BatchNorm(Norm):
    """`nn.BatchNorm2d(width, track_running_stats=False)`. It is transductive: a prediction depends on its whole batch."""

    def average(self, moment: Tensor) -> Tensor:
        return moment.mean(0, keepdim=True)


class GroupNorm(Norm):
    """`nn.GroupNorm(width // 8, width)`: groups of eight neighbouring channels, one image at a time."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        if width % 8:
            raise ValueError(
                f"width: expected a multiple of 8 under GroupNorm, got {width}; e.g. {8 * (width // 8 + 1)}"
            )
        super().__init__(width, eps)

    def average(self, moment: Tensor) -> Tensor:
        groups = moment.unflatten(1, (-1, 8)).mean(2, keepdim=True)
        return groups.expand(-1, -1, 8).flatten(1)


def precise(values: Tensor) -> Tensor:
    """Of float32 at least, as means and squares need."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
