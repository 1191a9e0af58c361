"""The Laplace head against closed forms, derivatives by autograd, and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_gradients import finite_differences, gradient, relative_error
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points

D = torch.float64
INPUTS, W = 2, 3


def outputs(likelihood: bm.likelihoods.Likelihood) -> int:
    return W if isinstance(likelihood, bm.likelihoods.Categorical) else 1


def some(likelihood: bm.likelihoods.Likelihood, count: int = 6, seed: int = 0) -> Points:
    """Three tasks, of all points, of two, and of none."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, count, INPUTS, generator=generator, dtype=D)
    mask = torch.arange(count) < torch.tensor([[count], [2], [0]])
    if isinstance(likelihood, bm.likelihoods.Categorical):
        y = torch.randint(W, (3, count), generator=generator) * mask
    elif isinstance(likelihood, bm.likelihoods.Gaussian):
        y = torch.randn(3, count, 1, generator=generator, dtype=D) * mask[..., None]
    else:
        top = 2 if isinstance(likelihood, bm.likelihoods.Bernoulli) else 8
        y = torch.randint(top, (3, count, 1), generator=generator).to(D) * mask[..., None]
    return Points(x * mask[..., None], y, mask)


def head(likelihood: bm.likelihoods.Likelihood, **settings: Any) -> bm.LaplaceHead:
    torch.manual_seed(0)
    linear = nn.Linear(INPUTS, outputs(likelihood))
    learner = bm.LaplaceHead(nn.Identity(), linear, likelihood, **({"objective": bm.ELBO()} | settings)).double()
    with torch.no_grad():
        learner.root.normal_()
    return learner


LIKELIHOODS: dict[str, Callable[[], bm.likelihoods.Likelihood]] = {
    "Poisson": bm.likelihoods.Poisson,
    "NegativeBinomial": bm.likelihoods.NegativeBinomial,
    "Bernoulli": bm.likelihoods.Bernoulli,
    "Categorical": bm.likelihoods.Categorical,
    "Gaussian": bm.likelihoods.Gaussian,
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_mode_the_curvature_and_the_evidence_are_those_that_autograd_finds(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    learner, points = head(likelihood), some(likelihood)
    found = learner(points).inner
    start, root = (part.detach() for part in learner.prior())
    prior = torch.distributions.MultivariateNormal(torch.zeros(INPUTS + 1, dtype=D), scale_tril=root)
    loss = learner.loss(Episode(points, points._replace(mask=torch.zeros_like(points.mask))))
    torch.testing.assert_close(loss, -(found.evidence / points.mask.sum(1).clamp(min=1)).mean())
    for b, mask in enumerate(points.mask):

        def joint(weights: Tensor, b: int = b, mask: Tensor = mask) -> Tensor:
            phi = torch.cat([points.x[b], torch.ones(len(mask), 1)], 1)
            log_p = likelihood(phi @ weights).log_prob(points.y[b])[mask].sum()
            return log_p + prior.log_prob((weights - start).mT).sum()

        mode = found.mean[b].detach()
        torch.testing.assert_close(torch.func.grad(joint)(mode), torch.zeros_like(mode), rtol=0, atol=1e-8)
        hessian = torch.func.jacrev(torch.func.grad(joint))(mode).reshape(mode.numel(), -1).detach()
        factor = found.cholesky[b].detach()
        torch.testing.assert_close(factor @ factor.mT, -hessian, rtol=1e-8, atol=1e-8)
        expected = joint(mode) + 0.5 * mode.numel() * math.log(2 * math.pi) - 0.5 * torch.logdet(-hessian)
        torch.testing.assert_close(found.evidence[b], expected, rtol=1e-8, atol=1e-8)


def test_with_a_gaussian_it_is_alpaca_and_its_evidence_is_exact() -> None:
    likelihood = bm.likelihoods.Gaussian(0.3)
    learner, points, query = head(likelihood), some(likelihood), some(likelihood, seed=1)
    exact = bm.ALPaCA(nn.Identity(), learner.head, likelihood).double()
    with torch.no_grad():
        exact.root.copy_(learner.root)
    ours, theirs = (one(points)(query.x) for one in (learner, exact))
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=0.01, atol=0.01)  # ours averages 128 numbers
    for a, b in zip(*(one(points).decompose(query.x) for one in (learner, exact)), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0)
    mean, root = learner.prior()
    phi = torch.cat([points.x[0], torch.ones(6, 1)], 1)
    covariance = phi @ root @ root.mT @ phi.mT + likelihood.scale**2 * torch.eye(6, dtype=D)
    marginal = torch.distributions.MultivariateNormal((phi @ mean)[:, 0], covariance)
    evidence = learner(points).inner.evidence
    torch.testing.assert_close(evidence[0], marginal.log_prob(points.y[0, :, 0]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "make", [bm.likelihoods.Poisson, bm.likelihoods.NegativeBinomial], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("deviation", [0.3, 0.7])
def test_predictions_of_counts_are_near_the_quadratures(
    make: Callable[[], bm.likelihoods.Likelihood], deviation: float
) -> None:
    """One intercept a task, after two counts: what Laplace's Gaussian costs is below 0.005 nats a count."""
    likelihood = make().double()
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), likelihood, prior_scale=deviation).double()
    with torch.no_grad():
        learner.head.weight.zero_()
        learner.head.bias.fill_(1.0)
    y = torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 9.0]], dtype=D)[..., None]
    posterior = learner(Points(torch.zeros(3, 2, 1, dtype=D), y, torch.ones(3, 2, dtype=torch.bool)))
    asked = torch.arange(40, dtype=D).expand(3, 40)[..., None]
    found = posterior(torch.zeros(3, 40, 1, dtype=D)).log_prob(asked)
    u = deviation * torch.linspace(-8, 8, 801, dtype=D)
    each = likelihood((1 + u)[:, None])
    log_weight = sum(each.log_prob(y[:, i, None]) for i in range(2)) - 0.5 * (u / deviation).square()
    exact = (log_weight.log_softmax(-1)[:, None] + each.log_prob(asked[:, :, None])).logsumexp(-1)
    cost = (exact.exp() * (exact - found)).sum(1)  # the Kullback-Leibler divergence
    assert (cost > -1e-6).all()
    assert (cost < 0.005).all()


