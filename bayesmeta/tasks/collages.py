"""Collages: objects pasted among others on a ground, as tasks of detection with as many pictures as one likes.

Dwibedi, Misra & Hebert 2017, "Cut, Paste and Learn: Surprisingly Easy Synthesis for Instance Detection",
https://arxiv.org/abs/1708.01642.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from bayesmeta.data import Episode
from bayesmeta.distributions.boxes import grid_of
from bayesmeta.tasks.boxed import read_pictures
from bayesmeta.tasks.classes import read_classes
from bayesmeta.tasks.detection import BoxShape, BoxTasks, check_absent, check_pair
from bayesmeta.tasks.source import uniform

__all__ = ["Collages", "coil20"]


def coil20(root: str | os.PathLike[str] | None = None) -> Tensor:
    """COIL-20 (Nene, Nayar & Murase 1996): 72 views of each of 20 objects, bytes ``(20, 72, 64, 64)``, on black.

    Args:
        root: the folder of ``coil20_64.npz``; None for ``coil20_pose`` in the folder that the variable BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: the file is not there.
    """
    where = Path(root) if root is not None else Path(os.environ.get("BAYESMETA_DATA", ".")) / "coil20_pose"
    if not (where / "coil20_64.npz").exists():
        raise FileNotFoundError(
            f"root: expected coil20_64.npz in {where}, found none; pass the folder that holds it, or set BAYESMETA_DATA to the "
            "folder of coil20_pose"
        )
    with np.load(where / "coil20_64.npz") as pack:
        return torch.from_numpy(pack["images"])


class Collages(BoxTasks):
    """Tasks "find this object": views of it, of all sizes, pasted among other objects on a random ground.

    Every picture holds one of the task's objects, or none, and others.

    Args:
        views: of each object its pictures on black, ``(objects, views, H, V)`` bytes.
        grounds: pictures ``(n, H', V')`` bytes, of which random parts are what objects are pasted on.
        classes: the numbers of the objects that tasks look for, None for all: hold some out.
        size: rows and columns of the collages.
        sides: the shortest and the longest that an object's longer side may be, in pixels.
        others: the least and the largest number of other objects.
        among: the numbers of the objects that others are drawn from; `classes` if None.
        varied: how far, from 0 to 1, every task stretches and tones each object in a way of its own, and mirrors it, for further
            objects to train on.
        absent: the share of pictures, but for the first of a support, without the task's object.
        shape: cells, shots, queries, batch, unions, turned, seed, length: see `BoxTasks`.

    Raises:
        ValueError: pictures of other types or shapes, objects that are not there, or sizes that do not fit.

    Example:
        >>> views, grounds = torch.randint(256, (4, 3, 32, 32)).byte(), torch.randint(256, (2, 80, 90)).byte()
        >>> tasks = Collages(views, grounds, classes=[0, 1, 2], shots=5, queries=2, batch=2)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape
        (torch.Size([2, 5, 1, 64, 64]), torch.Size([2, 2, 8, 8, 5]))
    """

    def __init__(
        self,
        views: Any,
        grounds: Any,
        *,
        classes: Sequence[int] | None = None,
        size: tuple[int, int] = (64, 64),
        sides: tuple[int, int] = (16, 32),
        others: tuple[int, int] = (1, 3),
        among: Sequence[int] | None = None,
        varied: float = 0.0,
        absent: float = 0.0,
        **shape: Unpack[BoxShape],
    ) -> None:
        super().__init__(**shape)
        objects = list(range(len(views)))
        self.classes = read_classes(classes, objects, f"the {len(objects)} objects of views")
        self.among = (
            self.classes
            if among is None
            else read_classes(among, objects, f"the {len(objects)} objects of views", "among")
        )
        check_pair("size", size)
        check_pair("sides", sides, least=2, ordered=True)
        check_pair("others", others, least=0, ordered=True)
        check_absent(absent)
        if not 0 <= varied <= 1:
            raise ValueError(f"varied: expected a number from 0 to 1, got {varied}; e.g. 0.5")
        if sides[1] > min(size):
            raise ValueError(
                f"sides: expected objects that fit into collages of {size}, got sides up to {sides[1]}; e.g. (8, 16)"
            )
        most = min(len(self.classes), max(self.unions) if isinstance(self.unions, tuple | list) else self.unions)
        if others[1] and {*self.among} <= {*self.classes} and len(self.among) <= (most if absent else 1):
            raise ValueError(
                f"among: expected objects beside those that are looked for, got {self.among}; name further ones, or none, "
                "others=(0, 0)"
            )
        self.size, self.sides, self.others, self.varied, self.absent = size, sides, others, varied, absent
        self._grounds = _values(_grey("grounds", grounds))
        if any(a < b for a, b in zip(self._grounds.shape[1:], size, strict=True)):
            raise ValueError(
                f"grounds: expected at least {size} pixels, got {self._grounds.shape[1:]}; or smaller collages, size="
            )
        self._cut = {c: [_cut_out(view) for view in _grey("views", views[c])] for c in {*self.classes, *self.among}}

    def clusters(self, index: int) -> Tensor:
        """The object that each task looks for, ``(B,)``, the first of a union: tasks of one are not independent."""
        return torch.tensor([wanted[0] for wanted in self._wanted(self._generator(index))])

    def _wanted(self, generator: torch.Generator) -> list[list[int]]:
        """The objects of each task."""
        return [[self.classes[place] for place in chosen] for chosen in self._unions(len(self.classes), generator)]

    def draw(self, generator: torch.Generator) -> Episode:
        tasks = []
        for wanted in self._wanted(generator):
            without = uniform(self.most + self.queries, generator=generator) < self.absent
            without[0] = False
            lots = uniform(len(self._cut), 3, generator=generator).tolist()
            ways = dict(zip(self._cut, lots, strict=True)) if self.varied else None
            drawn = [self._picture(wanted, there, ways, generator) for there in (~without).tolist()]
            grids = [self._grid([box for c, box in found if c in wanted]) for _, found in drawn]
            tasks.append((torch.stack([x for x, _ in drawn])[:, None], torch.stack(grids)))
        return self._episode(tasks, generator)

    def labelled(self, pictures: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        drawn = []
        for lots in uniform(pictures, len(self._cut), 3, generator=generator).tolist():
            ways = dict(zip(self._cut, lots, strict=True)) if self.varied else None
            drawn.append(self._picture(self.classes, True, ways, generator))
        grids = [self._grid([box for c, box in found if c == one]) for _, found in drawn for one in self.classes]
        y = torch.stack(grids).unflatten(0, (pictures, len(self.classes)))
        known = torch.ones(y.shape[:1] + y.shape[2:4], dtype=torch.bool)
        x, y, _ = self._shown(torch.stack([x for x, _ in drawn])[:, None], y, None, generator)
        return x, y, known

    def _grid(self, found: Sequence[Box]) -> Tensor:
        if not found:
            return torch.zeros(*self.cells, 5)
        return grid_of(torch.tensor(found, dtype=torch.float32), self.cells, self.size)[0]

    def _picture(
        self, wanted: Sequence[int], there: bool, ways: dict[int, list[float]] | None, generator: torch.Generator
    ) -> tuple[Tensor, list[tuple[int, Box]]]:
        """One collage ``(H, V)``, and the objects on it and where."""
        height, width = self.size
        low, high = self.others
        lots = uniform(8 + 16 * (high + 1), generator=generator).tolist()
        ground = self._grounds[int(lots.pop() * len(self._grounds))]
        top, left = (int(lots.pop() * (a - b + 1)) for a, b in zip(ground.shape, self.size, strict=True))
        x = ground[top : top + height, left : left + width].astype(np.float32)
        pasted = [wanted[int(lots.pop() * len(wanted))]] if there else []
        rest = [c for c in self.among if c not in (pasted or wanted)]
        pasted += [rest[int(lots.pop() * len(rest))] for _ in range(low + int(lots.pop() * (high - low + 1)))]
        taken: list[Box] = []
        found: list[tuple[int, Box]] = []
        for c in pasted:  # the task's object first, and others where there is room
            both = self._cut[c][int(lots.pop() * len(self._cut[c]))]  # (2, h, w)
            longer = self.sides[0] + lots.pop() * (self.sides[1] - self.sides[0])
            stretched = 1.0
            if ways is not None:
                tone, taller, mirror = ways[c]
                toned = 255 * (both[0] / 255) ** math.exp(2 * self.varied * (tone - 0.5))
                both = np.stack([toned, both[1]])[:, :, :: -1 if mirror < 0.5 else 1]
                stretched = math.exp(self.varied * (taller - 0.5))
            sides = both.shape[1] * stretched, both.shape[2] / stretched
            h, w = (max(2, round(side * longer / max(sides))) for side in sides)
            both = _shrinking(both.shape[1], h) @ both @ _shrinking(both.shape[2], w).T
            for _ in range(4):
                top, left = int(lots.pop() * (height - h + 1)), int(lots.pop() * (width - w + 1))
                box = left, top, left + w, top + h
                if all(_covered(box, other) < 0.25 for other in taken):
                    break
            else:
                continue
            taken.append(box)
            place = x[top : top + h, left : left + w]
            place += (both[0] - place) * both[1]
            found.append((c, box))
        return torch.from_numpy(x / 255), found


Box = tuple[int, int, int, int]


@lru_cache(maxsize=4096)
def _shrinking(old: int, new: int) -> np.ndarray[Any, Any]:
    """Bilinear interpolation of `old` pixels at `new` ones, by triangles as wide as the larger pixel: (new, old)."""
    step = old / new
    middles, places = (np.arange(new) + 0.5) * step, np.arange(old) + 0.5
    weights = np.maximum(0, 1 - np.abs(places - middles[:, None]) / max(step, 1.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _grey(name: str, given: Any) -> Tensor:
    """Pictures of one channel, bytes or from 0 to 1: ``(n, H, V)``."""
    read = read_pictures(given)
    if read.shape[1] != 1 or not len(read) or (read.is_floating_point() and not 0 <= read.min() <= read.max() <= 1):
        raise ValueError(
            f"{name}: expected grey pictures, bytes or numbers from 0 to 1, got {read.dtype} {tuple(read.shape)}; take the mean "
            "of their channels"
        )
    return read[:, 0]


def _values(pictures: Tensor) -> np.ndarray[Any, Any]:
    """From 0 to 255."""
    return (pictures if pictures.dtype == torch.uint8 else 255 * pictures.float()).numpy()


def _covered(a: Box, b: Box) -> float:
    """The share of the smaller box that both cover."""
    across, down = (max(0, min(a[d + 2], b[d + 2]) - max(a[d], b[d])) for d in (0, 1))
    return across * down / min((one[2] - one[0]) * (one[3] - one[1]) for one in (a, b))


def _cut_out(view: Tensor) -> np.ndarray[Any, Any]:
    """An object, and 1 where it is, ``(2, h, w)``: what lies between its outermost bright pixels in rows and in columns."""
    values = view.float() if view.dtype == torch.uint8 else 255 * view.float()
    bright = values > 20
    spans = [(bright.cummax(d).values & bright.flip(d).cummax(d).values.flip(d)) for d in (0, 1)]
    inside = spans[0] & spans[1]
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(
            "views: expected an object on black, got a view without a pixel above 20 of 255; leave that view out"
        )
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return torch.stack([values[box], inside[box].float()]).numpy()
