"""Which learner for my data? 26 families of real tasks with few measurements each, beside what one would otherwise use.

    python benchmarks/accuracy/longitudinal.py                    # all of it; about half an hour on two cores
    python benchmarks/accuracy/longitudinal.py --families sitka   # some families; two calls may run side by side
    python benchmarks/accuracy/longitudinal.py --table            # prints what is there, draws docs/longitudinal_ranks.png

Three tenths of the tasks are held out for the test, anew for each of 3 seeds. The others are cut into 3 folds: a learner is
trained 3 times, on 3 to 5 shots, each time validated on another fold (in 3 rounds, of which the state with the lowest
validation NLL is kept), and what is tested is the `Ensemble` of the three. The baselines learn from all tasks that are not
held out. The test has 3 and 5 points a task (fewer where the family's shortest task would have none left to ask for), over 4
divisions of each test task, the same for all. Figures pool the test tasks of all seeds; intervals are bootstraps over tasks.
The learner that stands for the library in the comparison is chosen by its validation NLL over the folds, which no test task of
that seed has entered: one learner for all families, by mean rank, and one for each family. Every finished run is kept in
results/longitudinal.json.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayesmeta as bm
from bayesmeta.evaluation import Predictor
from bayesmeta.metrics import bootstrap
from bayesmeta.plots.comparison import average_ranks
from bayesmeta.tasks.longitudinal import FAMILIES
from benchmarks.accuracy.baselines import BASELINES
from benchmarks.accuracy.longitudinal_learners import LEARNERS
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "longitudinal.json"
PICTURE = Path(__file__).parents[2] / "docs" / "longitudinal_ranks.png"
SEEDS, SHOTS, DIVISIONS, FOLDS, ROUNDS, BATCH = 3, (3, 5), 4, 3, 3, 16
QUERIES = 32
"""Of a training task at most: exact Gaussian processes grow with the cube of the points."""
METRICS: list[bm.metrics.Metric] = [bm.metrics.NLL(), bm.metrics.RMSE(), bm.metrics.CRPS(), bm.metrics.Coverage(0.9)]


NAMES = [*LEARNERS, *BASELINES]


class Split:
    """A family's tasks: those held out for the test, and the folds of the others."""

    def __init__(self, family: str, seed: int) -> None:
        self.everything = bm.tasks.Longitudinal(family, split="all")
        count = len(self.everything.names)
        self.seed, self.fewest = seed, int(self.everything.points.mask.sum(1).min())
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        held = max(1, round(0.3 * count))
        self.test, self.others = order[:held], order[held:]
        self.folds = [self.others[fold::FOLDS] for fold in range(FOLDS)]

    def tasks(
        self, chosen: Tensor, shots: int | tuple[int, int], batch: int | None = None, queries: int | None = None
    ) -> bm.tasks.ArrayTasks:
        given = bm.Points(*(leaf[chosen] for leaf in self.everything.points))
        names = [self.everything.names[i] for i in chosen.tolist()]
        return bm.tasks.ArrayTasks(given, names, shots=shots, batch=batch, queries=queries, seed=self.seed)

    def figures(self, predictor: Predictor, chosen: Tensor) -> dict[str, dict[str, Any]]:
        """The statistics of each chosen task, summed over divisions, by shots and metric."""
        rows: dict[str, dict[str, Any]] = {}
        for shots in SHOTS:
            tasks = self.tasks(chosen, min(shots, self.fewest - 1))
            statistics: dict[str, Tensor] = {}
            for division in range(DIVISIONS):
                support, query = tasks[division]
                with torch.no_grad():
                    predictive = predictor(support)(query.x)
                for metric in METRICS:
                    row = metric.statistic(predictive, query)
                    statistics[metric.name] = statistics[metric.name] + row if division else row
            rows[str(shots)] = {name: row.tolist() for name, row in statistics.items()}
        return rows

    def nll(self, predictor: Predictor, chosen: Tensor) -> Tensor:
        """Sum and count of the NLL over the chosen tasks."""
        return torch.tensor([row for shots in self.figures(predictor, chosen).values() for row in shots["NLL"]]).sum(0)


def train(name: str, split: Split) -> tuple[bm.Ensemble, float]:
    """The ensemble over the folds, and the validation NLL of its members."""
    members, total = [], torch.zeros(2)
    for fold, validation in enumerate(split.folds):
        others = torch.cat([part for place, part in enumerate(split.folds) if place != fold])
        whole = split.tasks(others, SHOTS)
        torch.manual_seed(split.seed)
        build, steps, rate = LEARNERS[name]
        learner = bm.Standardized.from_tasks(build(whole.points.x.shape[-1], len(others)), whole)
        episodes = split.tasks(others, SHOTS, min(BATCH, len(others)), QUERIES)
        best, state = torch.tensor([float("inf"), 1.0]), learner.state_dict()
        for round_ in range(ROUNDS):
            optimizer = Adam(learner.parameters(), rate)
            bm.fit(
                learner,
                episodes,
                steps=steps,
                optimizer=optimizer,
                scheduler=CosineAnnealingLR(optimizer, steps),
                seed=split.seed + round_,
                progress=False,
            )
            found = split.nll(learner, validation)
            if found[0] < best[0]:
                best, state = found, deepcopy(learner.state_dict())
        learner.load_state_dict(state)
        members.append(learner)
        total += best
    return bm.Ensemble(members), float(total[0] / total[1])


