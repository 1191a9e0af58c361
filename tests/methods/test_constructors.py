"""What every constructor refuses, by one rule; and what its learner says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gpytorch.kernels import RBFKernel
from test_contract import LEARNERS, LIKELIHOODS, build
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Learner
from bayesmeta.methods.abml import _WeightPosterior

Make = Callable[[Any, Any], Learner]
NETWORKS: dict[str, Make] = {
    "MAML": bm.MAML,
    "FirstOrderMAML": bm.FirstOrderMAML,
    "MetaSGD": bm.MetaSGD,
    "Reptile": bm.Reptile,
    "ImplicitMAML": bm.ImplicitMAML,
    "ABML": bm.ABML,
    "VCL": bm.VCL,
    "OnlineLaplace": bm.OnlineLaplace,
    "PLATIPUS": bm.PLATIPUS,
    "BMAML": bm.BMAML,
    "PACOHNN": lambda network, likelihood: bm.PACOHNN(network, likelihood, tasks=3),
    "ANIL": lambda network, likelihood: bm.ANIL(nn.Identity(), network, likelihood),
    "ANIL, features": lambda network, likelihood: bm.ANIL(network, nn.Linear(1, 1), likelihood),
    "OML": lambda network, likelihood: bm.OML(nn.Identity(), network, likelihood),
    "OML, features": lambda network, likelihood: bm.OML(network, nn.Linear(1, 1), likelihood),
    "LaMAML": bm.LaMAML,
    "MER": bm.MER,
    "ExperienceReplay": bm.ExperienceReplay,
    "ALPaCA": lambda network, likelihood: bm.ALPaCA(network, nn.Linear(1, 1), likelihood),
    "LaplaceHead": lambda network, likelihood: bm.LaplaceHead(network, nn.Linear(1, 1), likelihood),
    "DKT": lambda network, likelihood: bm.DKT(network, RBFKernel(), likelihood),
    "ADKF": lambda network, likelihood: bm.ADKF(network, RBFKernel(), likelihood),
    "PACOH": lambda network, likelihood: bm.PACOH(network, RBFKernel(), likelihood, tasks=3),
    "VERSA": lambda network, likelihood: bm.VERSA(bm.encoders.DeepSet(1, 1, features=network), 1, likelihood),
    "LEO": lambda network, likelihood: bm.LEO(bm.encoders.Relation(1, 1, features=network), 1, likelihood),
    "ConditionalNeuralProcess": lambda network, likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, features=network), bm.networks.MLP(65, 1), likelihood
    ),
    "NeuralProcess": lambda network, likelihood: bm.NeuralProcess(
        bm.encoders.DeepSet(1, 1, features=network), bm.networks.MLP(81, 1), likelihood
    ),
    "ADKL": lambda network, likelihood: bm.ADKL(
        bm.encoders.DeepSet(1, 1, features=network), bm.networks.MLP(65, 1), RBFKernel(), likelihood
    ),
    "PrototypicalNetwork": lambda network, _: bm.PrototypicalNetwork(network, 2),
    "GeMCL": lambda network, _: bm.GeMCL(network, 1, 2),
    "DKTClassifier": lambda network, _: bm.DKTClassifier(network, RBFKernel(), classes=2),
    "LaplaceGP": lambda network, _: bm.LaplaceGP(network, RBFKernel(), classes=2),
    "PolyaGammaGP": lambda network, _: bm.PolyaGammaGP(network, RBFKernel(), classes=2),
}
WITHOUT_LIKELIHOOD = ("PrototypicalNetwork", "GeMCL", "DKTClassifier", "LaplaceGP", "PolyaGammaGP")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in WITHOUT_LIKELIHOOD])
@pytest.mark.parametrize(
    "likelihood", [bm.likelihoods.Gaussian, None, nn.Identity()], ids=["its class", "none", "another module"]
)
def test_something_else_than_a_likelihood(name: str, likelihood: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="likelihood: expected a "):
        NETWORKS[name](nn.Linear(1, 1), likelihood)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("network", [nn.Linear, lambda x: x, "MLP"], ids=["its class", "a function", "text"])
def test_something_else_than_a_network(name: str, network: Any) -> None:
    with pytest.raises(TypeError, match=r"(network|features): expected a torch module such as MLP\(1, 1\), got"):
        NETWORKS[name](network, bm.likelihoods.Gaussian())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_running_statistics(name: str) -> None:
    with pytest.raises(ValueError, match=r"(network|features): expected no running statistics, got BatchNorm1d"):
        NETWORKS[name](nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)), bm.likelihoods.Gaussian())


INNER: dict[str, Callable[..., Learner]] = {
    name: make
    for name, make in NETWORKS.items()
    if name in ("MAML", "FirstOrderMAML", "MetaSGD", "Reptile", "ImplicitMAML")
} | {
    "ANIL": lambda network, likelihood, **settings: bm.ANIL(nn.Identity(), network, likelihood, **settings),
    "ABML": bm.ABML,
    "PLATIPUS": bm.PLATIPUS,
    "BMAML": bm.BMAML,
}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize(
    "settings",
    [{"steps": -1}, {"steps": 1.5}, {"steps": True}, {"rate": -0.1}, {"rate": float("nan")}, {"rate": "0.1"}],
    ids=str,
)
def test_inner_steps_and_rates_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected a "):
        INNER[name](nn.Linear(1, 1), bm.likelihoods.Gaussian(), **settings)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learners_repr_says_its_settings(name: str) -> None:
    likelihood = "classes" if name.startswith(("DKTC", "Polya", "Laplace", "Prototypical", "GeMCL")) else "gaussian"
    learner = build(name, likelihood)
    said = repr(learner)
    for attribute, value in vars(learner).items():
        if isinstance(value, (int, float, str)) and attribute != "training" and not attribute.startswith("_"):
            assert f"{attribute}={value!r}" in said
    assert likelihood in LIKELIHOODS


def test_maml_says_its_steps_and_rate() -> None:
    assert "steps=3, rate=0.05" in repr(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=3, rate=0.05))


class Counting(nn.Module):
    """Features that count how often they are computed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.calls = layer, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "calls"), [(bm.encoders.DeepSet, 1), (bm.encoders.Attention, 2)])
