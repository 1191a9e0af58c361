"""What `fit` sees of tasks that it does not train on: the predictive NLL, the state of the lowest one, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.data import Episode
from bayesmeta.evaluation import predict, reading
from bayesmeta.files import digest
from bayesmeta.learner import Learner
from bayesmeta.metrics import NLL
from bayesmeta.training.processes import Processes

__all__ = ["EPISODES", "Validation", "lowest"]

EPISODES = 20
"""How many of the validation tasks' episodes are read each time, where there are so many."""


def lowest(seen: Mapping[int, float]) -> int | None:
    """The first step with the lowest NLL, where NaN is above all; None if nothing was looked at."""
    return min(seen, key=lambda step: math.inf if math.isnan(seen[step]) else seen[step], default=None)


class Validation:
    """Looks at a learner from time to time, and keeps the state that predicts the validation tasks best.

    Args:
        learner: the learner in training.
        tasks: the validation tasks; None if there are none, and then nothing is looked at, kept or ended.
        every: the number of steps between two looks.
        patience: the number of looks without a new lowest NLL after which the run is over.
        seed: the seed of random predictions, the same at each look.
    """

    def __init__(self, learner: Learner, tasks: Dataset[Episode] | None, every: int, patience: int, seed: int) -> None:
        self.learner, self.tasks, self.every, self.patience, self.seed = learner, tasks, every, patience, seed
        self.seen: dict[int, float] = {}
        """The NLL by the number of steps before it."""
        self.best: dict[str, Tensor] = {}
        """The learner's state at the lowest of them."""

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on: all but the patience."""
        if self.tasks is None:
            return {"validate_every": None}
        return {"validate_every": self.every, "the first validation episode": digest(self.tasks[0])}

    def look(self, step: int, processes: Processes) -> None:
        """Notes the learner's NLL after so many steps, as the first process finds it."""
        if self.tasks is None:
            return
        found = torch.tensor([self._nll(self.tasks)], dtype=torch.float64, device="cpu")
        self.seen[step] = processes.gather(found)[0, 0].item()
        if lowest(self.seen) == step:
            self.best = {name: value.detach().clone() for name, value in self.learner.state_dict().items()}

    def _nll(self, tasks: Dataset[Episode]) -> float:
        """As `evaluate` gives it, but that predictions may be NaN: training may yet recover."""
        metric, episodes = NLL(), min(len(tasks), EPISODES)  # type: ignore[arg-type]
        with reading(self.learner, tasks, episodes=episodes, seed=self.seed) as read:
            rows = [metric.statistic(predict(self.learner, episode), episode.query) for _, episode in read]
        return float(metric.reduce(torch.cat(rows).sum(0)))

    def over(self) -> bool:
        """Whether the NLL no longer falls."""
        best = lowest(self.seen)
        return best is not None and sum(step > best for step in self.seen) >= self.patience

    def restore(self) -> None:
        """Takes the learner to its best state."""
        if self.best:
            self.learner.load_state_dict(self.best)
