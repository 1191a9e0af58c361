"""Do forecasts keep their promise? Learners trained on chronological divisions, and on random ones, both asked about the future.

    python benchmarks/accuracy/forecasts.py                                  # all of it: about 2 hours on one core
    python benchmarks/accuracy/forecasts.py --families milk --learners CNP   # some; calls may run side by side
    python benchmarks/accuracy/forecasts.py --seeds 1                        # the partition on which settings were chosen
    python benchmarks/accuracy/forecasts.py --table                          # prints what is there

The five families of `tasks.Longitudinal` with times, at least 60 tasks, and the most points. A partition (seed) cuts their tasks
into five folds, each of which is the test once, so that every task is tested. The test knows a task's first 3 and first 5 points
and asks all later ones. Of the other tasks three learners are trained, each on two thirds; the last third chooses its steps, by
the NLL, and its temperature (`Calibrated`); the three are mixed (`Ensemble`). All that is done twice, on the targets and on their
logarithms (`Warped`): the lower NLL of what was held out chooses. In training and validation as many points are known, divided in
the order of time, or at random, which is all that differs. All else was chosen on seed 1; the figures are of seeds 21 to 23.
Finished runs are kept in results/forecasts.json. Intervals are bootstraps over tasks: partitions add up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import ConstantKernel, LinearKernel, RBFKernel, ScaleKernel
from torch import Tensor, nn
from torch.optim import Adam

import bayesmeta as bm
from bayesmeta.metrics import Estimate, bootstrap
from benchmarks.accuracy.longitudinal_learners import MeanNetwork
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "forecasts.json"
FAMILIES = {"remifentanil": "Time", "pbcseq": "day", "gapminder": "year", "milk": "Time", "dietox": "Time"}
"""The column that is the time of each."""
SHOTS, FOLDS, MEMBERS, SEEDS, QUERIES = (3, 5), 5, 3, (21, 22, 23), 16
METRICS: list[bm.metrics.Metric] = [bm.metrics.Coverage(0.9), bm.metrics.NLL(), bm.metrics.RMSE()]


def cnp(inputs: int) -> bm.Learner:
    likelihood = bm.likelihoods.HeteroscedasticGaussian()
    return bm.ConditionalNeuralProcess(bm.encoders.DeepSet(inputs, 1), bm.networks.MLP(inputs + 64, 2), likelihood)


def dkt(inputs: int) -> bm.Learner:
    kernel = ScaleKernel(RBFKernel(ard_num_dims=inputs)) + LinearKernel(ard_num_dims=inputs) + ConstantKernel()
    return bm.OwnScale(bm.DKT(nn.Identity(), kernel, bm.likelihoods.Gaussian(), mean=MeanNetwork(inputs)))


# The learner of so many inputs, its meta-updates at most, and Adam's rate.
KINDS: dict[str, tuple[Callable[[int], bm.Learner], int, float]] = {"CNP": (cnp, 1500, 3e-3), "DKT": (dkt, 300, 1e-2)}
LEARNERS = [f"{kind}{scale}" for kind in KINDS for scale in ("", ", log")]
DIVISIONS = ("in time", "at random")


class Partition:
    """A family's tasks, whose points are in the order of time, in folds."""

    def __init__(self, family: str, seed: int) -> None:
        self.everything = bm.tasks.Longitudinal(family, split="all", order=FAMILIES[family])
        order = torch.randperm(len(self.everything.names), generator=torch.Generator().manual_seed(seed))
        self.folds = [order[fold::FOLDS] for fold in range(FOLDS)]
        self.seed = seed

    def tasks(
        self, chosen: Tensor, ordered: bool, shots: int | tuple[int, int], **division: Any
    ) -> bm.tasks.ArrayTasks:
        given = bm.Points(*(leaf[chosen] for leaf in self.everything.points))
        names = [self.everything.names[i] for i in chosen.tolist()]
        long = given.mask.sum(1) > (shots if isinstance(shots, int) else shots[0])
        given = bm.Points(*(leaf[long] for leaf in given))
        kept = [name for name, one in zip(names, long.tolist(), strict=True) if one]
        return bm.tasks.ArrayTasks(given, kept, shots=shots, ordered=ordered, **division)


def figures(learner: bm.Learner, tasks: list[bm.tasks.ArrayTasks]) -> dict[str, dict[str, list[float]]]:
    """The statistics of each task, summed over sources, by metric and by the task's name."""
    found: dict[str, dict[str, Tensor]] = {metric.name: {} for metric in METRICS}
    for source in tasks:
        support, query = source[0]
        with torch.no_grad():
            predictive = learner(support)(query.x)
        for metric in METRICS:
            for name, row in zip(source.names, metric.statistic(predictive, query), strict=True):
                found[metric.name][name] = found[metric.name].get(name, 0) + row
    return {metric: {name: row.tolist() for name, row in rows.items()} for metric, rows in found.items()}


