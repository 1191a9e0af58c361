from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from pyro import distributions as dist

from bayesmeta import ALPaCA, Points, Standardized
from bayesmeta.likelihoods import Gaussian
from bayesmeta.networks import MLP
from bayesmeta.posteriors import BayesianLinear, Particles, PointEstimate, Transformed, adapt

D = torch.float64
B, N, M, P = 3, 6, 4, 2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


MASK = torch.arange(N) < torch.tensor([[N], [2], [0]])
SUPPORT = Points(normal(B, N, P) * MASK[..., None], normal(B, N, 2, seed=1) * MASK[..., None], MASK)
X = normal(B, M, P, seed=2)
MEAN, ROOT, NOISE = normal(P, 2, seed=3), normal(P, P, seed=4), torch.tensor(0.2, dtype=D)
COVARIANCE = ROOT @ ROOT.mT + 0.1 * torch.eye(P, dtype=D)


def conjugate(b: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of task b's weights for target k, by conditioning the joint Gaussian of weights and y."""
    phi, y = SUPPORT.x[b, MASK[b]].numpy(), SUPPORT.y[b, MASK[b], k].numpy()
    prior, mean = COVARIANCE.numpy(), MEAN[:, k].numpy()
    gain = prior @ phi.T @ np.linalg.inv(phi @ prior @ phi.T + NOISE.item() ** 2 * np.eye(len(y)))
    return mean + gain @ (y - phi @ mean), prior - gain @ phi @ prior


def linear(support: Points = SUPPORT, noise: torch.Tensor = NOISE) -> BayesianLinear:
    return BayesianLinear(MEAN, COVARIANCE, noise, support)


def test_bayesian_linear_is_conjugate_regression_for_ragged_and_empty_tasks():
    d = linear()(X)
    for b in range(B):
        for k in range(2):
            mean, covariance = conjugate(b, k)
            x = X[b].numpy()
            np.testing.assert_allclose(d.mean[b, :, k], x @ mean, rtol=1e-10, atol=1e-10)
            variance = np.einsum("mp,pq,mq->m", x, covariance, x) + NOISE.item() ** 2
            np.testing.assert_allclose(d.variance[b, :, k], variance, rtol=1e-10, atol=1e-10)


def test_bayesian_linear_draws_have_the_posteriors_moments():
    samples = 20_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = linear().draws(torch.eye(P, dtype=D).expand(B, P, P), samples)  # the draws are the weights
    assert (draws.stddev == NOISE).all()
    for b in range(B):
        for k in range(2):
            mean, covariance = (torch.from_numpy(a) for a in conjugate(b, k))
            values, variance = draws.mean[:, b, :, k], covariance.diagonal()
            # Six standard errors of each of 12 means and 24 covariances: error rate 36 x 2e-9.
            assert ((values.mean(0) - mean).abs() <= 6 * (variance / samples).sqrt()).all()
            bound = 6 * ((variance[:, None] * variance + covariance.square()) / samples).sqrt()
            assert ((values.T.cov() - covariance).abs() <= bound).all()


def test_bayesian_linear_stays_exact_with_many_points_and_little_noise_in_float32():
    x = torch.linspace(-1, 1, 1000)[None, :, None] * torch.tensor([1.0, 0.5]) + torch.tensor([0.0, 1.0])
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    given = Points(x, x @ weights, torch.ones(1, 1000, dtype=torch.bool))
    d = linear(given, torch.tensor(1e-3))(x)
    assert d.mean.dtype == torch.float32
    torch.testing.assert_close(d.mean, given.y, rtol=1e-5, atol=1e-5)


def functions(known: None, x: torch.Tensor) -> dist.Distribution:
    loc = torch.stack([x[..., :1], x[..., 1:] + 1, -x[..., :1]])  # (3, B, M, 1)
    return dist.Normal(loc, 0.3).to_event(1)


def test_particles_predict_their_weighted_mixture():
    log_weights, y = normal(3, B, seed=5), normal(B, M, 1, seed=6)
    d, every = Particles(functions, None, log_weights.mT, SUPPORT)(X), functions(None, X)
    density = (log_weights.softmax(0)[..., None] * every.log_prob(y).exp()).sum(0)
    torch.testing.assert_close(d.log_prob(y).exp(), density, rtol=1e-10, atol=0)


def test_particles_are_drawn_whole_and_as_often_as_they_weigh():
    log_weights, samples = normal(3, B, seed=5), 3000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = Particles(functions, None, log_weights.mT, SUPPORT).draws(X, samples)
    every = functions(None, X).mean
    matches = (draws.mean[:, None] == every).flatten(3).all(-1)  # (S, K, B): the same particle at all of x
    assert (matches.sum(1) == 1).all()
    for b in range(B):
        counts = matches[:, :, b].sum(0).double()
        # Pearson's chi-squared, 2 degrees of freedom, three tasks: error rate 3e-6.
        statistic = scipy.stats.chisquare(counts, samples * log_weights[:, b].softmax(0))
        assert statistic.pvalue > 1e-6


def test_adapt_takes_each_tasks_own_gradient_steps_and_draws_repeat_the_point_estimate():
    network, likelihood = MLP(P, 2, hidden=(5,)).double(), Gaussian().double()
    posterior = adapt(network, likelihood, SUPPORT, steps=2, rates=0.1)
    for b in range(B):
        copy = MLP(P, 2, hidden=(5,)).double()
        copy.load_state_dict(network.state_dict())
        for _ in range(2 if MASK[b].any() else 0):
            error = 0.5 * (copy(SUPPORT.x[b, MASK[b]]) - SUPPORT.y[b, MASK[b]]).square().sum(1).mean()
            slopes = torch.autograd.grad(error, list(copy.parameters()))
            with torch.no_grad():
                for p, slope in zip(copy.parameters(), slopes, strict=True):
                    p.sub_(0.1 * slope)
        torch.testing.assert_close(posterior(X).mean[b], copy(X[b]), rtol=1e-12, atol=1e-12)
    draws = posterior.draws(X, 3)
    assert (draws.batch_shape, draws.event_shape) == ((3, B, M), (2,))
    assert all(torch.equal(draws.mean[s], posterior(X).mean) for s in range(3))


def test_a_point_estimate_stays_when_network_and_likelihood_move():
    network, likelihood = MLP(P, 2, hidden=(5,)).double(), Gaussian().double()
    posterior = adapt(network, likelihood, SUPPORT, steps=1, rates=0.1)
    before = posterior(X)
    with torch.no_grad():
        for p in (*network.parameters(), *likelihood.parameters()):
            p.add_(1.0)
    assert isinstance(posterior, PointEstimate)
    assert torch.equal(posterior(X).mean, before.mean)
    assert torch.equal(posterior(X).stddev, before.stddev)


def test_transformed_maps_inputs_and_predictions_and_the_identity_changes_nothing():
    plain, moved = linear(), Transformed(linear(), SUPPORT, lambda x: 2 * x)
    assert torch.equal(Transformed(plain, SUPPORT, lambda x: x)(X).mean, plain(X).mean)
    assert torch.equal(moved(X).mean, plain(2 * X).mean)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a = moved.draws(X, 2).mean
        torch.manual_seed(0)
        assert torch.equal(a, plain.draws(2 * X, 2).mean)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x.float()])
