"""Few-shot classification of Omniglot characters that no learner has seen, in accuracy and calibration.

    python benchmarks/omniglot.py                 # every run that is not yet kept, one core
    python benchmarks/omniglot.py "MAML; batch"   # only runs whose names hold this text: two programs may share the work
    python benchmarks/omniglot.py --table         # prints what is there

Characters are split as in Vinyals et al. 2016; training characters turned by quarter turns are further classes. Tests are on
600 tasks of 5 classes with 15 queries each, of characters as they are; the temperature is fitted on 400 tasks of validation
characters. Conv4 has 32 channels here; the papers' has 64. "group" normalises each image by itself (inductive); "batch" uses
the statistics of the support, and of all queries of a call together (transductive), as most papers do. Finished runs are kept in
results/omniglot.json.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from store import keep, load

import bayesmeta as bm

RESULTS = Path(__file__).parent / "results" / "omniglot.json"
WIDTH, WAYS = 32, 5
METRICS: list[bm.Metric] = [bm.Accuracy(), bm.NLL(), bm.ECE()]
NORMS = {"group": bm.GroupNorm, "batch": bm.BatchNorm}


@dataclass(frozen=True)
class Run:
    """A learner, and how it is meta-trained."""

    build: Callable[[bm.Conv4], bm.Learner]
    steps: int
    ways: int = WAYS
    batch: int = 4
    norms: tuple[str, ...] = ("group", "batch")


def versa(network: bm.Conv4) -> bm.Learner:
    size = network.head.in_features
    return bm.VERSA(bm.ClassPooling(size, WAYS, features=network.features), WAYS, bm.Categorical())


LEARNERS = {
    "prototypical networks": Run(lambda n: bm.PrototypicalNetwork(n.features, 20), 3000, ways=20, batch=2),
    "MAML": Run(lambda n: bm.MAML(n, bm.Categorical(), steps=1, rate=0.4), 1500),
    "ANIL": Run(lambda n: bm.ANIL(n.features, n.head, bm.Categorical(), steps=5, rate=0.1), 2000, norms=("group",)),
    "VERSA": Run(versa, 2000, norms=("group",)),
}
RUNS = {f"{name}; {norm}": (run, norm) for name, run in LEARNERS.items() for norm in run.norms}


def measure(learner: bm.Learner, validation: bm.TaskSource, test: bm.TaskSource) -> dict[str, Any]:
    calibrated = bm.Calibrated(learner, validation, episodes=20)
    found = {
        label: {key: tuple(value) for key, value in bm.evaluate(one, test, episodes=30, metrics=METRICS).items()}
        for label, one in (("raw", learner), ("calibrated", calibrated))
    }
    return {**found, "temperature": calibrated.temperature.item()}


def measured(name: str) -> dict[str, Any]:
    setting, norm = RUNS[name]
    torch.manual_seed(0)
    learner = setting.build(bm.Conv4(outputs=WAYS, width=WIDTH, norm=NORMS[norm]))
    train = bm.Omniglot(split="train", ways=setting.ways, shots=1, queries=5, batch=setting.batch)
    began = time.perf_counter()
    bm.fit(learner, train, steps=setting.steps)
    seconds = time.perf_counter() - began
    result: dict[str, Any] = {"seconds": seconds, "steps": setting.steps, "width": WIDTH, "torch": torch.__version__}
    for ways in (WAYS, 20) if isinstance(learner, bm.PrototypicalNetwork) else (WAYS,):
        for shots in (1, 5):
            if isinstance(learner, bm.PrototypicalNetwork):
                learner.classes = ways  # its features serve any number of classes
            validation, test = (
                bm.Omniglot(split=split, ways=ways, shots=shots, queries=15, batch=20, seed=1)  # type: ignore[arg-type]
                for split in ("validation", "test")
            )
            result[f"{ways}-way {shots}-shot"] = measure(learner, validation, test)
    return {**result, "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def table(results: dict[str, Any]) -> str:
    columns = "accuracy % | NLL | ECE | NLL, calibrated | ECE, calibrated | minutes to train | peak MiB"
    lines = [f"| learner | normalisation | task | {columns} |", "|---" * 10 + "|"]
    for name, row in results.items():
        for task in (key for key in row if key.endswith("-shot")):
            raw, calibrated = row[task]["raw"], row[task]["calibrated"]
            accuracy, low, high = (100 * value for value in raw["Accuracy"])
            cells = [f"{accuracy:.1f} ({low:.1f} to {high:.1f})"]
            cells += [f"{kind[key][0]:.3f}" for kind in (raw, calibrated) for key in ("NLL", "ECE")]
            lines.append(
                f"| {' | '.join(name.split('; '))} | {task} | {' | '.join(cells)} | {row['seconds'] / 60:.1f} "
                f"| {row['peak MiB']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="text in the names of the runs to make")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in RUNS:
        if not arguments.table and arguments.only in name and name not in load(RESULTS):
            print(name, flush=True)
            keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
