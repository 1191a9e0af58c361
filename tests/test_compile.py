"""fit(..., compile=True): the same run but for rounding, or one clear line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta import Learner


def network() -> bm.MLP:
    return bm.MLP(1, 1, hidden=(8,))


COMPILED: dict[str, Callable[[], Learner]] = {
    "MAML": lambda: bm.MAML(network(), bm.Gaussian(), steps=2),
    "Reptile": lambda: bm.Reptile(network(), bm.Gaussian(), steps=2),
    "CNP": lambda: bm.ConditionalNeuralProcess(bm.DeepSet(1, 1, 8), bm.MLP(9, 1, hidden=(8,)), bm.Gaussian()),
    "VERSA": lambda: bm.VERSA(bm.DeepSet(8, 1, 8, features=network().features), 1, bm.Gaussian()),  # random draws
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.Gaussian(), steps=1, draws=2, objective="predictive"),
}
REFUSED: dict[str, Callable[[], Learner]] = {
    "ImplicitMAML": lambda: bm.ImplicitMAML(network(), bm.Gaussian(), steps=2),
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.Gaussian(), steps=1, draws=2, objective="elbo"),
}


@pytest.fixture(autouse=True)
def forget() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_run_is_the_eager_one(name: str) -> None:
    losses, weights = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        learner = COMPILED[name]()
        history = bm.fit(learner, bm.Sinusoids(batch=4), steps=5, progress=False, compile=compile)
        losses.append(history.losses)
        weights.append(torch.nn.utils.parameters_to_vector(learner.parameters()).detach())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_says_so_before_any_update(name: str) -> None:
    learner = REFUSED[name]()
    before = torch.nn.utils.parameters_to_vector(learner.parameters()).clone()
    remedy = "compile=False, or with objective" if name == "PLATIPUS" else "compile=False"
    with pytest.raises(NotImplementedError, match=f"compile: expected a learner .* got {name}; train it with {remedy}"):
        bm.fit(learner, bm.Sinusoids(batch=4), steps=2, progress=False, compile=True)
    assert torch.equal(torch.nn.utils.parameters_to_vector(learner.parameters()), before)


def test_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads: expected 1 with compile=True"):
        bm.fit(COMPILED["MAML"](), bm.Sinusoids(batch=4), steps=1, slices=2, threads=2, compile=True)
