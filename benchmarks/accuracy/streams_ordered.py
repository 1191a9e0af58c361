"""Gradient steps in order on handwritten characters: 600 of Omniglot's unseen classes, one after the other, 15 drawings each.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams_ordered.py            # about fifteen minutes of one core
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_ordered.py NAME ...   # some of the learners
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_ordered.py --table    # prints what is there
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_ordered.py --rates NAME ...  # what SHARES were chosen by

OML and ANML are trained on episodes of 20 of the background alphabets' classes, turned ones among them, 5 drawings each, class
after class: 100 steps in order, through which the meta-gradient goes. The features are those of `streams.py`, three blocks of 32
channels, brought to one length by layer normalisation; ANML's gate is a network of half the width. A stream is 9,000 such steps
by a share of the rates that were learned: what is right for 100 steps is too bold for 9,000. Beside them stand features trained
to tell the 964 background characters apart, with the same head.

Shares were chosen by the NLL on a stream of 600 mirrored background characters, which no training shows (`--rates`). That
features need one length was seen on six of the background alphabets, held out: without, a pass of 100 steps that was learned ran
out of bounds in 9,000. Nothing was chosen on the evaluation alphabets. Finished runs are kept in results/streams_ordered.json;
training goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import Estimate
from bayesmeta.networks import Gated, GroupNorm
from bayesmeta.networks.conv4 import Block, FirstBlock
from benchmarks.accuracy.streams import FEATURES, WIDTH, Scaled, body
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams_ordered.json", HERE / "weights" / "streams_ordered"
STEPS, RATE = {"OML": 2500, "ANML": 2500, "pretrained features, steps of the head": 1500}, 2e-3
CLASSES, SHOTS, QUERIES, STREAMS = 600, 15, 5, 3
TIMES = (10, 20, 50, 100, 200, 600)


def gate() -> nn.Module:
    half = WIDTH // 2
    blocks = (Block(half, half, GroupNorm) for _ in range(2))
    narrow = nn.Sequential(FirstBlock(1, half, GroupNorm), *blocks, nn.Flatten())
    return nn.Sequential(narrow, nn.Linear(FEATURES // 2, FEATURES))


def even(features: nn.Module) -> nn.Module:
    return Scaled(nn.Sequential(features, nn.LayerNorm(FEATURES)))


def ordered(features: nn.Module) -> bm.OML:
    """A head that begins with nothing."""
    head = nn.Linear(FEATURES, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return bm.OML(features, head, bm.likelihoods.Categorical(), classes=20, rate=0.1)


class Characters(bm.TaskSource):
    """No tasks: 200 drawings at a time of all background characters, each of which has its label for good."""

    def __init__(self) -> None:
        super().__init__(seed=0, length=1_000_000)
        self.images = bm.tasks.Omniglot(split="background", rotations=False, ways=2, queries=1).x
        self.characters = len(self.images) // 20

    def draw(self, generator: torch.Generator) -> bm.Episode:
        chosen = torch.randint(len(self.images), (1, 200), generator=generator)
        x, y = self.images[chosen].float() / 255, chosen // 20
        nothing = bm.Points(torch.zeros_like(x[:, :1]), torch.zeros_like(y[:, :1]), torch.zeros(1, 1, dtype=torch.bool))
        return bm.Episode(nothing, bm.Points(x, y, torch.ones_like(y, dtype=torch.bool)))


def fitted(name: str, learner: Any, tasks: Any) -> float:
    """Trains a learner; the seconds that it took."""
    steps = STEPS[name]
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = bm.fit(
        learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=0, checkpoint=WEIGHTS / name
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return history.seconds


def meta_learned(name: str, features: nn.Module) -> tuple[bm.OML, float]:
    learner = ordered(even(features))
    tasks = bm.tasks.Omniglot(split="background", ways=20, shots=5, queries=5, batch=1)
    return learner, fitted(name, learner, tasks)


def pretrained(name: str) -> tuple[bm.OML, float]:
    """A classifier of all background characters, whose head is thrown away."""
    characters, features = Characters(), even(body())
    whole = bm.ANIL(features, nn.Linear(FEATURES, characters.characters), bm.likelihoods.Categorical(), steps=0)
    return ordered(features), fitted(name, whole, characters)


LEARNERS: dict[str, Callable[[str], tuple[bm.OML, float]]] = {
    "OML": lambda name: meta_learned(name, body()),
    "ANML": lambda name: meta_learned(name, Gated(body(), gate())),
    "pretrained features, steps of the head": pretrained,
}
SHARES = {"OML": 0.3, "ANML": 0.3, "pretrained features, steps of the head": 0.1}
"""Of the rates that are learned, or 0.1, for a stream of 600 classes."""


def slowed(learner: bm.OML, share: float) -> bm.OML:
    """With so many classes, and a share of the rates."""
    slow = copy.deepcopy(learner)
    slow.classes = CLASSES
    with torch.no_grad():
        for rate in slow.rates:
            rate.mul_(share)
    return slow


def rates(name: str) -> str:
    """What shares of the rates give on mirrored background characters."""
    learner, _ = LEARNERS[name](name)
    images = bm.tasks.Omniglot(split="background", rotations=False, ways=2, queries=1).x.flip(-1)
    labels = torch.arange(len(images)) // 20
    tasks = bm.tasks.ImageTasks(images, labels, ways=CLASSES, shots=SHOTS, queries=QUERIES, batch=1, seed=2)
    lines = []
    for share in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003):
        found = bm.evaluate(slowed(learner, share), tasks, episodes=1)
        lines.append(f"{name}, {share}: NLL {found['NLL'].value:.3f}, accuracy {found['Accuracy'].value:.3f}")
    return "\n".join(lines)


def measured(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    learner, seconds = LEARNERS[name](name)
    began = time.process_time()
    learner = slowed(learner, SHARES[name])
    tasks = bm.tasks.Omniglot(
        split="evaluation", ways=CLASSES, shots=SHOTS, queries=QUERIES, batch=1, rotations=False, seed=1
    )
    streams = bm.tasks.ClassStreams(tasks)
    kept = evaluate_stream(learner, streams, episodes=STREAMS, at=[after - 1 for after in TIMES])
    growth = {}
    for row, after in enumerate(TIMES):
        asked = [later[:, row, :after].sum((0, 1)) for later in kept.later]
        growth[str(after)] = {m.name: m.reduce(sums).item() for m, sums in zip(kept.metrics, asked, strict=True)}
    return {
        "final": {metric: list(found) for metric, found in kept.final.items()},
        "forgetting": {metric: list(found) for metric, found in kept.forgetting.items()},
        "steps": STEPS[name],
        "share of the rates": SHARES[name],
        "gap": {metric: found.value for metric, found in kept.gap.items()},
        "after classes": growth,
        "training seconds": seconds,
        "evaluation CPU seconds": time.process_time() - began,
        "torch": torch.__version__,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        f"| {CLASSES} classes x {SHOTS} in one pass | accuracy | NLL | ECE | accuracy after 20, 100, 200 classes |",
        "|---|---|---|---|---|",
    ]
    for name, run in results.items():
        final = [str(Estimate(*run["final"][metric])) for metric in ("Accuracy", "NLL", "ECE")]
        before = ", ".join(f"{run['after classes'][after]['Accuracy']:.3f}" for after in ("20", "100", "200"))
        lines.append(f"| {name} | {' | '.join(final)} | {before} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(LEARNERS)}; all if none")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument(
        "--rates", action="store_true", help="print what shares of the rates give on background characters"
    )
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if given.rates:
        print(*(rates(name) for name in given.names or LEARNERS), sep="\n")
        return
    for name in () if given.table else given.names or LEARNERS:
        if name not in load(RESULTS):
            keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
