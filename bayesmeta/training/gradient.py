"""The meta-gradient of an episode: slice by slice, on several threads, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial, reduce
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode
from bayesmeta.functional import chosen_strategy
from bayesmeta.functional.compilation import CompiledGradient, Context, Gradient, gradient
from bayesmeta.learner import Learner

__all__ = ["MetaGradient", "assign", "explain_strategy"]

_Gradient: TypeAlias = Callable[[Episode], tuple[Tensor, Gradient]]


class MetaGradient:
    """Takes the meta-gradient of an episode slice by slice, on one thread or several.

    Thread t takes slices t, t + threads, ..., so that the number of threads changes no more than the order of a sum.
    """

    def __init__(
        self,
        learner: Learner,
        parameters: Sequence[Tensor],
        slices: int,
        threads: int,
        *,
        autocast: Context = nullcontext,
        say: Callable[[str], object] = print,
        compile: bool = False,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.slices = slices
        part = _Part(learner, slices)
        if compile:
            say(
                "compile: the first step takes until all is compiled, up to minutes; the bar's rate is wrong until then"
            )
        self.gradient: _Gradient = (
            CompiledGradient(part, self.parameters, autocast, type(learner).__name__, say)
            if compile
            else partial(gradient, part, self.parameters, autocast)
        )
        self.threads = threads
        self.intra_op = torch.get_num_threads()
        self.pool = (
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) if threads > 1 else None
        )

    def __call__(self, episode: Episode) -> tuple[Tensor, Gradient]:
        """The mean loss over the episode's tasks, and its gradient for each parameter.

        Raises:
            ValueError: the slices do not divide the episode's tasks.
        """
        batch = len(episode.query.mask)
        if batch % self.slices:
            raise ValueError(
                f"slices: expected a divisor of the {batch} tasks in an episode, got {self.slices}; "
                "equal slices make gradients add up exactly"
            )
        if self.slices == 1:
            value, slopes = self.gradient(episode)
            return value.cpu(), slopes
        pieces = [
            tree_map(lambda leaf, b=b: leaf[b : b + batch // self.slices], episode)
            for b in range(0, batch, batch // self.slices)
        ]
        if self.pool:  # each thread goes on in the caller's context
            shares = [pieces[t :: self.threads] for t in range(self.threads)]
            futures = [self.pool.submit(copy_context().run, self._share, share) for share in shares]
            results = [future.result() for future in futures]
        else:
            results = [self._share(pieces)]
        return torch.stack([loss for loss, _ in results]).sum(), _add([gradient for _, gradient in results])

    def _share(self, pieces: Sequence[Episode]) -> tuple[Tensor, Gradient]:
        """One thread's part: a graph and a backward pass a slice, one after the other."""
        total = torch.zeros((), device="cpu")
        slopes: Gradient = [None] * len(self.parameters)
        for piece in pieces:
            value, more = self.gradient(piece)
            slopes = _add([slopes, more])
            total = total + value.cpu()
        return total, slopes

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown()
            torch.set_num_threads(self.intra_op)  # some of the libraries beneath keep one number for all threads


def assign(gradient: Gradient, parameters: Sequence[Tensor]) -> None:
    """Sets `.grad` of each parameter, in the layout of its memory.

    Fused optimisers of torch read the memory of a gradient in the order of the parameter's, whatever its strides: those of a
    convolution, which may differ, would move the wrong weights.
    """
    for parameter, slope in zip(parameters, gradient, strict=True):
        if slope is not None and slope.stride() != parameter.stride():
            slope = torch.empty_like(parameter, dtype=slope.dtype).copy_(slope)
        parameter.grad = slope


class _Part(nn.Module):
    """A slice's part of the loss."""

    def __init__(self, learner: Learner, slices: int) -> None:
        super().__init__()
        self.learner = learner
        self.slices = slices

    def forward(self, episode: Episode) -> Tensor:
        return self.learner.loss(episode) / self.slices


def _add(gradients: Sequence[Gradient]) -> Gradient:
    """The sum of gradients, each a tensor or None a parameter."""
    columns = ([slope for slope in column if slope is not None] for column in zip(*gradients, strict=True))
    return [reduce(torch.add, column) if column else None for column in columns]


def explain_strategy(learner: Learner, slices: int) -> str:
    """How tasks are mapped, and why, in a line."""
    asked = {part.strategy for part in learner.modules() if isinstance(part, Learner)} - {"auto"}
    if asked:
        return f"tasks are mapped by {' and '.join(sorted(asked))}, as learner.strategy says"
    name, why = chosen_strategy(learner)
    other = "loop" if name == "vmap" else "vmap"
    more = (
        "; slices=B, threads=cores has a task a core at a time, which is faster"
        if name == "loop" and slices == 1
        else ""
    )
    return f'tasks are mapped by {name}, since {why}; learner.strategy = "{other}" overrides{more}'
