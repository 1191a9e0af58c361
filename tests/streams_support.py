"""Streams of which the right answers are known, and learners that give answers which are known."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Categorical
from torch import Tensor, nn
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.tasks import ClassStreams, ClassTasks, LinearGaussian, StreamSource

TRUST = [0.5, 0.9, 0.7, 0.6]
"""What a label's probability is when its part is so many parts old."""


class Fading:
    """Says the right label, which x is, with a probability that depends on the number of parts since it came alone."""

    def __init__(self, support: Points, ages: Tensor | None = None) -> None:
        self.ages = torch.full((6,), -1) if ages is None else ages + (ages >= 0)
        self.ages[support.y[support.mask].unique()] = 0

    def update(self, points: Points) -> Fading:
        return Fading(points, self.ages)

    def __call__(self, x: Tensor) -> Distribution:
        label = x[..., 0].round().long()
        ages = self.ages[label]
        right = torch.where(ages >= 0, torch.tensor(TRUST)[ages], 1 / 6).double()[..., None]
        wrong = (1 - right) / 5
        probabilities = torch.where(torch.arange(6) == label[..., None], right, wrong)
        return Categorical(probs=probabilities, validate_args=False)


def named(batch: int = 3) -> ClassTasks:
    """Classes whose inputs are their labels in the task, once `Labelled` has read them."""
    return ClassTasks(
        torch.zeros(60, 1), torch.arange(60) % 10, ways=6, shots=2, queries=3, batch=batch, dtype=torch.float64
    )


class Labelled(StreamSource):
    """Streams whose inputs are the labels."""

    def __init__(self, classes: Any = (1, 2, 1, 2), length: int = 10) -> None:
        super().__init__(seed=0, length=length)
        self.inner = ClassStreams(named(), classes=classes)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        parts = self.inner.draw_parts(generator)
        return [Episode(*(given._replace(x=given.y[..., None].double()) for given in part)) for part in parts]


def classes(batch: int = 4, ways: int = 6) -> ClassTasks:
    torch.manual_seed(0)
    centres = 2 * torch.randn(12, 3, dtype=torch.float64)
    x = centres.repeat(10, 1) + torch.randn(120, 3, dtype=torch.float64)
    return ClassTasks(x, torch.arange(120) % 12, ways=ways, shots=2, queries=4, batch=batch, dtype=torch.float64)


def gaussians(ways: int = 6) -> bm.GeMCL:
    torch.manual_seed(1)
    return bm.GeMCL(nn.Linear(3, 4), size=4, classes=ways).double()


class Lines(StreamSource):
    """Linear tasks of which four points come at a time."""

    def __init__(self) -> None:
        super().__init__(seed=0, length=10)
        self.inner = LinearGaussian(inputs=2, shots=12, queries=9, batch=5)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        support, query = self.inner.draw(generator)
        return [
            Episode(
                *(Points(*(leaf[:, n * t : n * (t + 1)] for leaf in given)) for given, n in ((support, 4), (query, 3)))
            )
            for t in range(3)
        ]
