"""Learners of Gaussian-process kernels against the process they are built on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from gpytorch.kernels import (
    CylindricalKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PolynomialKernel,
    RBFKernel,
    RFFKernel,
    RQKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from gpytorch.means import ConstantMean
from pyro import poutine
from torch import nn

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.gaussian_process import GaussianProcess
from bayesmeta.gaussian_process.kernels import covariance
from bayesmeta.likelihoods import nll

KERNELS = {
    "RBF": lambda: ScaleKernel(RBFKernel()),
    "Matern": lambda: ScaleKernel(MaternKernel(nu=2.5)),
    "linear": LinearKernel,
    "spectral mixture": lambda: SpectralMixtureKernel(num_mixtures=2, ard_num_dims=6),
}


def learner(kernel: Kernel, **settings: str) -> bm.DKT:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(6, 6), activation=nn.Tanh)
    return bm.DKT(network.features, kernel, bm.likelihoods.Gaussian(0.2), mean=ConstantMean(), **settings).double()  # type: ignore[arg-type]


@pytest.fixture
def episode() -> Episode:
    return bm.move(bm.tasks.Sinusoids(batch=3, shots=(1, 6), queries=5, noise=0.1)[0], nn.Linear(1, 1).double())


@pytest.mark.parametrize("name", KERNELS)
def test_dkt_descends_the_marginal_likelihood_per_point(name: str, episode: Episode) -> None:
    dkt = learner(KERNELS[name]())
    loss = dkt.loss(episode)
    points = bm.concatenate(*episode)
    embedded = points._replace(x=dkt.features(points.x))
    process = GaussianProcess(dkt.kernel, dkt.mean, dkt.likelihood.scale, embedded)
    torch.testing.assert_close(loss, -(process.log_marginal_likelihood() / points.mask.sum(1)).mean())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dkt.parameters())


def test_dkt_predicts_by_conditioning_in_feature_space_with_either_objective(episode: Episode) -> None:
    dkt = learner(ScaleKernel(RBFKernel()), objective=bm.Predictive())
    support, query = episode
    embedded = support._replace(x=dkt.features(support.x))
    exact = GaussianProcess(dkt.kernel, dkt.mean, dkt.likelihood.scale, embedded)(dkt.features(query.x))
    found = dkt(support)(query.x)
    torch.testing.assert_close(found.mean, exact.mean)
    torch.testing.assert_close(found.variance, exact.variance)
    torch.testing.assert_close(dkt.loss(episode), nll(exact, query).mean())


def test_dkts_model_is_pyro_with_an_empty_guide(episode: Episode) -> None:
    dkt = learner(RBFKernel())
    assert not poutine.trace(dkt.guide).get_trace(episode).stochastic_nodes
    trace = poutine.trace(dkt.model).get_trace(episode)
    trace.compute_log_prob()
    assert trace.nodes["y"]["log_prob"].shape == (3,)
    joint = trace.nodes["y"]["log_prob"] + trace.nodes["y padding"]["log_prob"]
    points = bm.concatenate(*episode)
    torch.testing.assert_close(-(joint / points.mask.sum(1)).mean(), dkt.loss(episode))


def test_dkt_in_closed_form_knows_its_doubt(episode: Episode) -> None:
    dkt = learner(ScaleKernel(RBFKernel()))
    total, aleatoric, epistemic = dkt(episode.support).decompose(episode.query.x)
    torch.testing.assert_close(total, dkt(episode.support)(episode.query.x).variance)
    torch.testing.assert_close(aleatoric, dkt.likelihood.scale.square().expand_as(aleatoric))
    assert (epistemic > 0).all()


def test_dkt_refuses_what_has_no_closed_form() -> None:
    with pytest.raises(ValueError, match="likelihood: expected a Gaussian with one σ"):
        bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.StudentT())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="kernel: expected a gpytorch kernel"):
        bm.DKT(nn.Identity(), RBFKernel, bm.likelihoods.Gaussian())  # type: ignore[arg-type]


def test_adkl_is_a_process_on_features_that_depend_on_the_support(episode: Episode) -> None:
    torch.manual_seed(0)
    adkl = bm.ADKL(
        bm.encoders.DeepSet(1, 1, 4),
        bm.networks.MLP(5, 6, activation=nn.Tanh),
        RBFKernel(),
        bm.likelihoods.Gaussian(0.2),
    ).double()
    support, query = episode
    embedded = support._replace(x=adkl.features(support, support.x))
    exact = GaussianProcess(adkl.kernel, None, adkl.likelihood.scale, embedded)(adkl.features(support, query.x))
    torch.testing.assert_close(adkl(support)(query.x).mean, exact.mean)
    torch.testing.assert_close(adkl.loss(episode), nll(exact, query).mean())
    other = support._replace(y=support.y + 1.0)  # another task's kernel differs
    assert not torch.equal(adkl.features(support, query.x), adkl.features(other, query.x))
    adkl.objective = bm.ELBO()
    points = bm.concatenate(*episode)
    whole = points._replace(x=adkl.features(support, points.x))
    process = GaussianProcess(adkl.kernel, None, adkl.likelihood.scale, whole)
    torch.testing.assert_close(adkl.loss(episode), -(process.log_marginal_likelihood() / points.mask.sum(1)).mean())


def test_a_variational_learner_and_a_kernel_share_an_encoder(episode: Episode) -> None:
    torch.manual_seed(0)
    encoder = bm.encoders.DeepSet(1, 1, 4)
    kernel = bm.ADKL(encoder, bm.networks.MLP(5, 6), RBFKernel(), bm.likelihoods.Gaussian()).double()
    process = bm.NeuralProcess(
        encoder, bm.networks.MLP(5 + 3, 2), bm.likelihoods.HeteroscedasticGaussian(), latent=3
    ).double()
    before = kernel(episode.support)(episode.query.x).mean.detach()
    bm.fit(process, [episode], steps=1, progress=False)  # type: ignore[arg-type]
    assert not torch.equal(kernel(episode.support)(episode.query.x).mean, before)
    (kernel.loss(episode) + process.loss(episode)).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


OWN: dict[str, Any] = {
    "RQ": lambda: RQKernel(ard_num_dims=2),
    "spectral mixture": lambda: SpectralMixtureKernel(num_mixtures=2, ard_num_dims=2),
    "polynomial": lambda: PolynomialKernel(2),
    "of one input": lambda: ScaleKernel(PolynomialKernel(3, active_dims=[1])),
    "sum": lambda: RBFKernel() + PolynomialKernel(1),
    "product": lambda: ScaleKernel(RBFKernel() * (PolynomialKernel(2) + LinearKernel())),
    "cylindrical": lambda: CylindricalKernel(3, MaternKernel()),
}


@pytest.mark.parametrize("name", OWN)
def test_a_kernel_of_each_tasks_own_is_that_kernel(name: str) -> None:
    """Against gpytorch, a kernel a task; and with tasks that come twice in turn."""
    torch.manual_seed(0)
    kernel: Any = OWN[name]().double()
    own = {key: value.detach() + torch.rand(3, *value.shape).double() for key, value in kernel.named_parameters()}
    x, z = torch.rand(3, 4, 2).double() / 2, torch.rand(3, 5, 2).double() / 2
    ask = covariance(kernel)
    between, within, diagonal = [], [], []
    for task in range(3):
        single = deepcopy(kernel)
        single.load_state_dict({**single.state_dict(), **{key: value[task] for key, value in own.items()}})
        between.append(single(x[task], z[task]).to_dense())
        within.append(single(x[task]).to_dense())
        diagonal.append(single(x[task], diag=True))
    torch.testing.assert_close(ask(x, z, False, own), torch.stack(between))
    torch.testing.assert_close(ask(x, x, False, own), torch.stack(within))
    torch.testing.assert_close(ask(x, x, True, own), torch.stack(diagonal))
    torch.testing.assert_close(ask(x.repeat(2, 1, 1), z.repeat(2, 1, 1), False, own), torch.stack(2 * between))
    assert kernel.batch_shape == torch.Size()


@pytest.mark.parametrize("form", ["map", "svgd", "ADKF"])
def test_polynomials_are_kernels_of_each_task_or_prior(form: Any) -> None:
    kernel, noise = ScaleKernel(PolynomialKernel(2)), bm.likelihoods.Gaussian(0.2)
    tasks = bm.tasks.Sinusoids(batch=3, shots=(1, 6), queries=5, noise=0.1)
    learner: bm.Learner = (
        bm.ADKF(nn.Identity(), kernel, noise)
        if form == "ADKF"
        else bm.PACOH(nn.Identity(), kernel, noise, tasks=20, hyper_posterior=form)
    )
    history = bm.fit(learner, tasks, steps=3, progress=False)
    assert all(torch.tensor(history.losses).isfinite())
    drawn = learner(tasks[0].support).draws(tasks[0].query.x, 4)
    assert drawn.mean.isfinite().all()


def test_random_features_that_would_be_drawn_at_each_call_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel: expected an RFFKernel that has drawn its frequencies"):
        learner(RFFKernel(10))
    learner(RFFKernel(10, num_dims=6))
