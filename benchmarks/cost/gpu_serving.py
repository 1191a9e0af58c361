"""Latencies of one task: the adaptation to 10 points and the predictive mean at 15 inputs, from the CPU and back to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpytorch.kernels import RBFKernel, ScaleKernel

import bayesmeta as bm
from benchmarks.cost.gpu_speed import SECONDS, images, timed


def learners(width: int) -> dict[str, tuple[Callable[[], bm.Learner], bool]]:
    """And whether it answers for pictures."""
    kernel = partial(ScaleKernel, RBFKernel())
    mlp = partial(bm.networks.MLP, 1, 1)
    return {
        "MAML": (lambda: bm.MAML(mlp(), bm.likelihoods.Gaussian(), steps=5), False),
        "ABML": (lambda: bm.ABML(mlp(), bm.likelihoods.Gaussian()), False),
        "PLATIPUS": (lambda: bm.PLATIPUS(mlp(), bm.likelihoods.Gaussian()), False),
        "BMAML": (lambda: bm.BMAML(mlp(), bm.likelihoods.Gaussian()), False),
        "LEO": (
            lambda: bm.LEO(
                bm.encoders.Relation(40, 1, 16, features=mlp().features), 1, bm.likelihoods.Gaussian(), latent=8
            ),
            False,
        ),
        "CNP": (
            lambda: bm.ConditionalNeuralProcess(
                bm.encoders.DeepSet(1, 1, 32), bm.networks.MLP(33, 1), bm.likelihoods.Gaussian()
            ),
            False,
        ),
        "NP": (
            lambda: bm.NeuralProcess(
                bm.encoders.DeepSet(1, 1, 32), bm.networks.MLP(41, 1), bm.likelihoods.Gaussian(), latent=8
            ),
            False,
        ),
        "VERSA": (
            lambda: bm.VERSA(bm.encoders.DeepSet(40, 1, 16, features=mlp().features), 1, bm.likelihoods.Gaussian()),
            False,
        ),
        "ALPaCA": (lambda: bm.ALPaCA(mlp().features, mlp().head, bm.likelihoods.Gaussian()), False),
        "DKT": (lambda: bm.DKT(mlp().features, kernel(), bm.likelihoods.Gaussian()), False),
        "ADKL": (
            lambda: bm.ADKL(
                bm.encoders.DeepSet(1, 1, 32), bm.networks.MLP(33, 8), RBFKernel(), bm.likelihoods.Gaussian()
            ),
            False,
        ),
        "ADKF": (lambda: bm.ADKF(mlp().features, kernel(), bm.likelihoods.Gaussian()), False),
        "PACOH": (lambda: bm.PACOH(mlp().features, kernel(), bm.likelihoods.Gaussian(), tasks=20), False),
        "PACOH-NN": (lambda: bm.PACOHNN(mlp(), bm.likelihoods.Gaussian(), tasks=20), False),
        "PrototypicalNetwork, Conv4": (
            lambda: bm.PrototypicalNetwork(bm.networks.Conv4(outputs=5, width=width).features, classes=5),
            True,
        ),
        "MAML, Conv4": (
            lambda: bm.MAML(bm.networks.Conv4(outputs=5, width=width), bm.likelihoods.Categorical(), steps=5, rate=0.4),
            True,
        ),
        "LaplaceGP, Conv4": (
            lambda: bm.LaplaceGP(bm.networks.Conv4(outputs=5, width=width).features, kernel(), classes=5),
            True,
        ),
    }


def latency(name: str, device: str, dry: bool) -> dict[str, Any]:
    make, pictured = learners(8 if dry else 64)[name]
    torch.manual_seed(0)
    learner = make().to(device).eval()
    episode = images(1) if pictured else bm.tasks.Sinusoids(batch=1, shots=10, queries=15)[0]

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
