"""Few-shot segmentation: tasks from pictures with a label for each pixel.

Shape letters of pictures: n pictures, C channels, H rows, V columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count, check_probability
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.classes import Labels, read_classes, read_groups
from bayesmeta.tasks.source import TaskSource, uniform

__all__ = ["MaskTasks", "SceneTasks", "SegmentationTasks"]


class MaskShape(TypedDict, total=False):
    """The keyword arguments that say what an episode holds."""

    void: int | None
    classes: Sequence[int] | None
    groups: Labels | None
    subset: Labels | None
    shots: int
    queries: int
    batch: int
    seed: int
    length: int


class MaskTasks(TaskSource):
    """What `SegmentationTasks` and `SceneTasks` share: pictures with labels, and which of them a task may take.

    Args:
        images: ``(n, C, H, V)``, or ``(n, H, V)`` for one channel: bytes, which are scaled to [0, 1], or floating-point numbers.
        masks: ``(n, H, V)`` whole numbers: the class of each pixel.
        void: the number of pixels without a label, which are masked; None if all have one.
        classes: the numbers of the classes that take part, None for all that are there: hold classes out for validation and test.
        groups: ``(n,)`` whole numbers or strings: the scene, video or patient of each picture. All pictures of a task are then of
            one. Frames of a video are near-duplicates: hold out whole groups.
        subset: the groups that take part, None for all.
        shots: support pictures a task.
        queries: query pictures a task.
        batch: B, tasks in an episode.
        seed: see `TaskSource`.
        length: see `TaskSource`.
    """

    def __init__(
        self,
        images: Any,
        masks: Any,
        *,
        void: int | None = None,
        classes: Sequence[int] | None = None,
        groups: Labels | None = None,
        subset: Labels | None = None,
        shots: int = 5,
        queries: int = 5,
        batch: int = 2,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        for name, value in (("shots", shots), ("queries", queries), ("batch", batch)):
            check_count(name, value)
        self._images, self._masks = read_masks(images, masks)
        known = [c for c in self._masks.unique().tolist() if c != void]
        without = f", without void {void}" if void is not None else ""
        self.classes = read_classes(classes, known, f"the masks' {known}{without}")
        self.names, self._group = read_groups(groups, subset, len(self._masks))
        self.void, self.shots, self.queries, self.batch = void, shots, queries, batch

    @abstractmethod
    def _labels(self, masks: Tensor, what: Any) -> Tensor:
        """The labels of a task of a kind, of masks ``(N, H, V)``; -1 where there is none."""

    def _episode(self, tasks: list[tuple[Tensor, Any]]) -> Episode:
        """Tasks, each of the places of its pictures, support first, and of what is segmented."""
        places = torch.stack([places for places, _ in tasks])
        x, masks = self._images[places], self._masks[places]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        y = torch.stack([self._labels(mask, what) for mask, (_, what) in zip(masks, tasks, strict=True)])
        there = y >= 0
        y = y * there
        parts = (Points(x[:, p], y[:, p], there[:, p]) for p in (slice(self.shots), slice(self.shots, None)))
        return Episode(*parts)

    def _drawn(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures of a task, in an order drawn for it."""
        return places[uniform(len(places), generator=generator).argsort()[: self.shots + self.queries]]


