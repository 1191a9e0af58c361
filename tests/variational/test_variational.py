"""Pyro's own tools on the variational learners' programs, and the loss against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.variational import VariationalLearner, registered
from bayesmeta.variational.learner import Latent

B, M, S = 3, 5, 4


def network(outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=(6, 6), activation=nn.Tanh)


def features() -> nn.Module:
    return network().features


LEARNERS: dict[str, Callable[[], VariationalLearner]] = {
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.ELBO(draws=S)),
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.ELBO(draws=S)),
    "NeuralProcess": lambda: bm.NeuralProcess(
        bm.encoders.DeepSet(1, 1, 6),
        bm.networks.MLP(1 + 6 + 4, 2),
        bm.likelihoods.HeteroscedasticGaussian(),
        latent=4,
        objective=bm.ELBO(draws=S),
    ),
    "VERSA": lambda: bm.VERSA(
        bm.encoders.DeepSet(6, 1, 6, features=features()), 1, bm.likelihoods.Gaussian(), objective=bm.ELBO(draws=S)
    ),
    "LEO": lambda: bm.LEO(
        bm.encoders.Relation(6, 1, 6, features=features()),
        1,
        bm.likelihoods.Gaussian(),
        latent=4,
        steps=2,
        objective=bm.ELBO(draws=S),
    ),
}
LATENTS = {
    "ABML": {"weights"},
    "PLATIPUS": {"weights"},
    "NeuralProcess": {"z"},
    "VERSA": {"head"},
    "LEO": {"z", "noise"},
}


@pytest.fixture(params=LEARNERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def learner(name: str) -> VariationalLearner:
    torch.manual_seed(1)
    return LEARNERS[name]()


@pytest.fixture
def episode() -> Episode:
    return bm.tasks.Sinusoids(batch=B, shots=(1, 4), queries=M, noise=0.1)[0]


def test_trace_has_one_plate_of_tasks(name: str, learner: VariationalLearner, episode: Episode) -> None:
    guide = poutine.trace(learner.guide).get_trace(episode)
    model = poutine.trace(poutine.replay(learner.model, guide)).get_trace(episode)
    for trace in (guide, model):
        trace.compute_log_prob()
        latents = set(trace.stochastic_nodes) - {"tasks"}
        assert latents == LATENTS[name]
        for latent in latents:
            site = trace.nodes[latent]
            assert [(f.name, f.size, f.dim) for f in site["cond_indep_stack"]] == [("tasks", B, -1)]
            assert site["log_prob"].shape == (B,)
    assert model.nodes["y"]["log_prob"].shape == (B,)


def test_predictive_draws_targets(learner: VariationalLearner, episode: Episode) -> None:
    for parallel in (False, True):
        predictive = Predictive(
            poutine.uncondition(learner.model), guide=learner.guide, num_samples=S, parallel=parallel
        )
        y = predictive(episode)["y"]
        assert y.shape == (S, *learner.observed(episode).y.shape)
        assert torch.isfinite(y).all()


def test_render_model(name: str, learner: VariationalLearner, episode: Episode) -> None:
    source = pyro.render_model(learner.model, model_args=(episode,), render_distributions=True).source
    assert "tasks" in source
    for site in [*LATENTS[name], "y"]:
        assert f"{site} [label={site}" in source


def test_svi_trains_what_is_registered_and_nothing_else(learner: VariationalLearner, episode: Episode) -> None:
    def step(model: Callable[[Episode], None], guide: Callable[[Episode], None]) -> list[str]:
        before = {name: p.detach().clone() for name, p in learner.named_parameters()}
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO()).step(episode)
        return [name for name, p in learner.named_parameters() if torch.equal(p, before[name])]

    try:
        assert step(learner.model, learner.guide) == [name for name, _ in learner.named_parameters()]
        assert step(*registered(learner)) == []
    finally:
        pyro.clear_param_store()


def test_elbo_is_pyros_own_per_point(learner: VariationalLearner, episode: Episode) -> None:
    """One task, so that the weights of tasks do not matter; the same draws on both sides."""
    one = Episode(*(bm.Points(*(leaf[:1] for leaf in part)) for part in episode))
    torch.manual_seed(2)
    ours = learner.loss(one)
    torch.manual_seed(2)
    elbo = TraceMeanField_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=1)
    count = learner.observed(one).mask.sum()
    torch.testing.assert_close(ours, elbo.differentiable_loss(learner.model, learner.guide, one) / count)


def test_the_joint_objective_is_the_log_of_a_mean_over_draws_of_all_points_at_once(name: str, episode: Episode) -> None:
    torch.manual_seed(1)
    learner = LEARNERS[name]()
    learner.objective = bm.JointPredictive(draws=7)
    mask = episode.query.mask.clone()
    mask[1, 2:] = False
    episode = Episode(episode.support, episode.query._replace(mask=mask))
    torch.manual_seed(2)
    loss = learner.loss(episode)
    torch.manual_seed(2)
    drawn = learner(episode.support).draws(episode.query.x, 7).log_prob(episode.query.y)  # (S, B, M)
    expected = [
        math.log(sum(float(s[b][mask[b]].sum().exp()) for s in drawn.detach()) / 7) / int(mask[b].sum())
        for b in range(B)
    ]
    assert loss.item() == pytest.approx(-sum(expected) / B, rel=1e-4)
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in learner.parameters())


def test_the_joint_objective_is_refused_where_functions_are_integrated_out(episode: Episode) -> None:
    joint = bm.JointPredictive()
    learner = bm.DKT(features(), RBFKernel(), bm.likelihoods.Gaussian())
    learner.objective = joint
    for use in (
        lambda: learner.loss(episode),
        lambda: bm.DKT(features(), RBFKernel(), bm.likelihoods.Gaussian(), objective=joint),
        lambda: bm.LaplaceHead(features(), nn.Linear(6, 1), bm.likelihoods.Gaussian(), objective=joint),
    ):
        with pytest.raises(ValueError, match=r"objective: expected ELBO\(\) or Predictive\(\).*got JointPredictive"):
            use()
    with pytest.raises(ValueError, match="draws: expected a whole number of at least 1"):
        bm.JointPredictive(draws=0)


def test_kl_weight_weighs_the_kl_alone(episode: Episode) -> None:
    """At the same draws the loss is linear in the weight, with the KL per point as its slope."""
    learner = LEARNERS["PLATIPUS"]()
    values = []
    for weight in (0.5, 1.0, 2.0):
        learner.objective = bm.ELBO(draws=S, kl_weight=weight)
        torch.manual_seed(2)
        values.append(learner.loss(episode).detach())
    torch.testing.assert_close((values[2] - values[1]) / 2, values[1] - values[0])
    guide = poutine.trace(learner.guide).get_trace(episode).nodes["weights"]["fn"]
    model = poutine.trace(learner.model).get_trace(episode).nodes["weights"]["fn"]
    expected = kl_divergence(
        Independent(Normal(guide.loc, guide.scale.expand_as(guide.loc)), 1),
        Independent(Normal(model.loc, model.scale.expand_as(model.loc)), 1),
    )
    torch.testing.assert_close(values[2] - values[1], expected.detach().mean() / M)


def test_predictive_objective_is_the_nll_of_the_mixture_of_test_draws(episode: Episode) -> None:
    learner = bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), objective=bm.Predictive(draws=S))
    torch.manual_seed(2)
    loss = learner.loss(episode)
    torch.manual_seed(2)
    draws = learner(episode.support).draws(episode.query.x, S).log_prob(episode.query.y)
    torch.testing.assert_close(loss, -(draws.logsumexp(0) - math.log(S)).mean())


def test_latent_is_a_normal_and_its_noise_is_shared_on_request() -> None:
    torch.manual_seed(0)
    loc, scale = torch.randn(B, 2), torch.rand(B, 2) + 0.1
    reference = Normal(loc, scale)
    for shared in (False, True):
        latent = Latent(loc, scale, shared).expand((S, B))
        assert (latent.batch_shape, latent.event_shape) == ((S, B), (2,))
        value = latent.rsample()
        torch.testing.assert_close(latent.log_prob(value), reference.log_prob(value).sum(-1))
        torch.testing.assert_close(latent.entropy(), reference.entropy().sum(-1).expand(S, B))
        torch.testing.assert_close((latent.mean[1], latent.variance[1]), (loc, scale.square()))
        noise = (value - loc) / scale
        assert torch.allclose(noise, noise[:, :1], atol=1e-5) == shared
        draws = 20_000
        moments = Latent(loc, scale, shared).expand((draws, B)).rsample()
        # Five standard errors of each of 6 means and 6 deviations: error rate 12 x 6e-7.
        assert ((moments.mean(0) - loc).abs() < 5 * scale / draws**0.5).all()
        assert ((moments.std(0) - scale).abs() < 5 * scale / (2 * draws) ** 0.5).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bm.ELBO(draws=0), "draws: expected a whole number of at least 1, got 0"),
        (lambda: bm.Predictive(draws=2.5), "draws: expected a whole number"),  # type: ignore[arg-type]
        (lambda: bm.ELBO(kl_weight=0.0), "kl_weight: expected a number above 0 and at most 1e\\+06, got 0.0"),
        (lambda: bm.ELBO(kl_weight=math.nan), "kl_weight: expected a number above 0"),
    ],
)
def test_settings_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("given", "got"), [("elbo", "'elbo'"), (bm.ELBO, "the class ELBO"), (None, "None")])
def test_an_objective_is_a_value_of_its_own(given: Any, got: str, episode: Episode) -> None:
    message = rf"objective: expected ELBO\(...\), Predictive\(...\) or JointPredictive\(...\), got {got}; e.g. objective=bm.ELBO"
    with pytest.raises(TypeError, match=message):
        bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), objective=given)
    learner = bm.PLATIPUS(network(), bm.likelihoods.Gaussian())
    learner.objective = given
    with pytest.raises(TypeError, match=message):
        learner.loss(episode)


def test_warm_up_and_a_start_from_maml() -> None:
    """Two recipes of docs/bayesian.md: settings may change between fits, and a trained network is a start."""
    tasks = bm.tasks.Sinusoids(batch=B, shots=3, queries=M, noise=0.1)
    maml = bm.MAML(network(), bm.likelihoods.Gaussian())
    bm.fit(maml, tasks, steps=2, progress=False)
    learner = bm.PLATIPUS(maml.network, maml.likelihood, objective=bm.ELBO(kl_weight=0.01))
    weights = [p.detach().clone() for p in maml.network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(learner.network.parameters(), weights, strict=True))
    bm.fit(learner, tasks, steps=2, progress=False)
    learner.objective = bm.ELBO()
    history = bm.fit(learner, tasks, steps=2, progress=False)
    assert all(map(math.isfinite, history.losses))
