"""What metrics add to the predictions that they judge.

    python benchmarks/cost/evaluation.py             # two minutes of a quiet machine, on one core
    python benchmarks/cost/evaluation.py MAML DKT    # those whose names begin so
    python benchmarks/cost/evaluation.py --table     # prints what is there

Untrained learners on episodes of 25 tasks of 10 + 15 points: sinusoids, or three classes of points in a plane. Predictions are
what `evaluate` makes and checks before it asks a metric: the episode's check, adaptation, the answer, and its own check. Metrics
are of numbers NLL, RMSE, 90 % coverage and CRPS, of classes NLL, accuracy and ECE. The two take turns, as in `evaluate`; medians
of processor time. Intervals by the bootstrap come once an evaluation, after its last episode.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bayesmeta as bm
from bayesmeta import metrics
from bayesmeta.evaluation.evaluate import answers, judged, reading
from bayesmeta.evaluation.evaluate import statistics as whole
from benchmarks.cost.speed_learners import LEARNERS
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "evaluation.json"
TASKS, SHOTS, QUERIES, WIDTH, STEPS, DRAWS = 25, 10, 15, 40, 5, 4
EPISODES, ROUNDS = 4, 41
OF_NUMBERS = [metrics.NLL(), metrics.RMSE(), metrics.Coverage(0.9), metrics.CRPS()]
OF_CLASSES = [metrics.NLL(), metrics.Accuracy(), metrics.ECE()]


def points() -> bm.Episode:
    """Three classes a task, each around a centre of its own."""
    x, y = torch.randn(TASKS, SHOTS + QUERIES, 2), torch.arange(SHOTS + QUERIES).remainder(3).expand(TASKS, -1)
    centres = 2 * torch.randn(TASKS, 3, 2)
    x, mask = x + centres.gather(1, y[..., None].expand(x.shape)), torch.ones(y.shape, dtype=torch.bool)
    parts = (bm.Points(x[:, part], y[:, part], mask[:, part]) for part in (slice(SHOTS), slice(SHOTS, None)))
    return bm.Episode(*parts)


def network() -> bm.networks.MLP:
    return bm.networks.MLP(2, 3, hidden=(WIDTH, WIDTH))


CLASSIFIERS: dict[str, Callable[[], bm.Learner]] = {
    "MAML, three classes": lambda: bm.MAML(network(), bm.likelihoods.Categorical(), steps=STEPS),
    "prototypical networks, three classes": lambda: bm.PrototypicalNetwork(network().features, classes=3),
    "VERSA, three classes": lambda: bm.VERSA(
        bm.encoders.ClassPooling(WIDTH, 3, features=network().features), 3, bm.likelihoods.Categorical()
    ),
}
ON_SINUSOIDS = [  # the last three predict mixtures of 64 normals
    "MAML",
    "ALPaCA",
    "DKT",
    "conditional neural process",
    "ABML",
    "PLATIPUS",
    "attentive neural process",
]


def build(name: str) -> tuple[bm.Learner, list[bm.Episode], list[metrics.Metric]]:
    torch.manual_seed(0)
    if name in CLASSIFIERS:
        return CLASSIFIERS[name](), [points() for _ in range(EPISODES)], OF_CLASSES
    tasks = bm.tasks.Sinusoids(batch=TASKS, shots=SHOTS, queries=QUERIES, noise=0.1)
    return LEARNERS[name](WIDTH, STEPS, DRAWS), [tasks[i] for i in range(EPISODES)], OF_NUMBERS


def turn(learner: bm.Learner, tasks: list[bm.Episode], chosen: list[metrics.Metric]) -> tuple[float, float]:
    """Milliseconds an episode of predictions and of metrics, as `evaluate` asks for them in turn."""
    predictions = judging = 0.0
    last = time.process_time()
    with reading(learner, tasks, episodes=EPISODES, seed=0) as read:
        for _, episode in read:
            prediction = answers(learner, episode)
            now = time.process_time()
            judged(chosen, prediction, episode.query, learner, "")
            predictions, judging, last = (
                predictions + now - last,
                judging + time.process_time() - now,
                time.process_time(),
            )
    return 1e3 * predictions / EPISODES, 1e3 * judging / EPISODES


def intervals(found: Any) -> float:
    began = time.process_time()
    metrics.estimates(*found)
    return 1e3 * (time.process_time() - began)


def measure(name: str, rounds: int) -> dict[str, float]:
    learner, tasks, chosen = build(name)
    found = whole(learner, tasks, episodes=EPISODES, metrics=chosen)
    turns = [(*turn(learner, tasks, chosen), intervals(found)) for _ in range(rounds)]
    each = (statistics.median(column) for column in zip(*turns, strict=True))
    return dict(zip(("predictions", "metrics", "intervals"), each, strict=True))


def table(results: dict[str, Any]) -> str:
    lines = [
        f"| ms | predictions | metrics | metrics add | intervals of {TASKS * EPISODES} tasks, once |",
        "|---|---|---|---|---|",
    ]
    for name in [name for name in (*ON_SINUSOIDS, *CLASSIFIERS) if name in results]:
        plain, more, once = (results[name][way] for way in ("predictions", "metrics", "intervals"))
        lines.append(f"| {name} | {plain:.2f} | {more:.2f} | {100 * more / plain:.0f} % | {once:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="how learners' names begin")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if arguments.table else (*ON_SINUSOIDS, *CLASSIFIERS):
        if name.startswith(tuple(arguments.names) or ""):
            keep(arguments.results, name, measure(name, arguments.rounds))
    print(table(load(arguments.results)))


if __name__ == "__main__":
    main()
