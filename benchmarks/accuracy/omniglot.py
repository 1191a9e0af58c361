"""Few-shot classification of Omniglot characters that no learner has seen, in accuracy, calibration and doubt.

    python benchmarks/accuracy/omniglot.py                      # every learner that is not yet trained and measured, one core
    python benchmarks/accuracy/omniglot.py VERSA "MAML; batch"   # only those whose names begin so: programs may share the work
    python benchmarks/accuracy/omniglot.py --papers "MAML; batch" # the papers': 64 channels, 60,000 steps of 32 tasks
    python benchmarks/accuracy/omniglot.py --sampler            # what drawing an episode costs beside a step
    python benchmarks/accuracy/omniglot.py --table              # writes the tables of what is there into docs/results.md

Characters are split as in Vinyals et al. 2016; training characters turned by quarter turns are further classes. All learners
share the same network, Conv4 of 32 channels, and the same episodes. "group" normalises each image by itself (inductive);
"batch" uses the statistics of the support, and of all queries of a call together (transductive), as most papers do. Tests are on
600 tasks with 15 queries a class, of characters as they are; the temperature is fitted on 200 tasks of validation characters.

Slow learners start from the features of prototypical networks (3,000 steps) and a head of zeros; that time is counted as theirs.

Runs go to the folder weights/ beside this file, a folder each, and each measurement to results/omniglot.json, so that a program
that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gpytorch
import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta.posteriors import Transformed
from benchmarks.accuracy.omniglot_learners import RUNS, START, Run, as_in_papers, network
from benchmarks.accuracy.omniglot_tables import table
from benchmarks.accuracy.omniglot_tests import measure, one_shot, strangers
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "omniglot.json", HERE / "weights"
DOCS, MARKS = HERE.parent / "docs" / "results.md", ("<!-- omniglot.py -->", "<!-- end of omniglot.py -->")
SEED = 0  # of the training


class FewerDraws(Transformed):
    """A posterior whose predictions and decompositions average so many draws, where memory holds no more."""

    def __init__(self, inner: bm.Posterior, draws: int) -> None:
        super().__init__(inner, inner.support, lambda x: x)
        self.draws = draws

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return super()._predictive(x, samples or self.draws)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        return super()._decompose(x, min(samples, self.draws))


def trained(name: str, run: Run, folder: Path) -> tuple[bm.Learner, dict[str, Any]]:
    """The learner as its folder has it, where it is trained if need be, and how it was trained."""
    torch.manual_seed(SEED)
    body, seconds = network(run), 0.0
    if run.start:
        other, how = trained(f"start; {run.norm}", replace(START, norm=run.norm, width=run.width), folder)
        body.features.load_state_dict(other.features.state_dict())  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(body.head.weight)
        nn.init.zeros_(body.head.bias)
        seconds = how["seconds"]
    learner = run.build(body)

    if run.draws is not None:
        learner.register_forward_hook(lambda _learner, _support, posterior: FewerDraws(posterior, run.draws))
    place = folder / name.replace("; ", " ")
    weights, note = place / "learner.bayesmeta", place / "training.json"
    settings = {key: value for key, value in asdict(run).items() if key not in ("build", "tests", "draws")}
    if note.exists():
        how = json.loads(note.read_text())
        if any(how[key] != value for key, value in settings.items()):
            raise SystemExit(f"{place} holds a run of other settings: delete it, and the row {name!r} of the results")
        bm.load(weights, learner)
        return learner, how
    tasks = bm.tasks.Omniglot(split=run.split, ways=run.ways, shots=1, queries=run.queries, batch=run.batch)
    optimizer = torch.optim.Adam(learner.parameters(), lr=run.rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
    history = bm.fit(
        learner, tasks, steps=run.steps, optimizer=optimizer, scheduler=scheduler, seed=SEED, checkpoint=place
    )
    if history.interrupted:
        raise KeyboardInterrupt
    bm.save(learner, weights)
    how = {
        **settings,
        "seed": SEED,
        "seconds": seconds + history.seconds,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, pyro, gpytorch, bm)},
    }
    note.write_text(json.dumps(how))
    return learner, how


def write(text: str) -> None:
    """Puts the tables between their two marks in docs/results.md."""
    page = DOCS.read_text()
    before, rest = page.split(MARKS[0])
    DOCS.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def sampler() -> str:
    """What drawing an episode costs beside a training step on it, in milliseconds."""
    lines = ["| learner | drawing an episode | a step |", "|---|---|---|"]
    for name in ("MAML; group", "prototypical networks; group", "VERSA; group"):
        run = RUNS[name]
        tasks = bm.tasks.Omniglot(ways=run.ways, shots=1, queries=run.queries, batch=run.batch)
        learner = run.build(network(run))
        bm.fit(learner, tasks, steps=3, progress=False)
        began = time.perf_counter()
        episodes = [tasks[index] for index in range(60)]
        drawing = time.perf_counter() - began
        step = bm.fit(learner, episodes, steps=60, progress=False).seconds
        lines.append(f"| {name.split('; ')[0]} | {1e3 * drawing / 60:.1f} ms | {1e3 * step / 60:.0f} ms |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "only", nargs="*", default=[""], help="how the names of the learners to train and measure begin"
    )
    parser.add_argument(
        "--papers", action="store_true", help="the papers' setting, with results and weights of its own"
    )
    parser.add_argument("--train", action="store_true", help="only train, and measure later")
    parser.add_argument("--table", action="store_true", help="write the tables of what is there into docs/results.md")
    parser.add_argument("--sampler", action="store_true", help="time the drawing of episodes")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if given.sampler:
        print(sampler())
        return
    results, weights = (
        (RESULTS.with_stem("omniglot_papers"), WEIGHTS / "papers") if given.papers else (RESULTS, WEIGHTS)
    )
    chosen = {name: run for name, run in RUNS.items() if name.startswith(tuple(given.only)) and not given.table}
    for name, run in chosen.items():
        print(name, flush=True)
        learner, how = trained(name, as_in_papers(run) if given.papers else run, weights)
        if given.train:
            continue
        tests = {f"{ways}-way {shots}-shot": (measure, ways, shots) for ways, shots in run.tests}
        if (5, 1) in run.tests and run.norm == "group":
            tests["strangers"] = (strangers,)
        if run.split == "background":
            tests["one-shot runs"] = (one_shot,)
        for test, (function, *arguments) in tests.items():
            row = load(results).get(name, how)
            if test not in row:
                keep(results, name, {**row, test: function(learner, *arguments)})
    if given.table:
        write(table(load(results)))
    print(table(load(results)))


if __name__ == "__main__":
    main()
