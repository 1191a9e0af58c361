"""What a task source is: a map-style dataset whose episode i depends on (seed, i) alone."""

from __future__ import annotations

import inspect
import operator
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bayesmeta.border import check_count, check_not_negative, check_shapes
from bayesmeta.data import Episode, Points
from bayesmeta.posterior import Posterior

__all__ = ["EpisodeOptions", "SyntheticTasks", "TaskSource", "check_told", "normal", "shots_per_task", "uniform"]

T = TypeVar("T")


class TaskSource(Dataset[Episode], ABC):
    """``tasks[i]`` is an `Episode` that depends on the source's arguments, its seed and i alone.

    So resuming is to start at another index, sharding is to stride it, two learners that read the same indices see the
    same tasks, and ``torch.utils.data.DataLoader(tasks, batch_size=None, num_workers=4)`` gives the same episodes in
    the same order. Its ``repr`` says its settings: what its constructor takes and it keeps as an attribute of that name.

    A new source implements `draw`, on the CPU, with `uniform` and `normal`.

    Args:
        seed: a whole number from 0, of any size; sources with different seeds give independent streams of episodes. (Two
            episodes of whatever seeds and indices agree by chance with probability 2⁻³²: torch's generator is seeded by 32 bits.)
        length: the number of episodes, where iteration ends.
    """

    title = ""
    """What stands for the class's name in the ``repr``, if a function built the source."""

    def __init__(self, *, seed: int, length: int) -> None:
        check_count("length", length)
        check_count("seed", seed, least=0)
        self.seed = int(seed)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        return self._seeded(index, self.draw)

    def _seeded(self, index: int, draw: Callable[[torch.Generator], T]) -> T:
        """What is drawn of an index."""
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"index: expected an episode's number, got {index!r}; write tasks[0], and islice(tasks, 5) for several"
            ) from None
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}; raise the source's length")
        with torch.device("cpu"):  # whatever torch's default device is
            return draw(self._generator(index))

    def _generator(self, index: int) -> torch.Generator:
        # One place for each 32 bits of index and seed, whose rest comes last: no two pairs are spelled alike.
        index, low, high = operator.index(index), self.seed % 2**32, self.seed >> 32
        state = np.random.SeedSequence([low, index % 2**32, index >> 32, high]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)

    def __repr__(self) -> str:
        data: list[str] = []
        settings: dict[str, str] = {}
        for base in type(self).__mro__[: type(self).__mro__.index(TaskSource)]:
            for name, parameter in inspect.signature(base).parameters.items():
                value = getattr(self, name, parameter.default)
                if parameter.default is parameter.empty:
                    shown = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and hasattr(self, name)
                    data += [_short(value)] if shown and type(value) not in (list, tuple) else []
                elif _short(value) != _short(parameter.default):
                    settings.setdefault(name, _short(value))
        said = ", ".join(data + [f"{name}={value}" for name, value in settings.items()])
        return f"{self.title}: {said}" if self.title else f"{type(self).__name__}({said})"

    def members(self, index: int) -> Tensor | None:
        """Which of the source's tasks episode `index` holds, ``(B,)``; None where every episode's tasks are new.

        By it `evaluate` counts a task once in its intervals, however often its points were divided.
        """
        return None

    def clusters(self, index: int) -> Tensor | None:
        """What `evaluate` draws anew for its intervals: the unit of each task ``(B,)``, or the W units it is made of, ``(B, W)``.

        The task itself (`members`), if not overridden by a source that knows what its tasks have in common.
        """
        return self.members(index)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(self.length))

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Episode:
        """One episode, with all of its randomness from the generator."""


def _short(value: Any) -> str:
    """A setting's or an argument's value in a few words."""
    if isinstance(value, Points):
        counts = value.mask.sum(1)
        return f"{len(counts)} tasks of {int(counts.min())} to {int(counts.max())} points"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, nn.Module):  # a kernel, of which the hyperparameters count
        own = [name.removeprefix("raw_") for name, _ in value.named_parameters(recurse=False)]
        held = [
            f"{name}={reprlib.repr([round(v, 4) for v in getattr(value, name).flatten()[:7].tolist()])}" for name in own
        ]
        inner = [_short(child) for child in value.children() if any(True for _ in child.parameters())]
        return f"{type(value).__name__}({', '.join(inner + held)})"
    return reprlib.repr(value)


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers from 0 to 1: in float32 and on the generator's device, whatever torch's defaults are."""
    return torch.rand(*shape, generator=generator, dtype=torch.float32, device=generator.device)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers: in float32 and on the generator's device, whatever torch's defaults are."""
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device=generator.device)


