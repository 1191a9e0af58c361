"""Modules as functions of their weights. The module itself is never touched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesmeta.functional.mapping import Strategy, map_tasks
from bayesmeta.functional.plain import plainly
from bayesmeta.functional.vectors import Params, check_size, ravel, unravel

__all__ = ["Frozen", "adaptable", "call", "redrawn"]


def call(module: nn.Module, weights: Params, *inputs: Any) -> Any:
    """The module's output with these tensors in the place of its own parameters and buffers of the same names.

    A throwaway copy of the module's structure runs, with the given tensors in it. So threads, forks, copies, state_dict and
    optimisers only ever see the module's own parameters, and whatever was done to the module since (eval(), hooks, replaced
    layers) holds. What `forward` writes to the module's attributes is thrown away too.
    """
    if torch.compiler.is_compiling():  # which traces an exchange of parameters without making it
        with plainly({type(part) for part in module.modules()}):
            return functional_call(module, weights, inputs)
    copier = _Copier(module, weights)
    with plainly(copier.kinds):
        return copier.root(*inputs)


def adaptable(module: nn.Module, count: int | None = None) -> Params:
    """What a task may adapt: the parameters that require a gradient, by name. Frozen ones are shared and kept.

    Args:
        module: the network.
        count: how many numbers they must have, of a learner that learns more about each; any if None.

    Raises:
        ValueError: all parameters are frozen, or they have not as many numbers.
    """
    found: Params = {name: parameter for name, parameter in module.named_parameters() if not _is_frozen(parameter)}
    if not found:
        raise ValueError(
            "network: expected weights that a task can adapt, got none that requires a gradient; unfreeze some with "
            "requires_grad_(True). To answer without gradients use torch.no_grad()"
        )
    if count is not None:
        check_size(sum(parameter.numel() for parameter in found.values()), count)
    return found


def _is_frozen(parameter: Tensor) -> bool:
    """Not where a transform of torch.func has put another tensor in the parameter's place: those say that they need none."""
    return isinstance(parameter, nn.Parameter) and not parameter.requires_grad


