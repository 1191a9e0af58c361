"""Where the library's random numbers come from: torch's global generators, or a stream of one's own within `seeded`.

Generators that a whole process shares cannot be seeded for one computation without disturbing the others: two requests that are
answered while a third thread rewinds the generator would draw the same numbers. So whatever takes a seed draws from a stream that
is known to its own context alone (a `contextvars.ContextVar`: other threads never see it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Stream",
    "generator",
    "hashed",
    "seeded",
    "set_stream_state",
    "standard_normal",
    "stream_state",
    "uniform",
]


class Stream:
    """Random numbers that depend on a seed alone: a generator for each device, made when it is first asked for.

    Args:
        seed: a whole number, at least 0; with more of them, below 2³², such as a process's rank, the stream is another.
    """

    def __init__(self, *seed: int) -> None:
        for number in seed:
            if not hasattr(number, "__index__") or isinstance(number, bool) or number < 0:
                raise ValueError(f"seed: expected a whole number of at least 0, got {number!r}; e.g. 0")
        self.seed = tuple(int(number) for number in seed)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._cuda: Tensor | None = None

    def on(self, device: torch.device) -> torch.Generator:
        """The stream's generator on a device."""
        if device not in self._generators:
            # Not the seed itself: torch.manual_seed(0) may have drawn the learner's first weights.
            words = np.random.SeedSequence(self.seed[0], spawn_key=(*b"stream", *self.seed[1:])).generate_state(
                2, np.uint32
            )
            made = torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
            if device.type == "cuda" and self._cuda is not None:
                made.set_state(self._cuda)
            self._generators[device] = made
        return self._generators[device]

    def get_state(self) -> Tensor:
        """Where the stream is, as bytes: on the CPU, and on the CUDA device that it was asked for, if any."""
        cuda = [made.get_state() for device, made in self._generators.items() if device.type == "cuda"]
        return torch.cat([self.on(torch.device("cpu")).get_state(), *cuda[:1], torch.zeros(0 if cuda else 16).byte()])

    def set_state(self, state: Tensor) -> None:
        """Goes on where the stream of the state was; on a CUDA device as soon as it is asked for one."""
        self._generators.clear()
        self.on(torch.device("cpu")).set_state(state[:-16].clone())  # torch crashes on a view that begins later
        self._cuda = state[-16:].clone() if state[-16:].any() else None


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


def stream_state() -> Tensor:
    """Where this context's stream is, as bytes: none outside `seeded`."""
    stream = _STREAM.get()
    return torch.empty(0, dtype=torch.uint8) if stream is None else stream.get_state()


def set_stream_state(state: Tensor) -> None:
    """Takes this context's stream to where the stream of the state was."""
    stream = _STREAM.get()
    if stream is not None and len(state):
        stream.set_state(state)


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


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform numbers on [0, 1), of the device and floating type of `like`, from `generator`."""
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.rand(tuple(shape), device=like.device, dtype=dtype, generator=generator(like.device))


_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hashed(seed: int, stream: int | Tensor, numbers: Tensor) -> Tensor:
    """Uniform numbers on [0, 1), float64, each of which depends on whole numbers alone: drawing them moves no generator.

    So they are the same in whatever order, batch or process they are asked for, and may be asked for within ``vmap``. They are
    SplitMix64's (Steele, Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195), mixed once for each number.

    Args:
        seed: at least 0.
        stream: which of the seed's sequences, a whole number.
        numbers: whole numbers, the places in the sequence.

    Example:
        >>> hashed(0, 0, torch.arange(3))
        tensor([0.2031, 0.3381, 0.2691], dtype=torch.float64)
    """
    start, step = (numbers.new_full((), _signed(word)) for word in ((seed + 1) * _GOLDEN, _GOLDEN))
    word = _mixed(_mixed(_mixed(start) + step * stream) + step * numbers)
    return _shifted(word, 11).double() * 2.0**-53


def _signed(word: int) -> int:
    """The 64 bits of a whole number as torch has them."""
    return (word + 2**63) % 2**64 - 2**63


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Bits moved to the right, zeros for them."""
    return (word >> bits) & (2 ** (64 - bits) - 1)


def _mixed(word: Tensor) -> Tensor:
    word = (word ^ _shifted(word, 30)) * _signed(_FIRST)
    word = (word ^ _shifted(word, 27)) * _signed(_SECOND)
    return word ^ _shifted(word, 31)


@torch.library.custom_op(  # else the compiler would draw from a generator of its own, and may drop or merge draws
    "bayesmeta::normal", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _compiled_normal(shape: list[int], device: torch.device) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.float32, generator=generator(device))


@_compiled_normal.register_fake
def _(shape: list[int], device: torch.device) -> Tensor:
    return torch.empty(shape, device=device, dtype=torch.float32)
