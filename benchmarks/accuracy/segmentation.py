"""Few-shot segmentation of CamVid: classes and a drive that no learner has seen, in overlap, calibration and doubt.

    BAYESMETA_DATA=... python benchmarks/accuracy/segmentation.py                     # all learners, three seeds
    BAYESMETA_DATA=... python benchmarks/accuracy/segmentation.py "ANIL" --seeds 0    # one, where several run at a time
    BAYESMETA_DATA=... python benchmarks/accuracy/segmentation.py --validate "Laplace" rate=0.01
    BAYESMETA_DATA=... python benchmarks/accuracy/segmentation.py --table             # prints what is there

Pictures are 48 x 64. Tree, Car and Pavement are held out, and the drive Seq05VD, from which all test tasks are: 1 or 5 pictures
with their masks, and 5 others, all of which show the class on 1 % of their pixels. Of each class and number of shots 12 tasks are
asked. IoU is that of a task's pictures together, then the mean over tasks and classes, of the masks of the largest expected Dice
(`bayesmeta.metrics.best_mask`), or of the likeliest labels. Known classes are those of training, in the held-out drive, but for
Bicyclist and Pedestrian, which too few frames show. Held-out classes have no label in training: they are void there.

One thread. All learners that are trained take at most 60 CPU seconds; settings were chosen by `--validate`: trained without
Building, Fence and SignSymbol and without the drive 0006R0, and asked about those. The test was looked at once before, with
evidence of 0.05 and 2,000 pixels (IoU .310 of simple features, .287 of both, .225 of the U-Net's); then these two numbers were
chosen anew by `--validate`, and so were those of ANIL after 5 steps of 0.5 (IoU .182). Finished runs are in
results/segmentation.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.distributions import class_probabilities
from bayesmeta.metrics import AURC, ECE, NLL, Edges, IoU
from bayesmeta.tasks import Masks, SegmentationTasks
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "segmentation.json"
VOID = 11
HELD_OUT, DRIVE = ["Tree", "Car", "Pavement"], "Seq05VD"
VALIDATION, VALIDATION_DRIVE = ["Building", "Fence", "SignSymbol"], "0006R0"
SHOTS, TASKS, QUERIES, SEEDS = (1, 5), 12, 5, (0, 1, 2)
METRICS = [IoU(), IoU("likeliest"), NLL(), ECE(), AURC(), Edges(ECE()), Edges(ECE(), far=True)]
DOUBTS = ("error", "error of the surest 80 %", "epistemic")


class HandFeatures(nn.Module):
    """57 numbers of each pixel: colours, blurred and sharp, their slopes and spread around it, their products, and its place."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, size).to(x) for size in x.shape[2:])
        place = torch.stack([rows[:, None].expand(x.shape[2:]), columns.expand(x.shape[2:])])
        place = torch.cat([place, place.square(), place[:1] * place[1:]]).expand(len(x), -1, -1, -1)
        maps, level = [place], 4 * x - 2
        for reach in (0, 1, 2, 4):
            side = 2 * reach + 1
            blurred = _mean(level, side)
            slopes = [blurred.roll(1, axis) - blurred.roll(-1, axis) for axis in (2, 3)]
            maps += [blurred, *(2 * slope for slope in slopes)]
            if reach:
                maps.append((_mean(level.square(), side) - blurred.square()).clamp(min=1e-6).sqrt())
        red, green, blue = level.unbind(1)
        maps.append(torch.stack([red - green, green - blue, red * green, green * blue, *level.square().unbind(1)], 1))
        return torch.cat(maps, 1)


def _mean(maps: Tensor, side: int) -> Tensor:
    padded = F.pad(maps, [side // 2] * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)


class LearnedNumbers(nn.Module):
    """The 57 numbers and some of what is farther around a pixel, and learned functions of them, random ones at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.given, self.learned = HandFeatures(), nn.Conv2d(57 + 18, width, 1)
        nn.init.normal_(self.learned.weight, std=75**-0.5)
        nn.init.uniform_(self.learned.bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps, level = [self.given(x)], 4 * x - 2
        for side in (17, 33):
            blurred = _mean(level, side)
            maps += [blurred, (_mean(level.square(), side) - blurred.square()).clamp(min=1e-6).sqrt()]
        maps += [level.mean((2, 3), keepdim=True).expand_as(level), level.mean(3, keepdim=True).expand_as(level)]
        given = torch.cat(maps, 1)
        return torch.cat([self.learned(given).tanh(), given], 1)


def unet(**settings: Any) -> bm.networks.UNet:
    return bm.networks.UNet(3, 2, **settings)


def laplace(features: nn.Module, size: int, evidence: float, pixels: int) -> bm.Learner:
    """A head on numbers of each pixel."""
    head = bm.LaplaceHead(nn.Identity(), nn.Linear(size, 1), bm.likelihoods.Bernoulli(), evidence=evidence)
    return bm.Dense(features, head, pixels=pixels)


def laplace_unet(evidence: float = 0.5, pixels: int = 4000) -> bm.Learner:
    return laplace(unet().features, 16, evidence, pixels)


class Both(nn.Module):
    """What a U-Net learns of a pixel, beside the 57 numbers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.learned, self.given = unet(**settings).features, HandFeatures()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.learned(x), self.given(x)], 1)


