"""The one place where functions of one task are mapped over B tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.functional.compilation import part
from bayesmeta.recorded import Recorded

__all__ = ["Mapped", "Strategy", "chosen_strategy", "each_by_itself", "map_tasks"]

Strategy: TypeAlias = Literal["auto", "vmap", "loop"]


class Mapped(Recorded):
    """A module that maps over tasks. Its strategy is that of all such modules within it too."""

    _strategy: Strategy = "auto"

    @property
    def strategy(self) -> Strategy:
        """How it maps over tasks, ``"auto"``, ``"vmap"`` or ``"loop"`` (see `map_tasks`); set for all that is within, too."""
        return self._strategy

    @strategy.setter
    def strategy(self, strategy: Strategy) -> None:
        check_strategy(strategy)
        for module in self.modules():
            if isinstance(module, Mapped):
                module._strategy = strategy


def check_strategy(strategy: str) -> None:
    """Raises a ValueError if a strategy is not one."""
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy: expected 'auto', 'vmap' or 'loop', got {strategy!r}; write it so")


def map_tasks(function: Callable[..., Any], *batched: Any, network: nn.Module, strategy: Strategy = "auto") -> Any:
    """Applies a function of one task to B tasks: trees of ``(B, ...)`` tensors in, trees of ``(B, ...)`` out.

    Args:
        function: takes one task's trees, returns a tree of tensors.
        batched: trees whose tensors all lead with B.
        network: the network that the function calls, by which ``"auto"`` chooses.
        strategy: ``"vmap"`` runs all tasks in one batched call, ``"loop"`` one after the other. ``"auto"`` loops over recurrent
            layers, for which torch has no batched call, over dropout in training, over convolutions on a CPU, where a
            batched one with a weight a task is 2 to 4 times slower than B plain ones, and over a single task, which is served
            in a third of the time; it maps everything else with vmap.

    Example:
        >>> map_tasks(lambda x: x.sum(), torch.ones(2, 3), network=nn.Linear(1, 1))
        tensor([3., 3.])
    """
    check_strategy(strategy)
    tasks = len(tree_leaves(batched)[0])
    if strategy == "auto":
        strategy = "loop" if tasks == 1 else chosen_strategy(network)[0]
    if strategy == "vmap":
        # torch before 2.12 asks the function for its name as it compiles, which a frozen module does not have
        return part(lambda *batched: vmap(lambda *one: function(*one))(*batched))(*batched)
    function = part(function)
    results = [function(*tree_map(lambda leaf, b=b: leaf[b], batched)) for b in range(tasks)]
    return tree_map(lambda *leaves: torch.stack(leaves), *results)


_OF_THE_LAST_DIMENSION = {
    *(nn.Identity, nn.Sequential, nn.Linear),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign),
}
"""Layers that take any leading dimensions, and treat all that stand there alike, as `nn.LayerNorm` does where all share its
weights; a class may say so of itself, by an attribute `each_by_itself`."""


def each_by_itself(network: nn.Module, own: bool = False) -> bool:
    """Whether a network takes all tasks at once as they are, which spares it what mapping costs.

    Args:
        network: the network.
        own: with weights of its own for each task, in linear layers alone, and not weights that all share.
    """
    inside = list(network.modules())
    if any(module._forward_hooks or module._forward_pre_hooks for module in inside):  # which may mix what they see
        return False
    kinds = {type(module) for module in inside} - ({nn.LayerNorm} if not own else set())
    return all(kind in _OF_THE_LAST_DIMENSION or vars(kind).get("each_by_itself", False) for kind in kinds)


_RANDOM = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention)
"""Layers that may drop some of their values at random."""


def _drops(module: nn.Module) -> bool:
    """Whether a module drops some of its values at random, now."""
    if not isinstance(module, _RANDOM):
        return False
    share = module.dropout if isinstance(module, nn.MultiheadAttention) else module.p
    return module.training and share > 0


def chosen_strategy(network: nn.Module) -> tuple[Strategy, str]:
    """What ``"auto"`` means for a network, and why.

    Example:
        >>> chosen_strategy(nn.Linear(1, 1))
        ('vmap', 'it has no convolutions')
    """
    inside = list(network.modules())
    kinds = {type(module) for module in inside}
    if any(issubclass(kind, (nn.RNNBase, nn.RNNCellBase)) for kind in kinds):
        return "loop", "torch has no batched call of recurrent layers with other weights for each task"
    if any(issubclass(kind, _RANDOM) for kind in kinds) and any(map(_drops, inside)):
        return "loop", "random numbers, as dropout's, are not drawn within vmap"
    if not any(issubclass(kind, nn.modules.conv._ConvNd) for kind in kinds):
        return "vmap", "it has no convolutions"
    if not all(p.device.type == "cpu" for p in network.parameters()):
        return "vmap", "it is not on a CPU"
    return "loop", "a CPU has no fast convolution with other weights for each task"
