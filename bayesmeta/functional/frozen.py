"""Modules as functions of their weights. The module itself is never touched."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_leaves

from bayesmeta.functional.copying import Copier
from bayesmeta.functional.mapping import Strategy, each_by_itself, map_tasks
from bayesmeta.functional.plain import plainly
from bayesmeta.functional.vectors import Params, check_size, ravel, unravel

__all__ = ["Frozen", "adaptable", "call", "redrawn", "run"]


class _Linear(nn.Linear):
    """A linear layer with weights of its own for each of K tasks, ``(K, O, I)``, for inputs ``(K, M, I)``."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.mT
        if self.bias is None:
            return input @ weight
        weight = weight if weight.dim() == 3 else weight.expand(len(input), -1, -1)
        return torch.baddbmm(self.bias.unsqueeze(-2), input, weight)


def call(module: nn.Module, weights: Params, *inputs: Any) -> Any:
    """The module's output with these tensors in the place of its own parameters and buffers of the same names.

    A throwaway copy of the module's structure runs, with the given tensors in it. So threads, forks, copies, state_dict and
    optimisers only ever see the module's own parameters, and whatever was done to the module since (eval(), hooks, replaced
    layers) holds. What `forward` writes to the module's attributes is thrown away too.
    """
    return run(module, weights, _forward, *inputs)


def _forward(module: nn.Module, *inputs: Any) -> Any:
    return module(*inputs)


def run(module: nn.Module, weights: Params, function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function of the module and the inputs says with these tensors in the module, as in `call`."""
    if torch.compiler.is_compiling():  # which traces an exchange of parameters without making it
        with (
            plainly({type(part) for part in module.modules()}),
            _reparametrize_module(module, weights, tie_weights=True),
        ):
            return function(module, *inputs)
    copier = Copier(module, weights)
    with plainly(copier.kinds):
        return function(copier.root, *inputs)


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


_BLOCK = 8192
"""Points whose outputs are held at once, where no gradient needs them: so many fit a cache."""


class Frozen:
    """A module as it is now, as a function of its inputs and, if given, of other weights: later updates do not move it.

    Args:
        module: what is frozen; gradients flow to its parameters.
        strategy: how it is mapped over tasks.
    """

    def __init__(self, module: nn.Module, strategy: Strategy = "auto") -> None:
        self.module = module
        self.strategy = strategy
        parameters = list(module.named_parameters())  # once, since it takes as long as a small network
        self.state = {name: tensor.clone() for name, tensor in [*parameters, *module.named_buffers()]}
        self._adaptable = [name for name, parameter in parameters if not _is_frozen(parameter)]

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
        """What a function of the module as it was says: `function` is called with the module and the inputs."""
        return run(self.module, self.state, function, *inputs)

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
            if not self._apart(x):
                result: Tensor = self(x) if each_by_itself(self.module) else self.map(self, x)
                return result
            parts = self.in_blocks(x, 1, lambda outputs, block: outputs)
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        draws = isinstance(weights, Tensor) and weights.dim() == 3

        def of_task(weights: Params | Tensor, x: Any) -> Any:
            if draws and isinstance(weights, Tensor) and weights.dim() == 2:
                return self.map(lambda draw: self(x, weights=draw), weights)
            return self(x, weights=weights)

        if self.layer_by_layer(x, draws):
            return self._together(x, weights)
        result = self.map(of_task, weights.movedim(-2, 0) if isinstance(weights, Tensor) else weights, x)
        return result.movedim(1, 0) if draws else result

    def in_blocks(self, x: Any, parts: int, then: Callable[[Tensor, slice], Tensor]) -> list[Tensor]:
        """What `then` makes of outputs ``(B S, M, *O)`` at x ``(B, S M, *X)``: of some of the B S parts at a time.

        So what is between fits a cache, where no gradient needs it: memory that is new costs more than a small network.

        Args:
            x: inputs of B tasks.
            parts: S, in which each task's points come.
            then: is told the slice of the B S, too.
        """
        if not self._apart(x):
            outputs = self.over_tasks(x)
            return [then(outputs.unflatten(1, (parts, outputs.shape[1] // parts)).flatten(0, 1), slice(None))]
        each = x.unflatten(1, (parts, x.shape[1] // parts)).flatten(0, 1)
        size = max(1, _BLOCK // max(1, each.shape[1]))

        def run(network: nn.Module) -> list[Tensor]:  # on a matrix of points, which need not lie row by row
            blocks = [(each[start : start + size], slice(start, start + size)) for start in range(0, len(each), size)]
            return [then(network(part.flatten(0, 1)).unflatten(0, part.shape[:2]), block) for part, block in blocks]

        found: list[Tensor] = self.run(run)
        return found

    def _apart(self, x: Any) -> bool:
        """Whether points are asked some at a time: where the network takes any of them, and no gradient is needed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not isinstance(x, Tensor):
            return False
        return each_by_itself(self.module)

    def layer_by_layer(self, x: Any, draws: bool = False) -> bool:
        """Whether weights that differ make one product of matrices a layer, in half the time that vmap takes for a small one."""
        if torch.compiler.is_compiling() or self.strategy == "loop" or not (draws or len(tree_leaves(x)[0]) > 1):
            return False
        return isinstance(x, Tensor) and x.dim() == 3 and each_by_itself(self.module, own=True)

    def _together(self, x: Tensor, weights: Params | Tensor) -> Tensor:
        lead = weights.shape[:-1] if isinstance(weights, Tensor) else x.shape[:1]
        if isinstance(weights, Tensor):
            weights = unravel(weights.flatten(0, -2), self.weights)
        values: Tensor = self._copied(weights)(x.expand(*lead, *x.shape[1:]).flatten(0, len(lead) - 1))
        return values.unflatten(0, lead)

    def _copied(self, weights: Params) -> nn.Module:
        """The module with weights of its own for each task, `layer_by_layer`."""
        return Copier(self.module, {**self.state, **weights}, {nn.Linear: _Linear}).root

    def pullback(self, x: Any, weights: Tensor) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
        """What takes gradients by outputs back to the weights, as these are when it is asked: they may change in place.

        Args:
            x: inputs of K tasks, ``(K, M, *X)``.
            weights: each task's, ``(K, P)``.

        Returns:
            From the function that makes the gradient by outputs ``(K, M, *O)`` of them, to that by the weights ``(K, P)``.
        """
        leaves = {name: part.detach().requires_grad_() for name, part in unravel(weights, self.weights).items()}
        copied = self._copied(leaves) if self.layer_by_layer(x) else lambda x: self.over_tasks(x, leaves)

        def gradient(by_outputs: Callable[[Tensor], Tensor]) -> Tensor:
            with torch.enable_grad():
                values = copied(x)
            slope, wanted = by_outputs(values.detach()), list(leaves.values())
            slopes = torch.autograd.grad(values, wanted, slope, materialize_grads=True)
            return torch.cat([part.flatten(1) for part in slopes], 1)

        return gradient


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
