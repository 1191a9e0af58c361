"""Regression in a stream: a sinusoid that drifts, and sinusoids that switch without notice, each beside its exact answer.

    python benchmarks/accuracy/streams_regression.py            # under an hour of one core
    python benchmarks/accuracy/streams_regression.py --table    # prints what is there

drift: y = a(t) sin(u) + b(t) cos(u) + ε, 20 parts of 5 points, 100 streams; time is an input, so that every part stays a
    question. Learners are trained on the first parts of other streams, however many, and asked about these and the next.
switch: y = a sin(u) + b cos(u) + ε, 100 parts of one point, a new task before each with probability 0.05, 100 streams. Learners
    are trained on tasks of 0 to 20 points; what counts is how well the next point is foretold.

σ = 0.1, a and b are N(0, 1). One network for all, tanh 40-40; one seed. Settings were chosen beforehand, but for hazards, by
the evidence of validation streams. Finished runs are kept in results/streams_regression.json; training goes on where
it was interrupted. "All at once": the same learner told the whole stream in one go.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import CosineKernel, RBFKernel, ScaleKernel
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.data import concatenate, join
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.files.posterior_state import posterior_state
from bayesmeta.metrics import NLL, RMSE, Coverage, Estimate, QuantileCalibrationError, estimates
from bayesmeta.tasks import DriftingSinusoids, GaussianProcessTasks, StreamSource, Switching, TaskSource
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams_regression.json", HERE / "weights" / "streams_regression"
METRICS = [NLL(), RMSE(), Coverage(0.9), QuantileCalibrationError()]
EPISODES, RATE = 4, 3e-3
TRAIN, VALIDATION, TEST = 0, 1, 2
"""Seeds of sources."""


class Beginnings(TaskSource):
    """Of each stream the first parts, none to all but one, and queries about all of these and the next."""

    def __init__(self, streams: StreamSource) -> None:
        super().__init__(seed=streams.seed, length=streams.length)
        self.streams = streams

    def draw(self, generator: torch.Generator) -> Episode:
        parts = self.streams.draw_parts(generator)
        told = int(torch.randint(len(parts), (), generator=generator))
        nothing = Points(*(torch.zeros_like(leaf[:, :1]) for leaf in parts[0].support))
        support = concatenate(nothing, *(part.support for part in parts[:told])) if told else nothing
        return Episode(support, join(parts[: told + 1]).query)


def sinusoids(**options: Any) -> GaussianProcessTasks:
    kernel = ScaleKernel(CosineKernel()).double().requires_grad_(False)
    kernel.outputscale, kernel.base_kernel.period_length = 1.0, math.pi
    return GaussianProcessTasks(kernel, noise=0.1, support_range=(-5.0, 5.0), **options)


class Family(NamedTuple):
    inputs: int
    tasks: TaskSource
    """What learners are trained on."""
    streams: Callable[[int], Any]
    """By their seed."""
    times: Sequence[int] | None
    """When all parts are asked again."""


FAMILIES = {
    "drift": Family(2, Beginnings(DriftingSinusoids(seed=TRAIN)), lambda seed: DriftingSinusoids(seed=seed), None),
    "switch": Family(
        1,
        sinusoids(shots=(0, 20), seed=TRAIN),
        lambda seed: Switching(sinusoids(shots=1, queries=1), hazard=0.05, steps=100, seed=seed),
        [99],
    ),
}


def network(inputs: int, outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(inputs, outputs, hidden=(40, 40), activation=nn.Tanh)


def alpaca(inputs: int) -> bm.Learner:
    body = network(inputs)
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian(0.5))


def maml(inputs: int) -> bm.Learner:
    return bm.MAML(network(inputs), bm.likelihoods.Gaussian(0.5), steps=5, rate=0.05)


TRAINED: dict[str, tuple[int, Callable[[int], bm.Learner]]] = {
    "ALPaCA": (4000, alpaca),
    "DKT": (
        1500,
        lambda inputs: bm.DKT(network(inputs, 2), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(0.5)),
    ),
    "neural process (mean)": (
        6000,
        lambda inputs: bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(inputs, 1, 40), network(inputs + 40, 2), bm.likelihoods.HeteroscedasticGaussian()
        ),
    ),
    "MAML": (3000, maml),
    "ABML": (600, lambda inputs: bm.ABML(network(inputs), bm.likelihoods.Gaussian(0.5))),
}
"""Steps, and the learner for so many inputs."""
LEARNERS: dict[str, tuple[str, Callable[[bm.Learner, Family], bm.Learner]]] = {
    **{name: (name, lambda learner, family: learner) for name in TRAINED},
    "MAML, rehearsed": ("MAML", lambda learner, family: bm.Rehearsal(learner)),
    "ALPaCA, with changes": (
        "ALPaCA",
        lambda learner, family: bm.Changepoints.from_streams(
            learner, family.streams(VALIDATION), capacity=20, episodes=1
        ),
    ),
}
"""Whose training, and what is made of it."""


def trained(family: str, name: str) -> tuple[bm.Learner, float]:
    """The learner, and the CPU seconds that its training took in this process."""
    torch.manual_seed(0)
    steps, make = TRAINED[name]
    learner = make(FAMILIES[family].inputs)
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE)
    began = time.process_time()
    history = bm.fit(
        learner,
        FAMILIES[family].tasks,
        steps=steps,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        seed=0,
        checkpoint=WEIGHTS / f"{family}, {name}",
        progress=False,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return learner, time.process_time() - began


def measured(family: str, name: str) -> dict[str, Any]:
    whose, make = LEARNERS[name]
    inner, seconds = trained(family, whose)
    learner = make(inner, FAMILIES[family])
    found = judged(family, learner, FAMILIES[family].streams(TEST))
    found |= {"training CPU seconds": seconds} if whose == name else {}
    return found | ({"hazard": learner.hazard} if isinstance(learner, bm.Changepoints) else {})


@torch.no_grad()
def judged(family: str, learner: Any, streams: Any) -> dict[str, Any]:
    began = time.process_time()
    kept = evaluate_stream(
        learner, streams, episodes=EPISODES, metrics=METRICS, at=FAMILIES[family].times, progress=False
    )
    spent = time.process_time() - began
    at_once = [
        metric.reduce(table.sum((0, 1))).item() for metric, table in zip(kept.metrics, kept.together, strict=True)
    ]
    figures = {"ahead": kept.ahead, "final": kept.final, "forgetting": kept.forgetting, "backward": kept.backward}
    parts = streams.parts(0)
    posterior, began = learner(parts[0].support), time.process_time()
    for part in parts[1:]:
        posterior = posterior.update(part.support)
    update = (time.process_time() - began) / (len(parts) - 1)
    held = [leaf for leaf in tree_leaves(posterior_state(posterior)) if isinstance(leaf, Tensor)]
    return {
        **{name: {metric: list(each) for metric, each in (found or {}).items()} for name, found in figures.items()},
        "gap": {metric: each.value for metric, each in kept.gap.items()},
        "at once": dict(zip([metric.name for metric in kept.metrics], at_once, strict=True)),
        "evaluation CPU seconds": spent,
        "CPU milliseconds an update of 25 streams": 1e3 * update,
        "bytes a stream": sum(leaf.numel() * leaf.element_size() for leaf in held) / len(parts[0].support.mask),
        "torch": torch.__version__,
    }


@torch.no_grad()
def informed() -> dict[str, Any]:
    """Who is told of changes, about the next part."""
    streams = FAMILIES["switch"].streams(TEST)
    rows: list[list[Tensor]] = [[] for _ in METRICS]
    for index in range(EPISODES):
        pairs = list(zip(streams.informed(index), streams.parts(index), strict=True))[1:]
        for row, metric in zip(rows, METRICS, strict=True):
            asked = [metric.statistic(posterior(part.query.x), part.query).double() for posterior, part in pairs]
            row.append(torch.stack(asked).sum(0))
    found = estimates(METRICS, [torch.cat(row) for row in rows], None)
    return {"ahead": {metric: list(each) for metric, each in found.items()}, "torch": torch.__version__}


def table(results: dict[str, Any]) -> str:
    lines = []
    for family, (_, _, _, times) in FAMILIES.items():
        past = ["NLL of all parts at the end", "forgotten (NLL)", "all at once (NLL)"] if times is None else []
        heads = ["NLL of the next part", "RMSE of it", "90 % coverage", *past, "ms an update", "bytes", "training"]
        lines += ["", f"| {family} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        rows = {key.split(": ")[1]: run for key, run in results.items() if key.startswith(f"{family}: ")}
        for name, run in sorted(rows.items(), key=lambda row: row[1]["ahead"]["NLL"][0]):
            cells = [str(Estimate(*run["ahead"][metric])) for metric in ("NLL", "RMSE", "90% coverage")]
            if past:
                cells += [str(Estimate(*run[part]["NLL"])) for part in ("final", "forgetting")]
                cells += [f"{run['at once']['NLL']:.3f}"]
            cells += [f"{run[key]:.{digits}f}" if key in run else "" for key, digits in
                      (("CPU milliseconds an update of 25 streams", 1), ("bytes a stream", 0))]  # fmt: skip
            whose = rows.get(LEARNERS[name][0], {}) if name in LEARNERS else {}
            cells += [f"{whose['training CPU seconds']:.0f} s" if whose else ""]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument(
        "--only", nargs="+", choices=list(LEARNERS), default=list(LEARNERS), help="these learners alone"
    )
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    exact: dict[str, Callable[[], dict[str, Any]]] = {
        f"{family}: exact": partial(_exact, family) for family in FAMILIES
    } | {"switch: exact, told of changes": informed}
    runs = exact | {f"{family}: {name}": partial(measured, family, name) for family in FAMILIES for name in given.only}
    for key, run in () if given.table else runs.items():
        if key not in load(RESULTS):
            keep(RESULTS, key, run())
            print(key, flush=True)
    print(table(load(RESULTS)))


def _exact(family: str) -> dict[str, Any]:
    streams = FAMILIES[family].streams(TEST)
    return judged(family, streams.oracle, streams)


if __name__ == "__main__":
    main()