def test_counts_far_from_the_prior_are_reached() -> None:
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Poisson(), prior_scale=20.0).double()
    for y in (0.0, 1e4):
        posterior = learner(bm.points([0.0, 0.0], [y, y], dtype=D))
        assert posterior([0.0]).mean.isfinite().all()
        if y:
            torch.testing.assert_close(posterior([0.0]).mean.item(), y, rtol=1e-3, atol=0)


@pytest.mark.parametrize("objective", [bm.ELBO(), bm.Predictive(draws=128)], ids=["elbo", "predictive"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_difference_quotients(name: str, objective: bm.ELBO | bm.Predictive) -> None:
    likelihood = LIKELIHOODS[name]()
    learner = head(likelihood, objective=objective)
    episode = Episode(some(likelihood), some(likelihood, seed=1))
    parameters = list(learner.parameters())
    expected = finite_differences(lambda: learner.loss(episode), parameters)
    assert relative_error(gradient(learner.loss(episode), parameters), expected) < 1e-6


class Bumps(bm.likelihoods.Likelihood):
    """A mixture of two normals: not concave between them."""

    def forward(self, outputs: Tensor) -> torch.distributions.Distribution:
        both = torch.stack([outputs[..., 0] - 3, outputs[..., 0] + 3], -1)
        parts = torch.distributions.Normal(both, torch.ones_like(both), validate_args=False)
        weights = torch.distributions.Categorical(logits=torch.zeros_like(both), validate_args=False)
        mixture = torch.distributions.MixtureSameFamily(weights, parts, validate_args=False)
        return torch.distributions.Independent(mixture.expand(outputs.shape[:-1]), 0)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (outputs[..., 0] - y).square()


def test_likelihoods_of_several_modes_are_refused() -> None:
    for likelihood in (bm.likelihoods.StudentT(), bm.likelihoods.HeteroscedasticGaussian()):
        with pytest.raises(ValueError, match="likelihood: expected one whose logarithm is concave in the outputs"):
            bm.LaplaceHead(nn.Identity(), nn.Linear(1, 2), likelihood)
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1, bias=False), Bumps(), prior_scale=5.0)
    with torch.no_grad():
        learner.head.weight.zero_()
    with pytest.raises(ValueError, match="with a curvature that is not positive"):
        learner(Points(torch.zeros(1, 3, 1), torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)))
    with pytest.raises(TypeError, match="objective: expected ELBO"):
        bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Poisson(), objective="evidence")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="head: expected the nn"):
        bm.LaplaceHead(nn.Identity(), nn.Identity(), bm.likelihoods.Poisson())  # type: ignore[arg-type]


