"""One task of thousands of points: what answers cost that know all of them, exactly or by way of a few.

    python benchmarks/cost/many_points.py                        # all entries; a minute and 4 GB
    python benchmarks/cost/many_points.py "10000: DKT(inducing=256)"  # one of them

A function of three inputs, drawn from the process that answers (an RBF kernel of lengthscale 1 on [-2, 2]³) and seen
with noise of 0.1. Kept are CPU seconds and peak memory of the support and of 1,000 answers, on one thread in a process of their
own, their error against the function, and, of 2,000 points, against the exact process: the largest difference of means, in units
of the exact deviation with the noise, and the mean ratio of the function's deviations.
Finished entries are kept in results/many_points.json.
"""

from __future__ import annotations

import argparse
import math
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
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "many_points.json"
NOISE, ASKED = 0.1, 1000


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


def entries() -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for count in (2_000, 10_000):
        found[f"{count}: DKT"] = lambda n=count: at_once(n, process)
        for few in (64, 128, 256, 512):
            found[f"{count}: DKT(inducing={few})"] = lambda n=count, m=few: at_once(n, lambda: process(m))
        found[f"{count}: DKT of 512 of them"] = lambda n=count: at_once(n, process, 512)
        found[f"{count}: ALPaCA, 512 random features"] = lambda n=count: at_once(n, lambda: layer(512))
    return found


def run(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    return entries()[name]()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="entries; all if none")
    given = parser.parse_args(argv)
    for name in given.names or entries():
        if name not in load(RESULTS):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                keep(RESULTS, name, alone.submit(run, name).result())
    for name, row in load(RESULTS).items():
        print(name, "|", ", ".join(f"{what} {value:.3g}" for what, value in row.items()))


if __name__ == "__main__":
    main()