def test_features_of_an_encoder_are_computed_once_for_support_and_query(kind: Any, calls: int) -> None:
    """A prediction's: sums of the support are kept, tokens are made anew."""
    features = Counting(nn.Linear(1, 4))
    learner = bm.ConditionalNeuralProcess(
        kind(4, 1, features=features), bm.networks.MLP(4 + 64, 1), bm.likelihoods.Gaussian()
    )
    posterior = learner(bm.points([0.0, 1.0], [0.0, 1.0]))
    features.calls[0] = 0
    posterior([0.5])
    assert features.calls == [calls]


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_features_of_an_encoder_are_looped_over(make: Any) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = make(1, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(x[..., None])[0][:, -1]  # type: ignore[no-any-return]

    learner = bm.VERSA(bm.encoders.DeepSet(4, 1, features=Last()), 1, bm.likelihoods.Gaussian())
    tasks = bm.tasks.LinearGaussian(inputs=3, batch=2)
    assert len(bm.fit(learner, tasks, steps=2, progress=False).losses) == 2
    assert learner(tasks[0].support)(tasks[0].query.x).batch_shape == (2, 15)


def test_a_decomposition_draws_as_often_as_it_was_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through every wrapper: nobody predicts once more to learn what kind of targets there are."""
    tasks = bm.tasks.Sinusoids(batch=2, noise=0.1)
    inner = bm.ABML(bm.networks.MLP(1, 1, hidden=(4,)), bm.likelihoods.Gaussian(), steps=1)
    posterior = bm.Standardized.from_tasks(inner, tasks, episodes=2)(tasks[0].support)
    asked: list[int] = []
    drawn = _WeightPosterior._functions

    def counting(self: _WeightPosterior, samples: int) -> Any:
        asked.append(samples)
        return drawn(self, samples)

    monkeypatch.setattr(_WeightPosterior, "_functions", counting)
    posterior.decompose(tasks[0].query.x, samples=100)
    assert asked == [100]
