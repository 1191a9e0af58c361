"""Where a run of `fit` is, on disk: all that the rest of it depends on, and what it was asked to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from bayesmeta.data import Episode
from bayesmeta.files import MODES, alone, check_state, check_target, describe, digest, read, set_generator_states, write
from bayesmeta.learner import Learner

__all__ = ["Checkpoint"]

_RUN = {
    "settings": dict,
    "moved": list,
    "episodes": dict,
    "states": dict,
    "generators": dict,
    "losses": list,
    "gradient_norms": list,
    "seconds": float,
    "validation": dict,
    "best": dict,
}

_LONGER = (
    ". The default rate falls to 0 at the last step: to train for longer, repeat the call with the old steps, which gives the "
    "trained learner, and fit that in another folder; or begin with an optimizer whose rate does not depend on steps, e.g. "
    "torch.optim.Adam(learner.parameters(), lr=1e-3), and any call may ask for more of them"
)


class Checkpoint:
    """A run of `fit` on disk: where it was, and what it was asked to do.

    Args:
        folder: of the run; it is made where there is none.
        learner, optimizer, scheduler: of the run.
        settings: what `describe` says of them before the first step, and the arguments that decide the result.
        first: the digest of the first episode.

    Raises:
        ValueError, PermissionError: the folder's file cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        learner: Learner,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        settings: Mapping[str, Any],
        first: str,
    ) -> None:
        self.path = Path(folder) / "checkpoint.bayesmeta"
        self.learner, self.optimizer, self.scheduler = learner, optimizer, scheduler
        self.settings = dict(settings)
        self.moved: set[str] = set()
        self.first = first
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"checkpoint: expected a folder, got {folder}, which is a file or in one; name a folder"
            ) from error
        check_target(self.path, "checkpoint")

    def alone(self) -> AbstractContextManager[None]:
        """Keeps other runs from the folder.

        Raises:
            ValueError: one is at work there.
        """
        return alone(self.path.parent)

    def write(self, generators: Mapping[str, Tensor], episode: Episode, **progress: Any) -> None:
        """Writes the run's state after the step that `episode` was for.

        Args:
            generators: the states of each process's generators by name, ``(processes, bytes)``.
            episode: of the last step.
            progress: ``losses`` and ``gradient_norms``, a number a step; ``seconds``; ``validation``, the NLL by the number of
                steps, and ``best``, the learner's state at the lowest.
        """
        now = describe(self.learner, self.optimizer, self.scheduler)
        self.moved |= {name for name in now if now[name] != self.settings.get(name)}
        write(
            self.path,
            {
                "kind": "checkpoint",
                "settings": self.settings,
                "moved": sorted(self.moved),
                "episodes": {"first": self.first, "last": digest(episode)},
                "states": {name: part.state_dict() for name, part in self._parts()},
                "generators": dict(generators),
                **progress,
            },
        )

    def resume(self, tasks: Dataset[Episode], rank: int = 0) -> dict[str, Any] | None:
        """Takes learner, optimiser, scheduler and generators to where the run was, and returns its progress; None for a new run.

        A setting that training itself moves, such as a rate with a schedule, is progress and not compared. The parts of a learner
        in evaluation mode, in which runs end, are taken to the run's modes.

        Args:
            tasks: of the run, of which the last episode that it trained on is read again.
            rank: this process's.

        Raises:
            ValueError: the file is damaged, or belongs to a run of other settings. Nothing is changed then.
        """
        if not self.path.exists():
            return None
        content = read(self.path, "checkpoint", *_RUN)
        if wrong := [name for name, kind in _RUN.items() if not isinstance(content[name], kind)]:
            raise ValueError(
                f"{self.path}: expected what a run of this library left, got another {wrong[0]}; use another folder"
            )
        self._check(content, tasks)
        try:
            for name, part in self._parts():
                part.load_state_dict(content["states"][name])
            set_generator_states({name: states[rank] for name, states in content["generators"].items()})
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.path}: expected states that fit the run, got others ({error}); use another folder"
            ) from error
        self.settings, self.moved = content["settings"], set(content["moved"])
        if not self.learner.training:  # as `fit` leaves it
            self.learner.train()
            for path in self.settings.get(MODES, []):
                self.learner.get_submodule(path).training = False
        return content

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """What has a state: the learner last, so that it is as it was where the others refuse theirs."""
        yield "optimizer", self.optimizer
        if self.scheduler is not None:
            yield "scheduler", self.scheduler
        yield "learner", self.learner

    def _check(self, content: Mapping[str, Any], tasks: Dataset[Episode]) -> None:
        folder, theirs, moved = self.path.parent, content["settings"], set(content["moved"])
        remedy = "use the same tasks, whose episodes depend on their index alone, or another folder"
        if self.first != content["episodes"].get("first"):
            raise ValueError(
                f"checkpoint: expected the tasks of the run of {folder}, got others, whose first episode differs; {remedy}"
            )
        for name in self.settings | theirs:
            if name == MODES and not self.learner.training:
                continue
            if name not in moved and self.settings.get(name) != theirs.get(name):
                raise ValueError(
                    f"checkpoint: expected the run of {folder} to go on, whose {name} is {theirs.get(name)!r}, got "
                    f"{self.settings.get(name)!r}; use the same settings, or another folder"
                    + (_LONGER if name == "steps" else "")
                )
        last = (len(content["losses"]) - 1) % len(tasks)  # type: ignore[arg-type]
        if digest(tasks[last]) != content["episodes"].get("last"):
            raise ValueError(
                f"checkpoint: expected the tasks of the run of {folder}, got others, whose episode {last}, the last that "
                f"it trained on, differs; {remedy}"
            )
        check_state(self.learner, content["states"].get("learner"), str(self.path))
        looked, best = content["validation"], content["best"]
        if not all(isinstance(step, int) and isinstance(nll, float) for step, nll in looked.items()):
            raise ValueError(
                f"{self.path}: expected the NLL of validation tasks by steps, got others; use another folder"
            )
        if looked:
            check_state(self.learner, best, f"{self.path}: the best state")
