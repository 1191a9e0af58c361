"""Seconds and memory of one mask: five marked pictures of 256 x 256, and one more that is segmented, by closed-form learners.

    python benchmarks/cost/masks.py

Each runs in processes of its own, since a process's peak never falls; medians of three. Seconds are of ``learner(support)(x)``
and its probabilities, without gradients, after a first time: the wall time with two threads, which other work of the machine
prolongs, and the CPU time with one. Peak is the whole process's, torch and the learner among it. Finished rows are kept in
results/masks.json.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import bayesmeta as bm
from benchmarks.accuracy.segmentation import laplace_hand, laplace_learned
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "masks.json"
REPEATS, THREADS, SIDE, SHOTS = 3, 2, 256, 5


def laplace(pixels: int | None) -> bm.Learner:
    head = bm.LaplaceHead(nn.Identity(), nn.Linear(16, 1), bm.likelihoods.Bernoulli(), evidence=0.5)
    return bm.Dense(bm.networks.UNet(3).features, head, pixels=pixels)


LEARNERS: dict[str, Callable[[], bm.Learner]] = {
    "Laplace head on a U-Net, 4,000 pixels": lambda: laplace(4000),
    "Laplace head on a U-Net, all pixels": lambda: laplace(None),
    "Laplace head on 57 hand features, 4,000 pixels": laplace_hand,
    "Laplace head on learned numbers, 4,000 pixels": laplace_learned,
    "prototypes on a U-Net": lambda: bm.Dense(
        bm.networks.UNet(3).features, bm.PrototypicalNetwork(nn.Identity(), classes=2)
    ),
    "class Gaussians on a U-Net": lambda: bm.Dense(
        bm.networks.UNet(3).features, bm.GeMCL(nn.Identity(), size=16, classes=2)
    ),
}


def measure(name: str) -> None:
    """Prints wall seconds of two threads, CPU seconds of one, and the peak in MiB."""
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    marked = torch.rand(SHOTS, 3, SIDE, SIDE), torch.randint(2, (SHOTS, SIDE, SIDE))
    support, x = bm.points(*marked, classes=2, event_dims=2), torch.rand(1, 1, 3, SIDE, SIDE)
    seconds = []
    for threads, clock in ((THREADS, time.perf_counter), (1, time.process_time)):
        torch.set_num_threads(threads)
        for _ in range(2):
            began = clock()
            with torch.no_grad():
                bm.distributions.class_probabilities(learner(support)(x))
            took = clock() - began
        seconds.append(took)
    print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    if len(sys.argv) == 2:
        return measure(sys.argv[1])
    for name in LEARNERS:
        runs = [
            subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(REPEATS)
        ]
        wall, busy, peak = (statistics.median(map(float, column)) for column in zip(*runs, strict=True))
        keep(
            RESULTS,
            name,
            {"wall seconds": wall, "CPU seconds, one thread": busy, "peak MiB": peak, "torch": torch.__version__},
        )
        print(f"{name:55} {wall:5.2f} s, {busy:5.2f} CPU s, peak {peak:5.0f} MiB", flush=True)
    return None


if __name__ == "__main__":
    main()
