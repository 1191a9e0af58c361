"""What several test files share."""

from __future__ import annotations

import torch

import bayesmeta as bm
from bayesmeta.tasks.source import TaskSource


class Blobs(TaskSource):
    """Three Gaussian clouds a task, in the plane."""

    def __init__(self, batch: int = 20, shots: int = 6, queries: int = 20, seed: int = 0) -> None:
        super().__init__(seed=seed, length=1000)
        self.batch, self.shots, self.queries = batch, shots, queries

    def draw(self, generator: torch.Generator) -> bm.Episode:
        centres = 1.2 * torch.randn(self.batch, 3, 2, generator=generator)

        def some(count: int) -> bm.Points:
            y = torch.randint(3, (self.batch, count), generator=generator)
            x = centres.gather(1, y[..., None].expand(-1, -1, 2))
            x = x + 0.8 * torch.randn(self.batch, count, 2, generator=generator)
            return bm.Points(x, y, torch.ones(self.batch, count, dtype=torch.bool))

        return bm.Episode(some(self.shots), some(self.queries))
