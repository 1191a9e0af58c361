"""Meta-training on one family of tasks and then on another: Omniglot's characters, then digits and clothes.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams_families.py               # validation, then the test
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_families.py --table       # prints what is there

Prototypes on three blocks of 32 channels, 28 x 28 pixels: 20-way 1-shot of Omniglot's training characters, then 10-way 1-shot of
the twenty classes of MNIST and Fashion-MNIST. How much the past counts trades the one for the other: of each form that is taken
which holds least and yet, in validation, loses no more than a third of what plain further training loses of the first family.
Validation has Omniglot's validation characters, and 500 training pictures a class that are left out; the test has Omniglot's test
characters, and the test pictures of the second family. Finished runs are kept in results/streams_families.json; training goes on
where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.networks import GroupNorm
from bayesmeta.networks.conv4 import Block, FirstBlock
from bayesmeta.tasks import ImageTasks, Omniglot
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams_families.json", HERE / "weights" / "streams_families"
WIDTH, FIRST, SECOND, HELD_OUT, EPISODES = 32, 1000, 500, 500, 200
RATES = {"first": 2e-3, "second": 1e-3}
CANDIDATES = (0.1, 1.0, 10.0, 100.0)
TARGETS = (100_000, 10_000, 1_000)
"""How many targets a family counts for, of the variational form; the fewer, the more the past holds."""


class Scaled(nn.Module):
    """Features times a learned number: distances of hundreds of features are else far too sure at first."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (Block(WIDTH, WIDTH, GroupNorm) for _ in range(2))
        self.body = nn.Sequential(FirstBlock(1, WIDTH, GroupNorm), *blocks, nn.Flatten())
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.body(x) * self.log_scale.exp()
        return scaled


def characters(split: Any, seed: int = 0) -> Any:
    return Omniglot(split=split, ways=20, shots=1, queries=5, batch=1, rotations=False, seed=seed)


def pictures(split: str, seed: int = 0) -> ImageTasks:
    """10 of the 20 classes of digits and clothes: of training pictures but the last of each class, of these, or of test ones."""
    images, labels = [], []
    for k, pack in enumerate(("mnist", "fashion_mnist")):
        with np.load(next((Path(os.environ["BAYESMETA_DATA"]) / pack).glob("*.npz"))) as file:
            part = "test" if split == "test" else "train"
            x, y = file[f"x_{part}"], file[f"y_{part}"].astype(np.int64)
        for label in range(10):
            chosen = x[y == label]
            if split != "test":
                chosen = chosen[:-HELD_OUT] if split == "train" else chosen[-HELD_OUT:]
            images.append(chosen)
            labels.append(np.full(len(chosen), 10 * k + label))
    return ImageTasks(np.concatenate(images), np.concatenate(labels), ways=10, shots=1, queries=5, batch=1, seed=seed)


def trained(learner: Any, tasks: Any, stage: str, steps: int, name: str) -> float:
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATES[stage])
    history = bm.fit(
        learner,
        tasks,
        steps=steps,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        seed=0,
        checkpoint=WEIGHTS / name,
        progress=False,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return history.seconds


def first() -> bm.Consolidated:
    torch.manual_seed(0)
    learner = bm.Consolidated(bm.PrototypicalNetwork(Scaled(), classes=20))
    trained(learner, characters("train"), "first", FIRST, "first")
    return learner


def variational(targets: int) -> bm.ConsolidatedVI:
    """After both families."""
    torch.manual_seed(0)
    learner = bm.ConsolidatedVI(bm.PrototypicalNetwork(Scaled(), classes=20), targets=targets)
    trained(learner, characters("train"), "first", FIRST, f"variational_{targets}_first")
    learner.consolidate()
    learner.learner.classes = 10  # type: ignore[assignment]
    trained(learner, pictures("train"), "second", SECOND, f"variational_{targets}_second")
    return learner


def run(name: str, split: str) -> None:
    """Trains on the second family, plainly or consolidated with some weight, and asks about both."""
    if f"{split}, {name}" in load(RESULTS):
        return
    learner: Any = variational(int(name.split()[1])) if name.startswith("variational") else first()
    if not name.startswith(("first", "variational")):
        if name != "plain further training":
            learner.consolidate(characters("train", seed=2), episodes=200)
            learner.weight = float(name.removeprefix("consolidated, "))
        learner.learner.classes = 10  # type: ignore[assignment]
        trained(learner, pictures("train"), "second", SECOND, name.replace(" ", "_"))
    found = {}
    for family, tasks in (("characters", characters(split, seed=1)), ("pictures", pictures(split, seed=1))):
        learner.learner.classes = tasks.ways  # type: ignore[assignment]
        scores = bm.evaluate(learner, tasks, episodes=EPISODES, progress=False)
        found.update({f"{family}, {metric}": list(score) for metric, score in scores.items()})
    keep(RESULTS, f"{split}, {name}", found)


def best(names: Sequence[str]) -> str:
    """The one that holds least with which, in validation, the characters lose no more than a third of what they lose plainly."""
    results = load(RESULTS)

    def left(name: str) -> float:
        return float(results[f"validation, {name}"]["characters, Accuracy"][0])

    least = left("first family alone") - (left("first family alone") - left("plain further training")) / 3
    return next((name for name in names if left(name) >= least), names[-1])


def table(results: dict[str, Any]) -> str:
    lines = []
    for split in ("validation", "test"):
        lines += [
            f"| {split} | characters, 20-way 1-shot | NLL | lost | digits and clothes, 10-way 1-shot | NLL |",
            "|---|---|---|---|---|---|",
        ]
        before = results.get(f"{split}, first family alone")
        for key, row in results.items():
            if before is None or not key.startswith(f"{split}, "):
                continue
            cells = [str(bm.metrics.Estimate(*row[f"characters, {metric}"])) for metric in ("Accuracy", "NLL")]
            cells.append(f"{before['characters, Accuracy'][0] - row['characters, Accuracy'][0]:.3f}")
            cells += [str(bm.metrics.Estimate(*row[f"pictures, {metric}"])) for metric in ("Accuracy", "NLL")]
            lines.append(f"| {key.removeprefix(f'{split}, ')} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not given.table:
        forms = [[f"consolidated, {weight}" for weight in CANDIDATES], [f"variational, {count}" for count in TARGETS]]
        for name in ("first family alone", "plain further training", *forms[0], *forms[1]):
            run(name, "validation")
        for name in ("first family alone", "plain further training", *map(best, forms)):
            run(name, "test")
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
