"""One task of many points: what answers cost that know all of them at once, and answers that are told a point at a time.

    python benchmarks/cost/many_points.py                        # all entries; some minutes and 4 GB
    python benchmarks/cost/many_points.py "10000: DKT(inducing=256)"  # one of them
    python benchmarks/cost/many_points.py --updates 10000        # shorter streams

At once: a function of three inputs, drawn from the process that answers (an RBF kernel of lengthscale 1 on [-2, 2]³) and seen
with noise of 0.1. Kept are CPU seconds and peak memory of the support and of 1,000 answers, on one thread in a process of their
own, their error against the function, and, of 2,000 points, against the exact process: the largest difference of means, in units
of the exact deviation with the noise, and the mean ratio of the function's deviations.

Streams: so many updates by one point each, of learners of constant size; microseconds an update at the beginning and at the end,
megabytes of the process's own memory by which the second half grew, and how far the answers at the end are from those of the
learner that is given all points at once, in float32. Finished entries are kept in results/many_points.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor, nn

import bayesmeta as bm
from benchmarks.cost.scale import own_memory
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "many_points.json"
NOISE, CLASSES, FEATURES, ASKED = 0.1, 5, 8, 1000


class Fourier(nn.Module):
    """Random features whose inner products are an RBF kernel of lengthscale 1 (Rahimi & Recht 2007)."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        numbers = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", torch.randn(3, count, generator=numbers))
        self.register_buffer("phases", 2 * math.pi * torch.rand(count, generator=numbers))

    def forward(self, x: Tensor) -> Tensor:
        waves: Tensor = (x @ self.frequencies + self.phases).cos()
        return waves * math.sqrt(2 / waves.shape[-1])


def process(inducing: int | None = None) -> bm.DKT:
    kernel = RBFKernel()
    kernel.lengthscale = 1.0
    return bm.DKT(nn.Identity(), kernel, bm.likelihoods.Gaussian(NOISE), inducing=inducing)


def layer(features: int) -> bm.ALPaCA:
    head = nn.Linear(features, 1)
    for part in head.parameters():
        nn.init.zeros_(part)
    return bm.ALPaCA(Fourier(features, seed=1), head, bm.likelihoods.Gaussian(NOISE))


def curve(count: int) -> tuple[bm.Points, Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    truth, weights = Fourier(4096, seed=0), torch.randn(4096, 1, generator=numbers)
    x, asked = (4 * torch.rand(1, n, 3, generator=numbers) - 2 for n in (count, ASKED))
    y = truth(x) @ weights + NOISE * torch.randn(1, count, 1, generator=numbers)
    return bm.Points(x, y, torch.ones(1, count, dtype=torch.bool)), asked, truth(asked) @ weights


def peak(anew: bool = False) -> float:
    """The most memory that this process has held, in MB, on Linux; from now on if anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def at_once(count: int, make: Callable[[], bm.Learner], subset: int | None = None) -> dict[str, Any]:
    known, asked, truth = curve(count)
    kept = bm.Points(*(part[:, :subset] for part in known))
    learner = make()
    with torch.no_grad():
        learner(bm.Points(*(part[:, :2] for part in known)))(asked[:, :2])  # the first is slow
        before, began = peak(anew=True), time.process_time()
        prediction: Any = learner(kept)(asked)
    found = {"seconds": time.process_time() - began, "MB": peak() - before}
    found["RMSE"] = float((prediction.mean - truth).square().mean().sqrt())
    noise = NOISE * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    found["NLL"] = float(-prediction.log_prob(truth + noise).mean())
    if count <= 2000:
        with torch.no_grad():
            exact: Any = process()(known)(asked)
            epistemic = [(p.variance - NOISE**2).clamp(min=1e-12).sqrt() for p in (prediction, exact)]
        found["means apart"] = float(((prediction.mean - exact.mean).abs() / exact.stddev).max())
        found["deviations"] = float((epistemic[0] / epistemic[1]).mean())
    return found


def streamed(make: Callable[[], bm.Learner], labels: bool, updates: int) -> dict[str, Any]:
    numbers = torch.Generator().manual_seed(0)
    classes = torch.randint(CLASSES, (1, updates), generator=numbers)
    x = torch.randn(CLASSES, FEATURES, generator=numbers)[classes] + torch.randn(
        1, updates, FEATURES, generator=numbers
    )
    y = classes if labels else x[..., :1].sin() + NOISE * torch.randn(1, updates, 1, generator=numbers)
    points, asked = bm.Points(x, y, torch.ones_like(classes, dtype=torch.bool)), x[:, :200] + 0.1
    torch.manual_seed(0)
    learner = make()
    times, half = [], 0
    with torch.no_grad():
        posterior = learner(bm.Points(*(part[:, :1] for part in points)))
        for i in range(1, updates):
            one = bm.Points(*(part[:, i : i + 1] for part in points))
            began = time.process_time()
            posterior = posterior.update(one)
            times.append(time.process_time() - began)
            if i == updates // 2:
                half = own_memory()
        grown = own_memory() - half
        predictions: list[Any] = [answers(asked) for answers in (posterior, learner(points))]
    apart = [getattr(p, "logits", None) if labels else torch.cat([p.mean, p.stddev]) for p in predictions]
    share = max(updates // 10, 1)
    return {
        "first us": 1e6 * statistics.median(times[:share]),
        "last us": 1e6 * statistics.median(times[-share:]),
        "grown MB": (grown - 32 * (updates // 2)) / 1e6,  # without the times themselves
        "apart": float((apart[0] - apart[1]).abs().max()),
    }


STREAMS: dict[str, tuple[Callable[[], bm.Learner], bool]] = {
    "ALPaCA": (
        lambda: bm.ALPaCA(bm.networks.MLP(FEATURES, 1).features, nn.Linear(40, 1), bm.likelihoods.Gaussian(NOISE)),
        False,
    ),
    "GeMCL": (lambda: bm.GeMCL(bm.networks.MLP(FEATURES, 1).features, 40, CLASSES), True),
    "PrototypicalNetwork": (
        lambda: bm.PrototypicalNetwork(bm.networks.MLP(FEATURES, 1).features, CLASSES),
        True,
    ),
    "CNP": (
        lambda: bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(FEATURES, 1, 32), bm.networks.MLP(FEATURES + 32, 1), bm.likelihoods.Gaussian(NOISE)
        ),
        False,
    ),
}


def entries(updates: int) -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for count in (2_000, 10_000):
        found[f"{count}: DKT"] = lambda n=count: at_once(n, process)
        for few in (64, 128, 256, 512):
            found[f"{count}: DKT(inducing={few})"] = lambda n=count, m=few: at_once(n, lambda: process(m))
        found[f"{count}: DKT of 512 of them"] = lambda n=count: at_once(n, process, 512)
        found[f"{count}: ALPaCA, 512 random features"] = lambda n=count: at_once(n, lambda: layer(512))
    for name, (make, labels) in STREAMS.items():
        found[f"stream of {updates}: {name}"] = lambda make=make, labels=labels: streamed(make, labels, updates)
    return found


def run(name: str, updates: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    return entries(updates)[name]()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="entries; all if none")
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    for name in given.names or entries(given.updates):
        if name not in load(given.results):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                keep(given.results, name, alone.submit(run, name, given.updates).result())
    for name, row in load(given.results).items():
        print(name, "|", ", ".join(f"{what} {value:.3g}" for what, value in row.items()))


if __name__ == "__main__":
    main()
