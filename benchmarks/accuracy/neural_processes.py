"""Neural processes beside exact answers: in range, four units outside, of points together, and of the latent's doubt.

    python benchmarks/accuracy/neural_processes.py                    # everything, seeds 0 to 2: about an hour of one core
    python benchmarks/accuracy/neural_processes.py "sawtooth; grid"   # entries whose names begin so
    python benchmarks/accuracy/neural_processes.py --table            # prints what is there

- Matérn-5/2 functions of length scale 0.25, noise variance 0.05, 0 to 30 points in [-2, 2]: the mean gap to the exact process in
  nats a target, in [-2, 2], in [2, 6], and of 15 targets together, one by one, each fed back (`joint_nll`).
- Sawtooth waves of 3 to 5 teeth a unit, 0 to 100 points: log p in nats a target, in [-2, 2] and in [2, 6].
- Sinusoids, 5 points in [-5, 5]: the gap to the exact answer there and in [5, 10].
- Latent processes on sinusoids of 1 to 20 points: the gap of 15 targets together, at one point known, by 2,000 draws; and the
  variance between draws at 1, 5 and 20 points, beside the exact one.

Steps are fixed, for 75 CPU seconds of a quiet core on Matérn functions, 60 on latent ones and 300 on sawtooth waves; what they
took is kept. Every finished entry is kept in results/neural_processes.json; several calls may run side by side.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import MaternKernel
from torch import Tensor

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.encoders import Attention, DeepSet, Encoder, GridConvolution, RelativeAttention
from bayesmeta.evaluation import Predictor
from bayesmeta.randomness import seeded
from bayesmeta.tasks import GaussianProcessTasks, Sawtooth, Sinusoids, SyntheticTasks
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "neural_processes.json"
SEEDS = (0, 1, 2)
TEST = 1000
"""Added to a seed, the seed of the test's tasks."""
TOGETHER = 15


class Run(NamedTuple):
    build: Callable[[], bm.Learner]
    steps: int
    rate: float
    first: int = 0
    """How many of the steps descend an ELBO before the learner's own objective."""


def conditional(encoder: Encoder) -> bm.Learner:
    inputs = encoder.size + (0 if encoder.relative else encoder.inputs)
    return bm.ConditionalNeuralProcess(encoder, bm.networks.MLP(inputs, 2), bm.likelihoods.HeteroscedasticGaussian())


def latent(objective: bm.Predictive | bm.JointPredictive) -> bm.Learner:
    decoder = bm.networks.MLP(1 + 64 + 16, 2, hidden=(64, 64))
    likelihood = bm.likelihoods.HeteroscedasticGaussian()
    return bm.NeuralProcess(DeepSet(1, 1), decoder, likelihood, objective=objective)


def matern(seed: int, place: tuple[float, float] = (-2.0, 2.0), queries: int = 30) -> SyntheticTasks:
    kernel = MaternKernel(nu=2.5)
    kernel.lengthscale = 0.25
    return GaussianProcessTasks(
        kernel, noise=0.05**0.5, batch=16, shots=(0, 30), queries=queries, support_range=place, seed=seed
    )


def sawtooth(seed: int, place: tuple[float, float] = (-2.0, 2.0)) -> SyntheticTasks:
    return Sawtooth(batch=16, shots=(0, 100), queries=50, support_range=place, seed=seed)


def sinusoids(seed: int, place: tuple[float, float] = (-5.0, 5.0)) -> SyntheticTasks:
    return Sinusoids(noise=0.1, batch=16, queries=30, query_range=place, seed=seed)


def few_sinusoids(seed: int, shots: int | tuple[int, int] = (1, 20)) -> SyntheticTasks:
    return Sinusoids(noise=0.1, batch=16, shots=shots, queries=TOGETHER, seed=seed)


LEARNERS: dict[str, Run] = {
    "matern; DeepSet": Run(lambda: conditional(DeepSet(1, 1)), 12_000, 3e-3),
    "matern; Attention": Run(lambda: conditional(Attention(1, 1)), 4_500, 1e-3),
    "matern; RelativeAttention": Run(lambda: conditional(RelativeAttention(1, 1, 32)), 2_600, 3e-3),
    "matern; GridConvolution": Run(lambda: conditional(GridConvolution(1, 1)), 2_900, 1e-3),
    "sawtooth; Attention": Run(lambda: conditional(Attention(1, 1)), 9_000, 1e-3),
    "sawtooth; RelativeAttention": Run(lambda: conditional(RelativeAttention(1, 1, 32)), 3_000, 3e-3),
    "sawtooth; GridConvolution": Run(
        lambda: conditional(GridConvolution(1, 1, resolution=64.0, levels=6)), 3_500, 1e-3
    ),
    "sinusoids; Attention": Run(lambda: conditional(Attention(1, 1)), 4_500, 1e-3),
    "sinusoids; RelativeAttention": Run(lambda: conditional(RelativeAttention(1, 1, 32)), 4_500, 3e-3),
    "sinusoids; GridConvolution": Run(lambda: conditional(GridConvolution(1, 1, resolution=4.0)), 3_200, 1e-3),
    "latent; Predictive": Run(lambda: latent(bm.Predictive()), 5_000, 3e-3),
    "latent; JointPredictive": Run(lambda: latent(bm.JointPredictive()), 4_000, 3e-3),
    "latent; ELBO, then JointPredictive": Run(lambda: latent(bm.JointPredictive()), 4_500, 3e-3, 2_000),
}