def test_a_posterior_reads_inputs_of_any_form_and_one_task_without_its_dimension(form):
    posterior = linear(Points(*(t[:1] for t in SUPPORT)))
    expected = posterior(X[:1]).mean
    for x in (X[:1], X[0]):
        torch.testing.assert_close(posterior(form(x)).mean, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"x: expected shape \(B, M, 2\) with B = 1"):
        posterior(X)


def test_two_thousand_single_updates_are_one_batch_in_float32():
    x = torch.randn(1, 2000, P, generator=torch.Generator().manual_seed(0))
    given = Points(x, x.sin(), torch.ones(1, 2000, dtype=torch.bool))
    posterior = linear(Points(*(leaf[:, :1] for leaf in given)), torch.tensor(0.1))
    for n in range(1, 2000):
        posterior = posterior.update(Points(*(leaf[:, n : n + 1] for leaf in given)))
    batch, at = linear(given, torch.tensor(0.1))(x[:, :50]), posterior(x[:, :50])
    assert at.mean.dtype == torch.float32
    torch.testing.assert_close(at.mean, batch.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(at.stddev, batch.stddev, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("targets", [1, 3])
def test_functions_of_many_points_are_those_of_few(targets: int) -> None:
    # Without gradients, what is asked of features comes in blocks: here two functions of a task at a time, at last a single one.
    torch.manual_seed(0)
    network = MLP(2, targets, hidden=(6,), activation=torch.nn.Tanh)
    scales = [torch.tensor(value) for value in ([1.0, 2.0], [0.5, 3.0], 3.0, 0.5)]
    alpaca = ALPaCA(network.features, network.head, Gaussian(0.1))
    learner = Standardized(alpaca, x_loc=scales[0], x_scale=scales[1], y_loc=scales[2], y_scale=scales[3]).double()
    functions = learner(Points(normal(B, N, P), normal(B, N, targets), MASK.new_ones(B, N))).functions(5)
    x = normal(2, 5, B, 3_000).permute(1, 2, 3, 0)  # which lies in columns
    expected, at_first = functions(x.contiguous()), functions(x[0])  # at once, and all at the inputs of the first
    with torch.no_grad():
        found, found_at_first = functions(x), functions(x[0])
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found_at_first.mean, at_first.mean)
    torch.testing.assert_close(found.mean[0], at_first.mean[0])
    torch.testing.assert_close(found.stddev, torch.full_like(found.mean, 0.05))
