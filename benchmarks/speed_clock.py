"""Medians of interleaved rounds, each with a matrix product in it, and the operations that a call makes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import bayesmeta as bm

Work = Callable[[], object]
SIZE = 1_000  # of the matrices whose product is the unit
PRODUCT = "matrix product"
FEWEST, MOST = 3, 15  # rounds


def interleaved(works: dict[str, Work], seconds: float = 1.0) -> dict[str, float]:
    """Milliseconds of each work and of a matrix product: medians of 3 to 15 rounds, as many as fit in the seconds.

    A round calls each once, so that whatever slows the machine for a while slows all alike. One round warms up.
    """
    matrix = torch.rand(SIZE, SIZE)
    entries: dict[str, Work] = {**works, PRODUCT: lambda: matrix @ matrix}
    times: dict[str, list[float]] = {name: [] for name in entries}
    began = time.perf_counter()
    for number in range(MOST + 1):
        if number == 1:
            began = time.perf_counter()
        if number > FEWEST and time.perf_counter() - began > seconds:
            break
        for name, work in entries.items():
            start = time.perf_counter()
            work()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(row[1:]) for name, row in times.items()}


def update(learner: bm.Learner, episode: bm.Episode) -> Callable[[], None]:
    """A meta-update: loss, backward, Adam."""
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        learner.loss(episode).backward()
        optimizer.step()

    return step


class _Count(TorchDispatchMode):
    """Counts the tensor operations that reach a kernel, and what torch knows of their floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def operations(work: Work) -> dict[str, int]:
    """The floating-point operations of a call's matrix products and convolutions, and the number of its tensor operations."""
    with _Count() as count:
        work()
    return {"flops": count.flops, "calls": count.calls}
