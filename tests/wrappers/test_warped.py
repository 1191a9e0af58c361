"""Learners of targets on another scale."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from gpytorch.kernels import RBFKernel
from scipy import stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.distributions import Blend, Unwarped, cdf, marginals, sample
from bayesmeta.likelihoods import Gaussian
from bayesmeta.tasks import tasks_from_arrays

D = torch.float64
LOG = bm.warps.Log(top=50.0)


def alpaca() -> bm.Learner:
    torch.manual_seed(0)
    return bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), Gaussian(0.3))


def learners() -> dict[str, bm.Learner]:
    return {
        "ALPaCA": bm.Warped(alpaca(), LOG).double(),
        "own scale": bm.Warped(bm.OwnScale(alpaca()), LOG).double(),
        "DKT": bm.Warped(bm.DKT(nn.Identity(), RBFKernel(), Gaussian(0.3)), LOG).double(),
    }


NAMES = list(learners())


def task(points: int, seed: int = 0, batch: int = 2) -> bm.Points:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, points, 2, generator=draw, dtype=D)
    y = torch.randn(batch, points, 1, generator=draw, dtype=D).exp()
    return bm.Points(x, y, torch.ones(batch, points).bool())


def logs(given: bm.Points) -> bm.Points:
    return given._replace(y=LOG(given.y))


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_the_inner_learner_by_change_of_variables(name: str) -> None:
    learner = learners()[name]
    support, query = task(4), task(5, seed=1)
    prediction = learner(support)(query.x)
    inner = learner.learner(logs(support))(query.x)  # type: ignore[operator]
    assert isinstance(prediction, Unwarped)
    torch.testing.assert_close(prediction.log_prob(query.y), inner.log_prob(LOG(query.y)) - query.y.log().sum(-1))
    torch.testing.assert_close(marginals(prediction).mean, prediction.mean)


@pytest.mark.parametrize("name", NAMES)
def test_updates_equal_one_batch(name: str) -> None:
    learner, first, second, x = learners()[name], task(3), task(4, seed=1), task(5, seed=2).x
    apart, together = learner(first).update(second)(x), learner(bm.concatenate(first, second))(x)
    torch.testing.assert_close(apart.mean, together.mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(apart.variance, together.variance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_functions_with_their_noise_have_the_law_of_predictions(name: str) -> None:
    # Kolmogorov-Smirnov at two points: a false alarm of .001 each.
    posterior, x = learners()[name](task(4)), task(2, seed=2).x
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = sample(posterior.functions(4000)(x), 1)[0]
        ranks = cdf(marginals(posterior(x)), drawn)[:, 0, :, 0]
    assert all(stats.kstest(row.numpy(), "uniform").pvalue > 1e-3 for row in ranks.mT)


def test_both_parts_of_doubt_are_variances_in_the_users_units() -> None:
    # A log-normal's parts are in closed form: f ~ N(m, e), y | f ~ log-normal(f, a). 5,000 draws: within three standard errors.
    learner = bm.Warped(alpaca(), bm.warps.Log()).double()
    posterior, x = learner(task(6)), task(3, seed=2).x
    torch.manual_seed(0)
    total, aleatoric, epistemic = posterior.decompose(x, 5_000)
    with torch.no_grad():
        inner = learner.learner(task(6)._replace(y=task(6).y.log()))  # type: ignore[operator]
        m, (_, a, e) = inner(x).mean, inner.decompose(x)
    expected = torch.expm1(a) * torch.exp(2 * m + a + 2 * e)
    torch.testing.assert_close(aleatoric, expected, rtol=0.1, atol=0)
    torch.testing.assert_close(epistemic, torch.expm1(e) * torch.exp(2 * m + a + e), rtol=0.1, atol=0)
    torch.testing.assert_close(total, posterior(x).variance, rtol=0.1, atol=0)


def warped_tasks(shots: int | tuple[int, int] = 4) -> bm.tasks.ArrayTasks:
    """Straight lines on a logarithmic scale."""
    draw = torch.Generator().manual_seed(5)
    x = torch.rand(40, 12, 1, generator=draw)
    slope, start = torch.randn(2, 40, 1, 1, generator=draw)
    y = (3 + start + 0.7 * slope * x + 0.2 * torch.randn(40, 12, 1, generator=draw)).exp()
    return tasks_from_arrays(
        x.flatten(0, 1), y.flatten(0, 1), torch.arange(40).repeat_interleave(12), batch=20, shots=shots
    )


def test_it_is_standardised_on_the_warped_scale() -> None:
    tasks = warped_tasks()
    learner = bm.Warped.from_tasks(
        bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()), bm.warps.Log(), tasks, episodes=1
    )
    inner = learner.learner
    assert isinstance(inner, bm.Standardized)
    seen = bm.concatenate(*tasks[0]).y.log()
    torch.testing.assert_close(inner.y_loc, seen.mean((0, 1)))
    torch.testing.assert_close(inner.y_scale, seen.std((0, 1), correction=0))


def test_inputs_may_be_standardised_around_it() -> None:
    inner, given = bm.Warped(alpaca(), LOG), task(3)
    around = bm.Standardized(inner, x_loc=1.0, x_scale=2.0).double()
    torch.testing.assert_close(
        around(given)(given.x).log_prob(given.y),
        inner(given._replace(x=(given.x - 1) / 2))((given.x - 1) / 2).log_prob(given.y),
    )


def test_the_loss_is_the_nll_in_the_users_units_up_to_a_constant() -> None:
    tasks = warped_tasks()
    learner = bm.Warped(alpaca(), bm.warps.Log())
    learner = bm.Warped(bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()), bm.warps.Log())
    support, query = tasks[0]
    differences, slopes = [], []
    for _ in range(2):
        objective = learner.loss(tasks[0])
        nll = bm.likelihoods.nll(learner(support)(query.x), query).mean()
        differences.append((nll - objective).item())
        slopes.append([torch.autograd.grad(value, list(learner.parameters())) for value in (objective, nll)])
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(0.1)
    assert differences[0] == pytest.approx(query.y.log().sum().item() / query.mask.sum().item(), rel=1e-4)
    assert differences[0] == pytest.approx(differences[1], rel=1e-4)
    for own, exact in slopes:
        torch.testing.assert_close(own, exact, rtol=1e-3, atol=1e-5)


def test_tasks_that_are_straight_on_a_logarithmic_scale_are_learned_better_on_it() -> None:
    tasks, scores = warped_tasks((2, 6)), {}

    def build() -> bm.Learner:
        torch.manual_seed(0)
        return bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())

    for name, learner in {
        "plain": bm.Standardized.from_tasks(build(), tasks),
        "log": bm.Warped.from_tasks(build(), bm.warps.Log(), tasks),
    }.items():
        bm.fit(learner, tasks, steps=200, optimizer=torch.optim.Adam(learner.parameters(), 0.03), progress=False)
        found = bm.evaluate(learner, tasks, episodes=3, metrics=[bm.metrics.NLL(), bm.metrics.Coverage(0.9)])
        scores[name] = found["NLL"].value
    assert scores["log"] < scores["plain"] - 0.3  # nats a point
    assert 0.85 < found["90% coverage"].value < 0.95


def test_an_ensemble_of_a_warped_and_another_learner() -> None:
    warped, plain = learners()["own scale"], alpaca().double()
    both = bm.Ensemble([warped, plain], [3.0, 1.0])
    support, query = task(4), task(5, seed=1)
    prediction = both(support)(query.x)
    assert isinstance(prediction, Blend)
    each = [learner(support)(query.x).log_prob(query.y).exp() for learner in (warped, plain)]
    torch.testing.assert_close(prediction.log_prob(query.y).exp(), 0.75 * each[0] + 0.25 * each[1])
    later = both(support).update(query)(query.x).log_prob(query.y)
    torch.testing.assert_close(later, both(bm.concatenate(support, query))(query.x).log_prob(query.y))
    for learner in (both, bm.Calibrated(both, 1.5)):
        posterior = learner(support)
        torch.manual_seed(3)
        with torch.no_grad():
            drawn = sample(posterior.functions(4000)(query.x), 1)[0]
            ranks = cdf(marginals(posterior(query.x)), drawn)[:, 0, :2, 0]
        assert all(stats.kstest(row.numpy(), "uniform").pvalue > 1e-3 for row in ranks.mT)  # false alarms of .001
        total, aleatoric, epistemic = posterior.decompose(query.x, 4000)
        assert (aleatoric > 0).all()
        assert (epistemic > 0).all()
        torch.testing.assert_close(total, posterior(query.x).variance, rtol=0.5, atol=0)  # heavy tails: draws are few


def test_a_temperature_around_a_warp_is_one_within() -> None:
    around = bm.Calibrated(bm.Warped(alpaca(), LOG), 1.7).double()
    within = bm.Warped(bm.Calibrated(alpaca(), 1.7), LOG).double()
    support, query = task(4), task(5, seed=1)
    torch.testing.assert_close(around(support)(query.x).log_prob(query.y), within(support)(query.x).log_prob(query.y))
    torch.manual_seed(0)
    first = around(support).functions(3)(query.x).log_prob(query.y)
    torch.manual_seed(0)
    torch.testing.assert_close(first, within(support).functions(3)(query.x).log_prob(query.y))


def test_files_keep_it(tmp_path: Path) -> None:
    learner = bm.Ensemble([learners()["own scale"], alpaca().double()], [0.6, 0.4])
    posterior = learner(task(4)).update(task(3, seed=1))
    bm.save(learner, tmp_path / "a", posterior=posterior)
    again, query = bm.load(tmp_path / "a"), task(5, seed=2)
    torch.testing.assert_close(again(query.x).log_prob(query.y), posterior(query.x).log_prob(query.y), rtol=0, atol=0)


def test_targets_outside_the_warp_are_refused_by_name() -> None:
    learner, good = bm.Warped(alpaca(), LOG).double(), task(3)

    def bad(value: float) -> bm.Points:
        y = good.y.clone()
        y[1, 2] = value
        return good._replace(y=y)

    named = (
        r"y: expected numbers above 0 \(warps.Log1p\(\) takes zeros.*\) for Log\(top=50.0\), got {} at task 1, point 2"
    )
    for value, said in ((0.0, "0"), (-2.5, "-2.5")):
        with pytest.raises(ValueError, match="support." + named.format(said)):
            learner(bad(value))
        with pytest.raises(ValueError, match="points." + named.format(said)):
            learner(good).update(bad(value))
        with pytest.raises(ValueError, match="query." + named.format(said)):
            learner.loss(bm.Episode(good, bad(value)))
        with pytest.raises(ValueError, match="support." + named.format(said)):
            bm.Warped.from_tasks(alpaca(), LOG, [bm.Episode(bad(value), good)])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"y: expected numbers above 0 \(warps.Log1p"):
            bm.evaluate(learner, [bm.Episode(good, bad(value))], episodes=1)  # type: ignore[arg-type]
        bm.Warped(alpaca(), bm.warps.Log1p(unit=3.0)).double()(bad(value))
    hidden = bad(-1.0)._replace(mask=torch.tensor([[True, True, True], [True, True, False]]))
    whole = learner(hidden._replace(y=hidden.y * hidden.mask[..., None]))(good.x)  # what is not observed is not asked
    assert whole.log_prob(good.y).isfinite().all()


def test_masks_of_entries_leave_out_what_is_not_observed() -> None:
    torch.manual_seed(0)
    learner = bm.Warped(bm.ALPaCA(nn.Identity(), nn.Linear(2, 2), Gaussian(0.3)), LOG).double()
    x = torch.randn(1, 3, 2, dtype=D)
    y = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [0.5, 4.0]]], dtype=D)
    mask = torch.tensor([[[True, True], [True, False], [True, True]]])
    query = bm.Points(x, y, mask)
    prediction = learner(bm.Points(x[:, :1], y[:, :1], torch.ones(1, 1).bool()))(x)
    found = bm.likelihoods.nll(prediction, query)
    single = marginals(prediction).log_prob(y.clamp(min=0.1))
    torch.testing.assert_close(found, -(single * mask).sum((1, 2)) / 3)
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="learner: expected a learner that is not warped yet, got Warped"):
        bm.Warped(bm.Warped(alpaca(), LOG), LOG)
    with pytest.raises(TypeError, match=r"warp: expected one of bayesmeta\.warps"):
        bm.Warped(alpaca(), torch.log)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learner: expected a likelihood of real targets, got Poisson"):
        bm.Warped(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Poisson()), LOG)
    posterior = bm.Warped(alpaca(), LOG).double()(task(3))
    with pytest.raises(NotImplementedError, match="joint: expected a posterior whose functions are Gaussian"):
        posterior.joint(task(2).x)
    with pytest.raises(NotImplementedError, match=r"Warped\(OwnScale\(learner\), warp\)"):
        bm.OwnScale(bm.Warped(alpaca(), LOG)).double()(task(3))
    for build in (
        lambda learner: bm.Standardized(learner, x_loc=0.0, x_scale=1.0, y_loc=0.0, y_scale=2.0),
        lambda learner: bm.Standardized.from_tasks(learner, [bm.Episode(task(3), task(3))]),
    ):
        with pytest.raises(ValueError, match=r"y_scale: .* Warped.from_tasks\(learner, warp, tasks\)"):
            build(bm.Warped(alpaca(), LOG))
    plain = bm.Warped(bm.OwnScale(alpaca()), bm.warps.Log()).double()(task(3))(task(2).x)
    assert (plain.mean == math.inf).all()


def test_padding_does_not_matter() -> None:
    learner, (x, y, mask) = learners()["own scale"], task(3)

    def padded(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, torch.zeros_like(leaf[:, :2])], 1)

    found = learner(bm.Points(padded(x), padded(y), padded(mask)))(x).log_prob(y)
    torch.testing.assert_close(found, learner(bm.Points(x, y, mask))(x).log_prob(y))
