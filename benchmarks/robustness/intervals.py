"""Do 95 % intervals hold the truth 95 times in 100? Synthetic tasks whose figures are known, 1,000 data sets each.

    python benchmarks/robustness/intervals.py            # about twenty minutes of one core
    python benchmarks/robustness/intervals.py --table    # prints what is there

The truth is what infinitely many tasks would give: for a calibration error, that of the probabilities themselves, without the
noise of counts; 0 for a calibrated learner. Tasks have 20 points that are not independent. Real targets: predictions N(0, s²) of
y ~ N(0, 1) that shares a third of its variance within a task; or of y ~ N(0, v), log v of standard deviation 1.4 between
tasks (heavy tails). Classes: softmax probabilities p of three, labels drawn from p to the power 1/τ by numbers that are dependent
within a task. Clusters: tasks of people with an effect of their own, and 5-way tasks of classes with theirs; intervals that
were told of them beside intervals that were not. Finished runs are kept in results/intervals.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta.metrics import bootstrap
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "intervals.json"
REPEATS, POINTS, TASKS = 1000, 20, (30, 300)
MANY = 200_000
"""Tasks from which a truth is computed that has no closed form."""

Data = Callable[[int, torch.Generator], tuple[Distribution, Tensor]]


def real(scale: float, heavy: bool = False) -> Data:
    def draw(tasks: int, generator: torch.Generator) -> tuple[Distribution, Tensor]:
        noise = torch.randn(tasks, POINTS, 1, generator=generator)
        if heavy:
            y = (0.7 * torch.randn(tasks, 1, 1, generator=generator)).exp() * noise
        else:
            y = (torch.randn(tasks, 1, 1, generator=generator) + math.sqrt(2) * noise) / math.sqrt(3)
        return Normal(torch.zeros_like(y), scale).to_event(1), y

    return draw


def classes(temperature: float) -> Data:
    def draw(tasks: int, generator: torch.Generator) -> tuple[Distribution, Tensor]:
        logits = 2 * torch.randn(tasks, POINTS, 3, generator=generator)
        own = torch.randn(tasks, 1, generator=generator) + 2 * torch.randn(tasks, POINTS, generator=generator)
        uniform = torch.special.ndtr(own / math.sqrt(5))
        p, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
        place = (p.cumsum(-1) < uniform[..., None]).sum(-1).clamp(max=2)
        return Categorical(logits=logits), order.gather(-1, place[..., None])[..., 0]

    return draw


def rows(metric: bm.metrics.Metric, data: Data, tasks: int, generator: torch.Generator) -> Tensor:
    predictive, y = data(tasks, generator)
    given = bm.Points(torch.zeros(tasks, POINTS, 1), y, torch.ones(tasks, POINTS, dtype=torch.bool))
    return metric.statistic(predictive, given)


def simulated(metric: bm.metrics.Metric, data: Data) -> float:
    generator = torch.Generator().manual_seed(1_000_000)
    sums = sum(rows(metric, data, 10_000, generator).sum(0) for _ in range(MANY // 10_000))
    return float(metric.reduce(torch.as_tensor(sums)))


CALIBRATED, SURE, HEAVY = real(1.0), real(0.7), real(1.0, heavy=True)
NLL_OF_UNIT = 0.5 * math.log(2 * math.pi) + 0.5
# The metric, the data, and the truth if it has a closed form.
CASES: dict[str, tuple[bm.metrics.Metric, Data, float | None]] = {
    "NLL, calibrated": (bm.metrics.NLL(), CALIBRATED, NLL_OF_UNIT),
    "NLL, too sure": (bm.metrics.NLL(), SURE, 0.5 * math.log(2 * math.pi) + math.log(0.7) + 0.5 / 0.49),
    "NLL, heavy tails": (bm.metrics.NLL(), HEAVY, 0.5 * math.log(2 * math.pi) + 0.5 * math.exp(0.98)),
    "RMSE": (bm.metrics.RMSE(), CALIBRATED, 1.0),
    "90 % coverage, calibrated": (bm.metrics.Coverage(0.9), CALIBRATED, 0.9),
    "90 % coverage, too sure": (bm.metrics.Coverage(0.9), SURE, math.erf(1.6448536 * 0.7 / math.sqrt(2))),
    "quantile calibration error, calibrated": (bm.metrics.QuantileCalibrationError(), CALIBRATED, 0.0),
    "quantile calibration error, too sure": (bm.metrics.QuantileCalibrationError(), SURE, None),
    "PIT, too sure": (bm.metrics.PIT(), SURE, None),
    "accuracy": (bm.metrics.Accuracy(), classes(1.0), None),
    "Brier": (bm.metrics.Brier(), classes(2.0), None),
    "error AUROC, calibrated": (bm.metrics.ErrorAUROC(), classes(1.0), None),
    "error AUROC, too sure": (bm.metrics.ErrorAUROC(), classes(2.0), None),
    "AURC": (bm.metrics.AURC(), classes(1.0), None),
    "ECE, slightly too sure": (bm.metrics.ECE(), classes(1.1), None),
    "ECE, far too sure": (bm.metrics.ECE(), classes(3.0), None),
    **{
        f"{metric.name}, {name}": (metric, classes(temperature), 0.0 if temperature == 1 else None)
        for metric in (
            bm.metrics.ECE(),
            bm.metrics.MCE(),
            bm.metrics.AdaptiveECE(),
            bm.metrics.ClasswiseECE(),
            bm.metrics.Brier("reliability"),
        )
        for name, temperature in (("calibrated", 1.0), ("too sure", 1.5))
    },
    "Brier resolution": (bm.metrics.Brier("resolution"), classes(1.5), None),
}


def count(truth: float, estimates: list[bm.metrics.Estimate]) -> dict[str, float]:
    n = len(estimates)
    return {
        "truth": truth,
        "mean": sum(e.value for e in estimates) / n,
        "inside": sum(e.low <= truth <= e.high for e in estimates) / n,
        "too high": sum(e.low > truth for e in estimates) / n,
        "too low": sum(e.high < truth for e in estimates) / n,
        "width": sum(e.high - e.low for e in estimates) / n,
        "estimates outside": sum(not e.low <= e.value <= e.high for e in estimates),
    }


def run(name: str, tasks: int) -> dict[str, float]:
    metric, data, truth = CASES[name]
    generator = torch.Generator().manual_seed(0)
    found = [bootstrap(metric, rows(metric, data, tasks, generator), seed=i) for i in range(REPEATS)]
    return count(simulated(metric, data) if truth is None else truth, found)


def clustered(units: int, ways: int, tasks: int, told: bool) -> dict[str, float]:
    """The mean of tasks that are the mean of their `ways` units' effects, of variance 1, and noise of variance 1 / ways."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(REPEATS):
        effect = torch.randn(units, generator=generator, dtype=torch.float64)
        if ways == 1:
            shared = torch.arange(tasks)[:, None] % units
        else:
            shared = torch.rand(tasks, units, generator=generator).topk(ways).indices
        noise = torch.randn(tasks, generator=generator, dtype=torch.float64) / math.sqrt(ways)
        row = torch.stack([effect[shared].mean(1) + noise, torch.ones_like(noise)], 1)
        if told and ways == 1:
            row = row.new_zeros(units, 2).index_add(0, shared[:, 0], row)
        found.append(bootstrap(bm.metrics.NLL(), row, shared if told and ways > 1 else None, seed=i))
    return count(0.0, found)


