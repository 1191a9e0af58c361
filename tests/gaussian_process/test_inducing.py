"""Gaussian processes by way of a few of their points, against the exact ones."""

from __future__ import annotations

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.means import ConstantMean
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.gaussian_process import GaussianProcess, InducingProcess

D = torch.float64


@pytest.fixture
def support() -> Points:
    """Two tasks with two targets; the second has a third of its points, and one of them twice."""
    torch.manual_seed(0)
    x = torch.rand(2, 60, 2, dtype=D) * 3
    x[1, 1] = x[1, 0]
    y = torch.stack([(3 * x[..., 0]).sin(), x.prod(-1)], -1) + 0.1 * torch.randn(2, 60, 2, dtype=D)
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[1, 20:] = False
    return Points(x * mask[..., None], y * mask[..., None], mask)


NOISE = torch.tensor(0.2, dtype=D)
X = torch.linspace(-0.5, 3.5, 14, dtype=D).reshape(1, 7, 2).expand(2, 7, 2)
KERNEL = ScaleKernel(MaternKernel(nu=2.5)).double().requires_grad_(False)


def test_with_all_points_it_is_the_exact_process(support: Points) -> None:
    found, exact = InducingProcess(KERNEL, NOISE, support, 60), GaussianProcess(KERNEL, None, NOISE, support)
    close = {"rtol": 1e-6, "atol": 1e-6}
    for ask in (lambda p: p(X).mean, lambda p: p(X).stddev, lambda p: p.joint(X).covariance, lambda p: p.joint(X).mean):
        torch.testing.assert_close(ask(found), ask(exact), **close)
    for part, true in zip(found.decompose(X), exact.decompose(X), strict=True):
        torch.testing.assert_close(part, true, **close)


def test_the_error_falls_with_the_number_of_points_and_doubt_is_never_too_small(support: Points) -> None:
    exact = GaussianProcess(KERNEL, None, NOISE, support)(X)
    errors = []
    for count in (2, 8, 20, 40):
        found = InducingProcess(KERNEL, NOISE, support, count)(X)
        errors.append(float((found.mean - exact.mean).detach().abs().max()))
        assert (found.stddev > exact.stddev - 2e-2).all()
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < 0.3 < errors[0]


def test_it_is_the_deterministic_training_conditional(support: Points) -> None:
    """Its textbook form, which inverts matrices: Quiñonero-Candela & Rasmussen 2005, equation 20b."""
    one = Points(*(part[:1] for part in support))
    found = InducingProcess(KERNEL, NOISE, one, 10)
    between = lambda a, b: KERNEL(a, b).to_dense()  # noqa: E731
    u, x = found.chosen[0], X[0]
    inner, cross, asked = between(u, u), between(u, one.x[0]), between(x, u)
    sigma = torch.linalg.inv(cross @ cross.mT / NOISE**2 + inner)
    mean = asked @ sigma @ cross @ one.y[0] / NOISE**2
    covariance = between(x, x) - asked @ torch.linalg.inv(inner) @ asked.mT + asked @ sigma @ asked.mT
    torch.testing.assert_close(found(X[:1]).mean[0], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.joint(X[:1]).covariance[0, 0], covariance, rtol=1e-6, atol=1e-6)


def test_the_mixture_of_functions_is_the_prediction(support: Points) -> None:
    """20,000 functions: means within six of their standard errors, and deviations within 4 %, which are more than five."""
    posterior = InducingProcess(KERNEL, NOISE, support, 10)
    torch.manual_seed(0)
    functions, exact = posterior.functions(20_000), posterior(X)
    drawn = functions(X)
    torch.testing.assert_close(functions(X).mean, drawn.mean)
    assert ((drawn.mean.mean(0) - exact.mean).abs() < 6 * exact.stddev / 20_000**0.5).all()
    spread = (drawn.variance.mean(0) + drawn.mean.var(0)).sqrt()
    torch.testing.assert_close(spread, exact.stddev, rtol=0.04, atol=0)
    own = posterior.functions(3)
    values = X.expand(3, 2, 7, 2)
    torch.testing.assert_close(own(values).mean, own(X).mean)


def learner(inducing: int | None) -> bm.DKT:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    return bm.DKT(features, ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(0.2), inducing=inducing).double()


def test_dkt_takes_them_for_larger_supports_only(support: Points) -> None:
    exact, few = learner(None), learner(20)
    small = Points(*(part[:, :20] for part in support))
    torch.testing.assert_close(few(small)(X).mean, exact(small)(X).mean, rtol=0, atol=0)
    torch.testing.assert_close(few(support)(X).mean, exact(support)(X).mean, rtol=0, atol=0.05)  # of up to 9
    assert not torch.equal(few(support)(X).mean, exact(support)(X).mean)
    episode = bm.Episode(support, small)
    slopes = torch.autograd.grad(
        -few(support)(X).log_prob(torch.zeros(2, 7, 2, dtype=D)).mean(), list(few.parameters())
    )
    assert all(slope.isfinite().all() and slope.any() for slope in slopes)
    torch.testing.assert_close(few.loss(episode), exact.loss(episode))  # training knows all points


def test_updates_are_exact_given_the_inducing_points_and_of_constant_size(support: Points) -> None:
    first, second = (Points(*part) for part in zip(*(leaf.split(30, 1) for leaf in support), strict=True))
    posterior = InducingProcess(KERNEL, NOISE, first, 12)
    later = posterior.update(second)
    phi = torch.cat([posterior._phi(first.x), posterior._phi(second.x)], 1) * support.mask[..., None]
    precision = torch.eye(12, dtype=D) + phi.mT @ phi / NOISE**2
    weights = torch.linalg.solve(precision, phi.mT @ support.y / NOISE**2)

    def expected(x: Tensor) -> Tensor:
        return posterior._phi(x) @ weights

    torch.testing.assert_close(later(X).mean, expected(X))
    assert later.mean.shape == posterior.mean.shape  # type: ignore[attr-defined]


def test_what_is_wrong_is_named(support: Points) -> None:
    with pytest.raises(ValueError, match="inducing: expected a whole number of at least 1, got 0"):
        learner(0)
    with pytest.raises(ValueError, match="mean: expected None beside inducing points"):
        bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(), mean=ConstantMean(), inducing=8)
