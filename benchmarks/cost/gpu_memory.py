"""Peak memory of a meta-update in slices: 64 tasks in 16 slices should need what 4 tasks need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import bayesmeta as bm
from benchmarks.cost.gpu_speed import images, wait
from benchmarks.cost.meta_step import fit_update


def peak(tasks: int, slices: int, strategy: bm.functional.Strategy, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    width = 8 if device == "cpu" else 64
    learner = bm.MAML(bm.networks.Conv4(outputs=5, width=width), bm.likelihoods.Categorical(), rate=0.4).to(device)
    learner.strategy = strategy
    update = fit_update(learner, bm.move(images(tasks), learner), slices=slices, threads=1)
    update()  # the optimiser's state
    if device == "cpu":
        return {"peak MiB": "of a card only"}
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    update()
    wait(device)
    return {
        "peak MiB": torch.cuda.max_memory_allocated() / 2**20,
        "of the update, MiB": (torch.cuda.max_memory_allocated() - before) / 2**20,
    }


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    shapes = [(2, 1), (4, 2)] if device == "cpu" else [(4, 1), (64, 16), (16, 1), (64, 1), (256, 1)]
    return {
        f"MAML, Conv4, {tasks} tasks in {slices} slices; {strategy}": partial(peak, tasks, slices, strategy, device)
        for strategy in ("vmap", "loop")
        for tasks, slices in shapes
        if strategy == "vmap" or tasks <= 64
    }
