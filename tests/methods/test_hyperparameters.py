"""What a kernel and a mean are built with: their priors against gpytorch's own objective, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpytorch
import pyro
import pytest
import torch
from gpytorch.kernels import LinearKernel, RBFKernel, RBFKernelGrad, ScaleKernel
from gpytorch.means import ConstantMean, LinearMean, ZeroMean
from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior
from torch import nn

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.gaussian_process import log_prior
from bayesmeta.methods.adkf import _own

D = torch.float64


def kernel(priors: bool = True) -> ScaleKernel:
    made = RBFKernel(ard_num_dims=2, lengthscale_prior=GammaPrior(3.0, 6.0) if priors else None)
    other = LinearKernel(variance_prior=NormalPrior(1.0, 0.3) if priors else None)
    return ScaleKernel(made + other, outputscale_prior=LogNormalPrior(0.2, 0.7) if priors else None)


def mean(priors: bool = True) -> ConstantMean:
    return ConstantMean(constant_prior=NormalPrior(0.4, 0.5) if priors else None)


@pytest.fixture
def episode() -> Episode:
    """Three tasks, whose second has 2 + 4 observed points instead of 5 + 4."""
    x, y = torch.randn(3, 9, 2, dtype=D), torch.randn(3, 9, 1, dtype=D)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 2:5] = False
    x, y = x * mask[..., None], y * mask[..., None]
    return Episode(*(bm.Points(x[:, part], y[:, part], mask[:, part]) for part in (slice(0, 5), slice(5, 9))))


def labelled(given: Episode) -> Episode:
    return Episode(*(part._replace(y=(part.y[..., 0] > 0).long()) for part in given))


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, mean, kernel):
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = mean, kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def test_the_objective_is_the_mean_over_tasks_of_gpytorchs_own(episode: Episode) -> None:
    learner = bm.DKT(nn.Identity(), kernel(), bm.likelihoods.Gaussian(0.3), mean=mean()).double()
    expected = []
    points = bm.concatenate(*episode)
    for task in range(3):
        seen = points.mask[task]
        likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
        likelihood.noise = learner.likelihood.scale.detach() ** 2
        x, y = points.x[task, seen], points.y[task, seen, 0]
        model = Exact(x, y, likelihood, learner.mean, learner.kernel).train()
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        with gpytorch.settings.fast_computations(False, False, False):
            exact = objective(model(x), y)
        expected.append(-exact)
    torch.testing.assert_close(learner.loss(episode), torch.stack(expected).mean(), rtol=1e-6, atol=1e-6)


def learners(priors: bool) -> dict[str, Callable[[], Any]]:
    def some() -> ScaleKernel:
        return kernel(priors)

    return {
        "DKT": lambda: bm.DKT(nn.Identity(), some(), bm.likelihoods.Gaussian(0.3), mean=mean(priors)),
        "DKT predictive": lambda: bm.DKT(
            nn.Identity(), some(), bm.likelihoods.Gaussian(0.3), mean=mean(priors), objective=bm.Predictive()
        ),
        "ADKL": lambda: bm.ADKL(
            bm.encoders.DeepSet(2, 1, 4), bm.networks.MLP(6, 2), some(), bm.likelihoods.Gaussian(0.3), mean=mean(priors)
        ),
        "ADKL elbo": lambda: bm.ADKL(
            bm.encoders.DeepSet(2, 1, 4),
            bm.networks.MLP(6, 2),
            some(),
            bm.likelihoods.Gaussian(0.3),
            mean=mean(priors),
            objective=bm.ELBO(),
        ),
        "DKTClassifier": lambda: bm.DKTClassifier(nn.Identity(), some(), classes=2, mean=mean(priors)),
        "LaplaceGP": lambda: bm.LaplaceGP(nn.Identity(), some(), classes=2),
        "LaplaceGP elbo": lambda: bm.LaplaceGP(nn.Identity(), some(), classes=2, objective=bm.ELBO()),
        "PolyaGammaGP": lambda: bm.PolyaGammaGP(nn.Identity(), some(), classes=2),
        "PolyaGammaGP elbo": lambda: bm.PolyaGammaGP(nn.Identity(), some(), classes=2, objective=bm.ELBO()),
    }


@pytest.mark.parametrize("name", learners(True))
def test_priors_add_their_log_density_a_point_whatever_the_learner_and_the_objective(
    name: str, episode: Episode
) -> None:
    def build(priors: bool) -> Any:
        torch.manual_seed(0)
        return learners(priors)[name]().double()

    learner, plain = build(True), build(False)
    given = labelled(episode) if learner.likelihood is None or hasattr(learner, "classes") else episode
    density = log_prior(learner.kernel) + log_prior(learner.mean)
    count = (given.query if isinstance(learner.objective, bm.Predictive) else bm.concatenate(*given)).mask.sum(1)
    torch.testing.assert_close(learner.loss(given), plain.loss(given) - (density / count).mean())
    joint, without = (pyro.poutine.trace(one.model).get_trace(given) for one in (learner, plain))
    held = {k: v["value"] for k, v in without.nodes.items() if v["type"] == "sample" and not v["is_observed"]}
    joint = pyro.poutine.trace(pyro.poutine.condition(learner.model, held)).get_trace(given)
    torch.testing.assert_close(joint.log_prob_sum() - without.log_prob_sum(), 3 * density)


def test_slices_of_an_episode_add_up_with_priors(episode: Episode) -> None:
    learner = bm.DKT(nn.Identity(), kernel(), bm.likelihoods.Gaussian(0.3)).double()
    rows = [Episode(*(bm.Points(*(leaf[b : b + 1] for leaf in part)) for part in episode)) for b in range(3)]
    torch.testing.assert_close(torch.stack([learner.loss(row) for row in rows]).mean(), learner.loss(episode))


def test_a_narrow_prior_decides_a_lengthscale() -> None:
    tasks = bm.tasks.Sinusoids(noise=0.1, batch=4)
    made = RBFKernel(lengthscale_prior=LogNormalPrior(1.5, 0.01))
    optimiser = torch.optim.Adam((learner := bm.DKT(nn.Identity(), made, bm.likelihoods.Gaussian())).parameters(), 0.1)
    bm.fit(learner, tasks, steps=150, optimizer=optimiser, progress=False)
    assert made.lengthscale.log().item() == pytest.approx(1.5, abs=0.03)


def test_each_tasks_fit_of_adkf_has_the_prior(episode: Episode) -> None:
    found = []
    for priors in (False, True):
        made = RBFKernel(lengthscale_prior=LogNormalPrior(1.0, 0.001) if priors else None)
        learner = bm.ADKF(nn.Identity(), made, bm.likelihoods.Gaussian(0.3), steps=20, deviation=10.0).double()
        fitted = learner.infer(episode.support).detach()
        found.append(torch.nn.functional.softplus(_own(learner.fitted, fitted)[0]["raw_lengthscale"]).flatten().log())
    assert (found[0] - 1).abs().min() > 0.05
    torch.testing.assert_close(found[1], torch.ones(3, dtype=D), atol=0.01, rtol=0)


def test_pacoh_refuses_a_second_prior() -> None:
    with pytest.raises(ValueError, match=r"kernel: expected one without priors.*outputscale_prior.*hyper_scale"):
        bm.PACOH(nn.Identity(), kernel(), bm.likelihoods.Gaussian(), tasks=4)


# --- one set of hyperparameters

BATCHED: dict[str, Callable[[], Any]] = {
    "plain": lambda: RBFKernel(batch_shape=torch.Size([3])),
    "scale": lambda: ScaleKernel(RBFKernel(), batch_shape=torch.Size([3])),
    "nested": lambda: LinearKernel() + ScaleKernel(RBFKernel(batch_shape=torch.Size([3]))),
}
BUILD: dict[str, Callable[[Any], Any]] = {
    "DKT": lambda made: bm.DKT(nn.Identity(), made, bm.likelihoods.Gaussian()),
    "DKTClassifier": lambda made: bm.DKTClassifier(nn.Identity(), made, classes=2),
    "ADKL": lambda made: bm.ADKL(bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, 4), made, bm.likelihoods.Gaussian()),
    "ADKF": lambda made: bm.ADKF(nn.Identity(), made, bm.likelihoods.Gaussian()),
    "PACOH": lambda made: bm.PACOH(nn.Identity(), made, bm.likelihoods.Gaussian(), tasks=4),
    "LaplaceGP": lambda made: bm.LaplaceGP(nn.Identity(), made, classes=2),
    "PolyaGammaGP": lambda made: bm.PolyaGammaGP(nn.Identity(), made, classes=2),
    "GaussianProcessTasks": bm.tasks.GaussianProcessTasks,
}


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_kernels_with_a_batch_are_refused_by_name(build: Callable[[Any], Any]) -> None:
    for made in BATCHED.values():
        with pytest.raises(
            ValueError, match=r"kernel: expected one set of hyperparameters.*Kernel of batch_shape \(3,\)"
        ):
            build(made())
    build(RBFKernel(ard_num_dims=2) * LinearKernel())
    with pytest.raises(TypeError, match="kernel: expected a gpytorch kernel"):
        build(RBFKernel)


def test_means_with_a_batch_and_things_that_are_no_means_are_refused() -> None:
    def build(given: Any) -> list[Any]:
        return [
            bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(), mean=given),
            bm.DKTClassifier(nn.Identity(), RBFKernel(), classes=2, mean=given),
            bm.ADKL(
                bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, 4), RBFKernel(), bm.likelihoods.Gaussian(), mean=given
            ),
        ]

    three = torch.Size([3])
    for made in (ConstantMean(batch_shape=three), LinearMean(1, batch_shape=three), ZeroMean(batch_shape=three)):
        with pytest.raises(
            ValueError, match=rf"mean: expected one set of .*{type(made).__name__} of batch_shape \(3,\)"
        ):
            build(made)
    for wrong in (ConstantMean, nn.Linear(1, 1)):
        with pytest.raises(TypeError, match="mean: expected a gpytorch mean"):
            build(wrong)
    build(LinearMean(1))


def test_kernels_of_other_than_one_number_a_pair_are_refused_when_asked() -> None:
    with pytest.raises(
        ValueError, match=r"kernel: expected one covariance a pair of points, \(1, 2, 2\), got \(1, 4, 4\)"
    ):
        bm.DKT(nn.Identity(), RBFKernelGrad(), bm.likelihoods.Gaussian())(bm.points([1.0, 2.0], [1.0, 2.0]))
