"""The learners of omniglot.py, all on one Conv4, and how each is meta-trained and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from gpytorch.kernels import Kernel, RBFKernel, ScaleKernel

import bayesmeta as bm

NORMS = {"group": bm.networks.GroupNorm, "batch": bm.networks.BatchNorm}

Build = Callable[[bm.networks.Conv4], bm.Learner]


@dataclass(frozen=True)
class Run:
    """A learner, and how it is meta-trained and tested."""

    build: Build
    steps: int
    ways: int = 5
    batch: int = 4
    queries: int = 5
    width: int = 32
    norm: str = "group"
    split: Literal["train", "background"] = "train"
    rate: float = 3e-3
    """Adam's, which a cosine takes to 0."""
    start: bool = False
    """Whether the network starts with the features of prototypical networks."""
    tests: tuple[tuple[int, int], ...] = ((5, 1), (5, 5))
    """Ways and shots."""
    draws: int | None = None
    """Functions that a prediction averages, of learners that draw them."""


def prototypes(network: bm.networks.Conv4) -> bm.Learner:
    return bm.PrototypicalNetwork(network.features, network.head.out_features)


def maml(network: bm.networks.Conv4) -> bm.Learner:
    return bm.MAML(network, bm.likelihoods.Categorical(), steps=1, rate=0.4)


def first_order(network: bm.networks.Conv4) -> bm.Learner:
    return bm.FirstOrderMAML(network, bm.likelihoods.Categorical(), steps=3, rate=0.1)


def anil(network: bm.networks.Conv4) -> bm.Learner:
    return bm.ANIL(network.features, network.head, bm.likelihoods.Categorical(), steps=5, rate=0.1)


def meta_sgd(network: bm.networks.Conv4) -> bm.Learner:
    return bm.MetaSGD(network, bm.likelihoods.Categorical(), steps=1, rate=0.4)


def reptile(network: bm.networks.Conv4) -> bm.Learner:
    return bm.Reptile(network, bm.likelihoods.Categorical(), steps=5, rate=0.1)


def implicit(network: bm.networks.Conv4) -> bm.Learner:
    return bm.ImplicitMAML(network, bm.likelihoods.Categorical(), steps=8, rate=0.1, strength=1.0, iterations=3)


def leo(network: bm.networks.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    encoder = bm.encoders.Relation(size, ways, classes=True, features=network.features)
    return bm.LEO(
        encoder,
        ways,
        bm.likelihoods.Categorical(),
        steps=1,
        rate=0.02,
        head_steps=1,
        head_rate=0.005,
        objective=bm.Predictive(draws=4),
    )


def versa(network: bm.networks.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    return bm.VERSA(bm.encoders.ClassPooling(size, ways, features=network.features), ways, bm.likelihoods.Categorical())


def neural_process(network: bm.networks.Conv4) -> bm.Learner:
    size, ways = network.head.in_features, network.head.out_features
    encoder = bm.encoders.ClassPooling(size, ways, features=network.features)
    return bm.NeuralProcess(
        encoder, bm.networks.MLP(size + encoder.size + 16, 1, hidden=(128, 128)), bm.likelihoods.Categorical()
    )


def kernel() -> Kernel:
    return ScaleKernel(RBFKernel())


def dkt(network: bm.networks.Conv4) -> bm.Learner:
    return bm.DKTClassifier(network.features, kernel(), classes=network.head.out_features)


def one_vs_each(network: bm.networks.Conv4) -> bm.Learner:
    wide = kernel()
    wide.outputscale = 1e5  # one point a class says no more than a sign: functions must be steep for confidence
    return bm.PolyaGammaGP(network.features, wide, classes=network.head.out_features)


def abml(network: bm.networks.Conv4) -> bm.Learner:
    return bm.ABML(network, bm.likelihoods.Categorical(), steps=1, rate=0.4, objective=bm.Predictive(draws=2))


def platipus(network: bm.networks.Conv4) -> bm.Learner:
    return bm.PLATIPUS(network, bm.likelihoods.Categorical(), steps=1, rate=0.4, objective=bm.Predictive(draws=2))


def bmaml(network: bm.networks.Conv4) -> bm.Learner:
    return bm.BMAML(network, bm.likelihoods.Categorical(), particles=3, steps=1, leader_steps=1, rate=0.4)


ANY_WAYS = ((5, 1), (5, 5), (20, 1), (20, 5))  # for learners whose number of classes is free
ONE_SHOT: tuple[tuple[int, int], ...] = ()  # Lake's runs only

RUNS = {
    "MAML; group": Run(maml, 14_000),
    "MAML; batch": Run(maml, 14_000, norm="batch"),
    "prototypical networks; group": Run(prototypes, 6_000, ways=20, batch=2, tests=ANY_WAYS),
    "DKT; group": Run(dkt, 10_000, tests=ANY_WAYS),
    "one-vs-each Pólya-Gamma GP; group": Run(one_vs_each, 7_000, tests=((5, 1), (5, 5), (20, 1))),
    "VERSA; group": Run(versa, 10_000),
    "LEO; group": Run(leo, 5_000, rate=1e-3, start=True),
    "PLATIPUS; group": Run(platipus, 4_000, start=True, draws=16),
    "ABML; group": Run(abml, 2_000, start=True),
    "prototypical networks; batch": Run(prototypes, 6_000, ways=20, batch=2, norm="batch", tests=ANY_WAYS),
    "first-order MAML; group": Run(first_order, 4_000, rate=3e-4, start=True),
    "ANIL; group": Run(anil, 5_000, rate=1e-3, start=True),
    "Meta-SGD; group": Run(meta_sgd, 9_000),
    "neural process; group": Run(neural_process, 6_000, rate=1e-3, start=True),
    "BMAML; group": Run(bmaml, 2_500, start=True),
    "Reptile; group": Run(reptile, 2_500),
    "implicit MAML; group": Run(implicit, 400, rate=3e-4, start=True),
    "first-order MAML; batch": Run(first_order, 8_000, norm="batch", rate=1e-3),
    "Meta-SGD; batch": Run(meta_sgd, 7_000, norm="batch"),
    "Reptile; batch": Run(reptile, 2_000, norm="batch"),
    "MAML of 20 ways; group": Run(maml, 6_000, ways=20, batch=2, tests=((20, 1), (20, 5))),
    "MAML of 20 ways; batch": Run(maml, 6_000, ways=20, batch=2, norm="batch", tests=((20, 1), (20, 5))),
    "prototypical networks, background; group": Run(prototypes, 4_000, 20, 2, split="background", tests=ONE_SHOT),
    "DKT, background; group": Run(dkt, 6_000, split="background", tests=ONE_SHOT),
    "one-vs-each Pólya-Gamma GP, background; group": Run(one_vs_each, 6_000, split="background", tests=ONE_SHOT),
    "MAML of 20 ways, background; group": Run(maml, 4_000, 20, 2, split="background", tests=ONE_SHOT),
}
START = Run(prototypes, 3_000, ways=20, batch=2)


def as_in_papers(run: Run) -> Run:
    return replace(run, steps=60_000, batch=32, queries=15, width=64, start=False)


def network(run: Run) -> bm.networks.Conv4:
    return bm.networks.Conv4(outputs=run.ways, width=run.width, norm=NORMS[run.norm])
