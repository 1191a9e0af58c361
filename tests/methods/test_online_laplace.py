"""Online Laplace against the exact recursions of a linear model, and explicit Gauss-Newton matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_vcl import NOISE, PRIOR, B, F, N, drawn, found, told
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Points


def learner(**settings: Any) -> bm.OnlineLaplace:
    torch.manual_seed(0)
    settings = {"prior_scale": PRIOR, "epochs": 400, "batch": N, "rate": 0.03} | settings
    return bm.OnlineLaplace(nn.Linear(F, 1, bias=False), bm.likelihoods.Gaussian(scale=NOISE), **settings).double()


def recursion(parts: list[Points], weight: float = 1.0, memory: float = 1.0) -> tuple[Tensor, Tensor]:
    """The mean and the scale that the penalised least squares of each part lead to."""
    mean, precision = torch.zeros(B, F).double(), torch.full((B, F), PRIOR**-2).double()
    for part in parts:
        seen = part.x.mT @ part.x / NOISE**2
        right = weight * precision * mean + (part.x.mT @ part.y)[..., 0] / NOISE**2
        mean = torch.linalg.solve(torch.diag_embed(weight * precision) + seen, right[..., None])[..., 0]
        precision = memory * precision + seen.diagonal(dim1=1, dim2=2)
    return mean, precision.rsqrt()


@pytest.mark.parametrize("settings", [{}, {"weight": 3.0}, {"weight": 0.0}, {"memory": 0.5}], ids=str)
def test_means_and_precisions_follow_the_exact_recursion(settings: dict[str, float]) -> None:
    made, parts = learner(**settings), [drawn(seed) for seed in (1, 2)]
    first = told(made, parts[0])
    for posterior, past in ((first, parts[:1]), (told(first.update, parts[1]), parts)):
        for ours, theirs in zip(found(posterior), recursion(past, **settings), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_with_features_that_do_not_hang_together_it_is_bayes_rule() -> None:
    """Precisions are then diagonal, and two parts lead where all points do."""
    axes = torch.eye(F).double().repeat(B, 4, 1)
    first, second = (Points(axes, drawn(seed, len(axes[0])).y, torch.ones(axes.shape[:2]).bool()) for seed in (1, 2))
    apart = found(told(learner(), first, second))
    together = found(told(learner(), bm.concatenate(first, second)))
    for ours, theirs in zip(apart, together, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


CASES: dict[str, tuple[bm.likelihoods.Likelihood, int]] = {
    "labels": (bm.likelihoods.Categorical(), 3),
    "counts": (bm.likelihoods.Poisson(), 1),
    "a noise of its own": (bm.likelihoods.HeteroscedasticGaussian(), 2),
}


def targets(name: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    if name == "labels":
        return torch.randint(3, (1, count), generator=generator)
    y = torch.randn(1, count, 1, generator=generator).double()
    return y.abs().round() if name == "counts" else y


def gauss_newton(network: nn.Module, likelihood: bm.likelihoods.Likelihood, x: Tensor, y: Tensor) -> Tensor:
    """Σ_n J_nᵀ H_n J_n with every H_n cut below zero, by explicit matrices."""
    names = [name for name, _ in network.named_parameters()]
    values = tuple(network.parameters())

    def outputs(*values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)
        return found

    jacobian = torch.cat([part.flatten(2) for part in torch.autograd.functional.jacobian(outputs, values)], 2)
    total = torch.zeros(jacobian.shape[2], jacobian.shape[2]).double()
    for n, value in enumerate(outputs(*values).detach()):
        hessian = -torch.autograd.functional.hessian(
            lambda f, n=n: likelihood(f[None]).log_prob(y[n : n + 1]).sum(), value
        )
        spectrum, axes = torch.linalg.eigh(hessian)
        total += jacobian[n].mT @ (axes * spectrum.clamp(min=0) @ axes.mT) @ jacobian[n]
    return total


@pytest.mark.parametrize("name", CASES)
def test_the_curvature_is_the_diagonal_of_the_gauss_newton_matrix(name: str) -> None:
    torch.manual_seed(0)
    likelihood, size = CASES[name]
    network = bm.networks.MLP(2, size, hidden=(4,), activation=nn.Tanh)
    made = bm.OnlineLaplace(network, likelihood, prior_scale=1.0, epochs=1, batch=12, rate=1e-9).double()
    x, y = torch.randn(1, 12, 2).double(), targets(name, 12)
    points = Points(x, y, torch.ones(1, 12, dtype=torch.bool))
    expected = 1 + gauss_newton(network, made.likelihood, x[0], y[0]).diagonal()
    torch.testing.assert_close(found(told(made, points))[1][0] ** -2, expected, rtol=1e-5, atol=1e-6)
    made.batch, seen = 6, []  # larger than a minibatch: random signs
    for seed in range(200):
        torch.manual_seed(seed)
        with torch.no_grad():
            seen.append(found(made(points))[1][0] ** -2)
    each = torch.stack(seen)
    assert ((each.mean(0) - expected).abs() <= 4 * each.std(0) / 200**0.5 + 1e-5 * expected).all()


def test_what_was_told_nothing_has_the_prior() -> None:
    nothing = drawn(1)
    mean, scale = found(told(learner(epochs=2), nothing._replace(mask=nothing.mask & False)))
    assert torch.equal(mean, torch.zeros(B, F).double())
    torch.testing.assert_close(scale, torch.full((B, F), PRIOR).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight: expected a number above 0, got -1.0"),
        ({"memory": 0.0}, "memory: expected a probability strictly between 0 and 1, got 0.0"),
        ({"memory": 1.5}, "memory: expected a probability strictly between 0 and 1, got 1.5"),
        ({"prior_scale": 0.0}, "prior_scale: expected a number above 0, got 0.0"),
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"batch": 0}, "batch: expected a whole number of at least 1, got 0"),
        ({"rate": 0.0}, "rate: expected a number above 0, got 0.0"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**settings)
