"""How many tasks pay: skill against the number of training tasks and of known points, on ten families of real tasks.

    python benchmarks/accuracy/efficiency.py                               # all of it
    python benchmarks/accuracy/efficiency.py --families milk --counts 12  # some entries; several calls may run at once
    python benchmarks/accuracy/efficiency.py --table                       # prints what is there, with --seeds 31 of that alone
    python benchmarks/accuracy/efficiency.py --table --picture             # and draws docs/efficiency.png

Three tenths of a family's tasks are held out for the test. Learners are given 3, 6, 12, 25, 50 and 100 of the others, each
number's tasks among those of the next, as far as they reach, and are asked about the test tasks with 1, 3 and 5 known points, the
same for all. Baselines are of two kinds: those that learn from the same training tasks, and those that look at each task alone,
which take from training tasks the unit of x and y and the spread of their errors. Every finished run is kept in
results/efficiency.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.metrics import NLL, Coverage, Metric
from bayesmeta.randomness import seeded
from benchmarks.accuracy.longitudinal import Split
from benchmarks.accuracy.table_baselines import ALONE, TABLE_BASELINES
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "efficiency.json"
PICTURE = Path(__file__).parents[2] / "docs" / "efficiency.png"
FAMILIES = (
    "gapminder",
    "milk",
    "remifentanil",
    "dietox",
    "chickweight",
    "produc",
    "hsb82",
    "exam",
    "sitka89",
    "pbcseq",
)
SEEDS, COUNTS, SHOTS, DIVISIONS = (31, 32, 33), (3, 6, 12, 25, 50, 100), (1, 3, 5), 2
NAMES = ["autofit", *TABLE_BASELINES]
METRICS: list[Metric] = [NLL(), Coverage(0.9)]


class Runs(NamedTuple):
    """Finished ones, and the seeds that a table is of."""

    by_key: dict[str, Any]
    seeds: list[int]


def run(name: str, family: str, count: int, seed: int) -> dict[str, Any] | None:
    """Statistics summed over the test tasks, by shots and metric; None where there are not so many training tasks."""
    split = Split(family, seed)
    if count > len(split.others):
        return None
    shots = [known for known in SHOTS if known < split.fewest]
    tasks = split.tasks(split.others[:count], (shots[0], shots[-1]))
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few tasks: that is the question
        predictor: Any = bm.autofit(tasks, progress=False) if name == "autofit" else TABLE_BASELINES[name](tasks)
    seconds = time.process_time() - began
    return {"seconds": seconds} | {str(known): asked(predictor, split, known) for known in shots}


def asked(predictor: Any, split: Split, known: int) -> dict[str, list[float]]:
    tasks = split.tasks(split.test, known)
    sums: dict[str, Tensor] = {}
    for division in range(DIVISIONS):
        support, query = tasks[division]
        with torch.no_grad(), seeded(division):
            prediction = predictor(support)(query.x)
            for metric in METRICS:
                row = metric.statistic(prediction, query).sum(0)
                sums[metric.name] = sums[metric.name] + row if division else row
    return {name: row.tolist() for name, row in sums.items()}


def curve(results: Runs, name: str, family: str, known: int, metric: Metric) -> list[float]:
    """A figure by the number of training tasks, over all seeds; NaN where runs are missing or there are not so many tasks.

    Infinite where it has no answer: mixed effects may have no fit.
    """
    found = []
    for count in COUNTS:
        rows = [results.by_key.get(f"{name}; {family}; {count}; {seed}") for seed in results.seeds]
        if any(isinstance(row, str) for row in rows):
            found.append(float("inf"))
            continue
        whole = all(isinstance(row, dict) and str(known) in row for row in rows)
        sums = sum(torch.tensor(row[str(known)][metric.name]) for row in rows) if whole else None  # type: ignore[index]
        found.append(float("nan") if sums is None else float(metric.reduce(sums)))
    return found


def crossing(mine: list[float], theirs: list[float]) -> str:
    """From how many training tasks on the first curve is the lower one."""
    known = [(count, a, b) for count, a, b in zip(COUNTS, mine, theirs, strict=True) if a == a and b == b]
    lower = [count for place, (count, _, _) in enumerate(known) if all(a < b for _, a, b in known[place:])]
    return str(lower[0]) if lower else f"> {known[-1][0]}" if known else "-"


def lowest(curves: list[list[float]]) -> list[float]:
    """The lowest at each number of tasks: the best baseline, chosen by the test."""
    return [min(values) if all(v == v for v in values) else float("nan") for values in zip(*curves, strict=True)]


def compared(results: Runs, family: str, known: int) -> tuple[list[float], list[float], list[float]]:
    """The NLL of autofit, of the best baseline from the same tasks, and of the best that looks at each task alone."""
    shared = lowest([curve(results, n, family, known, NLL()) for n in TABLE_BASELINES if n not in ALONE])
    alone = lowest([curve(results, n, family, known, NLL()) for n in ALONE])
    return curve(results, "autofit", family, known, NLL()), shared, alone


def draw(results: Runs, known: int = 3) -> None:
    """A pane a family: how the NLL falls with the number of training tasks."""
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(2, 5, figsize=(11, 4.6), sharex=True)
    styles = (("autofit", "#0072b2", "o-"), ("best baseline", "#d55e00", "s-"), ("each task alone", "#777777", ":"))
    for family, pane in zip(FAMILIES, panes.flat, strict=True):
        for (label, colour, style), values in zip(styles, compared(results, family, known), strict=True):
            pane.plot(COUNTS, values, style, color=colour, label=label, markersize=4, linewidth=1.4)
        pane.set_title(family, fontsize=10)
        pane.set_xscale("log")
        pane.set_xticks(COUNTS, [str(count) for count in COUNTS])
        pane.minorticks_off()
        pane.tick_params(labelsize=8)
        for side in ("top", "right"):
            pane.spines[side].set_visible(False)
    figure.legend(*panes[0, 0].get_legend_handles_labels(), loc="lower right", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel("number of training tasks", fontsize=10)
    figure.supylabel(f"NLL at {known} known points", fontsize=10)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


def table(results: Runs) -> str:
    lines = [f"Seeds {', '.join(map(str, results.seeds))}"]
    for known in SHOTS:
        lines += [
            f"\n### {known} known point{'s' * (known > 1)}: NLL, autofit / best baseline from the same tasks\n",
            "| family | "
            + " | ".join(f"{count} tasks" for count in COUNTS)
            + " | each task by itself | lower than both from |",
            "|---" * (len(COUNTS) + 3) + "|",
        ]
        for family in FAMILIES:
            mine, shared, alone = compared(results, family, known)
            if all(value != value for value in mine):
                continue
            cells = [f"{a:.2f} / {b:.2f}" if a == a else "" for a, b in zip(mine, shared, strict=True)]
            last = [value for value in alone if value == value]
            best = f"{last[-1]:.2f}" if last else ""
            lines.append(f"| {family} | {' | '.join(cells)} | {best} | {crossing(mine, lowest([shared, alone]))} |")
        lines.append("\n90% coverage of autofit, mean over families: " + _coverages(results, known))
    failed = [f"{key}: {row}" for key, row in results.by_key.items() if isinstance(row, str)]
    return "\n".join(lines + ([f"\nFailed: {'; '.join(failed)}"] if failed else []))


def _coverages(results: Runs, known: int) -> str:
    each = torch.tensor([curve(results, "autofit", family, known, Coverage(0.9)) for family in FAMILIES])
    return ", ".join(f"{value:.3f} at {count}" for count, value in zip(COUNTS, each.nanmean(0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--counts", nargs="+", type=int, choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--picture", action="store_true", help="draw it too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    entries = [
        (name, family, count, seed)
        for family in arguments.families
        for count in arguments.counts
        for seed in arguments.seeds
        for name in arguments.learners
    ]
    for name, family, count, seed in () if arguments.table else entries:
        key = f"{name}; {family}; {count}; {seed}"
        if key not in load(RESULTS):
            try:
                result: Any = run(name, family, count, seed)
            except Exception as error:  # one failure must not end hours of work; the table names it
                result = f"{type(error).__name__}: {error}"
            if result is not None:
                keep(RESULTS, key, result)
                print(key, result if isinstance(result, str) else f"{result['seconds']:.1f} s", flush=True)
    results = Runs(load(RESULTS), arguments.seeds)
    print(table(results))
    if arguments.picture:
        draw(results)


if __name__ == "__main__":
    main()
