"""One step of meta-training, and what there is to tell of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bayesmeta.data import Episode, move
from bayesmeta.learner import Learner
from bayesmeta.training.checks import check_episode, explain, explain_data
from bayesmeta.training.gradient import MetaGradient, assign
from bayesmeta.training.interruption import Interruption
from bayesmeta.training.processes import Processes
from bayesmeta.training.validation import lowest

__all__ = ["Diverged", "History", "Update"]


@dataclass
class History:
    """What happened in `fit`, step by step."""

    losses: list[float] = field(default_factory=list)
    """The meta-objective of each step, before its update."""
    gradient_norms: list[float] = field(default_factory=list)
    """The norm of each step's meta-gradient, before clipping."""
    seconds: float = 0.0
    """Wall-clock time."""
    interrupted: bool = False
    """True if Ctrl-C ended the run early."""
    validation: dict[int, float] = field(default_factory=dict)
    """The predictive NLL of the validation tasks, by the number of steps before it."""

    def __repr__(self) -> str:  # without the lists, which are long
        last = f"{self.losses[-1]:.4g}" if self.losses else None
        return (
            f"History(steps={len(self.losses)}, last_loss={last}, best={self.best}, seconds={self.seconds:.1f}, "
            f"interrupted={self.interrupted})"
        )

    @property
    def best(self) -> int | None:
        """The number of steps with the lowest of them, after which the learner's state was kept; None without validation."""
        return lowest(self.validation)


class Diverged(FloatingPointError):
    """The loss, a gradient or an updated weight was not finite; `history` ends there.

    The learner is as it was before that step, unless the message says that an update broke it. No checkpoint is written then.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:  # else a process pool cannot hand it back
        return type(self), (str(self), self.history)


@dataclass
class Update:
    """The step of an episode: its meta-gradient, what is checked of it, and the update."""

    learner: Learner
    optimizer: Optimizer
    scheduler: LRScheduler | None
    clip: float | None
    processes: Processes
    interruption: Interruption
    meta_gradient: MetaGradient
    history: History
    first: Episode
    """Which fits the learner."""

    def __call__(self, episode: Episode, index: int) -> None:
        step = len(self.history.losses)
        check_episode(self.learner, episode, index, self.first)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss, gradient = self.meta_gradient(move(self.processes.share(episode), self.learner))
        except (ValueError, IndexError, RuntimeError) as error:
            if broken := explain_data(episode, index):
                raise Diverged(f"step {step}: {broken}", self.history) from error
            error.add_note(f"at step {step}, in episode {index}; the learner is as it was before this step")
            raise
        trained = self.meta_gradient.parameters
        loss, gradient, self.history.interrupted = self.processes.mean(loss, gradient, bool(self.interruption), trained)
        self.interruption.breakable = False
        assign(gradient, trained)
        everything = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(everything, self.clip if self.clip is not None else float("inf")).item()
        if not (torch.isfinite(loss) and norm < float("inf")):
            raise Diverged(explain(self.learner, loss, step, episode, index), self.history)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.history.losses.append(loss.item())
        self.history.gradient_norms.append(norm)
