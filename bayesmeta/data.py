"""Points and episodes: what learners read.

Shapes, here and everywhere: B tasks, N support points, M query points, S draws, R task-encoding size,
W ways (classes); ``*X``, ``*Y``, ``*O`` are the event shapes of inputs, targets and network outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ["Episode", "Points", "concatenate", "entries", "join", "move", "observed", "seen", "split"]

T = TypeVar("T")


class Points(NamedTuple):
    """The observed points of B tasks, padded to the longest task.

    Attributes:
        x: inputs ``(B, N, *X)``, or a pytree of such tensors: floating, or ``torch.long`` for tokens and indices.
        y: targets ``(B, N, *Y)``: floating for regression, ``torch.long`` labels for classes (``*Y`` empty for one a point).
        mask: ``(B, N)`` bool, true where a point is observed; or ``(B, N, *Y)``, true where an entry of its target is. What is
            not observed is zero in y, and in x where it is a whole point.

    N is at least 1: an empty support is one masked row. Build it with ``points``, which also checks it.
    """

    x: Any
    y: Tensor
    mask: Tensor


class Episode(NamedTuple):
    """B tasks, each with a support to learn from and a query to be judged on."""

    support: Points
    query: Points


def seen(given: Points) -> Tensor:
    """Which points are observed, in one entry of their target at least: ``(B, N)`` bool."""
    return given.mask if given.mask.dim() == 2 else given.mask.flatten(2).any(2)


def entries(given: Points) -> Tensor:
    """Which entries of the targets are observed, bool of the shape of y."""
    mask, y = given.mask, given.y
    return mask.reshape(mask.shape + (1,) * (y.dim() - mask.dim())).expand_as(y)


def observed(given: Points, lead: int = 2) -> Tensor:
    """How many observed targets each point has, ``(B, N)``, by whose sum losses are divided.

    Labels count one by one; the numbers of a point are one target, of which a part may be observed.

    Args:
        given: the points.
        lead: 2, or 1 for the points of one task, without B.
    """
    mask, y = given.mask, given.y
    if mask.dim() == lead and (y.dim() == lead or y.is_floating_point()):
        return mask
    if y.is_floating_point():
        return mask.flatten(lead).any(lead)
    return mask.reshape(mask.shape + (1,) * (y.dim() - mask.dim())).expand_as(y).flatten(lead).sum(lead)


def concatenate(first: Points, second: Points, *others: Points) -> Points:
    """All points of the same B tasks: ``(B, N, ...)`` and ``(B, M, ...)`` to ``(B, N + M, ...)``; and so on, of further ones."""
    given = (first, second, *others)
    if len({part.mask.dim() for part in given}) > 1:  # masks of points beside masks of entries
        given = tuple(part._replace(mask=entries(part)) for part in given)
    try:
        joined: Points = tree_map(lambda *leaves: torch.cat(leaves, 1), *given)
    except (RuntimeError, ValueError) as error:
        shapes = (tree_map(lambda leaf: tuple(leaf.shape), tuple(part)) for part in given[:2])
        raise ValueError(
            "points: expected the same tasks, inputs and event shapes in both parts, such as support and query, got {} and {} "
            "({}); build both in the same way".format(*shapes, error)
        ) from error
    return joined


def join(parts: Sequence[Episode]) -> Episode:
    """The episode that parts in time make: all that they teach, and all that they ask.

    Args:
        parts: at least one, of the same B tasks.
    """
    if len(parts) == 1:
        return parts[0]
    return Episode(concatenate(*(part.support for part in parts)), concatenate(*(part.query for part in parts)))


def split(
    given: Points, shots: Tensor, queries: int | Tensor | None, generator: torch.Generator, *, ordered: bool = False
) -> Episode:
    """Divides each task's observed points into a support and a query, at random or in their order.

    Args:
        given: the points of B tasks.
        shots: ``(B,)``, how many points of each task become support.
        queries: how many of the others become query, at most, of all tasks or of each ``(B,)``; all of them if None.
        generator: the source of randomness.
        ordered: whether the first points become support and the next ones query.

    Raises:
        ValueError: a task would be left with no query point.

    Example:
        >>> task = points(torch.arange(6.0), torch.arange(6.0))
        >>> episode = split(task, torch.tensor([2]), None, torch.Generator().manual_seed(0))
        >>> episode.support.mask.sum().item(), episode.query.mask.sum().item()
        (2, 4)
    """
    most = shots.new_tensor(given.mask.shape[1]) if queries is None else torch.as_tensor(queries, device=shots.device)
    if (shots < 0).any() or (most < 1).any():
        raise ValueError(f"shots and queries: expected shots >= 0 and queries >= 1, got {shots.tolist()} and {queries}")
    there = seen(given)
    count = there.sum(1)
    short = (count <= shots).nonzero()
    if len(short):
        task = int(short[0, 0])
        raise ValueError(
            f"shots: expected fewer support points than the task has, got {int(shots[task])} shots for the "
            f"{int(count[task])} points of task {task}; lower shots or drop the task, so that a query point is left"
        )
    if ordered:
        order = (~there).long().argsort(dim=1, stable=True)  # unobserved ones last
    else:
        order = torch.rand(there.shape, generator=generator, dtype=torch.float32, device=generator.device)
        order = order.masked_fill(~there, 2.0).argsort(1)
    left = (count - shots).minimum(most)
    return Episode(_take(given, order, shots * 0, shots), _take(given, order, shots, left))


def _take(given: Points, order: Tensor, start: Tensor, count: Tensor) -> Points:
    """The points ``order[b, start[b] : start[b] + count[b]]`` of each task, padded with zeros."""
    slots = torch.arange(max(1, int(count.max())), device=count.device)
    mask = slots < count[:, None]
    chosen = order.gather(1, (start[:, None] + slots).clamp(max=order.shape[1] - 1))

    def take(leaf: Tensor) -> Tensor:
        rows = leaf[torch.arange(len(leaf), device=chosen.device)[:, None], chosen]
        return rows * mask.reshape(mask.shape + (1,) * (leaf.dim() - 2)).to(rows.dtype)

    return Points(tree_map(take, given.x), take(given.y), mask if given.mask.dim() == 2 else take(given.mask))


def move(tree: T, like: nn.Module) -> T:
    """The tree's tensors on the module's device, floating ones in the module's floating type."""
    reference = _reference(like)
    if reference is None:
        return tree

    def to(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not torch.compiler.is_compiling() and leaf.is_inference() and not torch.is_inference_mode_enabled():
            leaf = leaf.clone()  # else no gradient may pass through what is computed from it
        return leaf.to(reference.device, reference.dtype if leaf.is_floating_point() else None)

    return tree_map(to, tree)


def _reference(module: nn.Module) -> Tensor | None:
    return next((p for p in module.parameters() if p.is_floating_point()), None)
