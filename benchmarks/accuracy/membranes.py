"""Membranes from one and from five marked tiles of electron micrographs (ISBI 2012): what training on other pictures is worth.

    BAYESMETA_DATA=... python benchmarks/accuracy/membranes.py                   # all learners, three seeds
    BAYESMETA_DATA=... python benchmarks/accuracy/membranes.py --validate        # on training slices; nothing is kept
    BAYESMETA_DATA=... python benchmarks/accuracy/membranes.py --table           # prints what is there

A task is a slice of 256 x 256 pixels: one or five of its tiles of 64 x 64 are marked, and membranes, a fifth of all pixels, are
asked for in five others. Ten tasks are of the ten last slices, 20 to 29. All slices are of one volume, and neighbours look
alike (their pixels correlate by 0.2 to 0.3): slices 18 and 19 are left out, learners that see other slices see 0 to 17, and those
that see streets (CamVid's training drives, in grey, all 11 classes) see no micrograph before their task. The U-Net alone starts
anew for each task, and learns of its tiles by Adam, turned and mirrored; its steps and rate were chosen by `--validate`: on
slices 14 to 17, where learners that see slices see 0 to 11. Dice is that of the membrane, of a task's tiles together, of masks
of the largest expected Dice. Finished runs are in results/membranes.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, Dice, IoU
from bayesmeta.tasks import Masks, SceneTasks, SegmentationTasks
from bayesmeta.tasks.segmentation import MaskTasks
from benchmarks.accuracy.segmentation import DRIVE, VOID, laplace_hand, laplace_learned
from benchmarks.accuracy.segmentation import pictures as streets
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "membranes.json"
SHOTS, SEEDS, TASKS = (1, 5), (0, 1, 2), 10
METRICS = [Dice(), Dice("likeliest"), IoU(), NLL(), ECE()]


class Alone(bm.Learner):
    """A U-Net that learns of a task's tiles and of nothing else."""

    masks_entries = True

    def __init__(self, steps: int = 60, rate: float = 0.003) -> None:
        super().__init__()
        self.network = bm.networks.UNet(3, 2, widths=(8, 16, 32))
        self.likelihood = bm.likelihoods.Categorical(event_dims=2, classes_first=True)
        self.steps, self.rate = steps, rate

    def forward(self, support: bm.Points) -> bm.Posterior:
        network = copy.deepcopy(self.network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.rate, weight_decay=0.01)
        with torch.enable_grad():
            for step in range(self.steps):
                x, y = (_turned(part[0], step) for part in (support.x, support.y))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()
        return bm.MAML(network, self.likelihood, steps=0)(support)


def _turned(maps: Tensor, step: int) -> Tensor:
    """All eight ways that a square can lie, in turn."""
    maps = maps.rot90(step % 4, (-2, -1))
    return maps.flip(-1) if step % 8 > 3 else maps


LEARNERS = ("U-Net on the tiles alone", "57 numbers, streets", "learned numbers, streets", "learned numbers, slices")


@cache
def tiles() -> Masks:
    data = bm.tasks.membranes(tile=64)
    return data._replace(images=data.images.expand(-1, 3, -1, -1).contiguous())


def slices(first: int, last: int, **shape: int) -> SceneTasks:
    data = tiles()
    names = [f"{i:02}" for i in range(first, last + 1)]
    both = [data.names.index(name) for name in ("cell", "membrane")]  # 1 is what Dice is of
    return SceneTasks(data.images, data.masks, classes=both, groups=data.groups, subset=names, batch=1, **shape)


def street_tasks(seed: int) -> SegmentationTasks:
    data = streets()
    grey = data.images.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    drives = sorted({*data.groups} - {DRIVE})
    return SegmentationTasks(
        grey, data.masks, void=VOID, groups=data.groups, subset=drives, unions=2, shots=5, queries=3, batch=1, seed=seed
    )


def trained(name: str, seed: int, validate: bool, **changed: Any) -> tuple[bm.Learner, float]:
    torch.manual_seed(seed)
    began = time.process_time()
    if name == LEARNERS[0]:
        return Alone(**changed), 0.0
    learner = laplace_hand() if name.startswith("57") else laplace_learned()
    tasks: MaskTasks = street_tasks(seed)
    if name.endswith("slices"):
        tasks = slices(0, 11 if validate else 17, shots=5, queries=3, seed=seed)
    steps = changed.get("steps", 150)
    optimizer = torch.optim.Adam(learner.parameters(), lr=changed.get("rate", 0.01))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)
    return learner, time.process_time() - began


def figures(learner: bm.Learner, asked: tuple[int, int], shots: int, tasks: int) -> dict[str, Any]:
    source = slices(*asked, shots=shots, queries=5, seed=1000)
    found = bm.evaluate(learner, source, episodes=tasks, metrics=METRICS, clusters=source.clusters)
    return {name: list(value) for name, value in found.items()}


def measured(name: str, seed: int) -> dict[str, Any]:
    learner, seconds = trained(name, seed, validate=False)
    row: dict[str, Any] = {"training CPU seconds": seconds, "torch": torch.__version__}
    for shots in SHOTS:
        began = time.process_time()
        row[f"{shots} tiles"] = figures(learner, (20, 29), shots, TASKS)
        row[f"{shots} tiles"]["CPU seconds a task"] = (time.process_time() - began) / TASKS
    return row


def table(results: dict[str, Any]) -> str:
    names = [metric.name for metric in METRICS]
    lines = []
    for shots in SHOTS:
        lines += [f"| {shots} tiles | {' | '.join(names)} | a task |", "|---" * (len(names) + 2) + "|"]
        for name in LEARNERS:
            runs = [results[key][f"{shots} tiles"] for seed in SEEDS if (key := f"{name}; {seed}") in results]
            if runs:
                cells = [f"{statistics.median(run[one][0] for run in runs):.3f}" for one in names]
                seconds = statistics.median(run["CPU seconds a task"] for run in runs)
                lines.append(f"| {name} ({len(runs)}) | {' | '.join(cells)} | {seconds:.1f} s |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="how a learner's name begins, and settings to change; all if none")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on training slices; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    changed = {
        name: float(value) if "." in value else int(value) for name, value in (p.split("=") for p in given.which[1:])
    }
    for name in () if given.table else LEARNERS:
        if not name.startswith(given.which[0] if given.which else ""):
            continue
        for seed in given.seeds:
            if given.validate:
                learner, seconds = trained(name, seed, validate=True, **changed)
                for shots in SHOTS:
                    row = figures(learner, (14, 17), shots, 4)
                    print(
                        name,
                        changed,
                        shots,
                        f"{seconds:.0f} s",
                        {k: round(v[0], 3) for k, v in row.items()},
                        flush=True,
                    )
            elif f"{name}; {seed}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {seed}", measured(name, seed))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
