"""Does a table cost anything? Columns as they come beside an encoding made by hand, no such columns, and boosting.

    python benchmarks/accuracy/frames.py                                   # all of it: about 25 minutes on one core
    python benchmarks/accuracy/frames.py --ways "by hand" --seeds 0        # some; calls may run side by side
    python benchmarks/accuracy/frames.py --table                           # prints what is there

The table is made: orchards in four regions, each at a height above the sea (columns of the task), with a soil of its own; trees
of three kinds, of which some were not written down; rain, of which a quarter was not measured, more often where it was much. The
learner is the same (three of `ALPaCA` on a tanh network, with a scale of its own for each task), and so are tasks and divisions:

- columns: `tasks_from_frame(categorical=, missing=True)`, and the test by its `columns`;
- by hand: pandas' dummies, means and indicators, as arrays; other columns first, so that the network starts elsewhere;
- numbers alone: the columns that are complete numbers, which is what is left if nothing is encoded;
- boosting: `baselines.Boosting`, which has the same columns, and the number, mean, spread, nearest and slope by age of the known.

A seed draws the table, with 200 tasks for training (100), validation (30) and test (70), and the network. Figures pool
the test tasks of all seeds at 3 and 5 known points; intervals are bootstraps over seeds, each a table and starts of networks.
Every finished run is kept in results/frames.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim import Adam

import bayesmeta as bm
from bayesmeta.metrics import NLL, Coverage, Metric, bootstrap, difference
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "frames.json"
WAYS = ("columns", "by hand", "numbers alone", "boosting")
SHOTS, SEEDS, TASKS, ROWS, STEPS = (3, 5), 12, 200, 12, 1000
STARTS = 3
"""Networks that are mixed: the NLL of one differs by 0.015 from start to start, which is as much as is asked for here."""
METRICS: list[Metric] = [NLL(), Coverage(0.9)]
COLUMNS = ["age", "kind", "region", "rain", "height"]


def orchards(seed: int) -> pd.DataFrame:
    """The yield of trees, a row each."""
    rows = np.random.default_rng(seed)
    region, height = rows.integers(0, 4, TASKS), rows.uniform(0, 10, TASKS)
    soil, wet = rows.normal(0, 1, TASKS), rows.normal(0.3, 0.1, TASKS)
    task = np.repeat(np.arange(TASKS), ROWS)
    kind, age = rows.integers(0, 3, len(task)), rows.uniform(2, 20, len(task))
    rain = rows.gamma(4, 2, len(task))
    growth = np.array([0.6, 0.3, 0.1])[kind] * age - 0.015 * age**2
    crop = (
        3 + soil[task] + np.array([0.0, 1.0, -1.5, 2.0])[region][task] - 0.2 * height[task] + growth + wet[task] * rain
    )
    unknown, lost = rows.random(len(task)) < 0.1, rows.random(len(task)) < np.where(rain < 6, 0.15, 0.35)
    return pd.DataFrame(
        {
            "orchard": task,
            "kind": pd.Series(np.array(["apple", "pear", "plum"], dtype=object)[kind]).mask(unknown),
            "region": np.array(["north", "east", "south", "west"])[region][task],
            "rain": np.where(lost, np.nan, rain),
            "height": height[task],
            "age": age,
            "crop": crop + rows.normal(0, 0.5 * np.exp(0.3 * soil[task])),
        }
    )


def parts(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    bounds = {"train": (0, 100), "validation": (100, 130), "test": (130, TASKS)}
    return {name: frame[frame.orchard.between(low, high - 1)] for name, (low, high) in bounds.items()}


def sources(way: str, split: dict[str, pd.DataFrame]) -> Callable[..., bm.tasks.ArrayTasks]:
    """From the name of a part, and how it is divided, to its tasks."""
    train = split["train"]
    if way == "by hand":
        rain, kinds, regions = train.rain.mean(), sorted(train.kind.dropna().unique()), sorted(train.region.unique())

        def encoded(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
            found = frame[["age", "height"]].assign(
                rain=frame.rain.fillna(rain), dry=frame.rain.isna(), none=frame.kind.isna()
            )
            for name in regions:
                found[name] = frame.region == name
            for name in kinds:
                found[name] = frame.kind == name
            return found.to_numpy(float)

        return lambda part, **division: bm.tasks_from_arrays(
            encoded(split[part]), split[part].crop.to_numpy(), split[part].orchard.to_numpy(), **division
        )
    x = ["height", "age"] if way == "numbers alone" else COLUMNS
    columns = bm.tasks.Columns.from_frame(
        train,
        task="orchard",
        x=x,
        y="crop",
        categorical=[name for name in x if name in ("kind", "region")],
        missing=True,
    )
    return lambda part, **division: columns.tasks(split[part], **division)


def learned(tasks: Callable[..., bm.tasks.ArrayTasks], seed: int, start: int) -> bm.Learner:
    episodes = tasks("train", shots=SHOTS, batch=16, seed=seed)
    torch.manual_seed(100 * seed + start)
    body = bm.networks.MLP(episodes.points.x.shape[-1], 1, activation=nn.Tanh)
    inner = bm.OwnScale(bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian()))
    learner = bm.Standardized.from_tasks(inner, tasks("train", shots=SHOTS))
    bm.fit(
        learner,
        episodes,
        steps=STEPS,
        optimizer=Adam(learner.parameters(), 3e-3),
        seed=seed,
        progress=False,
        validation=tasks("validation", shots=SHOTS, length=4),
        validate_every=50,
    )
    return learner


def run(way: str, seed: int) -> dict[str, Any]:
    began, split = time.perf_counter(), parts(orchards(seed))
    tasks = sources(way, split)
    if way == "boosting":
        predictor: bm.Learner = bm.baselines.Boosting.from_tasks(tasks("train", shots=SHOTS, seed=seed))
    else:
        predictor = bm.Ensemble([learned(tasks, seed, start) for start in range(STARTS)])
    rows = {metric.name: torch.zeros(TASKS - 130, 2, dtype=torch.float64) for metric in METRICS}
    for shots in SHOTS:
        for index in range(4):
            support, query = tasks("test", shots=shots, seed=seed)[index]
            with torch.no_grad():
                prediction = predictor(support)(query.x)
            for metric in METRICS:
                rows[metric.name] += metric.statistic(prediction, query)
    return {"seconds": time.perf_counter() - began, "test": {name: row.tolist() for name, row in rows.items()}}


def table(results: dict[str, Any]) -> str:
    lines = ["| | NLL | minus by hand | 90% coverage | seconds, median |", "|---" * 5 + "|"]
    seeds = [seed for seed in range(SEEDS) if all(isinstance(results.get(f"{way}; {seed}"), dict) for way in WAYS)]
    if not seeds:
        return "no seed is finished"
    found = {way: [results[f"{way}; {seed}"] for seed in seeds] for way in WAYS}
    rows = {
        way: {m.name: torch.cat([torch.tensor(run["test"][m.name]) for run in runs]) for m in METRICS}
        for way, runs in found.items()
    }
    units = torch.arange(len(seeds)).repeat_interleave(TASKS - 130)[:, None]
    for way, mine in rows.items():
        nll, coverage = (bootstrap(metric, mine[metric.name], units) for metric in METRICS)
        beside = difference(NLL(), mine["NLL"], rows["by hand"]["NLL"], units) if way != "by hand" else ""
        seconds = torch.tensor([run["seconds"] for run in found[way]]).median()
        lines.append(f"| {way} | {nll} | {beside} | {coverage} | {seconds:.0f} |")
    failed = [f"{key}: {row}" for key, row in results.items() if isinstance(row, str)]
    return "\n".join(lines + ([f"\nFailed: {'; '.join(failed)}"] if failed else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in [] if arguments.table else arguments.seeds:
        for way in arguments.ways:
            key = f"{way}; {seed}"
            if key not in load(RESULTS):
                try:
                    result: Any = run(way, seed)
                except Exception as error:  # one failure must not end the others; the table names it
                    result = f"{type(error).__name__}: {error}"
                keep(RESULTS, key, result)
                print(key, result if isinstance(result, str) else f"{result['seconds']:.1f} s", flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