def laplace_both(evidence: float = 0.5, pixels: int = 4000) -> bm.Learner:
    return laplace(Both(), 16 + 57, evidence, pixels)


def laplace_hand(evidence: float = 0.5, pixels: int = 4000) -> bm.Learner:
    return laplace(HandFeatures(), 57, evidence, pixels)


def laplace_learned(evidence: float = 0.5, pixels: int = 4000, width: int = 64) -> bm.Learner:
    return laplace(LearnedNumbers(width), width + 75, evidence, pixels)


def anil(adapting: int = 20, inner: float = 1.0) -> bm.Learner:
    network = unet()
    likelihood = bm.likelihoods.Categorical(event_dims=2, classes_first=True)
    return bm.ANIL(network.features, network.head, likelihood, steps=adapting, rate=inner)


def maml(adapting: int = 5, inner: float = 0.5) -> bm.Learner:
    likelihood = bm.likelihoods.Categorical(event_dims=2, classes_first=True)
    return bm.FirstOrderMAML(unet(), likelihood, steps=adapting, rate=inner)


def prototypes() -> bm.Learner:
    return bm.Dense(unet().features, bm.PrototypicalNetwork(nn.Identity(), classes=2))


Make = Callable[..., bm.Learner]
LEARNERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "Laplace head on a U-Net": (laplace_unet, {"steps": 420, "rate": 0.003}),
    "Laplace head on learned numbers": (laplace_learned, {"steps": 180, "rate": 0.01}),
    "Laplace head on both": (laplace_both, {"steps": 320, "rate": 0.005}),
    "Laplace head on 57 hand features": (laplace_hand, {"steps": 300, "rate": 0.02}),
    "prototypes on a U-Net": (prototypes, {"steps": 500, "rate": 0.003}),
    "ANIL on a U-Net": (anil, {"steps": 400, "rate": 0.003}),
    "first-order MAML on a U-Net": (maml, {"steps": 200, "rate": 0.003}),
}
OWN = ("steps", "rate", "queries", "unions", "batch", "known")
"""Settings of the training, and not of the learner."""


@cache
def pictures() -> Masks:
    return bm.tasks.camvid(size=(48, 64))


def training(
    validate: bool, seed: int, queries: int = 3, unions: int = 2, batch: int = 1, known: int = 0
) -> SegmentationTasks:
    data = pictures()
    out = [data.names.index(name) for name in HELD_OUT + VALIDATION * validate]
    classes = [c for c in range(VOID) if c not in out]
    masks = data.masks if known else data.masks.masked_fill(torch.isin(data.masks, torch.tensor(out)), VOID)
    drives = sorted({*data.groups} - {DRIVE, *([VALIDATION_DRIVE] if validate else [])})
    return SegmentationTasks(
        data.images, masks, void=VOID, classes=classes, groups=data.groups, subset=drives, unions=unions,
        shots=5, queries=queries, batch=batch, seed=seed,
    )  # fmt: skip


def asked(name: str, drive: str, shots: int) -> SegmentationTasks:
    data = pictures()
    return SegmentationTasks(
        data.images, data.masks, void=VOID, classes=[data.names.index(name)], groups=data.groups, subset=[drive],
        shots=shots, queries=QUERIES, batch=1, seed=1000,
    )  # fmt: skip


def figures(learner: Any, names: Sequence[str], drive: str, shots: int, tasks: int = TASKS) -> dict[str, Any]:
    """Each metric as the mean over classes, and of IoU each class's."""
    found, doubts = {}, []
    for name in names:
        source = asked(name, drive, shots)
        found[name] = bm.evaluate(
            learner, source, episodes=tasks, metrics=METRICS, clusters=lambda index: torch.tensor([index])
        )
        doubts.append(risk(learner, source, min(tasks, 4)))
    row: dict[str, Any] = {m.name: statistics.mean(found[name][m.name].value for name in names) for m in METRICS}
    row["by class"] = {name: list(found[name]["IoU"]) for name in names}
    row |= zip(DOUBTS, torch.tensor(doubts).mean(0).tolist(), strict=True)
    return row


