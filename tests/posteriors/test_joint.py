"""The joint normal of functions: of every posterior whose functions are Gaussian, in the user's units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from test_contract import B, M, episode
from test_draws import check_joint_normal
from test_update import PAIRS, adapted, close, made, some
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Learner, Points

HAVE = {"ALPaCA", "DKT", "DKT, predictive", "ADKL", "ADKF", "Standardized ALPaCA", "Standardized DKT"}


@pytest.mark.parametrize("name", sorted(HAVE))
def test_its_margins_are_the_prediction(name: str) -> None:
    given = episode("gaussian")
    posterior: Any = adapted(made(name, "gaussian"), given.support)
    mean, covariance, noise = posterior.joint(given.query.x)
    assert (mean.shape, covariance.shape, noise.shape) == ((B, M, 1), (B, 1, M, M), (B, M, 1))
    predictive = posterior(given.query.x)
    close(mean, predictive.mean)
    close(covariance.diagonal(dim1=2, dim2=3).mT + noise.square(), predictive.variance)
    parts = posterior.decompose(given.query.x)
    close(noise.square(), parts.aleatoric)
    close(covariance.diagonal(dim1=2, dim2=3).mT, parts.epistemic)


@pytest.mark.parametrize(("name", "likelihood"), [pair for pair in PAIRS if pair[0] not in HAVE])
def test_all_others_name_functions(name: str, likelihood: str) -> None:
    posterior = made(name, likelihood)(episode(likelihood).support)
    with pytest.raises(NotImplementedError, match=r"joint: expected .* functions are Gaussian.*got .*functions\(S\)"):
        posterior.joint(episode(likelihood).query.x)


def linear() -> Learner:
    torch.manual_seed(0)
    return bm.ALPaCA(bm.networks.MLP(1, 1, activation=nn.Tanh).features, nn.Linear(40, 2), bm.likelihoods.Gaussian(0.3))


def process() -> Learner:
    return bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(0.3))


@pytest.mark.parametrize("make", [linear, process])
def test_functions_are_draws_of_it_in_the_users_units(make: Any) -> None:
    """Two targets of different units, by chi-squared tests at p > 0.01, which are fixed by the seed."""
    scaled = bm.Standardized(make(), x_loc=1.0, x_scale=2.0, y_loc=[3.0, -1.0], y_scale=[10.0, 0.5])
    learner = bm.Calibrated(scaled.double(), temperature=1.0)
    x = torch.linspace(-2, 3, 5, dtype=torch.float64)[None, :, None]
    given = Points(x, torch.cat([x.sin(), x.cos()], -1), torch.ones(1, 5, dtype=torch.bool))
    at = torch.linspace(-4, 4, 12, dtype=torch.float64)[None, :, None]
    with torch.no_grad():
        posterior = learner(given)
        joint = posterior.joint(at)
        torch.manual_seed(1)
        values: Tensor = posterior.functions(4000)(at).mean
    for target in range(2):
        check_joint_normal(values[:, 0, :, target], joint.mean[0, :, target], joint.covariance[0, target])
    close(joint.noise, torch.tensor([3.0, 0.15], dtype=torch.float64).expand(1, 12, 2), rtol=1e-6, atol=0)


def test_a_temperature_and_updates_are_in_it() -> None:
    posterior = made("ALPaCA", "gaussian")(episode("gaussian").support).update(some("gaussian", 3, seed=5))
    x = episode("gaussian").query.x
    plain, wide = posterior.joint(x), bm.wrappers.Tempered(posterior, 2.0).joint(x)
    close(wide.mean, plain.mean)
    close(wide.covariance, 4 * plain.covariance)
    close(wide.noise, 2 * plain.noise)
