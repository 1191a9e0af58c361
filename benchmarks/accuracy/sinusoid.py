"""Sinusoids by the protocol of Finn et al. 2017: our test MSE beside the published re-runs.

    python benchmarks/accuracy/sinusoid.py                          # the whole table: 3 seeds, 5 and 10 shots; hours on two cores
    python benchmarks/accuracy/sinusoid.py --methods MAML --shots 5 # a part of it
    python benchmarks/accuracy/sinusoid.py --table                  # prints what is there

25 tasks a step, MLP 40-40, one inner step, no noise; tested on 600 new tasks with 100 queries each, after 1 and 10
inner steps. Each finished run is kept in results/sinusoid.json, so that an interrupted table goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "sinusoid.json"

METHODS: dict[str, Callable[[], bm.Learner]] = {
    "MAML": lambda: bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), rate=0.01),
    "FirstOrderMAML": lambda: bm.FirstOrderMAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), rate=0.01),
    "MetaSGD": lambda: bm.MetaSGD(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()),
}
PUBLISHED = {  # test MSE after one step: a student's re-run in JAX, whose step count is not stated
    ("MAML", 5): 0.72,
    ("MAML", 10): 0.67,
    ("MetaSGD", 5): 0.46,
    ("MetaSGD", 10): 0.31,
    ("FirstOrderMAML", 5): 0.81,
}


def run(method: str, shots: int, seed: int, steps: int, compiled: bool) -> dict[str, float]:
    """Trains one learner and gives its test MSE after 1 and 10 inner steps."""
    torch.manual_seed(seed)
    learner = METHODS[method]()
    if compiled:
        learner.loss = torch.compile(learner.loss, fullgraph=True)  # type: ignore[method-assign]
    tasks = bm.tasks.Sinusoids(shots=shots, queries=10, seed=seed)
    history = bm.fit(learner, tasks, steps=steps, seed=seed)
    test = bm.tasks.Sinusoids(shots=shots, queries=100, seed=1_000)
    figures = {"seconds": history.seconds}
    for inner in (1, 10):
        learner.steps = inner  # type: ignore[assignment]
        figures[f"mse after {inner}"] = (
            bm.evaluate(learner, test, episodes=24, metrics=[bm.metrics.RMSE()])["RMSE"].value ** 2
        )
    return figures


def table(results: dict[str, dict[str, float]]) -> str:
    """Medians over seeds, with the lowest and the highest."""
    lines = [
        "| learner | shots | MSE, 1 step: median (range) | MSE, 10 steps | published re-run, 1 step |",
        "|---|---|---|---|---|",
    ]
    for shots in (5, 10):
        for method in METHODS:
            runs = [r for key, r in results.items() if key.startswith(f"{method}, {shots} shots,")]
            if runs:
                one, ten = ([r[f"mse after {k}"] for r in runs] for k in (1, 10))
                lines.append(
                    f"| {method} | {shots} | {statistics.median(one):.3f} ({min(one):.3f} to {max(one):.3f}, {len(one)} seeds) "
                    f"| {statistics.median(ten):.3f} | {PUBLISHED.get((method, shots), '')} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["MAML", "MetaSGD"])
    parser.add_argument("--shots", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    for seed in [] if arguments.table else arguments.seeds:
        for shots in arguments.shots:
            for method in arguments.methods:
                key = f"{method}, {shots} shots, seed {seed}, {arguments.steps} steps"
                if key not in load(RESULTS):
                    print(key)
                    figures = run(method, shots, seed, arguments.steps, not arguments.eager)
                    keep(RESULTS, key, figures)
                    print(figures)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
