"""Peak memory of a meta-update in slices: 64 tasks in 16 slices should need what 4 tasks need.

    python benchmarks/memory.py

Each setting runs in a process of its own, since a process's peak never falls. The network is Conv4-64 on Omniglot
shapes, where activations are what fills memory. What the process weighs before the first update is subtracted.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

import bayesmeta as bm


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
    """Two meta-updates, so that the optimiser's state is counted; prints what they added to the peak."""
    learner = bm.MAML(bm.Conv4(outputs=5), bm.Categorical(), rate=0.4)
    before = peak()
    bm.fit(learner, Images(batch), steps=2, slices=slices, progress=False)
    print(peak() - before)


def main() -> None:
    if len(sys.argv) == 3:
        return measure(int(sys.argv[1]), int(sys.argv[2]))
    settings = [(4, 1), (64, 16), (16, 1), (64, 1)]
    added = {}
    for batch, slices in settings:
        done = subprocess.run(
            [sys.executable, __file__, str(batch), str(slices)], capture_output=True, text=True, check=True
        )
        added[batch, slices] = float(done.stdout)
        ratio = added[batch, slices] / added[4, 1]
        print(f"{batch:3} tasks in {slices:2} slices: {added[batch, slices]:6.0f} MiB, {ratio:.2f} x 4 tasks at once")
    return None


if __name__ == "__main__":
    main()
