"""Where a run of `fit` is, on disk: all that the rest of it depends on, and what it was asked to do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from bayesmeta.data import Episode
from bayesmeta.files import alone, check_state, check_target, read, write
from bayesmeta.learner import Learner
from bayesmeta.randomness import set_stream_state, stream_state
from bayesmeta.recorded import Setting

__all__ = ["Checkpoint", "describe", "digest", "generator_states"]

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

_MODES = "parts in evaluation mode"

_LONGER = (
    ". The default rate falls to 0 at the last step: to train for longer, repeat the call with the old steps, which gives the "
    "trained learner, and fit that in another folder; or begin with an optimizer whose rate does not depend on steps, e.g. "
    "torch.optim.Adam(learner.parameters(), lr=1e-3), and any call may ask for more of them"
)


def _cuda_states() -> Tensor:
    return torch.stack(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else torch.empty(0, 16).byte()


def _set_cuda_states(states: Tensor) -> None:
    for device, state in enumerate(states.reshape(len(states) // 16, 16)[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.clone(), device)


_GENERATORS: Mapping[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]] = {
    "cpu": (torch.get_rng_state, lambda state: torch.set_rng_state(state.clone())),  # which crashes on views
    "cuda": (_cuda_states, _set_cuda_states),
    "stream": (stream_state, set_stream_state),
}
"""How to take and to set the state of each generator that a run draws from, as bytes."""


def generator_states() -> dict[str, Tensor]:
    """The states of this process's random generators by name, each a row of bytes."""
    return {name: take().flatten() for name, (take, _) in _GENERATORS.items()}


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
            for name, (_, put) in _GENERATORS.items():
                put(content["generators"][name][rank])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.path}: expected states that fit the run, got others ({error}); use another folder"
            ) from error
        self.settings, self.moved = content["settings"], set(content["moved"])
        if not self.learner.training:  # as `fit` leaves it
            self.learner.train()
            for path in self.settings.get(_MODES, []):
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
            if name == _MODES and not self.learner.training:
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


def describe(
    learner: Learner, optimizer: Optimizer | None = None, scheduler: LRScheduler | None = None
) -> dict[str, Any]:
    """All but the weights that tells one learner, optimiser and scheduler from others, as numbers and texts by name.

    Functions are described by their names alone.
    """
    described: dict[str, Any] = {"learner": type(learner).__name__, "torch": str(torch.__version__)}
    if learner.training and (apart := [path for path, module in learner.named_modules() if not module.training]):
        described[_MODES] = apart
    for path, module in learner.named_modules(prefix="learner"):  # the prefix keeps its steps apart from those of fit
        described[f"type of {path}"] = type(module).__name__
        if hooks := [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]:
            described[f"hooks of {path}"] = [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks]
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training":
                described |= _plain(f"{path}.{name}", value)
    for name, value in learner.state_dict().items():
        if isinstance(value, Tensor):
            described |= {f"shape of {name}": list(value.shape), f"floating type of {name}": str(value.dtype)}
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    for name, parameter in learner.named_parameters():
        described[f"requires_grad of {name}"] = parameter.requires_grad
    described["optimizer"] = type(optimizer).__name__
    for place, group in enumerate(optimizer.param_groups if optimizer is not None else []):
        trained = [names.get(id(parameter), "another tensor") for parameter in group["params"]]
        described |= _plain(f"optimizer.param_groups[{place}]", {**group, "params": trained})
    described["scheduler"] = type(scheduler).__name__
    return described | (_plain("scheduler", scheduler.state_dict()) if scheduler is not None else {})


def _plain(name: str, value: Any) -> dict[str, Any]:
    """The numbers, texts and functions in a setting, by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {name: value}
    if isinstance(value, Setting):
        value = {"kind": type(value).__name__, **vars(value)}
    if isinstance(value, Mapping):
        parts = [_plain(f"{name}.{key}", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [_plain(f"{name}[{place}]", part) for place, part in enumerate(value)]
    elif (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, np.generic):
        return {name: value.item()}
    else:
        return {name: value.__qualname__} if hasattr(value, "__qualname__") else {}
    return {key: found for part in parts for key, found in part.items()}


def digest(episode: Episode) -> str:
    """A checksum of an episode's types, shapes and values."""
    checksum = hashlib.sha256()
    for leaf in tree_leaves(episode):
        checksum.update(repr((leaf.dtype, tuple(leaf.shape))).encode())
        checksum.update(leaf.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()
