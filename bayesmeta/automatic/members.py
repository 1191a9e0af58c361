"""The learners among which `autofit` chooses: few, of different kinds, each trained in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gpytorch.kernels import ConstantKernel, LinearKernel, RBFKernel, ScaleKernel
from gpytorch.means import LinearMean
from torch import nn

from bayesmeta.encoders import DeepSet
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Gaussian, HeteroscedasticGaussian
from bayesmeta.methods import DKT, ALPaCA, ConditionalNeuralProcess
from bayesmeta.networks import MLP
from bayesmeta.wrappers import OwnScale

__all__ = ["MEMBERS", "SIMPLE", "Member"]

_WIDTH = 20
"""Of hidden layers: tables of few numbers a task need no more, and closed forms cost its cube."""


class Member(NamedTuple):
    """How a kind of learner is built for so many inputs and targets, Adam's first rate, and how many tasks it needs."""

    build: Callable[[int, int], Learner]
    rate: float
    fewest: int = 2


def _network(inputs: int, targets: int) -> MLP:
    return MLP(inputs, targets, hidden=(_WIDTH, _WIDTH), activation=nn.Tanh)


def _line(inputs: int, targets: int) -> Learner:
    return OwnScale(ALPaCA(nn.Identity(), nn.Linear(inputs, targets), Gaussian()))


def _smooth(inputs: int, targets: int) -> Learner:
    kernel = ScaleKernel(RBFKernel(ard_num_dims=inputs)) + LinearKernel(ard_num_dims=inputs) + ConstantKernel()
    return OwnScale(DKT(nn.Identity(), kernel, Gaussian(), mean=LinearMean(inputs)))


def _features(inputs: int, targets: int) -> Learner:
    network = _network(inputs, targets)
    return OwnScale(ALPaCA(network.features, network.head, Gaussian()))


def _deep(inputs: int, targets: int) -> Learner:
    kernel = ScaleKernel(RBFKernel()) + LinearKernel(ard_num_dims=_WIDTH) + ConstantKernel()
    return OwnScale(DKT(_network(inputs, targets).features, kernel, Gaussian(), mean=LinearMean(_WIDTH)))


def _neural(inputs: int, targets: int) -> Learner:
    encoder = DeepSet(inputs, targets, 32, hidden=(32, 32))
    return ConditionalNeuralProcess(encoder, MLP(inputs + 32, 2 * targets), HeteroscedasticGaussian())


MEMBERS = {
    "line": Member(_line, 3e-2),
    "line + smooth function": Member(_smooth, 3e-2),
    "network features": Member(_features, 2e-2),
    "deep kernel": Member(_deep, 2e-2),
    "neural process": Member(_neural, 5e-3, fewest=10),
}

SIMPLE = ("line", "line + smooth function")
"""Those that a user could explain to others."""
