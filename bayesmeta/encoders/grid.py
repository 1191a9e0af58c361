"""Convolutions over a grid on which a task's points are laid: for tasks along one axis, such as time or place."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Points
from bayesmeta.encoders.base import Encoder

__all__ = ["GridConvolution"]

_MOST = 100_000
"""Cells of a grid, beyond which a support is said to be too long."""


@final
class GridConvolution(Encoder):
    """Points laid on a grid, a U-Net of convolutions along it, and what it says at each query, between cells.

    Gordon et al. 2020, "Convolutional Conditional Neural Processes", https://arxiv.org/abs/1910.13556, section 4, with a U-Net.
    Its channels are the density of the points and their targets, by cubic B-splines, which also answer between cells. Shifted
    tasks have the same answers, shifted, and a decoder is not shown x.

    The grid hangs on the leftmost point of the support and goes beyond the support, on both sides, as far as a point can be felt
    (`reach`); farther out all answers are those of an empty one. So queries lay no grid, and no query moves another's answer.

    Args:
        inputs: the number of features of x, after `features` if given: 1.
        targets: the number of targets, or of classes where y holds labels.
        size: R, the channels of the U-Net.
        resolution: cells for a unit of x: at least four for the shortest distance over which functions change.
        levels: of the U-Net, each of half the former's resolution. Of 4 a point is felt over 40 cells, of 6 over 160.
        features: see `Encoder`.

    Raises:
        ValueError: x has more than one feature; at a call, a support is more than 100,000 cells long.

    Example:
        >>> encoder, support = GridConvolution(1, 1), points([0.0, 1.0], [0.0, 1.0])
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
        resolution: float = 16.0,
        levels: int = 4,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, targets, size, features)
        check_positive("resolution", resolution)
        check_count("levels", levels)
        if inputs != 1:
            raise ValueError(
                f"inputs: expected 1, as the grid has one axis, got {inputs}; take RelativeAttention, or give features=, a "
                "network to the one feature along which points lie"
            )
        self.resolution = resolution
        self.down = nn.ModuleList(
            nn.Conv1d(a, size, 5, stride=1 if n == 0 else 2)
            for n, a in enumerate([1 + targets] + [size] * (levels - 1))
        )
        self.up = nn.ModuleList(nn.Conv1d(2 * size, size, 5) for _ in range(levels - 1))
        coarsest = 2 ** (levels - 1)
        # A point is felt over two cells by the first layer, over 2 + 2 + 1 of each level by those down and up and the repetition
        # of cells, and over 8 by splines, its own, a query's and that of the last cell's.
        felt = 2 + 5 * (coarsest - 1) + 8
        self.cells = coarsest * -(-felt // coarsest)

    @property
    def reach(self) -> float:
        """How far from the support, in units of x, a query is from which on answers are those of an empty support."""
        return self.cells / self.resolution

    def encode(self, points: Points) -> Tensor:
        """A mean of what is said at each point, and at none."""
        maps, place = self._maps(points)
        told = _weights(place, maps.shape[1]) @ maps * points.mask[..., None]
        return (told.sum(1) + maps[:, 0]) / (1 + points.mask.sum(1, keepdim=True))

    def tell(self, points: Points, embedded: Tensor) -> Tensor:
        maps, _ = self._maps(points)
        place = self._place(embedded, points)
        return _weights(place.clamp(2.0, maps.shape[1] - 3.0), maps.shape[1]) @ maps

    def _place(self, embedded: Tensor, points: Points) -> Tensor:
        """Where on the grid inputs ``(B, M, 1)`` are, in cells, ``(B, M)``."""
        x = self.embed(points.x)
        first = torch.where(points.mask[..., None], x, torch.inf).amin(1, keepdim=True)
        first = torch.where(points.mask.any(1)[:, None, None], first, 0.0)
        return (embedded - first)[..., 0] * self.resolution + self.cells

    def _maps(self, points: Points) -> tuple[Tensor, Tensor]:
        """What the U-Net says in each cell, ``(B, G, R)``, and where the support is, ``(B, N)``."""
        place = torch.where(points.mask, self._place(self.embed(points.x), points), self.cells)
        length = float(place.detach().max()) - self.cells
        if not length < _MOST:
            raise ValueError(
                f"x: expected a support of at most {_MOST / self.resolution:g} units, {_MOST:,} cells, got one of "
                f"{length / self.resolution:g}; standardise x, or build GridConvolution with a lower resolution"
            )
        coarsest = 2 ** len(self.up)
        count = coarsest * (int(length) // coarsest + 1) + 2 * self.cells
        weights = _weights(place, count) * points.mask[..., None]
        density = weights.sum(1)[..., None]
        data = weights.mT @ self._targets(points)
        maps = torch.cat([density.log1p(), data / (density + 0.01)], -1).mT
        kept: list[Tensor] = []
        for layer in self.down:
            maps = F.relu(layer(_edged(maps)))
            kept.append(maps)
        for layer, beside in zip(self.up, reversed(kept[:-1]), strict=True):
            maps = F.relu(layer(_edged(torch.cat([maps.repeat_interleave(2, -1), beside], 1))))
        return maps.mT, place


def _edged(maps: Tensor) -> Tensor:
    """Two more cells on each side, like the last: far from all points maps are constant, however far the grid goes."""
    return F.pad(maps, (2, 2), mode="replicate")


def _weights(place: Tensor, count: int) -> Tensor:
    """Cubic B-splines at places ``(B, M)``, in cells: what each of the cells weighs, ``(B, M, G)``; together 1."""
    away = (place[..., None] - torch.arange(count, dtype=place.dtype, device=place.device)).abs()
    return ((2 - away).clamp(min=0) ** 3 - 4 * (1 - away).clamp(min=0) ** 3) / 6
