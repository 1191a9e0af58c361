"""Adam on minibatches of points, for tasks that have more of them than one gradient should see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Points
from bayesmeta.functional import Params, second_order
from bayesmeta.randomness import uniform

__all__ = ["Minibatches"]

Part: TypeAlias = Callable[[Params, Points, float], Tensor]
"""From all tasks' parameters, some of their points, and the number of all points for each of these, to a sum over tasks."""

_MEAN, _SQUARE, _EPSILON = 0.9, 0.999, 1e-8
"""Adam's, as in its paper."""
_THROUGH = 10
"""Through how many of the last steps gradients flow: through all of thousands they would fill any memory."""


class Minibatches:
    """Stochastic descent of an objective that is a sum over points.

    Kingma & Ba 2015, "Adam", https://arxiv.org/abs/1412.6980, with a rate that falls to zero along half a cosine, so that what is
    found settles. An epoch shows every point once, in random parts of nearly equal size; N points that fit in one are shown
    together. Gradients, such as those of a meta-objective, flow through the last 10 steps alone, so that memory is bounded.

    Args:
        epochs: how often every point is shown.
        batch: the largest number of points of a task that one gradient sees.
        rate: Adam's step size at the start.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, epochs: int, batch: int, rate: float) -> None:
        check_count("epochs", epochs)
        check_count("batch", batch)
        check_positive("rate", rate)
        self.epochs, self.batch, self.rate = epochs, batch, rate

    def __call__(self, objective: Part, start: Params, points: Points) -> Params:
        """Where the descent leads. Its minibatches are drawn from torch's global generator, and are the same of all tasks."""
        params, first, second = start, *({name: torch.zeros_like(p) for name, p in start.items()} for _ in range(2))
        steps = self.epochs * self._parts(points)
        for step, (part, share) in enumerate(self._draw(points)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= steps - _THROUGH):
                slope = second_order(lambda params, part=part, share=share: objective(params, part, share))(params)  # type: ignore[misc]
                first = {name: _MEAN * m + (1 - _MEAN) * slope[name] for name, m in first.items()}
                second = {name: _SQUARE * v + (1 - _SQUARE) * slope[name].square() for name, v in second.items()}
                size = self.rate * (1 + math.cos(math.pi * step / steps)) / 2 / (1 - _MEAN ** (step + 1))
                unbiased = 1 / (1 - _SQUARE ** (step + 1))
                # With epsilon within the root, whose slope at zero is else infinite.
                params = {
                    name: p - size * first[name] / (unbiased * second[name] + _EPSILON**2).sqrt()
                    for name, p in params.items()
                }
        return params

    def _parts(self, points: Points) -> int:
        return -(-points.mask.shape[1] // self.batch)

    def _draw(self, points: Points) -> Iterator[tuple[Points, float]]:
        """Random parts of the points, epoch by epoch, and how many points stand for each of a part's."""
        count, parts = points.mask.shape[1], self._parts(points)
        for _ in range(self.epochs):
            if parts == 1:
                yield points, 1.0
                continue
            order = uniform((count,), like=points.mask).argsort()
            for chosen in order.tensor_split(parts):
                yield Points(*tree_map(lambda leaf, chosen=chosen: leaf[:, chosen], tuple(points))), count / len(chosen)
