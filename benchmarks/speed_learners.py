"""The learners of speed.py, each from the sizes that its cost may grow with, and the tasks they are timed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import omniglot_learners
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from omniglot_learners import RUNS
from torch import nn

import bayesmeta as bm

WAYS = 5


@dataclass(frozen=True)
class Size:
    """What a meta-update's cost may grow with."""

    tasks: int = 25
    steps: int = 5
    draws: int = 4
    """Functions of a loss; of BMAML and PACOH, particles."""
    points: int = 10
    """Support points of a task; there are 10 queries."""
    width: int = 40


class Clusters(torch.utils.data.Dataset[bm.Episode]):
    """5-way classification of points in the plane, a cluster a class."""

    def __init__(self, tasks: int, points: int, queries: int = 10) -> None:
        self.tasks, self.points, self.queries = tasks, points, queries

    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: int) -> bm.Episode:
        generator = torch.Generator().manual_seed(index)
        centres = torch.randn(self.tasks, WAYS, 2, generator=generator)

        def draw(points: int) -> bm.Points:
            labels = (torch.arange(points) % WAYS).repeat(self.tasks, 1)
            noise = torch.randn(self.tasks, points, 2, generator=generator)
            x = torch.take_along_dim(centres, labels[..., None], 1) + 0.3 * noise
            return bm.Points(x, labels, torch.ones_like(labels, dtype=torch.bool))

        return bm.Episode(draw(self.points), draw(self.queries))


def kernel() -> ScaleKernel:
    return ScaleKernel(RBFKernel())


def body(size: Size, inputs: int = 1) -> bm.MLP:
    return bm.MLP(inputs, 1, hidden=(size.width, size.width))


def anil(size: Size) -> bm.Learner:
    network = body(size)
    return bm.ANIL(network.features, network.head, bm.Gaussian(), steps=size.steps)


def alpaca(size: Size) -> bm.Learner:
    network = body(size)
    return bm.ALPaCA(network.features, network.head, bm.Gaussian())


def attentive(size: Size) -> bm.Learner:
    encoder, hidden = bm.Attention(1, 1), (size.width, size.width)
    decoder = bm.MLP(1 + encoder.size + 16, 2, hidden=hidden)
    return bm.NeuralProcess(encoder, decoder, bm.HeteroscedasticGaussian(), draws=size.draws)


def conditional(size: Size) -> bm.Learner:
    encoder, hidden = bm.DeepSet(1, 1), (size.width, size.width)
    decoder = bm.MLP(1 + encoder.size, 2, hidden=hidden)
    return bm.ConditionalNeuralProcess(encoder, decoder, bm.HeteroscedasticGaussian())


def versa(size: Size) -> bm.Learner:
    encoder = bm.DeepSet(size.width, 1, features=body(size).features)
    return bm.VERSA(encoder, 1, bm.Gaussian(), draws=size.draws)


def leo(size: Size) -> bm.Learner:
    encoder = bm.Relation(size.width, 1, features=body(size).features)
    return bm.LEO(encoder, 1, bm.Gaussian(), steps=size.steps, draws=size.draws)


def adkl(size: Size) -> bm.Learner:
    encoder = bm.DeepSet(1, 1)
    return bm.ADKL(encoder, bm.MLP(1 + encoder.size, size.width, hidden=(size.width,)), kernel(), bm.Gaussian())


def pacoh(size: Size) -> bm.Learner:
    return bm.PACOH(body(size).features, kernel(), bm.Gaussian(), tasks=100, particles=size.draws)


def bmaml(size: Size) -> bm.Learner:
    return bm.BMAML(body(size), bm.Gaussian(), steps=size.steps, leader_steps=size.steps, particles=size.draws)


REGRESSION: dict[str, Callable[[Size], bm.Learner]] = {
    "MAML": lambda size: bm.MAML(body(size), bm.Gaussian(), steps=size.steps),
    "FirstOrderMAML": lambda size: bm.FirstOrderMAML(body(size), bm.Gaussian(), steps=size.steps),
    "ANIL": anil,
    "MetaSGD": lambda size: bm.MetaSGD(body(size), bm.Gaussian(), steps=size.steps),
    "Reptile": lambda size: bm.Reptile(body(size), bm.Gaussian(), steps=size.steps),
    "ImplicitMAML": lambda size: bm.ImplicitMAML(body(size), bm.Gaussian(), steps=size.steps),
    "ABML": lambda size: bm.ABML(body(size), bm.Gaussian(), steps=size.steps, draws=size.draws),
    "PLATIPUS": lambda size: bm.PLATIPUS(body(size), bm.Gaussian(), steps=size.steps, draws=size.draws),
    "NeuralProcess": attentive,
    "ConditionalNeuralProcess": conditional,
    "VERSA": versa,
    "LEO": leo,
    "BMAML": bmaml,
    "ALPaCA": alpaca,
    "DKT": lambda size: bm.DKT(body(size).features, kernel(), bm.Gaussian()),
    "ADKL": adkl,
    "ADKF": lambda size: bm.ADKF(body(size).features, kernel(), bm.Gaussian()),
    "PACOH": pacoh,
    "PACOHNN": lambda size: bm.PACOHNN(body(size), bm.Gaussian(), tasks=100, particles=size.draws),
}
CLASSIFICATION: dict[str, Callable[[Size], bm.Learner]] = {
    "DKTClassifier": lambda size: bm.DKTClassifier(body(size, 2).features, kernel(), classes=WAYS),
    "PolyaGammaGP": lambda size: bm.PolyaGammaGP(body(size, 2).features, kernel(), classes=WAYS),
    "LaplaceGP": lambda size: bm.LaplaceGP(body(size, 2).features, kernel(), classes=WAYS),
    "PrototypicalNetwork": lambda size: bm.PrototypicalNetwork(body(size, 2).features, classes=WAYS),
}
LEARNERS = REGRESSION | CLASSIFICATION
CONV4 = [name for name in RUNS if name.endswith("; group") and "," not in name and "20 ways" not in name]


def small(name: str, size: Size) -> tuple[bm.Learner, Any]:
    """A learner on an MLP of two hidden layers, and its task source."""
    torch.manual_seed(0)
    if name in CLASSIFICATION:
        return CLASSIFICATION[name](size), Clusters(size.tasks, size.points)
    return REGRESSION[name](size), bm.Sinusoids(batch=size.tasks, shots=size.points, queries=10, noise=0.1)


def convolutional(name: str) -> tuple[bm.Learner, Any]:
    """A learner of omniglot.py on Conv4-32, with as many draws as there, and 4 tasks of 5-way 1-shot, 5 queries a class."""
    torch.manual_seed(0)
    run = replace(RUNS[name], ways=WAYS)
    learner = run.build(omniglot_learners.network(run))

    def fewer_draws(_learner: nn.Module, _support: object, posterior: Any) -> None:
        posterior.samples = min(run.draws, posterior.samples)

    learner.register_forward_hook(fewer_draws)
    return learner, bm.Omniglot(ways=WAYS, shots=1, queries=5, batch=4)
