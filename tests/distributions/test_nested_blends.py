"""Mixtures within mixtures, infinities within mixtures, and draws at the edge of what a warp takes."""

import math

import pytest
import scipy.stats
import torch
from pyro.distributions import Normal, StudentT
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import warps
from bayesmeta.distributions import Blend, Unwarped, cdf, mixture, quantile, sample, temper


def wide(*, df: float = 4.0, loc: float = 1.0) -> StudentT:
    return StudentT(torch.full((2,), df, dtype=torch.float64), loc, 0.5)


def blend() -> Blend:
    normal = Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    return Blend([normal, wide()], torch.tensor([0.25, 0.75]).double().log())


def test_a_blend_of_blends_is_one() -> None:
    """Probabilities of nested parts are products; tempering, which needs each part's own centre, works."""
    third = Normal(torch.full((2,), 5.0, dtype=torch.float64), 2.0)
    nested = Blend([blend(), third], torch.tensor([0.6, 0.4]).double().log())
    flat = Blend([*blend().parts, third], torch.tensor([0.15, 0.45, 0.4]).double().log())
    y = torch.tensor([0.3, 7.0]).double()
    assert len(nested.parts) == 3
    torch.testing.assert_close(nested.log_prob(y), flat.log_prob(y))
    torch.testing.assert_close(nested.mean, torch.full_like(y, 0.15 * 0 + 0.45 * 1 + 0.4 * 5))
    hot, factor = temper(nested, torch.tensor(2.0).double()), torch.tensor(2.0).double()
    parts = [temper(part, factor) for part in flat.parts]
    torch.testing.assert_close(hot.log_prob(y), Blend(parts, flat.log_weights).log_prob(y))


def test_parts_of_several_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="parts: expected distributions of one batch and event shape"):
        Blend([Normal(torch.zeros(2), 1.0), Normal(torch.zeros(3), 1.0)], torch.zeros(2))
    with pytest.raises(ValueError, match="parts: expected distributions of one batch"):
        Blend([], torch.zeros(0))


def test_a_warped_blend_has_the_moments_of_its_parts() -> None:
    """And a warped ensemble of learners of several families, which is one, answers."""
    warp = warps.Log(top=100.0)
    each = [Unwarped(part, warp) for part in blend().parts]
    whole = Unwarped(blend(), warp)
    mean = 0.25 * each[0].mean + 0.75 * each[1].mean
    second = sum(w * (d.variance + d.mean.square()) for w, d in zip((0.25, 0.75), each, strict=True))
    torch.testing.assert_close(whole.mean, mean)
    torch.testing.assert_close(whole.variance, second - mean.square())
    learner = bm.Warped(bm.Ensemble([line(), bm.OwnScale(line())]), warps.Log(top=100.0))
    assert learner(bm.points([0.0, 1.0], [2.0, 3.0]))([0.5]).mean.isfinite().all()


def line() -> bm.Learner:
    return bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())


def test_infinite_moments_stay_infinite() -> None:
    """Under a logarithm Student's t has no mean: no draws, and no part without weight, make a number of that."""
    endless, support = bm.Warped(bm.OwnScale(line()), warps.Log()), bm.points([0.0, 1.0], [2.0, 3.0])
    both = bm.Ensemble([endless, line()], [0.5, 0.5])
    for learner in (endless, both):
        assert all(part.isinf().all() for part in learner(support).decompose([0.5]))
        assert learner(support)([0.5]).variance.isinf().all()
    alone = bm.Ensemble([endless, line()], [0.0, 1.0])(support)
    torch.testing.assert_close(alone.decompose([0.5]).total, alone([0.5]).variance, rtol=1e-4, atol=1e-5)


def test_an_infinite_score_is_not_nan() -> None:
    """Of points that are not observed nothing counts, infinity neither."""
    learner = bm.Warped(bm.OwnScale(line()), warps.Log())
    x, y = torch.rand(2, 4, 1), 1 + torch.rand(2, 4, 1)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    episode = bm.Episode(bm.points(list(x[:, :2]), list(y[:, :2])), bm.Points(x, y * mask[..., None], mask))
    assert bm.evaluate(learner, [episode], episodes=1, metrics=[bm.metrics.CRPS()])["CRPS"].value == math.inf


@pytest.mark.parametrize(("warp", "loc"), [(warps.Logit(), 30.0), (warps.Logit(), -200.0), (warps.Log(), -200.0)])
def test_draws_are_targets(warp: warps.Warp, loc: float) -> None:
    """Rounded to a bound they could not be told to a posterior."""
    d = Unwarped(Normal(torch.full((5,), loc), 1.0), warp)
    for drawn in (d.sample((20,)), d.rsample((20,)), sample(d, 20)):
        assert warp.inside(drawn).all()
        assert warp(drawn).isfinite().all()


def test_the_cdf_of_no_number_is_none() -> None:
    d = Unwarped(Normal(torch.zeros(3), 1.0), warps.Log())
    found = cdf(d, torch.tensor([math.nan, -1.0, math.inf]))
    assert found[0].isnan()
    assert found[1:].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.05, 0.5, 0.9, 1 - 1e-7])
def test_quantiles_of_mixtures_of_students(p: float, dtype: torch.dtype) -> None:
    """Against scipy's cdf; also where parts lie far apart, so that the least of many values is asked for."""
    loc, scale, df = torch.tensor([-3.0, 0.1, 500.0]), torch.tensor([1.0, 0.01, 2.0]), torch.tensor([2.5, 8.0, 40.0])
    each = StudentT(*(part[:, None].to(dtype) for part in (df, loc, scale)))
    found: Tensor = quantile(mixture(each), p).double()
    probability = scipy.stats.t(df[:, None], loc[:, None], scale[:, None]).cdf(found.numpy()).mean(0)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-9
    assert abs(probability[0] - p) < tolerance * max(1.0, abs(float(found)))
