"""Tensor functions of one task, and the one place where they are mapped over B tasks.

Functions here see plain tensors and pytrees. Randomness is drawn outside and passed in.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.compilation import part

__all__ = [
    "Params",
    "Strategy",
    "chosen_strategy",
    "clamped",
    "conjugate_gradient",
    "descend",
    "first_order",
    "frozen",
    "hessian_product",
    "map_tasks",
    "named",
    "outputs",
    "ravel",
    "redrawn",
    "second_order",
    "snapshot",
    "standard_normal",
    "stein_direction",
    "unravel",
    "with_bias",
]

Params: TypeAlias = dict[str, Tensor]
Objective: TypeAlias = Callable[[Params], Tensor]
Gradient: TypeAlias = Callable[[Objective], Callable[[Params], Params]]
Strategy: TypeAlias = Literal["auto", "vmap", "loop"]


def map_tasks(function: Callable[..., Any], *batched: Any, network: nn.Module, strategy: Strategy = "auto") -> Any:
    """Applies a function of one task to B tasks: trees of ``(B, ...)`` tensors in, trees of ``(B, ...)`` out.

    Args:
        function: takes one task's trees, returns a tree of tensors.
        batched: trees whose tensors all lead with B.
        network: the network that the function calls, by which ``"auto"`` chooses.
        strategy: ``"vmap"`` runs all tasks in one batched call, ``"loop"`` one after the other. ``"auto"`` loops
            over convolutional networks on a CPU, where a batched convolution with a weight a task is 2 to 4 times
            slower than B plain ones, and maps everything else with vmap.

    Example:
        >>> map_tasks(lambda x: x.sum(), torch.ones(2, 3), network=nn.Linear(1, 1))
        tensor([3., 3.])
    """
    if strategy == "auto":
        strategy, _ = chosen_strategy(network)
    if strategy not in ("vmap", "loop"):
        raise ValueError(f"strategy: expected 'auto', 'vmap' or 'loop', got {strategy!r}")
    if strategy == "vmap":
        return part(lambda *batched: vmap(function)(*batched))(*batched)
    tasks = len(tree_leaves(batched)[0])
    function = part(function)
    results = [function(*tree_map(lambda leaf, b=b: leaf[b], batched)) for b in range(tasks)]
    return tree_map(lambda *leaves: torch.stack(leaves), *results)


def chosen_strategy(network: nn.Module) -> tuple[Strategy, str]:
    """What ``"auto"`` means for a network, and why.

    Example:
        >>> chosen_strategy(nn.Linear(1, 1))
        ('vmap', 'it has no convolutions')
    """
    if not any(isinstance(m, nn.modules.conv._ConvNd) for m in network.modules()):
        return "vmap", "it has no convolutions"
    if not all(p.device.type == "cpu" for p in network.parameters()):
        return "vmap", "it is not on a CPU"
    return "loop", "a CPU has no fast convolution with other weights for each task"


def snapshot(module: nn.Module) -> Params:
    """The module's parameters by name, cloned: differentiable, and unmoved by later updates of the module."""
    with locked(module):
        return {name: parameter.clone() for name, parameter in module.named_parameters()}


def named(module: nn.Module) -> Params:
    """The module's own parameters by name, never those that another thread's functional call has put in their place."""
    with locked(module):
        return dict(module.named_parameters())


def second_order(objective: Objective) -> Callable[[Params], Params]:
    """The gradient of an objective, differentiable in its turn: ``torch.func.grad``.

    Where no other transform is at work, as in a loop over tasks, and the parameters are being trained, it is taken by
    ``torch.autograd.grad``: each operation under ``torch.func`` costs some more microseconds of a CPU.
    """

    def differentiable(params: Params) -> Params:
        if (
            torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or not torch.is_grad_enabled()
            or not all(value.requires_grad for value in params.values())
        ):
            slope: Params = grad(objective)(params)
            return slope
        views = {name: value.view_as(value) for name, value in params.items()}  # the objective may hold params besides
        value = objective(views)
        if not (params and value.requires_grad):  # it depends on none of them
            return {name: torch.zeros_like(view) for name, view in views.items()}
        slopes = torch.autograd.grad(value, list(views.values()), create_graph=True, materialize_grads=True)
        return dict(zip(views, slopes, strict=True))

    return differentiable


