"""Weights that are trained on as points come, beside a memory of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, Strategy
from bayesmeta.likelihoods import Likelihood
from bayesmeta.networks import has_batch_norm
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors.point_estimate import PointEstimate, check_inner_loop
from bayesmeta.randomness import hashed

__all__ = [
    "Memory",
    "Replay",
    "Step",
    "check_replay",
    "in_turn",
    "joined",
    "observed_first",
    "recall",
    "remember",
    "replayed",
]

Step: TypeAlias = Callable[[Params, Points, Points], Params]
"""What one task carries on, its weights by name first, after new points beside some that were recalled; of points without B."""


class Memory(NamedTuple):
    """What one task keeps of its points; of B tasks, with B first."""

    points: Points
    """C rows in the order in which they came, masked as long as there were fewer points."""
    keys: Tensor
    """Of the rows, ``(C,)``: those points are kept whose keys are the smallest."""
    told: Tensor
    """How many points there were, ``()``."""


class Replay(NamedTuple):
    """How points come, and which come again."""

    points: int
    """How many new points a step takes, in their order."""
    memory: int
    """C, how many points a task keeps."""
    replay: int
    """How many of these stand beside the new ones in a step."""
    seed: int
    """Of what is kept and what is recalled."""


def check_replay(network: nn.Module, likelihood: Likelihood, rate: float, replay: Replay, steps: int = 1) -> None:
    """Raises an error where a learner that replays is built around something else than it needs."""
    check_inner_loop(network, likelihood, steps, rate)
    check_count("points", replay.points)
    for name in ("memory", "replay", "seed"):
        check_count(name, getattr(replay, name), least=0)
    if has_batch_norm(network):
        raise ValueError(
            "network: expected layers to which a point looks the same beside any others, got batch normalisation; use group or "
            "layer normalisation"
        )


def joined(*parts: Points) -> Points:
    """All points of parts of one task. Where some have a mask of points and others of entries, all get one of entries."""
    dims = max(part.mask.dim() for part in parts)
    if any(part.mask.dim() < dims for part in parts):
        parts = tuple(part._replace(mask=_of_entries(part)) for part in parts)
    return Points(*tree_map(lambda *leaves: torch.cat(leaves), *(tuple(part) for part in parts)))


def _of_entries(points: Points) -> Tensor:
    """The mask of one task's points in the shape of their targets."""
    return points.mask.reshape(points.mask.shape + (1,) * (points.y.dim() - points.mask.dim())).expand_as(points.y)


def in_turn(points: Points) -> Iterator[Points]:
    """One task's points, one by one."""
    for place in range(len(points.mask)):
        yield Points(*tree_map(lambda leaf, place=place: leaf[place : place + 1], tuple(points)))


def _observed(points: Points) -> Tensor:
    """Which of one task's points are observed, ``(N,)``."""
    return points.mask if points.mask.dim() == 1 else points.mask.flatten(1).any(1)


def _rows(points: Points, chosen: Tensor, there: Tensor) -> Points:
    """One task's points at these places, with zeros where none is."""

    def take(leaf: Tensor) -> Tensor:
        rows = leaf[chosen]
        return torch.where(there.reshape(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))

    return Points(*tree_map(take, tuple(points)))


def observed_first(points: Points) -> Points:
    """One task's observed points in their order, and then the others: between them these would divide a pass otherwise."""
    there = _observed(points)
    order = (~there).long().argsort(stable=True)
    return _rows(points, order, there[order])


def remember(memory: Memory, points: Points, seed: int) -> Memory:
    """One task's memory after further points.

    Every point so far is kept with the same probability, by a key for its number in the stream (reservoir sampling: Vitter 1985,
    "Random sampling with a reservoir", https://doi.org/10.1145/3147.3165).
    """
    capacity, new = len(memory.keys), _observed(points)
    numbers = memory.told + new.cumsum(0) - 1
    keys = torch.cat([memory.keys, hashed(seed, 0, numbers).masked_fill(~new, torch.inf)])
    chosen = keys.topk(capacity, largest=False).indices.sort().values
    kept = keys[chosen]
    return Memory(_rows(joined(memory.points, points), chosen, kept.isfinite()), kept, memory.told + new.sum())


def recall(memory: Memory, some: int, seed: int) -> Points:
    """So many of one task's kept points, each with the same probability and none twice; masked rows where there are fewer."""
    places = torch.arange(len(memory.keys), device=memory.keys.device)
    lots = hashed(seed, 1 + memory.told, places).masked_fill(~_observed(memory.points), -1.0)
    chosen = lots.topk(min(some, len(places)))
    return _rows(memory.points, chosen.indices, chosen.values >= 0)


def replayed(
    network: nn.Module,
    likelihood: Likelihood,
    support: Points,
    step: Callable[[Frozen], Step],
    replay: Replay,
    *,
    more: Callable[[Params], Params] = lambda weights: {},
    strategy: Strategy = "auto",
) -> PointEstimate:
    """A pass of steps over each task's support, so many points at a time, in their order, and some of the past beside them.

    The result is differentiable as the steps are. An update goes on with the pass.

    Args:
        network: whose adaptable weights are where it begins.
        likelihood: maps outputs to distributions.
        support: what is learned from.
        step: makes the step, of the network as it is now.
        replay: how points come, and which come again.
        more: what is carried on beside the weights, of where they begin; by other names than theirs.
        strategy: how tasks are mapped.
    """
    frozen = Frozen(network, strategy)
    start = frozen.weights
    carried = {**start, **more(start)}
    move = step(frozen)

    def learn(points: Points, carried: Params, memory: Memory) -> tuple[Params, Memory]:
        points = observed_first(points)
        for first in range(0, len(points.mask), replay.points):
            new = Points(*tree_map(lambda leaf, first=first: leaf[first : first + replay.points], tuple(points)))
            any_new = _observed(new).any()
            after = move(carried, new, recall(memory, replay.replay, replay.seed))
            carried = {name: torch.where(any_new, after[name], value) for name, value in carried.items()}
            memory = remember(memory, new, replay.seed)
        return carried, memory

    def begin(points: Points) -> tuple[Params, Memory]:
        rows = Points(*tree_map(lambda leaf: leaf.new_zeros(replay.memory, *leaf.shape[1:]), tuple(points)))
        keys = torch.full((replay.memory,), torch.inf, dtype=torch.float64, device=points.mask.device)
        return learn(points, carried, Memory(rows, keys, torch.zeros((), dtype=torch.long, device=points.mask.device)))

    found, memory = frozen.map(begin, support)
    return _Replayed(frozen, likelihood, found, memory, support, learn)


class _Replayed(PointEstimate):
    """Weights that steps led to, what is carried on beside them, and the points that are kept."""

    _of_tasks = ("weights", "carried", "memory")

    def __init__(
        self,
        network: Frozen,
        likelihood: Likelihood,
        carried: Params,
        memory: Memory,
        support: Points,
        learn: Callable[[Points, Params, Memory], tuple[Params, Memory]],
    ) -> None:
        super().__init__(network, likelihood, {}, support)
        self.going_on = learn
        self._carry(carried, memory)

    def _carry(self, carried: Params, memory: Memory) -> None:
        names = self.network.weights
        self.weights = {name: value for name, value in carried.items() if name in names}
        self.carried = {name: value for name, value in carried.items() if name not in names}
        self.memory = memory

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later._carry(*self.network.map(self.going_on, points, {**self.weights, **self.carried}, self.memory))
        return later
