"""Updates for every learner, at the price of memory: the points are kept, and the learner adapts to them again."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points, concatenate, seen
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed

__all__ = ["Rehearsal"]


@final
class Rehearsal(Learner):
    """A learner whose posteriors keep their points, so that an update adapts to old and new ones together.

    Without a capacity an update is exact: as if all points had been known at once. With one, each task keeps so many of its
    points, every one that it was ever told with the same probability (reservoir sampling: Vitter 1985, "Random sampling with a
    reservoir", https://doi.org/10.1145/3147.3165), so that memory and time stay bounded in a stream without end. Training passes
    through.

    Args:
        learner: any learner, trained or to be trained.
        capacity: the number of points that a task keeps; None for all.
        seed: of the choice, in which each point's place in the stream decides: whether points come one by one or together makes
            no difference.

    Raises:
        ValueError: the capacity is not at least 1.

    Example:
        >>> posterior = Rehearsal(ABML(MLP(1, 1), Gaussian()), capacity=100)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5])).support.mask.sum()
        tensor(3)
    """

    def __init__(self, learner: Learner, capacity: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as ABML(...), got {type(learner).__name__}")
        if capacity is not None:
            check_count("capacity", capacity)
        check_count("seed", seed, least=0)
        self.learner = learner
        self.capacity = capacity
        self.seed = seed

    def forward(self, support: Points) -> Posterior:
        adapt = Frozen(_Called(self.learner), self.strategy)
        return _Rehearsed(adapt, self.capacity, self.seed, support)

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(episode)


class _Called(nn.Module):
    """A learner as a module of its own, which `Frozen` runs as it was."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, support: Points) -> Posterior:
        return self.learner(support)


class _Rehearsed(Transformed):
    """What a learner makes of the kept points: those whose random keys are the smallest, in the order in which they came."""

    _of_tasks = ("inner", "keys", "count")

    def __init__(self, adapt: Callable[[Points], Posterior], capacity: int | None, seed: int, support: Points) -> None:
        kept, keys = _kept(support, _keys(seed, 0, support.mask), capacity)
        super().__init__(adapt(kept), kept, lambda x: x)
        self.adapt, self.capacity, self.seed = adapt, capacity, seed
        self.keys = keys
        """Of the kept points, ``(B, N)``."""
        self.count = support.mask.shape[1]
        """How many places the stream has had."""

    def _updated(self, points: Points) -> Posterior:
        later = copy(self)
        keys = torch.cat([self.keys, _keys(self.seed, self.count, points.mask)], 1)
        later.support, later.keys = _kept(concatenate(self.support, points), keys, self.capacity)
        later.count = self.count + points.mask.shape[1]
        later.inner = self.adapt(later.support)
        return later


def _kept(points: Points, keys: Tensor, capacity: int | None) -> tuple[Points, Tensor]:
    """The points that each task keeps, and their keys."""
    if capacity is None or points.mask.shape[1] <= capacity:
        return points, keys
    ranked = keys.masked_fill(~seen(points), torch.inf)  # what is not observed goes first
    chosen = ranked.topk(capacity, 1, largest=False).indices.sort(1).values
    tasks = torch.arange(len(chosen), device=chosen.device)[:, None]
    return Points(*tree_map(lambda leaf: leaf[tasks, chosen], tuple(points))), keys.gather(1, chosen)


def _keys(seed: int, first: int, mask: Tensor) -> Tensor:
    """A uniform number for each of the places in the stream from the first on, ``(B, N)`` as the mask of the points there."""
    drawn = np.random.Generator(np.random.PCG64(seed).advance(first)).random(mask.shape[1])
    return torch.from_numpy(drawn).to(mask.device).expand(mask.shape[:2])
