"""What a posterior holds of its tasks, as tensors by name: how one that was told further points is kept in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from bayesmeta.posterior import Posterior

__all__ = ["posterior_state", "restored"]


def posterior_state(posterior: Posterior) -> dict[str, Any]:
    """What the posterior holds of its tasks: tensors, detached and on the CPU, and numbers.

    Raises:
        NotImplementedError: the posterior does not say what it holds.
    """
    return {
        name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf
        for name, leaf in _named(posterior, "")
    }


def restored(posterior: Posterior, state: Mapping[str, Any], source: str) -> Posterior:
    """A posterior of the same learner, with the state of another in the place of its own.

    Args:
        posterior: what the learner made of any support.
        state: by `posterior_state`.
        source: the file, for messages.

    Raises:
        ValueError: the state is not one of such a posterior, or holds NaN.
    """
    mine = dict(_named(posterior, ""))
    if mine.keys() != state.keys():
        odd = sorted(mine.keys() ^ state.keys())[0]
        raise ValueError(
            f"{source}: expected what a posterior of this learner holds, got another state, which differs in {odd!r}; load it "
            "with the learner that made the posterior"
        )
    for name, leaf in mine.items():
        found = state[name]
        if isinstance(leaf, Tensor) != isinstance(found, Tensor) or (
            isinstance(leaf, Tensor) and leaf.dim() != found.dim()
        ):
            raise ValueError(
                f"{source}: expected {name!r} of {_described(leaf)}, got {_described(found)}; load it with the learner that made "
                "the posterior"
            )
        if isinstance(found, Tensor) and found.isnan().any():
            raise ValueError(f"{source}: expected numbers in {name!r}, got NaN; go back to an older file")
    return _filled(posterior, state, "")


def _described(leaf: Any) -> str:
    return f"{leaf.dim()} dimensions" if isinstance(leaf, Tensor) else type(leaf).__name__


def _parts(posterior: Posterior) -> tuple[str, ...]:
    if posterior._of_tasks is None:
        raise NotImplementedError(
            f"posterior: expected one that says what it holds of each task, got {type(posterior).__name__}; name those "
            'attributes in its class, _of_tasks = ("mean", ...)'
        )
    return ("support", *posterior._of_tasks, *posterior._drawn)


def _named(posterior: Posterior, prefix: str) -> Iterator[tuple[str, Any]]:
    for part in _parts(posterior):
        for i, leaf in enumerate(tree_flatten(getattr(posterior, part))[0]):
            if isinstance(leaf, Posterior):
                yield from _named(leaf, f"{prefix}{part}.{i}.")
            else:
                yield f"{prefix}{part}.{i}", leaf


def _filled(posterior: Posterior, state: Mapping[str, Any], prefix: str) -> Posterior:
    later = copy(posterior)
    for part in _parts(posterior):
        leaves, structure = tree_flatten(getattr(posterior, part))
        filled: list[Any] = []
        for i, leaf in enumerate(leaves):
            name = f"{prefix}{part}.{i}"
            if isinstance(leaf, Posterior):
                filled.append(_filled(leaf, state, f"{name}."))
            else:
                found = state[name]
                filled.append(found.to(leaf.device) if isinstance(found, Tensor) else found)
        setattr(later, part, tree_unflatten(filled, structure))
    return later
