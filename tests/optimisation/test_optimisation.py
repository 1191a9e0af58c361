"""Posteriors as BoTorch's models, against its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import ConstantMean
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.optimisation import to_botorch

botorch = pytest.importorskip("botorch")
from botorch.acquisition import LogExpectedImprovement, UpperConfidenceBound, qLogExpectedImprovement  # noqa: E402
from botorch.models import SingleTaskGP  # noqa: E402
from botorch.optim import optimize_acqf  # noqa: E402
from botorch.sampling import IIDNormalSampler  # noqa: E402

NOISE = 0.2


def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(8, 2, generator=draw, dtype=torch.float64)
    return x, (3 * x).sin().sum(-1, keepdim=True)


def pair() -> tuple[object, SingleTaskGP]:
    """A process of ours, and BoTorch's with the same hyper-parameters."""
    x, y = data()
    kernel, mean = ScaleKernel(MaternKernel(2.5, ard_num_dims=2)).double(), ConstantMean().double()
    kernel.base_kernel.lengthscale, kernel.outputscale = torch.tensor([0.4, 0.7]), 1.3
    mean.initialize(constant=0.25)
    ours = bm.DKT(nn.Identity(), kernel, bm.likelihoods.Gaussian(NOISE), mean=mean).double()
    theirs = SingleTaskGP(
        x, y, torch.full_like(y, ours.likelihood.scale.item() ** 2), covar_module=kernel, mean_module=mean,
        outcome_transform=None,
    )  # fmt: skip
    theirs.eval()
    return to_botorch(ours(bm.points(x, y, dtype=torch.float64))), theirs


def test_moments_equal_those_of_a_single_task_gp() -> None:
    ours, theirs = pair()
    x = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = ours.posterior(x), theirs.posterior(x)  # type: ignore[attr-defined]
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        found.distribution.covariance_matrix, expected.distribution.covariance_matrix, atol=1e-9, rtol=0
    )
    noisy = ours.posterior(x, observation_noise=True).variance - ours.posterior(x).variance  # type: ignore[attr-defined]
    torch.testing.assert_close(noisy, torch.full_like(noisy, NOISE**2), atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["logEI", "UCB", "qLogEI"])
def test_acquisition_values_and_gradients_equal_those_of_a_single_task_gp(kind: str) -> None:
    best = data()[1].max()

    def acquisition(model: object) -> object:
        if kind == "logEI":
            return LogExpectedImprovement(model, best)
        if kind == "UCB":
            return UpperConfidenceBound(model, beta=2.0)
        return qLogExpectedImprovement(model, best, sampler=IIDNormalSampler(torch.Size([64]), seed=3))

    q = 3 if kind == "qLogEI" else 1
    found, expected = [], []
    for model, into in zip(pair(), (found, expected), strict=True):
        x = torch.rand(5, q, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        value = acquisition(model)(x)  # type: ignore[operator]
        into += [value.detach(), torch.autograd.grad(value.sum(), x)[0]]
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=1e-9, rtol=1e-6)


class FunctionsOnly(bm.Posterior):
    def __init__(self, inner: bm.Posterior) -> None:
        super().__init__(inner.support)
        self.inner = inner

    def _functions(self, samples: int) -> Any:
        return self.inner._functions(samples)


def test_functions_answer_for_other_posteriors() -> None:
    # ALPaCA, asked for nothing but its functions: moments of 4,000 draws, five standard errors.
    x, y = data()
    torch.manual_seed(0)
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian(NOISE)).double()
    exact = to_botorch(learner(bm.points(x, y, dtype=torch.float64)))
    drawn = to_botorch(FunctionsOnly(learner(bm.points(x, y, dtype=torch.float64))), samples=4000)
    asked = torch.rand(3, 2, 2, dtype=torch.float64)
    mine, law = drawn.posterior(asked), exact.posterior(asked)
    assert ((mine.mean - law.mean).abs() < 5 * (law.variance / 4000).sqrt()).all()
    torch.testing.assert_close(mine.variance, law.variance, rtol=0.12, atol=0)
    assert mine.rsample(torch.Size([6])).shape == (6, 3, 2, 1)


def processes(targets: int = 1) -> tuple[list[bm.Learner], bm.Points]:
    """Three processes with hyperparameters of their own, each standardised, and what they are told."""
    x, y = data()
    y = torch.cat([y, 100 - 50 * y], -1)[:, :targets]
    learners: list[bm.Learner] = []
    for scale in (0.2, 0.5, 1.0):
        kernel = ScaleKernel(MaternKernel(2.5))
        kernel.base_kernel.lengthscale, kernel.outputscale = scale, 2 * scale
        inner = bm.DKT(nn.Identity(), kernel, bm.likelihoods.Gaussian(NOISE))
        learners.append(bm.Standardized(inner, x_loc=x.mean(0), x_scale=x.std(0), y_loc=y.mean(0), y_scale=y.std(0)))
    return [learner.double() for learner in learners], bm.points(x, y, dtype=torch.float64)


