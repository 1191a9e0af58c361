"""Streams: task sources whose episodes have parts in time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_parts
from bayesmeta.data import Episode, Points, join
from bayesmeta.tasks.classes import ClassTasks
from bayesmeta.tasks.source import TaskSource

__all__ = ["ClassStreams", "StreamSource"]


class StreamSource(TaskSource):
    """``streams.parts(i)`` are the parts of episode i in time, each an `Episode`; ``streams[i]`` is all of them, joined.

    A part's support is what comes then, its query asks about it. A learner is told one support after the other, by
    `Posterior.update`, and asked about the queries of all parts so far: see `evaluate_stream`. As ``streams[i]`` is an ordinary
    episode, `fit`, `evaluate`, plots and loaders take a stream as they take any task source.

    A new source implements `draw_parts`, on the CPU, with `uniform` and `normal`.

    Args:
        seed: see `TaskSource`.
        length: see `TaskSource`.
    """

    def parts(self, index: int) -> list[Episode]:
        """The parts of an episode, in their order in time, checked by `check_parts`.

        Raises:
            ValueError: there is one part only, a part is empty, or parts differ in tasks, features or targets.
            IndexError: there are not so many episodes.
        """
        parts = self._seeded(index, self.draw_parts)
        check_parts(parts)
        return parts

    def draw(self, generator: torch.Generator) -> Episode:
        parts = self.draw_parts(generator)
        check_parts(parts)
        return join(parts)

    @abstractmethod
    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        """The parts of one episode, with all of their randomness from the generator."""


class ClassStreams(StreamSource):
    """The tasks of another source, whose classes come one after the other: vectors, texts, pictures, or Omniglot's characters.

    ``streams[i]`` has the points of ``tasks[i]``. Its first part teaches classes 0 to c - 1 and asks about them, the second the
    next c, and so on. Labels number a task's classes in the order in which they come, and classes come in an order drawn for each
    task: so a label says nothing of its class before the first of its points has come.

    Args:
        tasks: a source of W-way tasks, such as `ClassTasks`, `ImageTasks` or `Omniglot`, without `outside`: W is the number of
            classes of a stream, shots and queries are of each.
        classes: c, how many classes come at once, where W is no multiple of it fewer at last; or how many in each part in turn.

    Raises:
        TypeError: tasks are no `ClassTasks`.
        ValueError: tasks with queries from outside, all classes at once, or classes of parts that do not add up to W.

    Example:
        >>> tasks = ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, ways=5, shots=2, queries=3)
        >>> streams = ClassStreams(tasks, classes=2)
        >>> [part.support.y[0].tolist() for part in streams.parts(0)]
        [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]
        >>> streams[0].query.x.shape
        torch.Size([4, 15, 2])
    """

    def __init__(self, tasks: ClassTasks, *, classes: int | Sequence[int] = 1) -> None:
        if not isinstance(tasks, ClassTasks):
            raise TypeError(
                f"tasks: expected a source of classes, such as ClassTasks(x, labels, ways=20), got {type(tasks).__name__}"
            )
        super().__init__(seed=tasks.seed, length=tasks.length)
        if tasks.outside:
            raise ValueError(
                f"tasks: expected outside=0, got {tasks.outside}; what a stream's learner has not seen are the classes to come"
            )
        each = list(classes) if isinstance(classes, Sequence) else [classes]
        for count in each:
            check_count("classes", count)
        if not isinstance(classes, Sequence):
            each = [min(classes, tasks.ways - first) for first in range(0, tasks.ways, classes)]
        if sum(each) != tasks.ways:
            raise ValueError(
                f"classes: expected the {tasks.ways} classes of a task in parts, got {each}, in all {sum(each)}; change the "
                "last, or the tasks' ways"
            )
        if len(each) < 2:
            raise ValueError(
                f"classes: expected at least two parts, got all {tasks.ways} classes at once; ask for fewer at once, "
                "or for more ways"
            )
        self.tasks, self.classes, self._each = tasks, classes, each

    def members(self, index: int) -> Tensor | None:
        return self.tasks.members(index)

    def clusters(self, index: int) -> Tensor | None:
        return self.tasks.clusters(index)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        support, query = self.tasks.draw(generator)
        return [
            Episode(*part)
            for part in zip(
                self._divided(support, self.tasks.shots), self._divided(query, self.tasks.queries), strict=True
            )
        ]

    def _divided(self, given: Points, rows: int) -> list[Points]:
        """Points that stand class by class, so many rows of each, in the parts in which their classes come."""
        parts, first = [], 0
        for classes in self._each:
            part = slice(first, first := first + classes * rows)
            parts.append(Points(*tree_map(lambda leaf, part=part: leaf[:, part], tuple(given))))
        return parts
