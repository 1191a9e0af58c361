"""Does every method train, with its defaults, whatever the seed? Ten seeds, 1,000 steps, on sinusoids and on growth curves.

    python benchmarks/robustness/soak.py                   # every learner; some hours of one core
    python benchmarks/robustness/soak.py --learners ABML   # some of them; two calls may run side by side
    python benchmarks/robustness/soak.py --table           # prints what is there

Four tasks a step: fewer than one would train with, so that gradients are rough. NLL on 100 unseen sinusoids of 5 points beside
their oracle's; on unseen pigs, beside the best NLL that any learner and seed reached. A row fails where a number is not finite,
an error is raised, or a seed's excess NLL is more than twice the median over seeds. Each run is kept in results/soak.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "soak.json"
STEPS, SEEDS, BATCH = 1_000, 10, 4


def network() -> bm.networks.MLP:
    return bm.networks.MLP(1, 1, activation=nn.Tanh)


def alpaca() -> bm.Learner:
    body = network()
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian())


def neural_process(encoder: bm.encoders.Encoder, latent: int) -> bm.Learner:
    decoder = bm.networks.MLP(1 + encoder.size + latent, 2)
    if latent:
        return bm.NeuralProcess(encoder, decoder, bm.likelihoods.HeteroscedasticGaussian(), latent=latent)
    return bm.ConditionalNeuralProcess(encoder, decoder, bm.likelihoods.HeteroscedasticGaussian())


LEARNERS: dict[str, Callable[[], bm.Learner]] = {
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian()),
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian()),
    "ANP": lambda: neural_process(bm.encoders.Attention(1, 1), 16),
    "TNP": lambda: neural_process(bm.encoders.Attention(1, 1), 0),
    "NP": lambda: neural_process(bm.encoders.DeepSet(1, 1), 16),
    "CNP": lambda: neural_process(bm.encoders.DeepSet(1, 1), 0),
    "VERSA": lambda: bm.VERSA(bm.encoders.DeepSet(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
    "LEO": lambda: bm.LEO(bm.encoders.Relation(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
    "BMAML": lambda: bm.BMAML(network(), bm.likelihoods.Gaussian()),
    "ALPaCA": alpaca,
}
SOURCES = ("sinusoids", "pigs")


def sinusoids(seed: int, batch: int) -> bm.tasks.Sinusoids:
    return bm.tasks.Sinusoids(noise=0.1, shots=5, queries=15, batch=batch, seed=seed)


def run(name: str, source: str, seed: int) -> float:
    """The NLL of a learner that was trained with this seed."""
    torch.manual_seed(seed)
    learner = LEARNERS[name]()
    if source == "sinusoids":
        bm.fit(learner, sinusoids(seed, BATCH), steps=STEPS, seed=seed, progress=False)
        return nll(learner, sinusoids(1_000, 50), 2)
    options: dict[str, Any] = {"fractions": (0.5, 0.1), "shots": (3, 5)}
    train = bm.tasks.Longitudinal("dietox", split="train", batch=BATCH, seed=seed, **options)
    learner = bm.Standardized.from_tasks(learner, train)
    bm.fit(learner, train, steps=STEPS, seed=seed, progress=False)
    return nll(learner, bm.tasks.Longitudinal("dietox", split="test", seed=0, **options), 2)


def nll(learner: Any, tasks: Any, episodes: int) -> float:
    return bm.evaluate(learner, tasks, episodes=episodes, metrics=[bm.metrics.NLL()])["NLL"].value


def table(results: dict[str, Any]) -> str:
    lines = [
        "| learner | source | runs | errors | excess NLL: median | worst | worst / median |",
        "|---|---|---|---|---|---|---|",
    ]
    for source in SOURCES:
        every = {key: value for key, value in results.items() if key.split("; ")[1] == source}
        best = results.get("oracle; sinusoids; 0") if source == "sinusoids" else None
        numbers = [value for value in every.values() if isinstance(value, float)]
        best = best if best is not None else min(numbers, default=0.0)
        for name in LEARNERS:
            runs = [value for key, value in every.items() if key.split("; ")[0] == name]
            excess = [value - best for value in runs if isinstance(value, float)]
            if excess:
                middle, worst = statistics.median(excess), max(excess)
                lines.append(
                    f"| {name} | {source} | {len(runs)} | {len(runs) - len(excess)} | {middle:.3f} | {worst:.3f} "
                    f"| {worst / middle:.2f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        test = sinusoids(1_000, 50)
        if "oracle; sinusoids; 0" not in load(RESULTS):
            keep(RESULTS, "oracle; sinusoids; 0", nll(test.oracle, test, 2))
        for seed in range(SEEDS):
            for source in arguments.sources:
                for name in arguments.learners:
                    key = f"{name}; {source}; {seed}"
                    if key not in load(RESULTS):
                        try:
                            keep(RESULTS, key, run(name, source, seed))
                        except Exception as error:  # an error is a result here
                            keep(RESULTS, key, f"{type(error).__name__}: {error}")
                        print(key, load(RESULTS)[key], flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
