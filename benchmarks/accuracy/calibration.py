"""Recalibration and conformal coverage for every learner, and what evaluation costs.

    python benchmarks/accuracy/calibration.py            # about twenty minutes of one core
    python benchmarks/accuracy/calibration.py --table    # prints what is there

Learners get a few hundred steps only: they are to be badly calibrated. Real targets: sinusoids, σ = 0.1, 5 shots; classes:
three Gaussian clouds in the plane, 2 shots each on average. Temperature and conformal threshold come from 2,000 validation
tasks, every figure from 2,000 others. Cost: 1,000 tasks of 75 queries, with every metric that applies, beside the
predictions themselves, which include the adaptation. Finished runs are kept in results/calibration.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import LinearKernel, RBFKernel, ScaleKernel
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import predict
from bayesmeta.randomness import seeded
from bayesmeta.tasks.source import TaskSource
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "calibration.json"
STEPS, EPISODES, BATCH = 300, 20, 100


class Clouds(TaskSource):
    """Three Gaussian clouds a task, at places of its own in the plane."""

    def __init__(self, seed: int = 0, batch: int = BATCH, queries: int = 20) -> None:
        super().__init__(seed=seed, length=1_000_000)
        self.batch, self.queries = batch, queries

    def draw(self, generator: torch.Generator) -> bm.Episode:
        centres = 1.2 * torch.randn(self.batch, 3, 2, generator=generator)

        def some(count: int) -> bm.Points:
            y = torch.randint(3, (self.batch, count), generator=generator)
            x = centres.gather(1, y[..., None].expand(-1, -1, 2))
            x = x + 0.8 * torch.randn(self.batch, count, 2, generator=generator)
            return bm.Points(x, y, torch.ones(self.batch, count, dtype=torch.bool))

        return bm.Episode(some(6), some(self.queries))


def network(classes: bool) -> bm.networks.MLP:
    return bm.networks.MLP(2 if classes else 1, 3 if classes else 1, activation=nn.Tanh)


def likelihood(classes: bool) -> bm.likelihoods.Likelihood:
    return bm.likelihoods.Categorical() if classes else bm.likelihoods.Gaussian()


def encoder(classes: bool) -> bm.encoders.Encoder:
    features = network(classes).features
    return (
        bm.encoders.ClassPooling(40, 3, features=features) if classes else bm.encoders.DeepSet(40, 1, features=features)
    )


def alpaca(_: bool) -> bm.Learner:
    body = network(False)
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian())


def smooth() -> Any:
    return ScaleKernel(RBFKernel())


BOTH: dict[str, Callable[[bool], bm.Learner]] = {
    "MAML": lambda c: bm.MAML(network(c), likelihood(c), steps=5, rate=0.1 if c else 0.01),
    "first-order MAML": lambda c: bm.FirstOrderMAML(network(c), likelihood(c), steps=5),
    "ANIL": lambda c: bm.ANIL((body := network(c)).features, body.head, likelihood(c), steps=5),
    "Meta-SGD": lambda c: bm.MetaSGD(network(c), likelihood(c)),
    "Reptile": lambda c: bm.Reptile(network(c), likelihood(c)),
    "implicit MAML": lambda c: bm.ImplicitMAML(network(c), likelihood(c)),
    "ABML": lambda c: bm.ABML(network(c), likelihood(c)),
    "PLATIPUS": lambda c: bm.PLATIPUS(network(c), likelihood(c)),
    "BMAML": lambda c: bm.BMAML(network(c), likelihood(c)),
    "VERSA": lambda c: bm.VERSA(encoder(c), 3 if c else 1, likelihood(c)),
    "LEO": lambda c: bm.LEO(
        bm.encoders.Relation(40, 3 if c else 1, classes=c, features=network(c).features), 3 if c else 1, likelihood(c)
    ),
    "CNP": lambda c: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(2 if c else 1, 3 if c else 1),
        bm.networks.MLP((2 if c else 1) + 64, 3 if c else 1),
        likelihood(c),
    ),
    "NP": lambda c: bm.NeuralProcess(
        bm.encoders.DeepSet(2 if c else 1, 3 if c else 1),
        bm.networks.MLP((2 if c else 1) + 64 + 16, 3 if c else 1),
        likelihood(c),
        latent=16,
    ),
}
REAL: dict[str, Callable[[bool], bm.Learner]] = {
    "ALPaCA": alpaca,
    "DKT": lambda _: bm.DKT(network(False).features, LinearKernel(), bm.likelihoods.Gaussian()),
    "ADKF": lambda _: bm.ADKF(network(False).features, smooth(), bm.likelihoods.Gaussian()),
    "PACOH": lambda _: bm.PACOH(nn.Identity(), smooth(), bm.likelihoods.Gaussian(), tasks=1000, mean=network(False)),
}
CLASSES: dict[str, Callable[[bool], bm.Learner]] = {
    "DKT": lambda _: bm.DKTClassifier(nn.Identity(), smooth(), classes=3),
    "Pólya-Gamma GP": lambda _: bm.PolyaGammaGP(nn.Identity(), smooth(), classes=3),
    "Laplace GP": lambda _: bm.LaplaceGP(nn.Identity(), smooth(), classes=3),
}
RUNS = {f"{name}; real": (build, False) for name, build in (BOTH | REAL).items()} | {
    f"{name}; classes": (build, True) for name, build in (BOTH | CLASSES).items()
}


def source(classes: bool, seed: int) -> TaskSource:
    return Clouds(seed) if classes else bm.tasks.Sinusoids(noise=0.1, shots=5, queries=20, batch=BATCH, seed=seed)


def run(name: str) -> dict[str, Any]:
    build, classes = RUNS[name]
    torch.manual_seed(0)
    learner = build(classes)
    train = Clouds(0, 16) if classes else bm.tasks.Sinusoids(noise=0.1, shots=5, batch=16)
    bm.fit(learner, train, steps=STEPS, progress=False)
    validation, test = source(classes, 1), source(classes, 2)
    metrics: list[bm.metrics.Metric] = [
        bm.metrics.NLL(),
        bm.metrics.ECE() if classes else bm.metrics.QuantileCalibrationError(),
    ]
    calibrated = bm.Calibrated.from_tasks(learner, validation, episodes=EPISODES)
    found = {
        label: {key: tuple(value) for key, value in bm.evaluate(one, test, episodes=EPISODES, metrics=metrics).items()}
        for label, one in (("raw", learner), ("calibrated", calibrated))
    }
    conformal = bm.Conformal.from_tasks(learner, validation, episodes=EPISODES)
    coverage = tuple(conformal.coverage(test, episodes=EPISODES))
    return {**found, "temperature": calibrated.temperature.item(), "conformal": coverage}


EVERY: dict[bool, list[bm.metrics.Metric]] = {
    False: [
        *(
            bm.metrics.NLL(),
            bm.metrics.RMSE(),
            bm.metrics.CRPS(),
            bm.metrics.Coverage(),
            bm.metrics.Width(),
            bm.metrics.Sharpness(),
        ),
        *(bm.metrics.QuantileCalibrationError(), bm.metrics.PIT()),
    ],
    True: [
        *(
            bm.metrics.NLL(),
            bm.metrics.Accuracy(),
            bm.metrics.Brier(),
            bm.metrics.Brier("reliability"),
            bm.metrics.ECE(),
            bm.metrics.MCE(),
        ),
        *(bm.metrics.AdaptiveECE(), bm.metrics.ClasswiseECE(), bm.metrics.ErrorAUROC(), bm.metrics.AURC()),
    ],
}


class Pictures(TaskSource):
    """5-way 1-shot tasks of noise, of Omniglot's shape: for timing."""

    def draw(self, generator: torch.Generator) -> bm.Episode:
        def some(each: int) -> bm.Points:
            y = torch.arange(5).repeat_interleave(each).expand(25, -1)
            x = torch.rand(25, 5 * each, 1, 28, 28, generator=generator)
            return bm.Points(x, y, torch.ones(25, 5 * each, dtype=torch.bool))

        return bm.Episode(some(1), some(15))


