"""Which learner for my data? 26 families of real tasks with few measurements each, beside what one would otherwise use.

    python benchmarks/longitudinal.py                    # all of it; about half an hour on two cores
    python benchmarks/longitudinal.py --families sitka   # some families; two calls may run side by side
    python benchmarks/longitudinal.py --table            # prints what is there, draws docs/longitudinal_ranks.png

Tasks are split into train, validation and test (0.5, 0.2 and the rest, at least one each), anew for each of 3 seeds. A
learner trains once, on 3 to 5 shots, in 3 rounds of which the state with the lowest NLL on the validation tasks is kept,
and is tested with 3 and with 5 points a task (fewer where the family's shortest task would have none left to ask for), over
4 divisions of each test task, the same for all. Figures pool the test tasks of all seeds; intervals are bootstraps over
tasks. The learner that stands for the library in the comparison is chosen by family, on validation tasks alone. Every
finished run is kept in results/longitudinal.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from baselines import BASELINES
from gpytorch.kernels import ConstantKernel, Kernel, LinearKernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.means import LinearMean
from store import keep, load
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayesmeta as bm
from bayesmeta.evaluation import Predictor
from bayesmeta.metrics import bootstrap
from bayesmeta.tasks.longitudinal import FAMILIES

RESULTS = Path(__file__).parent / "results" / "longitudinal.json"
PICTURE = Path(__file__).parent.parent / "docs" / "longitudinal_ranks.png"
SEEDS, SHOTS, DIVISIONS, ROUNDS, BATCH = 3, (3, 5), 4, 3, 16
METRICS: list[bm.Metric] = [bm.NLL(), bm.RMSE(), bm.CRPS(), bm.Coverage(0.9)]


class MeanNetwork(nn.Module):
    """A prior mean ``(B, N, D)`` to ``(B, N)`` as gpytorch has them."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = tanh(inputs, (16, 16))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.network(x)
        return values.squeeze(-1)


def tanh(inputs: int, hidden: tuple[int, ...] = (40, 40)) -> bm.MLP:
    return bm.MLP(inputs, 1, hidden=hidden, activation=nn.Tanh)


def kernel(inputs: int, smooth: type[Kernel] = RBFKernel) -> Kernel:
    """A random intercept, random slopes, and a smooth function."""
    return ScaleKernel(smooth(ard_num_dims=inputs)) + LinearKernel(ard_num_dims=inputs) + ConstantKernel()


def alpaca(inputs: int) -> bm.Learner:
    body = tanh(inputs)
    return bm.ALPaCA(body.features, body.head, bm.Gaussian())


def dkt(inputs: int) -> bm.Learner:
    features, deep = tanh(inputs).features, LinearKernel(ard_num_dims=40) + ConstantKernel()
    return bm.DKT(features, deep, bm.Gaussian(), mean=LinearMean(40))


def pacoh(inputs: int, tasks: int) -> bm.Learner:
    mean = tanh(inputs, (16, 16))
    return bm.PACOH(nn.Identity(), kernel(inputs), bm.Gaussian(), tasks=tasks, mean=mean, particles=4, hyper_scale=3.0)


def process(inputs: int, smooth: type[Kernel]) -> bm.Learner:
    return bm.DKT(nn.Identity(), kernel(inputs, smooth), bm.Gaussian(), mean=MeanNetwork(inputs))  # type: ignore[arg-type]


# The learner of so many inputs, for so many training tasks; its meta-updates a round, and Adam's first rate.
LEARNERS: dict[str, tuple[Callable[[int, int], bm.Learner], int, float]] = {
    "GP, RBF": (lambda inputs, _: process(inputs, RBFKernel), 200, 2e-2),
    "GP, Matern": (lambda inputs, _: process(inputs, MaternKernel), 200, 2e-2),
    "PACOH": (pacoh, 200, 2e-2),
    "DKT, linear": (lambda inputs, _: dkt(inputs), 300, 1e-2),
    "ALPaCA": (lambda inputs, _: alpaca(inputs), 300, 1e-2),
    "MAML": (lambda inputs, _: bm.MAML(tanh(inputs), bm.Gaussian(), steps=5, rate=0.05), 200, 3e-3),
    "CNP": (
        lambda inputs, _: bm.ConditionalNeuralProcess(
            bm.DeepSet(inputs, 1), bm.MLP(inputs + 64, 2), bm.HeteroscedasticGaussian()
        ),
        300,
        3e-3,
    ),
}
NAMES = [*LEARNERS, *BASELINES]


