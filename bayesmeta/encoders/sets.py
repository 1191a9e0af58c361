"""Sets of points, as a vector a task or a class: means, and means by class, and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.data import Points
from bayesmeta.encoders.base import Encoder, Pooling
from bayesmeta.networks import MLP

__all__ = ["ClassPooling", "DeepSet", "Relation"]


@final
class DeepSet(Pooling):
    """ρ((Σ_n φ(x_n, y_n) + prior) / (N + 1)): a mean over the points and a learned pseudo-point.

    Zaheer et al. 2017, "Deep Sets", theorem 2, https://arxiv.org/abs/1703.06114. The pseudo-point lets the mean tell few points
    from many.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes where y holds labels.
        size: R.
        hidden: widths of the hidden layers of φ; ρ has one of size R.
        features: see `Encoder`.

    Example:
        >>> DeepSet(1, 1)(points([0.0, 1.0], [0.0, 1.0])).shape
        torch.Size([1, 64])
    """

    def __init__(
        self,
        inputs: int,
        targets: int,
        size: int = 64,
        *,
        hidden: Sequence[int] = (64, 64),
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, targets, size, features)
        self.point = MLP(inputs + targets, size, hidden=hidden)
        self.prior = nn.Parameter(0.1 * torch.randn(size))
        self.task = MLP(size, size, hidden=(size,))

    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        mask = points.mask[..., None]
        return (self.point(self.pairs(points)) * mask).sum(1), mask.sum(1)

    def encode(self, points: Points | Tensor) -> Tensor:
        encoding: Tensor = self.task(super().encode(points))
        return encoding


@final
class ClassPooling(Pooling):
    """The encoding of each class ``(B, W, R)``: a mean over the features of its points and a learned pseudo-point.

    It does not depend on how classes are numbered beyond the order of its rows.

    Args:
        inputs: the number of features of x, after `features` if given.
        classes: W.
        size: R.
        hidden: widths of the hidden layers that map features to R.
        features: see `Encoder`.

    Example:
        >>> ClassPooling(2, classes=3)(points(torch.rand(4, 2), [0, 1, 2, 0], classes=3)).shape
        torch.Size([1, 3, 64])
    """

    classwise = True

    def __init__(
        self,
        inputs: int,
        classes: int,
        size: int = 64,
        *,
        hidden: Sequence[int] = (64,),
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, classes, size, features)
        self.point = MLP(inputs, size, hidden=hidden)
        self.prior = nn.Parameter(0.1 * torch.randn(size))

    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        member = self.one_hot(points)  # (B, N, W)
        return member.mT @ self.point(self.embed(points.x)), member.sum(1)[..., None]


@final
class Relation(Encoder):
    """Pairs of points, each compared by a relation network, and their mean: the encoder of LEO.

    Rusu et al. 2019, eq. 2, https://arxiv.org/abs/1807.05960. With ``classes=True`` the encoding is ``(B, W, R)``: for each class
    the mean over pairs of a point of the class and any point. Else it is ``(B, R)``: the mean over all pairs of points, with
    their targets. The prior enters as one more pair.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes W where y holds labels.
        size: R.
        classes: whether to encode each class by itself.
        features: see `Encoder`.

    Example:
        >>> Relation(2, 3, classes=True)(points(torch.rand(4, 2), [0, 1, 2, 0], classes=3)).shape
        torch.Size([1, 3, 64])
    """

    def __init__(
        self, inputs: int, targets: int, size: int = 64, *, classes: bool = False, features: nn.Module | None = None
    ) -> None:
        super().__init__(inputs, targets, size, features)
        self.classwise = classes
        self.point = nn.Linear(inputs if classes else inputs + targets, size)
        self.relation = MLP(2 * size, size, hidden=(2 * size, 2 * size))
        self.prior = nn.Parameter(0.1 * torch.randn(size))

    def encode(self, points: Points) -> Tensor:
        code = self.point(self.embed(points.x) if self.classwise else self.pairs(points))  # (B, N, R)
        count = code.shape[1]
        first, second = code[:, :, None].expand(-1, -1, count, -1), code[:, None].expand(-1, count, -1, -1)
        there = points.mask[:, None, :, None]
        related = (self.relation(torch.cat([first, second], -1)) * there).sum(2) / there.sum(2).clamp(
            min=1
        )  # (B, N, R)
        member = self.one_hot(points) if self.classwise else points.mask[..., None].to(code)  # (B, N, W or 1)
        encoding = (member.mT @ related + self.prior) / (member.sum(1)[..., None] + 1)
        return encoding if self.classwise else encoding[:, 0]
