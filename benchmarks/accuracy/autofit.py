"""One call on 26 families of real tasks, beside the best of all baselines.

    python benchmarks/accuracy/autofit.py                                # all of it, on the seeds of the test
    python benchmarks/accuracy/autofit.py --families sitka --seeds 21    # some entries; several calls may run at once
    python benchmarks/accuracy/autofit.py --inner --seeds 1 2 3          # what settings were chosen by
    python benchmarks/accuracy/autofit.py --table                        # prints what is there

Three tenths of a family's tasks are held out for the test, anew for each seed; `autofit` with its defaults and each baseline
learn from the others. The test has 3 and 5 points a task (fewer where the family's shortest task would have none left to ask),
over 4 divisions of each test task, the same for all. Figures pool the test tasks of all seeds. Each family's best baseline is
chosen by the test itself, which favours the baselines. With --inner the test's tasks are left out altogether: a quarter of the
others is held out in their place. Every finished run is kept in results/autofit.json, or results/autofit_inner.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.run import Run
from bayesmeta.automatic.whole import whole
from bayesmeta.evaluation import Predictor
from bayesmeta.metrics import CRPS, NLL, Coverage, EnergyScore, Metric, bootstrap
from bayesmeta.randomness import seeded
from bayesmeta.tasks.longitudinal import FAMILIES
from benchmarks.accuracy.longitudinal import DIVISIONS, SHOTS, Split
from benchmarks.accuracy.table_baselines import TABLE_BASELINES
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results"
SEEDS = (21, 22, 23, 24)
SINGLE = "ALPaCA, own scale"
NAMES = ["autofit", SINGLE, *TABLE_BASELINES]
METRICS: dict[str, Metric] = {"NLL": NLL(), "CRPS": CRPS(), "coverage": Coverage(0.9)}
DRAWN: dict[str, Metric] = {**METRICS, "CRPS": EnergyScore(256)}
"""For mixtures, whose CRPS has no closed form: of one target the energy score is the same, by draws and without bias."""


def held_out(split: Split, inner: bool) -> tuple[Tensor, Tensor]:
    """The tasks to learn from and those to be judged on."""
    if not inner:
        return split.others, split.test
    count = max(1, round(0.25 * len(split.others)))
    return split.others[count:], split.others[:count]


def run(name: str, family: str, seed: int, inner: bool) -> dict[str, Any]:
    split = Split(family, seed)
    taught, asked = held_out(split, inner)
    tasks = split.tasks(taught, SHOTS)
    began, worked, found = time.perf_counter(), time.process_time(), {}
    if name == "autofit":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report keeps them
            predictor: Any = bm.autofit(tasks, progress=False)
        report = predictor.report()
        found = {
            "weights": dict(zip(report.members, report.weights, strict=True)),
            "member NLL": dict(zip(report.members, report.member_nll, strict=True)),
            "steps": dict(zip(report.members, report.steps, strict=True)),
            "temperature": report.temperature,
            "held out": {"NLL": report.nll, "coverage": report.coverage},
        }
    elif name == SINGLE:
        predictor = alone(tasks)
    else:
        predictor = TABLE_BASELINES[name](tasks)
    seconds = {"seconds": time.perf_counter() - began, "CPU seconds": time.process_time() - worked}
    names = [split.everything.names[task] for task in asked.tolist()]
    return found | seconds | {"tasks": names, "test": figures(predictor, split, asked)}


def figures(predictor: Predictor, split: Split, asked: Tensor) -> dict[str, dict[str, Any]]:
    """The statistics of each asked task, summed over divisions, by shots and metric."""
    rows: dict[str, dict[str, Any]] = {}
    for shots in SHOTS:
        tasks = split.tasks(asked, min(shots, split.fewest - 1))
        sums: dict[str, Tensor] = {}
        for division in range(DIVISIONS):
            support, query = tasks[division]
            with torch.no_grad(), seeded(division):
                prediction = predictor(support)(query.x)
                for name, metric in (DRAWN if isinstance(predictor, bm.AutoFit) else METRICS).items():
                    row = metric.statistic(prediction, query)
                    sums[name] = sums[name] + row if division else row
        rows[str(shots)] = {name: row.tolist() for name, row in sums.items()}
    return rows


def alone(tasks: bm.tasks.ArrayTasks) -> bm.Learner:
    """The Bayesian last layer by itself: no other member, no logarithms and no temperature."""
    trained = Run(Folds(tasks, min(5, len(tasks.names)), [None], 0), ["network features"], 400)
    trained.train(progress=False)
    return whole(trained, torch.ones(1, 1), 1.0, range(len(trained.folds.held))).eval()


def pooled(runs: list[dict[str, Any]], metric: str) -> Tensor:
    """Statistics of each task, over both numbers of points and all seeds: ``(T, K)``."""
    sums: dict[str, Tensor] = {}
    for row in runs:
        each = sum(torch.tensor(row["test"][str(shots)][metric], dtype=torch.float64) for shots in SHOTS)
        for name, statistic in zip(row["tasks"], each, strict=True):
            sums[name] = sums.get(name, torch.zeros_like(statistic)) + statistic
    return torch.stack(list(sums.values()))


def value(runs: list[dict[str, Any]], metric: str) -> float:
    return float(METRICS[metric].reduce(pooled(runs, metric).sum(0)))


def clustered_error(rows: Tensor) -> float:
    """The standard error of a share of points, where the points of a task hang together: rows ``(T, 2)`` of sums and counts."""
    sums, counts = rows.unbind(1)
    return float((sums - counts * sums.sum() / counts.sum()).square().sum().sqrt() / counts.sum())


def table(results: dict[str, Any], seeds: list[int]) -> str:
    nll, crps, coverage = METRICS
    runs: Any = {(n, f): [results.get(f"{n}; {f}; {seed}") for seed in seeds] for n in NAMES for f in FAMILIES}
    whole_ = {key for key, rows in runs.items() if all(isinstance(row, dict) for row in rows)}
    lines = [
        "| family | NLL | best baseline | its NLL | CRPS by the best baseline's | coverage | two errors | ALPaCA alone | CPU s |",
        "|---" * 9 + "|",
    ]
    won = lost = close = covered = beyond = alone_covered = count = 0
    coverages = []
    for family in FAMILIES:
        known = [name for name in TABLE_BASELINES if (name, family) in whole_]
        if ("autofit", family) not in whole_ or not known:
            continue
        mine, count = runs["autofit", family], count + 1
        best = min(known, key=lambda name, f=family: value(runs[name, f], nll))
        gap = value(mine, nll) - value(runs[best, family], nll)
        ratio = value(mine, crps) / min(value(runs[name, family], crps) for name in known)
        rows = pooled(mine, coverage)
        share, error = value(mine, coverage), clustered_error(rows)
        other = value(runs[SINGLE, family], coverage) if (SINGLE, family) in whole_ else float("nan")
        won, lost, close = won + (gap < 0), lost + (gap > 0.05), close + (ratio <= 1.02)
        covered, beyond = covered + (0.85 <= share <= 0.95), beyond + (abs(share - 0.9) > 2 * error)
        alone_covered += 0.85 <= other <= 0.95
        coverages.append(share)
        lines.append(
            f"| {family} | {bootstrap(NLL(), pooled(mine, nll))} | {best} | {value(runs[best, family], nll):.3f} ({gap:+.3f}) "
            f"| {ratio:.3f} | {share:.3f} | {2 * error:.3f} | {other:.3f} | {max(row['CPU seconds'] for row in mine):.1f} |"
        )
    if not count:
        return "no family is finished"
    lines += [
        f"\nLower NLL than every baseline: {won} of {count}; higher by more than 0.05: {lost}. CRPS at most 1.02 times the best "
        f"baseline's: {close}. Coverage in 0.85 to 0.95: {covered}, beyond two errors from 0.9: {beyond}, mean "
        f"{sum(coverages) / count:.3f}. ALPaCA alone in range: {alone_covered}.",
    ]
    failed = [f"{key}: {row}" for key, row in results.items() if isinstance(row, str)]
    return "\n".join(lines + ([f"\nFailed: {'; '.join(failed)}"] if failed else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--inner", action="store_true", help="leave the test's tasks out, for choosing settings")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    path = RESULTS / f"autofit{'_inner' * arguments.inner}.json"
    torch.set_num_threads(1)
    for family in () if arguments.table else arguments.families:
        for seed in arguments.seeds:
            for name in arguments.learners:
                key = f"{name}; {family}; {seed}"
                if key not in load(path):
                    try:
                        result: Any = run(name, family, seed, arguments.inner)
                    except Exception as error:  # one failure must not end hours of work; the table names it
                        result = f"{type(error).__name__}: {error}"
                    keep(path, key, result)
                    print(key, result if isinstance(result, str) else f"{result['CPU seconds']:.1f} s", flush=True)
    print(table(load(path), arguments.seeds))


if __name__ == "__main__":
    main()