def source(family: str, split: Any, seed: int, shots: int | tuple[int, int], batch: int | None = None) -> bm.ArrayTasks:
    return bm.Longitudinal(
        family, split=split, fractions=(0.5, 0.2), split_seed=seed, shots=shots, batch=batch, seed=seed
    )


def figures(predictor: Predictor, family: str, split: str, seed: int) -> dict[str, dict[str, Any]]:
    """Sums a test task and division, by shots and metric."""
    rows: dict[str, dict[str, Any]] = {}
    for shots in SHOTS:
        fewest = int(source(family, "all", seed, SHOTS).points.mask.sum(1).min())
        tasks = source(family, split, seed, min(shots, fewest - 1))
        statistics: dict[str, Tensor] = {}
        for division in range(DIVISIONS):
            support, query = tasks[division]
            with torch.no_grad():
                predictive = predictor(support)(query.x)
            for metric in METRICS:
                row = metric.statistic(predictive, query)
                statistics[metric.name] = statistics[metric.name] + row if division else row
        rows[str(shots)] = {name: row.tolist() for name, row in statistics.items()}
    return rows


def validation(predictor: Predictor, family: str, seed: int) -> float:
    rows = figures(predictor, family, "validation", seed)
    sums = torch.tensor([row for shots in rows.values() for row in shots["NLL"]]).sum(0)
    return float(sums[0] / sums[1])


def train(name: str, family: str, seed: int) -> Predictor:
    whole = source(family, "train", seed, SHOTS)
    tasks = len(whole.names)
    torch.manual_seed(seed)
    build, steps, rate = LEARNERS[name]
    learner = bm.Standardized(build(whole.points.x.shape[-1], tasks), whole)
    episodes = source(family, "train", seed, SHOTS, min(BATCH, tasks))
    best, state = float("inf"), learner.state_dict()
    for round_ in range(ROUNDS):
        optimizer = Adam(learner.parameters(), rate)
        schedule = CosineAnnealingLR(optimizer, steps)
        bm.fit(
            learner,
            episodes,
            steps=steps,
            optimizer=optimizer,
            scheduler=schedule,
            seed=seed + round_,
            progress=False,
        )
        found = validation(learner, family, seed)
        if found < best:
            best, state = found, deepcopy(learner.state_dict())
    learner.load_state_dict(state)
    return learner


def run(name: str, family: str, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    learned = name in LEARNERS
    predictor = train(name, family, seed) if learned else BASELINES[name](source(family, "train", seed, SHOTS))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "validation": validation(predictor, family, seed),
        "test": figures(predictor, family, "test", seed),
    }


def pooled(results: dict[str, Any], name: str, family: str) -> dict[str, bm.Estimate] | None:
    """The metrics over the test tasks of all seeds and both numbers of shots, if all seeds are there and none failed."""
    runs = [results.get(f"{name}; {family}; {seed}") for seed in range(SEEDS)]
    if not all(isinstance(row, dict) for row in runs):
        return None
    found = {}
    for metric in METRICS:
        rows = [torch.tensor([row["test"][str(shots)][metric.name] for shots in SHOTS]).sum(0) for row in runs]  # type: ignore[index]
        found[metric.name] = bootstrap(metric, torch.cat(rows))
    return found


def chosen(results: dict[str, Any], family: str, names: list[str]) -> str:
    """The name with the lowest NLL on the validation tasks, over the seeds."""

    def score(name: str) -> float:
        return sum(results[f"{name}; {family}; {seed}"]["validation"] for seed in range(SEEDS))

    return min(names, key=score)


