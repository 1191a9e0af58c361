"""The simplest answers: the known value nearest in time, and the mean of the known values."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.baselines.base import Kept, Spread, asked, check_plain, parts_of
from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior

__all__ = ["LastValue", "Mean", "average", "nearest"]


@final
class LastValue(Learner):
    """The known value that is nearest in one input, such as time: of forecasts the last one. Frozen: there is nothing to train.

    ``LastValue.from_tasks(tasks)`` fits the spread of its errors, Student's t whose scale depends on the number of known points.

    Args:
        spread: of the errors.
        feature: which input, by its place in x.

    Raises:
        ValueError: at a call, x has no plain features, or y is not one real number.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> learner = baselines.LastValue.from_tasks(tasks)
        >>> learner(points([0.0, 1.0], [3.0, 5.0]))([1.5]).mean
        tensor([[[5.]]])
    """

    def __init__(self, spread: Spread, *, feature: int = 0) -> None:
        super().__init__()
        check_count("feature", feature, least=0)
        self.spread, self.feature = spread, feature

    @classmethod
    def from_tasks(cls, tasks: Dataset[Episode], *, feature: int = 0, episodes: int = 20) -> LastValue:
        """Fits the spread to training tasks.

        Args:
            tasks: with the shots that will be asked, never those of a test.
            feature: which input, by its place in x.
            episodes: how many of their episodes to read; all, where there are fewer.

        Raises:
            ValueError: there are fewer than two tasks, or they are not of plain features and one real target.
        """
        check_count("feature", feature, least=0)
        rows = asked(parts_of(tasks, episodes, feature), lambda known, x: nearest(known, x, feature)[..., None])
        return cls(Spread.fitted(rows.y - rows.found[:, 0], rows.known, rows.y), feature=feature)

    def forward(self, support: Points) -> Posterior:
        check_plain(support, "support", self.feature)
        spread, feature = self.spread, self.feature
        return Kept(lambda known, x: spread.around(nearest(known, x, feature), known.mask.sum(1)), support, support)


@final
class Mean(Learner):
    """The mean of the known values. Frozen: there is nothing to train.

    ``Mean.from_tasks(tasks)`` fits the spread of its errors, Student's t whose scale depends on the number of known points.

    Args:
        spread: of the errors.

    Raises:
        ValueError: at a call, x has no plain features, or y is not one real number.

    Example:
        >>> learner = baselines.Mean.from_tasks(Sinusoids(noise=0.1))
        >>> learner(points([0.0, 1.0], [3.0, 5.0]))([1.5]).mean
        tensor([[[4.]]])
    """

    def __init__(self, spread: Spread) -> None:
        super().__init__()
        self.spread = spread

    @classmethod
    def from_tasks(cls, tasks: Dataset[Episode], *, episodes: int = 20) -> Mean:
        """Fits the spread to training tasks; arguments and errors as of `LastValue.from_tasks`."""
        rows = asked(parts_of(tasks, episodes), lambda known, x: average(known, x)[..., None])
        return cls(Spread.fitted(rows.y - rows.found[:, 0], rows.known, rows.y))

    def forward(self, support: Points) -> Posterior:
        check_plain(support, "support")
        spread = self.spread
        return Kept(lambda known, x: spread.around(average(known, x), known.mask.sum(1)), support, support)


def nearest(known: Points, x: Tensor, feature: int) -> Tensor:
    """The known value nearest in a feature ``(B, M)``, of several at one distance their mean; 0 where none is known."""
    distance = (x[:, :, None, feature] - known.x[:, None, :, feature]).abs()  # (B, M, N)
    distance = distance.masked_fill(~known.mask[:, None], torch.inf)
    closest = (distance == distance.amin(-1, keepdim=True)) & known.mask[:, None]
    return (closest * known.y[:, None, :, 0]).sum(-1) / closest.sum(-1).clamp(min=1)


def average(known: Points, x: Tensor) -> Tensor:
    """The mean of the known values ``(B, M)``; 0 where none is known."""
    mean = (known.y[..., 0] * known.mask).sum(1) / known.mask.sum(1).clamp(min=1)
    return mean[:, None].expand(x.shape[:2])