def run(name: str, family: str, seed: int) -> dict[str, Any]:
    began, split = time.perf_counter(), Split(family, seed)
    if name in LEARNERS:
        predictor, validation = train(name, split)
        found = {"seconds": time.perf_counter() - began, "validation": validation}
    else:
        predictor = BASELINES[name](split.tasks(split.others, SHOTS))
        found = {"seconds": time.perf_counter() - began}
    return found | {"test": split.figures(predictor, split.test)}


def pooled(runs: list[Any]) -> dict[str, bm.metrics.Estimate] | None:
    """The metrics over the test tasks of all seeds and both numbers of shots, if all runs are there and none failed."""
    if not all(isinstance(row, dict) for row in runs):
        return None
    found = {}
    for metric in METRICS:
        rows = [torch.tensor([row["test"][str(shots)][metric.name] for shots in SHOTS]).sum(0) for row in runs]
        found[metric.name] = bootstrap(metric, torch.cat(rows))
    return found


def choices(results: dict[str, Any], families: list[str]) -> dict[str, Any]:
    """Which learner stands for the library, for each family and seed: one for all families of a seed, or one for each.

    By the NLL on the validation folds of that seed alone: the lowest mean rank over families, and the lowest.
    """

    def ranks(family: str, seed: int) -> dict[str, float]:
        validation = [results[f"{name}; {family}; {seed}"]["validation"] for name in LEARNERS]
        return dict(zip(LEARNERS, average_ranks(validation).tolist(), strict=True))

    every = {(family, seed): ranks(family, seed) for family in families for seed in range(SEEDS)}
    each = {place: min(row, key=lambda name: row[name]) for place, row in every.items()}
    best = [min(LEARNERS, key=lambda name: sum(every[f, seed][name] for f in families)) for seed in range(SEEDS)]
    return {
        "one learner for all families": {(family, seed): best[seed] for family, seed in every},
        "one for each family": each,
    }


def table(results: dict[str, Any]) -> str:
    runs = {(n, f): [results.get(f"{n}; {f}; {seed}") for seed in range(SEEDS)] for n in NAMES for f in FAMILIES}
    families = [f for f in FAMILIES if all(isinstance(run, dict) for n in NAMES for run in runs[n, f])]
    rows = {(name, family): pooled(runs[name, family]) for name in NAMES for family in families}
    if not families:
        return "no family is finished"

    def nll(found: Any) -> float:
        value: float = found["NLL"].value
        return value

    lines: list[str] = []
    for how, chosen in choices(results, families).items():
        lines += [
            f"\n{how.capitalize()}, chosen on validation tasks:\n",
            "| family | learner, by seed | its NLL | best baseline | its NLL | coverage | lower than every baseline |",
            "|---" * 7 + "|",
        ]
        beaten = covered = 0
        for family in families:
            names = [chosen[family, seed] for seed in range(SEEDS)]
            mine: Any = pooled([runs[name, family][seed] for seed, name in enumerate(names)])
            best = min(BASELINES, key=lambda name: nll(rows[name, family]))
            lower, coverage = nll(mine) < nll(rows[best, family]), mine["90% coverage"].value
            beaten, covered = beaten + lower, covered + (0.85 <= coverage <= 0.95)
            lines.append(
                f"| {family} | {'; '.join(dict.fromkeys(names))} | {nll(mine):.3f} | {best} "
                f"| {nll(rows[best, family]):.3f} | {coverage:.3f} | {'yes' if lower else 'no'} |"
            )
        lines.append(
            f"\nLower NLL than every baseline: {beaten} of {len(families)}. Coverage within 0.85 to 0.95: {covered} of "
            f"{len(families)}."
        )
    scores = {name: [nll(rows[name, family]) for family in families] for name in NAMES}
    places = torch.as_tensor(average_ranks(list(scores.values())))
    lines += ["\n| | mean rank by NLL | families won | seconds to train, median |", "|---|---|---|---|"]
    for index in places.mean(1).argsort().tolist():
        name, mine = NAMES[index], places[index]
        times = torch.tensor([run["seconds"] for family in families for run in runs[name, family]])
        lines.append(f"| {name} | {mine.mean():.1f} | {int((mine == places.amin(0)).sum())} | {times.median():.1f} |")
    failed = [f"{key}: {row}" for key, row in results.items() if isinstance(row, str)]
    lines += [f"\nFailed: {'; '.join(failed)}"] if failed else []
    for family in families:
        lines += [f"\n### {family}\n", "| | " + " | ".join(m.name for m in METRICS) + " |", "|---" * 5 + "|"]
        for name in sorted(NAMES, key=lambda name: nll(rows[name, family])):
            lines.append(f"| {name} | " + " | ".join(str(rows[name, family][m.name]) for m in METRICS) + " |")
    axes = bm.plots.ranks(scores, highlight=list(BASELINES))
    axes.set_xlabel(f"rank by NLL in {len(families)} families: area counts families, the bar is the mean")
    axes.figure.savefig(PICTURE, dpi=120)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for family in arguments.families:
            for seed in range(SEEDS):
                for name in arguments.learners:
                    key = f"{name}; {family}; {seed}"
                    if key not in load(RESULTS):
                        try:
                            result: Any = run(name, family, seed)
                        except Exception as error:  # one failure must not end hours of work; the table names it
                            result = f"{type(error).__name__}: {error}"
                        keep(RESULTS, key, result)
                        print(key, result if isinstance(result, str) else f"{result['seconds']:.1f} s", flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
