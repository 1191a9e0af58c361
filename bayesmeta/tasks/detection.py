"""Few-shot detection: tasks from pictures with boxes, as grids of cells (`bayesmeta.distributions.boxes`).

Shape letters of pictures: n pictures, C channels, H rows, V columns, G rows and K columns of cells, P boxes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.distributions.boxes import grid_of
from bayesmeta.tasks.boxed import read_boxes, read_pictures
from bayesmeta.tasks.classes import Labels, read_classes, read_groups
from bayesmeta.tasks.source import TaskSource, shots_per_task, uniform

__all__ = ["BoxTasks", "DetectionTasks"]


class BoxShape(TypedDict, total=False):
    """The keyword arguments that say what an episode holds."""

    cells: tuple[int, int]
    shots: int | tuple[int, int]
    queries: int
    batch: int
    unions: int | tuple[int, int]
    turned: bool
    seed: int
    length: int


class BoxTasks(TaskSource):
    """What sources of pictures with boxes share. A new one implements `draw`, and gives `_episode` its tasks' pictures.

    Args:
        cells: G and K, into how many rows and columns of cells a picture is divided. A cell holds the centre of one box at most.
        shots: support pictures a task, or a range (low, high) from which each task's number is drawn.
        queries: query pictures a task.
        batch: B, tasks in an episode.
        unions: the most classes that are looked for as one, or a range (low, high): further tasks to train on, and with all
            classes that of finding anything; 1 for validation and test.
        turned: whether all pictures of a task are mirrored in one of the four ways, which makes four tasks of each; for training.
        seed: see `TaskSource`.
        length: see `TaskSource`.
    """

    def __init__(
        self,
        *,
        cells: tuple[int, int] = (8, 8),
        shots: int | tuple[int, int] = 5,
        queries: int = 5,
        batch: int = 2,
        unions: int | tuple[int, int] = 1,
        turned: bool = False,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        check_pair("cells", cells)
        for name, value in (("queries", queries), ("batch", batch)):
            check_count(name, value)
        if isinstance(unions, tuple | list):
            check_pair("unions", unions, ordered=True)
        else:
            check_count("unions", unions)
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        self.shots, self.queries, self.batch, self.turned = shots, queries, batch, turned
        self.cells, self.unions = (cells[0], cells[1]), unions

    @property
    def most(self) -> int:
        """The largest number of support pictures."""
        return max(self.shots) if isinstance(self.shots, tuple | list) else self.shots

    def _unions(self, classes: int, generator: torch.Generator) -> list[list[int]]:
        """The numbers of the classes of each task."""
        low, high = self.unions if isinstance(self.unions, tuple | list) else (1, self.unions)
        several = shots_per_task((min(low, classes), min(high, classes)), self.batch, generator).tolist()
        orders = uniform(self.batch, classes, generator=generator).argsort(1).tolist()
        return [order[:n] for order, n in zip(orders, several, strict=True)]

    def labelled(self, pictures: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures with all their classes told apart, to train features on before tasks: not few-shot.

        Args:
            pictures: N, how many are drawn.
            generator: of random numbers, on the CPU.

        Returns:
            The pictures ``(N, C, H, V)``, of each the grids of all W `classes`, ``(N, W, G, K, 5)``, and ``(N, G, K)``, False in
            cells without a label.
        """
        raise NotImplementedError

    def _episode(
        self, tasks: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator, known: Tensor | None = None
    ) -> Episode:
        """Tasks of `most` + `queries` pictures each, and their grids, support first; `known`: cells with a label."""
        x, y = (torch.stack(list(part)) for part in zip(*tasks, strict=True))
        counts = shots_per_task(self.shots, len(x), generator)
        x, y, known = self._shown(x, y, known, generator)
        size = max(1, int(counts.max()))
        mask = torch.arange(size) < counts[:, None]
        observed = mask[..., None, None, None]
        asked = torch.ones(len(x), self.queries, dtype=torch.bool)
        if known is not None:
            mask = (observed & known[:, :size, ..., None]).expand_as(y[:, :size])
            asked = known[:, self.most :, ..., None].expand_as(y[:, self.most :])
        # There is nothing in cells without a label: a box that is looked for has its own.
        support = Points(x[:, :size] * observed, y[:, :size] * observed, mask)
        query = Points(x[:, self.most :], y[:, self.most :], asked)
        return Episode(support, query)

    def _shown(
        self, x: Tensor, y: Tensor, known: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Bytes as numbers, and if `turned` each ``x[i]`` mirrored in a way of its own."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if self.turned:
            ways = (uniform(len(x), 2, generator=generator) < 0.5).tolist()
            if known is not None:
                known = torch.stack([mirrored(one, y[0], *way)[0] for one, way in zip(known, ways, strict=True)])
            both = [mirrored(*pair, *way) for *pair, way in zip(x, y, ways, strict=True)]
            x, y = (torch.stack(list(part)) for part in zip(*both, strict=True))
        return x, y, known


def check_pair(name: str, given: Any, *, least: int = 1, ordered: bool = False) -> None:
    """Raises a ValueError if it is not two whole numbers of at least `least`, and in order where that is asked for."""
    wrong = not isinstance(given, tuple | list) or len(given) != 2 or (ordered and given[0] > given[1])
    if wrong:
        order = ", the first not above the second" if ordered else ""
        raise ValueError(f"{name}: expected two whole numbers{order}, got {given!r}; e.g. ({max(least, 1)}, 8)")
    for number in given:
        check_count(name, number, least)


def check_absent(absent: float) -> None:
    """Raises a ValueError if it is no share that leaves something."""
    if not isinstance(absent, float | int) or not 0 <= absent < 1:
        raise ValueError(f"absent: expected a share from 0 on and below 1, got {absent!r}; e.g. 0.2")


def mirrored(x: Tensor, y: Tensor, across: bool, down: bool) -> tuple[Tensor, Tensor]:
    """Pictures ``(..., H, V)`` and grids ``(..., G, K, 5)``, with left and right, or top and bottom, changed for each other."""
    if across:
        x, y = x.flip(-1), y.flip(-2)[..., [0, 3, 2, 1, 4]] * y.new_tensor([1, -1, 1, -1, 1])
    if down:
        x, y = x.flip(-2), y.flip(-3)[..., [0, 1, 4, 3, 2]] * y.new_tensor([1, 1, -1, 1, -1])
    return x, y


class DetectionTasks(BoxTasks):
    """Tasks "find all of this class": pictures that show one class, each with the grid of its boxes of that class.

    Args:
        images: ``(n, C, H, V)``, or ``(n, H, V)`` for one channel: bytes, which are scaled to [0, 1], or floating-point numbers.
        boxes: of each picture the boxes ``(P, 4)``: left, top, right, bottom in pixels; P may be 0.
        labels: of each picture the class of each box, P whole numbers.
        classes: the classes that take part, None for all that are there: hold classes out for validation and test.
        groups: ``(n,)`` whole numbers or strings: the source, video or patient of each picture. All pictures of a task are then
            of one. Frames of a video are near-duplicates: hold out whole groups.
        subset: the groups that take part, None for all.
        absent: the share of pictures, but for the first of a support, that are drawn from those that do not show the class.
        void: classes whose boxes are neither looked for nor absent: the cells of their centres have no label. Held-out classes
            stand in the pictures that one trains on, and a detector learns to leave alone what is not void there.
        shape: cells, shots, queries, batch, unions, turned, seed, length: see `BoxTasks`.

    A box whose centre lies in the cell of a larger one of its class has no place in the grid; a warning counts them.

    Raises:
        ValueError: boxes outside their picture or of no area, not one list of boxes and labels for each picture, classes or
            groups that are not there, or no group with enough pictures of a class.

    Example:
        >>> images = torch.rand(20, 3, 64, 64)
        >>> boxes, labels = [torch.tensor([[8.0, 8.0, 24.0, 32.0]])] * 20, [[0], [1]] * 10
        >>> tasks = DetectionTasks(images, boxes, labels, shots=5, queries=2, batch=2)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape
        (torch.Size([2, 5, 3, 64, 64]), torch.Size([2, 2, 8, 8, 5]))
    """

    def __init__(
        self,
        images: Any,
        boxes: Sequence[Any],
        labels: Sequence[Any],
        *,
        classes: Sequence[int] | None = None,
        groups: Labels | None = None,
        subset: Labels | None = None,
        absent: float = 0.0,
        void: Sequence[int] = (),
        **shape: Unpack[BoxShape],
    ) -> None:
        super().__init__(**shape)
        self._images = read_pictures(images)
        found = read_boxes(boxes, labels, self._images)
        known = sorted({c for _, kinds in found for c in kinds.tolist()})
        self.classes = read_classes(classes, known, f"the labels' {known}")
        check_absent(absent)
        if set(void) & set(self.classes):
            raise ValueError(
                f"void: expected none of the classes {self.classes} that take part, got {list(void)}; name others, or leave "
                "those out of classes"
            )
        n = len(self._images)
        self.names, self._group = read_groups(groups, subset, n)
        self.absent = absent
        size, lost, total = tuple(self._images.shape[2:]), 0, 0
        self._grids = torch.zeros(len(self.classes), n, *self.cells, 5)
        self._known = torch.ones(n, *self.cells, dtype=torch.bool) if len(void) else None
        for place, (corners, kinds) in enumerate(found):
            if self._known is not None:
                unsaid = corners[torch.isin(kinds, torch.tensor(list(void)))]
                self._known[place] = grid_of(unsaid, self.cells, size)[0][..., 0] == 0  # type: ignore[arg-type]
            for number, c in enumerate(self.classes):
                own = corners[kinds == c]
                if len(own):
                    self._grids[number, place], kept = grid_of(own, self.cells, size)  # type: ignore[arg-type]
                    lost, total = lost + int((~kept).sum()), total + len(own)
        if lost:
            warnings.warn(
                f"cells: {lost} of {total} boxes lie in the cell of a larger one of their class and are left out; "
                f"{self.cells} cells are too few to hold them",
                stacklevel=2,
            )
        shows = self._grids[..., 0].flatten(2).any(2)  # (classes, n)
        counts = torch.stack([(shows & (self._group == g)).sum(1) for g in range(len(self.names))], 1)
        self._possible = counts >= self.most + self.queries
        short = (~self._possible.any(1)).nonzero()
        if len(short):
            first = int(short[0, 0])
            raise ValueError(
                f"shots and queries: expected at most {int(counts[first].max())} together, the pictures of one group that show "
                f"class {self.classes[first]}, got {self.most} + {self.queries}; ask for fewer, or leave that class out"
            )
        self._shows = shows

    def clusters(self, index: int) -> Tensor:
        """The class that each task looks for, ``(B,)``, the first of a union: tasks of one are not independent."""
        return torch.tensor([chosen[0] for chosen, _ in self._kinds(self._generator(index))])

    def _kinds(self, generator: torch.Generator) -> list[tuple[list[int], int]]:
        """The numbers of each task's classes, and its group."""
        kinds = []
        lots = uniform(self.batch, generator=generator).tolist()
        for chosen, lot in zip(self._unions(len(self.classes), generator), lots, strict=True):
            groups = self._possible[chosen[0]].nonzero()[:, 0]
            kinds.append((chosen, int(groups[int(lot * len(groups))])))
        return kinds

    def labelled(self, pictures: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        lots = uniform(pictures, 2, generator=generator)
        shows = [(own & (self._group >= 0)).nonzero()[:, 0] for own in self._shows]
        chosen = (shows[int(a * len(shows))] for a in lots[:, 0].tolist())
        places = torch.stack([own[int(b * len(own))] for own, b in zip(chosen, lots[:, 1].tolist(), strict=True)])
        y = self._grids[:, places].transpose(0, 1)
        known = torch.ones(y.shape[:1] + y.shape[2:4], dtype=torch.bool) if self._known is None else self._known[places]
        x, y, known = self._shown(self._images[places], y, known, generator)  # type: ignore[assignment]
        return x, y, known

    def draw(self, generator: torch.Generator) -> Episode:
        tasks, known = [], []
        for chosen, group in self._kinds(generator):
            shows, wanted = self._shows[chosen].any(0), self.most + self.queries
            sides = [((self._group == group) & side).nonzero()[:, 0] for side in (shows, ~shows)]
            with_one, without = (side[uniform(len(side), generator=generator).argsort()] for side in sides)
            absent = uniform(wanted, generator=generator) < self.absent
            absent[0] = False
            absent &= absent.cumsum(0) <= len(without)
            places = torch.empty(wanted, dtype=torch.long)
            places[absent], places[~absent] = without[: absent.sum()], with_one[: (~absent).sum()]
            tasks.append((self._images[places], joined(self._grids[chosen][:, places])))
            if self._known is not None:
                # Where a box that is looked for has its centre too, that is said.
                known.append(self._known[places] | (tasks[-1][1][..., 0] > 0))
        return self._episode(tasks, generator, torch.stack(known) if known else None)


def joined(y: Tensor) -> Tensor:
    """One grid of several ``(grids, ..., G, K, 5)``: of boxes in one cell the largest."""
    wide, high = y[..., 3] - y[..., 1], y[..., 4] - y[..., 2]
    largest = (wide * high).argmax(0)
    return y.gather(0, largest[None, ..., None].expand(1, *y.shape[1:]))[0]
