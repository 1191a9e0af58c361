"""`torch.compile` for meta-gradients: as one graph, or part by part where the whole cannot be traced."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["CompiledGradient", "Gradient", "gradient", "part"]

Gradient: TypeAlias = Sequence[Tensor | None]
Context: TypeAlias = Callable[[], AbstractContextManager[object]]

_GRAPHS = 64
"""The most graphs of one function, one for each shape it meets: an episode may have another shape than the last."""
_IN_CPP = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
"""Kernels in one C++ file, what calls them in another: headers are read twice, not once a kernel, and no Python runs between."""
_IN_PARTS: ContextVar[bool] = ContextVar("_IN_PARTS", default=False)


def gradient(
    objective: nn.Module, parameters: Sequence[Tensor], autocast: Context, episode: Any
) -> tuple[Tensor, Gradient]:
    """The value of ``objective(episode)`` and its gradient: None for a parameter that it does not depend on."""
    with autocast():  # which holds for one thread, and is not for backward passes
        value = objective(episode)
    return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)


class CompiledGradient:
    """The same, compiled: value and gradient as one graph, else each function that the objective maps over tasks.

    The second serves Pyro's programs and whatever the compiler does not know, which for torch 2.10 is every whole: they run as
    they are, the tensor functions within them are compiled. Random numbers are those that the eager objective draws. A value that
    is not finite is asked of the eager objective again, which mends a covariance matrix, or says what is wrong.

    Args:
        objective: the module that makes the value of an episode.
        parameters: what the gradient is taken by.
        autocast: makes the context of the objective.
        name: the learner's name, for messages.
        say: a function that is given a line where not all is one graph, with the reason.

    Raises:
        NotImplementedError: at the first call, where not even the parts can be compiled.
    """

    def __init__(
        self,
        objective: nn.Module,
        parameters: Sequence[Tensor],
        autocast: Context,
        name: str,
        say: Callable[[str], object],
    ) -> None:
        _check_names(objective, name)
        self.objective, self.parameters, self.autocast, self.name, self.say = objective, parameters, autocast, name, say
        from bayesmeta.functional.products import Turned  # seconds to import

        options = {"fallback_random": True, "post_grad_custom_pre_pass": Turned(), "guard_filter_fn": _may_change}
        if all(p.device.type == "cpu" for p in parameters):
            options |= _IN_CPP
        self.whole = _compile(self._eager, options=options)
        self.chosen = self.whole
        self.traced: set[tuple[torch.Size, ...]] = set()
        """The sizes of episodes that there is a graph for."""

    def __call__(self, episode: Any) -> tuple[Tensor, Gradient]:
        sizes = tuple(part.y.shape for part in episode)
        known = sizes in self.traced
        try:
            with nullcontext() if known else _settings():
                value, slopes = self.chosen(episode)
        except torch._dynamo.exc.TorchDynamoException as error:
            if known:  # but not all else is as it was
                self.traced.clear()
            elif isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
                self.say(f"compile: {self.name} no longer, as episodes came in more than {_GRAPHS} shapes")
                self.chosen = self._eager
            elif self.chosen == self._in_parts:
                raise NotImplementedError(
                    f"compile: expected a learner that torch.compile takes, got {self.name}; train it with compile=False "
                    f"({_reason(error)})"
                ) from error
            else:
                self.say(f"compile: {self.name} in parts, as torch.compile does not take it whole ({_reason(error)})")
                self.chosen = self._in_parts
            return self(episode)
        if self.chosen != self.whole:
            return value, slopes
        self.traced.add(sizes)
        return (value, slopes) if math.isfinite(value) else self._eager(episode)

    def _in_parts(self, episode: Any) -> tuple[Tensor, Gradient]:
        token = _IN_PARTS.set(True)
        try:
            with warnings.catch_warnings():  # the compiler looks for the gradient of what enters a part, which has none
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                return self._eager(episode)
        finally:
            _IN_PARTS.reset(token)

    def _eager(self, episode: Any) -> tuple[Tensor, Gradient]:
        return gradient(self.objective, self.parameters, self.autocast, episode)


@contextmanager
def _settings() -> Iterator[None]:
    """The compiler's, for what may be traced: it takes some of a small step's time to set them."""
    dynamo, autograd = torch._dynamo.config, torch._functorch.config
    wanted: list[tuple[Any, str, object]] = [
        (dynamo, "recompile_limit", _GRAPHS),
        (dynamo, "trace_autograd_ops", True),
        (autograd, "donated_buffer", False),  # implicit MAML goes backward through a part twice
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted if hasattr(place, name)]
    log = logging.getLogger("torch._inductor.ir")  # which tells of each operation that its C++ calls by name
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        for place, name, value in wanted:
            if hasattr(place, name):
                setattr(place, name, value)
        yield
    finally:
        log.setLevel(level)
        for place, name, value in before:
            setattr(place, name, value)


_LIBRARIES = re.compile(r"G\['__(builtins|import_(bayesmeta|torch|pyro|gpytorch|contextlib))")


def _may_change(guards: Sequence[Any]) -> list[bool]:
    """Of what a graph was made for: not the libraries' own functions and classes, which take long to compare."""
    return [_LIBRARIES.search(guard.name) is None for guard in guards]


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, if it is called for a `CompiledGradient` that goes by parts and not from within another part."""
    if torch.compiler.is_compiling() or not _IN_PARTS.get():
        return function
    return _compile(function)


def _compile(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    validates = Distribution._validate_args
    compiled = torch.compile(function, fullgraph=True, dynamic=False, **settings)
    Distribution.set_default_validate_args(validates)  # the compiler switches it off, for the whole process
    return compiled


def _check_names(module: nn.Module, learner: str) -> None:
    """Raises a ValueError for a layer under two names: a traced exchange of its weights would leave a task's in it."""
    names: dict[int, str] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if part._parameters and names.setdefault(id(part), name) != name:
            raise ValueError(
                f"compile: expected each layer of {learner} under one name, but {names[id(part)]!r} and {name!r} are one; train "
                "with compile=False or, where both are in a network of yours, keep one and call it twice"
            )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
