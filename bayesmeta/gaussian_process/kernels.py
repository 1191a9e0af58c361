"""gpytorch's kernels and means as this library evaluates them: at once, in float64, for B tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import Kernel, RFFKernel
from gpytorch.means import Mean
from torch import Tensor, nn

from bayesmeta.functional import Frozen, Params, run
from bayesmeta.gaussian_process.formulas import between

__all__ = [
    "Asked",
    "asked",
    "check_inputs",
    "check_kernel",
    "check_mean",
    "covariance",
    "log_prior",
    "priors",
    "trend",
]


def _double(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the module in float64, with its present parameters or others: differentiable, unmoved by updates."""
    state = {name: _widened(value) for name, value in Frozen(module).state.items()}

    def evaluate(*arguments: Any, own: Params | None = None) -> Any:
        given = {name: _repeated(value.double(), *arguments[:1]) for name, value in (own or {}).items()}
        return run(module, state | given, function, *arguments)

    return evaluate


def _repeated(value: Tensor, x: Tensor | None = None) -> Tensor:
    """Each task's parameters ``(B, ...)`` for inputs ``(B, N, D)``, or ``(S B, N, D)``, at which tasks come S times in turn."""
    times = 1 if x is None else len(x) // len(value)
    return value if times == 1 else value.repeat(times, *[1] * (value.dim() - 1))


