"""How far is each learner from the exact Bayes answer? Sinusoids with σ = 0.1, beside their oracle.

    python benchmarks/accuracy/sinusoid_oracle.py                       # every learner; about two hours on two cores
    python benchmarks/accuracy/sinusoid_oracle.py --learners ABML MAML  # some of them
    python benchmarks/accuracy/sinusoid_oracle.py --table               # prints what is there

Each learner is meta-trained twice with the defaults of the library, on one core: on 5-shot tasks, for the headline, and on
tasks of 1 to 20 points with a quarter of the steps, for the other shots. Tested on new tasks, the same for all (600 of 5
shots, 200 of the other numbers), with 25 queries in [-5, 5] (in range) and in [5, 10] (out of range, where no point was ever
seen). Every finished run is kept in results/sinusoid_oracle.json, so that an interrupted table goes on where it was; two calls
may run side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.evaluation import Predictor
from bayesmeta.randomness import seeded
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "sinusoid_oracle.json"
SHOTS = (1, 2, 5, 10, 20)
RANGES = {"in": (-5.0, 5.0), "out": (5.0, 10.0)}
BATCH, QUERIES = 25, 25
METRICS: list[bm.metrics.Metric] = [
    bm.metrics.NLL(),
    bm.metrics.RMSE(),
    bm.metrics.Coverage(0.5),
    bm.metrics.Coverage(0.9),
    bm.metrics.Coverage(0.95),
]


def network(outputs: int = 1, hidden: tuple[int, ...] = (40, 40)) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=hidden, activation=nn.Tanh)


def alpaca() -> bm.Learner:
    body = network(hidden=(40, 40, 40))
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian())


def neural_process(encoder: bm.encoders.Encoder, latent: int = 16) -> bm.Learner:
    decoder = bm.networks.MLP(1 + encoder.size + latent, 2, hidden=(40, 40))
    if latent:
        return bm.NeuralProcess(encoder, decoder, bm.likelihoods.HeteroscedasticGaussian(), latent=latent)
    return bm.ConditionalNeuralProcess(encoder, decoder, bm.likelihoods.HeteroscedasticGaussian())


# The learner and how many meta-updates it gets.
LEARNERS: dict[str, tuple[Callable[[], bm.Learner], int]] = {
    "MAML": (lambda: bm.MAML(network(), bm.likelihoods.Gaussian(), steps=5, rate=0.02), 20_000),
    "ALPaCA": (alpaca, 12_000),
    "ABML": (lambda: bm.ABML(network(), bm.likelihoods.Gaussian()), 6_000),
    "PLATIPUS": (lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian()), 6_000),
    "ANP": (lambda: neural_process(bm.encoders.Attention(1, 1)), 12_000),
    "TNP": (lambda: neural_process(bm.encoders.Attention(1, 1), latent=0), 8_000),
    "NP": (lambda: neural_process(bm.encoders.DeepSet(1, 1)), 10_000),
    "CNP": (lambda: neural_process(bm.encoders.DeepSet(1, 1), latent=0), 10_000),
    "VERSA": (
        lambda: bm.VERSA(bm.encoders.DeepSet(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
        30_000,
    ),
    "LEO": (
        lambda: bm.LEO(bm.encoders.Relation(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
        4_000,
    ),
    "BMAML": (lambda: bm.BMAML(network(), bm.likelihoods.Gaussian()), 2_000),
}
TRAINING: dict[str, int | tuple[int, int]] = {"5": 5, "1 to 20": (1, 20)}


def source(shots: int | tuple[int, int], span: str, **options: Any) -> bm.tasks.Sinusoids:
    return bm.tasks.Sinusoids(noise=0.1, shots=shots, **{"query_range": RANGES[span], **options})


def run(name: str, training: str, steps: int) -> dict[str, Any]:
    """Trains one learner and gives what it measures at every number of shots and in both ranges."""
    torch.manual_seed(0)
    learner = LEARNERS[name][0]()
    steps = steps if training == "5" else steps // 4
    history = bm.fit(learner, source(TRAINING[training], "in", queries=15, seed=0), steps=steps, seed=0)
    parameters = sum(p.numel() for p in learner.parameters())
    figures = measure(learner, (5,) if training == "5" else SHOTS)
    return {"seconds": history.seconds, "steps": steps, "parameters": parameters, "figures": figures}


def measure(learner: Predictor, shots: tuple[int, ...]) -> dict[str, dict[str, float]]:
    figures = {}
    for n in shots:
        for span in RANGES:
            test = source(n, span, batch=BATCH, queries=QUERIES, seed=1_000)
            rows = bm.evaluate(learner, test, episodes=24 if n == 5 else 8, metrics=METRICS)
            figures[f"{n}, {span}"] = {metric: row.value for metric, row in rows.items()} | parts(learner, test)
    return figures


def parts(learner: Predictor, test: bm.tasks.Sinusoids) -> dict[str, float]:
    """The root mean of the aleatoric and of the epistemic variance."""
    support, query = test[0]
    with torch.no_grad(), seeded(0):
        _, aleatoric, epistemic = learner(support).decompose(query.x)  # type: ignore[arg-type]
    return {"aleatoric": _root(aleatoric), "epistemic": _root(epistemic)}


def _root(variance: Tensor) -> float:
    return variance.mean().sqrt().item()


def table(results: dict[str, Any]) -> str:
    if "oracle" not in results:
        return "the oracle is not there yet: run without --table"
    oracle = results["oracle"]["figures"]
    lines = [
        "Trained and tested on 5 shots, in range:\n",
        "| learner | NLL | gap to the oracle (nats) | MSE | 50 % | 90 % | 95 % coverage | training (s) | ms a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ["oracle", *LEARNERS]:
        key = "oracle" if name == "oracle" else f"{name}, 5"
        if key in results:
            row, run = results[key]["figures"]["5, in"], results[key]
            cover = " | ".join(f"{row[f'{level}% coverage']:.3f}" for level in (50, 90, 95))
            seconds = "" if name == "oracle" else f"{run['seconds']:.0f} | {1e3 * run['seconds'] / run['steps']:.1f}"
            lines.append(
                f"| {name} | {row['NLL']:.3f} | {row['NLL'] - oracle['5, in']['NLL']:.3f} | {row['RMSE'] ** 2:.4f} | {cover} "
                f"| {seconds or ' | '} |"
            )
    for title, value in (
        ("Gap to the oracle (nats)", lambda row, exact: row["NLL"] - exact["NLL"]),
        ("Coverage of 90 % intervals", lambda row, exact: row["90% coverage"]),
        ("Epistemic standard deviation (root mean variance)", lambda row, exact: row["epistemic"]),
    ):
        cells = [(n, span) for span in RANGES for n in SHOTS]
        lines += [
            f"\n{title}, trained on 1 to 20 shots:\n",
            "| learner | " + " | ".join(f"{n}, {span} range" for n, span in cells) + " |",
            "|---" * (len(cells) + 1) + "|",
        ]
        for name in ["oracle", *LEARNERS]:
            key = "oracle" if name == "oracle" else f"{name}, 1 to 20"
            if key in results:
                figures = results[key]["figures"]
                row = [value(figures[f"{n}, {span}"], oracle[f"{n}, {span}"]) for n, span in cells]
                lines.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    parser.add_argument("--training", nargs="+", choices=list(TRAINING), default=list(TRAINING))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        if "oracle" not in load(RESULTS):
            keep(RESULTS, "oracle", {"figures": measure(source(5, "in").oracle, SHOTS)})
        for training in arguments.training:
            for name in arguments.learners:
                if (key := f"{name}, {training}") not in load(RESULTS):
                    print(key, flush=True)
                    keep(RESULTS, key, run(name, training, LEARNERS[name][1]))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
