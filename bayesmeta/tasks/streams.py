"""Streams: task sources whose episodes have parts in time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_parts
from bayesmeta.data import Episode, Points, join
from bayesmeta.tasks.classes import ClassTasks, Labels, read_labels
from bayesmeta.tasks.source import TaskSource

__all__ = ["ClassStreams", "StreamSource"]


class StreamSource(TaskSource):
    """``streams.parts(i)`` are the parts of episode i in time, each an `Episode`; ``streams[i]`` is all of them, joined.

    A part's support is what comes then, its query asks about it. A learner is told one support after the other, by
    `Posterior.update`, and asked about the queries of all parts so far: see `evaluate_stream`. As ``streams[i]`` is an ordinary
    episode, `fit`, `evaluate`, plots and loaders take a stream as they take any task source.

    A new source implements `draw_parts`, which makes all that is random by its generator, on the CPU. Parts are of the same B
    tasks, of which any may have no points in a part.

    Args:
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Example:
        >>> class Walks(StreamSource):
        ...     def draw_parts(self, generator):
        ...         y = torch.randn(3, 4, 1, generator=generator).cumsum(1)  # three tasks, four parts of one point
        ...         told = [points([[t]] * 3, list(y[:, t, None])) for t in range(4)]  # lists: a task each
        ...         return [Episode(part, part) for part in told]
        >>> walks = Walks(seed=0, length=10)
        >>> len(walks.parts(0)), walks[0].query.x.shape
        (4, torch.Size([3, 4, 1]))
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
        classes: c, how many classes come at once, where W is no multiple of it fewer at last; or how many in each part in turn;
            or which, a list of the tasks' labels for each part: then all streams are of these classes in this order, and only
            which of their rows teach and ask is drawn.

    Raises:
        TypeError: tasks are no `ClassTasks`.
        ValueError: tasks with queries from outside, all classes at once, classes of parts that do not add up to W, or labels that
            the tasks have not, or that would be announced twice.

    Example:
        >>> tasks = ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, ways=5, shots=2, queries=3)
        >>> streams = ClassStreams(tasks, classes=2)
        >>> [part.support.y[0].tolist() for part in streams.parts(0)]
        [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]
        >>> streams[0].query.x.shape
        torch.Size([4, 15, 2])
        >>> ordered = ClassStreams(tasks, classes=[[5, 1], [0], [3, 2]])  # classes 5 and 1 of the data come first
        >>> [part.support.y[0].tolist() for part in ordered.parts(0)]
        [[0, 0, 1, 1], [2, 2], [3, 3, 4, 4]]
    """

    def __init__(self, tasks: ClassTasks, *, classes: int | Sequence[int] | Sequence[Labels] = 1) -> None:
        if not isinstance(tasks, ClassTasks):
            raise TypeError(
                f"tasks: expected a source of classes, such as ClassTasks(x, labels, ways=20), got {type(tasks).__name__}"
            )
        super().__init__(seed=tasks.seed, length=tasks.length)
        if tasks.outside:
            raise ValueError(
                f"tasks: expected outside=0, got {tasks.outside}; what a stream's learner has not seen are the classes to come"
            )
        self._named: Tensor | None = None
        given: Any = classes
        if isinstance(given, int):
            check_count("classes", given)
            given = [min(given, tasks.ways - first) for first in range(0, tasks.ways, given)]
        elif not isinstance(given, Sequence):
            check_count("classes", given)  # which says what is expected
        if any(isinstance(part, (Sequence, np.ndarray, Tensor)) for part in given):
            if not all(isinstance(part, (Sequence, np.ndarray, Tensor)) for part in given):
                raise ValueError(
                    f"classes: expected numbers of classes, or the labels of each part, got both, {given!r}; put a single label "
                    "in a list of its own"
                )
            self._named = _numbers(tasks, given)
            given = [len(part) for part in given]
        counts: list[int] = list(given)
        for count in counts:
            check_count("classes", count)
        if sum(counts) != tasks.ways:
            raise ValueError(
                f"classes: expected the {tasks.ways} classes of a task in parts, got {counts}, in all {sum(counts)}; change the "
                "last, or the tasks' ways"
            )
        if len(counts) < 2:
            raise ValueError(
                f"classes: expected at least two parts, got all {tasks.ways} classes at once; ask for fewer at once, "
                "or for more ways"
            )
        self.tasks, self.classes, self._each = tasks, classes, counts

    def members(self, index: int) -> Tensor | None:
        return self.tasks.members(index)

    def clusters(self, index: int) -> Tensor | None:
        return self.tasks.clusters(index) if self._named is None else None  # else all streams have the same

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        if self._named is None:
            support, query = self.tasks.draw(generator)
        else:
            support, query = self.tasks.of_classes(self._named.expand(self.tasks.batch, -1), generator)
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


def _numbers(tasks: ClassTasks, classes: Sequence[Labels]) -> Tensor:
    """The numbers of named classes among the tasks', in the order in which they come."""
    if tasks.classes != len(tasks.names):
        raise ValueError(
            "classes: expected numbers of classes where turned ones are classes too, got labels, which are of four each; use "
            "tasks with rotations=False"
        )
    parts = [read_labels(f"classes[{t}]", part).tolist() for t, part in enumerate(classes)]
    first: dict[Any, int] = {}
    for t, part in enumerate(parts):
        for name in part:
            if name in first:
                raise ValueError(
                    f"classes: expected each label in one part, got {name!r} in parts {first[name]} and {t}, where it would mean "
                    "two classes; name it once: its rows come with that part"
                )
            first[name] = t
    unknown = [name for name in first if name not in tasks.names]
    if unknown:
        raise ValueError(
            f"classes: expected labels of the tasks, got {unknown[0]!r}, which they have not; see tasks.names"
        )
    return torch.from_numpy(np.searchsorted(tasks.names, np.array(list(first))))
