"""Latencies of one task: the adaptation to 10 points and the predictive mean at 15 inputs, from the CPU and back to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_speed import SECONDS, images, timed
from gpytorch.kernels import RBFKernel, ScaleKernel

import bayesmeta as bm


def learners(width: int) -> dict[str, tuple[Callable[[], bm.Learner], bool]]:
    """And whether it answers for pictures."""
    kernel = partial(ScaleKernel, RBFKernel())
    mlp = partial(bm.MLP, 1, 1)
    return {
        "MAML": (lambda: bm.MAML(mlp(), bm.Gaussian(), steps=5), False),
        "ABML": (lambda: bm.ABML(mlp(), bm.Gaussian()), False),
        "PLATIPUS": (lambda: bm.PLATIPUS(mlp(), bm.Gaussian()), False),
        "BMAML": (lambda: bm.BMAML(mlp(), bm.Gaussian()), False),
        "LEO": (lambda: bm.LEO(bm.Relation(40, 1, 16, features=mlp().features), 1, bm.Gaussian(), latent=8), False),
        "CNP": (lambda: bm.ConditionalNeuralProcess(bm.DeepSet(1, 1, 32), bm.MLP(33, 1), bm.Gaussian()), False),
        "NP": (lambda: bm.NeuralProcess(bm.DeepSet(1, 1, 32), bm.MLP(41, 1), bm.Gaussian(), latent=8), False),
        "VERSA": (lambda: bm.VERSA(bm.DeepSet(40, 1, 16, features=mlp().features), 1, bm.Gaussian()), False),
        "ALPaCA": (lambda: bm.ALPaCA(mlp().features, mlp().head, bm.Gaussian()), False),
        "DKT": (lambda: bm.DKT(mlp().features, kernel(), bm.Gaussian()), False),
        "ADKL": (lambda: bm.ADKL(bm.DeepSet(1, 1, 32), bm.MLP(33, 8), RBFKernel(), bm.Gaussian()), False),
        "ADKF": (lambda: bm.ADKF(mlp().features, kernel(), bm.Gaussian()), False),
        "PACOH": (lambda: bm.PACOH(mlp().features, kernel(), bm.Gaussian(), tasks=20), False),
        "PACOH-NN": (lambda: bm.PACOHNN(mlp(), bm.Gaussian(), tasks=20), False),
        "PrototypicalNetwork, Conv4": (
            lambda: bm.PrototypicalNetwork(bm.Conv4(outputs=5, width=width).features, classes=5),
            True,
        ),
        "MAML, Conv4": (lambda: bm.MAML(bm.Conv4(outputs=5, width=width), bm.Categorical(), steps=5, rate=0.4), True),
        "LaplaceGP, Conv4": (
            lambda: bm.LaplaceGP(bm.Conv4(outputs=5, width=width).features, kernel(), classes=5),
            True,
        ),
    }


def latency(name: str, device: str, dry: bool) -> dict[str, Any]:
    make, pictured = learners(8 if dry else 64)[name]
    torch.manual_seed(0)
    learner = make().to(device).eval()
    episode = images(1) if pictured else bm.Sinusoids(batch=1, shots=10, queries=15)[0]

    def answer() -> torch.Tensor:
        with torch.no_grad():
            prediction: Any = learner(episode.support)(episode.query.x)
            values: torch.Tensor = prediction.logits if hasattr(prediction, "logits") else prediction.mean
            return values.cpu()

    result = timed(answer, device, SECONDS["cpu" if dry else "cuda"] / 2)
    return result if bool(answer().isfinite().all()) else {**result, "failed": "answers that are not finite"}


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    dry = device == "cpu"
    return {
        f"{name}{where}": partial(latency, name, on, dry)
        for on, where in ((device, ""), ("cpu", "; CPU"))
        for name in learners(8)
    }
