"""What tells one run from another, as data: settings by name, checksums, and where its random generators are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves

from bayesmeta.randomness import set_stream_state, stream_state
from bayesmeta.recorded import Setting

__all__ = ["MODES", "describe", "digest", "generator_states", "plain", "set_generator_states"]

MODES = "parts in evaluation mode"


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


def set_generator_states(states: Mapping[str, Tensor]) -> None:
    """Takes this process's random generators to where `generator_states` found them.

    Raises:
        KeyError, RuntimeError, TypeError: they are no states of these generators.
    """
    for name, (_, put) in _GENERATORS.items():
        put(states[name])


def describe(
    learner: nn.Module, optimizer: Optimizer | None = None, scheduler: LRScheduler | None = None
) -> dict[str, Any]:
    """All but the weights that tells one learner, optimiser and scheduler from others, as numbers and texts by name.

    Functions are described by their names alone.
    """
    described: dict[str, Any] = {"learner": type(learner).__name__, "torch": str(torch.__version__)}
    if learner.training and (apart := [path for path, module in learner.named_modules() if not module.training]):
        described[MODES] = apart
    for path, module in learner.named_modules(prefix="learner"):  # the prefix keeps its steps apart from those of fit
        described[f"type of {path}"] = type(module).__name__
        if hooks := [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]:
            described[f"hooks of {path}"] = [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks]
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training":
                described |= plain(f"{path}.{name}", value)
    for name, value in learner.state_dict().items():
        if isinstance(value, Tensor):
            described |= {f"shape of {name}": list(value.shape), f"floating type of {name}": str(value.dtype)}
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    for name, parameter in learner.named_parameters():
        described[f"requires_grad of {name}"] = parameter.requires_grad
    described["optimizer"] = type(optimizer).__name__
    for place, group in enumerate(optimizer.param_groups if optimizer is not None else []):
        trained = [names.get(id(parameter), "another tensor") for parameter in group["params"]]
        described |= plain(f"optimizer.param_groups[{place}]", {**group, "params": trained})
    described["scheduler"] = type(scheduler).__name__
    return described | (plain("scheduler", scheduler.state_dict()) if scheduler is not None else {})


def plain(name: str, value: Any) -> dict[str, Any]:
    """The numbers, texts and functions in a setting, by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {name: value}
    if isinstance(value, Setting):
        value = {"kind": type(value).__name__, **vars(value)}
    if isinstance(value, Mapping):
        parts = [plain(f"{name}.{key}", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [plain(f"{name}[{place}]", part) for place, part in enumerate(value)]
    elif (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, np.generic):
        return {name: value.item()}
    else:
        return {name: value.__qualname__} if hasattr(value, "__qualname__") else {}
    return {key: found for part in parts for key, found in part.items()}


def digest(tree: Any) -> str:
    """A checksum of the types, shapes and values of tensors: an episode's, say, or a learner's weights."""
    checksum = hashlib.sha256()
    for leaf in tree_leaves(tree):
        if not isinstance(leaf, Tensor):
            checksum.update(repr(leaf).encode())
            continue
        checksum.update(repr((leaf.dtype, tuple(leaf.shape))).encode())
        checksum.update(leaf.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()