def member(
    name: str, partition: Partition, train: Tensor, held: Tensor, ordered: bool
) -> tuple[float, bm.Learner, bm.Calibrated]:
    """The lowest NLL of the tasks that are held out, the learner that has it, and the same with a temperature for them."""
    kind, _, log = name.partition(", ")
    build, steps, rate = KINDS[kind]
    seed = partition.seed
    whole = partition.tasks(train, ordered, SHOTS, seed=seed)
    looks = partition.tasks(held, ordered, SHOTS, seed=seed, length=4)
    torch.manual_seed(seed)
    inner = build(whole.points.x.shape[-1])
    if log:
        top = 3 * whole.points.y.max().item()
        learner: bm.Learner = bm.Warped.from_tasks(inner, bm.warps.Log(top=top), whole, episodes=4)
    else:
        learner = bm.Standardized.from_tasks(inner, whole, episodes=4)
    history = bm.fit(
        learner,
        partition.tasks(train, ordered, SHOTS, seed=seed, batch=16, queries=QUERIES),
        steps=steps,
        optimizer=Adam(learner.parameters(), rate),
        seed=seed,
        progress=False,
        validation=looks,
        validate_every=steps // 15,
        patience=4,
    )
    return min(history.validation.values()), learner, bm.Calibrated.from_tasks(learner, looks, episodes=4)


def run(name: str, family: str, division: str, seed: int, fold: int) -> dict[str, Any]:
    began, partition = time.perf_counter(), Partition(family, seed)
    others = torch.cat([part for place, part in enumerate(partition.folds) if place != fold])
    thirds = [others[place::MEMBERS] for place in range(MEMBERS)]
    members = []
    for place, held in enumerate(thirds):
        train = torch.cat([part for other, part in enumerate(thirds) if other != place])
        members.append(member(name, partition, train, held, division == "in time"))
    validation = sum(nll for nll, _, _ in members) / MEMBERS
    raw, calibrated = (bm.Ensemble([one[k] for one in members]) for k in (1, 2))
    asked = [partition.tasks(partition.folds[fold], True, shots) for shots in SHOTS]
    temperature = sum(one.temperature.item() for _, _, one in members) / MEMBERS
    found = {"raw": figures(raw, asked), "calibrated": figures(calibrated, asked)}
    return {"seconds": time.perf_counter() - began, "validation": validation, "temperature": temperature, **found}


def pooled(runs: list[dict[str, Any]], how: str) -> dict[str, Estimate]:
    """The metrics over all tasks, each with its statistics of all partitions added up."""
    found = {}
    for metric in METRICS:
        rows: dict[str, Tensor] = {}
        for one in runs:
            for name, row in one[how][metric.name].items():
                rows[name] = rows.get(name, 0) + torch.tensor(row, dtype=torch.float64)
        found[metric.name] = bootstrap(metric, torch.stack(list(rows.values())))
    return found


def chosen(
    results: dict[str, Any], kind: str, family: str, division: str, seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Of each fold the run, on one scale or the other, with the lower NLL of what was held out; none if one lacks."""
    found = []
    for seed in seeds:
        for fold in range(FOLDS):
            both = [results.get(f"{kind}{scale}; {family}; {division}; {seed}; {fold}") for scale in ("", ", log")]
            if not all(isinstance(one, dict) for one in both):
                return []
            found.append(min(both, key=lambda one: one["validation"]))
    return found


def table(results: dict[str, Any], seeds: tuple[int, ...]) -> str:
    lines = [f"Partitions {', '.join(map(str, seeds))}; each learner on the scale that held-out tasks choose.\n"]
    lines += [
        "| family | learner | divisions | temperature | " + " | ".join(m.name for m in METRICS) + " |",
        "|---" * 7 + "|",
    ]
    held: dict[tuple[str, str, str], list[bool]] = {}
    for family in FAMILIES:
        for kind in KINDS:
            for division in DIVISIONS:
                runs = chosen(results, kind, family, division, seeds)
                for how in ("raw", "calibrated") if runs else ():
                    row = pooled(runs, how)
                    held.setdefault((kind, division, how), []).append(0.88 <= row["90% coverage"].value <= 0.92)
                    heat = sum(one["temperature"] for one in runs) / len(runs) if how == "calibrated" else 1.0
                    lines.append(
                        f"| {family} | {kind} | {division} | {heat:.2f} | " + " | ".join(map(str, row.values())) + " |"
                    )
    lines += ["\n| learner | divisions | temperature | families with coverage .88 to .92 |", "|---" * 4 + "|"]
    lines += [f"| {' | '.join(key)} | {sum(inside)} of {len(inside)} |" for key, inside in held.items()]
    failed = [f"{key}: {row}" for key, row in results.items() if isinstance(row, str)]
    return "\n".join(lines + ([f"\nFailed: {'; '.join(failed)}"] if failed else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--divisions", nargs="+", choices=DIVISIONS, default=list(DIVISIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    places = [
        (name, family, division, seed, fold)
        for seed in arguments.seeds
        for fold in arguments.folds
        for family in arguments.families
        for name in arguments.learners
        for division in arguments.divisions
    ]
    for place in [] if arguments.table else places:
        key = "; ".join(map(str, place))
        if key not in load(RESULTS):
            try:
                result: Any = run(*place)
            except Exception as error:  # one failure must not end hours of work; the table names it
                result = f"{type(error).__name__}: {error}"
            keep(RESULTS, key, result)
            print(key, result if isinstance(result, str) else f"{result['seconds']:.1f} s", flush=True)
    print(table(load(RESULTS), tuple(arguments.seeds)))


if __name__ == "__main__":
    main()
