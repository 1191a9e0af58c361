"""Streams of digits whose domain or classes change: permuted, turned and split MNIST, learned part by part.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams_pictures.py                     # all learners on all streams
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_pictures.py permuted "VCL"      # one, where several run at a time
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_pictures.py --validate permuted "VCL" prior_scale=0.1
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_pictures.py --table             # prints what is there

Every part has all 30,000 training pictures of the pack (split: those of its classes), and asks about all 10,000 test pictures,
each once more at the end. One network, [100, 100], one head; one thread. Settings were chosen by `--validate`, on 3,000 of the
training pictures, with five permuted parts of another seed: of VCL the rate (0.002, 0.004, 0.008), of online Laplace the prior's
scale and the weight of the past (0.3 with 1 and 10; 1 with 1 was tried with predictions by draws of weights, before they were
linearised, and not again); the same settings serve all streams. Replay takes one pass of ten points a step, at its default rate,
with as many pictures kept as the coresets have; the others have twelve epochs, and take about the same time. What
each part taught is kept in weights/streams_pictures and goes on where it was interrupted, finished runs in
results/streams_pictures.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.data import Episode, join
from bayesmeta.evaluation import Retention
from bayesmeta.files.posterior_state import posterior_state, restored
from bayesmeta.metrics import Metric, default_metrics
from bayesmeta.randomness import seeded
from bayesmeta.tasks import DomainStreams
from benchmarks.store import keep, load

HERE = Path(__file__).parents[1]
RESULTS, WEIGHTS = HERE / "results" / "streams_pictures.json", HERE / "weights" / "streams_pictures"
PARTS, HELD_OUT = 10, 3000
PAPERS = {"VCL, coreset of 200": "93", "online Laplace (EWC)": "84"}
"""Accuracy in per cent, permuted MNIST, ten parts of 60,000 pictures, 100 epochs a part (Nguyen et al. 2018, figure 2)."""


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), bm.networks.MLP(784, 10, hidden=(100, 100)))


def vcl(**settings: Any) -> bm.Learner:
    return bm.VCL(network(), bm.likelihoods.Categorical(), **settings)


def laplace(**settings: Any) -> bm.Learner:
    return bm.OnlineLaplace(network(), bm.likelihoods.Categorical(), **settings)


def replay(**settings: Any) -> bm.Learner:
    return bm.ExperienceReplay(network(), bm.likelihoods.Categorical(), memory=2000, **settings)


LEARNERS: dict[str, tuple[Callable[..., bm.Learner], dict[str, Any]]] = {
    "VCL, coreset of 200": (vcl, {"coreset": 200, "epochs": 12, "rate": 0.008, "prior_scale": 0.1, "scale": 0.03}),
    "VCL": (vcl, {"epochs": 12, "rate": 0.008, "prior_scale": 0.1, "scale": 0.03}),
    "online Laplace (EWC)": (laplace, {"epochs": 12, "prior_scale": 0.3, "weight": 10.0}),
    "fine-tuning": (laplace, {"epochs": 12, "prior_scale": 0.3, "weight": 0.0}),
    "experience replay": (replay, {"rate": 0.1}),
    "all parts at once": (laplace, {"epochs": 12, "prior_scale": 0.3, "weight": 0.0}),
}


def pictures(validate: bool) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training and test pictures with their labels; for validation both are of the training ones."""
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "mnist" / "mnist.npz") as file:
        train, test = ((file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test"))
    if not validate:
        return train, test
    order = np.random.default_rng(0).permutation(len(train[1]))
    kept, out = order[HELD_OUT:], order[:HELD_OUT]
    return (train[0][kept], train[1][kept]), (train[0][out], train[1][out])


def streams(kind: str, validate: bool) -> Any:
    train, test = pictures(validate)
    if kind == "split":
        return Split(train, test)
    return DomainStreams(train, test, change=kind, domains=5 if validate else PARTS, seed=1 if validate else 0)  # type: ignore[arg-type]


class Split:
    """Two digits after the other, 0 and 1 first, with one head: each part's training pictures, and test pictures."""

    def __init__(self, train: tuple[Any, Any], test: tuple[Any, Any]) -> None:
        self.given = train, test

    def parts(self, index: int) -> list[Episode]:
        return [Episode(*(self._of(classes, *given) for given in self.given)) for classes in range(0, 10, 2)]

    def _of(self, first: int, images: Any, labels: Any) -> bm.Points:
        chosen = (labels == first) | (labels == first + 1)
        x = torch.from_numpy(images[chosen]).float()[None, :, None] / 255
        y = torch.from_numpy(labels[chosen]).long()[None]
        return bm.Points(x, y, torch.ones_like(y, dtype=torch.bool))


def asked(posterior: Any, part: Episode, metrics: list[Metric]) -> list[Tensor]:
    """Each metric's statistic of a part's queries, ``(1, K)``; a thousand pictures at a time, as there are 64 draws of each."""
    totals: list[Any] = [0.0] * len(metrics)
    with torch.no_grad(), seeded(0):
        for first in range(0, part.query.mask.shape[1], 1000):
            query = bm.Points(*(leaf[:, first : first + 1000] for leaf in part.query))
            prediction = posterior(query.x)
            totals = [t + m.statistic(prediction, query).double() for t, m in zip(totals, metrics, strict=True)]
    return totals


def told(name: str, learner: bm.Learner, parts: list[Episode], folder: Path | None, metrics: list[Metric]) -> Any:
    """The posterior after all parts; CPU seconds of each; and of each metric the statistics right after it came, ``(P, K)``."""
    posterior: Any = None
    seconds, fresh = [], []
    for t, part in enumerate(parts):
        path = None if folder is None else folder / f"{name} {t}.pt"
        nothing = bm.Points(*(torch.zeros_like(leaf[:, :1]) for leaf in part.support))
        if path is not None and path.exists():
            spent, row, state = torch.load(path, weights_only=True)
            with torch.no_grad():
                posterior = restored(learner(nothing), state, str(path))
        else:
            began = time.process_time()
            with torch.no_grad(), seeded(t):
                posterior = learner(part.support) if posterior is None else posterior.update(part.support)
            spent, row = time.process_time() - began, asked(posterior, part, metrics)
            posterior.support = nothing
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save((spent, row, posterior_state(posterior)), path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
        seconds.append(spent)
        fresh.append(row)
    return posterior, seconds, [torch.cat(rows) for rows in zip(*fresh, strict=True)]


def measured(kind: str, name: str, validate: bool = False, **changed: Any) -> dict[str, Any]:
    make, settings = LEARNERS[name]
    settings = {**settings, **changed}
    torch.manual_seed(0)
    learner = make(**settings)
    source, parts = streams(kind, validate), []
    parts = source.parts(0)
    metrics = default_metrics(bm.likelihoods.Categorical()(torch.zeros(1, 1, 10)))
    begun = [Episode(join(parts).support, parts[0].query)] if name == "all parts at once" else parts
    folder = None if validate else WEIGHTS / kind
    posterior, seconds, fresh = told(name, learner, begun, folder, metrics)
    last = [torch.cat(rows) for rows in zip(*(asked(posterior, part, metrics) for part in parts), strict=True)]
    if len(begun) < len(parts):
        fresh = last
    times, nothing = [len(parts) - 1], [torch.zeros_like(rows)[None] for rows in last]
    later, came = [rows[None, None] for rows in last], [rows[None] for rows in fresh]
    kept = Retention(
        metrics, times, later, came, before=nothing, untaught=nothing, alone=nothing, together=[], shared=None
    )
    state = posterior_state(posterior)
    return {
        "final": {metric: found.value for metric, found in kept.final.items()},
        "forgetting": {metric: found.value for metric, found in kept.forgetting.items()},
        "backward": {metric: found.value for metric, found in kept.backward.items()},
        "by part": {m.name: m.reduce(rows).tolist() for m, rows in zip(metrics, last, strict=True)},
        "right after it came": {m.name: m.reduce(rows).tolist() for m, rows in zip(metrics, fresh, strict=True)},
        "training CPU seconds": sum(seconds),
        "bytes": sum(leaf.nbytes for leaf in state.values() if isinstance(leaf, Tensor)),
        "settings": settings,
        "torch": torch.__version__,
    }


def table(results: dict[str, Any]) -> str:
    lines = []
    for kind in ("permuted", "rotated", "split"):
        lines += [
            f"| {kind} MNIST | accuracy | NLL | ECE | accuracy forgotten | backward | training | state | paper |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name in LEARNERS:
            if (run := results.get(f"{kind}, {name}")) is None:
                continue
            cells = [f"{run['final'][metric]:.3f}" for metric in ("Accuracy", "NLL", "ECE")]
            cells += [f"{run[figure]['Accuracy']:.3f}" for figure in ("forgetting", "backward")]
            cells += [f"{run['training CPU seconds']:.0f} s", f"{run['bytes'] / 1e6:.1f} MB"]
            lines.append(f"| {name} | {' | '.join(cells)} | {PAPERS.get(name, '') if kind == 'permuted' else ''} |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="a stream, a learner, and settings to change; all if none")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on held-out training pictures; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds = given.which[:1] or ["permuted", "rotated", "split"]
    names = given.which[1:2] or list(LEARNERS)
    changed = {
        name: float(value) if set(value) & set(".e") else int(value)
        for name, value in (pair.split("=") for pair in given.which[2:])
    }
    for kind in () if given.table else kinds:
        for name in names:
            if given.validate:
                print(name, measured(kind, name, validate=True, **changed))
            elif f"{kind}, {name}" not in load(RESULTS):
                keep(RESULTS, f"{kind}, {name}", measured(kind, name))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
