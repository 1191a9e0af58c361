"""Boxes of one class in a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.distributions.boxes import ENTRIES, BoxGrid
from bayesmeta.likelihoods.base import Likelihood, check_event, said

__all__ = ["Boxes"]

_FLOOR = 1e-2
"""Added to every scale, in cells."""


class Boxes(Likelihood):
    """Boxes in a grid of G x K cells, see `bayesmeta.distributions.boxes`. ``*O = (G, K, 9)``, ``*Y = (G, K, 5)``.

    The outputs of a cell are the log-odds that a box's centre is in it, its left, top, right and bottom edge in cells from the
    cell's middle, and the four edges' scales before a softplus. Edges have Student's t, whose ν > 2 is learned. A network of
    pictures whose maps have channels first moves them last: ``maps.movedim(1, -1)``.

    The inner error of a cell is the cross-entropy of its centre, and where there is one half the squared error of each edge, from
    an error of one cell on linear (Huber 1964, https://doi.org/10.1214/aoms/1177703732). Scales are learned by the meta-update.

    Args:
        df: the initial ν, above 2 so that the variance exists.

    Raises:
        ValueError: `df` is not above 2; at a call, outputs are not nine a cell.

    Example:
        >>> d = Boxes()(torch.zeros(4, 8, 8, 9))
        >>> d.batch_shape, d.event_shape
        (torch.Size([4]), torch.Size([8, 8, 5]))
    """

    discrete = True  # no unit that could be scaled
    support = ENTRIES

    def __init__(self, df: float = 5.0) -> None:
        super().__init__()
        if not 2 < df < math.inf:
            raise ValueError(f"df: expected a number above 2, got {df}; at 2 or less the variance is infinite")
        self.log_excess = nn.Parameter(torch.tensor(math.log(df - 2)))

    @property
    def df(self) -> Tensor:
        """ν, a scalar."""
        return 2 + self.log_excess.exp()

    def extra_repr(self) -> str:
        return f"df={said(self.df)}"

    def forward(self, outputs: Tensor) -> Distribution:
        logits, loc, raw = _parts(outputs)
        return BoxGrid(logits, loc, _FLOOR + F.softplus(raw), self.df)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        logits, loc, _ = _parts(outputs)
        check_event(torch.Size([*logits.shape[-2:], 5]), y.shape[outputs.dim() - 3 :])
        there, away = y[..., :1], (loc - y[..., 1:]).abs()
        centre = F.softplus(logits[..., None]) - there * logits[..., None]
        return torch.cat([centre, there * torch.where(away < 1, 0.5 * away.square(), away - 0.5)], -1)


def _parts(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if outputs.dim() < 3 or outputs.shape[-1] != 9:
        raise ValueError(
            f"outputs: expected nine for each cell, (..., G, K, 9), got {tuple(outputs.shape)}; let the network end in nine "
            "channels and move them last, maps.movedim(1, -1)"
        )
    return outputs[..., 0], outputs[..., 1:5], outputs[..., 5:]