@pytest.mark.parametrize("targets", [1, 2])
def test_an_ensemble_of_processes_is_the_mixture_in_closed_form(targets: int) -> None:
    learners, given = processes(targets)
    asked = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = to_botorch(bm.Ensemble(learners)(given)).posterior(asked)
    assert found.mean.shape == (4, 3, 3, targets)  # K before q and targets
    each = [learner(given).expand(4).joint(asked) for learner in learners]
    means = torch.stack([joint.mean for joint in each])
    variances = torch.stack([joint.covariance.diagonal(dim1=2, dim2=3).mT for joint in each])
    torch.testing.assert_close(found.mixture_mean, means.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        found.mixture_variance, variances.mean(0) + means.var(0, correction=0), rtol=1e-9, atol=1e-9
    )
    if targets == 1:
        spread = means[..., 0] - means[..., 0].mean(0)
        whole = torch.stack([joint.covariance[:, 0] for joint in each]).mean(0)
        whole = whole + (spread[..., None] * spread[..., None, :]).mean(0)
        torch.testing.assert_close(found.mixture_covariance_matrix.to_dense(), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["PACOH", "standardised PACOH", "tempered ensemble", "ensemble of PACOHs"])
def test_a_mixtures_moments_are_those_of_its_prediction(kind: str) -> None:
    x, y = data()
    torch.manual_seed(3)

    def pacoh() -> bm.Learner:
        mean = bm.networks.MLP(2, 1, hidden=(8,), activation=nn.Tanh)
        return bm.PACOH(nn.Identity(), ScaleKernel(MaternKernel()), bm.likelihoods.Gaussian(NOISE), tasks=9, mean=mean)

    learner: bm.Learner = pacoh()
    if kind == "standardised PACOH":
        learner = bm.Standardized(pacoh(), x_loc=x.mean(0), x_scale=x.std(0), y_loc=y.mean(0), y_scale=3 * y.std(0))
    elif kind == "tempered ensemble":
        learner = bm.Calibrated(bm.Ensemble(processes()[0]), temperature=1.7)
    elif kind == "ensemble of PACOHs":
        learner = bm.Ensemble([pacoh(), pacoh()])
    posterior = learner.double()(bm.points(x, y, dtype=torch.float64))
    asked = torch.rand(4, 3, 2, dtype=torch.float64)
    found, expected = to_botorch(posterior).posterior(asked, observation_noise=True), posterior.expand(4)(asked)
    assert found.mean.shape[1] == {"tempered ensemble": 3, "ensemble of PACOHs": 10}.get(kind, 5)
    torch.testing.assert_close(found.mixture_mean, expected.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mixture_variance, expected.variance, rtol=1e-9, atol=1e-9)


