"""Few-shot classification of Omniglot characters that no learner has seen, in accuracy, calibration and doubt.

    python benchmarks/omniglot.py                      # every learner that is not yet trained and measured, one core
    python benchmarks/omniglot.py VERSA "MAML; batch"   # only those whose names begin so: programs may share the work
    python benchmarks/omniglot.py --papers "MAML; batch" # the papers' setting: 64 channels, 60,000 steps of 32 tasks, 15 queries
    python benchmarks/omniglot.py --sampler            # what drawing an episode costs beside a step
    python benchmarks/omniglot.py --table              # writes the tables of what is there into docs/results.md

Characters are split as in Vinyals et al. 2016; training characters turned by quarter turns are further classes. All learners
share the same network, Conv4 of 32 channels, and the same episodes. "group" normalises each image by itself (inductive);
"batch" uses the statistics of the support, and of all queries of a call together (transductive), as most papers do. Tests are on
600 tasks with 15 queries a class, of characters as they are; the temperature is fitted on 200 tasks of validation characters.

Slow learners start from the features of prototypical networks (3,000 steps) and a head of zeros; that time is counted as theirs.

Weights go to the folder weights/ beside this file when a training ends, and each measurement to results/omniglot.json, so that a
program that was stopped goes on with the learner it was at.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gpytorch
import numpy as np
import pyro
import torch
from gpytorch.kernels import Kernel, RBFKernel, ScaleKernel
from store import keep, load
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.distributions import temper
from bayesmeta.evaluation import estimates, evaluating, predict, seeded

HERE = Path(__file__).parent
RESULTS, WEIGHTS = HERE / "results" / "omniglot.json", HERE / "weights"
DOCS, MARKS = HERE.parent / "docs" / "results.md", ("<!-- omniglot.py -->", "<!-- end of omniglot.py -->")
METRICS: list[bm.Metric] = [bm.Accuracy(), bm.NLL(), bm.ECE()]
NORMS = {"group": bm.GroupNorm, "batch": bm.BatchNorm}
SEED, EPISODES, TASKS = 0, 30, 20  # test episodes, and tasks in each

Build = Callable[[bm.Conv4], bm.Learner]


@dataclass(frozen=True)
class Run:
    """A learner, and how it is meta-trained and tested."""

    build: Build
    steps: int
    ways: int = 5
    batch: int = 4
    queries: int = 5
    width: int = 32
    norm: str = "group"
    split: Literal["train", "background"] = "train"
    rate: float = 3e-3
    """Adam's, which a cosine takes to 0."""
    start: bool = False
    """Whether the network starts with the features of prototypical networks."""
    tests: tuple[tuple[int, int], ...] = ((5, 1), (5, 5))
    """Ways and shots."""


def prototypes(network: bm.Conv4) -> bm.Learner:
    return bm.PrototypicalNetwork(network.features, network.head.out_features)


def maml(network: bm.Conv4) -> bm.Learner:
    return bm.MAML(network, bm.Categorical(), steps=1, rate=0.4)


def first_order(network: bm.Conv4) -> bm.Learner:
    return bm.FirstOrderMAML(network, bm.Categorical(), steps=3, rate=0.1)


def anil(network: bm.Conv4) -> bm.Learner:
    return bm.ANIL(network.features, network.head, bm.Categorical(), steps=5, rate=0.1)


def meta_sgd(network: bm.Conv4) -> bm.Learner:
    return bm.MetaSGD(network, bm.Categorical(), steps=1, rate=0.4)


def reptile(network: bm.Conv4) -> bm.Learner:
    return bm.Reptile(network, bm.Categorical(), steps=5, rate=0.1)


def implicit(network: bm.Conv4) -> bm.Learner:
    return bm.ImplicitMAML(network, bm.Categorical(), steps=8, rate=0.1, strength=1.0, iterations=3)


