"""What a task source is: a map-style dataset whose episode i depends on (seed, i) alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.data import Episode, Points
from bayesmeta.learner import Posterior

__all__ = ["EpisodeOptions", "SyntheticTasks", "TaskSource", "shots_per_task"]


class TaskSource(Dataset[Episode], ABC):
    """``tasks[i]`` is an `Episode` that depends on the source's arguments, its seed and i alone.

    So resuming is to start at another index, sharding is to stride it, two learners that read the same indices see the
    same tasks, and ``torch.utils.data.DataLoader(tasks, batch_size=None, num_workers=4)`` gives the same episodes in
    the same order. A new source implements `draw`.

    Args:
        seed: sources with different seeds give independent streams of episodes.
        length: the number of episodes, where iteration ends.
    """

    def __init__(self, *, seed: int, length: int) -> None:
        if length < 1:
            raise ValueError(f"length: expected at least 1 episode, got {length}; it only bounds the index")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected a whole number, at least 0, got {seed!r}")
        self.seed = int(seed)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}; raise the source's length")
        return self.draw(self._generator(index))

    def _generator(self, index: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, index]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)

    def members(self, index: int) -> Tensor | None:
        """Which of the source's tasks episode `index` holds, ``(B,)``; None where every episode's tasks are new.

        By it `evaluate` counts a task once in its intervals, however often its points were divided.
        """
        return None

    def clusters(self, index: int) -> Tensor | None:
        """What `evaluate` draws anew for its intervals: the unit of each task ``(B,)``, or the W units it is made of, ``(B, W)``.

        The task itself (`members`), if not overridden by a source that knows what its tasks have in common.
        """
        return self.members(index)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(self.length))

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Episode:
        """One episode, with all of its randomness from the generator."""


def shots_per_task(shots: int | tuple[int, int], tasks: int, generator: torch.Generator) -> Tensor:
    """``(B,)`` support sizes: the same for all, or uniform between two bounds, both included."""
    bounds: list[Any] = list(shots) if isinstance(shots, (tuple, list)) else [shots, shots]
    whole = len(bounds) == 2 and all(isinstance(b, (int, np.integer)) and not isinstance(b, bool) for b in bounds)
    low, high = map(int, bounds) if whole else (-1, -1)
    if not 0 <= low <= high:
        raise ValueError(
            f"shots: expected a count >= 0 or a range (low, high) with low <= high, got {shots}; e.g. (1, 10)"
        )
    return torch.randint(low, high + 1, (tasks,), generator=generator)


class EpisodeOptions(TypedDict, total=False):
    """The keyword arguments that all synthetic sources share; `SyntheticTasks` explains them."""

    batch: int
    shots: int | tuple[int, int]
    queries: int
    support_range: tuple[float, float]
    query_range: tuple[float, float] | None
    seed: int
    length: int


class SyntheticTasks(TaskSource):
    """Tasks drawn from a known prior, so that the best possible answer is known too: see `oracle`.

    A new source implements `targets` and `oracle`.

    Args:
        inputs: D, the number of input features.
        noise: σ, the standard deviation of the targets' Gaussian noise, in support and query.
        batch: B, tasks in an episode.
        shots: support points a task, or a range (low, high) from which each task's number is drawn.
        queries: M, query points a task.
        support_range: inputs of the support are uniform in this interval, in each dimension.
        query_range: the same for queries; None for that of the support.
        seed: see `TaskSource`.
        length: see `TaskSource`.
    """

    def __init__(
        self,
        *,
        inputs: int,
        noise: float,
        batch: int = 25,
        shots: int | tuple[int, int] = 5,
        queries: int = 15,
        support_range: tuple[float, float] = (-1.0, 1.0),
        query_range: tuple[float, float] | None = None,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        for name, value in (("batch", batch), ("queries", queries), ("inputs", inputs)):
            if value < 1:
                raise ValueError(
                    f"{name}: expected at least 1, got {value}; an episode needs tasks, queries and inputs"
                )
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise: expected a standard deviation >= 0, got {noise}")
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        self.batch = batch
        self.shots = shots
        self.queries = queries
        self.support_range = support_range
        self.query_range = query_range or support_range
        self.inputs = inputs
        self.noise = noise

    @abstractmethod
    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise-free targets ``(B, N + M, 1)`` of B new tasks at x ``(B, N + M, D)``."""

    @abstractmethod
    def oracle(self, support: Points) -> Posterior:
        """The exact Bayes posterior under the source's own prior: no learner's mean NLL can be lower."""

    def draw(self, generator: torch.Generator) -> Episode:
        counts = shots_per_task(self.shots, self.batch, generator)
        size = max(1, int(counts.max()))
        mask = torch.arange(size) < counts[:, None]
        x = torch.cat(
            [
                self._uniform(self.support_range, size, generator),
                self._uniform(self.query_range, self.queries, generator),
            ],
            1,
        )
        y = self.targets(x, generator)
        y = y + self.noise * torch.randn(y.shape, generator=generator)
        observed = mask[..., None]
        support = Points(x[:, :size] * observed, y[:, :size] * observed, mask)
        query = Points(x[:, size:], y[:, size:], torch.ones(self.batch, self.queries, dtype=torch.bool))
        return Episode(support, query)

    def _uniform(self, interval: tuple[float, float], points: int, generator: torch.Generator) -> Tensor:
        low, high = interval
        return low + (high - low) * torch.rand(self.batch, points, self.inputs, generator=generator)