def descend(
    objective: Objective,
    params: Params,
    steps: int,
    rates: float | Params,
    gradient: Gradient = second_order,
) -> Params:
    """K steps of gradient descent, ``params <- params - rates * gradient(objective)(params)``.

    Differentiable through all steps, to any order that `gradient` keeps.

    Args:
        objective: one task's loss as a function of its parameters.
        params: where to start.
        steps: K, how many steps to take.
        rates: one step size, or a tree of them, broadcast against the parameters.
        gradient: `second_order`, or another such as `first_order`.

    Example:
        >>> descend(lambda p: p["w"] ** 2, {"w": torch.tensor(1.0)}, steps=2, rates=0.25)
        {'w': tensor(0.2500)}
    """
    if isinstance(steps, float) or steps < 0:
        raise ValueError(f"steps: expected a whole number of inner steps, at least 0, got {steps}")
    if not isinstance(rates, dict) and not 0 <= rates < float("inf"):
        raise ValueError(f"rate: expected a finite inner step size, at least 0, got {rates}; e.g. 0.01")
    for _ in range(steps):
        slope = gradient(objective)(params)
        if isinstance(rates, dict):
            params = {name: value - rates[name] * slope[name] for name, value in params.items()}
        else:
            params = {name: value - rates * slope[name] for name, value in params.items()}
    return params


def first_order(objective: Objective) -> Callable[[Params], Params]:
    """The gradient of an objective as a constant: what lies outside does not differentiate through it."""

    def constant(params: Params) -> Params:
        with torch.no_grad():  # no_grad hides the outer graph only; grad still differentiates inside
            slope: Params = grad(objective)(params)
        return slope

    return constant


def clamped(limit: float) -> Gradient:
    """The gradient with each entry held within ±limit, so that one wild task cannot throw its weights away."""

    def of(objective: Objective) -> Callable[[Params], Params]:
        return lambda params: {
            name: slope.clamp(-limit, limit) for name, slope in second_order(objective)(params).items()
        }

    return of


