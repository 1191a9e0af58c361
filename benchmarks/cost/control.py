"""Seconds of one control step, a plan for each of 64 worlds: under functions of ALPaCA, by network, and how it grows.

    python benchmarks/cost/control.py            # two minutes; keeps results/control_cost.json
    python benchmarks/cost/control.py --threads 1

The first row has 5 functions, 128 candidates, a horizon of 20 and 3 iterations, on a network of 32 rectified units; then other
networks, and one setting doubled at a time; *mean* plans on the mean of predictions. Wall times, medians of five.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.planning import Planner
from bayesmeta.tasks import Pendulum, Transitions
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "control_cost.json"
WORLDS, REPEATS = 64, 5
PLAN = {"functions": 5, "candidates": 128, "horizon": 20, "iterations": 3}
NETWORKS: dict[str, tuple[tuple[int, ...], type[nn.Module]]] = {
    "ReLU 32": ((32,), nn.ReLU),
    "tanh 32-32": ((32, 32), nn.Tanh),
    "tanh 64-64": ((64, 64), nn.Tanh),
}


def step_seconds(network: str, functions: int | None, **options: int) -> float:
    """The median wall time of `Planner.act` in all worlds."""
    torch.manual_seed(0)
    hidden, activation = NETWORKS[network]
    net = bm.networks.MLP(4, 3, hidden=hidden, activation=activation)
    world = Pendulum()
    tasks = Transitions(world, batch=WORLDS, shots=50, queries=1)
    learner = bm.Standardized.from_tasks(
        bm.ALPaCA(net.features, net.head, bm.likelihoods.Gaussian(0.3)), tasks, episodes=2
    )
    posterior = learner(tasks[0].support)
    agent = Planner(posterior, world.reward, world.actions, functions, moved=world.moved, options=options)
    observation, taken = torch.tensor([[-1.0, 0.0, 0.0]]).repeat(WORLDS, 1), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        agent.act(observation)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def rows() -> dict[str, tuple[str, dict[str, Any]]]:
    """What is measured by name: the network, and the settings."""
    found: dict[str, tuple[str, dict[str, Any]]] = {name: (name, PLAN) for name in NETWORKS}
    found |= {f"{name}, mean": (name, PLAN | {"functions": None}) for name in NETWORKS}
    return found | {f"ReLU 32, {2 * n} {what}": ("ReLU 32", PLAN | {what: 2 * n}) for what, n in PLAN.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args(argv).threads
    torch.set_num_threads(threads)
    print(f"| {WORLDS} worlds, {threads} threads | ms a step |\n|---|---|")
    for name, (network, settings) in rows().items():
        seconds = step_seconds(network, **settings)
        keep(RESULTS, f"{name}; {threads} threads", {"seconds": seconds, "torch": torch.__version__})
        print(f"| {name} | {1000 * seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