def leo(network: bm.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    encoder = bm.Relation(size, ways, classes=True, features=network.features)
    return bm.LEO(
        encoder, ways, bm.Categorical(), steps=1, rate=0.02, head_steps=1, head_rate=0.005, objective="predictive"
    )


def versa(network: bm.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    return bm.VERSA(bm.ClassPooling(size, ways, features=network.features), ways, bm.Categorical())


def neural_process(network: bm.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    encoder = bm.Attention(size, ways, features=network.features)
    return bm.NeuralProcess(encoder, bm.MLP(size + encoder.size + 16, ways), bm.Categorical())


def kernel() -> Kernel:
    return ScaleKernel(RBFKernel())


def dkt(network: bm.Conv4) -> bm.Learner:
    return bm.DKTClassifier(network.features, kernel(), classes=network.head.out_features)


def one_vs_each(network: bm.Conv4) -> bm.Learner:
    wide = kernel()
    wide.outputscale = 1e5  # one point a class says no more than a sign: functions must be steep for confidence
    return bm.PolyaGammaGP(network.features, wide, classes=network.head.out_features)


def abml(network: bm.Conv4) -> bm.Learner:
    return bm.ABML(network, bm.Categorical(), steps=1, rate=0.4, draws=2)


def platipus(network: bm.Conv4) -> bm.Learner:
    return bm.PLATIPUS(network, bm.Categorical(), steps=1, rate=0.4, draws=2, objective="predictive")


def bmaml(network: bm.Conv4) -> bm.Learner:
    return bm.BMAML(network, bm.Categorical(), particles=3, steps=1, leader_steps=1, rate=0.4)


ANY_WAYS = ((5, 1), (5, 5), (20, 1), (20, 5))  # for learners whose number of classes is free
ONE_SHOT: tuple[tuple[int, int], ...] = ()  # Lake's runs only

RUNS = {
    "MAML; group": Run(maml, 14_000),
    "MAML; batch": Run(maml, 14_000, norm="batch"),
    "prototypical networks; group": Run(prototypes, 6_000, ways=20, batch=2, tests=ANY_WAYS),
    "DKT; group": Run(dkt, 10_000, tests=ANY_WAYS),
    "one-vs-each Pólya-Gamma GP; group": Run(one_vs_each, 7_000, tests=((5, 1), (5, 5), (20, 1))),
    "VERSA; group": Run(versa, 10_000),
    "LEO; group": Run(leo, 5_000, rate=1e-3, start=True),
    "PLATIPUS; group": Run(platipus, 4_000, start=True),
    "ABML; group": Run(abml, 2_000, start=True),
    "prototypical networks; batch": Run(prototypes, 6_000, ways=20, batch=2, norm="batch", tests=ANY_WAYS),
    "first-order MAML; group": Run(first_order, 8_000, rate=1e-3),
    "ANIL; group": Run(anil, 10_000),
    "Meta-SGD; group": Run(meta_sgd, 9_000),
    "neural process; group": Run(neural_process, 5_000, start=True),
    "BMAML; group": Run(bmaml, 2_500, start=True),
    "Reptile; group": Run(reptile, 2_500),
    "implicit MAML; group": Run(implicit, 1_500, start=True),
    "first-order MAML; batch": Run(first_order, 8_000, norm="batch", rate=1e-3),
    "Meta-SGD; batch": Run(meta_sgd, 7_000, norm="batch"),
    "Reptile; batch": Run(reptile, 2_000, norm="batch"),
    "MAML of 20 ways; group": Run(maml, 6_000, ways=20, batch=2, tests=((20, 1), (20, 5))),
    "MAML of 20 ways; batch": Run(maml, 6_000, ways=20, batch=2, norm="batch", tests=((20, 1), (20, 5))),
    "prototypical networks, background; group": Run(prototypes, 4_000, 20, 2, split="background", tests=ONE_SHOT),
    "DKT, background; group": Run(dkt, 6_000, split="background", tests=ONE_SHOT),
    "one-vs-each Pólya-Gamma GP, background; group": Run(one_vs_each, 6_000, split="background", tests=ONE_SHOT),
    "MAML of 20 ways, background; group": Run(maml, 4_000, 20, 2, split="background", tests=ONE_SHOT),
}
START = Run(prototypes, 3_000, ways=20, batch=2)


def as_in_papers(run: Run) -> Run:
    return replace(run, steps=60_000, batch=32, queries=15, width=64, start=False)


def network(run: Run) -> bm.Conv4:
    return bm.Conv4(outputs=run.ways, width=run.width, norm=NORMS[run.norm])


def trained(name: str, run: Run, folder: Path) -> tuple[bm.Learner, dict[str, Any]]:
    """The learner as its weights file has it, which is made where there is none, and how it was trained."""
    path = folder / f"{name.replace('; ', ' ')}.pt"
    torch.manual_seed(SEED)
    body, seconds = network(run), 0.0
    if run.start:
        other, found = trained(f"start; {run.norm}", replace(START, norm=run.norm, width=run.width), folder)
        body.features.load_state_dict(other.features.state_dict())  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(body.head.weight)
        nn.init.zeros_(body.head.bias)
        seconds = found["seconds"]
    learner = run.build(body)
    if not path.exists():
        tasks = bm.Omniglot(split=run.split, ways=run.ways, shots=1, queries=run.queries, batch=run.batch)
        began = time.process_time()
        optimizer = torch.optim.Adam(learner.parameters(), lr=run.rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
        history = bm.fit(learner, tasks, steps=run.steps, optimizer=optimizer, scheduler=scheduler, seed=SEED)
        if history.interrupted:
            raise KeyboardInterrupt
        seconds += time.process_time() - began
        folder.mkdir(exist_ok=True)
        fresh = path.with_suffix(".new")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        torch.save({"state": learner.state_dict(), "seconds": seconds, "peak MiB": peak}, fresh)
        fresh.replace(path)
    saved = torch.load(path, weights_only=True)
    learner.load_state_dict(saved.pop("state"))
    how = {"steps": run.steps, "width": run.width, "batch": run.batch, "start": run.start, "seed": SEED}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return learner, {**saved, **how, **versions, "gpytorch": gpytorch.__version__, "bayesmeta": bm.__version__}


def measure(learner: bm.Learner, ways: int, shots: int) -> dict[str, Any]:
    """Metrics of test tasks as they are and with the temperature of validation tasks, from the same predictions."""
    if hasattr(learner, "classes"):
        learner.classes = ways
    validation, test = (
        bm.Omniglot(split=split, ways=ways, shots=shots, queries=15, batch=TASKS, seed=1)  # type: ignore[arg-type]
        for split in ("validation", "test")
    )
    temperature = bm.Calibrated(learner, validation, episodes=10).temperature
    rows: dict[str, list[list[Tensor]]] = {label: [[] for _ in METRICS] for label in ("raw", "calibrated")}
    with evaluating(learner), seeded(learner, 0), torch.no_grad():
        for episode in (test[index] for index in range(EPISODES)):
            prediction = predict(learner, episode)
            for label, given in (("raw", prediction), ("calibrated", temper(prediction, temperature))):
                for metric, row in zip(METRICS, rows[label], strict=True):
                    row.append(metric.statistic(given, episode.query))
    found = {label: estimates(METRICS, [torch.cat(row) for row in each]) for label, each in rows.items()}
    return {
        **{label: {key: tuple(value) for key, value in each.items()} for label, each in found.items()},
        "temperature": temperature.item(),
    }


def archive(*names: str) -> list[Any]:
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "omniglot" / "omniglot28.npz") as file:
        return [file[name] for name in names]


def strangers(learner: bm.Learner, episodes: int = 10) -> dict[str, float]:
    """How well doubt tells drawings of a task's own characters from others: AUROC over the queries of 200 tasks.

    A task holds 5 characters of one test alphabet, one drawing of each. Its strangers are characters of another test alphabet,
    and digits of MNIST. "epistemic" is the mutual information of label and function, "total" the entropy of the prediction.
    """
    if hasattr(learner, "classes"):
        learner.classes = 5
    images, alphabets, split = archive("images", "alphabet", "split_vinyals")
    images, alphabets = images[split == 2], alphabets[split == 2]
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "mnist" / "mnist.npz") as file:
        digits = file["x_test"]
    numbers = np.random.default_rng(SEED)
    names = [name for name, count in zip(*np.unique(alphabets, return_counts=True), strict=True) if count >= 5]
    scores: dict[str, list[Tensor]] = {}
    with evaluating(learner), seeded(learner, SEED), torch.no_grad():
        for _ in range(episodes):
            support, known, other, digit = [], [], [], []
            for _ in range(TASKS):
                here, there = numbers.choice(names, 2, replace=False)
                own = numbers.choice(np.flatnonzero(alphabets == here), 5, replace=False)
                drawings = images[own][:, numbers.permutation(20)[:4]]
                support.append(drawings[:, 0])
                known.append(drawings[:, 1:].reshape(15, 28, 28))
                other.append(
                    images[numbers.choice(np.flatnonzero(alphabets == there), 15), numbers.integers(0, 20, 15)]
                )
                digit.append(digits[numbers.integers(0, len(digits), 15)].reshape(15, 28, 28))
            posterior = learner(
                bm.Points(pictures(support), torch.arange(5).repeat(TASKS, 1), torch.ones(TASKS, 5).bool())
            )
            for kind, x in (("known", known), ("other alphabets", other), ("MNIST", digit)):
                total, _, epistemic = bm.decompose(posterior, pictures(x))
                scores.setdefault(f"{kind} total", []).append(total.flatten())
                scores.setdefault(f"{kind} epistemic", []).append(epistemic.flatten())
    found = {}
    for kind in ("other alphabets", "MNIST"):
        for score in ("epistemic", "total"):
            inside, outside = (torch.cat(scores[f"{one} {score}"]) for one in ("known", kind))
            positive = torch.arange(len(inside) + len(outside)) >= len(inside)
            found[f"{kind}, {score}"] = bm.auroc(torch.cat([inside, outside]), positive).item()
    return found


def pictures(tasks: list[Any]) -> Tensor:
    return torch.as_tensor(np.stack(tasks))[:, :, None] / 255


def one_shot(learner: bm.Learner) -> dict[str, float]:
    """Lake's 20 runs of 20-way one-shot classification within an alphabet: 400 trials."""
    if hasattr(learner, "classes"):
        learner.classes = 20
    images, support, query, answer = archive("images", "oneshot_support", "oneshot_query", "oneshot_answer")
    x, y = (pictures(list(images[part[..., 0], part[..., 1]])) for part in (support, query))
    there = torch.ones(20, 20, dtype=torch.bool)
    episode = bm.Episode(
        bm.Points(x, torch.arange(20).repeat(20, 1), there), bm.Points(y, torch.as_tensor(answer).long(), there)
    )
    with evaluating(learner), seeded(learner, SEED), torch.no_grad():
        prediction = predict(learner, episode)
    found = estimates(METRICS, [metric.statistic(prediction, episode.query) for metric in METRICS])
    return {key: tuple(value) for key, value in found.items()}  # type: ignore[misc]


PAPERS = {  # per cent, 5-way 1-shot, 5-way 5-shot, 20-way 1-shot, 20-way 5-shot; 64 channels, transductive but where noted
    "MAML": "98.7, 99.9, 95.8, 98.9",
    "first-order MAML": "98.3, 99.2, 89.4, 97.9",
    "Meta-SGD": "99.5, 99.9, 95.9, 99.0",
    "Reptile": "97.7, 99.5, 89.4, 97.1 (inductive 95.4, 98.9, 88.1, 96.7)",
    "implicit MAML": "99.2, 99.7, 94.5, 98.7",
    "prototypical networks": "98.8, 99.7, 96.0, 98.9",
    "VERSA": "99.7, 99.8, 97.7, 98.8",
    "DKT": "96.0 to 96.7 (5-way 1-shot, a re-run)",
}


def interval(estimate: Sequence[float], factor: float = 1.0, digits: int = 3) -> str:
    value, low, high = (factor * number for number in estimate)
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(results: dict[str, Any]) -> str:
    """Accuracy beside the papers', calibration, doubt about strangers, and Lake's runs, in Markdown."""
    learners = list(dict.fromkeys(name.split("; ")[0] for name in RUNS))
    lines = ["| learner | task | inductive, % | transductive, % | papers, % |", "|---|---|---|---|---|"]
    for learner in learners:
        group, batch = (results.get(f"{learner}; {norm}", {}) for norm in ("group", "batch"))
        for task in [f"{ways}-way {shots}-shot" for ways, shots in ANY_WAYS]:
            cells = [interval(row[task]["raw"]["Accuracy"], 100, 1) if task in row else "" for row in (group, batch)]
            if any(cells):
                paper = PAPERS.get(learner, "") if task == "5-way 1-shot" else ""
                lines.append(f"| {learner} | {task} | {' | '.join(cells)} | {paper} |")
    heads = "NLL | NLL, calibrated | ECE | ECE, calibrated | minutes of one core | steps x tasks | peak MiB"
    lines += ["", f"| learner | normalisation | task | {heads} |", "|---" * 10 + "|"]
    for name in (name for name in RUNS if name in results):
        row = results[name]
        for task in (key for key in row if key.endswith("-shot")):
            cells = [interval(row[task][kind][key]) for key in ("NLL", "ECE") for kind in ("raw", "calibrated")]
            how = f"{row['seconds'] / 60:.1f} | {row['steps']} x {row['batch']}{', from prototypes' * row['start']}"
            lines.append(
                f"| {' | '.join(name.split('; '))} | {task} | {' | '.join(cells)} | {how} | {row['peak MiB']:.0f} |"
            )
    kinds = [f"{kind}, {score}" for kind in ("other alphabets", "MNIST") for score in ("epistemic", "total")]
    lines += ["", f"| AUROC against known characters | {' | '.join(kinds)} |", "|---" * 5 + "|"]
    for name in (name for name in RUNS if "strangers" in results.get(name, {})):
        cells = [f"{results[name]['strangers'][kind]:.3f}" for kind in kinds]
        lines.append(f"| {name.split('; ')[0]} | {' | '.join(cells)} |")
    lines += ["", "| Lake's 20 runs | accuracy, % | NLL | ECE |", "|---|---|---|---|"]
    for name in (name for name in RUNS if "one-shot runs" in results.get(name, {})):
        found = results[name]["one-shot runs"]
        cells = [interval(found["Accuracy"], 100, 1), interval(found["NLL"]), interval(found["ECE"])]
        lines.append(f"| {name.split(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Puts the tables between their two marks in docs/results.md."""
    page = DOCS.read_text()
    before, rest = page.split(MARKS[0])
    DOCS.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def sampler() -> str:
    """What drawing an episode costs beside a training step on it, in milliseconds."""
    lines = ["| learner | drawing an episode | a step |", "|---|---|---|"]
    for name in ("MAML; group", "prototypical networks; group", "VERSA; group"):
        run = RUNS[name]
        tasks = bm.Omniglot(ways=run.ways, shots=1, queries=run.queries, batch=run.batch)
        learner = run.build(network(run))
        bm.fit(learner, tasks, steps=3, progress=False)
        began = time.perf_counter()
        episodes = [tasks[index] for index in range(60)]
        drawing = time.perf_counter() - began
        step = bm.fit(learner, episodes, steps=60, progress=False).seconds
        lines.append(f"| {name.split('; ')[0]} | {1e3 * drawing / 60:.1f} ms | {1e3 * step / 60:.0f} ms |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "only", nargs="*", default=[""], help="how the names of the learners to train and measure begin"
    )
    parser.add_argument(
        "--papers", action="store_true", help="the papers' setting, with results and weights of its own"
    )
    parser.add_argument("--train", action="store_true", help="only train, and measure later")
    parser.add_argument("--table", action="store_true", help="write the tables of what is there into docs/results.md")
    parser.add_argument("--sampler", action="store_true", help="time the drawing of episodes")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.sampler:
        print(sampler())
        return
    results, weights = (
        (RESULTS.with_stem("omniglot_papers"), WEIGHTS / "papers") if given.papers else (RESULTS, WEIGHTS)
    )
    chosen = {name: run for name, run in RUNS.items() if name.startswith(tuple(given.only)) and not given.table}
    for name, run in chosen.items():
        if name in load(results):
            continue
        print(name, flush=True)
        learner, found = trained(name, as_in_papers(run) if given.papers else run, weights)
        if given.train:
            continue
        for ways, shots in run.tests:
            found[f"{ways}-way {shots}-shot"] = measure(learner, ways, shots)
        if (5, 1) in run.tests and run.norm == "group":
            found["strangers"] = strangers(learner)
        if run.split == "background":
            found["one-shot runs"] = one_shot(learner)
        keep(results, name, found)
    if given.table:
        write(table(load(results)))
    print(table(load(results)))


if __name__ == "__main__":
    main()