CLUSTERED = [
    (4, 1, 60),
    (10, 1, 60),
    (30, 1, 120),
    (20, 5, 100),
    (20, 5, 400),
    (100, 5, 100),
    (100, 5, 400),
    (400, 5, 100),
]


def table(results: dict[str, Any]) -> str:
    lines = ["| 95 % intervals of | truth | mean, 30 tasks | truth inside | too high | too low | 300 tasks | inside |"]
    lines += ["|---" * 8 + "|"]
    for name in CASES:
        few, many = (results.get(f"{name}; {tasks}") for tasks in TASKS)
        if few and many:
            lines.append(
                f"| {name} | {few['truth']:.3f} | {few['mean']:.3f} | {100 * few['inside']:.1f} % "
                f"| {100 * few['too high']:.1f} % | {100 * few['too low']:.1f} % "
                f"| {many['mean']:.3f} | {100 * many['inside']:.1f} % |"
            )
    lines += [
        "\n| units | a task | tasks | told of them: truth inside | width | not told: inside | width |",
        "|---" * 7 + "|",
    ]
    for units, ways, tasks in CLUSTERED:
        told, not_told = (
            results.get(f"{units} units, {ways} a task, {tasks} tasks; {k}") for k in ("told", "not told")
        )
        if told and not_told:
            lines.append(
                f"| {units} | {ways} | {tasks} | {100 * told['inside']:.1f} % | {told['width']:.2f} "
                f"| {100 * not_told['inside']:.1f} % | {not_told['width']:.2f} |"
            )
    outside = sum(row["estimates outside"] for row in results.values())
    return "\n".join([*lines, f"\nEstimates outside their own interval: {outside:.0f}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    if not parser.parse_args().table:
        for name in CASES:
            for tasks in TASKS:
                if f"{name}; {tasks}" not in load(RESULTS):
                    keep(RESULTS, f"{name}; {tasks}", run(name, tasks))
                    print(name, tasks, flush=True)
        for units, ways, tasks in CLUSTERED:
            for told in (True, False):
                key = f"{units} units, {ways} a task, {tasks} tasks; {'told' if told else 'not told'}"
                if key not in load(RESULTS):
                    keep(RESULTS, key, clustered(units, ways, tasks, told))
                    print(key, flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
