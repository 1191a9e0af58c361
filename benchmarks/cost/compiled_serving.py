"""One task answered by a compiled function of its points: milliseconds a request, eager and compiled, and seconds to compile.

    python benchmarks/cost/compiled_serving.py            # a quarter of an hour of one core
    python benchmarks/cost/compiled_serving.py CNP MAML   # these learners alone

A request is 10 known points of a curve and 15 asked. The function is that of docs/performance.md, for any numbers of points: it
is asked for 22 at 17 too, and answers are compared with eager ones from the same random numbers. Seconds to compile are of an
empty cache, and of a second process that finds the first one's on disk. Times are those of the process, on one thread, eager and
compiled in turn. Finished entries are kept in results/compiled_serving.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bayesmeta as bm
from benchmarks.cost.gpu_serving import learners
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "compiled_serving.json"
NAMES = ("CNP", "NP", "VERSA", "ALPaCA", "MAML", "ABML", "PLATIPUS", "BMAML", "LEO")


def measured(name: str) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = learners(64)[name][0]().eval()

    def eager(support: bm.Points, x: Tensor) -> tuple[Tensor, Tensor]:
        prediction: Any = learner(support)(x)
        return prediction.mean, prediction.stddev

    compiled = torch.compile(eager, fullgraph=True, dynamic=True)
    small, large = (bm.tasks.Sinusoids(batch=1, shots=known, queries=known + 5)[0] for known in (10, 17))
    apart: list[float] = []
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        began = time.perf_counter()
        compiled(small.support, small.query.x)
        took = time.perf_counter() - began
        for episode in (small, large):
            answers = []
            for function in (eager, compiled):
                torch.manual_seed(1)
                answers.append(torch.cat(function(episode.support, episode.query.x)))
            apart.append(float((answers[0] - answers[1]).abs().max()))
        for _ in range(200):
            for function, kept in zip((eager, compiled), times, strict=True):
                began = time.process_time()
                function(small.support, small.query.x)
                kept.append(time.process_time() - began)
    ms = [1e3 * statistics.median(kept) for kept in times]
    return {"eager ms": ms[0], "compiled ms": ms[1], "seconds": took, "apart": max(apart)}


def entry(name: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # which the processes below read when they begin
        runs = []
        for _ in range(2):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                runs.append(alone.submit(measured, name).result())
    return runs[0] | {"seconds from the cache": runs[1]["seconds"]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="learners; all if none")
    given = parser.parse_args(argv)
    for name in given.names or NAMES:
        if name not in load(RESULTS):
            keep(RESULTS, name, entry(name))
    for name, row in load(RESULTS).items():
        print(name, "|", ", ".join(f"{what} {value:.3g}" for what, value in row.items()))


if __name__ == "__main__":
    main()