@pytest.mark.parametrize("likelihood", [bm.likelihoods.Poisson, bm.likelihoods.Gaussian, bm.likelihoods.Bernoulli])
def test_targets_of_another_shape_do_not_broadcast(likelihood: Callable[[], bm.likelihoods.Likelihood]) -> None:
    with pytest.raises(ValueError, match=r"y: expected targets of event shape \(1,\).*got \(2,\)"):
        bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), likelihood())(bm.points([0.0, 1.0], torch.ones(2, 2)))
    with pytest.raises(ValueError, match=r"y: expected targets of event shape \(2,\).*got \(1,\)"):
        bm.LaplaceHead(nn.Identity(), nn.Linear(1, 2), likelihood())(bm.points([0.0, 1.0], [0.0, 1.0]))


def test_arguments_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="y: expected integer labels"):
        bm.LaplaceHead(nn.Identity(), nn.Linear(1, 2), bm.likelihoods.Categorical())(bm.points([0.0], [1.0]))
    with pytest.raises(ValueError, match=r"head: expected as many inputs as there are features, 1, got 3"):
        bm.LaplaceHead(nn.Identity(), nn.Linear(3, 1), bm.likelihoods.Poisson())(bm.points([0.0], [1.0]))


@pytest.mark.parametrize("count", [1e3, 1e5, 1e6])
def test_large_counts_have_their_mode(count: float) -> None:
    """From a rate of 1 a full Newton step is as long as the count, and overshoots to exp(count)."""
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Poisson(), prior_scale=10.0).double()
    predictive = learner(bm.points([1.0, 0.0], [count, 1.0], dtype=torch.float64))([1.0])
    torch.testing.assert_close(predictive.mean.item(), count, rtol=0.01, atol=0.0)


def test_points_that_count_for_a_part_are_as_much_evidence_as_fewer() -> None:
    """Each of four copies of a point, at η = 1/4, is as much as the point; and η learns how much neighbours repeat each other."""
    likelihood = bm.likelihoods.Bernoulli()
    given = some(likelihood)
    whole, part = (head(likelihood, objective=bm.Predictive(), **one) for one in ({}, {"evidence": 0.25}))
    part.load_state_dict({**part.state_dict(), **whole.state_dict()})
    copies = Points(*(leaf.repeat_interleave(4, 1) for leaf in given))
    found, expected = part(copies).inner, whole(given).inner
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.cholesky, expected.cholesky)
    whole_points, learner = given, head(likelihood, objective=bm.Predictive(), evidence=1.0)
    query = some(likelihood, seed=1)
    value = lambda: learner.loss(Episode(whole_points, query))  # noqa: E731
    exact = gradient(value(), [learner.log_evidence])
    assert relative_error(exact, finite_differences(value, [learner.log_evidence])) < 1e-6
    with pytest.raises(ValueError, match="objective: expected Predictive"):
        head(likelihood, evidence=0.5)
    with pytest.raises(ValueError, match="evidence: expected a number above 0"):
        head(likelihood, objective=bm.Predictive(), evidence=0.0)
