"""Few-shot detection: boxes of objects and of classes that no learner has seen, from one picture and from five.

Collages: 64 x 64, views of COIL-20's objects among others on parts of CamVid's frames; six objects are held out, as the task's
and as others. Each picture shows its object once. Cells and cards: 727 pictures of blood and of playing cards, stretched to
64 x 64; held out are white blood cells, queens and tens, the last of each kind in the alphabet.

All learners have one network of 139,000 weights and begin as a detector of anything, whose features also tell all training
classes apart. Boxes of held-out classes in training pictures are void. "No adaptation" is that detector, trained for as long as
the others, and "fine-tuning" takes many gradient steps from it on a new task's pictures, by its head. Training takes at most 40
CPU seconds on one thread, drawing tasks included. Settings, and a temperature for each source, were chosen on validation objects
and classes (`--validate`: objects 10 to 13; platelets, kings and aces), which are training ones in the end; the temperature is
that of `ANIL`, and all have it. The test had been looked at once before, with earlier settings: without void boxes, temperatures
and features that tell classes apart.

    python -m benchmarks.accuracy.detection                          # all, from where it was left; then prints tables
    python -m benchmarks.accuracy.detection --validate ANIL inner=0.03  # tries a setting on validation classes

Figures are in benchmarks/results/detection.json; AP50 is pooled over tasks for collages, and the mean over the classes for cells
and cards. NLL is of a picture's grid, of edges in cells; "NLL of sizes" is the same density as one of a centre in cells and a log
width and height, as others have it: less by the mean Σ log (width x height) of the true boxes.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.metrics import NLL, AveragePrecision, DetectionECE, EdgeCoverage
from bayesmeta.tasks import Boxed, Collages, DetectionTasks, TaskSource
from benchmarks.accuracy.detection_start import Centre, Parts, Seen, find_anything
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "detection.json"
OBJECTS, VALIDATION_OBJECTS = list(range(14, 20)), list(range(10, 14))
HELD_OUT, VALIDATION = ["bccd/WBC", "cards/queen", "cards/ten"], ["bccd/Platelets", "cards/king", "cards/ace"]
SHOTS, SEEDS = (5, 1), (0, 1, 2)
METRICS = [AveragePrecision(), NLL(), DetectionECE(), EdgeCoverage()]
NAMES = [metric.name for metric in METRICS]


@cache
def views() -> tuple[Tensor, Tensor]:
    """Of objects, and grounds to paste them on."""
    return bm.tasks.coil20(), bm.tasks.camvid(size=(90, 120)).images.float().mean(1).byte()


@cache
def pictures() -> Boxed:
    return bm.tasks.cells_and_cards(size=(64, 64))


class OfCollages:
    name, channels, episodes, temperature = "collages", 1, 60, 1.3

    def training(self, validate: bool, **shape: Any) -> TaskSource:
        objects, grounds = views()
        out = OBJECTS + VALIDATION_OBJECTS * validate
        known = [c for c in range(20) if c not in out]
        return Collages(objects, grounds[::2], classes=known, varied=0.4, **shape)

    def asked(self, validate: bool, shots: int) -> dict[str, TaskSource]:
        """Sources whose figures are averaged, by what they ask for."""
        objects, grounds = views()
        new = VALIDATION_OBJECTS if validate else OBJECTS
        return {"all": Collages(objects, grounds[1::2], classes=new, shots=shots, queries=5, batch=1, seed=1000)}


class OfCellsAndCards:
    name, channels, episodes, temperature = "cells and cards", 3, 20, 1.7

    def training(self, validate: bool, **shape: Any) -> TaskSource:
        out = HELD_OUT + VALIDATION * validate
        names = pictures().names
        return self._tasks(
            [name for name in names if name not in out], void=[names.index(name) for name in out], **shape
        )

    def asked(self, validate: bool, shots: int) -> dict[str, TaskSource]:
        return {
            name: self._tasks([name], shots=shots, queries=5, batch=1, seed=1000)
            for name in (VALIDATION if validate else HELD_OUT)
        }

    def _tasks(self, names: Sequence[str], **shape: Any) -> TaskSource:
        data = pictures()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of the red cells share a cell of the grid
            return DetectionTasks(
                data.images, data.boxes, data.labels, groups=data.groups,
                classes=[data.names.index(name) for name in names], **shape,
            )  # fmt: skip


SOURCES: dict[str, Any] = {"collages": OfCollages(), "cells and cards": OfCellsAndCards()}


def anil(
    body: nn.Module, head: nn.Module, likelihood: bm.likelihoods.Boxes, adapting: int = 10, inner: float = 0.1
) -> bm.Learner:
    return bm.ANIL(body, head, likelihood, steps=adapting, rate=inner)


def none(*parts: Any) -> bm.Learner:
    return anil(*parts, adapting=0)


def fine_tuning(*parts: Any, adapting: int = 100, inner: float = 0.02) -> bm.Learner:
    return anil(*parts, adapting=adapting, inner=inner)


def maml(
    body: nn.Module, head: nn.Module, likelihood: bm.likelihoods.Boxes, adapting: int = 3, inner: float = 0.003
) -> bm.Learner:
    return bm.FirstOrderMAML(nn.Sequential(body, head), likelihood, steps=adapting, rate=inner)


Make = Callable[..., bm.Learner]
LEARNERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "ANIL": (anil, {"joint": 560, "steps": 100, "rate": 0.003}),
    "longer ANIL": (anil, {"joint": 3900, "steps": 750, "rate": 0.003}),
    "no adaptation": (none, {"joint": 700, "steps": 0}),
    "fine-tuning": (fine_tuning, {"joint": 700, "steps": 0}),
    "first-order MAML": (maml, {"joint": 380, "steps": 60, "rate": 0.003}),
}
OWN = {"joint": 400, "steps": 0, "rate": 0.003, "joint_rate": 0.01, "queries": 4, "batch": 4, "unions": 3}
"""Settings of the training, and not of the learner."""


@cache
def detector(source: Any, seed: int, validate: bool, steps: int, rate: float) -> tuple[Parts, float]:
    """What finds anything, and the CPU seconds of its training."""
    torch.manual_seed(seed)
    parts = Seen(source.channels), Centre(), bm.likelihoods.Boxes()
    began = time.process_time()
    find_anything(parts, source.training(validate, turned=True), steps, rate, seed)
    return parts, time.process_time() - began


def trained(name: str, source: Any, seed: int, validate: bool, **changed: Any) -> tuple[bm.Learner, float]:
    make, given = LEARNERS[name]
    settings = {**OWN, **given, **changed}
    start, seconds = detector(source, seed, validate, settings["joint"], settings["joint_rate"])
    parts = copy.deepcopy(start)
    learner = make(*parts, **{key: value for key, value in settings.items() if key not in OWN})
    began = time.process_time()
    if settings["steps"]:
        with torch.no_grad():
            parts[1].linear.bias.sub_(1.0)  # a task wants one of several kinds
        shape = {key: settings[key] for key in ("queries", "batch", "unions")}
        tasks = source.training(validate, turned=True, seed=seed, **shape)
        descend(learner, tasks, settings["steps"], settings["rate"], seed)
    return bm.Calibrated(learner, source.temperature), seconds + time.process_time() - began


def descend(learner: bm.Learner, tasks: TaskSource, steps: int, rate: float, seed: int) -> None:
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, clip=10.0, seed=seed, progress=False)


def figures(learner: Any, source: Any, validate: bool, shots: int) -> dict[str, Any]:
    """Each metric, the mean over what is asked for, and of AP50 each with its interval over tasks."""
    found, sizes = {}, []
    for name, asked in source.asked(validate, shots).items():
        episodes = round(source.episodes / (2 if validate else 1))
        found[name] = bm.evaluate(
            learner, asked, episodes=episodes, metrics=METRICS, clusters=lambda index: torch.tensor([index])
        )
        sizes += [log_sizes(asked[index].query.y) for index in range(episodes)]
    # Where nothing of a class is found, its detection ECE is NaN, and the mean is over the others.
    values = {m: [v for name in found if not math.isnan(v := found[name][m].value)] for m in NAMES}
    row: dict[str, Any] = {m: statistics.mean(some) if some else None for m, some in values.items()}
    row["NLL of sizes"] = row["NLL"] - statistics.mean(sizes)
    row["AP50, interval"] = {name: list(found[name]["AP50"]) for name in found}
    return row


def measured(learner: Any, source: Any, validate: bool) -> dict[str, Any]:
    return {"torch": torch.__version__} | {
        f"{shots}-shot": figures(learner, source, validate, shots) for shots in SHOTS
    }


def log_sizes(y: Tensor) -> float:
    """The mean over pictures of Σ log (width x height) of their boxes, in cells."""
    wide, high = y[..., 3] - y[..., 1], y[..., 4] - y[..., 2]
    return float((wide * high).clamp(min=1e-6).log().masked_fill(y[..., 0] == 0, 0.0).sum((-2, -1)).mean())


def table(results: dict[str, Any]) -> str:
    lines = []
    columns = ["AP50", "NLL", "NLL of sizes", *NAMES[2:]]
    for source in SOURCES:
        for shots in SHOTS:
            lines += [
                f"| {source}, {shots}-shot | {' | '.join(columns)} | interval of AP50 | training |",
                "|---" * (len(columns) + 3) + "|",
            ]
            for name in LEARNERS:
                runs = [results[key] for seed in SEEDS if (key := f"{source}; {name}; {seed}") in results]
                if runs:
                    cells = [_median([run[f"{shots}-shot"][c] for run in runs]) for c in columns]
                    middle = sorted(runs, key=lambda run: run[f"{shots}-shot"]["AP50"])[len(runs) // 2]
                    spans = [
                        f"{low:.2f} to {high:.2f}"
                        for _, low, high in middle[f"{shots}-shot"]["AP50, interval"].values()
                    ]
                    seconds = statistics.median(run["training CPU seconds"] for run in runs)
                    lines.append(
                        f"| {name} ({len(runs)}) | {' | '.join(cells)} | {', '.join(spans)} | {seconds:.0f} s |"
                    )
            lines.append("")
    return "\n".join(lines)


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.3f}" if known else "none"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="how a learner's name begins, and settings to change; all if none")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--source", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation classes; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = [name for name in LEARNERS if name.startswith(given.which[0] if given.which else "")]
    changed = {name: _value(value) for name, value in (pair.split("=") for pair in given.which[1:])}
    for source in [] if given.table else [SOURCES[name] for name in given.source]:
        for name in chosen:
            for seed in given.seeds:
                key = f"{source.name}; {name}; {seed}"
                if given.validate or key not in load(RESULTS):
                    learner, seconds = trained(name, source, seed, given.validate, **changed)
                    row = {"training CPU seconds": seconds, **measured(learner, source, given.validate)}
                    print(key, changed, row, flush=True) if given.validate else keep(RESULTS, key, row)
    if not given.validate:
        print(table(load(RESULTS)))


def _value(text: str) -> Any:
    try:
        return float(text) if set(text) & set(".e") else int(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
