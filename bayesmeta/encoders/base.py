"""The task-encoder backbone: what a support says about its task, as a vector; shared by learners that need one.

An encoder takes `Points` of B tasks. It is invariant to their order and to padding, and defined for an empty support: a
learned pseudo-point, the prior, stands among the points. With a second argument x it says what the task says about
each query point: for attention that depends on x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.functional import Mapped, map_tasks
from bayesmeta.networks import check_network

__all__ = ["Encoder", "Pooling", "check_encoder"]


class Encoder(Mapped, ABC):
    """`Points` of B tasks to encodings ``(B, R)``, or ``(B, M, R)`` at queries x.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes W where y holds labels.
        size: R.
        features: any network from x ``(N, *X)`` to features ``(N, inputs)``, such as ``Conv4().features``.

    Raises:
        ValueError: at a call, where x or y has another size than `inputs` or `targets` say.
    """

    classwise = False
    """Whether it encodes each class by itself, ``(B, W, R)``."""
    relative = False
    """Whether it sees differences of inputs alone, so that a network that reads the encodings is not shown x either."""

    def __init__(self, inputs: int, targets: int, size: int, features: nn.Module | None) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("targets", targets), ("size", size)):
            check_count(name, value)
        self.features = nn.Identity() if features is None else features
        check_network(self.features, "features")
        self.inputs = inputs
        self.targets = targets
        self.size = size

    def __call__(self, points: Points | Tensor, x: Any = None) -> Tensor:
        if isinstance(points, Points) and points.mask.dim() > 2:
            raise ValueError(
                f"mask: expected a mask of points (B, N), as {type(self).__name__} encodes targets as a whole, got one "
                f"of their entries, {tuple(points.mask.shape)}; leave out points that are seen in part"
            )
        encoding: Tensor = super().__call__(points, x)
        return encoding

    def forward(self, points: Points | Tensor, x: Any = None) -> Tensor:
        return self.encode(points) if x is None else self.tell(points, self.embed(x))

    def knows(self, points: Points) -> Points | Tensor:
        """What it needs of points in their place: sums over them where it has such (see `Pooling`), else the points."""
        return points

    @abstractmethod
    def encode(self, points: Any) -> Tensor:
        """The encoding of each task, ``(B, R)``."""

    def tell(self, points: Any, embedded: Tensor) -> Tensor:
        """What the points say about each query, ``(B, M, R)``, from the queries' features ``(B, M, inputs)``."""
        encoding = self.encode(points)
        return encoding[:, None].expand(-1, embedded.shape[1], *encoding.shape[1:])

    def embed(self, x: Any) -> Tensor:
        """The features of x ``(B, N, *X)``: ``(B, N, inputs)``."""
        embedded: Tensor = x
        if not isinstance(self.features, nn.Identity):
            embedded = map_tasks(self.features, x, network=self, strategy=self.strategy)
        if embedded.dim() != 3 or embedded.shape[-1] != self.inputs:
            remedy = f"build the encoder with inputs={embedded.shape[-1]}, or with other features"
            if embedded.dim() != 3:
                remedy = "give the encoder features=, a network that ends in one row a point, such as Conv4().features"
            raise ValueError(
                f"x: expected {self.inputs} features a point ({type(self).__name__}(inputs={self.inputs})), got shape "
                f"{tuple(embedded.shape)}; {remedy}"
            )
        return embedded

    def pairs(self, points: Points) -> Tensor:
        """Features and targets of each point, ``(B, N, inputs + targets)``; labels as one-hot vectors."""
        return torch.cat([self.embed(points.x), self._targets(points)], -1)

    def _targets(self, points: Points) -> Tensor:
        y = points.y
        if not y.is_floating_point():
            return self.one_hot(points)
        if y.dim() != 3 or y.shape[-1] != self.targets:
            raise ValueError(
                f"y: expected {self.targets} targets a point ({type(self).__name__}(targets={self.targets})), got shape "
                f"{tuple(y.shape)}; build the encoder with as many targets as y has"
            )
        return y

    def one_hot(self, points: Points) -> Tensor:
        """Labels as vectors ``(B, N, W)``, zero where nothing is observed."""
        y, name = points.y, type(self).__name__
        if y.is_floating_point():
            raise ValueError(
                f"y: expected labels 0 to {self.targets - 1}, got {y.dtype}; build the points with "
                f"points(x, y, classes={self.targets})"
            )
        wrong = y[(y < 0) | (y >= self.targets)]
        if len(wrong):
            raise ValueError(
                f"y: expected labels 0 to {self.targets - 1}, got {int(wrong[0])}; number each task's classes from 0, or build "
                f"{name} for as many classes as there are"
            )
        parameter = next(self.parameters())
        return F.one_hot(y, self.targets).to(parameter) * points.mask[..., None]


class Pooling(Encoder, ABC):
    """An encoder that knows of points no more than sums over them, to which those of further points can be added.

    In the place of points it takes the sums of `knows`: ``(B, R + 1)``, or ``(B, W, R + 1)`` by class, of vectors and of ones.
    """

    prior: Tensor

    @abstractmethod
    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        """The sum of the points' vectors, ``(B, R)`` or ``(B, W, R)``, and their number, ``(B, 1)`` or ``(B, W, 1)``."""

    def knows(self, points: Points) -> Tensor:
        total, count = self.add_up(points)
        return torch.cat([total, count.to(total)], -1)

    def encode(self, points: Points | Tensor) -> Tensor:
        if isinstance(points, Points):
            return self._mean(*self.add_up(points))
        return self._mean(*points.to(self.prior).split([self.size, 1], -1))

    def _mean(self, total: Tensor, count: Tensor) -> Tensor:
        """Over the points and the pseudo-point."""
        return (total + self.prior) / (count + 1)


def check_encoder(encoder: Encoder, *, classwise: bool) -> None:
    """Raises an error if something is no encoder, or one that encodes classes where that is of no use."""
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder: expected an encoder such as DeepSet(1, 1), got {type(encoder).__name__}")
    if encoder.classwise and not classwise:
        raise ValueError(
            f"encoder: expected one vector a task, got {type(encoder).__name__}, which encodes each class by itself; "
            "pass DeepSet or Attention"
        )