def hessian_product(objective: Objective, params: Params, vector: Params) -> Params:
    """The Hessian of a scalar objective at `params`, times a vector: forward over reverse, no matrix is built."""
    if torch.compiler.is_compiling():  # reverse over reverse, as the compiler fails at forward mode within vmap
        return grad(lambda at: ravel(grad(objective)(at)) @ ravel(vector))(params)
    with _FORWARD_MODE:
        product: Params = torch.func.jvp(grad(objective), (params,), (vector,))[1]
    return product


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solves ``product(solution) = target`` for a symmetric positive definite linear map of vectors ``(P,)``.

    The method of Hestenes & Stiefel (1952), exact after P iterations but for rounding. It stops where the residual
    vanishes, and where a direction has no positive curvature (the map was not positive definite after all), with the
    solution so far, or the target itself if that is the first direction: the truncated method of Steihaug (1983).

    Example:
        >>> conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 8.0]), iterations=2)
        tensor([1., 2.])
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    size = residual @ residual
    going = torch.ones_like(size, dtype=torch.bool)
    for _ in range(iterations):
        image = product(direction)
        curvature = direction @ image
        going = going & (curvature > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        next_size = residual @ residual
        direction = residual + next_size / torch.where(size > 0, size, 1.0) * direction
        size = next_size
    return torch.where(going | solution.any(), solution, target)


def ravel(params: Params) -> Tensor:
    """A tree of parameters as one vector ``(P,)``."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unravel(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The inverse of `ravel`: a vector ``(P,)`` in the names and shapes of `like`."""
    pieces = vector.split([value.numel() for value in like.values()])
    return {name: piece.reshape(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}


def outputs(network: nn.Module, weights: Tensor, x: Any, strategy: Strategy = "auto") -> Tensor:
    """The network's outputs at x ``(B, M, *X)`` under each task's flat weights ``(B, P)``: ``(B, M, *O)``.

    With S draws of the weights, ``(S, B, P)``, they are ``(S, B, M, *O)``.
    """
    like = named(network)

    def of_task(weights: Tensor, x: Any) -> Tensor:
        if weights.dim() == 1:
            result: Tensor = call(network, unravel(weights, like), x)
            return result
        return map_tasks(lambda draw: of_task(draw, x), weights, network=network, strategy=strategy)

    result: Tensor = map_tasks(of_task, weights.movedim(-2, 0), x, network=network, strategy=strategy)
    return result if weights.dim() == 2 else result.movedim(1, 0)


def frozen(network: nn.Module, strategy: Strategy = "auto") -> Callable[[Any], Any]:
    """The network with its present parameters as a function of x ``(B, N, *X)``, mapped over the tasks: for posteriors."""
    params = snapshot(network)
    return lambda x: map_tasks(lambda x: call(network, params, x), x, network=network, strategy=strategy)


def with_bias(features: Tensor) -> Tensor:
    """Features ``(..., F)`` beside a constant 1, ``(..., F + 1)``: the last weight of a linear map is then its bias."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)


def standard_normal(*shape: int, like: Tensor) -> Tensor:
    """Normal noise of the device and type of `like`, from torch's global generator.

    Drawn in float32, as torch's generator gives other numbers in float64: a seed then means the same in both.
    """
    return torch.randn(shape, device=like.device, dtype=torch.float32).to(like.dtype)


def redrawn(network: nn.Module, count: int) -> Tensor:
    """The network's weights as if it were built anew, some times over: ``(count, P)``. Uses torch's global generator."""
    copies = [ravel(snapshot(network)).detach().new_zeros(0, sum(p.numel() for p in network.parameters()))]
    for _ in range(count):
        other = deepcopy(network)
        for module in other.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        with torch.no_grad():
            for parameter, given in zip(other.parameters(), network.parameters(), strict=True):
                if torch.equal(parameter, given):  # of no module that knows how to draw it anew
                    parameter.add_(0.1 * torch.randn_like(parameter))
        copies.append(ravel(snapshot(other)).detach()[None])
    return torch.cat(copies)


def stein_direction(particles: Tensor, scores: Tensor) -> Tensor:
    """The direction of Stein variational gradient descent for K particles ``(K, P)``, to be added to them.

    (1/K) Σ_j [k(θ_j, θ) ∇ log p(θ_j) + ∇_{θ_j} k(θ_j, θ)] with k(θ, θ') = exp(-‖θ - θ'‖² / h), where h is the median of the
    squared distances over log K (Liu & Wang 2016, eq. 8, https://arxiv.org/abs/1608.04471), but no less than float32 can tell
    from rounding: 1e-4 of the largest squared distance to their mean, and 1e-6.

    Args:
        particles: θ, ``(K, P)``.
        scores: ∇ log p at each particle, ``(K, P)``.

    Example:
        >>> stein_direction(torch.zeros(1, 2), torch.ones(1, 2))  # one particle climbs the density
        tensor([[1., 1.]])
    """
    count = len(particles)
    centred = particles - particles.detach().mean(0)  # products of large numbers would round their differences away
    norm = centred.square().sum(-1)
    distance = (norm[:, None] + norm - 2 * centred @ centred.mT).clamp(min=0)  # (K, K)
    others = distance.detach().flatten().sort().values[count:]  # without the K zeros of each with itself
    bandwidth = others[len(others) // 2] / math.log(count) if count > 1 else distance.new_ones(())
    bandwidth = bandwidth.clamp(min=1e-6).maximum(1e-4 * norm.detach().max())  # rounding decides what is smaller
    kernel = torch.exp(-distance / bandwidth)
    laplacian = kernel.sum(1).diag() - kernel  # Σ_j ∇_j k(θ_j, θ_i) is 2 / bandwidth times its product with θ
    return (kernel / count) @ scores + 2 / (bandwidth * count) * (laplacian @ centred)


def call(module: nn.Module, params: Params, *arguments: Any) -> Any:
    """The module's output with these parameters in the place of its own."""
    with locked(module):
        return functional_call(module, params, arguments)


_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()
_FORWARD_MODE = threading.RLock()
"""torch counts the levels of forward-mode derivatives for all threads together: two at a time break each other."""


def locked(module: nn.Module) -> AbstractContextManager[object]:
    """The lock of a module's parameters: a functional call swaps them in place, which other threads must not see.

    Each part that owns parameters has one, so that whatever shares a part waits for it and replicas do not wait. They are
    taken in one order, so that no two threads wait for each other.
    """
    if torch.compiler.is_compiling():  # a lock cannot be traced, and compiled code swaps nothing
        return nullcontext()
    owners = sorted((part for part in module.modules() if part._parameters), key=id)
    with _GUARD:
        locks = [_LOCKS.setdefault(owner, threading.RLock()) for owner in owners]
    held = ExitStack()
    for lock in locks:
        held.enter_context(lock)
    return held