def table(results: dict[str, Any]) -> str:
    lines: list[str] = []
    summary = [
        "| family | learner chosen on validation | its NLL | best baseline | its NLL | coverage | lower than every baseline |"
    ]
    summary.append("|---" * 7 + "|")
    ranks: dict[str, list[int]] = {name: [] for name in NAMES}
    beaten = covered = families = 0
    for family in FAMILIES:
        rows = {name: found for name in NAMES if (found := pooled(results, name, family)) is not None}
        learners, others = [n for n in rows if n in LEARNERS], [n for n in rows if n in BASELINES]
        if not learners or not others:
            continue
        families += 1
        lines += [f"\n### {family}\n", "| | " + " | ".join(m.name for m in METRICS) + " |", "|---" * 5 + "|"]
        order = sorted(rows, key=lambda name: rows[name]["NLL"].value)
        lines += [f"| {name} | " + " | ".join(str(rows[name][m.name]) for m in METRICS) + " |" for name in order]
        for place, name in enumerate(order):
            ranks[name].append(place + 1)
        mine, best = chosen(results, family, learners), min(others, key=lambda name: rows[name]["NLL"].value)
        coverage = rows[mine]["90% coverage"].value
        lower = rows[mine]["NLL"].value < rows[best]["NLL"].value
        beaten, covered = beaten + lower, covered + (0.85 <= coverage <= 0.95)
        summary.append(
            f"| {family} | {mine} | {rows[mine]['NLL'].value:.3f} | {best} | {rows[best]['NLL'].value:.3f} "
            f"| {coverage:.3f} | {'yes' if lower else 'no'} |"
        )
    summary.append(
        f"\nLower NLL than every baseline: {beaten} of {families}. Coverage within 0.85 to 0.95: {covered} of {families}.\n"
    )
    summary += ["| | mean rank by NLL | families won | median seconds to train |", "|---|---|---|---|"]
    kept = {name: places for name, places in ranks.items() if places}
    for name in sorted(kept, key=lambda name: sum(kept[name]) / len(kept[name])):
        times = torch.tensor(
            [row["seconds"] for key, row in results.items() if key.startswith(f"{name}; ") and isinstance(row, dict)]
        )
        summary.append(
            f"| {name} | {sum(kept[name]) / len(kept[name]):.1f} | {kept[name].count(1)} | {times.median():.1f} |"
        )
    failed = [f"{key}: {row}" for key, row in results.items() if isinstance(row, str)]
    if kept:
        draw(kept)
    return "\n".join([*summary, *([f"\nFailed: {'; '.join(failed)}"] if failed else []), *lines])


def draw(ranks: dict[str, list[int]]) -> None:
    from matplotlib import pyplot as plt

    order = sorted(ranks, key=lambda name: sum(ranks[name]) / len(ranks[name]), reverse=True)
    figure, pane = plt.subplots(figsize=(7, 0.36 * len(order) + 1), layout="constrained")
    for place, name in enumerate(order):
        colour, counts = ("#0072b2" if name in LEARNERS else "#d55e00"), ranks[name]
        for rank in set(counts):
            pane.scatter(rank, place, s=14 * counts.count(rank), color=colour, alpha=0.35, linewidths=0)
        pane.plot(sum(counts) / len(counts), place, "|", color=colour, markersize=16, markeredgewidth=2.5)
    pane.set(yticks=range(len(order)), yticklabels=order, xticks=range(1, len(order) + 1))
    pane.set_xlabel(
        f"rank by NLL in {max(map(len, ranks.values()))} families: area counts families, the bar is the mean"
    )
    for label in pane.get_yticklabels():
        label.set_color("#0072b2" if label.get_text() in LEARNERS else "#d55e00")
    pane.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for family in arguments.families:
            for seed in range(SEEDS):
                for name in arguments.learners:
                    key = f"{name}; {family}; {seed}"
                    if key not in load(RESULTS):
                        try:
                            result: Any = run(name, family, seed)
                        except Exception as error:  # one failure must not end hours of work; the table names it
                            result = f"{type(error).__name__}: {error}"
                        keep(RESULTS, key, result)
                        print(key, result if isinstance(result, str) else f"{result['validation']:.3f}", flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
