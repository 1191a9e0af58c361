"""Streams of tasks that change without notice."""

from __future__ import annotations

from copy import copy
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_probability
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Runs
from bayesmeta.tasks.source import SyntheticTasks, uniform
from bayesmeta.tasks.streams import StreamSource

__all__ = ["Switching"]


@final
class Switching(StreamSource):
    """The tasks of another source, one after the other: before each part the task is a new one with probability `hazard`.

    Nothing says when. Each of the B streams of an episode changes at times of its own. A part's queries ask about the task that
    holds then, so that the question of a stream is how well the next part is foretold, before it is told: `Retention.ahead` of
    `evaluate_stream`. What is asked about parts of old tasks no learner can tell from questions about the present one.

    Args:
        tasks: where tasks come from: its batch is B, its shots are the points of a part and its queries those asked about it. One
            point a part, ``LinearGaussian(shots=1, queries=1)``, is a stream in which every point may be of a new task.
        hazard: the probability of a change before a part, between 0 and 1.
        steps: P, the number of parts.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        TypeError: the tasks are of no `SyntheticTasks`.
        ValueError: the hazard is no probability, there are fewer than two parts, or shots are not one number of at least 1.

    Example:
        >>> streams = Switching(LinearGaussian(shots=1, queries=1, batch=2), hazard=0.3, steps=6)
        >>> streams.segments(0)  # which of its tasks each stream is at
        tensor([[0, 0, 0, 0, 0, 0],
                [0, 0, 1, 1, 1, 1]])
        >>> first, second, *_ = streams.parts(0)
        >>> streams.oracle(first.support).update(second.support)(second.query.x).batch_shape
        torch.Size([2, 1])
    """

    def __init__(
        self, tasks: SyntheticTasks, *, hazard: float = 0.1, steps: int = 50, seed: int = 0, length: int = 1_000_000
    ) -> None:
        super().__init__(seed=seed, length=length)
        if not isinstance(tasks, SyntheticTasks):
            raise TypeError(
                f"tasks: expected a source of tasks with an oracle, such as LinearGaussian(), got {type(tasks).__name__}"
            )
        check_probability("hazard", hazard)
        check_count("steps", steps, least=2)
        if isinstance(tasks.shots, (tuple, list)) or tasks.shots < 1:
            raise ValueError(
                f"tasks: expected one number of shots of at least 1, the points of a part, got {tasks.shots}; build the tasks "
                "with shots=1"
            )
        self.tasks, self.hazard, self.steps = tasks, float(hazard), steps
        self._shots = int(tasks.shots)

    def segments(self, index: int) -> Tensor:
        """The number of the task that holds in each part, from 0, ``(B, P)``: where it grows, the task has changed."""
        return self._seeded(index, self._segments)

    def _segments(self, generator: torch.Generator) -> Tensor:
        changes = uniform(self.tasks.batch, self.steps, generator=generator) < self.hazard
        changes[:, 0] = False
        return changes.cumsum(1)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        segments = self._segments(generator)
        long = copy(self.tasks)  # each task with points for all parts
        long.shots, long.queries = self.steps * self._shots, self.steps * self.tasks.queries
        drawn = [long.draw(generator) for _ in range(int(segments.max()) + 1)]
        batch, steps = torch.arange(len(segments))[:, None], torch.arange(self.steps)

        def present(*leaves: Tensor) -> Tensor:
            """Of every part the points of the task that holds then, ``(B, P, N, ...)``."""
            each = torch.stack(leaves)
            return each.unflatten(2, (self.steps, each.shape[2] // self.steps))[segments, batch, steps]

        support, query = (tree_map(present, *(tuple(given[side]) for given in drawn)) for side in (0, 1))
        return [
            Episode(*(Points(*tree_map(lambda leaf, t=t: leaf[:, t], given)) for given in (support, query)))
            for t in range(self.steps)
        ]

    def oracle(self, support: Points) -> Posterior:
        """The exact posterior, which sums over all segmentations: no learner that is not told of changes foretells better.

        Args:
            support: the first part; its `update` takes each further one.

        Raises:
            NotImplementedError: the tasks' own oracle cannot be told further points, as those of `LinearGaussian` and
                `GaussianProcessTasks` can.
        """
        nothing = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(support)))
        return Runs(self.tasks.oracle(nothing), self.hazard).update(support)

    def informed(self, index: int) -> list[Posterior]:
        """The exact posterior right before each part of one who is told of changes: given the earlier points of its own task."""
        segments, parts = self.segments(index), self.parts(index)
        nothing = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(parts[0].support)))
        told = nothing
        found = [self.tasks.oracle(nothing)]
        for t in range(1, self.steps):
            told = concatenate(told, parts[t - 1].support)
            place = torch.cat([torch.zeros(1).long(), torch.arange(t).repeat_interleave(self._shots)])
            same = (segments[:, place] == segments[:, t, None]) & told.mask

            def keep(leaf: Tensor, same: Tensor = same) -> Any:
                return leaf * same.reshape(same.shape + (1,) * (leaf.dim() - 2))

            found.append(self.tasks.oracle(Points(*tree_map(keep, tuple(told)))))
        return found