class Frozen:
    """A module as it is now, as a function of its inputs and, if given, of other weights: later updates do not move it.

    Args:
        module: what is frozen; gradients flow to its parameters.
        strategy: how it is mapped over tasks.
    """

    def __init__(self, module: nn.Module, strategy: Strategy = "auto") -> None:
        self.module = module
        self.strategy = strategy
        self.state = {name: tensor.clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        self._adaptable = [name for name, parameter in module.named_parameters() if not _is_frozen(parameter)]

    @property
    def weights(self) -> Params:
        """Of the state, what a task may adapt: see `adaptable`, also for the error."""
        return {name: self.state[name] for name in self._adaptable or adaptable(self.module)}

    def __call__(self, *inputs: Any, weights: Params | Tensor | None = None) -> Any:
        """One task's output; with `weights` by name, or as one vector ``(P,)``, in the place of the module's own."""
        if isinstance(weights, Tensor):
            weights = unravel(weights, self.weights)
        return call(self.module, {**self.state, **(weights or {})}, *inputs)

    def run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What a function of the module as it was says: `function` is called with the module and the inputs. Not compiled."""
        copier = _Copier(self.module, self.state)
        with plainly(copier.kinds):
            return function(copier.root, *inputs)

    def map(self, function: Callable[..., Any], *batched: Any) -> Any:
        """`map_tasks`, of a function that calls the module."""
        return map_tasks(function, *batched, network=self.module, strategy=self.strategy)

    def over_tasks(self, x: Any, weights: Params | Tensor | None = None) -> Tensor:
        """Outputs at x ``(B, M, *X)``: ``(B, M, *O)``.

        Args:
            x: inputs of B tasks.
            weights: the module's own if None; else each task's, a tree of ``(B, ...)`` or vectors ``(B, P)``. With S draws of the
                vectors, ``(S, B, P)``, outputs are ``(S, B, M, *O)``.
        """
        if weights is None:
            result: Tensor = self.map(self, x)
            return result
        draws = isinstance(weights, Tensor) and weights.dim() == 3

        def of_task(weights: Params | Tensor, x: Any) -> Any:
            if draws and isinstance(weights, Tensor) and weights.dim() == 2:
                return self.map(lambda draw: self(x, weights=draw), weights)
            return self(x, weights=weights)

        result = self.map(of_task, weights.movedim(-2, 0) if isinstance(weights, Tensor) else weights, x)
        return result.movedim(1, 0) if draws else result


_PLAIN = {bool, int, float, complex, str, bytes, type(None), set, frozenset, torch.dtype, torch.device, torch.Size}
_UNUSED = {"_parameters", "_buffers", "_modules", "_state_dict_hooks", "_state_dict_pre_hooks"}
_UNUSED |= {"_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"}
"""Attributes of every module that its forward has no use for, or that are copied by themselves."""


class _Copier:
    """Copies a module's structure, sharing all that is no module and no replaced tensor.

    Attributes are followed too: lists of layers, bound methods, hooks and functions that close over a module or a tensor of the
    tree get the copy's in their place.
    """

    def __init__(self, root: nn.Module, weights: Params) -> None:
        self.weights = dict(weights)
        self.made: dict[int, Any] = {}
        """By the id of what the original has: what the copy has in its place."""
        self.kinds: set[type] = set()
        later: list[tuple[dict[str, Any], str, Any]] = []
        self.root = self.copy(root, "", later)
        for state, name, value in later:  # when all of the tree is known
            state[name] = self.follow(value)
        if self.weights:
            left = sorted(self.weights)
            raise KeyError(f"weights: expected names of the module's parameters or buffers, got {left}")

    def copy(self, module: nn.Module, prefix: str, later: list[tuple[dict[str, Any], str, Any]]) -> nn.Module:
        if id(module) in self.made:
            found: nn.Module = self.made[id(module)]
            return found
        kind = type(module)
        self.kinds.add(kind)
        made: nn.Module = object.__new__(kind)
        self.made[id(module)] = made
        state, given = vars(made), vars(module)
        state.update(given)
        for name, value in given.items():
            if type(value) not in _PLAIN and name not in _UNUSED and (type(value) not in _FOLLOWED or value):
                later.append((state, name, value))
        for name in ("_parameters", "_buffers"):
            state[name] = {key: self.tensor(prefix + key, value) for key, value in given[name].items()}
        state["_modules"] = {
            key: None if child is None else self.copy(child, f"{prefix}{key}.", later)
            for key, child in given["_modules"].items()
        }
        return made

    def tensor(self, name: str, own: Tensor | None) -> Tensor | None:
        """What stands under a name: the given tensor, and the same one wherever its original is tied to."""
        if own is None:
            return None
        found: Tensor = self.made.setdefault(id(own), self.weights.get(name, own))
        if name in self.weights and self.weights.pop(name) is not found:
            raise KeyError(
                f"weights: expected tied tensors by the first of their names, got {name!r}; see named_parameters()"
            )
        return found

    def follow(self, value: Any) -> Any:
        """The value, or its copy where it holds a module or a tensor that has one."""
        handler = _FOLLOWED.get(type(value))
        if handler is not None and id(value) not in self.made:
            self.made[id(value)] = value  # for what holds itself
            self.made[id(value)] = handler(self, value)
        return self.made.get(id(value), value)

    def mapping(self, value: dict[Any, Any]) -> Any:
        parts = {key: self.follow(part) for key, part in value.items()}
        return value if all(parts[key] is part for key, part in value.items()) else type(value)(parts)

    def sequence(self, value: Any) -> Any:
        parts = [self.follow(part) for part in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else type(value)(parts)

    def method(self, value: MethodType) -> Any:
        owner = self.follow(value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)

    def function(self, value: FunctionType) -> Any:
        cells = value.__closure__ or ()
        kept = [_contents(cell) for cell in cells]
        parts = [self.follow(part) for part in kept]
        if all(new is old for new, old in zip(parts, kept, strict=True)):
            return value
        closure = tuple(
            cell if new is old else CellType(new) for cell, new, old in zip(cells, parts, kept, strict=True)
        )
        made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, closure)
        made.__kwdefaults__ = value.__kwdefaults__
        return made

    def partial(self, value: partial[Any]) -> Any:
        parts = self.follow(value.func), self.sequence(value.args), self.mapping(value.keywords)
        if parts[0] is value.func and parts[1] is value.args and parts[2] is value.keywords:
            return value
        return partial(parts[0], *parts[1], **parts[2])


_FOLLOWED: dict[type, Callable[[_Copier, Any], Any]] = {
    dict: _Copier.mapping,
    OrderedDict: _Copier.mapping,
    list: _Copier.sequence,
    tuple: _Copier.sequence,
    MethodType: _Copier.method,
    FunctionType: _Copier.function,
    partial: _Copier.partial,
}


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def redrawn(network: nn.Module, count: int) -> Tensor:
    """What tasks adapt of the network, as if it were built anew, some times over: ``(count, P)``. By torch's global generator."""
    rows = [ravel(adaptable(network)).detach()[None, :][:0]]
    for _ in range(count):
        other = deepcopy(network)
        for module in other.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        fresh, given = adaptable(other), adaptable(network)
        with torch.no_grad():
            for name, parameter in fresh.items():
                if torch.equal(parameter, given[name]):  # of no module that knows how to draw it anew
                    parameter.add_(0.1 * torch.randn_like(parameter))
        rows.append(ravel(fresh).detach()[None])
    return torch.cat(rows)
