"""Meta-learned Gaussian-process kernels: few-shot figures on sinusoids and on the "sin_20" tasks, beside published ones.

    python benchmarks/accuracy/kernels.py                  # about half an hour of one core
    python benchmarks/accuracy/kernels.py --runs spectral  # some of them; two calls may run side by side
    python benchmarks/accuracy/kernels.py --table          # prints what is there

Sinusoids: the protocol of Patacchiola et al. 2020, σ = 0.1, trained and tested on 5 shots in [-5, 5]; 600 test tasks with 25
queries in [-5, 5] and as many in [-5, 10]. sin_20: the tasks of Rothfuss et al. 2021, 20 tasks of 5 points to learn from, 5
points to adapt to, 200 test tasks with 100 queries. Three seeds of tasks and initialisation each; medians over the seeds.
Every finished run is kept in results/kernels.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import ConstantKernel, LinearKernel, RBFKernel, ScaleKernel, SpectralMixtureKernel
from gpytorch.means import LinearMean
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayesmeta as bm
from bayesmeta.distributions import cdf, marginals
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "kernels.json"
SEEDS = range(1, 4)
"""Seed 0 served to choose the settings."""
SPANS = {"in": (-5.0, 5.0), "out": (-5.0, 10.0)}


def tanh(outputs: int = 1, hidden: tuple[int, ...] = (40, 40, 40)) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=hidden, activation=nn.Tanh)


def linear() -> bm.Learner:
    kernel = LinearKernel(ard_num_dims=40) + ConstantKernel()
    return bm.DKT(tanh().features, kernel, bm.likelihoods.Gaussian(), mean=LinearMean(40))


def rbf() -> bm.Learner:
    return bm.DKT(tanh().features, ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(), mean=LinearMean(40))


def spectral() -> bm.Learner:
    return bm.DKT(nn.Identity(), SpectralMixtureKernel(num_mixtures=4), bm.likelihoods.Gaussian())


def deep_spectral() -> bm.Learner:
    return bm.DKT(
        bm.networks.MLP(1, 1).features,
        SpectralMixtureKernel(num_mixtures=4, ard_num_dims=40),
        bm.likelihoods.Gaussian(),
    )


# The learner, its number of meta-updates, and Adam's first rate.
SINUSOIDS: dict[str, tuple[Callable[[], bm.Learner], int, float]] = {
    "linear kernel, tanh 40-40-40": (linear, 12_000, 3e-3),
    "RBF kernel, tanh 40-40-40": (rbf, 6_000, 3e-3),
    "spectral kernel on x": (spectral, 3_000, 3e-2),
    "spectral kernel, ReLU 40-40": (deep_spectral, 6_000, 3e-3),
}


def pacoh(features: nn.Module, **settings: Any) -> bm.Learner:
    mean = tanh(hidden=(32,) * 4)
    return bm.PACOH(
        features,
        ScaleKernel(RBFKernel()),
        bm.likelihoods.Gaussian(0.3),
        tasks=20,
        mean=mean,
        hyper_scale=3.0,
        **settings,
    )


SIN_20: dict[str, tuple[Callable[[], bm.Learner], int]] = {
    "PACOH, SVGD": (lambda: pacoh(nn.Identity()), 2_000),
    "PACOH, MAP": (lambda: pacoh(nn.Identity(), hyper_posterior="map"), 2_000),
    "PACOH-NN, SVGD": (
        lambda: bm.PACOHNN(tanh(hidden=(32, 32)), bm.likelihoods.Gaussian(0.3), tasks=20, hyper_scale=3.0, spread=0.03),
        5_000,
    ),
    "PACOH, SVGD, kernel on features": (lambda: pacoh(tanh(2, (32,) * 4)), 2_000),
}


class Sin20(torch.utils.data.Dataset[bm.Episode]):
    """y = slope x + A sin(1.5 (x - shift)) + offset + ε: some tasks, always the same, with a given number of known points."""

    def __init__(self, tasks: int, known: int, asked: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(mean: float, scale: float) -> Tensor:
            return mean + scale * torch.randn(tasks, 1, 1, generator=generator)

        amplitude = 0.7 + 0.6 * torch.rand(tasks, 1, 1, generator=generator)
        shift, offset, slope = normal(0.0, 0.1), normal(5.0, 0.1), normal(0.5, 0.2)
        x = -5 + 10 * torch.rand(tasks, known + asked, 1, generator=generator)
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        y = slope * x + amplitude * torch.sin(1.5 * (x - shift)) + offset + noise
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        both = bm.Points(x, y, mask)
        self.episode = bm.Episode(
            bm.Points(*(part[:, :known] for part in both)), bm.Points(*(part[:, known:] for part in both))
        )

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> bm.Episode:
        return self.episode


def sinusoid(name: str, seed: int) -> dict[str, Any]:
    build, steps, rate = SINUSOIDS[name]
    torch.manual_seed(seed)
    learner = build()
    optimizer = Adam(learner.parameters(), rate)
    train = bm.tasks.Sinusoids(noise=0.1, shots=5, queries=15, seed=seed)
    schedule = CosineAnnealingLR(optimizer, steps)
    history = bm.fit(learner, train, steps=steps, optimizer=optimizer, scheduler=schedule, seed=seed)
    row: dict[str, Any] = {"seconds": history.seconds, "steps": steps}
    for span, reach in SPANS.items():
        test = bm.tasks.Sinusoids(noise=0.1, shots=5, queries=25, query_range=reach, seed=1_000)
        metrics: list[bm.metrics.Metric] = [bm.metrics.NLL(), bm.metrics.RMSE(), bm.metrics.Coverage(0.9)]
        exact = bm.evaluate(test.oracle, test, episodes=24, metrics=metrics)
        found = bm.evaluate(learner, test, episodes=24, metrics=metrics)
        row |= {
            f"{span}: gap": found["NLL"].value - exact["NLL"].value,
            f"{span}: MSE": found["RMSE"].value ** 2,
            f"{span}: coverage": found["90% coverage"].value,
        }
    return row


def sin_20(name: str, seed: int) -> dict[str, Any]:
    """Means over the test tasks; the calibration error is the mean absolute one over the levels 0.05 to 1 of the CDF."""
    build, steps = SIN_20[name]
    train = Sin20(20, 4, 1, seed)  # a task's five points; the learner's objective takes them all
    torch.manual_seed(seed)
    learner = bm.Standardized.from_tasks(build(), train)
    history = bm.fit(learner, train, steps=steps, seed=seed)
    support, query = Sin20(200, 5, 100, 1_000 + seed).episode
    with torch.no_grad():
        predictive = learner(support)(query.x)
        level = cdf(marginals(predictive), query.y)[..., 0]
    wanted = torch.linspace(0.05, 1, 20)
    found = (level <= wanted[:, None, None]).float().mean(-1)  # (20, tasks)
    return {
        "seconds": history.seconds,
        "RMSE": (predictive.mean - query.y).square().mean((1, 2)).sqrt().mean().item(),
        "calibration error": (found - wanted[:, None]).abs().mean().item(),
        "log-likelihood": predictive.log_prob(query.y).mean().item(),
    }


def table(results: dict[str, Any]) -> str:
    def rows(names: Any, columns: list[str]) -> list[str]:
        lines = ["| " + " | ".join(["learner", "seeds", *columns]) + " |", "|---" * (len(columns) + 2) + "|"]
        for name in names:
            runs = [results[f"{name}; {seed}"] for seed in SEEDS if f"{name}; {seed}" in results]
            if runs:
                cells = [f"{statistics.median(run[column] for run in runs):.3f}" for column in columns]
                lines.append("| " + " | ".join([name, str(len(runs)), *cells]) + " |")
        return lines

    spans = [f"{span}: {what}" for span in SPANS for what in ("gap", "MSE", "coverage")]
    lines = ["Sinusoids, 5 shots, medians; the gap is to the oracle's NLL:\n", *rows(SINUSOIDS, [*spans, "seconds"])]
    lines += ["\nsin_20, medians:\n", *rows(SIN_20, ["RMSE", "calibration error", "log-likelihood", "seconds"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=[""], help="runs whose name holds one of these")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for names, run in ((SINUSOIDS, sinusoid), (SIN_20, sin_20)):
            for name in names:
                for seed in SEEDS:
                    key = f"{name}; {seed}"
                    if any(part in name for part in arguments.runs) and key not in load(RESULTS):
                        keep(RESULTS, key, run(name, seed))
                        print(key, load(RESULTS)[key], flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
