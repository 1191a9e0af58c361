"""PACOH against Gaussian processes built one by one, its bound against closed forms; and kernels fitted task by task."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.functional import adaptable, call, ravel, unravel
from bayesmeta.gaussian_process import GaussianProcess
from bayesmeta.methods.adkf import _Objective
from bayesmeta.variational import HyperPosterior

TASKS, POINTS = 4, 7


@pytest.fixture
def episode() -> Episode:
    """All tasks with as many points."""
    source = bm.tasks.Sinusoids(batch=TASKS, shots=3, queries=POINTS - 3, noise=0.1)
    return bm.move(source[0], nn.Linear(1, 1).double())


def pacoh(kind: HyperPosterior = "svgd", particles: int = 3, deep: bool = True, **settings: Any) -> bm.PACOH:
    torch.manual_seed(0)
    features = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh).features if deep else nn.Identity()
    mean = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh) if deep else None
    return bm.PACOH(
        features,
        ScaleKernel(RBFKernel()),
        bm.likelihoods.Gaussian(0.3),
        tasks=TASKS,
        mean=mean,
        hyper_posterior=kind,
        particles=particles,
        **settings,
    ).double()


def one_by_one(learner: bm.PACOH, theta: Tensor, points: bm.Points) -> tuple[GaussianProcess, Any]:
    """The process of one θ, of its own modules, and the mean of it: nothing batched over θ."""
    values = unravel(theta, dict(learner.prior.named_parameters()))
    with torch.no_grad():
        for name, parameter in learner.prior.named_parameters():
            parameter.copy_(values[name])
    parts: Any = learner.prior

    def mean(x: Tensor) -> Tensor:
        result: Tensor = parts["mean"](x)
        return result

    embedded = bm.Points(parts["features"](points.x), points.y - mean(points.x), points.mask)
    return GaussianProcess(parts["kernel"], None, parts["likelihood"].scale, embedded), mean


@pytest.mark.parametrize("ragged", [False, True])
def test_evidence_is_each_priors_marginal_likelihood(ragged: bool, episode: Episode) -> None:
    points = bm.concatenate(*episode)
    if ragged:
        points.mask[1, 4:] = False
    learner = pacoh()
    theta = learner.theta().detach()
    found = learner.log_evidence(theta, points)
    assert found.shape == (3, TASKS)
    for row, each in zip(theta, found, strict=True):
        process, _ = one_by_one(learner, row, points)
        torch.testing.assert_close(process.log_marginal_likelihood(), each, rtol=1e-10, atol=1e-10)


def test_predictions_are_the_equal_mixture_over_the_priors(episode: Episode) -> None:
    support, query = episode
    learner = pacoh()
    posterior = learner(support)
    found, (_, aleatoric, epistemic) = posterior(query.x), posterior.decompose(query.x)
    draws = posterior.draws(query.x, 20_000).mean
    means, variances, noises = [], [], []
    for row in learner.theta().detach():
        process, mean = one_by_one(learner, row, support)
        parts: Any = learner.prior
        embedded = parts["features"](query.x)
        predictive = process(embedded)
        means.append(predictive.mean + mean(query.x))
        noises.append(process.noise.square())
        variances.append(predictive.variance - noises[-1])
    centre, spread, noise = torch.stack(means), torch.stack(variances), torch.stack(noises)
    torch.testing.assert_close(found.mean, centre.mean(0))
    expected = spread.mean(0) + centre.var(0, correction=0)
    torch.testing.assert_close(epistemic, expected)
    torch.testing.assert_close(aleatoric, noise.mean(0).expand_as(aleatoric))
    torch.testing.assert_close(found.variance, aleatoric + epistemic)
    # 20,000 draws: a mean within 5 standard errors (6e-7 for each of the 16 values), a variance within 10 %
    assert ((draws.mean(0) - centre.mean(0)).abs() < 5 * (expected / 20_000).sqrt()).all()
    torch.testing.assert_close(draws.var(0), expected, rtol=0.1, atol=1e-3)


def log_hyper_prior(learner: bm.PACOH, theta: Tensor) -> Tensor:
    normal = torch.distributions.Normal(learner.centre, learner.hyper_scale)
    return normal.log_prob(theta).sum(-1)


def test_the_map_loss_is_the_bound_with_a_density_for_a_divergence(episode: Episode) -> None:
    learner = pacoh("map")
    theta = learner.theta()
    evidence = learner.log_evidence(theta, bm.concatenate(*episode))[0]
    expected = -evidence / POINTS - (1 + 1 / POINTS) / TASKS * log_hyper_prior(learner, theta)
    torch.testing.assert_close(learner.loss(episode), expected.mean())


@pytest.mark.parametrize("kind", ["map", "variational"])
def test_pyros_elbo_of_model_and_guide_is_the_loss_but_for_a_factor(kind: HyperPosterior, episode: Episode) -> None:
    learner = pacoh(kind, particles=1)
    elbo = Trace_ELBO() if kind == "map" else TraceMeanField_ELBO()
    torch.manual_seed(1)
    found = elbo.loss(learner.model, learner.guide, episode)
    torch.manual_seed(1)
    loss = learner.loss(episode).item()
    assert math.isclose(found, loss * POINTS * TASKS / (POINTS + 1), rel_tol=1e-6)


def test_one_particle_of_svgd_climbs_as_map_does(episode: Episode) -> None:
    gradients = []
    for kind in ("map", "svgd"):
        learner = pacoh(kind, particles=1)  # type: ignore[arg-type]
        learner.loss(episode).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.prior.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0] * POINTS / (POINTS + 1), gradients[1])


def test_svgd_finds_the_hyper_posterior_of_one_parameter(episode: Episode) -> None:
    """Against quadrature over log σ, the one parameter that is free: its mean and standard deviation."""
    learner = pacoh("svgd", particles=40, deep=False, hyper_scale=1.0)
    free = [name for name, _ in learner.prior.named_parameters()].index("likelihood.log_scale")
    start = learner.theta()[0].detach()
    with torch.no_grad():
        learner.others.copy_(start.expand_as(learner.others))
        learner.others[:, free] += torch.linspace(-1, 1, 39).double()
    optimizer = torch.optim.Adam(learner.parameters(), 0.03)
    for _ in range(400):
        optimizer.zero_grad()
        learner.loss(episode).backward()
        for parameter in learner.parameters():
            assert parameter.grad is not None
            flat = (
                parameter.grad.view(-1, len(start))
                if parameter.dim() == 2 and parameter.shape[1] == len(start)
                else None
            )
            if flat is not None:
                flat[:, :free] = 0
                flat[:, free + 1 :] = 0
        for name, parameter in learner.prior.named_parameters():
            if name != "likelihood.log_scale":
                parameter.grad = None
        optimizer.step()
    found = learner.theta()[:, free].detach()
    grid = torch.linspace(-4, 3, 701).double()
    theta = start.expand(701, -1).clone()
    theta[:, free] = grid
    points = bm.concatenate(*episode)
    with torch.no_grad():
        density = (learner.log_evidence(theta, points) / (POINTS + 1)).sum(1) + log_hyper_prior(learner, theta)
    weight = density.softmax(0)
    mean = (weight * grid).sum()
    deviation = (weight * (grid - mean).square()).sum().sqrt()
    assert abs(found.mean() - mean) < 0.1 * deviation
    assert abs(found.std() / deviation - 1) < 0.15


def test_the_bound_is_evidence_and_the_divergence_in_closed_form(episode: Episode) -> None:
    learner = pacoh("map", deep=False)
    tasks: Any = [episode]
    torch.manual_seed(0)
    found = learner.bound(tasks, blur=1e-9)
    theta = ravel(adaptable(learner.prior)).detach()
    evidence = -learner.log_evidence(theta[None], bm.concatenate(*episode))[0].mean() / POINTS
    ratio = 1e-9 / learner.hyper_scale
    moved = (theta - learner.centre).square().sum() / learner.hyper_scale**2
    divergence = 0.5 * (len(theta) * (ratio**2 - 1 - 2 * math.log(ratio)) + moved)
    torch.testing.assert_close(found.evidence, evidence)
    torch.testing.assert_close(found.complexity, (1 + 1 / POINTS) / TASKS * divergence)
    torch.testing.assert_close(found.value, found.evidence + found.complexity)


def test_the_variational_bound_falls_in_training(episode: Episode) -> None:
    learner = pacoh("variational", deep=False)
    tasks: Any = [episode]
    torch.manual_seed(0)
    before = learner.bound(tasks).value
    bm.fit(learner, tasks, steps=200, progress=False)
    torch.manual_seed(0)
    after = learner.bound(tasks)
    assert after.value < before
    assert torch.isclose(after.value, torch.stack([learner.loss(episode) for _ in range(200)]).mean(), rtol=0.02)


def test_pacoh_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="hyper_posterior: expected 'map'"):
        pacoh("MAP")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tasks: expected"):
        bm.PACOH(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(), tasks=0)
    with pytest.raises(ValueError, match="likelihood: expected a Gaussian"):
        bm.PACOH(nn.Identity(), RBFKernel(), bm.likelihoods.StudentT(), tasks=2)  # type: ignore[arg-type]


def adkf(**settings: Any) -> bm.ADKF:
    torch.manual_seed(0)
    features = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh).features
    return bm.ADKF(features, ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(0.3), **settings).double()


def test_each_task_fits_its_kernel_to_a_minimum(episode: Episode) -> None:
    learner = adkf(steps=30)
    support = episode.support
    fitted = learner.infer(support).detach()
    assert (fitted[0] - fitted[1]).abs().max() > 1e-2  # tasks differ
    start = ravel(adaptable(learner.fitted)).detach()
    names = dict(learner.fitted.named_parameters())

    def objective(values: Tensor, task: int) -> Tensor:
        one = bm.Points(*(part[task : task + 1] for part in support))
        parts = unravel(values, names)
        kernel: Any = learner.fitted["kernel"]
        own = {name.removeprefix("kernel."): v[None] for name, v in parts.items() if name.startswith("kernel.")}
        likelihood: Any = learner.fitted["likelihood"]
        scale = call(likelihood, {"log_scale": parts["likelihood.log_scale"]}, torch.zeros(1).double()).stddev
        embedded = one._replace(x=learner.features(one.x))
        evidence = GaussianProcess(kernel, None, scale, embedded, own).log_marginal_likelihood()
        return 0.5 * (values - start).square().sum() / learner.deviation**2 - evidence.sum()

    for task in range(TASKS):
        at = fitted[task].clone().requires_grad_()
        value = objective(at, task)
        (slope,) = torch.autograd.grad(value, at)
        assert slope.norm() < 1e-6
        assert value < objective(start, task)


def test_the_kernels_slope_and_hessian_are_those_of_automatic_differentiation(episode: Episode) -> None:
    learner, support = adkf(), episode.support
    learner.fitted["kernel"].base_kernel.register_prior("prior", GammaPrior(2.0, 3.0), "lengthscale")  # type: ignore[operator, union-attr]
    support.mask[1, 1:] = False
    two = support._replace(x=learner.features(support.x).detach(), y=torch.cat([support.y, support.y.cos()], 2))
    start = ravel(adaptable(learner.fitted)).detach()
    at = start + torch.randn(TASKS, len(start)).double()
    slope, hessian = _Objective(learner.fitted, two, start, 0.7).derivatives(at)
    for task in range(TASKS):
        alone = _Objective(learner.fitted, bm.Points(*(part[task : task + 1] for part in two)), start, 0.7)
        value = lambda values, alone=alone: alone(values[None]).sum()  # noqa: E731
        torch.testing.assert_close(slope[task], torch.autograd.functional.jacobian(value, at[task]))
        torch.testing.assert_close(hessian[task], torch.autograd.functional.hessian(value, at[task]))


def test_a_narrow_deviation_is_a_shared_kernel(episode: Episode) -> None:
    learner = adkf(deviation=1e-4)
    kernel: Any = learner.fitted["kernel"]
    likelihood: Any = learner.fitted["likelihood"]
    shared = bm.DKT(learner.features, kernel, likelihood)
    found, expected = learner(episode.support)(episode.query.x), shared(episode.support)(episode.query.x)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-5, atol=1e-5)


def test_an_empty_support_leaves_the_shared_kernel(episode: Episode) -> None:
    learner = adkf()
    support = episode.support._replace(mask=torch.zeros_like(episode.support.mask))
    fitted = learner.infer(support)
    torch.testing.assert_close(fitted, ravel(adaptable(learner.fitted)).expand_as(fitted))


def test_pacoh_nns_evidence_is_that_of_bayesian_linear_regression(episode: Episode) -> None:
    """A network that is one linear layer has its evidence in closed form: N(X μ, X diag(s²) Xᵀ + σ² I).

    100,000 weights, a wide σ and points near zero, so that the estimate's standard error is about 0.003 of the evidence's.
    """
    torch.manual_seed(0)
    learner = bm.PACOHNN(
        nn.Linear(1, 1), bm.likelihoods.Gaussian(2.0), tasks=TASKS, spread=0.5, weights=100_000, particles=2
    ).double()
    points = bm.concatenate(*episode)
    points = points._replace(x=0.3 * points.x, y=0.3 * points.y)
    points.mask[1, 4:] = False
    theta = learner.theta().detach()
    torch.manual_seed(1)
    found = learner.log_evidence(theta, points)
    for row, each in zip(theta, found, strict=True):
        mean, spread, noise = row[:2], row[2:4].exp(), 1e-4 + row[4].exp()
        for task in range(TASKS):
            kept = points.mask[task]
            x = torch.cat([points.x[task][kept], torch.ones_like(points.x[task][kept])], 1)
            covariance = (x * spread.square()) @ x.mT + noise.square() * torch.eye(len(x), dtype=x.dtype)
            exact = torch.distributions.MultivariateNormal(x @ mean, covariance).log_prob(points.y[task][kept, 0])
            assert abs(each[task] - exact) < 0.02


def test_pacoh_nn_learns_a_task_from_its_support(episode: Episode) -> None:
    torch.manual_seed(0)
    learner = bm.PACOHNN(
        nn.Linear(1, 1), bm.likelihoods.Gaussian(0.1), tasks=TASKS, spread=1.0, weights=8, particles=2, steps=300
    ).double()
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    predictive = learner(bm.points(x, 2 * x - 0.5))(x)
    torch.testing.assert_close(predictive.mean.flatten(), 2 * x - 0.5, atol=0.1, rtol=0.0)
