"""The measurements of omniglot.py: held-out characters, strangers, and Lake's one-shot runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.distributions import temper
from bayesmeta.evaluation import evaluating, predict
from bayesmeta.evaluation.evaluate import estimates
from bayesmeta.randomness import seeded

METRICS: list[bm.metrics.Metric] = [bm.metrics.Accuracy(), bm.metrics.NLL(), bm.metrics.ECE()]
EPISODES, TASKS = 30, 20  # test episodes, and tasks in each
SEED = 2  # of these tasks nothing was seen when settings were chosen: some had been changed after tests with seed 1


def measure(learner: bm.Learner, ways: int, shots: int) -> dict[str, Any]:
    """Metrics of test tasks as they are and with the temperature of validation tasks, from the same predictions."""
    if hasattr(learner, "classes"):
        learner.classes = ways
    validation, test = (
        bm.tasks.Omniglot(split=split, ways=ways, shots=shots, queries=15, batch=TASKS, seed=SEED)  # type: ignore[arg-type]
        for split in ("validation", "test")
    )
    temperature = bm.Calibrated.from_tasks(learner, validation, episodes=10).temperature
    rows: dict[str, list[list[Tensor]]] = {label: [[] for _ in METRICS] for label in ("raw", "calibrated")}
    with evaluating(learner), seeded(0), torch.no_grad():
        for episode in (test[index] for index in range(EPISODES)):
            prediction = predict(learner, episode)
            for label, given in (("raw", prediction), ("calibrated", temper(prediction, temperature))):
                for metric, row in zip(METRICS, rows[label], strict=True):
                    row.append(metric.statistic(given, episode.query))
    found = {label: estimates(METRICS, [torch.cat(row) for row in each]) for label, each in rows.items()}
    return {
        **{label: {key: tuple(value) for key, value in each.items()} for label, each in found.items()},
        "temperature": temperature.item(),
    }


def archive(*names: str) -> list[Any]:
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "omniglot" / "omniglot28.npz") as file:
        return [file[name] for name in names]


def strangers(learner: bm.Learner, episodes: int = 10) -> dict[str, float]:
    """How well doubt tells drawings of a task's own characters from others: AUROC over the queries of 200 tasks.

    A task holds 5 characters of one test alphabet, one drawing of each. Its strangers are characters of another test alphabet,
    and digits of MNIST. "epistemic" is the mutual information of label and function, "total" the entropy of the prediction.
    """
    if hasattr(learner, "classes"):
        learner.classes = 5
    images, alphabets, split = archive("images", "alphabet", "split_vinyals")
    images, alphabets = images[split == 2], alphabets[split == 2]
    with np.load(Path(os.environ["BAYESMETA_DATA"]) / "mnist" / "mnist.npz") as file:
        digits = file["x_test"]
    numbers = np.random.default_rng(SEED)
    names = [name for name, count in zip(*np.unique(alphabets, return_counts=True), strict=True) if count >= 5]
    scores: dict[str, list[Tensor]] = {}
    with evaluating(learner), seeded(SEED), torch.no_grad():
        for _ in range(episodes):
            support, known, other, digit = [], [], [], []
            for _ in range(TASKS):
                here, there = numbers.choice(names, 2, replace=False)
                own = numbers.choice(np.flatnonzero(alphabets == here), 5, replace=False)
                drawings = images[own][:, numbers.permutation(20)[:4]]
                support.append(drawings[:, 0])
                known.append(drawings[:, 1:].reshape(15, 28, 28))
                other.append(
                    images[numbers.choice(np.flatnonzero(alphabets == there), 15), numbers.integers(0, 20, 15)]
                )
                digit.append(digits[numbers.integers(0, len(digits), 15)].reshape(15, 28, 28))
            posterior = learner(
                bm.Points(pictures(support), torch.arange(5).repeat(TASKS, 1), torch.ones(TASKS, 5).bool())
            )
            for kind, x in (("known", known), ("other alphabets", other), ("MNIST", digit)):
                total, _, epistemic = posterior.decompose(pictures(x), 64)
                scores.setdefault(f"{kind} total", []).append(total.flatten())
                scores.setdefault(f"{kind} epistemic", []).append(epistemic.flatten())
    found = {}
    for kind in ("other alphabets", "MNIST"):
        for score in ("epistemic", "total"):
            inside, outside = (torch.cat(scores[f"{one} {score}"]) for one in ("known", kind))
            positive = torch.arange(len(inside) + len(outside)) >= len(inside)
            found[f"{kind}, {score}"] = bm.metrics.auroc(torch.cat([inside, outside]), positive).item()
    return found


def pictures(tasks: list[Any]) -> Tensor:
    return torch.as_tensor(np.stack(tasks))[:, :, None] / 255


def one_shot(learner: bm.Learner) -> dict[str, float]:
    """Lake's 20 runs of 20-way one-shot classification within an alphabet: 400 trials."""
    if hasattr(learner, "classes"):
        learner.classes = 20
    images, support, query, answer = archive("images", "oneshot_support", "oneshot_query", "oneshot_answer")
    x, y = (pictures(list(images[part[..., 0], part[..., 1]])) for part in (support, query))
    there = torch.ones(20, 20, dtype=torch.bool)
    episode = bm.Episode(
        bm.Points(x, torch.arange(20).repeat(20, 1), there), bm.Points(y, torch.as_tensor(answer).long(), there)
    )
    with evaluating(learner), seeded(SEED), torch.no_grad():
        prediction = predict(learner, episode)
    found = estimates(METRICS, [metric.statistic(prediction, episode.query) for metric in METRICS])
    return {key: tuple(value) for key, value in found.items()}  # type: ignore[misc]
