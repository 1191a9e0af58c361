"""Learners that their files alone give back, and what stands in the way of that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_contract as contract
import torch
from gpytorch.constraints import GreaterThan, Interval, Positive
from gpytorch.kernels import (
    CosineKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    RBFKernel,
    RFFKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from gpytorch.means import ConstantMean, LinearMean
from gpytorch.priors import GammaPrior, NormalPrior, UniformPrior
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.files import blueprint
from bayesmeta.files import storage as files
from bayesmeta.recorded import Recorded

TASKS = bm.tasks.Sinusoids(noise=0.1, batch=4)
SUPPORT, QUERY = TASKS[0]


def network() -> bm.networks.MLP:
    return bm.networks.MLP(1, 1, hidden=(8,), activation=nn.Tanh)


FIVE: dict[str, Callable[[], bm.Learner]] = {
    "MAML": lambda: bm.MAML(network(), bm.likelihoods.Gaussian(), steps=3, rate=0.05),
    "ALPaCA": lambda: bm.ALPaCA((net := network()).features, net.head, bm.likelihoods.Gaussian()),
    "DKT": lambda: bm.DKT(
        network().features,
        ScaleKernel(RBFKernel(lengthscale_prior=GammaPrior(3.0, 6.0))) + LinearKernel(),
        bm.likelihoods.Gaussian(scale=0.3),
        mean=ConstantMean(),
    ),
    "ABML": lambda: bm.ABML(
        network(), bm.likelihoods.Gaussian(), encoder=bm.encoders.DeepSet(1, 1, 8, hidden=(8,)), steps=2, inner_draws=4
    ),
    "ConditionalNeuralProcess": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.Attention(1, 1, 8, heads=2, features=nn.Sequential(nn.Linear(1, 1), nn.Tanh())),
        bm.networks.MLP(9, 2, hidden=(8,)),
        bm.likelihoods.HeteroscedasticGaussian(),
    ),
}
WRAPPERS: dict[str, Callable[[bm.Learner], bm.Learner]] = {
    "Standardized(Calibrated)": lambda learner: bm.Standardized.from_tasks(
        bm.Calibrated.from_tasks(learner, TASKS, episodes=1), TASKS, episodes=1
    ),
    "Calibrated(Standardized)": lambda learner: bm.Calibrated.from_tasks(
        bm.Standardized.from_tasks(learner, TASKS, episodes=1), TASKS, episodes=1
    ),
}


def answers(learner: bm.Learner) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        predicted = learner(SUPPORT)(QUERY.x)
    return torch.stack([predicted.mean, predicted.stddev, predicted.log_prob(QUERY.y)[..., None]])


def serve(folder: str) -> None:
    """What another process does, with the files alone."""
    torch.save({path.name: answers(bm.load(path)) for path in Path(folder).glob("*(*")}, Path(folder) / "answers")


def test_another_process_has_the_same_bits_from_the_file_alone(tmp_path: Path) -> None:
    expected = {}
    for name, build in FIVE.items():
        for around, wrap in WRAPPERS.items():
            torch.manual_seed(1)
            learner = build()
            bm.fit(learner, TASKS, steps=2, progress=False)
            wrapped = wrap(learner)
            bm.fit(wrapped, TASKS, steps=2, progress=False)
            bm.save(wrapped, tmp_path / f"{around} of {name}")
            expected[f"{around} of {name}"] = answers(wrapped)
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        check=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found = torch.load(tmp_path / "answers")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", contract.LEARNERS)
def test_every_learner_is_built_from_its_blueprint(name: str, dtype: torch.dtype) -> None:
    likelihood = contract.usual(name)
    learner = contract.build(name, likelihood, dtype)
    if name == "OML, classes":  # whose likelihood is the suite's own
        learner.likelihood = bm.likelihoods.Categorical()
        learner = bm.OML(learner.features, learner.head, learner.likelihood, classes=learner.classes).to(dtype)
    before = torch.get_rng_state()
    plan = blueprint.blueprint(learner)
    assert isinstance(plan, dict), plan
    assert plan["set"] == []
    built = blueprint.build(plan)
    assert torch.equal(torch.get_rng_state(), before)
    built.load_state_dict(learner.state_dict())
    support, query = contract.episode(likelihood, dtype)
    results = [contract.describe(each.eval(), support, query.x, query.y) for each in (learner, built)]
    assert torch.equal(*results)


KERNELS: dict[str, Callable[[], Kernel]] = {
    "some features": lambda: RBFKernel(ard_num_dims=2, active_dims=(0, 2)),
    "bounds": lambda: RBFKernel(lengthscale_constraint=Interval(1e-3, 10.0)),
    "a bound": lambda: MaternKernel(nu=1.5, lengthscale_constraint=GreaterThan(0.01)),
    "priors": lambda: ScaleKernel(
        RBFKernel(lengthscale_prior=UniformPrior(0.1, 2.0)), outputscale_prior=NormalPrior(0.0, 1.0)
    ),
    "sums and products": lambda: RBFKernel() * PeriodicKernel() + ScaleKernel(CosineKernel(active_dims=(0,))),
    "spectral": lambda: SpectralMixtureKernel(num_mixtures=3, ard_num_dims=3),
    "random features": lambda: RFFKernel(10, num_dims=3),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_means_are_gpytorchs_own(name: str) -> None:
    torch.manual_seed(0)
    for mean in (LinearMean(3), LinearMean(3, bias=False), ConstantMean(constant_prior=NormalPrior(0.0, 2.0))):
        learner = bm.DKT(nn.Identity(), KERNELS[name](), bm.likelihoods.Gaussian(), mean=mean)
        plan = blueprint.blueprint(learner)
        assert isinstance(plan, dict), plan
        built = blueprint.build(plan)
        built.load_state_dict(learner.state_dict())
        given = bm.points(torch.randn(2, 6, 3).unbind(), torch.randn(2, 6).unbind())
        episode = bm.Episode(given, given)
        assert torch.equal(built.loss(episode), learner.loss(episode))  # type: ignore[operator]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv1d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.PReLU(),
        nn.GELU("tanh"),
        nn.Dropout(0.3),
        nn.Linear(8, 1, bias=False),
    ),
    "images": lambda: bm.networks.Conv4(1, 3, width=8, norm=bm.networks.BatchNorm).features,
    "words": lambda: nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.GroupNorm(1, 3, affine=False)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_common_layers_are_torchs_own(name: str) -> None:
    made = NETWORKS[name]()
    plan = blueprint.blueprint(made)
    assert isinstance(plan, dict), plan
    assert repr(blueprint.build(plan)) == repr(made.eval())


def test_what_was_set_since_is_kept(tmp_path: Path) -> None:
    """Settings, a strategy, frozen parts, and one part in two places."""
    torch.manual_seed(0)
    net = network()
    net.features.requires_grad_(False)
    member = bm.ABML(net, bm.likelihoods.Gaussian(), steps=2)
    learner = bm.Ensemble(
        [member, bm.ABML(net, bm.likelihoods.Gaussian(), steps=np.int64(3), objective=bm.ELBO(draws=np.int64(3)))]
    )
    learner.strategy = "loop"
    member.clamp = 3.0
    member.objective = bm.ELBO(kl_weight=0.5)
    bm.save(learner, tmp_path / "a")
    built = bm.load(tmp_path / "a")
    first, second = built.learners
    assert (first.clamp, second.clamp, built.strategy, first.strategy) == (3.0, 10.0, "loop", "loop")
    assert (first.objective, second.objective) == (bm.ELBO(kl_weight=0.5), bm.ELBO(draws=3))
    assert first.network is second.network
    assert [p.requires_grad for p in built.parameters()] == [p.requires_grad for p in learner.parameters()]
    assert not built.training
    assert torch.equal(answers(built), answers(learner))
    bm.save(built, tmp_path / "b")  # what was built is saved as what was built from it
    assert torch.equal(answers(bm.load(tmp_path / "b")), answers(learner))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def replaced() -> bm.Learner:
    learner = bm.MAML(network(), bm.likelihoods.Gaussian())
    learner.network.head = nn.Linear(8, 2)
    return learner


def hooked() -> bm.Learner:
    learner = bm.MAML(network(), bm.likelihoods.Gaussian())
    learner.network.register_forward_hook(lambda module, inputs, output: output + 1)
    return learner


def tied() -> bm.Learner:
    net = bm.networks.MLP(2, 2, hidden=(2,))
    net.head.weight = net.features[0].weight
    return bm.ANIL(net.features, net.head, bm.likelihoods.Gaussian())


REFUSED: dict[str, tuple[Callable[[], bm.Learner], str]] = {
    "own network": (
        lambda: bm.MAML(Own(), bm.likelihoods.Gaussian()),
        r"got test_blueprint\.Own \(argument 0 of bayesmeta\.MAML\)",
    ),
    "own learner": (
        lambda: type("Mine", (bm.MAML,), {})(network(), bm.likelihoods.Gaussian()),
        r"got abc\.Mine, which",
    ),
    "function": (
        lambda: bm.MAML(bm.networks.MLP(1, 1, activation=lambda: nn.LeakyReLU(0.1)), bm.likelihoods.Gaussian()),
        r"<lambda> \(activation of bayesmeta\.MLP\)",
    ),
    "transform": (
        lambda: bm.DKT(
            nn.Identity(),
            RBFKernel(lengthscale_constraint=Positive(transform=torch.exp, inv_transform=torch.log)),
            bm.likelihoods.Gaussian(),
        ),
        "raw_lengthscale_constraint",
    ),
    "replaced part": (replaced, "changed since it was built: the weight 'network.head.weight'"),
    "hook": (hooked, "with 1 hooks"),
    "tied weights": (tied, "changed since it was built: the weight 'head.weight'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_say_is_said_and_passed(name: str, tmp_path: Path) -> None:
    """It is saved all the same, and loaded into a learner that was built alike."""
    build, message = REFUSED[name]
    learner, other = build(), build()
    bm.save(learner, tmp_path / "a")
    with pytest.raises(ValueError, match=rf"{message}.*pass it: load\(path, learner\)"):
        bm.load(tmp_path / "a")
    assert bm.load(tmp_path / "a", other) is other
    assert all(torch.equal(*pair) for pair in zip(learner.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": [{"kind": "os.system", "positional": ["true"], "named": {}, "frozen": []}]},
        {"parts": [{"kind": "torch.nn.Linear", "positional": [1, -1], "named": {}, "frozen": []}]},
        {"parts": [{"kind": "torch.nn.Sequential", "positional": [{"part": 0}], "named": {}, "frozen": []}]},
        {"parts": [{"kind": "bayesmeta.Learner", "positional": [], "named": {}, "frozen": []}]},
        {
            "parts": [
                {
                    "kind": "bayesmeta.networks.MLP",
                    "positional": [{"class": "builtins.exec"}],
                    "named": {},
                    "frozen": [],
                }
            ]
        },
        {"parts": 3},
        {"dtype": "torch.int64"},
        {"set": [("", "forward", 3)]},
        {"set": [("nowhere", "steps", 3)]},
    ],
    ids=repr,
)
def test_odd_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    bm.save(bm.MAML(network(), bm.likelihoods.Gaussian()), tmp_path / "a")
    content = files.read(tmp_path / "a", "learner")
    files.write(tmp_path / "b", content | {"settings": content["settings"] | change})
    with pytest.raises(ValueError, match=r"expected settings of a MAML, got .*load\(path, learner\)"):
        bm.load(tmp_path / "b")
    files.write(tmp_path / "c", content | {"settings": None})
    with pytest.raises(ValueError, match="expected settings of a MAML"):
        bm.load(tmp_path / "c")


def test_a_posterior_needs_its_file_alone(tmp_path: Path) -> None:
    learner = WRAPPERS["Standardized(Calibrated)"](FIVE["ABML"]())
    bm.save(learner, tmp_path / "a", support=SUPPORT)
    torch.manual_seed(0)
    posterior = bm.load(tmp_path / "a")
    assert torch.equal(posterior(QUERY.x).mean.detach(), answers(learner)[0])


def test_public_names_are_unlike() -> None:
    """A file names the library's parts without their modules."""
    own = [kind for kind in blueprint._below(Recorded) if kind.__module__.startswith("bayesmeta.")]
    assert len({kind.__name__ for kind in own}) == len(set(own))
    for name in bm.__all__:
        if isinstance(kind := getattr(bm, name), type) and issubclass(kind, nn.Module):
            assert blueprint._kinds()[f"bayesmeta.{name}"] is kind


@pytest.mark.parametrize("features", ["cells", "text", "U-Net"])
def test_features_of_networks_are_parts_that_a_file_may_name(tmp_path: Path, features: str) -> None:
    torch.manual_seed(0)
    tokens, pictures = torch.randint(1, 9, (1, 4, 5)), torch.rand(1, 4, 3, 8, 8)
    body, x = {
        "cells": (nn.Sequential(bm.networks.Cells(3, widths=(8, 8)).features, nn.Flatten()), pictures),
        "text": (bm.networks.TextEncoder(9, width=4, layers=1).features, tokens),
        "U-Net": (nn.Sequential(bm.networks.UNet(3, 2, widths=(8, 8)).features, nn.Flatten()), pictures),
    }[features]
    support = bm.Points(x, torch.tensor([[0, 0, 1, 1]]), torch.ones(1, 4, dtype=torch.bool))
    learner = bm.PrototypicalNetwork(body, classes=2, scaled=True)
    bm.save(learner, tmp_path / "a")
    again = bm.load(tmp_path / "a")
    assert torch.equal(again(support)(x).probs, learner(support)(x).probs)


if __name__ == "__main__":
    serve(sys.argv[1])
