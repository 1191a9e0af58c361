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
from matplotlib import pyplot as plt
from torch import nn
from torch.profiler import ProfilerActivity, profile

import bayesmeta as bm
from bayesmeta.training.gradient import MetaGradient
from benchmarks.accuracy.omniglot_learners import RUNS, Build, Run, kernel, network
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, RATIOS, DOCS = HERE / "results" / "speed.json", HERE / "results" / "ratios.json", HERE.parent / "docs"
PAGES = {"MALLOC_ARENA_MAX": "1"} | dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "4000000000")
COLD = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # what was compiled before is compiled again
OTHERS = {"mlp": "meta_step.py --compile", "conv4": "meta_step.py --network conv4", "kernels": "kernel_step.py"}
MARKS = ("<!-- speed.py -->", "<!-- end of speed.py -->")
ROUNDS = 5

Setting = Callable[[int, int, int], bm.Learner]  # from width, inner steps and draws


def body(width: int, outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=(width, width), activation=nn.Tanh)


def set_encoder(width: int) -> bm.encoders.Encoder:
    return bm.encoders.DeepSet(width, 1, features=body(width).features)


LEARNERS: dict[str, Setting] = {
    "MAML": lambda w, k, s: bm.MAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "first-order MAML": lambda w, k, s: bm.FirstOrderMAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "ANIL": lambda w, k, s: bm.ANIL((net := body(w)).features, net.head, bm.likelihoods.Gaussian(), steps=k),
    "Meta-SGD": lambda w, k, s: bm.MetaSGD(body(w), bm.likelihoods.Gaussian(), steps=k),
    "Reptile": lambda w, k, s: bm.Reptile(body(w), bm.likelihoods.Gaussian(), steps=k),
    "implicit MAML": lambda w, k, s: bm.ImplicitMAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "ABML": lambda w, k, s: bm.ABML(body(w), bm.likelihoods.Gaussian(), steps=k, objective=bm.Predictive(draws=s)),
    "PLATIPUS": lambda w, k, s: bm.PLATIPUS(body(w), bm.likelihoods.Gaussian(), steps=k, objective=bm.ELBO(draws=s)),
    "attentive neural process": lambda w, k, s: bm.NeuralProcess(
        bm.encoders.Attention(1, 1),
        bm.networks.MLP(1 + 64 + 16, 2, hidden=(w, w)),
        bm.likelihoods.HeteroscedasticGaussian(),
        objective=bm.Predictive(draws=s),
    ),
    "conditional neural process": lambda w, k, s: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1), bm.networks.MLP(1 + 64, 2, hidden=(w, w)), bm.likelihoods.HeteroscedasticGaussian()
    ),
    "VERSA": lambda w, k, s: bm.VERSA(set_encoder(w), 1, bm.likelihoods.Gaussian(), objective=bm.Predictive(draws=s)),
    "LEO": lambda w, k, s: bm.LEO(
        bm.encoders.Relation(w, 1, features=body(w).features),
        1,
        bm.likelihoods.Gaussian(),
        steps=k,
        objective=bm.ELBO(draws=s),
    ),
    "BMAML": lambda w, k, s: bm.BMAML(body(w), bm.likelihoods.Gaussian(), steps=k, leader_steps=k, particles=s),
    "ALPaCA": lambda w, k, s: bm.ALPaCA((net := body(w)).features, net.head, bm.likelihoods.Gaussian()),
    "DKT": lambda w, k, s: bm.DKT(body(w).features, kernel(), bm.likelihoods.Gaussian()),
    "ADKL": lambda w, k, s: bm.ADKL(
        bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, w, hidden=(w,)), kernel(), bm.likelihoods.Gaussian()
    ),
    "ADKF": lambda w, k, s: bm.ADKF(body(w).features, kernel(), bm.likelihoods.Gaussian()),
    "PACOH, variational": lambda w, k, s: bm.PACOH(
        body(w).features, kernel(), bm.likelihoods.Gaussian(), tasks=100, hyper_posterior="variational", particles=s
    ),
    "PACOH-NN": lambda w, k, s: bm.PACOHNN(body(w), bm.likelihoods.Gaussian(), tasks=100, particles=s),
}
ON_CONV4 = {name.split(";")[0]: run.build for name, run in RUNS.items() if "," not in name and "20 ways" not in name}
ON_CONV4["Laplace GP"] = lambda network: bm.LaplaceGP(network.features, kernel(), classes=network.head.out_features)
CHOLESKY = "its Cholesky factors"
DRAWS, STEPS, WIDTH, SHOTS, TASKS = 4, 5, 40, 10, 25
GROWTH: dict[str, tuple[list[int], list[str]]] = {
    "tasks": ([16, 32, 64, 128, 256], list(LEARNERS)),
    "inner steps": (
        [2, 4, 8, 16],
        [
            "MAML",
            "first-order MAML",
            "ANIL",
            "Meta-SGD",
            "Reptile",
            "implicit MAML",
            "ABML",
            "PLATIPUS",
            "LEO",
            "BMAML",
        ],
    ),
    "draws": (
        [4, 8, 16, 32],
        ["ABML", "PLATIPUS", "attentive neural process", "VERSA", "LEO", "BMAML", "PACOH, variational", "PACOH-NN"],
    ),
    "support points": (
        [32, 64, 128, 256],
        ["MAML", "ABML", "attentive neural process", "VERSA", "LEO", "ALPaCA", "DKT"],
    ),
    "width": ([64, 128, 256, 512], ["MAML", "ABML", "VERSA", "ALPaCA", "DKT"]),
    "many points": ([256, 512, 1024], ["DKT", CHOLESKY]),
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
    return median(lambda: a @ a, 9)


def update(learner: bm.Learner, episode: bm.Episode, slices: int = 1, **settings: Any) -> Callable[[], None]:
    """The update that `fit` makes."""
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)
    meta_gradient = MetaGradient(learner, list(learner.parameters()), slices, threads=1, **settings)

    def step() -> None:
        for parameter, slope in zip(meta_gradient.parameters, meta_gradient(episode)[1], strict=True):
            parameter.grad = slope
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
    return {"eager": eager, "compiled": quick, "seconds": seconds, "whole": not lines}


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


