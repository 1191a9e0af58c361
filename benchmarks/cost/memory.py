"""Peak memory of a meta-update in slices: 64 tasks in 16 slices should need what 4 tasks need.

    python benchmarks/cost/memory.py

Each setting runs in processes of its own, since a process's peak never falls; medians of three. The network is
Conv4-64 on Omniglot shapes, where activations are what fills memory. The peak is the whole process's; beside it stands
what the updates added to what the process weighed before them.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

import torch

import bayesmeta as bm

REPEATS = 3


def peak() -> float:
    """The most memory this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Images(torch.utils.data.Dataset[bm.Episode]):
    """Random images of the shapes of Omniglot, 5-way 1-shot, 15 queries a class."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> bm.Episode:
        def draw(points: int) -> bm.Points:
            labels = torch.arange(5).repeat(self.batch, points // 5)
            mask = torch.ones(self.batch, points, dtype=torch.bool)
            return bm.Points(torch.rand(self.batch, points, 1, 28, 28), labels, mask)

        return bm.Episode(draw(5), draw(75))


def measure(batch: int, slices: int) -> None:
    """Two meta-updates, so that the optimiser's state is counted; prints the peak before and after."""
    learner = bm.MAML(bm.networks.Conv4(outputs=5), bm.likelihoods.Categorical(), rate=0.4)
    before = peak()
    bm.fit(learner, Images(batch), steps=2, slices=slices, progress=False)
    print(before, peak())


def main() -> None:
    if len(sys.argv) == 3:
        return measure(int(sys.argv[1]), int(sys.argv[2]))
    settings = [(4, 1), (64, 16), (16, 1), (64, 1)]
    medians = {}
    for batch, slices in settings:
        command = [sys.executable, __file__, str(batch), str(slices)]
        runs = [
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(REPEATS)
        ]
        total = statistics.median(float(after) for _, after in runs)
        added = statistics.median(float(after) - float(before) for before, after in runs)
        medians[batch, slices] = total, added
        ratios = [value / reference for value, reference in zip(medians[batch, slices], medians[4, 1], strict=True)]
        print(
            f"{batch:3} tasks in {slices:2} slices: peak {total:5.0f} MiB ({ratios[0]:.2f} x 4 tasks at once), "
            f"of it the updates {added:5.0f} MiB ({ratios[1]:.2f} x)"
        )
    return None


if __name__ == "__main__":
    main()
