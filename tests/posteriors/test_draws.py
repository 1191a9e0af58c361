"""Draws of Gaussian processes: exact where covariances are singular, and differentiable with the slopes of the functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats
import torch
from gpytorch.kernels import (
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PolynomialKernel,
    RBFKernel,
    ScaleKernel,
)
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.gaussian_process import GaussianProcess, covariance
from bayesmeta.gaussian_process.functions import Paths

D = torch.float64


def kernel(kind: str) -> Kernel:
    smooth = ScaleKernel(RBFKernel())
    made: Kernel = {"RBF": smooth, "linear": LinearKernel(), "linear + RBF": LinearKernel() + smooth}[kind]
    return made.double()


def process(kind: str, noise: float) -> tuple[GaussianProcess, Tensor]:
    x = torch.linspace(0.1, 1, 20, dtype=D)[None, :, None]
    given = bm.Points(x, x.sin(), torch.ones(1, 20, dtype=torch.bool))
    return GaussianProcess(kernel(kind), None, torch.tensor(noise, dtype=D), given), x


@pytest.mark.parametrize("noise", [0.1, 0.01, 1e-3])
@pytest.mark.parametrize("kind", ["RBF", "linear + RBF"])
def test_slopes_of_draws_at_known_inputs_have_the_moments_of_the_derivative_process(kind: str, noise: float) -> None:
    """f'(x) has mean m'(x) and variance ∂∂'k(x, x'); given all values its expectation varies no more (law of total variance)."""
    posterior, x = process(kind, noise)
    at = x.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = posterior.draws(at, 2000).mean
    slopes = torch.stack([torch.autograd.grad(values[s].sum(), at, retain_graph=True)[0].flatten() for s in range(200)])
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    between = posterior._between(one, other)[0]
    (mean_slope,) = torch.autograd.grad(posterior(one).mean.sum(), one)
    variance = []
    for i in range(20):
        (first,) = torch.autograd.grad(between[i, i], one, create_graph=True)
        variance.append(torch.autograd.grad(first[0, i, 0], other, retain_graph=True)[0][0, i, 0])
    deviation = torch.stack(variance).clamp(min=0).sqrt() + 1e-6
    standard = (slopes - mean_slope.flatten()) / deviation
    assert standard.abs().max() < 6  # of 4,000 that are standard normal at most
    # 200 draws: the mean of a point's slopes within 5 standard errors, their deviation at most 1 within 5 of its own
    assert (standard.mean(0).abs() < 5 / 200**0.5).all()
    assert (standard.square().mean(0) < 1 + 5 * (2 / 200) ** 0.5).all()


def test_a_slope_is_that_of_the_function_continued_from_its_own_values() -> None:
    """Of a dense draw the slope is known: it equals finite differences of the draw itself."""
    posterior, _ = process("RBF", 0.1)
    at = torch.linspace(-2, 2, 401, dtype=D)[None, :, None].requires_grad_()
    values = posterior.draws(at, 1).mean[0]
    (slope,) = torch.autograd.grad(values.sum(), at)
    central = (values[0, 2:, 0] - values[0, :-2, 0]) / 0.02
    torch.testing.assert_close(slope[0, 1:-1, 0], central.detach(), atol=2e-3, rtol=0)


def test_moving_a_point_moves_its_own_value_alone() -> None:
    posterior, x = process("linear + RBF", 0.1)
    at = x[:, :5].clone().requires_grad_()
    values = posterior.draws(at, 1).mean[0, 0, :, 0]
    jacobian = torch.stack([torch.autograd.grad(value, at, retain_graph=True)[0].flatten() for value in values])
    assert jacobian.diagonal().abs().min() > 0.1
    torch.testing.assert_close(jacobian, jacobian.diagonal().diag(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("questions", [1, 2])
def test_gradients_of_expectations_are_unbiased_in_inputs_and_in_parameters(questions: int) -> None:
    """E[f(x)²] = m² + v and E[f(x) f(x')] = m m' + c in closed form, by 200,000 draws to 5 standard errors.

    Of functions that were asked in parts, when they are asked again at all the points.
    """
    scale = torch.tensor(1.3, dtype=D, requires_grad=True)
    x = torch.tensor([[[0.0], [0.7]]], dtype=D, requires_grad=True)

    def between(first: Tensor, second: Tensor) -> Tensor:
        return scale * torch.exp(-0.5 * (first - second.mT).square()) * (1 + first * second.mT)

    normal = torch.randn(200_000, 1, 2, 1, dtype=D, generator=torch.Generator().manual_seed(0))
    paths = Paths(between, "test")
    size = torch.ones(1, 1, dtype=D)
    parts = [paths(a, size, b) for a, b in zip(x.chunk(questions, 1), normal.chunk(questions, 2), strict=True)]
    values = (parts[0] if questions == 1 else paths(x, size, torch.zeros_like(normal)))[:, 0, :, 0]
    matrix = between(x, x)[0]
    for found, exact in (
        (values[:, 1].square(), matrix[1, 1]),
        (values[:, 0] * values[:, 1], matrix[0, 1]),
    ):
        torch.testing.assert_close(found.mean(), exact, rtol=0, atol=5 * found.std().item() / 200_000**0.5)
        for leaf in (scale, x):
            (slope,) = torch.autograd.grad(found.mean(), leaf, retain_graph=True)
            (wanted,) = torch.autograd.grad(exact, leaf, retain_graph=True)
            torch.testing.assert_close(slope, wanted, rtol=0, atol=0.03)


KERNELS: dict[str, Any] = {
    "RBF": lambda: ScaleKernel(RBFKernel()),
    "Matern": lambda: MaternKernel(nu=0.5),
    "linear": LinearKernel,
    "linear + RBF": lambda: LinearKernel() + ScaleKernel(RBFKernel()),
    "periodic": PeriodicKernel,
    "polynomial": lambda: PolynomialKernel(power=2),
}


def check_joint_normal(values: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Draws ``(S, K)`` have a mean and a covariance, singular or not, by chi-squared tests in the directions that vary."""
    count = len(values)
    variances, directions = torch.linalg.eigh(covariance)
    varies = variances > 1e-7 * variances.max()
    along = (values - mean) @ directions
    assert (along[:, ~varies].abs() < 1e-2 * variances.max().sqrt()).all()
    white = along[:, varies] / variances[varies].sqrt()
    rank = white.shape[1]
    assert scipy.stats.chi2.sf(count * white.mean(0).square().sum().item(), rank) > 0.01
    deviation = (white.T @ white / count - torch.eye(rank, dtype=D)).square().sum().item()
    assert scipy.stats.chi2.sf(count / 2 * deviation, rank * (rank + 1) / 2) > 0.01


@pytest.mark.parametrize("pieces", [1, 20])
@pytest.mark.parametrize("name", KERNELS)
def test_functions_asked_in_pieces_have_the_joint_distribution_of_one_question(name: str, pieces: int) -> None:
    """20 points and ten of them again, in a shuffled order; 4,000 functions."""
    x = torch.linspace(-1.5, 2, 6, dtype=D)[None, :, None]
    given = bm.Points(x, x.sin(), torch.ones(1, 6, dtype=torch.bool))
    posterior = GaussianProcess(KERNELS[name]().double(), None, torch.tensor(0.1, dtype=D), given)
    some = torch.linspace(-3, 3, 20, dtype=D)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    at = torch.cat([some, some[:10]])[order][None, :, None]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        functions = posterior.functions(4000)
        values = torch.cat([functions(part).mean for part in at.tensor_split(pieces, 1)], 2)[:, 0, :, 0]
        check_joint_normal(values, posterior(at).mean[0, :, 0], posterior.joint(at).covariance[0, 0])


@pytest.mark.parametrize("pieces", [1, 4])
def test_functions_of_classifiers_asked_in_pieces_have_the_joint_distribution(pieces: int) -> None:
    x = torch.linspace(0.1, 1, 6, dtype=D)
    learner = bm.LaplaceGP(nn.Identity(), kernel("RBF"), classes=2).double()
    posterior: Any = learner._process(bm.points(x[:, None], (x > 0.5).long(), classes=2)._replace(x=x[None, :, None]))
    at = torch.tensor([-1.0, 0.3, 2.0, 0.3, 0.8], dtype=D)[None, :, None]
    posterior._likelihood = lambda values: values
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        functions = posterior.functions(4000)
        values = torch.cat([functions(part) for part in at.tensor_split(pieces, 1)], 2)
        mean, covariance = posterior.joint_function(at)
    check_joint_normal(values.flatten(1), mean[0, 0], covariance[0, 0])


def test_functions_of_chains_are_known_again_though_they_are_fewer_than_the_chains() -> None:
    x = torch.linspace(0.1, 1, 6, dtype=D)
    learner = bm.PolyaGammaGP(nn.Identity(), kernel("RBF"), classes=2, chains=4).double()
    given = bm.points(x[:, None], (x > 0.5).long(), classes=2)._replace(x=x[None, :, None])
    own = torch.rand(6, 1, 3, 1, dtype=D, generator=torch.Generator().manual_seed(0))
    for count in (3, 6):
        functions = learner(given).functions(count)
        found = functions(own[:count]).logits
        for s in range(count):
            torch.testing.assert_close(functions(own[s]).logits[s], found[s], rtol=0, atol=1e-5)


def test_functions_with_inputs_of_their_own_have_the_joint_distribution_too() -> None:
    """Each function is asked at its own place, then all at the same ones, then each at its own place again."""
    posterior, _ = process("RBF", 0.1)
    count = 2000
    own = torch.rand(count, 1, 1, 1, dtype=D, generator=torch.Generator().manual_seed(0)) * 4 - 2
    same = torch.tensor([[[-1.0], [1.5]]], dtype=D)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        functions = posterior.functions(count)
        first, middle, last = functions(own).mean, functions(same).mean, functions(own).mean
    torch.testing.assert_close(first, last, rtol=0, atol=1e-6)
    values = torch.cat([first, middle], 2)[:, 0, :, 0]
    at = torch.cat([own, same.expand(count, 1, 2, 1)], 2)[:, 0]  # as many tasks
    white = []
    for s in range(count):
        mean, covariance = posterior(at[s : s + 1]).mean[0, :, 0], posterior.joint(at[s : s + 1]).covariance[0, 0]
        factor = torch.linalg.cholesky(covariance + 1e-10 * torch.eye(3, dtype=D))
        white.append(torch.linalg.solve_triangular(factor, (values[s] - mean)[:, None], upper=False)[:, 0])
    check_joint_normal(torch.stack(white).detach(), torch.zeros(3, dtype=D), torch.eye(3, dtype=D))


def test_singular_covariances_are_drawn_from_exactly() -> None:
    learner = bm.DKT(nn.Identity(), LinearKernel(), bm.likelihoods.Gaussian(0.1))
    known = bm.points([1.0, 2.0], [1.0, 2.0])
    assert torch.equal(learner(known).draws([0.0], 3).mean, torch.zeros(3, 1, 1, 1))  # a line through the origin
    lines = learner(known).draws([0.0, 1.0, 2.0, 2.0, -1.0], 7).mean[:, 0, :, 0]
    torch.testing.assert_close(lines, lines[:, 1:2] * torch.tensor([0.0, 1.0, 2.0, 2.0, -1.0]), atol=1e-6, rtol=1e-6)
    assert lines[:, 1].std() > 0
    with torch.no_grad():
        slopes = learner(known).draws([1.0], 20_000).mean.flatten()
        variance = learner(known).decompose([1.0]).epistemic.item()
    assert abs(slopes.var().item() / variance - 1) < 5 * (2 / 20_000) ** 0.5
    nothing = known._replace(mask=known.mask & False)
    assert torch.equal(learner(nothing).draws([0.0], 2).mean, torch.zeros(2, 1, 1, 1))


def test_draws_of_what_is_not_finite_name_the_task() -> None:
    posterior, _ = process("RBF", 0.1)
    with pytest.raises(torch.linalg.LinAlgError, match=r"kernel ScaleKernel: expected finite .* in task 0"):
        posterior._functions(1)(torch.full((1, 2, 1), math.nan, dtype=D), False)  # features of a broken network


@pytest.mark.parametrize("kind", [bm.LaplaceGP, bm.PolyaGammaGP], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["linear", "linear + RBF"])
def test_draws_of_classifiers_have_slopes_of_their_functions_and_singular_kernels(kind: Any, name: str) -> None:
    """Probabilities move no faster than their functions, whose prior slopes have a standard deviation of about 1."""
    x = torch.linspace(0.1, 1, 10, dtype=D)
    learner = kind(nn.Identity(), kernel(name), classes=2).double()
    posterior = learner(bm.points(x[:, None], (x > 0.5).long(), classes=2)._replace(x=x[None, :, None]))
    at = x[None, :, None].clone().requires_grad_()
    values = posterior.draws(at, 20).probs[..., 0]
    for draw in values:
        (slope,) = torch.autograd.grad(draw.sum(), at, retain_graph=True)
        assert slope.abs().max() < 5
    zeros = posterior.draws(torch.zeros(1, 1, 1, dtype=D), 3).probs
    if name == "linear":
        torch.testing.assert_close(zeros, torch.full_like(zeros, 0.5))


@pytest.mark.parametrize(
    "made",
    [LinearKernel, lambda: ScaleKernel(RBFKernel()), lambda: MaternKernel(nu=1.5)],
    ids=["linear", "RBF", "Matern"],
)
def test_predictions_at_known_inputs_have_the_slope_that_they_have_beside_them(made: Any) -> None:
    """A copy of the known inputs, equal in value, is differentiated for itself."""
    known = torch.tensor([[[1.0], [2.0], [3.5]]], dtype=D)
    given = bm.Points(known, known.sin(), torch.ones(1, 3, dtype=torch.bool))
    posterior = GaussianProcess(made().double(), None, torch.tensor(0.1, dtype=D), given)
    slopes = []
    for shift in (0.0, 1e-7):
        at = (known + shift).requires_grad_()
        predictive: Any = posterior(at)
        slopes.append(torch.autograd.grad(predictive.mean.sum() + predictive.variance.sum(), at)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=1e-5)
    assert slopes[0].abs().min() > 1e-3
    first, second = known.clone().requires_grad_(), known.clone().requires_grad_()
    matrix = covariance(made().double())(first, second)
    mine, theirs = torch.autograd.grad(matrix[0, 0, 2], [first, second])
    assert mine[0, 0].abs() > 1e-6
    assert theirs[0, 2].abs() > 1e-6
    assert not mine[0, 1:].any()
