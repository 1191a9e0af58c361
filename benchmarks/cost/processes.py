"""Tasks per second of `fit` on two processes beside one, with one thread each.

    python benchmarks/cost/processes.py               # about ten minutes; starts the second process itself
    python benchmarks/cost/processes.py --steps 2     # a smoke test

The two take turns, round by round: the second process waits while the first trains alone. Both draw whole episodes and keep their
part. Medians over rounds; the ratio is the median of each round's own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

import bayesmeta as bm
from benchmarks.cost.meta_step import conv4
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "processes.json"
ROUNDS = 7


def pictures(_: int) -> tuple[bm.Learner, Any]:
    """8 tasks of 5-way 1-shot with 15 queries a class, 28 x 28 pixels of noise."""
    learner, _, episode, _ = conv4(torch.float32)
    return learner, [episode]


def sinusoids(learner: Callable[..., bm.Learner], steps: int) -> Callable[[int], tuple[bm.Learner, Any]]:
    return lambda tasks: (
        learner(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=steps),
        bm.tasks.Sinusoids(batch=tasks, noise=0.1),
    )


# The setting, the tasks of an episode, and whether each is a slice of its own, which is fastest for convolutions.
SETTINGS: dict[str, tuple[Callable[[int], tuple[bm.Learner, Any]], int, bool]] = {
    "MAML, Conv4": (pictures, 8, True),
    "MAML, sinusoids": (sinusoids(bm.MAML, 5), 2048, False),
    "MAML, sinusoids, few tasks": (sinusoids(bm.MAML, 5), 64, False),  # most of a step is not its tasks' then
    "ABML, sinusoids": (sinusoids(bm.ABML, 5), 256, False),
}


def rate(name: str, steps: int, fabric: Fabric | None) -> float:
    """Tasks per second of a fit on the fabric's processes, or on this one alone."""
    make, tasks, apart = SETTINGS[name]
    torch.manual_seed(0)
    learner, source = make(tasks)
    slices = tasks // (fabric.world_size if fabric else 1) if apart else 1
    history = bm.fit(learner, source, steps=steps, slices=slices, progress=False, fabric=fabric)
    return tasks * steps / history.seconds


def measure(name: str, steps: int, fabric: Fabric) -> dict[str, Any]:
    """Round 0 warms up."""
    rounds = []
    for _ in range(ROUNDS + 1):
        alone = rate(name, steps, None) if fabric.global_rank == 0 else 0.0
        fabric.barrier()
        rounds.append((alone, rate(name, steps, fabric)))
    one, two = (list(column) for column in zip(*rounds[1:], strict=True))
    return {"one": one, "two": two, "torch": torch.__version__}


def table(results: dict[str, Any], steps: int) -> str:
    lines = ["| | tasks a step | one process (tasks/s) | two (tasks/s) | ratio |", "|---|---|---|---|---|"]
    for name, (_, tasks, _) in SETTINGS.items():
        one, two = results[f"{name}; {steps} steps"]["one"], results[f"{name}; {steps} steps"]["two"]
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        lines.append(
            f"| {name} | {tasks} | {statistics.median(one):.0f} | {statistics.median(two):.0f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of each fit")
    steps = parser.parse_args().steps
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.set_num_threads(1)
    for name in SETTINGS:
        key = f"{name}; {steps} steps"
        if key not in load(RESULTS):  # else it was measured
            result = measure(name, steps, fabric)
            if fabric.global_rank == 0:
                keep(RESULTS, key, result)
    if fabric.global_rank == 0:
        print(table(load(RESULTS), steps))


if __name__ == "__main__":
    main()