def cost() -> dict[str, Any]:
    """Seconds of the predictions alone, and of `evaluate` with every metric: 1,000 tasks of 75 queries."""
    learners = {
        "MAML, MLP 40-40, one target": (BOTH["MAML"](False), bm.tasks.Sinusoids(noise=0.1, batch=25, queries=75)),
        "ABML, MLP 40-40, one target": (BOTH["ABML"](False), bm.tasks.Sinusoids(noise=0.1, batch=25, queries=75)),
        "MAML, MLP 40-40, 3 classes": (BOTH["MAML"](True), Clouds(0, 25, 75)),
        "MAML, Conv4-16, 5 classes": (
            bm.MAML(bm.networks.Conv4(width=16), bm.likelihoods.Categorical()),
            Pictures(seed=0, length=40),
        ),
    }
    found: dict[str, Any] = {}
    for name, (learner, tasks) in learners.items():
        episodes: Any = [tasks[i] for i in range(40)]
        times: dict[str, list[float]] = {"predictions": [], "evaluation": []}
        for _ in range(3):
            began = time.perf_counter()
            with torch.no_grad(), seeded(0):
                for episode in episodes:
                    predict(learner, episode)
            times["predictions"].append(time.perf_counter() - began)
            began = time.perf_counter()
            bm.evaluate(learner, episodes, episodes=40, metrics=EVERY["classes" in name])
            times["evaluation"].append(time.perf_counter() - began)
        found[name] = {kind: min(row) for kind, row in times.items()}
    return found


def table(results: dict[str, Any]) -> str:
    lines = []
    for kind, error in (("real", "quantile calibration error"), ("classes", "ECE")):
        lines += [f"\n| {kind} | NLL, raw | calibrated | {error}, raw | calibrated | temperature | conformal 90 % |"]
        lines += ["|---" * 7 + "|"]
        for name in RUNS:
            if name.endswith(kind) and isinstance(results.get(name), dict):
                row = results[name]
                cells = [f"{row[which][metric][0]:.3f}" for metric in ("NLL", error) for which in ("raw", "calibrated")]
                lines.append(
                    f"| {name.split(';')[0]} | " + " | ".join(cells) + f" | {row['temperature']:.2f} "
                    f"| {row['conformal'][0]:.3f} |"
                )
    lines += [f"\n{name}: {result}" for name, result in results.items() if isinstance(result, str)]
    if "cost" in results:
        lines += ["\n| 1,000 tasks of 75 queries | predictions | with every metric | added |", "|---|---|---|---|"]
        for name, row in results["cost"].items():
            share = row["evaluation"] / row["predictions"] - 1
            lines.append(f"| {name} | {row['predictions']:.2f} s | {row['evaluation']:.2f} s | {100 * share:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for name in RUNS:
            if name not in load(RESULTS):
                try:
                    result: Any = run(name)
                except Exception as error:  # the table names it
                    result = f"{type(error).__name__}: {error}"
                keep(RESULTS, name, result)
                print(name, flush=True)
        keep(RESULTS, "cost", cost())
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
