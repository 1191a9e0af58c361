"""Who acts where transitions are drawn: what may be given, and what he says."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from types import CellType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bayesmeta.actions import Bounded, Choices
from bayesmeta.learner import Learner
from bayesmeta.tasks.source import uniform

__all__ = ["Actor", "acted", "frozen_actor"]

Actor: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""What is done: ``(B, A)``, of observations ``(B, O)`` and random numbers."""


def frozen_actor(actor: Actor | None) -> Any:
    """An actor that no training moves: of a network, of its method and of a partial function a copy.

    Raises:
        ValueError: it is a `Learner`, one of its methods, or a function or an object that holds one.
        TypeError: it cannot be called with observations and a generator.
    """
    for part in _held(actor):
        if isinstance(part, Learner):
            raise ValueError(
                f"actor: expected what acts, got the learner {type(part).__name__}: episodes would depend on how far its "
                "training is; give a function (observations, generator) -> actions of a copy"
            )
    if actor is None:
        return None
    if not callable(actor):
        raise TypeError(f"actor: expected a function (observations, generator) -> actions, got {type(actor).__name__}")
    try:
        inspect.signature(actor.forward if isinstance(actor, nn.Module) else actor).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"actor: expected a function (observations, generator) -> actions, got {type(actor).__name__}, which takes others "
            f"({error}); wrap it, lambda observations, generator: ..."
        ) from error
    except ValueError:  # built in, of unknown arguments
        pass
    whole = isinstance(actor, (nn.Module, partial)) or isinstance(getattr(actor, "__self__", None), nn.Module)
    return copy.deepcopy(actor) if whole else actor


def _held(actor: Any) -> list[Any]:
    """An actor, and what it names, keeps, or was given beforehand."""
    if isinstance(actor, partial):
        return [actor, *actor.args, *actor.keywords.values(), *_held(actor.func)]
    owner = getattr(actor, "__self__", None)
    kept = [
        value
        for one in (actor, owner)
        if not isinstance(one, (nn.Module, type))  # of a network, whatever it holds, there is a copy
        for value in getattr(one, "__dict__", {}).values()
    ]
    code, names = getattr(actor, "__code__", None), getattr(actor, "__globals__", {})
    return [
        actor,
        owner,
        *kept,
        *(cell.cell_contents for cell in getattr(actor, "__closure__", None) or () if cell != CellType()),
        *(getattr(actor, "__defaults__", None) or ()),
        *(getattr(actor, "__kwdefaults__", None) or {}).values(),
        *(names[name] for name in getattr(code, "co_names", ()) if name in names),
    ]


def acted(actor: Any, actions: Bounded | Choices, observation: Tensor, generator: torch.Generator) -> Tensor:
    """What an actor does at observations ``(B, O)``; any action, each as likely, if None.

    What the library draws meanwhile, such as a planner's candidates, follows from the generator's seed.

    Raises:
        ValueError: actions are not ``(B, A)``, or not finite.
    """
    if actor is None:
        level = uniform(len(observation), actions.size, generator=generator)
        if isinstance(actions, Choices):
            return actions.within(level)
        low, high = (level.new_tensor(limit) for limit in (actions.low, actions.high))
        return low + (high - low) * level
    found = actor(observation.clone(), generator)  # which it may write to
    if not isinstance(found, Tensor) or found.shape != (len(observation), actions.size) or not found.isfinite().all():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"actor: expected finite actions {(len(observation), actions.size)}, got {shape}; return one for each world"
        )
    return found.to(observation)
