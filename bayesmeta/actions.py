"""What may be done: actions within limits, or one of several, and beliefs about the best ones, from which plans are drawn.

Shape letters: B worlds, A numbers of an action, H steps ahead, C candidates, E elites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.randomness import standard_normal, uniform

__all__ = ["Bounded", "Choices", "check_actions"]


@dataclass(frozen=True)
class Bounded:
    """Actions of A numbers, each between limits of its own.

    Args:
        low: the least, ``(A,)``.
        high: the largest, ``(A,)``.

    Raises:
        ValueError: the limits are not finite, not equally many, or not in order.

    Example:
        >>> Bounded((-2.0,), (2.0,)).size
        1
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            low, high = (
                tuple(map(float, limit)) for limit in (self.low, self.high)
            )  # of arrays too, so that two compare
            ordered = all(-math.inf < a < b < math.inf for a, b in zip(low, high, strict=True))
        except (TypeError, ValueError, RuntimeError):
            ordered = False
        if not ordered or not low:
            raise ValueError(
                f"low and high: expected limits of each number of an action, low < high, got {self.low} and {self.high}; e.g. "
                "Bounded((-1.0,), (1.0,))"
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def size(self) -> int:
        """A."""
        return len(self.low)

    def begin(self, worlds: int, horizon: int, like: Tensor) -> Tensor:
        """Before anything is known: mean and deviation ``(2, B, H, A)``, of the whole range."""
        low, high = (like.new_tensor(limit) for limit in (self.low, self.high))
        return torch.stack([(low + high) / 2, (high - low) / 2])[:, None, None].expand(2, worlds, horizon, -1)

    def draw(self, belief: Tensor, candidates: int) -> Tensor:
        """Actions from a normal, cut off at the limits: ``(B, C, H, A)``."""
        mean, deviation = belief[:, :, None]
        shape = (mean.shape[0], candidates, *mean.shape[2:])
        return self.within(mean + deviation * standard_normal(*shape, like=mean))

    def within(self, actions: Tensor) -> Tensor:
        """The nearest actions that are allowed."""
        return actions.maximum(actions.new_tensor(self.low)).minimum(actions.new_tensor(self.high))

    def fit(self, elites: Tensor) -> Tensor:
        """The belief after elites ``(B, E, H, A)``."""
        return torch.stack([elites.mean(1), elites.std(1, correction=0)])

    def best(self, belief: Tensor) -> Tensor:
        """The actions in the middle of the belief, ``(B, H, A)``."""
        return belief[0]

    def later(self, belief: Tensor, steps: int = 1) -> Tensor:
        """The belief about a step later, at first as about the last step, and as wide as at the beginning."""
        start = self.begin(belief.shape[1], belief.shape[2], belief)
        return torch.stack([torch.cat([belief[0, :, steps:], start[0, :, -steps:]], 1), start[1]])


@dataclass(frozen=True)
class Choices:
    """One of A actions, which is a vector with a 1 in its place and zeros beside it.

    Args:
        size: A, at least 2.

    Raises:
        ValueError: there are fewer than two.

    Example:
        >>> Choices(3).begin(1, 1, torch.zeros(()))
        tensor([[[0.3333, 0.3333, 0.3333]]])
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size, least=2)

    def begin(self, worlds: int, horizon: int, like: Tensor) -> Tensor:
        """Before anything is known: probabilities ``(B, H, A)``, all the same."""
        return torch.full((worlds, horizon, self.size), 1 / self.size, dtype=like.dtype, device=like.device)

    def draw(self, belief: Tensor, candidates: int) -> Tensor:
        """Actions ``(B, C, H, A)``."""
        worlds, horizon, _ = belief.shape
        level = uniform((worlds, candidates, horizon, 1), belief)
        chosen = (level > belief.cumsum(-1)[:, None]).sum(-1).clamp(max=self.size - 1)
        return torch.nn.functional.one_hot(chosen, self.size).to(belief.dtype)

    def within(self, actions: Tensor) -> Tensor:
        """The nearest actions that are allowed."""
        return torch.nn.functional.one_hot(actions.argmax(-1), self.size).to(actions.dtype)

    def fit(self, elites: Tensor) -> Tensor:
        """The belief after elites ``(B, E, H, A)``; an action that none took keeps a little."""
        return 0.95 * elites.mean(1) + 0.05 / self.size

    def best(self, belief: Tensor) -> Tensor:
        """The likeliest actions, ``(B, H, A)``."""
        return self.within(belief)

    def later(self, belief: Tensor, steps: int = 1) -> Tensor:
        """The belief about a step later: half of what it was, half of what it was at the beginning."""
        start = self.begin(len(belief), belief.shape[1], belief)
        return torch.cat([(belief[:, steps:] + start[:, steps:]) / 2, start[:, -steps:]], 1)


def check_actions(actions: Any) -> None:
    """Raises a TypeError unless these are actions, `Bounded` or `Choices`."""
    if not isinstance(actions, (Bounded, Choices)):
        raise TypeError(
            f"actions: expected Bounded or Choices, got {type(actions).__name__}; e.g. Bounded((-1.0,), (1.0,)) or Choices(3)"
        )
