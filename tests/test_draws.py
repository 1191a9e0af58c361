"""Draws of Gaussian processes: exact where covariances are singular, and differentiable with the slopes of the functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, RBFKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.gaussian_process import GaussianProcess
from bayesmeta.gp_draws import Paths
from bayesmeta.kernels import covariance

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


def test_gradients_of_expectations_are_unbiased_in_inputs_and_in_parameters() -> None:
    """E[f(x)²] = m² + v and E[f(x) f(x')] = m m' + c in closed form, by 200,000 draws to 5 standard errors."""
    scale = torch.tensor(1.3, dtype=D, requires_grad=True)
    x = torch.tensor([[[0.0], [0.7]]], dtype=D, requires_grad=True)

    def between(first: Tensor, second: Tensor) -> Tensor:
        return scale * torch.exp(-0.5 * (first - second.mT).square()) * (1 + first * second.mT)

    normal = torch.randn(200_000, 1, 2, 1, dtype=D, generator=torch.Generator().manual_seed(0))
    values = Paths(between, "test")(x, torch.ones(1, dtype=D), normal)[:, 0, :, 0]
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


def test_singular_covariances_are_drawn_from_exactly() -> None:
    learner = bm.DKT(nn.Identity(), LinearKernel(), bm.Gaussian(0.1))
    known = bm.points([1.0, 2.0], [1.0, 2.0])
    assert torch.equal(learner(known).draws([0.0], 3).mean, torch.zeros(3, 1, 1, 1))  # a line through the origin
    lines = learner(known).draws([0.0, 1.0, 2.0, 2.0, -1.0], 7).mean[:, 0, :, 0]
    torch.testing.assert_close(lines, lines[:, 1:2] * torch.tensor([0.0, 1.0, 2.0, 2.0, -1.0]), atol=1e-6, rtol=1e-6)
    assert lines[:, 1].std() > 0
    with torch.no_grad():
        slopes = learner(known).draws([1.0], 20_000).mean.flatten()
        variance = bm.decompose(learner(known), [1.0])[2].item()
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
