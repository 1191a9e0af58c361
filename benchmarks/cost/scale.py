"""A table of a million tasks on disk: what writing it, opening it and reading episodes cost, beside a meta-update.

    python benchmarks/cost/scale.py                         # a million tasks of 2 to 198 rows, 1e8 rows, 0.8 GB, some minutes
    python benchmarks/cost/scale.py --tasks 10000           # a smaller one
    python benchmarks/cost/scale.py --folder /tmp/table     # keeps the table there, or uses the one that is there

Episodes of 25 tasks, 10 known points and 10 asked; the update is MAML's on an MLP 40-40 with five inner steps, eager. Memory is
what the process holds of its own beyond what it held before the table was opened: pages of files, which the system may drop, do
not count. The results go to results/scale.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bayesmeta as bm
from benchmarks.cost.meta_step import UnitGaussian, fit_update
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "scale.json"
PART = 10_000
"""Tasks that are written at once."""


def parts(tasks: int) -> Iterator[tuple[Any, Any, Any]]:
    """Sinusoids with 2 to 198 rows each, 100 on average."""
    for first in range(0, tasks, PART):
        numbers = np.random.default_rng(first)
        count = min(PART, tasks - first)
        rows = numbers.integers(2, 199, count)
        ids = np.repeat(np.arange(first, first + count), rows)
        amplitude, phase = (np.repeat(numbers.uniform(*range_, count), rows) for range_ in ((0.1, 5.0), (0.0, np.pi)))
        x = numbers.uniform(-5.0, 5.0, len(ids)).astype(np.float32)
        yield x, (amplitude * np.sin(x - phase)).astype(np.float32), ids


def own_memory() -> int:
    """Bytes of this process that are of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measured(folder: Path, tasks: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not folder.exists():
        began = time.perf_counter()
        bm.tasks.store_tasks(folder, parts(tasks))
        found["writing s"] = time.perf_counter() - began
    before, began = own_memory(), time.perf_counter()
    source = bm.tasks.StoredTasks(folder, batch=25, shots=10, queries=10)
    episode = source[0]
    found["first episode s"] = time.perf_counter() - began
    times = []
    for index in range(1, 3001):
        began = time.perf_counter()
        source[index]
        times.append(time.perf_counter() - began)
    found["episode ms"], found["own MB"] = 1e3 * statistics.median(times), (own_memory() - before) / 1e6
    learner = bm.MAML(bm.networks.MLP(1, 1), UnitGaussian(), steps=5, rate=0.01)
    update, times = fit_update(learner, episode, slices=1, threads=1), []
    for _ in range(30):
        began = time.perf_counter()
        update()
        times.append(time.perf_counter() - began)
    found["update ms"] = 1e3 * statistics.median(times)
    return found | {"update by episode": found["update ms"] / found["episode ms"]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        result = measured(given.folder or Path(temporary) / "table", given.tasks)
    keep(RESULTS, f"{given.tasks} tasks", result)
    print("\n".join(f"{name}: {value:.3g}" for name, value in result.items()))


if __name__ == "__main__":
    main()
