"""Times one meta-update of each variational learner: 20 sinusoid tasks of 5 points and 10 queries, MLP 40-40, eager.

    python benchmarks/cost/variational_step.py

PLATIPUS takes 5 inner steps of 4 draws, forward and backward to all parameters. Beside the milliseconds stands the ratio to a
matrix product of 1,000 x 1,000 of the same run, which says less about the machine. Medians over interleaved rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import bayesmeta as bm

ROUNDS = 30


def learners() -> dict[str, bm.Learner]:
    body = bm.networks.MLP(1, 1)
    return {
        "MAML": bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=5),
        "PLATIPUS": bm.PLATIPUS(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=5, objective=bm.ELBO(draws=4)),
        "ABML": bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()),
        "ABML, ELBO": bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), objective=bm.ELBO(draws=8)),
        "ANP": bm.NeuralProcess(
            bm.encoders.Attention(1, 1), bm.networks.MLP(1 + 64 + 16, 2), bm.likelihoods.HeteroscedasticGaussian()
        ),
        "VERSA": bm.VERSA(
            bm.encoders.DeepSet(40, 1, features=bm.networks.MLP(1, 1).features), 1, bm.likelihoods.Gaussian()
        ),
        "LEO": bm.LEO(
            bm.encoders.Relation(40, 1, features=bm.networks.MLP(1, 1).features), 1, bm.likelihoods.Gaussian()
        ),
        "BMAML": bm.BMAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()),
        "ALPaCA": bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian()),
    }


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def update(learner: bm.Learner, episode: bm.Episode) -> None:
    learner.zero_grad()
    learner.loss(episode).backward()


def main() -> None:
    torch.manual_seed(0)
    episode = bm.tasks.Sinusoids(batch=20, shots=5, queries=10, noise=0.1)[0]
    matrix = torch.randn(1_000, 1_000)
    works: dict[str, Callable[[], object]] = {"matmul": lambda: matrix @ matrix}
    works |= {name: lambda learner=learner: update(learner, episode) for name, learner in learners().items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS + 3):
        for name, work in works.items():
            times[name].append(seconds(work))
    unit = statistics.median(times["matmul"][3:])
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; one product {1e3 * unit:.1f} ms\n")
    print("| learner | ms a meta-update: median (lowest) | products |\n|---|---|---|")
    for name in list(works)[1:]:
        kept = times[name][3:]
        middle = statistics.median(kept)
        print(f"| {name} | {1e3 * middle:.1f} ({1e3 * min(kept):.1f}) | {middle / unit:.1f} |")


if __name__ == "__main__":
    main()