def risk(learner: Any, source: SegmentationTasks, tasks: int) -> tuple[float, float, float]:
    """The error rate of all pixels, and of the 80 % of least doubt, and the mean epistemic part of the doubt, in nats."""
    sure, right, epistemic = [], [], []
    for index in range(tasks):
        episode = source[index]
        with torch.no_grad():
            posterior = learner(episode.support)
            p, label = class_probabilities(posterior(episode.query.x)).max(-1)
            epistemic.append(posterior.decompose(episode.query.x, 64).epistemic.mean())
        sure.append(p[episode.query.mask])
        right.append((label == episode.query.y)[episode.query.mask])
    share, error = bm.metrics.risk_coverage(torch.cat(sure), torch.cat(right))
    return float(error[-1]), float(error[(share <= 0.8).sum() - 1]), float(torch.stack(epistemic).mean())


def trained(name: str, seed: int, validate: bool, **changed: Any) -> tuple[bm.Learner, float]:
    make, given = LEARNERS[name]
    settings = {**given, **changed}
    torch.manual_seed(seed)
    learner = make(**{key: value for key, value in settings.items() if key not in OWN})
    steps, rate = settings["steps"], settings["rate"]
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    tasks = training(validate, seed, **{k: v for k, v in settings.items() if k in OWN[2:]})
    began = time.process_time()
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)
    return learner, time.process_time() - began


def measured(name: str, seed: int) -> dict[str, Any]:
    learner, seconds = trained(name, seed, validate=False)
    data = pictures()
    known = [one for one in data.names[:VOID] if one not in HELD_OUT and one not in ("Bicyclist", "Pedestrian")]
    began = time.process_time()
    row: dict[str, Any] = {"training CPU seconds": seconds, "torch": torch.__version__}
    for shots in SHOTS:
        row[f"new classes, {shots}-shot"] = figures(learner, HELD_OUT, DRIVE, shots)
    row["known classes, 5-shot"] = figures(learner, known, DRIVE, 5, tasks=5)
    row["testing CPU seconds"] = time.process_time() - began
    if isinstance(learner, bm.ANIL):
        network = nn.Sequential(learner.features, learner.head)
        others = {"no adaptation": 0, "fine-tuning": 10}  # descent of all weights, from where ANIL's descent starts
        for other, adapting in others.items():
            tuned = bm.MAML(network, learner.likelihood, steps=adapting, rate=0.5)
            row[other] = {"new classes, 5-shot": figures(tuned, HELD_OUT, DRIVE, 5, tasks=8)}
            if not adapting:
                row[other]["known classes, 5-shot"] = figures(tuned, known, DRIVE, 5, tasks=5)
    return row


def table(results: dict[str, Any]) -> str:
    names = [metric.name for metric in METRICS] + [*DOUBTS]
    lines = []
    for test in ("new classes, 5-shot", "new classes, 1-shot", "known classes, 5-shot"):
        lines += [f"| {test} | {' | '.join(names)} | training |", "|---" * (len(names) + 2) + "|"]
        rows = {name: [results[key] for seed in SEEDS if (key := f"{name}; {seed}") in results] for name in LEARNERS}
        for other in ("no adaptation", "fine-tuning"):  # from ANIL's start
            rows[other] = [
                {**run[other], "training CPU seconds": run["training CPU seconds"]} for run in rows["ANIL on a U-Net"]
            ]
        for name, runs in rows.items():
            runs = [run for run in runs if test in run]
            if runs:
                cells = [f"{statistics.median(run[test].get(one, torch.nan) for run in runs):.3f}" for one in names]
                seconds = statistics.median(run["training CPU seconds"] for run in runs)
                lines.append(f"| {name} ({len(runs)}) | {' | '.join(cells)} | {seconds:.0f} s |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="how a learner's name begins, and settings to change; all if none")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation classes and drive; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = [name for name in LEARNERS if name.startswith(given.which[0] if given.which else "")]
    changed = {
        name: float(value) if set(value) & set(".e") else int(value)
        for name, value in (pair.split("=") for pair in given.which[1:])
    }
    for name in () if given.table else chosen:
        for seed in given.seeds:
            if given.validate:
                learner, seconds = trained(name, seed, validate=True, **changed)
                row = figures(learner, VALIDATION, VALIDATION_DRIVE, 5, tasks=8)
                shown = {key: row[key] for key in ("IoU", "NLL", "ECE", "by class")}
                print(name, changed, f"{seconds:.0f} s", shown, flush=True)
            elif f"{name}; {seed}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {seed}", measured(name, seed))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
