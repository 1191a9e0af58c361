"""Updates for every learner, at the price of memory: the points are kept, and the learner adapts to them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points, check_count, concatenate, seen
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner, Posterior
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
        kept = _Kept(self.capacity, self.seed, support)
        return _Rehearsed(self.learner(kept.points), Frozen(_Called(self.learner), self.strategy), kept)

    def losses(self, episode: Episode) -> Tensor:
        return self.learner.losses(episode)

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
    """What a learner makes of the kept points."""

    def __init__(self, inner: Posterior, adapt: Callable[[Points], Posterior], kept: _Kept) -> None:
        super().__init__(inner, kept.points, lambda x: x)
        self.adapt = adapt
        self.kept = kept

    def _updated(self, points: Points) -> Posterior:
        kept = self.kept.with_further(points)
        return _Rehearsed(self.adapt(kept.points), self.adapt, kept)


class _Kept:
    """A sample of each task's points: those whose random keys are the smallest, in the order in which they came."""

    def __init__(
        self, capacity: int | None, seed: int, points: Points, keys: Tensor | None = None, count: int = 0
    ) -> None:
        self.capacity, self.seed = capacity, seed
        self.count = count + points.mask.shape[1] - (0 if keys is None else keys.shape[1])
        new = _keys(seed, count, self.count - count).to(points.mask.device).expand(len(points.mask), -1)
        self.keys = new if keys is None else torch.cat([keys, new], 1)
        self.points = points
        if capacity is not None and points.mask.shape[1] > capacity:
            ranked = self.keys.masked_fill(~seen(points), torch.inf)  # what is not observed goes first
            chosen = ranked.topk(capacity, 1, largest=False).indices.sort(1).values
            self.keys = self.keys.gather(1, chosen)
            tasks = torch.arange(len(chosen), device=chosen.device)[:, None]
            self.points = Points(*tree_map(lambda leaf: leaf[tasks, chosen], tuple(points)))

    def with_further(self, points: Points) -> _Kept:
        return _Kept(self.capacity, self.seed, concatenate(self.points, points), self.keys, self.count)


def _keys(seed: int, first: int, count: int) -> Tensor:
    """A uniform number for each of so many places in the stream, from the first on, ``(count,)``."""
    drawn = np.random.Generator(np.random.PCG64(seed).advance(first)).random(count)
    return torch.from_numpy(drawn)
