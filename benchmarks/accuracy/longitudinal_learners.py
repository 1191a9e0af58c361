"""The learners of the comparison on real families, each for so many inputs and training tasks."""

from __future__ import annotations

from collections.abc import Callable

from gpytorch.kernels import ConstantKernel, Kernel, LinearKernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.means import LinearMean, Mean
from torch import Tensor, nn

import bayesmeta as bm


class MeanNetwork(Mean):
    """A prior mean ``(B, N, D)`` to ``(B, N)`` as gpytorch has them."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = tanh(inputs, (16, 16))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.network(x)
        return values.squeeze(-1)


def tanh(inputs: int, hidden: tuple[int, ...] = (40, 40)) -> bm.networks.MLP:
    return bm.networks.MLP(inputs, 1, hidden=hidden, activation=nn.Tanh)


def kernel(inputs: int, smooth: type[Kernel] = RBFKernel) -> Kernel:
    """A random intercept, random slopes, and a smooth function."""
    return ScaleKernel(smooth(ard_num_dims=inputs)) + LinearKernel(ard_num_dims=inputs) + ConstantKernel()


def alpaca(inputs: int) -> bm.Learner:
    body = tanh(inputs)
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian())


def linear(inputs: int) -> bm.Learner:
    """A line for each task, the prior over lines learned: a hierarchical linear model."""
    return bm.ALPaCA(nn.Identity(), nn.Linear(inputs, 1), bm.likelihoods.Gaussian())


def dkt(inputs: int) -> bm.Learner:
    features, deep = tanh(inputs).features, LinearKernel(ard_num_dims=40) + ConstantKernel()
    return bm.DKT(features, deep, bm.likelihoods.Gaussian(), mean=LinearMean(40))


def pacoh(inputs: int, tasks: int) -> bm.Learner:
    mean = tanh(inputs, (16, 16))
    return bm.PACOH(
        nn.Identity(), kernel(inputs), bm.likelihoods.Gaussian(), tasks=tasks, mean=mean, particles=4, hyper_scale=3.0
    )


def process(inputs: int, smooth: type[Kernel]) -> bm.Learner:
    return bm.DKT(nn.Identity(), kernel(inputs, smooth), bm.likelihoods.Gaussian(), mean=MeanNetwork(inputs))


# The learner of so many inputs, for so many training tasks; its meta-updates a round, and Adam's first rate.
LEARNERS: dict[str, tuple[Callable[[int, int], bm.Learner], int, float]] = {
    "GP, RBF": (lambda inputs, _: process(inputs, RBFKernel), 200, 2e-2),
    "GP, Matern": (lambda inputs, _: process(inputs, MaternKernel), 200, 2e-2),
    "PACOH": (pacoh, 200, 2e-2),
    "DKT, linear": (lambda inputs, _: dkt(inputs), 300, 1e-2),
    "ALPaCA": (lambda inputs, _: alpaca(inputs), 300, 1e-2),
    "ALPaCA, a line": (lambda inputs, _: linear(inputs), 300, 1e-2),
    "MAML": (lambda inputs, _: bm.MAML(tanh(inputs), bm.likelihoods.Gaussian(), steps=5, rate=0.05), 200, 3e-3),
    "CNP": (
        lambda inputs, _: bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(inputs, 1), bm.networks.MLP(inputs + 64, 2), bm.likelihoods.HeteroscedasticGaussian()
        ),
        300,
        3e-3,
    ),
}
