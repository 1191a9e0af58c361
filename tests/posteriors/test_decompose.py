"""The parts of the uncertainty, by draws and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro.distributions import Categorical, Normal
from torch import nn

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.posteriors import BayesianLinear, Outputs, Particles, Sampled, heads

X = torch.linspace(-1, 1, 4)[None, :, None]
SUPPORT = Points(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool))


def test_draws_agree_with_the_closed_form() -> None:
    """A Bayesian linear model by its draws and in closed form."""
    closed = BayesianLinear(torch.zeros(1, 1), torch.eye(1), torch.tensor(0.5), SUPPORT)

    def lines(known: None, samples: int) -> Outputs:
        return heads(lambda x: x, torch.randn(samples, 1, 1, 1) * torch.tensor([1.0, 0.0]))

    drawn = Sampled(lines, None, bm.likelihoods.Gaussian(0.5), SUPPORT)
    samples = 20_000
    torch.manual_seed(0)
    for ours, exact in zip(drawn.decompose(X, samples), closed.decompose(X), strict=True):
        # The variance of a variance is 2 σ⁴ / S: five standard errors, error rate 12 x 6e-7.
        assert ((ours - exact).abs() <= 5 * exact * (2 / samples) ** 0.5 + 1e-6).all()


def test_particles_in_closed_form() -> None:
    log_weights = torch.tensor([0.25, 0.75]).log()[None]
    means = torch.tensor([-1.0, 1.0])[:, None, None, None]
    scale = torch.tensor([0.5, 1.0])[:, None, None, None]
    posterior = Particles(
        lambda known, x: Normal(means.expand(2, 1, 4, 1), scale.expand(2, 1, 4, 1)).to_event(1),
        None,
        log_weights,
        SUPPORT,
    )
    total, aleatoric, epistemic = posterior.decompose(X)
    torch.testing.assert_close(aleatoric, torch.full((1, 4, 1), 0.25 * 0.25 + 0.75 * 1.0))
    torch.testing.assert_close(epistemic, torch.full((1, 4, 1), 1 - 0.5**2))
    torch.testing.assert_close(total, posterior(X).variance)


def test_classes_are_entropies_and_mutual_information() -> None:
    logits = torch.tensor([[8.0, -8.0], [-8.0, 8.0]])[:, None, None].expand(2, 1, 4, 2)
    posterior = Particles(lambda known, x: Categorical(logits=logits), None, torch.zeros(1, 2), SUPPORT)
    total, aleatoric, epistemic = posterior.decompose(X)
    torch.testing.assert_close(total, torch.full((1, 4), math.log(2)))
    assert (aleatoric < 1e-4).all()  # each is sure: all of the doubt is about which
    torch.testing.assert_close(epistemic, total - aleatoric)


def test_units_of_the_user() -> None:
    tasks = bm.tasks.LinearGaussian(inputs=1, noise=0.3, batch=4)
    torch.manual_seed(0)
    inner = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian(0.3))
    learner = bm.Standardized.from_tasks(inner, tasks)
    with torch.no_grad():
        learner.y_scale.fill_(10.0)
    support, query = tasks[0]
    total, aleatoric, epistemic = learner(support).decompose(query.x)
    torch.testing.assert_close(total, learner(support)(query.x).variance)
    torch.testing.assert_close(aleatoric, torch.full_like(aleatoric, 9.0))
    assert (epistemic > 0).all()


def test_gaussian_process_and_oracle() -> None:
    tasks = bm.tasks.GaussianProcessTasks(RBFKernel(), noise=0.2, batch=2)
    support, query = tasks[0]
    posterior = tasks.oracle(support)
    total, aleatoric, _ = posterior.decompose(query.x)
    torch.testing.assert_close(aleatoric, torch.full_like(aleatoric, 0.04))
    torch.testing.assert_close(total, posterior(query.x).variance)
    sinusoid = bm.tasks.Sinusoids(noise=0.1, batch=2)
    total, aleatoric, _ = sinusoid.oracle(sinusoid[0].support).decompose(sinusoid[0].query.x)
    torch.testing.assert_close(aleatoric, torch.full_like(aleatoric, 0.01))
    torch.testing.assert_close(total, sinusoid.oracle(sinusoid[0].support)(sinusoid[0].query.x).variance)


def test_samples_out_of_range() -> None:
    posterior = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())(SUPPORT)
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1, got 0"):
        posterior.decompose(X, 0)
