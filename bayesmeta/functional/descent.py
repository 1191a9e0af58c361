"""Gradient descent on one task's objective, and the gradients that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad

from bayesmeta.functional.plain import twice_differentiable
from bayesmeta.functional.vectors import Params

__all__ = ["Gradient", "Objective", "clamped", "descend", "first_order", "second_order"]

Objective: TypeAlias = Callable[[Params], Tensor]
Gradient: TypeAlias = Callable[[Objective], Callable[[Params], Params]]


def second_order(objective: Objective) -> Callable[[Params], Params]:
    """The gradient of an objective, differentiable in its turn: ``torch.func.grad``.

    Where no other transform is at work, as in a loop over tasks, and the parameters are being trained, or nothing is, it is taken
    by ``torch.autograd.grad``: each operation under ``torch.func`` costs some more microseconds of a CPU.
    """

    def differentiable(params: Params) -> Params:
        transformed = _transformed()
        if not (transformed or torch.is_grad_enabled()):
            return _constant(objective, params)
        if transformed or not (torch.is_grad_enabled() and all(value.requires_grad for value in params.values())):
            slope: Params = grad(objective)(params)
            return slope
        views = {name: value.view_as(value) for name, value in params.items()}  # the objective may hold params besides
        with twice_differentiable():
            value = objective(views)
        if not (params and value.requires_grad):  # it depends on none of them
            return {name: torch.zeros_like(view) for name, view in views.items()}
        slopes = torch.autograd.grad(value, list(views.values()), create_graph=True, materialize_grads=True)
        return dict(zip(views, slopes, strict=True))

    return differentiable


def _transformed() -> bool:
    """Whether torch.func or the compiler is at work, or inference mode, in which autograd is not."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_inference_mode_enabled()


def _constant(objective: Objective, params: Params) -> Params:
    """The gradient, where nothing outside is differentiated."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        value = objective(leaves)
        if not (params and value.requires_grad):
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


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
        if not _transformed():
            return _constant(objective, params)
        with torch.no_grad():  # no_grad hides the outer graph only; grad still differentiates inside
            slope: Params = grad(objective)(params)
        return slope

    return constant


def clamped(limit: float) -> Gradient:
    """The gradient with each entry held within ±limit, so that one wild task cannot throw its weights away."""

    def gradient(objective: Objective) -> Callable[[Params], Params]:
        return lambda params: {
            name: slope.clamp(-limit, limit) for name, slope in second_order(objective)(params).items()
        }

    return gradient
