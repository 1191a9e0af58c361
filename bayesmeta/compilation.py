"""`torch.compile` for losses: as one graph, or part by part where the whole cannot be traced."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["CompiledLoss", "part"]

_GRAPHS = 64
"""The most graphs of one function, one for each shape it meets: an episode may have another shape than the last."""
_IN_PARTS: ContextVar[bool] = ContextVar("_IN_PARTS", default=False)


class CompiledLoss:
    """A loss, compiled: one graph where `torch.compile` takes it whole, else each function that it maps over tasks.

    The second serves Pyro's programs, gpytorch's kernels, and gradients that the compiler does not know: they run as they are,
    the tensor functions within them are compiled. Random numbers are those that the eager loss draws.

    Args:
        loss: of a learner.
        name: the learner's, for messages.
        say: is told where not all is one graph, and why.

    Raises:
        NotImplementedError: at the first call, where not even the parts can be compiled.
    """

    def __init__(self, loss: Callable[..., Tensor], name: str, say: Callable[[str], object]) -> None:
        self.name, self.say = name, say
        self.eager = loss
        self.chosen: Callable[..., Tensor] = _compile(loss, options={"fallback_random": True})

    def __call__(self, episode: Any) -> Tensor:
        config = torch._dynamo.config
        limit, config.recompile_limit = (
            config.recompile_limit,
            _GRAPHS,
        )  # config.patch() takes longer than a compiled step
        try:
            return self.chosen(episode)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            self.say(f"compile: {self.name} no longer, as episodes came in more than {_GRAPHS} shapes")
            self.chosen = self.eager
        except torch._dynamo.exc.TorchDynamoException as error:
            if self.chosen == self._in_parts:
                raise NotImplementedError(
                    f"compile: expected a learner that torch.compile takes, got {self.name}; train it with compile=False "
                    f"({_reason(error)})"
                ) from error
            self.say(f"compile: {self.name} in parts, as torch.compile does not take it whole ({_reason(error)})")
            self.chosen = self._in_parts
        finally:
            config.recompile_limit = limit
        return self(episode)

    def _in_parts(self, episode: Any) -> Tensor:
        token = _IN_PARTS.set(True)
        try:
            with warnings.catch_warnings():  # the compiler looks for the gradient of what enters a part, which has none
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                return self.eager(episode)
        finally:
            _IN_PARTS.reset(token)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, if it is called for a `CompiledLoss` that goes by parts and not from within another part."""
    if torch.compiler.is_compiling() or not _IN_PARTS.get():
        return function
    return _compile(function)


def _compile(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    validates = Distribution._validate_args
    compiled = torch.compile(function, fullgraph=True, dynamic=False, **settings)
    Distribution.set_default_validate_args(validates)  # the compiler switches it off, for the whole process
    return compiled


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
