"""Intents of a dialogue system, domain after domain: CLINC150 in one pass, on sentence embeddings that stay as they are.

    BAYESMETA_DATA=... python benchmarks/accuracy/streams_text.py            # about three minutes of one core
    BAYESMETA_DATA=... python benchmarks/accuracy/streams_text.py --table    # prints what is there

Ten domains of 15 intents each. A learner is meta-trained on five domains, in the order of the pack, and told the other five one
after the other, 10 utterances of each intent (of the pack's train split); 10 others are asked, among all 75 intents. Then the two
halves change places. A stream draws utterances; the order of domains is the pack's.

Features are 384 numbers a text (all-MiniLM-L6-v2): as they are but for a learned scale, or through a linear layer to 64 that is
learned too. 75 intents are few to learn from, so that learners with a closed form train on four domains of the five, and stop by
the NLL of the fifth. A first version, in which no domain was held out and every embedding went through a learned layer, was
seen on the same test domains; nothing else was chosen by them. Finished runs are kept in results/streams_text.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import Estimate
from bayesmeta.tasks import ClassStreams, ClassTasks
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "streams_text.json"
SHOTS, QUERIES, STREAMS, STEPS = 10, 10, 5, 1000
WAYS = 75
"""Of the streams: intents of five domains."""


def domains() -> dict[str, list[str]]:
    with gzip.open(Path(os.environ["BAYESMETA_DATA"]) / "clinc150" / "clinc150.json.gz") as file:
        found: dict[str, list[str]] = json.load(file)["domains"]
    return found


def texts() -> tuple[torch.Tensor, list[str]]:
    """Embeddings of the train split, and the intent of each."""
    root = Path(os.environ["BAYESMETA_DATA"])
    with gzip.open(root / "clinc150" / "clinc150.json.gz") as file:
        splits = json.load(file)["splits"]
    names = np.array([name for name, rows in splits.items() for _ in rows])
    labels = [label for _, label in splits["train"]]
    with np.load(root / "text_embeddings" / "clinc150_minilm.npz") as file:
        return torch.from_numpy(file["embeddings"][names == "train"].astype(np.float32)), labels


class Scaled(nn.Module):
    """Outputs of about unit size, from vectors of unit length: distances of single numbers would be tiny."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.log_scale = features, nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.features(x) * self.log_scale.exp()
        return scaled


def linear() -> nn.Module:
    return Scaled(nn.Linear(384, 64))


def maml() -> bm.Learner:
    network = nn.Sequential(linear(), nn.Linear(64, WAYS))
    return bm.MAML(network, bm.likelihoods.Categorical(), steps=5, rate=0.5)


LEARNERS: dict[str, Callable[[], bm.Learner]] = {
    "class Gaussians, learned layer": lambda: bm.GeMCL(linear(), size=64, classes=WAYS),
    "class Gaussians": lambda: bm.GeMCL(Scaled(nn.Identity()), size=384, classes=WAYS),
    "prototypes, learned layer": lambda: bm.PrototypicalNetwork(linear(), classes=WAYS),
    "prototypes": lambda: bm.PrototypicalNetwork(Scaled(nn.Identity()), classes=WAYS),
    "MAML, further steps": maml,
    "MAML, rehearsal of 150": lambda: bm.Rehearsal(maml(), capacity=150),
}


def trained(name: str, x: torch.Tensor, labels: list[str], known: Sequence[Sequence[str]]) -> bm.Learner:
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    given: dict[str, Any] = {"batch": 1, "shots": 3, "queries": 3}
    if name.startswith("MAML"):  # whose outputs are labels: it needs as many in training as later
        bm.fit(learner, ClassTasks(x, labels, subset=[*chain(*known)], ways=WAYS, **given), steps=500, progress=False)
        return learner
    classes, learner.classes = WAYS, 60  # type: ignore[assignment]
    tasks = ClassTasks(x, labels, subset=[*chain(*known[:-1])], ways=60, **given)
    held_out = ClassTasks(x, labels, subset=list(known[-1]), ways=15, **given)
    bm.fit(learner, tasks, steps=STEPS, validation=held_out, validate_every=50, progress=False)
    learner.classes = classes  # type: ignore[assignment]
    return learner


def measured(name: str) -> dict[str, Any]:
    (x, labels), parts = texts(), list(domains().values())
    found: dict[str, Any] = {}
    for half, (known, new) in {
        "first to last": (parts[:5], parts[5:]),
        "last to first": (parts[5:], parts[:5]),
    }.items():
        began = time.process_time()
        learner = trained(name, x, labels, known)
        training = time.process_time() - began
        tasks = ClassTasks(x, labels, subset=[*chain(*new)], ways=WAYS, shots=SHOTS, queries=QUERIES, batch=1, seed=1)
        kept = evaluate_stream(learner, ClassStreams(tasks, classes=new), episodes=STREAMS, progress=False)
        found[half] = {
            "final": {metric: list(figure) for metric, figure in kept.final.items()},
            "forgetting": {metric: list(figure) for metric, figure in kept.forgetting.items()},
            "interference": {metric: list(figure) for metric, figure in kept.interference.items()},
            "gap": {metric: list(figure) for metric, figure in kept.gap.items()},
            "matrix": {metric.name: kept.matrix(metric.name).tolist() for metric in kept.metrics},
            "training CPU seconds": training,
        }
    return found


def table(results: dict[str, Any]) -> str:
    lines = [
        "| | half | accuracy | NLL | ECE | accuracy forgotten | NLL above all at once | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in LEARNERS:
        for half, run in results.get(name, {}).items():
            final = [Estimate(*run["final"][metric]) for metric in ("Accuracy", "NLL", "ECE")]
            cells = [*map(str, final), str(Estimate(*run["forgetting"]["Accuracy"])), f"{run['gap']['NLL'][0]:.3f}"]
            lines.append(f"| {name} | {half} | {' | '.join(cells)} | {run['training CPU seconds']:.0f} s |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in () if given.table else LEARNERS:
        if name not in load(RESULTS):
            keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
