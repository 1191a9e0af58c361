"""What each learner costs: meta-updates, adaptation, prediction, one task served, evaluation; and how time and memory grow.

    python benchmarks/cost/speed.py            # what is not yet measured, about half an hour, on one core
    python benchmarks/cost/speed.py --table    # writes the tables into docs/performance.md, and docs/growth_of_cost.png

Regression on 25 sinusoids of 10 + 10 points with MLP 40-40 (5 inner steps where there are any), classification of 4 tasks of
5-way 1-shot drawings with Conv4 of 32 channels. Every time is the median of rounds, in ms; beside each a matrix product is timed,
which says how fast the machine was just then. Memory is the most that a meta-update's tensors hold at one moment, in MiB.
glibc is told to keep the pages it has (docs/performance.md), as else a large size may pay for each of them anew at every step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import bayesmeta as bm
from bayesmeta.training.gradient import MetaGradient, assign
from benchmarks.accuracy.omniglot_learners import Build, Run, network
from benchmarks.cost.speed_learners import CHOLESKY, DRAWS, GROWTH, LEARNERS, ON_CONV4, SHOTS, STEPS, TASKS, WIDTH
from benchmarks.cost.speed_tables import write
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, RATIOS = HERE / "results" / "speed.json", HERE / "results" / "ratios.json"
PAGES = {"MALLOC_ARENA_MAX": "1"} | dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "4000000000")
COLD = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # what was compiled before is compiled again
OTHERS = {"mlp": "meta_step.py --compile", "conv4": "meta_step.py --network conv4", "kernels": "kernel_step.py"}
ROUNDS = 5


def median(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Milliseconds, the median of some rounds after one that warms up."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def product() -> float:
    a = torch.rand(1000, 1000)
    return median(lambda: a @ a, 9)


def update(learner: bm.Learner, episode: bm.Episode, slices: int = 1, **settings: Any) -> Callable[[], None]:
    """The update that `fit` makes."""
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4, fused=True)
    meta_gradient = MetaGradient(learner, list(learner.parameters()), slices, threads=1, **settings)

    def step() -> None:
        assign(meta_gradient(episode)[1], meta_gradient.parameters)
        optimizer.step()

    return step


def costs(learner: bm.Learner, tasks: Any) -> dict[str, float]:
    episode = tasks[0]
    one = bm.Points(*(leaf[:1] for leaf in episode.support))
    found = {"meta-update": median(update(learner, episode))}
    with torch.no_grad():
        posterior = learner(episode.support)
        found["adaptation"] = median(lambda: learner(episode.support))
        found["prediction"] = median(lambda: posterior(episode.query.x))
        found["one task served"] = median(lambda: learner(one)(episode.query.x[:1]))
    found["evaluation"] = median(lambda: bm.evaluate(learner, tasks, episodes=1), 3)
    found["drawing an episode"] = median(lambda: tasks[1])
    return {**found, "matrix product": product()}


def compiled(learner: bm.Learner, episode: bm.Episode) -> dict[str, Any]:
    """A meta-update as it is and compiled, in alternating rounds, in ms; what is compiled, and the seconds it takes."""
    torch._dynamo.reset()
    lines: list[str] = []
    step = update(learner, episode)
    began = time.perf_counter()
    fast = update(learner, episode, compile=True, say=lines.append)
    fast()
    seconds = time.perf_counter() - began
    pairs = [(median(step, 1), median(fast, 1)) for _ in range(2 * ROUNDS)]
    eager, quick = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "eager": eager,
        "compiled": quick,
        "seconds": seconds,
        "whole": not any("in parts" in line for line in lines),
    }


def work(name: str, axis: str, value: int) -> Callable[[], None]:
    """A meta-update with one setting changed."""
    points = value if "points" in axis else SHOTS
    size = {"tasks": TASKS, "inner steps": STEPS, "draws": DRAWS, "width": WIDTH, axis: value}
    if name == CHOLESKY:
        matrix = torch.eye(points + 10, dtype=torch.float64).repeat(size["tasks"], 1, 1).requires_grad_()
        return lambda: torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum().backward()
    tasks = bm.tasks.Sinusoids(batch=size["tasks"], shots=points, queries=10, noise=0.1)
    torch.manual_seed(0)
    return update(LEARNERS[name](size["width"], size["inner steps"], size["draws"]), tasks[0])


def grown(name: str, axis: str, values: list[int]) -> dict[str, list[float]]:
    """Time, beside a matrix product's, and memory for each value."""
    rows = []
    for value in values:
        step = work(name, axis, value)
        rows.append((median(step), product(), peak(step)))
    return dict(zip(("ms", "matrix product", "MiB"), (list(column) for column in zip(*rows, strict=True)), strict=True))


def peak(step: Callable[[], None]) -> float:
    """The most that tensors made in a call hold at one moment, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    changes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return float(np.cumsum(changes).max()) / 2**20


def on_conv4(build: Build) -> bm.Learner:
    return build(network(Run(build, 1)))


def sliced(learner: bm.Learner, episode: bm.Episode) -> dict[str, list[float]]:
    """Time and memory of an update in one slice, and with a slice for each task."""
    steps = [update(learner, episode, slices) for slices in (1, len(episode.query.mask))]
    return {"ms": [median(step) for step in steps], "MiB": [peak(step) for step in steps]}


def measure() -> None:
    def once(key: str, run: Callable[[], Any]) -> None:
        if key not in load(RESULTS):
            torch.manual_seed(0)
            keep(RESULTS, key, run())
            print(key, load(RESULTS)[key], flush=True)

    tasks = bm.tasks.Sinusoids(batch=TASKS, shots=SHOTS, queries=10, noise=0.1)
    for name, make in LEARNERS.items():
        once(f"MLP: {name}", lambda make=make: costs(make(WIDTH, STEPS, DRAWS), tasks))
    drawings, more = (bm.tasks.Omniglot(ways=5, shots=1, queries=n, batch=b) for n, b in ((5, 4), (15, 8)))
    for name, build in ON_CONV4.items():
        once(f"Conv4: {name}", lambda build=build: costs(on_conv4(build), drawings))
        once(f"slices: {name}", lambda build=build: sliced(on_conv4(build), more[0]))
    for axis, (values, names) in GROWTH.items():
        for name in names:
            once(f"{axis}: {name}", lambda name=name, axis=axis, values=values: grown(name, axis, values))
    for name, make in LEARNERS.items():
        if not name.startswith("PACOH"):  # whose likelihood has two names, which compiling refuses
            once(f"compiled: {name}", lambda make=make: compiled(make(WIDTH, STEPS, DRAWS), tasks[0]))
    for name, command in OTHERS.items():
        if name not in load(RATIOS):
            environment = {key: value for key, value in os.environ.items() if key not in PAGES}
            subprocess.run([sys.executable, *command.split()], cwd=HERE, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write docs/performance.md from what is there")
    torch.set_num_threads(1)
    if not parser.parse_args().table:
        if not PAGES.items() <= os.environ.items():  # they are read when a process begins
            os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PAGES | COLD)
        measure()
    write(load(RESULTS))


if __name__ == "__main__":
    main()
