"""fit(..., compile=True): the same run but for rounding, or one clear line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel

import bayesmeta as bm
from bayesmeta import Learner
from bayesmeta.training.gradient import MetaGradient


def network() -> bm.networks.MLP:
    return bm.networks.MLP(1, 1, hidden=(8,))


def features() -> torch.nn.Module:
    return network().features


WHOLE: dict[str, Callable[[], Learner]] = {
    "MAML": lambda: bm.MAML(network(), bm.likelihoods.Gaussian(), steps=2),
    "FirstOrderMAML": lambda: bm.FirstOrderMAML(network(), bm.likelihoods.Gaussian(), steps=2),
    "Reptile": lambda: bm.Reptile(network(), bm.likelihoods.Gaussian(), steps=2),
    "BMAML": lambda: bm.BMAML(network(), bm.likelihoods.Gaussian(), steps=1, leader_steps=1, particles=2),
    "CNP": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, 8), bm.networks.MLP(9, 1, hidden=(8,)), bm.likelihoods.Gaussian()
    ),
    "VERSA": lambda: bm.VERSA(
        bm.encoders.DeepSet(8, 1, 8, features=features()), 1, bm.likelihoods.Gaussian()
    ),  # random draws
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), steps=1, objective=bm.Predictive(draws=2)),
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.Predictive(draws=2)),
    "ImplicitMAML": lambda: bm.ImplicitMAML(network(), bm.likelihoods.Gaussian(), steps=2),
    "DKT": lambda: bm.DKT(features(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian()),
}
PARTS: dict[str, Callable[[], Learner]] = {
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), steps=1, objective=bm.ELBO(draws=2)),
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.ELBO(draws=2)),
}


class Untraceable(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


@pytest.fixture(autouse=True)
def forget() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's compiler
@pytest.mark.parametrize("name", [*WHOLE, *(f"{name}, in parts" for name in PARTS)])
def test_a_compiled_run_is_the_eager_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *parts = name.split(", ")
    losses, weights = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        learner = (PARTS if parts else WHOLE)[name]()
        optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3, weight_decay=1.0)  # not for what has no gradient
        history = bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=5, compile=compile, optimizer=optimizer)
        losses.append(history.losses)
        weights.append(torch.nn.utils.parameters_to_vector(learner.parameters()).detach())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    assert (f"compile: {name} in parts" in capsys.readouterr().err) == bool(parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_covariance_that_needs_jitter_is_mended_though_compiled_code_does_not_branch() -> None:
    kernel = ScaleKernel(RBFKernel())
    kernel.outputscale = 1e9  # beside it the noise is lost in rounding
    learner = bm.DKT(torch.nn.Identity(), kernel, bm.likelihoods.Gaussian()).double()
    same = bm.points(torch.zeros(5, 1).double(), torch.ones(5, 1).double())
    (value, slopes), (expected, exact) = (
        MetaGradient(learner, list(learner.parameters()), 1, 1, compile=compile)(bm.Episode(same, same))
        for compile in (True, False)
    )
    assert value.isfinite()
    torch.testing.assert_close([value, *slopes], [expected, *exact])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_parts_are_compiled_and_not_only_run() -> None:
    learner = PARTS["PLATIPUS"]()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=3, progress=False, compile=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert 2 <= graphs <= 4  # the slopes, the adaptation, the outputs: once, and not anew at each step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["MAML", "PLATIPUS"])
def test_what_cannot_be_compiled_says_so_before_any_update(name: str) -> None:
    learner = getattr(bm, name)(Untraceable(1, 1), bm.likelihoods.Gaussian())
    before = torch.nn.utils.parameters_to_vector(learner.parameters()).clone()
    with pytest.raises(
        NotImplementedError, match=f"compile: expected a learner .* got {name}; train it with compile=False"
    ):
        bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=2, progress=False, compile=True)
    assert torch.equal(torch.nn.utils.parameters_to_vector(learner.parameters()), before)
    assert torch.distributions.Distribution._validate_args  # which the compiler switches off


def test_a_layer_under_two_names_is_refused() -> None:
    pacoh = bm.PACOH(features(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(), tasks=4)
    twice = torch.nn.Sequential(layer := torch.nn.Linear(1, 1), layer)
    for learner, names in (
        (pacoh, "'learner.likelihood' and 'learner.prior.likelihood'"),
        (bm.MAML(twice, bm.likelihoods.Gaussian()), "'learner.network.0' and 'learner.network.1'"),
    ):
        with pytest.raises(
            ValueError, match=f"each layer of {type(learner).__name__} under one name, but {names} are one"
        ):
            bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=1, progress=False, compile=True)


def test_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads: expected 1 with compile=True"):
        bm.fit(WHOLE["MAML"](), bm.tasks.Sinusoids(batch=4), steps=1, slices=2, threads=2, compile=True)


def test_anything_but_a_boolean_is_refused() -> None:
    with pytest.raises(ValueError, match="compile: expected True or False, got 'reduce-overhead'"):
        bm.fit(WHOLE["MAML"](), bm.tasks.Sinusoids(batch=4), steps=1, compile="reduce-overhead")  # type: ignore[arg-type]
