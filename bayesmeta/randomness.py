"""Where the library's random numbers come from: torch's global generators, or a stream of one's own within `seeded`.

Generators that a whole process shares cannot be seeded for one computation without disturbing the others: two requests that are
answered while a third thread rewinds the generator would draw the same numbers. So whatever takes a seed draws from a stream that
is known to its own context alone (a `contextvars.ContextVar`: other threads never see it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Stream", "generator", "rewound", "seeded", "standard_normal"]


class Stream:
    """Random numbers that depend on a seed alone: a generator for each device, made when it is first asked for.

    Args:
        seed: a whole number, at least 0; with more of them, such as a process's rank, the stream is another.
    """

    def __init__(self, *seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        """The stream's generator on a device."""
        if device not in self._generators:
            # Not the seed itself: torch.manual_seed(0) may have drawn the learner's first weights.
            words = np.random.SeedSequence(self.seed, spawn_key=(0,)).generate_state(2, np.uint32)
            made = torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
            self._generators[device] = made
        return self._generators[device]

    def state_dict(self) -> dict[str, Tensor]:
        """The generators' states by the names of their devices."""
        return {str(device): generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Goes on where the stream of the states was."""
        for name, state in states.items():
            self.on(torch.device(name)).set_state(state.clone())  # torch crashes on a view that begins later


_STREAM: ContextVar[Stream | None] = ContextVar("_STREAM", default=None)


@contextmanager
def seeded(*seed: int) -> Iterator[Stream]:
    """Within it, the library draws from a stream of this seed; torch's global generators are not touched.

    It holds for this thread alone. Threads that are to draw from the stream run in a copy of the context
    (``contextvars.copy_context().run``). What is not the library's own, such as dropout in a user's network or a user's Pyro
    program, draws from torch's global generators as ever.

    Example:
        >>> with seeded(0):
        ...     first = standard_normal(2, like=torch.zeros(()))
        >>> with seeded(0):
        ...     bool((standard_normal(2, like=torch.zeros(())) == first).all())
        True
    """
    stream = Stream(*seed)
    token = _STREAM.set(stream)
    try:
        yield stream
    finally:
        _STREAM.reset(token)


@contextmanager
def rewound(devices: Iterable[torch.device]) -> Iterator[None]:
    """Leaves this context's stream and torch's global generators as they were: for a computation that is made twice."""
    stream = _STREAM.get()
    states = {} if stream is None else stream.state_dict()
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        yield
    if stream is not None:
        stream._generators.clear()
        stream.load_state_dict(states)


def generator(device: torch.device) -> torch.Generator | None:
    """The generator to draw from on a device: the stream's, or None, which torch reads as its global one."""
    stream = _STREAM.get()
    return None if stream is None else stream.on(device)


def standard_normal(*shape: int, like: Tensor) -> Tensor:
    """Normal noise of the device and type of `like`, from `generator`.

    Drawn in float32, as torch's generators give other numbers in float64: a seed then means the same in both.
    """
    if torch.compiler.is_compiling():
        return _compiled_normal(list(shape), like.device).to(like.dtype)
    drawn = torch.randn(shape, device=like.device, dtype=torch.float32, generator=generator(like.device))
    return drawn.to(like.dtype)


@torch.library.custom_op(  # else the compiler would draw from a generator of its own, and may drop or merge draws
    "bayesmeta::normal", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _compiled_normal(shape: list[int], device: torch.device) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.float32, generator=generator(device))


@_compiled_normal.register_fake
def _(shape: list[int], device: torch.device) -> Tensor:
    return torch.empty(shape, device=device, dtype=torch.float32)