class SegmentationTasks(MaskTasks):
    """Tasks "segment this class": label 1 where a pixel is of the task's class, 0 where it is of another, in W = 2 classes.

    Every picture of a task shows its class. With `unions` a task may be of several classes together, which are further classes to
    train on.

    Args:
        images, masks: see `MaskTasks`.
        unions: the most classes that are segmented as one; 1 for validation and test.
        least: the least share of a picture's pixels that must be of the class, for it to show it.
        shape: void, classes, groups, subset, shots, queries, batch, seed, length: see `MaskTasks`.

    Raises:
        ValueError: masks of another size than their pictures, labels that are no whole numbers from 0 on, classes or groups that
            are not there, pictures of no two classes, or no group with enough pictures of any class.

    Example:
        >>> images, masks = torch.rand(40, 3, 12, 16), torch.randint(4, (40, 12, 16))
        >>> tasks = SegmentationTasks(images, masks, void=3, classes=[0, 1], shots=5, queries=2, batch=2)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape, tasks[0].query.mask.shape
        (torch.Size([2, 5, 3, 12, 16]), torch.Size([2, 2, 12, 16]), torch.Size([2, 2, 12, 16]))
    """

    def __init__(
        self, images: Any, masks: Any, *, unions: int = 1, least: float = 0.01, **shape: Unpack[MaskShape]
    ) -> None:
        super().__init__(images, masks, **shape)
        void = self.void
        check_count("unions", unions)
        check_probability("least", least)
        if unions > len(self.classes):
            raise ValueError(
                f"unions: expected at most the {len(self.classes)} classes there are, got {unions}; ask for fewer"
            )
        one = torch.tensor(self.classes[:1] if void is None else [self.classes[0], void])
        if torch.isin(self._masks, one).all():
            raise ValueError(
                f"masks: expected pixels of at least two classes, to tell one from the others, got {self.classes} alone; label "
                "the rest, or where nothing is known of it, choose another void"
            )
        self.unions, self.least = unions, least
        self._share = torch.stack([(self._masks == c).flatten(1).float().mean(1) for c in self.classes], 1)
        # Which classes may be asked for: those that enough pictures of one group show. A union is shown where they are.
        shows = self._share >= least
        counts = torch.stack([shows[self._group == g].sum(0) for g in range(len(self.names))], 1)  # (classes, groups)
        self._possible = counts >= self.shots + self.queries
        short = (~self._possible.any(1)).nonzero()
        if len(short):
            first = int(short[0, 0])
            raise ValueError(
                f"shots and queries: expected at most {int(counts[first].max())} together, the pictures of one group that show "
                f"class {self.classes[first]} (on {least:.1%} of their pixels), got {self.shots} + {self.queries}; ask for "
                "fewer, leave that class out, or lower least"
            )

    def clusters(self, index: int) -> Tensor:
        """The class that each task segments, ``(B,)``, the first of a union: tasks of one are not independent."""
        return torch.tensor([chosen[0] for chosen, _ in self._kinds(self._generator(index))])

    def _kinds(self, generator: torch.Generator) -> list[tuple[list[int], int]]:
        """The numbers of each task's classes, and its group."""
        kinds = []
        for _ in range(self.batch):
            lots = uniform(len(self.classes) + 2, generator=generator)
            several = 1 + int(lots[-1] * self.unions)
            chosen = lots[:-2].argsort()[:several].tolist()
            groups = self._possible[chosen[0]].nonzero()[:, 0]
            kinds.append((chosen, int(groups[int(lots[-2] * len(groups))])))
        return kinds

    def draw(self, generator: torch.Generator) -> Episode:
        tasks = []
        for chosen, group in self._kinds(generator):
            shows = (self._group == group) & (self._share[:, chosen].sum(1) >= self.least)
            tasks.append((self._drawn(shows.nonzero()[:, 0], generator), [self.classes[c] for c in chosen]))
        return self._episode(tasks)

    def _labels(self, masks: Tensor, what: Any) -> Tensor:
        y = torch.isin(masks, torch.tensor(what)).long()
        return y if self.void is None else y.masked_fill(masks == self.void, -1)


