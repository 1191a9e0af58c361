"""Learning handwritten characters in one pass: Omniglot's unseen classes, one after the other.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams.py            # about ten minutes of one core a learner
    BAYESMETA_DATA=... python benchmarks/accuracy/streams.py NAME ...   # some of the learners
    BAYESMETA_DATA=... python benchmarks/accuracy/streams.py --table    # prints what is there

Learners are trained on the background alphabets' classes, turned ones among them, on the same network: three
blocks of 32 channels on 28 x 28 pixels, 288 features. Streams are of 600, 200 or 100 of the evaluation alphabets' 659 classes,
one class at a time, 15 drawings each, and of 600 with a single drawing each; 5 further drawings of each are asked, among all
labels. Intervals draw streams and classes anew. Seen or new: 5 further drawings of each of 20 or 200 classes that were taught,
and 100 or 400 drawings of others; for that the class Gaussians' weight of a new class is learned, by itself and after all else.

The rate and the number of ways were chosen on six of the background alphabets, held out, at a quarter of the steps; then all
thirty trained. Finished runs are kept in results/streams.json; what was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import Estimate, OutsideAUROC
from bayesmeta.networks import GroupNorm
from bayesmeta.networks.conv4 import Block, FirstBlock
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams.json", HERE / "weights" / "streams"
WIDTH, FEATURES, RATE = 32, 288, 5e-3
QUERIES, NEW_STEPS = 5, 120


class Protocol(NamedTuple):
    """Streams of so many classes and drawings, and after how many classes all so far are asked about."""

    classes: int
    shots: int
    streams: int
    times: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.classes} x {self.shots}"


PROTOCOLS = (
    Protocol(600, 15, 3, (10, 20, 50, 100, 200, 600)),
    Protocol(200, 15, 6, (200,)),
    Protocol(100, 15, 10, (100,)),
    Protocol(600, 1, 3, (10, 20, 50, 100, 200, 600)),
)


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


class Training(NamedTuple):
    """A learner before its training, and what that is."""

    learner: Any
    tasks: Any
    steps: int


def background(**shape: Any) -> Any:
    return bm.tasks.Omniglot(split="background", batch=1, **shape)


LEARNERS: dict[str, Callable[[], Training]] = {
    "class Gaussians": lambda: Training(
        bm.GeMCL(body(), size=FEATURES, classes=60), background(ways=60, shots=2, queries=2), 5000
    ),
    "prototypes": lambda: Training(
        bm.PrototypicalNetwork(Scaled(body()), classes=60), background(ways=60, shots=2, queries=2), 5000
    ),
}
KNOWS_NEW = ("class Gaussians",)
"""Learners with a probability of a new class."""


def told_of_new(learner: Any) -> dict[str, float]:
    """Learns the weight of a new class, and nothing else, from queries of classes that an episode has not taught."""
    began = time.process_time()
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_(name == "log_new")
    learner.classes = 61
    optimizer = torch.optim.Adam([learner.log_new], lr=3.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NEW_STEPS)
    tasks = background(ways=60, shots=15, queries=1, outside=60, seed=1)
    bm.fit(learner, tasks, steps=NEW_STEPS, optimizer=optimizer, scheduler=scheduler, clip=None, seed=0, progress=False)
    return {"its logarithm": learner.log_new.item(), "CPU seconds": time.process_time() - began}


def trained(name: str) -> Any:
    """The learner after its training, which is noted among the results when it ends."""
    torch.manual_seed(0)
    learner, tasks, steps = LEARNERS[name]()
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE)
    began = time.process_time()
    history = bm.fit(
        learner,
        tasks,
        steps=steps,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.02, cycle_momentum=False),
        seed=0,
        checkpoint=WEIGHTS / name,
        progress=False,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    if f"{name}: training" not in load(RESULTS):
        spent = {"seconds": history.seconds, "CPU seconds of the last run": time.process_time() - began}
        keep(RESULTS, f"{name}: training", {**spent, "steps": steps, "torch": torch.__version__})
    return learner


def evaluation(**shape: Any) -> Any:
    return bm.tasks.Omniglot(split="evaluation", queries=QUERIES, batch=1, rotations=False, seed=1, **shape)


def in_one_pass(name: str, learner: Any, protocol: Protocol) -> dict[str, Any]:
    learner.classes = protocol.classes
    streams = bm.tasks.ClassStreams(evaluation(ways=protocol.classes, shots=protocol.shots))
    began = time.process_time()
    kept = evaluate_stream(
        learner,
        streams,
        episodes=protocol.streams,
        at=[time - 1 for time in protocol.times],
        checkpoint=WEIGHTS / name / protocol.name,
        progress=False,
    )
    return {
        "final": {metric: list(found) for metric, found in kept.final.items()},
        "forgetting": {metric: list(found) for metric, found in kept.forgetting.items()},
        "interference": {metric: list(found) for metric, found in kept.interference.items()},
        "gap": {metric: found.value for metric, found in kept.gap.items()},
        "after classes": {
            metric.name: {
                str(time): list(found) for time, found in zip(protocol.times, kept.so_far(metric.name), strict=True)
            }
            for metric in kept.metrics
        },
        "CPU seconds": time.process_time() - began,
    }


def seen_or_new(learner: Any) -> dict[str, Any]:
    """How well the probability of the last label, which nothing was taught of, tells further drawings from those of others."""
    found = {}
    for seen, others, episodes in ((20, 100, 10), (200, 400, 3)):
        learner.classes = seen + 1
        tasks = evaluation(ways=seen, shots=15, outside=others)
        (auroc,) = bm.evaluate(learner, tasks, episodes=episodes, metrics=[OutsideAUROC()]).values()
        found[str(seen)] = list(auroc)
    return found


def table(results: dict[str, Any]) -> str:
    lines = []
    for protocol in PROTOCOLS:
        lines += [
            f"| {protocol.classes} classes x {protocol.shots} in one pass | accuracy | NLL | ECE | accuracy forgotten "
            "| gap of the NLL to all at once |",
            "|---|---|---|---|---|---|",
        ]
        for name in LEARNERS:
            run = results.get(f"{name}: {protocol.name}")
            if run is not None:
                final = [Estimate(*run["final"][metric]) for metric in ("Accuracy", "NLL", "ECE")]
                cells = [*map(str, final), str(Estimate(*run["forgetting"]["Accuracy"])), f"{run['gap']['NLL']:.0e}"]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    for name in LEARNERS:
        if (run := results.get(f"{name}: seen or new")) is not None:
            cells = [f"{Estimate(*auroc)} at {seen}" for seen, auroc in run.items()]
            lines.append(f"Seen or new, AUROC of {name}: {', '.join(cells)} classes")
        if (run := results.get(f"{name}: training")) is not None:
            lines.append(
                f"Training of {name}: {run['CPU seconds of the last run']:.0f} CPU seconds, {run['steps']} steps"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(LEARNERS), help="of learners; all if there are none")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in () if given.table else given.names:
        learner = trained(name)
        for protocol in PROTOCOLS:
            if f"{name}: {protocol.name}" not in load(RESULTS):
                keep(RESULTS, f"{name}: {protocol.name}", in_one_pass(name, learner, protocol))
        if name in KNOWS_NEW and f"{name}: seen or new" not in load(RESULTS):
            keep(RESULTS, f"{name}: weight of a new class", told_of_new(learner))
            keep(RESULTS, f"{name}: seen or new", seen_or_new(learner))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
