"""Every learner's meta-update, adaptation and prediction beside those of another checkout, interleaved in one run.

    python benchmarks/cost/against.py ../before          # some minutes; the other checkout's root
    python benchmarks/cost/against.py ../before --rounds 3 MAML DKT

Two processes, each with a checkout of its own, time the learners of `tests/test_contract.py` in turn, a few calls at a time: what
slows the machine slows both. A learner's ratio is the median over rounds of new over old, with a 95 % bootstrap interval; the
networks are small, so that what is compared is above all the library's own work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parents[2]
RESULTS = HERE / "benchmarks" / "results" / "against.json"
KINDS = ("update", "adapt", "predict")
BUDGET = 0.06
"""Seconds of calls a turn."""


def work() -> None:
    """Answers each line, a learner and what to time, with seconds a call: of the checkout that is imported."""
    import torch
    from test_contract import CLASSES, LEARNERS, build, episode

    torch.set_num_threads(1)
    made: dict[str, dict[str, Callable[[], Any]]] = {}

    def make(name: str) -> dict[str, Callable[[], Any]]:
        likelihood = "pictures" if name.startswith("Dense") else "classes" if name in CLASSES else "gaussian"
        learner, given = build(name, likelihood, torch.float32), episode(likelihood, torch.float32)
        posterior = learner(given.support)

        def update() -> None:
            learner.zero_grad()
            learner.loss(given).backward()

        def adapt() -> Any:
            with torch.no_grad():
                return learner(given.support)

        def predict() -> Any:
            with torch.no_grad():
                return posterior(given.query.x)

        return {"update": update, "adapt": adapt, "predict": predict}

    print(json.dumps(list(LEARNERS)), flush=True)
    for line in sys.stdin:
        name, kind, calls = json.loads(line)
        if name not in made:
            made[name] = make(name)
            for call in made[name].values():
                call()
        call = made[name][kind]
        began = time.perf_counter()
        for _ in range(calls):
            call()
        print(json.dumps((time.perf_counter() - began) / calls), flush=True)


class Worker:
    def __init__(self, root: Path) -> None:
        paths = [str(root), str(root / "tests"), str(HERE)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.names: list[str] = json.loads(self.process.stdout.readline())

    def __call__(self, name: str, kind: str, calls: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, kind, calls]) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("names", nargs="*", help="only these learners")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    old, new = Worker(arguments.other.resolve()), Worker(HERE)
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    print("| learner | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for name in [name for name in new.names if name in old.names and name in (arguments.names or new.names)]:
        cells = []
        for kind in KINDS:
            calls = max(1, int(BUDGET / max(old(name, kind, 1), new(name, kind, 1))))
            ratios = []
            for turn in range(arguments.rounds):
                order = [old, new] if turn % 2 else [new, old]
                seconds = {worker: worker(name, kind, calls) for worker in order}
                ratios.append(seconds[new] / seconds[old])
            medians = np.median(random.choice(ratios, (2000, len(ratios))), 1)
            low, high = np.quantile(medians, [0.025, 0.975])
            found[f"{name}; {kind}"] = [float(np.median(ratios)), float(low), float(high), seconds[old]]
            cells.append(f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]" + (" slower" if low > 1 else ""))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for kind in KINDS:
        ratios = [value[0] for key, value in found.items() if key.endswith(kind)]
        print(f"geometric mean, {kind}: {np.exp(np.mean(np.log(ratios))):.3f}")
    print(f"geometric mean of all: {np.exp(np.mean(np.log([value[0] for value in found.values()]))):.3f}")
    if not arguments.names:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()
