"""Which units tasks share, such as people or classes: what is drawn anew in intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.data import Episode

__all__ = ["Clusters", "Units"]

Clusters: TypeAlias = Callable[[int], Tensor | None]
"""From an episode's index to the unit that each of its tasks is from, ``(B,)``, or to the W that it is made of, ``(B, W)``."""

_EXAMPLE = "e.g. lambda index: people[tasks.members(index)]"


class Units:
    """The units of all tasks that are read, episode by episode.

    Args:
        tasks: the task source, whose own units are taken without clusters: `clusters`, or else `members`.
        clusters: as in `evaluate`.

    Raises:
        TypeError: the clusters are no function.
    """

    def __init__(self, tasks: Dataset[Episode], clusters: Clusters | None) -> None:
        if not (clusters is None or callable(clusters)):
            raise TypeError(
                "clusters: expected a function from an episode's index to the unit of each of its tasks, got "
                f"{type(clusters).__name__}; {_EXAMPLE}"
            )
        own = getattr(tasks, "clusters", None) or getattr(tasks, "members", None)
        self._clusters = clusters or own or (lambda index: None)
        self._known: list[Tensor | None] = []

    def of(self, index: int, batch: int) -> Tensor | None:
        """The units of an episode's tasks, ``(B, W)``; None where each is one of its own.

        Raises:
            ValueError: they are no whole numbers, or not as many as the tasks.
        """
        given = self._clusters(index)
        if given is None:
            return None
        try:
            ids: Any = torch.as_tensor(given).cpu()
        except (TypeError, ValueError, RuntimeError):
            ids = None
        whole = ids is not None and not ids.is_floating_point() and not ids.is_complex()
        if not whole or ids.dim() not in (1, 2) or len(ids) != batch or ids.numel() == 0:
            got = type(given).__name__ if ids is None else f"{ids.dtype} of shape {tuple(ids.shape)}"
            raise ValueError(
                f"clusters: expected whole numbers ({batch},), the unit of each of the episode's tasks, or ({batch}, W), got "
                f"{got} for episode {index}; {_EXAMPLE}, where names are numbered by "
                "people = numpy.unique(names, return_inverse=True)[1]"
            )
        return ids.reshape(batch, -1)

    def read(self, index: int, batch: int) -> None:
        """Notes the units of an episode's tasks."""
        self._known.append(self.of(index, batch))

    def pooled(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """Statistics of all tasks that were read, each ``(T, ..., K)``, summed by unit; and ``(T, W)``, where a task has several.

        Raises:
            ValueError: tasks have different numbers of units.
        """
        known = [ids for ids in self._known if ids is not None]
        if not known:
            return list(rows), None
        counts = {0 if ids is None else ids.shape[1] for ids in self._known}
        if len(counts) > 1:
            raise ValueError(
                "clusters: expected as many units for each task, got different numbers in different episodes, "
                f"{sorted(counts)}; give every task as many, and each without others a number of its own"
            )
        shared = torch.cat(known)
        if shared.shape[1] > 1:
            return list(rows), shared
        names, place = shared[:, 0].unique(return_inverse=True)
        return [row.new_zeros(len(names), *row.shape[1:]).index_add(0, place, row) for row in rows], None
