"""Kills a checkpointed run of `fit` with SIGKILL at random moments: does it resume, lose little, and end with the same bits?

    python benchmarks/robustness/durability.py            # 50 kills; a minute

ABML on sinusoids, whose every step draws random numbers. Half of the kills come at any moment of a run with a checkpoint every 5
steps; the other half are aimed at the writing of a file, in a run of a larger network that writes one every step. A child says on
a pipe which step it begins, and when a write begins and ends; what is lost is the step it was at less the one that the next child
goes on from. Learner, optimiser, generators and history at the end are compared with those of a child that was never killed.
Children are forked, which saves their imports. This is no power cut: what the system had been given to write, it still writes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import bayesmeta as bm
from bayesmeta.training import checkpoint
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "durability.json"
FILE = "checkpoint.bayesmeta"
STEPS = 150
STEP, WRITING, WRITTEN = b"s", b"w", b"d"


@dataclass
class Setting:
    """A run, and when its children are killed."""

    width: int
    every: int
    aimed: bool


SETTINGS = {"at any moment": Setting(64, 5, False), "aimed at a write": Setting(256, 1, True)}


class Reporting(bm.tasks.Sinusoids):  # type: ignore[misc]
    """Sinusoids that say on a pipe which episode is drawn: the steps before it are finished."""

    pipe = -1

    def __getitem__(self, index: int) -> bm.Episode:
        os.write(self.pipe, STEP + index.to_bytes(4, "little"))
        return super().__getitem__(index)


def start(folder: Path, setting: Setting) -> tuple[int, int]:
    """A child that trains: its process, and the pipe on which it reports in records of 5 bytes."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        Reporting.pipe = writing
        write = checkpoint.write

        def reporting(path: Path, content: Mapping[str, Any]) -> None:
            os.write(writing, WRITING + len(content["losses"]).to_bytes(4, "little"))
            write(path, content)
            os.write(writing, WRITTEN + bytes(4))

        checkpoint.write = reporting
        torch.manual_seed(0)
        width = setting.width
        learner = bm.ABML(bm.networks.MLP(1, 1, hidden=(width, width)), bm.likelihoods.Gaussian(), steps=1)
        try:
            options: dict[str, Any] = {"checkpoint": folder, "checkpoint_every": setting.every, "progress": False}
            bm.fit(learner, Reporting(batch=4), steps=STEPS, **options)
            os._exit(0)
        finally:
            os._exit(1)  # and never into the parent's code
    os.close(writing)
    return child, reading


def record(pipe: int) -> tuple[bytes, int]:
    """The next report; an empty one at the end."""
    given = os.read(pipe, 5)
    return given[:1], int.from_bytes(given[1:], "little")


def finished(folder: Path) -> int:
    """The step that the folder's run would go on from. The file must be whole."""
    path = folder / FILE
    return len(checkpoint.read(path, "checkpoint")["losses"]) if path.exists() else 0


def undisturbed(folder: Path, setting: Setting) -> float:
    """A run that nobody kills: the median seconds of a step, or of a write for kills that are aimed at it."""
    child, pipe = start(folder, setting)
    at, last = time.perf_counter(), b""
    seconds = []
    while kind := record(pipe)[0]:
        now = time.perf_counter()
        if last == (WRITING if setting.aimed else STEP):
            seconds.append(now - at)
        at, last = now, kind
    os.close(pipe)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the run that nobody kills failed")
    return statistics.median(seconds)


def killed(folder: Path, setting: Setting, wait: float, reports: int) -> tuple[bool, int, bool]:
    """Kills a child some time after it has begun so many steps, or writes if they are aimed at.

    Whether it came to that, the step it was at, and whether it was writing.
    """
    child, pipe = start(folder, setting)
    step, kind = 0, b""
    while reports and (report := record(pipe))[0]:
        kind, step = report[0], max(step, report[1])
        reports -= kind == (WRITING if setting.aimed else STEP)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while (report := record(pipe))[0]:
        kind, step = report[0], max(step, report[1])
    os.close(pipe)
    if not os.WIFSIGNALED(status) and status:
        raise SystemExit("a child failed by itself: the run did not resume")
    return os.WIFSIGNALED(status), step, kind == WRITING


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits in all but their time."""
    ends = [checkpoint.read(folder / FILE, "checkpoint") | {"seconds": 0.0} for folder in (one, other)]
    pairs = zip(*map(tree_leaves, ends), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def run(root: Path, setting: Setting, wanted: int, numbers: random.Random) -> dict[str, Any]:
    whole = root / "whole"
    seconds = undisturbed(whole, setting)
    kills = writing = halves = runs = ends = 0
    lost: list[int] = []
    while kills < wanted:
        folder = root / str(runs)
        while kills < wanted and finished(folder) < STEPS:
            before = finished(folder)
            wait, reports = numbers.uniform(0, seconds), numbers.randint(1, 8 if setting.aimed else 16)
            came, step, wrote = killed(folder, setting, wait, reports)
            if not came:
                break
            kills += 1
            writing += wrote
            halves += any(path.suffix == ".new" for path in folder.glob("*"))
            lost.append(max(step, before) - finished(folder))  # an error, if the file is not whole
        undisturbed(folder, setting)
        left = [path.name for path in folder.iterdir()]
        ends += equal(whole, folder) and sorted(left) == [FILE, "lock"]
        runs += 1
    return {
        "kills": kills,
        "at most one interval lost": sum(steps <= setting.every for steps in lost),
        "during a write": writing,
        "half a file left behind, and removed later": halves,
        "runs": runs,
        "ends with the same bits": ends,
        "steps lost": sorted(lost),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a fork takes no other thread along
    bm.fit(
        bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), bm.tasks.Sinusoids(), steps=1, progress=False
    )  # what torch imports on first use
    numbers = random.Random(0)
    rows = []
    for name, setting in SETTINGS.items():
        with tempfile.TemporaryDirectory() as root:
            row = run(Path(root), setting, arguments.kills // len(SETTINGS), numbers)
        keep(arguments.results, f"{name}, every {setting.every}", row)
        print(name, row, flush=True)
        rows.append(row)
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("steps lost", "torch")}
    print(
        f"{total['at most one interval lost']} of {total['kills']} kills lost at most one interval and left a whole file, "
        f"{total['during a write']} of them during a write; {total['ends with the same bits']} of {total['runs']} runs ended "
        "with the bits of a run that was never killed"
    )


if __name__ == "__main__":
    main()
