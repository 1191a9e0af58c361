"""Tasks as `autofit` reads them: in folds, in standard units, on each scale of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points
from bayesmeta.learner import Learner
from bayesmeta.tasks import ArrayTasks
from bayesmeta.warps import Warp
from bayesmeta.wrappers import Standardized, Warped

__all__ = ["Asked", "Folds", "Units"]

_BATCH = 16
"""Tasks a step, of each copy."""
_QUERIES = 32
"""Of a task at most, in a step and in a look."""
_HELD, _DIVISIONS = 128, 16
"""How many held-out tasks are asked in all, by dividing few of them again, up to so many times."""


class Units:
    """Targets with mean 0 and standard deviation 1, as they are or warped, and inputs likewise.

    Args:
        x: the observed inputs, ``(n, D)``.
        y: the observed targets, ``(n, Y)``.
        warp: on whose scale targets are standardised; None for their own.
    """

    def __init__(self, x: Tensor, y: Tensor, warp: Warp | None) -> None:
        self.warp = warp
        self.x_loc, self.x_scale = _moments(x)
        self.y_loc, self.y_scale = _moments(y if warp is None else warp(y))

    def inward(self, y: Tensor) -> Tensor:
        """Targets in these units."""
        return ((y if self.warp is None else self.warp(y)) - self.y_loc) / self.y_scale

    def log_volume(self, y: Tensor) -> Tensor:
        """By how much log densities of targets ``(..., Y)`` are lower in the user's units than in these: ``(...)``."""
        stretched = self.y_scale.log().expand_as(y)
        return (stretched if self.warp is None else stretched - self.warp.log_slope(y)).sum(-1)

    def outward(self, learner: Learner) -> Learner:
        """A learner in these units as one in the user's."""
        scales = {name: getattr(self, name) for name in ("x_loc", "x_scale", "y_loc", "y_scale")}
        standard = Standardized(learner, **scales)
        return standard if self.warp is None else Warped(standard, self.warp)


class Asked(NamedTuple):
    """Held-out tasks, divided: K folds of V tasks, some of them twice where folds are of unequal size."""

    tasks: Tensor
    """Which tasks these are, ``(K, V)``."""
    real: Tensor
    """Which of them count, ``(K, V)``."""
    plain: Episode
    """In the user's units, ``(K, V, ...)``."""
    standard: Episode
    """In the U units one after the other, ``(U K, V, ...)``."""
    volumes: Tensor
    """Summed over each task's queries, ``(U, K, V)``."""


class Folds:
    """T tasks in K folds: each of K copies of a learner learns from all but one of them, by which it is then judged.

    Args:
        tasks: of numbers.
        folds: K, from 2 to T.
        warps: the U scales of the target.
        seed: of the folds and of all divisions.
    """

    def __init__(self, tasks: ArrayTasks, folds: int, warps: Sequence[Warp | None], seed: int) -> None:
        self.seed = seed
        given = tasks.points
        there = given.mask[..., None]
        x, y = given.x[given.mask], given.y[given.mask]
        self.units = [Units(x, y, warp) for warp in warps]
        self.targets = y.shape[-1]
        self.typical = y[0]
        """One target, in the place of those that are not observed."""
        safe = torch.where(there, given.y, self.typical)
        columns = [given.y, *(unit.inward(safe) * there for unit in self.units)]
        columns += [unit.log_volume(safe)[..., None] * there for unit in self.units]
        scaled = (given.x - self.units[0].x_loc) / self.units[0].x_scale * there
        self.tasks = ArrayTasks(
            Points({"plain": given.x, "standard": scaled}, torch.cat(columns, -1), given.mask),
            tasks.names,
            shots=tasks.shots,
            queries=min(tasks.queries or _QUERIES, _QUERIES),
            ordered=tasks.ordered,
            reach=tasks.reach,
        )
        order = torch.as_tensor(np.random.default_rng([seed, len(there)]).permutation(len(there)))
        self.held = [order[fold::folds] for fold in range(folds)]
        self.taught = [torch.cat([*self.held[:fold], *self.held[fold + 1 :]]) for fold in range(folds)]

    def teaching(self, step: int) -> Episode:
        """What the copies learn from in a step, each B of its tasks: ``(U K, B, ...)``, in the U units one after the other."""
        generator = self._generator(0, step)
        batch = min(_BATCH, *(len(part) for part in self.taught))
        chosen = [part[torch.randperm(len(part), generator=generator)[:batch]] for part in self.taught]
        return self._standard(self._divided(torch.stack(chosen), generator))

    def asking(self) -> Asked:
        """What the copies are asked at each look."""
        held = [part[: -(-_HELD // len(self.held))] for part in self.held]
        size = max(map(len, held))
        times = max(1, min(_DIVISIONS, -(-_HELD // sum(map(len, held)))))
        tasks = torch.stack([torch.cat([part, part[:1].expand(size - len(part))]).repeat(times) for part in held])
        real = torch.stack([(torch.arange(size) < len(part)).repeat(times) for part in held])
        divided = self._divided(tasks, self._generator(1, 0))
        plain = Episode(*(part._replace(x=part.x["plain"], y=part.y[..., : self.targets]) for part in divided))
        volumes = divided.query.y[..., -len(self.units) :].sum(2).movedim(-1, 0)
        return Asked(tasks, real, plain, self._standard(divided), volumes)

    def _divided(self, chosen: Tensor, generator: torch.Generator) -> Episode:
        """Tasks ``(C, B)``, divided into support and query: ``(C, B, ...)``."""
        episode = self.tasks.divided(chosen.flatten(), generator)
        return cast(Episode, tree_map(lambda leaf: leaf.unflatten(0, chosen.shape), episode))

    def _standard(self, episode: Episode) -> Episode:
        def repeated(given: Points) -> Points:
            x, mask = given.x["standard"], given.mask
            y = given.y[..., self.targets : -len(self.units)].chunk(len(self.units), -1)
            return Points(torch.cat([x] * len(y)), torch.cat(y), torch.cat([mask] * len(y)))

        return Episode(*map(repeated, episode))

    def _generator(self, kind: int, index: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, kind, index]).generate_state(1, np.uint32)
        return torch.Generator("cpu").manual_seed(int(state[0]))


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column; of a constant 1."""
    return values.mean(0), torch.where((values != values[:1]).any(0), values.std(0, correction=0), 1.0)