def test_acquisition_of_a_mixture_is_the_mean_of_its_parts() -> None:
    learners, given = processes()
    best, model = data()[1].max(), to_botorch(bm.Ensemble(learners)(given))
    x = torch.rand(5, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    each = [LogExpectedImprovement(to_botorch(learner(given)), best)(x) for learner in learners]
    expected = torch.stack(each).logsumexp(0) - math.log(3)
    found = LogExpectedImprovement(model, best)(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-9)
    sampler = IIDNormalSampler(torch.Size([4096]), seed=3)  # 4,096 draws: five standard errors are below 8 %
    pending = torch.rand(2, 2, dtype=torch.float64)
    drawn = qLogExpectedImprovement(model, best, sampler=sampler)(x).exp()
    torch.testing.assert_close(drawn, found.exp(), rtol=0.08, atol=0.005)
    assert qLogExpectedImprovement(model, best, sampler=sampler, X_pending=pending)(x).shape == (5,)
    limits = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    candidate, value = optimize_acqf(LogExpectedImprovement(model, best), limits, q=1, num_restarts=2, raw_samples=16)
    assert candidate.shape == (1, 2)
    assert value >= LogExpectedImprovement(model, best)(torch.rand(200, 1, 2, dtype=torch.float64)).max() - 1e-6


def test_a_saved_posterior_is_the_same_model(tmp_path: Path) -> None:
    x, y = data()
    torch.manual_seed(3)
    learner = bm.PACOH(nn.Identity(), ScaleKernel(MaternKernel()), bm.likelihoods.Gaussian(NOISE), tasks=9).double()
    given = bm.points(x, y, dtype=torch.float64)
    bm.save(learner, tmp_path / "posterior", support=given)
    asked = torch.rand(2, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(
        to_botorch(bm.load(tmp_path / "posterior")).posterior(asked).mean,
        to_botorch(learner(given)).posterior(asked).mean,
    )


def test_several_targets_and_scalings_pass_through() -> None:
    x, y = data()
    y = torch.cat([y, 100 - 50 * y], -1)
    learner = bm.Standardized(
        bm.DKT(nn.Identity(), ScaleKernel(MaternKernel()), bm.likelihoods.Gaussian(NOISE)),
        x_loc=x.mean(0), x_scale=x.std(0), y_loc=y.mean(0), y_scale=y.std(0),
    ).double()  # fmt: skip
    posterior = learner(bm.points(x, y, dtype=torch.float64))
    asked = torch.rand(3, 2, 2, dtype=torch.float64)
    found = to_botorch(posterior).posterior(asked, observation_noise=True)
    expected = posterior.expand(3)(asked)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)


def test_botorch_optimises_it() -> None:
    model, theirs = pair()
    limits = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    best = data()[1].max()
    found = []
    for each in (model, theirs):
        torch.manual_seed(0)
        found.append(optimize_acqf(LogExpectedImprovement(each, best), limits, q=1, num_restarts=4, raw_samples=32)[0])
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_bad_input_is_named() -> None:
    x, y = data()
    maml = bm.MAML(bm.networks.MLP(2, 1), bm.likelihoods.Gaussian()).double()
    with pytest.raises(ValueError, match="posterior: expected doubt about the function, got none from PointEstimate"):
        to_botorch(maml(bm.points(x, y, dtype=torch.float64)))
    two = bm.points([x, x], [y, y], dtype=torch.float64)
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian()).double()
    with pytest.raises(ValueError, match="posterior: expected that of one task, got 2"):
        to_botorch(learner(two))
    with pytest.raises(ValueError, match="samples"):
        to_botorch(learner(bm.points(x, y, dtype=torch.float64)), samples=1)
    with pytest.raises(TypeError, match="posterior: expected what a learner says after a support, got MAML"):
        to_botorch(bm.MAML(nn.Linear(2, 1), bm.likelihoods.Gaussian()))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:A not p.d.")  # of both
def test_candidates_that_coincide_and_given_noise_are_answered_as_botorchs_own_models_do() -> None:
    ours, theirs = pair()
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:, None]
    twice = x.expand(-1, 2, -1)
    sampler = IIDNormalSampler(torch.Size([64]), seed=3)
    best = data()[1].max()
    found = [qLogExpectedImprovement(each, best, sampler=sampler, X_pending=x[0])(x) for each in (ours, theirs)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)  # but for the jitter
    noise = torch.rand(4, 2, 1, dtype=torch.float64)
    noisy = [each.posterior(twice, observation_noise=noise).variance for each in (ours, theirs)]  # type: ignore[attr-defined]
    torch.testing.assert_close(*noisy, atol=1e-8, rtol=0)
    learners, given = processes()
    assert to_botorch(bm.Ensemble(learners)(given)).posterior(twice).rsample(torch.Size([2])).shape == (2, 4, 3, 2, 1)


def test_what_no_model_is_asked_is_named() -> None:
    x, y = data()
    exact = to_botorch(bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian())(bm.points(x, y)))
    drawn = to_botorch(bm.ABML(bm.networks.MLP(2, 1), bm.likelihoods.Gaussian())(bm.points(x, y)), 4)
    odd: Any
    for model in (exact, drawn):
        for odd in (x[0], x[:0], x.long(), x.numpy(), torch.rand(3, 4)):
            with pytest.raises(ValueError, match=r"X: expected candidates \(\.\.\., q, 2\)"):
                model.posterior(odd)
        for odd in ([], [1], 0):
            with pytest.raises(ValueError, match="output_indices: expected a list of numbers from 0 to 0"):
                model.posterior(x, output_indices=odd)
    with pytest.raises(NotImplementedError, match="observation_noise: expected False"):
        drawn.posterior(x, observation_noise=True)
    pictures = bm.ABML(nn.Sequential(nn.Linear(2, 4), nn.Unflatten(-1, (2, 2))), bm.likelihoods.Gaussian())
    with pytest.raises(ValueError, match=r"real targets \(1, N, Y\), got .* \(1, 8, 2, 2\)"):
        to_botorch(pictures(bm.points(x, torch.rand(8, 2, 2))))