def _widened(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value  # a kernel's active_dims are whole numbers


class Asked(NamedTuple):
    """A kernel, and two sets of points between which it was asked for covariances."""

    kernel: Kernel
    first: Tensor
    """``(B, N, D)``, float64."""
    second: Tensor
    """``(B, M, D)``."""


_ASKED: ContextVar[list[Asked] | None] = ContextVar("asked", default=None)


@contextmanager
def asked() -> Iterator[list[Asked]]:
    """Lists what every kernel is asked within, in this thread: what a learner's kernels see, whatever is around them."""
    found: list[Asked] = []
    token = _ASKED.set(found)
    try:
        yield found
    finally:
        _ASKED.reset(token)


def covariance(kernel: Kernel) -> Callable[..., Tensor]:
    """The kernel, as it is now, as a function of float64 inputs ``(B, N, D)`` and ``(B, M, D)`` to ``(B, N, M)``.

    With a third argument True, it takes two ``(B, N, D)`` and gives the diagonal ``(B, N)``. A fourth, parameters by the kernel's
    names, each with a leading B, gives each task a kernel of its own; inputs may then lead with S B, the tasks S times in turn.
    The kernel itself is evaluated in float64: rounding in float32 makes covariances of close points indefinite.

    Raises:
        ValueError: at a call, where the kernel gives other than one number a pair of points.

    Example:
        >>> x = torch.zeros(1, 2, 1, dtype=torch.float64)
        >>> covariance(RBFKernel())(x, x).dtype
        torch.float64
    """
    evaluate = _double(kernel, between)

    def at(first: Tensor, second: Tensor, diag: bool = False, parameters: Params | None = None) -> Tensor:
        if not (diag or torch.compiler.is_compiling()) and (found := _ASKED.get()) is not None:
            found.append(Asked(kernel, first.detach(), second.detach()))
        values: Tensor = evaluate(first, second, diag, own=parameters)
        expected = first.shape[:2] if diag else (*first.shape[:2], second.shape[1])
        if values.shape != expected:
            raise ValueError(
                f"kernel: expected one covariance a pair of points, {tuple(expected)}, got {tuple(values.shape)} of "
                f"{type(kernel).__name__}; pass a kernel of one output, without derivatives or tasks of its own"
            )
        return values

    return at


def trend(mean: Mean | None) -> Callable[[Tensor], Tensor]:
    """The mean, as it is now, as a function of float64 inputs ``(B, N, D)`` to ``(B, N, 1)``; zero for None.

    Raises:
        ValueError: at a call, where the mean gives other than one number a point.
    """
    if mean is None:
        return lambda x: x.new_zeros(*x.shape[:2], 1)
    evaluate = _double(mean, _called)

    def at(x: Tensor) -> Tensor:
        values: Tensor = evaluate(x)
        if values.shape != x.shape[:2]:
            raise ValueError(
                f"mean: expected one number a point, {tuple(x.shape[:2])}, got {tuple(values.shape)} of "
                f"{type(mean).__name__}; pass a mean of one output, without derivatives or tasks of its own"
            )
        return values[..., None]

    return at


def _called(mean: Mean, x: Tensor) -> Any:
    return mean(x)


def _log_priors(module: nn.Module) -> list[Tensor]:
    return [prior.log_prob(closure(owner)) for _, owner, prior, closure in priors(module)]


def priors(module: nn.Module) -> list[tuple[str, Any, Any, Callable[[Any], Tensor]]]:
    """gpytorch's priors in a module, however deep: each one's name, the part it is registered in, itself, and what it is of."""
    found = []
    for path, part in module.named_modules():
        for name, (prior, closure, _) in getattr(part, "_priors", {}).items():
            found.append((f"{path}.{name}".removeprefix("."), part, prior, closure))
    return found


def log_prior(module: nn.Module | None, parameters: Params | None = None) -> Tensor:
    """The log density of a kernel's or a mean's parameters under the priors that they were built with, float64; 0 without.

    It is the term that gpytorch's `ExactMarginalLogLikelihood` adds to the log marginal likelihood, before it divides both by
    the number of points. A scalar; with `parameters` by the module's names, each with a leading B, ``(B,)``.

    Example:
        >>> from gpytorch.priors import NormalPrior
        >>> kernel = RBFKernel(lengthscale_prior=NormalPrior(0.6931, 1.0))
        >>> print(f"{log_prior(kernel).item():.4f}")  # -log √2π, at its mode
        -0.9189
    """
    total = torch.zeros((), dtype=torch.float64)
    if module is None or not priors(module):
        return total
    terms: Any = _double(module, _log_priors)(own=parameters)
    for term in terms:
        own = parameters is not None and term.dim() > 0 and len(term) == len(next(iter(parameters.values())))
        total = total + (term.reshape(len(term), -1).sum(1) if own else term.sum())  # of frozen ones: all tasks'
    return total


def check_kernel(kernel: Kernel) -> None:
    """Raises an error if something is no kernel, or one with hyperparameters for a batch of its own."""
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel: expected a gpytorch kernel such as RBFKernel(), got {kernel!r}; build one")
    _check_single("kernel", kernel)
    if any(isinstance(part, RFFKernel) and not hasattr(part, "randn_weights") for part in kernel.modules()):
        raise ValueError(
            "kernel: expected an RFFKernel that has drawn its frequencies, got one that would draw others at each call; pass the "
            "number of features, RFFKernel(..., num_dims=D)"
        )


def check_mean(mean: Mean | None) -> None:
    """Raises an error if something is neither a gpytorch mean nor None, or a mean with parameters for a batch of its own."""
    if mean is None:
        return
    if not isinstance(mean, Mean):
        raise TypeError(f"mean: expected a gpytorch mean such as ConstantMean(), or None, got {mean!r}; build one")
    _check_single("mean", mean)


def _check_single(name: str, module: nn.Module) -> None:
    for path, part in module.named_modules():
        if not isinstance(part, (Kernel, Mean)):  # a prior's batch is the number of what it is a prior of
            continue
        weights = getattr(part, "weights", None)  # of a LinearMean, which does not say its batch
        shape = weights.shape[:-2] if isinstance(part, Mean) and isinstance(weights, Tensor) else ()
        if shape := tuple(getattr(part, "batch_shape", shape)):
            where = f" at {path!r}" if path else ""
            raise ValueError(
                f"{name}: expected one set of hyperparameters, which all tasks share, got {type(part).__name__} of "
                f"batch_shape {shape}{where}; leave batch_shape out (for a kernel of its own in each task: ADKF)"
            )


def check_inputs(x: Any) -> None:
    """Raises a ValueError where a kernel is given other inputs than vectors."""
    if not isinstance(x, Tensor) or x.dim() != 3:
        raise ValueError(
            f"x: expected a kernel's inputs (B, N, D), got shape {tuple(getattr(x, 'shape', ()))}; let the features end in "
            "nn.Flatten(), as those of MLP and Conv4 do"
        )