def shots_per_task(shots: int | tuple[int, int], tasks: int, generator: torch.Generator) -> Tensor:
    """``(B,)`` support sizes: the same for all, or uniform between two bounds, both included."""
    bounds: list[Any] = list(shots) if isinstance(shots, (tuple, list)) else [shots, shots]
    whole = len(bounds) == 2 and all(isinstance(b, (int, np.integer)) and not isinstance(b, bool) for b in bounds)
    low, high = map(int, bounds) if whole else (-1, -1)
    if not 0 <= low <= high:
        raise ValueError(
            f"shots: expected a count >= 0 or a range (low, high) with low <= high, got {shots}; e.g. (1, 10)"
        )
    return torch.randint(low, high + 1, (tasks,), generator=generator, device=generator.device)


def check_told(support: Points, features: int) -> None:
    """Raises a ValueError unless a support for an oracle has so many features and one real target."""
    check_shapes(support, "support")
    x, y = support.x, support.y
    if not isinstance(x, Tensor) or x.shape[2:] != (features,) or y.shape[2:] != (1,) or not y.is_floating_point():
        wanted = "one feature" if features == 1 else f"{features} features"
        got = tuple(x.shape[2:]) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"support: expected {wanted} and one real target, as this source has, got x {got} and y {y.dtype} "
            f"{tuple(y.shape[2:])}; take it from the source's episodes"
        )


class EpisodeOptions(TypedDict, total=False):
    """The keyword arguments that all synthetic sources share; `SyntheticTasks` explains them."""

    batch: int
    shots: int | tuple[int, int]
    queries: int
    support_range: tuple[float, float]
    query_range: tuple[float, float] | None
    seed: int
    length: int


class SyntheticTasks(TaskSource):
    """Tasks drawn from a known prior, so that the best possible answer is known too: see `oracle`.

    A new source implements `targets` and `oracle`.

    Args:
        inputs: D, the number of input features.
        noise: σ, the standard deviation of the targets' Gaussian noise, in support and query.
        batch: B, tasks in an episode.
        shots: support points a task, or a range (low, high) from which each task's number is drawn.
        queries: M, query points a task.
        support_range: inputs of the support are uniform in this interval, in each dimension.
        query_range: the same for queries; None for that of the support.
        seed: see `TaskSource`.
        length: see `TaskSource`.
    """

    def __init__(
        self,
        *,
        inputs: int,
        noise: float,
        batch: int = 25,
        shots: int | tuple[int, int] = 5,
        queries: int = 15,
        support_range: tuple[float, float] = (-1.0, 1.0),
        query_range: tuple[float, float] | None = None,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        for name, value in (("batch", batch), ("queries", queries), ("inputs", inputs)):
            check_count(name, value)
        check_not_negative("noise", noise)
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        self.batch = batch
        self.shots = shots
        self.queries = queries
        self.support_range = support_range
        self.query_range = query_range
        self.inputs = inputs
        self.noise = noise

    @abstractmethod
    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise-free targets ``(B, N + M, 1)`` of B new tasks at x ``(B, N + M, D)``."""

    @abstractmethod
    def oracle(self, support: Points) -> Posterior:
        """The exact Bayes posterior under the source's own prior: no learner's mean NLL can be lower."""

    def draw(self, generator: torch.Generator) -> Episode:
        counts = shots_per_task(self.shots, self.batch, generator)
        size = max(1, int(counts.max()))
        mask = torch.arange(size) < counts[:, None]
        x = torch.cat(
            [
                self._uniform(self.support_range, size, generator),
                self._uniform(self.query_range or self.support_range, self.queries, generator),
            ],
            1,
        )
        y = self.targets(x, generator)
        y = y + self.noise * normal(*y.shape, generator=generator)
        observed = mask[..., None]
        support = Points(x[:, :size] * observed, y[:, :size] * observed, mask)
        query = Points(x[:, size:], y[:, size:], torch.ones(self.batch, self.queries, dtype=torch.bool))
        return Episode(support, query)

    def _uniform(self, interval: tuple[float, float], points: int, generator: torch.Generator) -> Tensor:
        low, high = interval
        return low + (high - low) * uniform(self.batch, points, self.inputs, generator=generator)
