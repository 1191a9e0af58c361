"""Times of eager meta-updates, tasks at once (vmap) and one by one (loop), and of the CPU beside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from benchmarks.cost.meta_step import UnitGaussian, fit_update

SECONDS = {"cuda": 1.0, "cpu": 0.05}
"""Of a measurement, on the card and in a dry run."""


class ResNet12(nn.Module):
    """Four stages of three 3x3 convolutions with group normalisation and a shortcut, each then pooled 2x2."""

    def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for before, width in zip((1, *widths), widths, strict=False):
            layers: list[nn.Module] = []
            for channels in (before, width, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers[:-1]))
            self.shortcuts.append(nn.Conv2d(before, width, 1))
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        for stage, shortcut in zip(self.stages, self.shortcuts, strict=True):
            x = nn.functional.max_pool2d((stage(x) + shortcut(x)).relu(), 2)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def images(tasks: int) -> bm.Episode:
    """5-way 1-shot with 15 queries a class, 28 x 28 pixels."""
    numbers = torch.Generator().manual_seed(0)
    support, query = (
        bm.Points(
            torch.rand(tasks, 5 * n, 1, 28, 28, generator=numbers),
            torch.arange(5).repeat(tasks, n),
            torch.ones(tasks, 5 * n, dtype=torch.bool),
        )
        for n in (1, 15)
    )
    return bm.Episode(support, query)


def curves(tasks: int) -> bm.Episode:
    return bm.tasks.Sinusoids(batch=tasks, shots=10, queries=10)[0]


def settings(device: str) -> dict[str, tuple[Callable[[], bm.Learner], Callable[[], bm.Episode]]]:
    """Learners and episodes by name; in a dry run they are small."""
    small = device == "cpu"
    many, width, few, more = (32, 8, 2, 4) if small else (1024, 64, 8, 32)
    widths = (8, 8, 8, 8) if small else (64, 64, 128, 128)
    mlp = partial(bm.networks.MLP, 1, 1)
    mean_field = partial(bm.networks.MLP, 1, 1)
    return {
        "MAML, MLP 40-40, 25 tasks, 5 steps": (
            lambda: bm.MAML(mlp(), UnitGaussian(), steps=5, rate=0.01),
            lambda: curves(25),
        ),
        f"MAML, MLP 40-40, {many} tasks, 5 steps": (
            lambda: bm.MAML(mlp(), UnitGaussian(), steps=5, rate=0.01),
            lambda: curves(many),
        ),
        **{
            f"MAML, Conv4-{width}, {tasks} tasks, 1 step": (
                lambda: bm.MAML(
                    bm.networks.Conv4(outputs=5, width=width, norm=bm.networks.BatchNorm),
                    bm.likelihoods.Categorical(),
                    steps=1,
                    rate=0.4,
                ),
                partial(images, tasks),
            )
            for tasks in (few, more)
        },
        f"MAML, ResNet-12, {few} tasks, 1 step": (
            lambda: bm.MAML(ResNet12(widths, 5), bm.likelihoods.Categorical(), steps=1, rate=0.1),
            lambda: images(few),
        ),
        "DKT, MLP 40-40, 20 tasks": (
            lambda: bm.DKT(mlp().features, ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian()),
            lambda: curves(20),
        ),
        "CNP, 25 tasks": (
            lambda: bm.ConditionalNeuralProcess(
                bm.encoders.DeepSet(1, 1, 32), bm.networks.MLP(33, 1), bm.likelihoods.Gaussian()
            ),
            lambda: curves(25),
        ),
        "ABML, MLP 40-40, 25 tasks, 5 steps": (
            lambda: bm.ABML(mean_field(), bm.likelihoods.Gaussian(), steps=5),
            lambda: curves(25),
        ),
        "PLATIPUS, MLP 40-40, 25 tasks, 5 steps": (
            lambda: bm.PLATIPUS(mean_field(), bm.likelihoods.Gaussian(), steps=5),
            lambda: curves(25),
        ),
        "PrototypicalNetwork, Conv4, 32 tasks": (
            lambda: bm.PrototypicalNetwork(bm.networks.Conv4(outputs=5, width=width).features, classes=5),
            lambda: images(more),
        ),
        f"MAML, Conv4-{width} group norm, {few} tasks, 1 step": (
            lambda: bm.MAML(bm.networks.Conv4(outputs=5, width=width), bm.likelihoods.Categorical(), steps=1, rate=0.4),
            lambda: images(few),
        ),
    }


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], device: str, seconds: float) -> dict[str, Any]:
    """The first call's seconds, then the median milliseconds of calls that are waited for, and the quartiles around it."""
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    first = time.perf_counter() - began
    for _ in range(2 if first < seconds else 0):  # as kernels are chosen and allocators filled
        call()
    wait(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        before = time.perf_counter()
        call()
        wait(device)
        times.append(1e3 * (time.perf_counter() - before))
        if sum(times) > 5e3 * seconds:
            break
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"ms": statistics.median(times), "ms, quartiles": [low, high], "calls": len(times), "first s": first}


def update_times(name: str, strategy: bm.functional.Strategy, device: str, dry: bool, **options: Any) -> dict[str, Any]:
    """Of the update that `fit` makes, on one episode that is on the device."""
    make, draw = settings("cpu" if dry else "cuda")[name]
    torch.manual_seed(0)
    learner = make().to(device)
    learner.strategy = strategy
    episode = bm.move(draw(), learner)
    update = fit_update(learner, episode, **{"slices": 1, "threads": 1, **options})
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    result = timed(update, device, SECONDS["cpu" if dry else "cuda"])
    if device == "cuda":
        result["peak MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    if not all(bool(p.isfinite().all()) for p in learner.parameters()):
        result["failed"] = "parameters that are not finite"
    return result


def bfloat() -> Any:
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    dry = device == "cpu"
    names = list(settings(device))
    first, many, conv, more, resnet = names[:5]
    chosen: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in names:
        chosen[f"{name}; vmap"] = partial(update_times, name, "vmap", device, dry)
    for name in (first, conv, more, resnet):
        chosen[f"{name}; loop"] = partial(update_times, name, "loop", device, dry)
    for name in (many, more, resnet):
        chosen[f"{name}; vmap; bfloat16"] = partial(update_times, name, "vmap", device, dry, autocast=bfloat)
    for name in names:  # last, as what is left out of a budget is best left out here
        chosen[f"{name}; auto; CPU"] = partial(update_times, name, "auto", "cpu", dry)
    threads = 2 if dry else 8
    chosen[f"{conv}; auto; CPU, {threads} threads"] = partial(
        update_times, conv, "auto", "cpu", dry, slices=threads, threads=threads
    )
    return chosen
