"""Times one meta-update of DKT, RBF kernel in float64, beside a loop over gpytorch's ExactGP; and its growth with B and N.

    python benchmarks/cost/kernel_step.py          # a minute or two; also draws docs/kernel_cost.png

Both take the gradient of the mean over tasks of the marginal likelihood per point, of the same parameters: lengthscale, output
scale and noise. Medians over interleaved rounds of the same run, on one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gpytorch
import numpy as np
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import nn

import bayesmeta as bm
from benchmarks.store import keep

PICTURE = Path(__file__).parents[2] / "docs" / "kernel_cost.png"
RATIOS = Path(__file__).parents[1] / "results" / "ratios.json"
ROUNDS = 15
TASKS, POINTS = (1, 5, 20, 80, 320), (5, 20, 80, 320)


def episode(tasks: int, points: int) -> bm.Episode:
    source = bm.tasks.Sinusoids(batch=tasks, shots=points // 2, queries=points - points // 2, noise=0.1)
    return bm.move(source[0], nn.Linear(1, 1).double())


def learner() -> bm.DKT:
    return bm.DKT(nn.Identity(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian()).double()


def batched(learner: bm.DKT, episode: bm.Episode) -> None:
    learner.zero_grad()
    learner.loss(episode).backward()


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x: torch.Tensor, y: torch.Tensor, likelihood: gpytorch.likelihoods.GaussianLikelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = ScaleKernel(RBFKernel())

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def loop(model: Exact, likelihood: gpytorch.likelihoods.GaussianLikelihood, episode: bm.Episode) -> None:
    points = bm.concatenate(*episode)
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    model.zero_grad()
    losses = []
    for x, y in zip(points.x, points.y[..., 0], strict=True):
        model.set_train_data(x, y, strict=False)
        losses.append(-evidence(model(x), y))
    torch.stack(losses).mean().backward()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 2):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(row[2:]) for name, row in times.items()}


def growth() -> dict[str, dict[int, float]]:
    """Seconds an update against the number of tasks at 20 points, and of points at 20 tasks."""
    dkt = learner()

    def time_of(given: bm.Episode) -> float:  # one size at a time: memory freed by a large one slows the next
        return medians({"update": lambda: batched(dkt, given)})["update"]

    return {
        "tasks": {n: time_of(episode(n, 20)) for n in TASKS},
        "points": {n: time_of(episode(20, n)) for n in POINTS},
    }


def draw(grown: dict[str, dict[int, float]]) -> None:
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    titles = {"tasks": "B tasks of 20 points", "points": "20 tasks of N points"}
    for pane, (axis, row), colour in zip(panes, grown.items(), ("#0072b2", "#d55e00"), strict=True):
        numbers, times = np.array(list(row)), np.array(list(row.values()))
        pane.loglog(numbers, 1e3 * times, "o-", color=colour)
        pane.set(xlabel=titles[axis], xticks=numbers, xticklabels=numbers)
        pane.minorticks_off()
        pane.spines[["top", "right"]].set_visible(False)
    panes[0].set_ylabel("ms a meta-update")
    figure.suptitle("Cost of a DKT meta-update (RBF kernel, float64, one thread)", fontsize=11)
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    torch.set_num_threads(1)
    given = episode(20, 20)
    dkt = learner()
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Exact(torch.zeros(1, 1).double(), torch.zeros(1).double(), likelihood).double()
    model.train()
    matrix = torch.randn(1_000, 1_000)
    found = medians(
        {
            "DKT": lambda: batched(dkt, given),
            "loop over ExactGP": lambda: loop(model, likelihood, given),
            "matrix product": lambda: matrix @ matrix,
        }
    )
    keep(RATIOS, "kernels", {"ms": {name: 1e3 * value for name, value in found.items()}})
    print(f"torch {torch.__version__}, gpytorch {gpytorch.__version__}; 20 tasks of 20 points\n")
    print("| | ms a meta-update | products of 1,000 x 1,000 |\n|---|---|---|")
    for name in ("DKT", "loop over ExactGP"):
        print(f"| {name} | {1e3 * found[name]:.1f} | {found[name] / found['matrix product']:.2f} |")
    print(f"\nThe loop takes {found['loop over ExactGP'] / found['DKT']:.0f} times as long.\n")
    grown = growth()
    print("| | " + " | ".join(f"{n}" for n in sorted({*TASKS, *POINTS})) + " |\n" + "|---" * 6 + "|")
    for axis, row in grown.items():
        print(
            f"| ms for so many {axis} | "
            + " | ".join(f"{1e3 * row[n]:.1f}" if n in row else "" for n in (1, 5, 20, 80, 320))
            + " |"
        )
    draw(grown)


if __name__ == "__main__":
    main()
