"""Ten evaluations for a new data set: settings of support vector machines, optimised by what other data sets taught.

    BAYESMETA_DATA=... python benchmarks/accuracy/optimisation.py                # all, some forty minutes of one core
    BAYESMETA_DATA=... python benchmarks/accuracy/optimisation.py DKT --folds 0
    BAYESMETA_DATA=... python benchmarks/accuracy/optimisation.py --validate DKT # on data sets of training folds
    BAYESMETA_DATA=... python benchmarks/accuracy/optimisation.py --table        # prints what is there

Wistuba et al.'s 50 data sets x 288 settings (pack hpo_svm), in five folds of ten data sets, drawn by seed 0. A learner is
meta-trained on the other 40, 60 CPU seconds at most, and then optimises each of the ten, five times, each from three random
settings that all methods share: the next setting is the one of the largest log expected improvement among those not tried
(BoTorch, on `to_botorch(posterior)`). Regret is (best of all - best found) / (best of all - worst of all). Intervals resample
data sets. Beside them BoTorch's own process fitted to each data set's points alone; RGPE (Feurer, Letham & Bakshy 2018), its
weights by how well each training data set's process ranks the points; settings in the order of their mean rank in training; and
chance.

A learner and a fold are an entry of the results, so that many calls may run beside each other, each with a name and `--folds`.

Coverage is of 90 % intervals of a setting not tried, after ten evaluations. Settings were chosen by `--validate`.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from botorch.acquisition import LogExpectedImprovement
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import LinearMean
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.optimisation import to_botorch
from benchmarks.accuracy.optimisation_peers import Sources, Weighted, scratch
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "optimisation.json"
FOLDS, REPEATS, START, EVALUATIONS = 5, 5, 3, 30
ASKED = (5, 10, 20, 30)


@cache
def data() -> tuple[Tensor, Tensor]:
    """Settings in the unit cube, ``(288, 6)``, and accuracies ``(50, 288)``."""
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "hpo_svm" / "hpo_svm.npz", allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]).double(), torch.from_numpy(file["y"]).double()
    least, most = x.min(0).values, x.max(0).values
    return (x - least) / (most - least), y


def folds() -> list[Tensor]:
    return list(torch.randperm(50, generator=torch.Generator().manual_seed(0)).chunk(FOLDS))


def network() -> nn.Module:
    return bm.networks.MLP(6, 1, hidden=(32, 32), activation=nn.Tanh).features


def dkt(mean: bool = True) -> bm.Learner:
    kernel = ScaleKernel(MaternKernel(2.5))
    return bm.DKT(
        network(),
        kernel,
        bm.likelihoods.Gaussian(0.1),
        mean=LinearMean(32) if mean else None,
        objective=bm.Predictive(),
    )


def alpaca() -> bm.Learner:
    net = bm.networks.MLP(6, 1, hidden=(64, 64), activation=nn.Tanh)
    return bm.ALPaCA(net.features, net.head, bm.likelihoods.Gaussian(0.1))


LEARNERS: dict[str, Callable[[], bm.Learner]] = {
    "DKT with a learned mean": dkt,
    "DKT with a mean of zero": lambda: dkt(mean=False),
    "ALPaCA": alpaca,
    "three DKTs with a learned mean, mixed": lambda: bm.Ensemble([dkt() for _ in range(3)]),
}
OTHERS = ("process from scratch", "RGPE", "mean ranking", "random")
STEPS = {
    "DKT with a learned mean": 800,
    "DKT with a mean of zero": 800,
    "ALPaCA": 1500,
    "three DKTs with a learned mean, mixed": 800,
}


class Settings(bm.TaskSource):
    """Data sets as tasks: some settings and their accuracies, and others that are asked."""

    def __init__(self, rows: Tensor, batch: int = 8, seed: int = 0) -> None:
        super().__init__(seed=seed, length=1_000_000)
        self.rows, self.batch = rows, batch

    def draw(self, generator: torch.Generator) -> bm.Episode:
        x, y = data()
        count = int(torch.randint(START, EVALUATIONS, (), generator=generator))
        parts: list[list[Tensor]] = [[], []]
        rows = self.rows[torch.randperm(len(self.rows), generator=generator)[: self.batch]]
        chosen = torch.stack([torch.randperm(288, generator=generator)[: count + 60] for _ in rows])
        parts = [x[chosen].float(), y[rows[:, None], chosen].float()[..., None]]
        support, query = (
            bm.Points(parts[0][:, at], parts[1][:, at], torch.ones(len(rows), parts[0][:, at].shape[1]).bool())
            for at in (slice(count), slice(count, None))
        )
        return bm.Episode(support, query)


def trained(name: str, rows: Tensor, seed: int) -> tuple[bm.Learner, float]:
    torch.manual_seed(seed)
    tasks = Settings(rows, seed=seed)
    began = time.process_time()
    learner = bm.Standardized.from_tasks(LEARNERS[name](), tasks, episodes=20)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS[name])
    bm.fit(learner, tasks, steps=STEPS[name], optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)
    return learner.double(), time.process_time() - began


def optimised(choose: Callable[[list[int]], int], row: int, start: list[int]) -> list[float]:
    """The regret after each evaluation from the first choice on."""
    y = data()[1][row]
    tried, found = list(start), []
    for _ in range(EVALUATIONS):
        tried.append(choose(tried))
        found.append(float((y.max() - y[tried].max()) / (y.max() - y.min())))
    return found


def chooser(name: str, held: dict[str, Any], row: int, seed: int) -> Callable[[list[int]], int]:
    x, accuracies = data()
    y = accuracies[row][:, None]
    if name == "random":
        order = torch.randperm(288, generator=torch.Generator().manual_seed(seed + 10_000)).tolist()
        return lambda tried: next(i for i in order if i not in tried)
    if name == "mean ranking":
        return lambda tried: next(i for i in held["order"] if i not in tried)

    def choose(tried: list[int]) -> int:
        left = torch.tensor([i for i in range(288) if i not in tried])
        if name == "RGPE":
            weighted = Weighted(held["sources"], tried, x[tried], y[tried], seed + len(tried))
            value = weighted.improvement(left, x[left])
        else:
            if name == "process from scratch":
                model = scratch(x[tried], y[tried])
            else:
                model = to_botorch(held["learner"](bm.points(x[tried], y[tried], dtype=torch.float64)))
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = LogExpectedImprovement(model, y[tried].max())(x[left][:, None])
        return int(left[value.argmax()])

    return choose


@torch.no_grad()
def coverage(name: str, held: dict[str, Any], row: int, start: list[int]) -> float:
    """The share of settings not tried that lie within their 90 % interval, after ten random ones."""
    x, accuracies = data()
    y = accuracies[row][:, None]
    if name == "process from scratch":
        answers = scratch(x[start], y[start]).posterior(x[:, None], observation_noise=True)
        mean, deviation = answers.mean[:, 0], answers.variance[:, 0].sqrt()
    else:
        answers = held["learner"](bm.points(x[start], y[start], dtype=torch.float64))(x)
        mean, deviation = answers.mean[0], answers.stddev[0]
    left = [i for i in range(288) if i not in start]
    return float(((y - mean).abs() < 1.6449 * deviation)[left].double().mean())


def measured(name: str, known: Tensor, new: Tensor, fold: int) -> dict[str, Any]:
    x, y = data()
    held: dict[str, Any] = {}
    seconds = 0.0
    if name in LEARNERS:
        held["learner"], seconds = trained(name, known, fold)
    held["order"] = y[known].argsort(1, descending=True).argsort(1).double().mean(0).argsort().tolist()
    if name == "RGPE":
        generator = torch.Generator().manual_seed(fold)
        some = [torch.randperm(288, generator=generator)[:50] for _ in known]
        held["sources"] = Sources([(x[at], y[row][at][:, None]) for row, at in zip(known, some, strict=True)], x)
    regret, covered = [], []
    for row in new.tolist():
        for repeat in range(REPEATS):
            seed = 1000 * row + repeat
            start = torch.randperm(288, generator=torch.Generator().manual_seed(seed)).tolist()
            regret.append(optimised(chooser(name, held, row, seed), row, start[:START]))
            if name in LEARNERS or name == "process from scratch":
                covered.append(coverage(name, held, row, start[:10]))
    return {"regret": regret, "coverage": covered, "training CPU seconds": seconds, "rows": new.tolist()}


def table(results: dict[str, Any]) -> str:
    lines = [f"| | {' | '.join(f'after {n}' for n in ASKED)} | coverage | training |", "|---" * (len(ASKED) + 3) + "|"]
    draws = np.random.default_rng(0).integers(50, size=(2000, 50))
    for name in (*LEARNERS, *OTHERS):
        runs = [results[key] for fold in range(FOLDS) if (key := f"{name}; {fold}") in results]
        if len(runs) < FOLDS:
            continue
        regret = np.concatenate([np.array(run["regret"]).reshape(-1, REPEATS, EVALUATIONS).mean(1) for run in runs])
        cells = []
        for n in ASKED:
            low, high = np.quantile(regret[draws, n - 1].mean(1), [0.025, 0.975])
            cells.append(f"{regret[:, n - 1].mean():.3f} [{low:.3f}, {high:.3f}]")
        covered = [share for run in runs for share in run["coverage"]]
        seconds = max(run["training CPU seconds"] for run in runs)
        share = f"{np.mean(covered):.3f}" if covered else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {share} | {f'{seconds:.0f} s' if seconds else ''} |")
    return "\n".join(lines)


def paired(results: dict[str, Any], first: str, second: str, after: int) -> tuple[float, float, float]:
    """The mean difference of regret between two on the same data sets and starts, with its 95 % interval over data sets."""
    each = []
    for name in (first, second):
        runs = [np.array(results[f"{name}; {fold}"]["regret"]) for fold in range(FOLDS)]
        each.append(np.concatenate([run.reshape(-1, REPEATS, EVALUATIONS).mean(1)[:, after - 1] for run in runs]))
    gap = each[0] - each[1]
    drawn = gap[np.random.default_rng(0).integers(len(gap), size=(2000, len(gap)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gap.mean()), float(low), float(high)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", default="", help="how a name begins; all if none")
    parser.add_argument("--folds", nargs="*", type=int, default=range(FOLDS))
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument(
        "--validate", action="store_true", help="on ten data sets of the training folds; nothing is kept"
    )
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts = folds()
    for name in () if given.table else (n for n in (*LEARNERS, *OTHERS) if n.startswith(given.which)):
        for fold in given.folds:
            known = torch.cat([part for i, part in enumerate(parts) if i != fold])
            if given.validate:
                run = measured(name, known[10:], known[:10], fold)
                regret = np.array(run["regret"]).mean(0)
                shares = f"coverage {np.mean(run['coverage']):.3f}" if run["coverage"] else ""
                print(name, fold, [round(float(regret[n - 1]), 3) for n in ASKED], shares, flush=True)
            elif f"{name}; {fold}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {fold}", measured(name, known, parts[fold], fold))
    if not given.validate:
        results = load(RESULTS)
        print(table(results))
        best = "DKT with a learned mean"
        for other in OTHERS:
            if all(f"{name}; {fold}" in results for name in (best, other) for fold in range(FOLDS)):
                gaps = ", ".join(
                    f"after {n}: {'{:.3f} [{:.3f}, {:.3f}]'.format(*paired(results, best, other, n))}" for n in (5, 10)
                )
                print(f"{best} less {other}: {gaps}")


if __name__ == "__main__":
    main()
