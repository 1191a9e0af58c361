from __future__ import annotations

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel
from gpytorch.means import ConstantMean, LinearMean
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from bayesmeta import Points
from bayesmeta.gaussian_process import GaussianProcess, cholesky, covariance

examples = settings(max_examples=15, deadline=None, derandomize=True, database=None)
D = torch.float64
B, N, M = 3, 7, 5
NOISE = torch.tensor(0.3, dtype=D)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def initialised(module, seed: int = 3):
    """The module in float64, its raw parameters at random values."""
    module = module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(0.5 * normal(*p.shape, seed=seed + i))
    return module


def support(features: int, case: str, targets: int = 1) -> Points:
    x, y, mask = normal(B, N, features), normal(B, N, targets, seed=1), torch.ones(B, N, dtype=torch.bool)
    if case == "padded":
        mask = torch.arange(N) < torch.tensor([[N], [3], [1]])
        mask[0, 2] = False  # a gap in the middle, too
    if case == "duplicated":
        x[:, 1::2] = x[:, :-1:2]
    return Points(x * mask[..., None], y * mask[..., None], mask)


# kernel, mean, number of features
ROWS = {
    "RBF": (lambda: ScaleKernel(RBFKernel()), None, 1),
    "Matern ARD": (lambda: ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=2)), ConstantMean, 2),
    "linear": (LinearKernel, None, 2),
    "periodic plus RQ": (lambda: PeriodicKernel() + RQKernel(), lambda: LinearMean(1), 1),
    "product of single features": (lambda: RBFKernel(active_dims=[0]) * MaternKernel(active_dims=[1]), ConstantMean, 2),
}
kernels = pytest.mark.parametrize(("kernel", "mean", "features"), ROWS.values(), ids=ROWS)
cases = pytest.mark.parametrize("case", ["plain", "padded", "duplicated"])


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x, y, kernel, mean):
        likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = mean or gpytorch.means.ZeroMean(), kernel
        likelihood.noise = NOISE**2

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@kernels
@cases
def test_the_predictive_is_that_of_gpytorchs_exact_gp(kernel, mean, features, case):
    kernel, mean = initialised(kernel()), None if mean is None else initialised(mean())
    given, x = support(features, case), normal(B, M, features, seed=2)
    d = GaussianProcess(kernel, mean, NOISE, given)(x)
    assert (d.batch_shape, d.event_shape, d.mean.dtype) == ((B, M), (1,), D)
    for b in range(B):
        seen = given.mask[b]
        model = Exact(given.x[b, seen], given.y[b, seen, 0], kernel, mean).eval()
        with gpytorch.settings.fast_computations(False, False, False):
            exact = model.likelihood(model(x[b]))
        torch.testing.assert_close(d.mean[b, :, 0], exact.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(d.variance[b, :, 0], exact.variance, rtol=1e-9, atol=1e-9)


@cases
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_the_predictive_is_that_of_scikit_learn(case, noise):
    given, x = support(2, case), normal(B, M, 2, seed=2)
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=2)).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 1.7, torch.tensor([0.6, 1.3], dtype=D)
    d = GaussianProcess(kernel, None, torch.tensor(noise, dtype=D), given)(x)
    theirs = sk.ConstantKernel(1.7) * sk.Matern([0.6, 1.3], nu=2.5)
    for b in range(B):
        seen = given.mask[b]
        exact = GaussianProcessRegressor(theirs, alpha=noise**2, optimizer=None)
        exact.fit(given.x[b, seen].numpy(), given.y[b, seen, 0].numpy())
        mean, std = exact.predict(x[b].numpy(), return_std=True)
        np.testing.assert_allclose(d.mean[b, :, 0].detach(), mean, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(d.variance[b, :, 0].detach(), std**2 + noise**2, rtol=1e-7, atol=1e-7)


def test_targets_are_independent_given_the_kernel():
    given, x = support(1, "padded", targets=3), normal(B, M, 1, seed=2)
    kernel = initialised(RBFKernel())
    joint = GaussianProcess(kernel, None, NOISE, given)(x)
    for k in range(3):
        one = GaussianProcess(kernel, None, NOISE, Points(given.x, given.y[..., k : k + 1], given.mask))(x)
        torch.testing.assert_close(joint.mean[..., k : k + 1], one.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(joint.variance[..., k : k + 1], one.variance, rtol=1e-12, atol=1e-12)


@examples
@given(st.permutations(range(N)), st.permutations(range(B)), st.integers(0, 4))
def test_order_padding_and_other_tasks_change_nothing(order, tasks, rows):
    given, x, kernel = support(1, "padded"), normal(B, M, 1, seed=2), initialised(RBFKernel())
    expected = GaussianProcess(kernel, None, NOISE, given)(x)
    pad = [torch.cat([t, t.new_zeros(B, rows, *t.shape[2:])], 1)[tasks] for t in Points(*(t[:, order] for t in given))]
    other = GaussianProcess(kernel, None, NOISE, Points(*pad))(x[tasks])
    torch.testing.assert_close(other.mean, expected.mean[tasks], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.variance, expected.variance[tasks], rtol=1e-10, atol=1e-10)


def test_nothing_observed_gives_the_prior():
    given, x = support(2, "plain"), normal(B, M, 2, seed=2)
    empty = Points(given.x * 0, given.y * 0, given.mask & False)
    kernel, mean = initialised(ScaleKernel(RBFKernel())), initialised(LinearMean(2))
    d = GaussianProcess(kernel, mean, NOISE, empty)(x)
    torch.testing.assert_close(d.mean[..., 0], mean(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d.variance, (kernel.outputscale + NOISE**2).expand(B, M, 1), rtol=1e-12, atol=0)


def test_more_points_never_widen_and_a_point_seen_without_noise_is_known():
    given, x, kernel = support(1, "plain"), normal(B, M, 1, seed=2), initialised(RBFKernel())
    fewer = Points(given.x[:, :4], given.y[:, :4], given.mask[:, :4])
    wide, narrow = (GaussianProcess(kernel, None, NOISE, g)(x).variance for g in (fewer, given))
    assert (narrow <= wide + 1e-12).all()
    exact = GaussianProcess(kernel, None, torch.tensor(1e-4, dtype=D), fewer)(fewer.x)
    torch.testing.assert_close(exact.mean, fewer.y, rtol=0, atol=1e-3)
    assert (exact.variance < 4e-8).all()


def test_gradients_of_hyperparameters_equal_finite_differences():
    given, x, y = support(1, "padded"), normal(B, M, 1, seed=2), normal(B, M, 1, seed=4)
    kernel, mean = initialised(ScaleKernel(RBFKernel())), initialised(ConstantMean())
    raw = NOISE.clone().requires_grad_()

    def value() -> torch.Tensor:
        return GaussianProcess(kernel, mean, raw, given)(x).log_prob(y).sum()

    leaves = [*kernel.parameters(), *mean.parameters(), raw]
    for leaf, slope in zip(leaves, torch.autograd.grad(value(), leaves), strict=True):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                leaf.add_(step)
                ends.append(value())
                leaf.sub_(step)
        torch.testing.assert_close(slope.sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-7)


def test_the_posterior_stays_when_the_kernel_moves():
    given, x, kernel = support(1, "plain"), normal(B, M, 1, seed=2), initialised(RBFKernel())
    posterior = GaussianProcess(kernel, None, NOISE, given)
    before = posterior(x)
    initialised(kernel, seed=50)
    torch.testing.assert_close(posterior(x).mean, before.mean, rtol=0, atol=0)
    assert not torch.allclose(GaussianProcess(kernel, None, NOISE, given)(x).mean, before.mean)


def test_float32_points_are_conditioned_on_in_float64():
    x = torch.linspace(0, 1, 60)[None, :, None]  # a float32 kernel of these has negative eigenvalues
    given = Points(x, x.sin(), torch.ones(1, 60, dtype=torch.bool))
    wide = Points(x.double(), x.sin().double(), given.mask)
    d, exact = (GaussianProcess(RBFKernel(), None, torch.tensor(1e-3), g)(g.x) for g in (given, wide))
    assert d.mean.dtype == torch.float32
    torch.testing.assert_close(d.mean.double(), exact.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(d.stddev.double(), exact.stddev, rtol=1e-5, atol=0)


def test_draws_have_the_joint_posteriors_moments():
    given, x, samples = support(1, "padded"), normal(B, M, 1, seed=2), 20_000
    kernel = initialised(RBFKernel())
    posterior = GaussianProcess(kernel, None, NOISE, given)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draws, predictive = posterior.draws(x, samples), posterior(x)
    assert (draws.batch_shape, draws.event_shape) == ((samples, B, M), (1,))
    assert (draws.stddev == NOISE).all()
    values = draws.mean[..., 0]
    for b in range(B):
        seen = given.mask[b]
        with torch.no_grad():
            k = covariance(kernel)
            own, cross = given.x[b : b + 1, seen], x[b : b + 1]
            gram = k(own, own)[0] + NOISE**2 * torch.eye(int(seen.sum()), dtype=D)
            joint = k(cross, cross)[0] - k(own, cross)[0].mT @ torch.linalg.solve(gram, k(own, cross)[0])
        # Six standard errors of each of 15 means and 75 covariances: error rate 90 x 2e-9.
        error = (values[:, b].mean(0) - predictive.mean[b, :, 0]).abs()
        assert (error <= 6 * (joint.diagonal() / samples).sqrt()).all()
        error = (values[:, b].T.cov() - joint).abs()
        bound = 6 * ((joint.diagonal()[:, None] * joint.diagonal() + joint.square()) / samples).sqrt()
        assert (error <= bound).all()


def test_draws_at_repeated_inputs_agree_with_themselves():
    given, x = support(1, "plain"), normal(B, 2, 1, seed=2)
    with torch.random.fork_rng(), torch.no_grad():
        draws = GaussianProcess(initialised(RBFKernel()), None, NOISE, given).draws(torch.cat([x, x, given.x], 1), 8)
    assert draws.mean.isfinite().all()
    torch.testing.assert_close(draws.mean[:, :, :2], draws.mean[:, :, 2:4], rtol=0, atol=1e-4)


# --- cholesky


def with_eigenvalues(*values: float) -> torch.Tensor:
    basis = torch.linalg.qr(normal(len(values), len(values)))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=D)) @ basis.mT


def test_cholesky_leaves_definite_matrices_exact_beside_one_that_needs_jitter():
    good, singular = with_eigenvalues(1, 2, 3), with_eigenvalues(1, 1, -1e-9)
    factor = cholesky(torch.stack([good, singular]), "kernel")
    assert torch.equal(factor[0], torch.linalg.cholesky(good))
    torch.testing.assert_close(factor[1] @ factor[1].mT, singular, rtol=0, atol=1e-8)


@pytest.mark.parametrize("lack", [1e-13, 1e-11, 1e-9, 1e-7, 1e-5])
def test_cholesky_adds_the_smallest_jitter_of_its_ladder_that_suffices(lack):
    matrix = with_eigenvalues(1, 1, 1, -lack)[None]
    factor = cholesky(matrix, "kernel")
    added = (factor @ factor.mT - matrix).diagonal(dim1=1, dim2=2).mean() / matrix.diagonal(dim1=1, dim2=2).mean()
    assert lack <= added <= 100 * lack


def test_cholesky_names_the_kernel_and_the_task_that_has_none():
    for matrix in (with_eigenvalues(1, 1, -0.1), torch.full((3, 3), torch.nan, dtype=D)):
        with pytest.raises(torch.linalg.LinAlgError, match=r"kernel Foo: .* in task 1; raise the noise"):
            cholesky(torch.stack([with_eigenvalues(1, 1, 1), matrix]), "Foo")


@kernels
@cases
def test_the_marginal_likelihood_is_that_of_gpytorchs_exact_gp(kernel, mean, features, case):
    kernel, mean = initialised(kernel()), None if mean is None else initialised(mean())
    given = support(features, case)
    found = GaussianProcess(kernel, mean, NOISE, given).log_marginal_likelihood()
    for b in range(B):
        seen = given.mask[b]
        model = Exact(given.x[b, seen], given.y[b, seen, 0], kernel, mean).train()
        with gpytorch.settings.fast_computations(False, False, False):
            exact = model.likelihood(model(given.x[b, seen])).log_prob(given.y[b, seen, 0])
        torch.testing.assert_close(found[b], exact, rtol=1e-7, atol=1e-7)


@cases
def test_the_marginal_likelihood_is_that_of_scikit_learn_summed_over_targets(case):
    given = support(2, case, targets=2)
    kernel = RBFKernel().double()
    kernel.lengthscale = 0.8
    found = GaussianProcess(kernel, None, NOISE, given).log_marginal_likelihood()
    for b in range(B):
        seen = given.mask[b]
        total = 0.0
        for k in range(2):
            exact = GaussianProcessRegressor(sk.RBF(0.8), alpha=NOISE.item() ** 2, optimizer=None)
            exact.fit(given.x[b, seen].numpy(), given.y[b, seen, k].numpy())
            total += exact.log_marginal_likelihood_value_
        np.testing.assert_allclose(found[b].detach(), total, rtol=1e-7, atol=1e-7)


@cases
def test_leave_one_out_is_a_fit_without_the_point(case):
    given, kernel, mean = support(1, case), initialised(RBFKernel()), initialised(ConstantMean())
    found = GaussianProcess(kernel, mean, NOISE, given).leave_one_out()
    for n in range(N):
        rest = given._replace(mask=given.mask & (torch.arange(N) != n))
        exact = GaussianProcess(kernel, mean, NOISE, rest)(given.x[:, n : n + 1])
        seen = given.mask[:, n]
        torch.testing.assert_close(found.mean[seen, n], exact.mean[seen, 0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.stddev[seen, n], exact.stddev[seen, 0], rtol=1e-8, atol=1e-8)


@cases
def test_an_update_is_a_fit_with_all_points(case):
    given, kernel, mean = support(1, case, targets=2), initialised(RBFKernel()), initialised(ConstantMean())
    first, later = (Points(*(leaf[:, part] for leaf in given)) for part in (slice(0, 4), slice(4, N)))
    before = GaussianProcess(kernel, mean, NOISE, first)
    untouched = before.log_marginal_likelihood()
    x = normal(B, M, 1, seed=2)
    whole, grown = GaussianProcess(kernel, mean, NOISE, given), before.update(later)
    torch.testing.assert_close(grown(x).mean, whole(x).mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grown(x).variance, whole(x).variance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grown.log_marginal_likelihood(), whole.log_marginal_likelihood(), rtol=1e-9, atol=1e-9)
    assert torch.equal(before.log_marginal_likelihood(), untouched)
    assert not grown.support.mask.any()  # a template: what was told is in the process


def test_the_covariance_has_the_variance_of_the_function_on_its_diagonal_and_follows_conditioning():
    given, kernel, x = support(1, "padded"), initialised(RBFKernel()), normal(B, M, 1, seed=2)
    posterior = GaussianProcess(kernel, None, NOISE, given)
    found = posterior.joint(x).covariance[:, 0]
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2)[..., None], posterior(x).variance - NOISE**2)
    for b in range(B):
        seen = given.mask[b]
        every = torch.cat([given.x[b, seen], x[b]])
        joint = covariance(kernel)(every[None], every[None])[0]
        n = int(seen.sum())
        gain = joint[n:, :n] @ torch.linalg.inv(joint[:n, :n] + NOISE**2 * torch.eye(n, dtype=D))
        torch.testing.assert_close(found[b], joint[n:, n:] - gain @ joint[:n, n:])
