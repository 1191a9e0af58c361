"""Does every kernel train, whatever the seed? Ten seeds, 2,000 steps, duplicated inputs and constant targets among the tasks.

    python benchmarks/robustness/kernel_soak.py                  # about a quarter of an hour of one core
    python benchmarks/robustness/kernel_soak.py --kernels RBF    # some of them; two calls may run side by side
    python benchmarks/robustness/kernel_soak.py --table          # prints what is there

Of each step's eight sinusoid tasks the first has all its inputs twice, the second is constant, the third is both, the fourth
has one input in all places. A row fails where an error is raised or a loss is not finite. Kept in results/kernel_soak.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import (
    CosineKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    RBFKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "kernel_soak.json"
STEPS, SEEDS = 2_000, 10


class UnitNorm(nn.Module):
    """Features on the unit sphere, where the linear kernel is the cosine of the angle."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def features() -> nn.Module:
    return bm.networks.MLP(1, 1, activation=nn.Tanh).features


KERNELS: dict[str, Callable[[], tuple[nn.Module, Kernel]]] = {
    "RBF": lambda: (features(), ScaleKernel(RBFKernel())),
    "RBF on x": lambda: (nn.Identity(), ScaleKernel(RBFKernel())),
    "Matern 5/2": lambda: (features(), ScaleKernel(MaternKernel(2.5))),
    "Matern 1/2": lambda: (features(), ScaleKernel(MaternKernel(0.5))),
    "linear": lambda: (features(), LinearKernel(ard_num_dims=40)),
    "cosine of features": lambda: (nn.Sequential(features(), UnitNorm()), ScaleKernel(LinearKernel())),
    "cosine of x": lambda: (nn.Identity(), ScaleKernel(CosineKernel())),
    "periodic on x": lambda: (nn.Identity(), ScaleKernel(PeriodicKernel())),
    "spectral on x": lambda: (nn.Identity(), SpectralMixtureKernel(num_mixtures=4)),
    "spectral": lambda: (features(), SpectralMixtureKernel(num_mixtures=4, ard_num_dims=40)),
}


class Awkward(torch.utils.data.Dataset[bm.Episode]):
    """Sinusoids of which some are degenerate."""

    def __init__(self, seed: int) -> None:
        self.tasks = bm.tasks.Sinusoids(batch=8, shots=6, queries=6, noise=0.1, seed=seed)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, i: int) -> bm.Episode:
        support, query = self.tasks[i]
        for part in (support, query):
            part.x[0] = support.x[0]
            part.y[1] = 1.0
            part.x[2], part.y[2] = support.x[2], -1.0
            part.x[3] = support.x[3, :1]
        return bm.Episode(support, query)


def run(name: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    learner = bm.DKT(*KERNELS[name](), bm.likelihoods.Gaussian())
    history = bm.fit(learner, Awkward(seed), steps=STEPS, seed=seed)
    if not all(math.isfinite(loss) for loss in history.losses):
        raise ArithmeticError("a loss is not finite")
    last = history.losses[-100:]
    return {"loss": sum(last) / len(last), "noise": learner.likelihood.scale.item(), "seconds": history.seconds}


def table(results: dict[str, Any]) -> str:
    lines = [
        "| kernel | runs | failures | last loss, lowest to highest | σ, lowest to highest |",
        "|---|---|---|---|---|",
    ]
    for name in KERNELS:
        runs = [run for key, run in results.items() if key.startswith(f"{name}; ")]
        kept = [run for run in runs if isinstance(run, dict)]
        if runs:
            spans = [
                f"{min(r[w] for r in kept):.3f} to {max(r[w] for r in kept):.3f}" if kept else ""
                for w in ("loss", "noise")
            ]
            lines.append(f"| {name} | {len(runs)} | {len(runs) - len(kept)} | {spans[0]} | {spans[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for name in arguments.kernels:
            for seed in range(SEEDS):
                key = f"{name}; {seed}"
                if key not in load(RESULTS):
                    try:
                        keep(RESULTS, key, run(name, seed))
                    except (ArithmeticError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                        keep(RESULTS, key, f"{type(error).__name__}: {error}")
                    print(key, load(RESULTS)[key], flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
