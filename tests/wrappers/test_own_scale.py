"""Scales of tasks, integrated out in closed form, against the integral itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel
from scipy import integrate, stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.distributions.family import family
from bayesmeta.likelihoods import Gaussian
from bayesmeta.tasks import GaussianProcessTasks, LinearGaussian, OwnScales

NU = 3.7


def learners() -> dict[str, bm.Learner]:
    torch.manual_seed(0)
    return {
        "ALPaCA": bm.ALPaCA(nn.Identity(), nn.Linear(2, 2), Gaussian(0.3)).double(),
        "DKT": bm.DKT(nn.Identity(), RBFKernel(), Gaussian(0.3)).double(),
    }


def task(points: int, seed: int = 0) -> bm.Points:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(1, points, 2, generator=draw, dtype=torch.float64)
    return bm.Points(x, torch.randn(1, points, 2, generator=draw, dtype=torch.float64), torch.ones(1, points).bool())


def moments(learner: bm.Learner, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Prior mean of each target, and V = K + σ² I, at s² = 1."""
    mean, covariance, noise = learner(bm.points(torch.zeros(0, 2), torch.zeros(0, 2))).joint(x)
    v = covariance[0] + torch.diag_embed(noise[0].mT.square())
    return mean[0].mT.detach().numpy(), v.detach().numpy()


@pytest.mark.parametrize("name", ["ALPaCA", "DKT"])
def test_predictions_are_the_integral_over_the_scale(name: str) -> None:
    # p(y* | y) = ∫ N(y, y* | m, s² V) p(s²) ds² / ∫ N(y | m, s² V) p(s²) ds², each by quadrature.
    learner, support, query = learners()[name], task(4), task(3, seed=1)
    prediction = bm.OwnScale(learner, df=NU).double()(support)(query.x)
    single = bm.distributions.marginals(prediction).log_prob(query.y)[0].detach()  # (M, Y)

    def evidence(y: np.ndarray, mean: np.ndarray, v: np.ndarray) -> float:
        def at(log_precision: float) -> float:
            precision = np.exp(log_precision)
            density = stats.multivariate_normal(mean, v / precision).pdf(y)
            return float(density * stats.gamma(NU / 2, scale=2 / NU).pdf(precision) * precision)

        return integrate.quad(at, -12, 6, epsabs=0, epsrel=1e-11, limit=400)[0]

    for j in range(3):
        x = torch.cat([support.x, query.x[:, j : j + 1]], 1)
        mean, v = moments(learner, x)
        for target in range(2):
            y = np.append(support.y[0, :, target].numpy(), query.y[0, j, target])
            exact = np.log(evidence(y, mean[target], v[target])) - np.log(
                evidence(y[:-1], mean[target, :-1], v[target, :-1, :-1])
            )
            assert abs(exact - single[j, target].item()) < 1e-8


@pytest.mark.parametrize("name", ["ALPaCA", "DKT"])
def test_updates_equal_one_batch(name: str) -> None:
    learner, first, second = bm.OwnScale(learners()[name], df=NU).double(), task(3), task(4, seed=1)
    x = task(5, seed=2).x
    apart, together = learner(first).update(second)(x), learner(bm.concatenate(first, second))(x)
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["ALPaCA", "DKT"])
def test_both_parts_of_doubt_add_up_to_the_variance(name: str) -> None:
    posterior = bm.OwnScale(learners()[name], df=NU).double()(task(4))
    x = task(5, seed=2).x
    total, aleatoric, epistemic = posterior.decompose(x)
    torch.testing.assert_close(total, posterior(x).variance)
    inner = learners()[name](task(4)).decompose(x)
    torch.testing.assert_close(aleatoric / epistemic, inner.aleatoric / inner.epistemic)


@pytest.mark.parametrize("name", ["ALPaCA", "DKT"])
def test_functions_with_their_noise_have_the_law_of_predictions(name: str) -> None:
    # Kolmogorov-Smirnov at four points: a false alarm of .001 each.
    learner = bm.OwnScale(learners()[name], df=NU).double()
    x, samples = task(2, seed=2).x, 4000
    posterior = learner(task(4))
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = bm.distributions.sample(posterior.functions(samples)(x), 1)[0][:, 0]  # (S, M, Y)
        found = posterior(x).base_dist
    for j in range(2):
        for target in range(2):
            law = stats.t(*(float(p[0, j, target]) for p in (found.df, found.loc, found.scale)))
            assert stats.kstest(drawn[:, j, target].numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "inner", [LinearGaussian(batch=200, shots=(0, 6)), GaussianProcessTasks(RBFKernel(), batch=200, shots=(0, 6))]
)
def test_the_oracle_of_scaled_tasks_is_calibrated(inner: LinearGaussian) -> None:
    # PIT values of one query a task are uniform: Kolmogorov-Smirnov over 2,000 tasks, a false alarm of .001.
    tasks = OwnScales(inner, df=3.0)
    ranks, plain = [], []
    for index in range(10):
        support, query = tasks[index]
        for answers, into in ((tasks.oracle(support), ranks), (inner.oracle(support), plain)):
            single = bm.distributions.marginals(answers(query.x[:, :1]))
            into.append(family(single).cdf(single, query.y[:, :1]).flatten())
    assert stats.kstest(torch.cat(ranks).detach().numpy(), "uniform").pvalue > 1e-3
    assert (
        stats.kstest(torch.cat(plain).detach().numpy(), "uniform").pvalue < 1e-3
    )  # who takes all scales for one is not


def test_training_finds_the_degrees_of_freedom_and_comes_near_the_oracle() -> None:
    tasks = OwnScales(LinearGaussian(noise=0.3, batch=50, shots=(2, 8)), df=3.0)
    torch.manual_seed(0)
    learner = bm.OwnScale(bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()), df=20.0)
    bm.fit(learner, tasks, steps=500, optimizer=torch.optim.Adam(learner.parameters(), 0.02), progress=False)
    assert 2.3 < learner.df.item() < 5.0
    test = OwnScales(LinearGaussian(noise=0.3, batch=50, shots=(2, 8), seed=1), df=3.0)
    own, exact = (
        bm.evaluate(answerer, test, episodes=20, metrics=[bm.metrics.NLL()])["NLL"].value
        for answerer in (learner, test.oracle)
    )
    assert exact < own < exact + 0.02


def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="learner: expected a learner"):
        bm.OwnScale(nn.Linear(1, 1))  # type: ignore[arg-type]
    for df in (2.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="df: expected"):
            bm.OwnScale(learners()["DKT"], df=df)
    maml = bm.OwnScale(bm.MAML(bm.networks.MLP(1, 1), Gaussian()))
    with pytest.raises(
        NotImplementedError, match=r"learner: expected a learner whose functions are Gaussian.*PointEstimate"
    ):
        maml(bm.points([0.0, 1.0], [0.0, 1.0]))
    with pytest.raises(TypeError, match="tasks: expected LinearGaussian"):
        OwnScales(bm.tasks.Sinusoids())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="df: expected degrees of freedom above 2"):
        OwnScales(LinearGaussian(), df=2.0)
