"""What learners ask of a network before they take it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bayesmeta.functional import unfollowed
from bayesmeta.networks.norms import BatchNorm

__all__ = ["check_network", "check_padding", "has_batch_norm", "parts"]


def check_network(network: nn.Module, name: str = "network") -> None:
    """Raises an error if something is no network that can be asked for tasks' weights.

    One that keeps running statistics, which adaptation per task cannot update; one that torch has compiled or scripted, which
    knows no weights but its own; one with layers that were never called, and so have no weights yet.
    """
    if not isinstance(network, nn.Module):
        given = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise TypeError(
            f"{name}: expected a torch module such as MLP(1, 1), got {given}; build one, or make it a module"
        )
    for path, module in network.named_modules():
        where = f"{type(module).__name__} at {path!r}" if path else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name}: expected a plain module, got {where}; pass the original, and fit(compile=True) if need be"
            )
        if any(nn.parameter.is_lazy(parameter) for parameter in module._parameters.values()):
            raise ValueError(
                f"{name}: expected weights, got {where}, which has none before its first call; call it once"
            )
        if getattr(module, "track_running_stats", False):
            raise ValueError(
                f"{name}: expected no running statistics, got {where}; use group or layer normalisation, or "
                "track_running_stats=False (transductive: predictions then depend on the other queries). Of a pretrained body "
                "that stays as it is, compute the features once, and give them as x"
            )
        if type(module).__name__ == "_SpectralNorm" or any(
            type(hook).__name__ == "SpectralNorm" for hook in module._forward_pre_hooks.values()
        ):
            raise ValueError(
                f"{name}: expected no state that a forward pass changes, got spectral_norm of {where}; leave it out"
            )
    if found := unfollowed(network):
        raise ValueError(
            f"{name}: expected layers in attributes, lists, dicts or functions, where a task's weights can take their place, "
            f"got one at {found[0]!r} that is reached {found[1]}; make that an nn.Module, or call the layer by its attribute"
        )


def has_batch_norm(network: nn.Module) -> bool:
    """Whether what a network says of a point depends on the points beside it."""
    return bool(parts(network, BatchNorm, nn.modules.batchnorm._BatchNorm))


_Kind = TypeVar("_Kind", bound=nn.Module)


def parts(module: nn.Module, *kinds: type[_Kind], alike: bool = False) -> list[_Kind]:
    """Of a module and all within it those of some kinds, in a fifth of the time of ``module.modules()``.

    Learners ask at each call.

    Args:
        module: where to look.
        kinds: classes of modules.
        alike: whether to leave out what is within a learner of `label_dims`, and so meets other points than the module.
    """
    found: list[Any] = [module]
    for part in found:  # which grows meanwhile
        if part._modules and not (alike and getattr(type(part), "label_dims", 0) > 0):
            found += [child for child in part._modules.values() if child is not None]
    return [part for part in found if _is(type(part), kinds)]  # type: ignore[arg-type]


@lru_cache(maxsize=10_000)  # abstract classes take long to say
def _is(kind: type, kinds: tuple[type, ...]) -> bool:
    return issubclass(kind, kinds)


def check_padding(network: nn.Module, mask: Tensor, name: str) -> None:
    """Raises a ValueError if padding would enter the statistics of a batch normalisation in the network.

    It stands where points come to a learner: at its call, in `fit` for each episode, and where queries are asked.
    """
    if not has_batch_norm(network):
        return
    counts = mask.sum(1)
    ragged = ((counts > 0) & (counts < mask.shape[1])).nonzero()
    if len(ragged):
        task = int(ragged[0, 0])
        raise ValueError(
            f"{name}: expected tasks of equal length under batch normalisation, got {int(counts[task])} of {mask.shape[1]} "
            f"points in task {task}; the padding would enter its statistics. Use GroupNorm, or equal numbers of points"
        )