def exponent(values: list[int], costs: list[float]) -> float:
    """p of t = a n^p, by least squares over the three largest sizes, where what does not grow weighs least."""
    return float(np.polyfit(np.log(values[-3:]), np.log(costs[-3:]), 1)[0])


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
        once(f"compiled: {name}", lambda make=make: compiled(make(WIDTH, STEPS, DRAWS), tasks[0]))
    for name, command in OTHERS.items():
        if name not in load(RATIOS):
            environment = {key: value for key, value in os.environ.items() if key not in PAGES}
            subprocess.run([sys.executable, *command.split()], cwd=HERE, env=environment, check=True)


def under(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): row for name, row in results.items() if name.startswith(prefix)}


def table(results: dict[str, Any]) -> str:
    columns = ["meta-update", "adaptation", "prediction", "one task served", "evaluation", "drawing an episode"]
    lines = []
    for prefix, head in (("MLP: ", "MLP, 25 sinusoids"), ("Conv4: ", "Conv4, 4 tasks of drawings")):
        lines += [f"| {head}, ms | {' | '.join(columns)} | update in matrix products |", "|---" * 8 + "|"]
        for name, row in under(results, prefix).items():
            cells = " | ".join(f"{row[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {cells} | {row['meta-update'] / row['matrix product']:.1f} |")
        lines.append("")
    head = ["beside other libraries", "ms a meta-update", "times as fast", "share of a matrix product's rate"]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for setting, row in load(RATIOS).items():
        best = min(row["ms"][name] for name in ("higher", "torchopt", "loop over ExactGP") if name in row["ms"])
        for name, ms in row["ms"].items():
            share = row.get("share of a matrix product's rate", {}).get(name)
            lines.append(
                f"| {setting}: {name} | {ms:.1f} | {best / ms:.2f} | {'' if share is None else f'{share:.0%}'} |"
            )
    lines.append("")
    axes = list(GROWTH)[:-1]
    lines += ["| exponents of a meta-update: time, memory | " + " | ".join(axes) + " |", "|---" * (1 + len(axes)) + "|"]
    for name in LEARNERS:
        cells = [both(GROWTH[axis][0], row) if (row := results.get(f"{axis}: {name}")) else "" for axis in axes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    values = GROWTH["many points"][0]
    lines += [
        "",
        f"| ms for so many points | {' | '.join(map(str, values))} | exponents |",
        "|---" * (2 + len(values)) + "|",
    ]
    for name, row in under(results, "many points: ").items():
        cells = " | ".join(f"{ms:.0f}" for ms in row["ms"])
        lines.append(f"| {name} | {cells} | {both(values, row)} |")
    lines += [
        "",
        "| Conv4, 8 tasks of 15 queries a class | ms in one slice | in 8 | MiB in one slice | in 8 |",
        "|---" * 5 + "|",
    ]
    for name, row in under(results, "slices: ").items():
        lines.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in row['ms'] + row['MiB'])} |")
    lines += ["", "| `compile=True`, MLP, 25 sinusoids | ms | compiled | times as fast | compiled as | s to compile |"]
    lines.append("|---" * 6 + "|")
    for name, row in under(results, "compiled: ").items():
        how = "one graph" if row["whole"] else "parts"
        gain = row["eager"] / row["compiled"]
        lines.append(
            f"| {name} | {row['eager']:.1f} | {row['compiled']:.1f} | {gain:.1f} | {how} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def both(values: list[int], row: dict[str, list[float]]) -> str:
    """The exponents of time, in matrix products, and of memory."""
    times = [time / unit for time, unit in zip(row["ms"], row["matrix product"], strict=True)]
    return f"{exponent(values, times):.2f}, {exponent(values, row['MiB']):.2f}"


def picture(results: dict[str, Any]) -> None:
    axes = list(GROWTH)[:-1]
    figure, panes = plt.subplots(2, len(axes), figsize=(15, 8), layout="constrained", sharex="col")
    colours = dict(zip(LEARNERS, plt.get_cmap("tab20").colors, strict=False))  # type: ignore[attr-defined]
    for column, name in zip(panes.T, axes, strict=True):
        values, learners = GROWTH[name]
        shown = learners if name != "tasks" else ["MAML", "ABML", "PLATIPUS", "VERSA", "ALPaCA", "DKT"]
        for pane, unit in zip(column, ("ms", "MiB"), strict=True):
            costs = {learner: results[f"{name}: {learner}"][unit] for learner in shown}
            for learner, row in costs.items():
                pane.plot(values, row, color=colours[learner], marker="o", markersize=3, label=learner)
            low = min(row[0] for row in costs.values())
            pane.plot(values, [low * value / values[0] for value in values], "k:", linewidth=1, label="linear")
            pane.set(xscale="log", yscale="log", xticks=values, xticklabels=values)
            pane.minorticks_off()
        column[1].set_xlabel(name)
    panes[0, 0].set_ylabel("ms a meta-update")
    panes[1, 0].set_ylabel("MiB at its peak")
    found = [pane.get_legend_handles_labels() for pane in panes.flat]
    lines = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=9, frameon=False)
    figure.savefig(DOCS / "growth_of_cost.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write docs/performance.md from what is there")
    torch.set_num_threads(1)
    if not parser.parse_args().table:
        if not PAGES.items() <= os.environ.items():  # they are read when a process begins
            os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PAGES | COLD)
        measure()
    results = load(RESULTS)
    picture(results)
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n\n{table(results)}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table(results))


if __name__ == "__main__":
    main()
