"""The network of benchmarks/accuracy/detection.py, and what it is trained to before tasks: a detector of anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import bayesmeta as bm
from bayesmeta.tasks import Collages, DetectionTasks
from bayesmeta.tasks.detection import joined


class Seen(nn.Module):
    """Of each cell its 64 features, and where a box's edges are if its centre is there: the same for all tasks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cells = bm.networks.Cells(channels, 8)
        with torch.no_grad():  # at first boxes of three cells
            self.cells.head.bias[:4].copy_(torch.tensor([-1.5, -1.5, 1.5, 1.5]))

    def forward(self, x: Tensor) -> Tensor:
        features = self.cells.features(x)
        return torch.cat([features, self.cells.head(features)], -1)


class Centre(nn.Module):
    """Whether a centre is there, which a task decides, before the edges."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 1)
        with torch.no_grad():  # at first none
            self.linear.weight.zero_()
            self.linear.bias.fill_(-4.0)

    def forward(self, seen: Tensor) -> Tensor:
        return torch.cat([self.linear(seen[..., :64]), seen[..., 64:]], -1)


Parts = tuple[nn.Module, nn.Module, bm.likelihoods.Boxes]


def find_anything(parts: Parts, tasks: Collages | DetectionTasks, steps: int, rate: float, seed: int) -> None:
    """Trains on pictures that say of all training classes where they are.

    A head a class, which is dropped, makes features tell classes apart.
    """
    body, head, likelihood = parts
    kinds = nn.Linear(64, len(tasks.classes))
    nn.init.zeros_(kinds.weight)
    nn.init.constant_(kinds.bias, -5.0)
    weights = [p for part in (*parts, kinds) for p in part.parameters()]
    optimizer = torch.optim.Adam(weights, lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, grids, known = tasks.labelled(32, generator)
        y = joined(grids.movedim(1, 0))
        seen = body(x)
        anything = likelihood(head(seen)).entries(y)  # type: ignore[attr-defined]
        told = binary_cross_entropy_with_logits(
            kinds(seen[..., :64]).movedim(-1, 1), grids[..., 0], reduction="none"
        ).sum(1)
        known = known | (y[..., 0] > 0)
        loss = ((told - anything.sum(-1)) * known).sum((1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        scheduler.step()
