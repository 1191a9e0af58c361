"""What each learner costs: meta-updates, adaptation, prediction, one task served, evaluation; and how cost grows.

    python benchmarks/speed.py            # what is not yet measured, about ten minutes, on one core
    python benchmarks/speed.py --table    # writes the tables into docs/performance.md, and docs/growth_of_cost.png

Regression on 25 sinusoids of 10 + 10 points with MLP 40-40 (5 inner steps where there are any), classification of 4 tasks of
5-way 1-shot drawings with Conv4 of 32 channels. Every time is the median of rounds, in ms; each learner's block also times a
matrix product, which says how fast the machine was just then.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from matplotlib import pyplot as plt
from omniglot_learners import RUNS, Run, network
from store import keep, load
from torch import nn

import bayesmeta as bm

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results" / "speed.json", HERE.parent / "docs"
MARKS = ("<!-- speed.py -->", "<!-- end of speed.py -->")
ROUNDS = 5

Setting = Callable[[int, int, int], bm.Learner]  # from width, inner steps and draws


def kernel() -> ScaleKernel:
    return ScaleKernel(RBFKernel())


def body(width: int, outputs: int = 1) -> bm.MLP:
    return bm.MLP(1, outputs, hidden=(width, width), activation=nn.Tanh)


def set_encoder(width: int) -> bm.Encoder:
    return bm.DeepSet(width, 1, features=body(width).features)


LEARNERS: dict[str, Setting] = {
    "MAML": lambda w, k, s: bm.MAML(body(w), bm.Gaussian(), steps=k),
    "first-order MAML": lambda w, k, s: bm.FirstOrderMAML(body(w), bm.Gaussian(), steps=k),
    "ANIL": lambda w, k, s: bm.ANIL((net := body(w)).features, net.head, bm.Gaussian(), steps=k),
    "Meta-SGD": lambda w, k, s: bm.MetaSGD(body(w), bm.Gaussian(), steps=k),
    "Reptile": lambda w, k, s: bm.Reptile(body(w), bm.Gaussian(), steps=k),
    "implicit MAML": lambda w, k, s: bm.ImplicitMAML(body(w), bm.Gaussian(), steps=k),
    "ABML": lambda w, k, s: bm.ABML(body(w), bm.Gaussian(), steps=k, draws=s),
    "PLATIPUS": lambda w, k, s: bm.PLATIPUS(body(w), bm.Gaussian(), steps=k, draws=s),
    "attentive neural process": lambda w, k, s: bm.NeuralProcess(
        bm.Attention(1, 1), bm.MLP(1 + 64 + 16, 2, hidden=(w, w)), bm.HeteroscedasticGaussian(), draws=s
    ),
    "conditional neural process": lambda w, k, s: bm.ConditionalNeuralProcess(
        bm.DeepSet(1, 1), bm.MLP(1 + 64, 2, hidden=(w, w)), bm.HeteroscedasticGaussian()
    ),
    "VERSA": lambda w, k, s: bm.VERSA(set_encoder(w), 1, bm.Gaussian(), draws=s),
    "LEO": lambda w, k, s: bm.LEO(bm.Relation(w, 1, features=body(w).features), 1, bm.Gaussian(), steps=k, draws=s),
    "BMAML": lambda w, k, s: bm.BMAML(body(w), bm.Gaussian(), steps=k, leader_steps=k, particles=s),
    "ALPaCA": lambda w, k, s: bm.ALPaCA((net := body(w)).features, net.head, bm.Gaussian()),
    "DKT": lambda w, k, s: bm.DKT(body(w).features, kernel(), bm.Gaussian()),
    "ADKL": lambda w, k, s: bm.ADKL(bm.DeepSet(1, 1), bm.MLP(65, w, hidden=(w,)), kernel(), bm.Gaussian()),
    "ADKF": lambda w, k, s: bm.ADKF(body(w).features, kernel(), bm.Gaussian()),
    "PACOH, variational": lambda w, k, s: bm.PACOH(
        body(w).features, kernel(), bm.Gaussian(), tasks=100, hyper_posterior="variational", particles=s
    ),
    "PACOH-NN": lambda w, k, s: bm.PACOHNN(body(w), bm.Gaussian(), tasks=100, particles=s),
}
DRAWS, STEPS, WIDTH, SHOTS, TASKS = 4, 5, 40, 10, 25
GROWTH: dict[str, tuple[list[int], list[str]]] = {
    "tasks": ([16, 32, 64, 128, 256], list(LEARNERS)),
    "inner steps": (
        [2, 4, 8, 16],
        ["MAML", "first-order MAML", "Reptile", "implicit MAML", "ABML", "PLATIPUS", "BMAML"],
    ),
    "draws": ([4, 8, 16, 32], ["ABML", "PLATIPUS", "attentive neural process", "VERSA", "LEO"]),
    "support points": ([32, 64, 128, 256], ["MAML", "ABML", "attentive neural process", "ALPaCA", "DKT", "LEO"]),
    "width": ([64, 128, 256, 512], ["MAML", "ABML", "VERSA", "ALPaCA", "DKT"]),
}


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
    return median(lambda: a @ a, 20)


def update(learner: bm.Learner, episode: bm.Episode) -> Callable[[], None]:
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        learner.loss(episode).backward()
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


def grown(name: str, axis: str, value: int) -> float:
    """A meta-update with one setting changed."""
    size = {"tasks": TASKS, "inner steps": STEPS, "draws": DRAWS, "support points": SHOTS, "width": WIDTH, axis: value}
    tasks = bm.Sinusoids(batch=size["tasks"], shots=size["support points"], queries=10, noise=0.1)
    torch.manual_seed(0)
    return median(update(LEARNERS[name](size["width"], size["inner steps"], size["draws"]), tasks[0]), 3)


def conv4(run: Run) -> dict[str, float]:
    tasks = bm.Omniglot(ways=5, shots=1, queries=5, batch=4)
    return costs(run.build(network(Run(run.build, 1, width=run.width))), tasks)


def exponent(values: list[int], times: list[float]) -> float:
    """p of t = a n^p, by least squares over the three largest sizes, where what does not grow weighs least."""
    return float(np.polyfit(np.log(values[-3:]), np.log(times[-3:]), 1)[0])


def measure() -> None:
    for name, make in LEARNERS.items():
        if name not in load(RESULTS):
            torch.manual_seed(0)
            tasks = bm.Sinusoids(batch=TASKS, shots=SHOTS, queries=10, noise=0.1)
            keep(RESULTS, name, costs(make(WIDTH, STEPS, DRAWS), tasks))
            print(name, load(RESULTS)[name], flush=True)
    for name, run in RUNS.items():
        if name.endswith("; group") and run.ways == 5 and "," not in name and f"Conv4: {name}" not in load(RESULTS):
            keep(RESULTS, f"Conv4: {name}", conv4(run))
            print(name, load(RESULTS)[f"Conv4: {name}"], flush=True)
    for axis, (values, names) in GROWTH.items():
        for name in names:
            if f"{axis}: {name}" not in load(RESULTS):
                keep(RESULTS, f"{axis}: {name}", [grown(name, axis, value) for value in values])
                print(axis, name, load(RESULTS)[f"{axis}: {name}"], flush=True)


def table(results: dict[str, Any]) -> str:
    columns = ["meta-update", "adaptation", "prediction", "one task served", "evaluation", "drawing an episode"]
    lines = []
    for prefix, head in (("", "MLP, 25 sinusoids"), ("Conv4: ", "Conv4, 4 tasks of drawings")):
        rows = {
            name.removeprefix(prefix).removesuffix("; group"): row
            for name, row in results.items()
            if isinstance(row, dict) and name.startswith("Conv4: ") == bool(prefix)
        }
        lines += [f"| {head}, ms | {' | '.join(columns)} | update in matrix products |", "|---" * 8 + "|"]
        for name, row in rows.items():
            cells = " | ".join(f"{row[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {cells} | {row['meta-update'] / row['matrix product']:.1f} |")
        lines.append("")
    lines += ["| exponent of a meta-update's time | " + " | ".join(GROWTH) + " |", "|---" * (1 + len(GROWTH)) + "|"]
    for name in LEARNERS:
        cells = [
            f"{exponent(values, results[f'{axis}: {name}']):.2f}" if f"{axis}: {name}" in results else ""
            for axis, (values, _) in GROWTH.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> None:
    figure, axes = plt.subplots(1, len(GROWTH), figsize=(15, 4), layout="constrained")
    for axis, (name, (values, learners)) in zip(axes, GROWTH.items(), strict=True):
        shown = learners if name != "tasks" else ["MAML", "ABML", "PLATIPUS", "VERSA", "ALPaCA", "DKT"]
        for number, learner in enumerate(shown):
            axis.plot(
                values, results[f"{name}: {learner}"], color=f"C{number}", marker="o", markersize=3, label=learner
            )
        low = min(results[f"{name}: {learner}"][0] for learner in shown)
        axis.plot(values, [low * value / values[0] for value in values], "k:", linewidth=1, label="linear")
        axis.set(xscale="log", yscale="log", xlabel=name, xticks=values, xticklabels=values)
        axis.minorticks_off()
        axis.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("ms a meta-update")
    figure.savefig(DOCS / "growth_of_cost.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write docs/performance.md from what is there")
    torch.set_num_threads(1)
    if not parser.parse_args().table:
        measure()
    results = load(RESULTS)
    picture(results)
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n\n{table(results)}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table(results))


if __name__ == "__main__":
    main()