def train(run: Run, make: Callable[[int], SyntheticTasks], seed: int) -> tuple[bm.Learner, float]:
    """A learner, and the CPU seconds that its training took."""
    torch.manual_seed(seed)
    learner = run.build()
    optimizer = torch.optim.Adam(learner.parameters(), run.rate)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=run.steps // 20)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps - run.steps // 20)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], [run.steps // 20])
    start = time.process_time()

    def further(tasks: SyntheticTasks, steps: int, seed: int) -> None:
        bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)

    if run.first and isinstance(learner, bm.NeuralProcess):
        own, learner.objective = learner.objective, bm.ELBO()
        further(make(seed + 100), run.first, seed + 100)
        learner.objective = own
    further(make(seed), run.steps - run.first, seed)
    return learner, time.process_time() - start


def log_p(predict: Predictor, tasks: SyntheticTasks, episodes: int) -> float:
    """Nats a target."""
    found = [
        predict(one.support)(one.query.x).log_prob(one.query.y).mean()
        for one in map(tasks.__getitem__, range(episodes))
    ]
    return float(torch.stack(found).mean())


def one_by_one(predict: Predictor, episode: Episode) -> Tensor:
    """log p of each task's targets together, ``(B,)``, of what cannot be told points: it adapts again to all so far."""
    support, query = episode
    total = torch.zeros(len(query.mask))
    for m in range(query.mask.shape[1]):
        one = Points(*(leaf[:, m : m + 1] for leaf in query))
        known = bm.concatenate(support, Points(*(leaf[:, :m] for leaf in query))) if m else support
        total = total + predict(known)(one.x).log_prob(one.y)[:, 0]
    return total


def gaps(
    learner: bm.Learner, make: Callable[..., SyntheticTasks], outside: tuple[float, float], seed: int
) -> dict[str, float]:
    found = {}
    for name, tasks in (("in range", make(TEST + seed)), ("outside", make(TEST + seed + 100, outside))):
        found[name] = log_p(tasks.oracle, tasks, 40) - log_p(learner, tasks, 40)
    return found


def matern_row(learner: bm.Learner, seed: int) -> dict[str, float]:
    tasks = matern(TEST + seed + 200, queries=TOGETHER)
    told = bm.Rehearsal(learner)
    episodes = [tasks[i] for i in range(10)]
    together = [
        bm.joint_nll(told(one.support), one.query) - bm.joint_nll(tasks.oracle(one.support), one.query)
        for one in episodes
    ]
    return {**gaps(learner, matern, (2.0, 6.0), seed), "joint": float(torch.cat(together).mean()) / TOGETHER}


def sawtooth_row(learner: bm.Learner, seed: int) -> dict[str, float]:
    near, far = sawtooth(TEST + seed), sawtooth(TEST + seed + 100, (2.0, 6.0))
    found = {"in range": log_p(learner, near, 40), "outside": log_p(learner, far, 40)}
    return {**found, "exact": log_p(near.oracle, near, 4), "in range, the same tasks": log_p(learner, near, 4)}


def latent_row(learner: bm.Learner, seed: int) -> dict[str, float]:
    found = {}
    for shots in (1, 5, 20):
        tasks = few_sinusoids(TEST + seed, shots)
        episodes = [tasks[i] for i in range(4)]
        if shots == 1:
            drawn = [learner(one.support).draws(one.query.x, 2000).log_prob(one.query.y).sum(-1) for one in episodes]
            ours = torch.cat([logs.logsumexp(0) - math.log(len(logs)) for logs in drawn])
            exact = torch.cat([one_by_one(tasks.oracle, one) for one in episodes])
            found["joint"] = float((exact - ours).mean()) / TOGETHER
        for name, predict in (("epistemic", learner), ("exact epistemic", tasks.oracle)):
            parts = [predict(one.support).decompose(one.query.x).epistemic.mean() for one in episodes]
            found[f"{name}, {shots}"] = float(torch.stack(parts).mean())
        found[f"in range, {shots}"] = log_p(tasks.oracle, tasks, 6) - log_p(learner, tasks, 6)
    return found


ROWS: dict[str, tuple[Callable[[int], SyntheticTasks], Callable[[bm.Learner, int], dict[str, float]]]] = {
    "matern": (matern, matern_row),
    "sawtooth": (sawtooth, sawtooth_row),
    "sinusoids": (sinusoids, lambda learner, seed: gaps(learner, sinusoids, (5.0, 10.0), seed)),
    "latent": (few_sinusoids, latent_row),
}


def measured(name: str, seed: int) -> dict[str, float]:
    make, row = ROWS[name.split(";")[0]]
    learner, seconds = train(LEARNERS[name], make, seed)
    with torch.no_grad(), seeded(seed):
        return {**row(learner, seed), "CPU seconds": seconds}


def table(results: dict[str, Any]) -> str:
    lines = []
    for kind in ROWS:
        names = [name for name in LEARNERS if name.startswith(kind) and any(key.startswith(name) for key in results)]
        for n, name in enumerate(names):
            seeds = [row for key, row in results.items() if key.startswith(f"{name}; ")]
            if not n:
                lines += ["", f"| {kind} | " + " | ".join(seeds[0]) + " | seeds |", "|---" * (len(seeds[0]) + 2) + "|"]
            cells = [f"{sum(row[column] for row in seeds) / len(seeds):.3f}" for column in seeds[0]]
            lines.append("| " + " | ".join([name.split("; ")[1], *cells, str(len(seeds))]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "entries", nargs="*", default=[""], help="beginnings of names, such as matern or 'sawtooth; Grid'"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        for seed in arguments.seeds:
            for name in LEARNERS:
                key = f"{name}; {seed}"
                if name.startswith(tuple(arguments.entries)) and key not in load(RESULTS):
                    keep(RESULTS, key, measured(name, seed))
                    print(key, load(RESULTS)[key], flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
