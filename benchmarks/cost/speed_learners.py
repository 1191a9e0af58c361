"""The learners whose costs `speed.py` measures, and along which sizes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

import bayesmeta as bm
from benchmarks.accuracy.omniglot_learners import RUNS, kernel

Setting = Callable[[int, int, int], bm.Learner]  # from width, inner steps and draws


def body(width: int, outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=(width, width), activation=nn.Tanh)


def set_encoder(width: int) -> bm.encoders.Encoder:
    return bm.encoders.DeepSet(width, 1, features=body(width).features)


LEARNERS: dict[str, Setting] = {
    "MAML": lambda w, k, s: bm.MAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "first-order MAML": lambda w, k, s: bm.FirstOrderMAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "ANIL": lambda w, k, s: bm.ANIL((net := body(w)).features, net.head, bm.likelihoods.Gaussian(), steps=k),
    "Meta-SGD": lambda w, k, s: bm.MetaSGD(body(w), bm.likelihoods.Gaussian(), steps=k),
    "Reptile": lambda w, k, s: bm.Reptile(body(w), bm.likelihoods.Gaussian(), steps=k),
    "implicit MAML": lambda w, k, s: bm.ImplicitMAML(body(w), bm.likelihoods.Gaussian(), steps=k),
    "ABML": lambda w, k, s: bm.ABML(body(w), bm.likelihoods.Gaussian(), steps=k, objective=bm.Predictive(draws=s)),
    "PLATIPUS": lambda w, k, s: bm.PLATIPUS(body(w), bm.likelihoods.Gaussian(), steps=k, objective=bm.ELBO(draws=s)),
    "attentive neural process": lambda w, k, s: bm.NeuralProcess(
        bm.encoders.Attention(1, 1),
        bm.networks.MLP(1 + 64 + 16, 2, hidden=(w, w)),
        bm.likelihoods.HeteroscedasticGaussian(),
        objective=bm.Predictive(draws=s),
    ),
    "conditional neural process": lambda w, k, s: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1), bm.networks.MLP(1 + 64, 2, hidden=(w, w)), bm.likelihoods.HeteroscedasticGaussian()
    ),
    "VERSA": lambda w, k, s: bm.VERSA(set_encoder(w), 1, bm.likelihoods.Gaussian(), objective=bm.Predictive(draws=s)),
    "LEO": lambda w, k, s: bm.LEO(
        bm.encoders.Relation(w, 1, features=body(w).features),
        1,
        bm.likelihoods.Gaussian(),
        steps=k,
        objective=bm.ELBO(draws=s),
    ),
    "BMAML": lambda w, k, s: bm.BMAML(body(w), bm.likelihoods.Gaussian(), steps=k, leader_steps=k, particles=s),
    "ALPaCA": lambda w, k, s: bm.ALPaCA((net := body(w)).features, net.head, bm.likelihoods.Gaussian()),
    "DKT": lambda w, k, s: bm.DKT(body(w).features, kernel(), bm.likelihoods.Gaussian()),
    "ADKL": lambda w, k, s: bm.ADKL(
        bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, w, hidden=(w,)), kernel(), bm.likelihoods.Gaussian()
    ),
    "ADKF": lambda w, k, s: bm.ADKF(body(w).features, kernel(), bm.likelihoods.Gaussian()),
    "PACOH, variational": lambda w, k, s: bm.PACOH(
        body(w).features, kernel(), bm.likelihoods.Gaussian(), tasks=100, hyper_posterior="variational", particles=s
    ),
    "PACOH-NN": lambda w, k, s: bm.PACOHNN(body(w), bm.likelihoods.Gaussian(), tasks=100, particles=s),
}
ON_CONV4 = {name.split(";")[0]: run.build for name, run in RUNS.items() if "," not in name and "20 ways" not in name}
ON_CONV4["Laplace GP"] = lambda network: bm.LaplaceGP(network.features, kernel(), classes=network.head.out_features)
CHOLESKY = "its Cholesky factors"
DRAWS, STEPS, WIDTH, SHOTS, TASKS = 4, 5, 40, 10, 25
GROWTH: dict[str, tuple[list[int], list[str]]] = {
    "tasks": ([16, 32, 64, 128, 256], list(LEARNERS)),
    "inner steps": (
        [2, 4, 8, 16],
        [
            "MAML",
            "first-order MAML",
            "ANIL",
            "Meta-SGD",
            "Reptile",
            "implicit MAML",
            "ABML",
            "PLATIPUS",
            "LEO",
            "BMAML",
        ],
    ),
    "draws": (
        [4, 8, 16, 32],
        ["ABML", "PLATIPUS", "attentive neural process", "VERSA", "LEO", "BMAML", "PACOH, variational", "PACOH-NN"],
    ),
    "support points": (
        [32, 64, 128, 256],
        ["MAML", "ABML", "attentive neural process", "VERSA", "LEO", "ALPaCA", "DKT"],
    ),
    "width": ([64, 128, 256, 512], ["MAML", "ABML", "VERSA", "ALPaCA", "DKT"]),
    "many points": ([256, 512, 1024], ["DKT", CHOLESKY]),
}
