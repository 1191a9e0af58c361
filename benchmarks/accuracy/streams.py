"""Learning handwritten characters in one pass: Omniglot's unseen classes, one after the other, 15 drawings each.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams.py            # about ten minutes of one core
    BAYESMETA_DATA=... python benchmarks/accuracy/streams.py --table    # prints what is there

Learners are trained on episodes of 20 of the background alphabets' classes, turned ones among them, 5 drawings each, on the same
network: three blocks of 32 channels on 28 x 28 pixels, 288 features. Streams are of 100 of the evaluation alphabets' 659 classes,
one class at a time; 5 further drawings of each are asked, among all 100 labels. Intervals draw streams and classes anew.
Settings were chosen beforehand, none on the evaluation alphabets. Finished runs are kept in results/streams.json; training goes
on where it was interrupted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.networks import GroupNorm
from bayesmeta.networks.conv4 import Block, FirstBlock
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams.json", HERE / "weights" / "streams"
WIDTH, FEATURES, STEPS, RATE = 32, 288, 2500, 2e-3
CLASSES, SHOTS, QUERIES, STREAMS = 100, 15, 5, 10
TIMES = (9, 19, 49, 99)


def body() -> nn.Module:
    """Three blocks: a fourth would leave 32 features, too few to tell hundreds of classes apart."""
    blocks = (Block(WIDTH, WIDTH, GroupNorm) for _ in range(2))
    return nn.Sequential(FirstBlock(1, WIDTH, GroupNorm), *blocks, nn.Flatten())


class Scaled(nn.Module):
    """Features times a learned number: distances of hundreds of features are else far too sure at first."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.log_scale = features, nn.Parameter(torch.tensor(-2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.features(x) * self.log_scale.exp()
        return scaled


LEARNERS: dict[str, Callable[[], Any]] = {
    "class Gaussians": lambda: bm.GeMCL(body(), size=FEATURES, classes=20),
    "prototypes": lambda: bm.PrototypicalNetwork(Scaled(body()), classes=20),
}


def trained(name: str) -> tuple[Any, float]:
    """The learner, and the seconds that its training took."""
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    tasks = bm.tasks.Omniglot(split="background", ways=20, shots=5, queries=5, batch=1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE)
    history = bm.fit(
        learner,
        tasks,
        steps=STEPS,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        seed=0,
        checkpoint=WEIGHTS / name,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return learner, history.seconds


def measured(name: str) -> dict[str, Any]:
    learner, seconds = trained(name)
    learner.classes = CLASSES
    tasks = bm.tasks.Omniglot(
        split="evaluation", ways=CLASSES, shots=SHOTS, queries=QUERIES, batch=1, rotations=False, seed=1
    )
    began = time.process_time()
    kept = evaluate_stream(learner, bm.tasks.ClassStreams(tasks), episodes=STREAMS, at=TIMES)
    spent = time.process_time() - began
    growth = {}
    for row, time_ in enumerate(TIMES):
        asked = [later[:, row, : time_ + 1].sum((0, 1)) for later in kept.later]
        growth[str(time_ + 1)] = {
            metric.name: metric.reduce(sums).item() for metric, sums in zip(kept.metrics, asked, strict=True)
        }
    return {
        "final": {metric: list(found) for metric, found in kept.final.items()},
        "forgetting": {metric: list(found) for metric, found in kept.forgetting.items()},
        "backward": {metric: list(found) for metric, found in kept.backward.items()},
        "gap": {metric: found.value for metric, found in kept.gap.items()},
        "after classes": growth,
        "training seconds": seconds,
        "evaluation CPU seconds": spent,
        "steps": STEPS,
        "torch": torch.__version__,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        f"| {CLASSES} classes x {SHOTS} in one pass | accuracy | NLL | ECE | accuracy forgotten "
        "| gap of the NLL to all at once | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in results.items():
        final = [bm.metrics.Estimate(*run["final"][metric]) for metric in ("Accuracy", "NLL", "ECE")]
        lost = bm.metrics.Estimate(*run["forgetting"]["Accuracy"])
        cells = [*map(str, final), str(lost), f"{run['gap']['NLL']:.0e}", f"{run['training seconds']:.0f} s"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in () if given.table else LEARNERS:
        if name not in load(RESULTS):
            keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