class SceneTasks(MaskTasks):
    """Tasks "segment this scene": all pictures of a task are of one group, and each pixel has one of W labels.

    Labels are the places of `classes`; pixels of other classes are masked, as void ones are. Pictures of none are left out.

    Args:
        images, masks: see `MaskTasks`.
        shape: void, classes, groups, subset, shots, queries, batch, seed, length: see `MaskTasks`.

    Raises:
        ValueError: as `SegmentationTasks`; a group of fewer pictures than shots and queries.

    Example:
        >>> images, masks = torch.rand(40, 3, 12, 16), torch.randint(4, (40, 12, 16))
        >>> tasks = SceneTasks(images, masks, groups=["day", "night"] * 20, subset=["night"], shots=5, queries=2)
        >>> tasks[0].support.y.shape, tasks[0].query.y.max()
        (torch.Size([2, 5, 12, 16]), tensor(3))
    """

    def __init__(self, images: Any, masks: Any, **shape: Unpack[MaskShape]) -> None:
        super().__init__(images, masks, **shape)
        # A picture without a pixel of these classes would be a point of which nothing is observed.
        shows = torch.isin(self._masks, torch.tensor(self.classes)).flatten(1).any(1)
        self._taken = self._group[self._group >= 0].unique()
        self._group = self._group.masked_fill(~shows, -1)
        sizes = torch.stack([(self._group == g).sum() for g in range(len(self.names))])
        smallest = int(self._taken[sizes[self._taken].argmin()])
        if int(sizes[smallest]) < self.shots + self.queries:
            raise ValueError(
                f"shots and queries: expected at most {int(sizes[smallest])} together, the pictures of group "
                f"{self.names[smallest]} that show a class, got {self.shots} + {self.queries}; ask for fewer, or leave that "
                "group out"
            )

    def clusters(self, index: int) -> Tensor:
        """The group of each task, ``(B,)``: tasks of one are not independent."""
        return self._groups(self._generator(index))

    def _groups(self, generator: torch.Generator) -> Tensor:
        return self._taken[(uniform(self.batch, generator=generator) * len(self._taken)).long()]

    def draw(self, generator: torch.Generator) -> Episode:
        groups = self._groups(generator).tolist()
        return self._episode([(self._drawn((self._group == g).nonzero()[:, 0], generator), None) for g in groups])

    def _labels(self, masks: Tensor, what: Any) -> Tensor:
        y = torch.full_like(masks, -1)
        for number, c in enumerate(self.classes):
            y[masks == c] = number
        return y


def read_masks(images: Any, masks: Any) -> tuple[Tensor, Tensor]:
    """Pictures ``(n, C, H, V)`` of bytes or floating-point numbers, and the label of each pixel ``(n, H, V)``."""
    read = []
    for name, value in (("images", images), ("masks", masks)):
        try:
            read.append(torch.stack(list(value)) if _tensors(value) else as_tensor(value, name))
        except (ValueError, RuntimeError) as error:
            sizes = (
                sorted({str(tuple(getattr(one, "shape", ()))) for one in value}) if hasattr(value, "__iter__") else []
            )
            raise ValueError(
                f"{name}: expected pictures of one size in one array, got {type(value).__name__} of {', '.join(sizes[:4])} "
                f"({error}); crop or resize them"
            ) from error
    images, masks = read
    images = images[:, None] if images.dim() == 3 else images
    if images.dim() != 4 or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"masks: expected a label for each pixel of the images (n, C, H, V) = {tuple(images.shape)}, masks (n, H, V), got "
            f"{tuple(masks.shape)}; resize masks to their pictures by nearest neighbours, and put channels before rows"
        )
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(
            f"images: expected bytes (torch.uint8) or floating-point numbers, got {images.dtype}; convert them"
        )
    if images.is_floating_point() and not images.isfinite().all():
        raise ValueError(
            "images: expected finite numbers, got NaN or infinity; fill them in, or leave those pictures out"
        )
    whole = masks.long()
    if (whole != masks).any() or (whole < 0).any():
        wrong = masks[(whole != masks) | (whole < 0)]
        raise ValueError(
            f"masks: expected whole numbers from 0 on, the class of each pixel, got {wrong[0].item()}; number the classes, and "
            "give pixels without a label a number of their own, void="
        )
    return images, whole


def _tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(one, Tensor) for one in value)
