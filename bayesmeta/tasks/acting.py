"""Who acts where transitions are drawn: what may be given, and what he says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bayesmeta.learner import Learner
from bayesmeta.planning import Bounded, Choices
from bayesmeta.tasks.source import uniform

__all__ = ["Actor", "acted", "frozen_actor"]

Actor: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""What is done: ``(B, A)``, of observations ``(B, O)`` and random numbers."""


def frozen_actor(actor: Actor | None) -> Any:
    """An actor that no training moves: of a network a copy.

    Raises:
        ValueError: it is a `Learner`, one of its methods, or a function that was made around one.
        TypeError: it cannot be called.
    """
    cells = [cell.cell_contents for cell in getattr(actor, "__closure__", None) or ()]
    for part in (actor, getattr(actor, "__self__", None), *cells):
        if isinstance(part, Learner):
            raise ValueError(
                f"actor: expected what acts, got the learner {type(part).__name__}: episodes would depend on how far its "
                "training is; give a function (observations, generator) -> actions of a copy"
            )
    if actor is not None and not callable(actor):
        raise TypeError(f"actor: expected a function (observations, generator) -> actions, got {type(actor).__name__}")
    return copy.deepcopy(actor) if isinstance(actor, nn.Module) else actor


def acted(actor: Any, actions: Bounded | Choices, observation: Tensor, generator: torch.Generator) -> Tensor:
    """What an actor does at observations ``(B, O)``; any action, each as likely, if None.

    Raises:
        ValueError: actions are not ``(B, A)``, or not finite.
    """
    if actor is None:
        level = uniform(len(observation), actions.size, generator=generator)
        if isinstance(actions, Choices):
            return actions.within(level)
        low, high = (level.new_tensor(limit) for limit in (actions.low, actions.high))
        return low + (high - low) * level
    found = actor(observation, generator)
    if not isinstance(found, Tensor) or found.shape != (len(observation), actions.size) or not found.isfinite().all():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"actor: expected finite actions {(len(observation), actions.size)}, got {shape}; return one for each world"
        )
    return found
