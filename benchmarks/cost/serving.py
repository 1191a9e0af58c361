"""Requests per second of one learner that several threads or processes ask, and whether all get the answers that one would get.

    python benchmarks/cost/serving.py                # some minutes of an idle machine
    python benchmarks/cost/serving.py --seconds 0.2  # a smoke test

A request is ``learner(support)(x)`` of one task: the adaptation and the prediction, without gradients, with one intra-op thread a
worker. Clients wait for each answer before they ask again, so a latency is that of a worker that is always busy.
Every answer is compared with that of one worker alone, bit by bit. ABML draws from a generator that the threads of a
process share: where there are several, its answers' shapes are compared and its numbers must be finite; a worker that has a
process to itself seeds it before each request, and is compared bit by bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "serving.json"
TASKS = 8  # that are asked in turn
Make = Callable[[], bm.Learner]
Request = tuple[bm.Points, Any]
# The learner and what it is asked about.
LEARNERS: dict[str, tuple[Make, str]] = {
    "MAML, MLP": (lambda: bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=5), "curves"),
    "ABML, MLP": (lambda: bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), "curves"),
    "DKT, MLP": (
        lambda: bm.DKT(bm.networks.MLP(1, 1).features, ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian()),
        "curves",
    ),
    "PrototypicalNetwork, MLP": (lambda: bm.PrototypicalNetwork(bm.networks.MLP(2, 5).features, classes=5), "points"),
    "PrototypicalNetwork, Conv4": (
        lambda: bm.PrototypicalNetwork(bm.networks.Conv4(outputs=5).features, classes=5),
        "images",
    ),
    "MAML, Conv4": (
        lambda: bm.MAML(bm.networks.Conv4(outputs=5), bm.likelihoods.Categorical(), steps=5, rate=0.4),
        "images",
    ),
}
RANDOM = ("ABML, MLP",)
WAYS = (
    "1 thread",
    "2 threads",
    "4 threads",
    "1 process",
    "2 processes",
)


def requests(kind: str) -> list[Request]:
    """Supports of 10 points of a curve, or of one of each of 5 classes, and 15 inputs to answer for."""
    numbers = torch.Generator().manual_seed(0)
    if kind == "curves":
        episode = bm.tasks.Sinusoids(batch=TASKS, shots=10, queries=15)[0]
        one = [bm.Points(*(leaf[b : b + 1] for leaf in episode.support)) for b in range(TASKS)]
        return [(support, episode.query.x[b : b + 1]) for b, support in enumerate(one)]
    shape = (1, 28, 28) if kind == "images" else (2,)
    labels, mask = torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool)
    draw = [torch.rand(1, 20, *shape, generator=numbers) for _ in range(TASKS)]
    return [(bm.Points(x[:, :5], labels, mask), x[:, 5:]) for x in draw]


def build(name: str) -> tuple[bm.Learner, list[Request]]:
    make, kind = LEARNERS[name]
    torch.manual_seed(0)
    return make().eval(), requests(kind)


def answer(learner: bm.Learner, request: Request, seeded: bool) -> Tensor:
    if seeded:
        torch.manual_seed(0)
    with torch.no_grad():
        prediction: Any = learner(request[0])(request[1])
        values: Tensor = prediction.logits if hasattr(prediction, "logits") else prediction.mean
    return values


def work(
    learner: bm.Learner, asked: list[Request], expected: list[Tensor], seconds: float, seeded: bool, exact: bool = True
) -> tuple[list[float], float, int]:
    """One worker: the latency of each request, the time it took for all, and how many answers were wrong."""
    torch.set_num_threads(1)
    latencies: list[float] = []
    wrong = 0
    answer(learner, asked[0], seeded)  # the first is slow
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or not latencies:
        i = len(latencies) % len(asked)
        before = time.perf_counter()
        given = answer(learner, asked[i], seeded)
        latencies.append(time.perf_counter() - before)
        right = (
            torch.equal(given, expected[i]) if exact else given.shape == expected[i].shape and given.isfinite().all()
        )
        wrong += not right
    return latencies, time.perf_counter() - began, wrong


def serial(name: str) -> tuple[bm.Learner, list[Request], list[Tensor]]:
    learner, asked = build(name)
    return learner, asked, [answer(learner, request, name in RANDOM) for request in asked]


def child(name: str, seconds: float, start: Any, results: Any) -> None:
    """A process of its own: it computes what it expects by itself, and hands over its first answers to be compared."""
    torch.set_num_threads(1)
    learner, asked, expected = serial(name)
    start.wait()
    results.put((*work(learner, asked, expected, seconds, name in RANDOM), [e.tolist() for e in expected]))


def on_threads(name: str, count: int, seconds: float) -> list[tuple[list[float], float, int]]:
    learner, asked, expected = serial(name)
    random = name in RANDOM
    with ThreadPoolExecutor(count) as pool:  # it seeds what threads share only where there is one
        return list(
            pool.map(
                lambda _: work(learner, asked, expected, seconds, random and count == 1, not random or count == 1),
                range(count),
            )
        )


def on_processes(name: str, count: int, seconds: float) -> list[tuple[list[float], float, int]]:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(count), context.Queue()
    children = [context.Process(target=child, args=(name, seconds, start, results)) for _ in range(count)]
    for one in children:
        one.start()
    given = [results.get() for _ in children]
    for one in children:
        one.join()
    expected = [values.tolist() for values in serial(name)[2]]
    return [(latencies, took, wrong + (theirs != expected)) for latencies, took, wrong, theirs in given]


def measure(name: str, way: str, seconds: float) -> dict[str, Any]:
    count = int(way.split()[0])
    processes = "process" in way
    parts = on_processes(name, count, seconds) if processes else on_threads(name, count, seconds)
    latencies = [latency for part, _, _ in parts for latency in part]
    points = statistics.quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    return {
        "requests": len(latencies),
        "wrong": sum(wrong for _, _, wrong in parts),
        "requests per second": sum(len(part) / took for part, took, _ in parts),
        "p50": 1e3 * points[49],
        "p95": 1e3 * points[94],
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def table(results: dict[str, Any], seconds: float) -> str:
    lines = [
        "| learner | workers | requests/s | to 1 thread | p50 (ms) | p95 (ms) | wrong answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in LEARNERS:
        for way in WAYS:
            row = results[f"{name}; {way}; {seconds:g} s"]
            ratio = row["requests per second"] / results[f"{name}; 1 thread; {seconds:g} s"]["requests per second"]
            wrong = f"{row['wrong']} of {row['requests']}"
            if name in RANDOM and "threads" in way:
                wrong += " (shapes)"
            lines.append(
                f"| {name} | {way} | {row['requests per second']:.0f} | {ratio:.2f} | {row['p50']:.2f} | {row['p95']:.2f} "
                f"| {wrong} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in LEARNERS:
        for way in WAYS:
            key = f"{name}; {way}; {arguments.seconds:g} s"
            if key not in load(arguments.results):  # else it was measured
                keep(arguments.results, key, measure(name, way, arguments.seconds))
    print(table(load(arguments.results), arguments.seconds))


if __name__ == "__main__":
    main()
