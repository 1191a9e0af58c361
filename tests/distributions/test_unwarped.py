"""Numbers whose warp has a known distribution: against closed forms, scipy and integrals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal, StudentT
from torch import Tensor

from bayesmeta import warps
from bayesmeta.distributions import (
    Unwarped,
    affine,
    cdf,
    centre,
    crps,
    kind,
    log_prob,
    marginals,
    mixture,
    quantile,
    sample,
    stack,
    temper,
    undefined,
)
from bayesmeta.distributions.family import family

D = torch.float64
WARPS: list[warps.Warp] = [
    warps.Log(),
    warps.Log(top=3.0),
    warps.Log1p(),
    warps.Log1p(unit=0.5, top=4.0),
    warps.Logit(-2.0, 5.0),
    warps.BoxCox(0.5, unit=2.0),
    warps.BoxCox(0.0),
    warps.BoxCox(1.0, unit=3.0),
]
warped = pytest.mark.parametrize("warp", WARPS, ids=repr)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D)


def bases(log: bool = False) -> list:
    """Normals, and (where a mean must exist) Student's t, and mixtures."""
    loc, scale = tensor(0.4, -0.5, 1.5), tensor(0.3, 0.8, 1.2)
    weights = Categorical(logits=tensor(0.2, -0.3).expand(3, 2))
    two = torch.stack([loc, loc - 1], -1), torch.stack([scale, scale / 3], -1)
    found = [Normal(loc, scale), MixtureSameFamily(weights, Normal(*two))]
    if not log:
        found += [StudentT(tensor(4.5, 7.0, 30.0), loc, scale), MixtureSameFamily(weights, StudentT(5.0, *two))]
    return found


def numbers(warp: warps.Warp, density, f) -> Tensor:
    """E f(y) by the trapezoidal rule over the warped scale, z = sinh(3 sinh u) on a fine grid, apart from our quadrature."""
    u = torch.linspace(-3.5, 3.5, 400_001, dtype=D)
    z = torch.sinh(3 * torch.sinh(u))[:, None]
    slope = torch.cosh(3 * torch.sinh(u)) * 3 * torch.cosh(u)
    weight = density.log_prob(z).exp() * slope[:, None]
    values = torch.where(weight > 0, weight * f(warp.inverse(z)), 0.0)
    return values.nan_to_num(0.0).sum(0) * (u[1] - u[0])


@warped
def test_warps_rise_and_return_and_their_slopes_are_their_derivatives(warp: warps.Warp) -> None:
    z = torch.linspace(-5, 5, 300, dtype=D)
    y = warp.inverse(z)
    assert (y.diff() > 0).all()
    assert warp.inside(y).all()
    torch.testing.assert_close(warp(y), z, rtol=1e-10, atol=1e-10)
    y.requires_grad_()
    (slope,) = torch.autograd.grad(warp(y).sum(), y)
    torch.testing.assert_close(warp.log_slope(y), slope.log(), rtol=1e-9, atol=1e-9)
    low, high = warp.bounds
    outside = tensor(low, high, math.nan)
    assert not warp.inside(outside).any()
    for near in (warp.bend - 1e-9, warp.bend + 1e-9):  # both pieces meet, and so do their slopes
        if math.isfinite(near):
            there = warp.inverse(tensor(warp.bend))
            torch.testing.assert_close(warp.inverse(tensor(near)), there, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(
                warp.log_slope(warp.inverse(tensor(near))), warp.log_slope(there), atol=1e-7, rtol=0
            )


def test_a_log_normal_is_scipys_and_its_crps_that_of_baran_and_lerch() -> None:
    loc, scale = tensor(0.0, 1.0, -2.0), tensor(0.1, 0.5, 1.5)
    d, exact = Unwarped(Normal(loc, scale), warps.Log()), scipy.stats.lognorm(scale.numpy(), scale=loc.exp().numpy())
    y = tensor(1.2, 2.0, 0.3)
    for ours, theirs in (
        (d.log_prob(y), exact.logpdf(y.numpy())),
        (d.mean, exact.mean()),
        (d.variance, exact.var()),
        (cdf(d, y), exact.cdf(y.numpy())),
        (quantile(d, 0.07), exact.ppf(0.07)),
    ):
        torch.testing.assert_close(ours, torch.from_numpy(np.asarray(theirs)), rtol=1e-11, atol=0)
    # Baran & Lerch 2015, https://doi.org/10.1002/qj.2521, eq. A.1
    z, phi = (y.log() - loc) / scale, torch.special.ndtr
    expected = y * (2 * phi(z) - 1) - 2 * d.mean * (phi(z - scale) + phi(scale / math.sqrt(2)) - 1)
    torch.testing.assert_close(crps(d, y), expected, rtol=1e-5, atol=0)


@warped
def test_densities_integrate_to_one_and_moments_are_integrals(warp: warps.Warp) -> None:
    for base in bases(log=warp.growth == math.inf):
        d = Unwarped(base, warp)
        y = warp.inverse(torch.linspace(-3, 3, 5, dtype=D))[:, None]
        change = base.log_prob(warp(y)) + warp.log_slope(y)
        torch.testing.assert_close(d.log_prob(y), change)
        edges = quantile(d, 0.01), quantile(d, 0.99)
        t = torch.linspace(0, 1, 200_001, dtype=D)[:, None]
        values = d.log_prob(edges[0] + (edges[1] - edges[0]) * t).exp()
        below = torch.trapezoid(values, dx=1 / 200_000, dim=0) * (edges[1] - edges[0])
        torch.testing.assert_close(below, torch.full_like(below, 0.98), rtol=1e-6, atol=0)
        if isinstance(base, StudentT) and warp.growth > 1:
            continue  # whose variance is infinite or nearly so
        mean = numbers(warp, base, lambda y: y)
        torch.testing.assert_close(d.mean, mean, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(
            d.variance, numbers(warp, base, lambda y, m=mean: (y - m).square()), rtol=1e-5, atol=1e-9
        )


@warped
def test_crps_is_the_integral_over_thresholds(warp: warps.Warp) -> None:
    for base in bases(log=warp.growth == math.inf):
        if isinstance(base, StudentT) and warp.growth > 1:
            continue
        d, y = Unwarped(base, warp), warp.inverse(tensor(0.1, -2.0, 2.2))
        reach = 12.0 if isinstance(base, Normal) or warp.growth == math.inf else 1e5
        z = torch.linspace(-math.asinh(reach), math.asinh(reach), 6_001, dtype=D).sinh()[:, None].expand(-1, 3)
        place = torch.cat([warp.inverse(z), y[None]]).sort(0).values  # a step at y
        middle = (place[1:] + place[:-1]) / 2
        steps = (cdf(d, middle) - (middle >= y).double()).square()
        expected = ((place[1:] - place[:-1]) * steps).sum(0)
        torch.testing.assert_close(crps(d, y), expected, rtol=5e-4, atol=1e-4)


def test_without_a_top_the_mean_of_a_log_t_is_infinite_and_so_is_its_crps() -> None:
    base, y = StudentT(tensor(3.0), 0.0, 1.0), tensor(2.0)
    plain, straight = (Unwarped(base, warps.Log(top)) for top in (math.inf, 20.0))
    assert plain.mean.isinf().all()
    assert plain.variance.isinf().all()
    assert crps(plain, y).isinf().all()
    assert plain.log_prob(y).isfinite().all()
    torch.testing.assert_close(plain.log_prob(y), straight.log_prob(y))
    assert straight.mean.isfinite().all()
    assert crps(straight, y).isfinite().all()
    torch.testing.assert_close(quantile(plain, 0.9), quantile(straight, 0.9))
    one_degree = Unwarped(StudentT(tensor(1.0), 0.0, 1.0), warps.Log(top=20.0))
    assert one_degree.mean.isinf().all()
    assert not Unwarped(StudentT(tensor(1.5), 0.0, 1.0), warps.Log(top=20.0)).variance.isfinite().any()


def test_numbers_that_a_type_cannot_hold_are_infinite_and_not_nan() -> None:
    loc, scale = torch.tensor([0.0, 50.0, 200.0, 900.0]), torch.tensor([1.0, 20.0, 0.1, 3.0])
    d = Unwarped(Normal(loc, scale), warps.Log())
    assert d.mean.isinf().tolist() == d.variance.isinf().tolist() == [False, True, True, True]
    assert not crps(d, torch.ones(4)).isnan().any()
    assert not quantile(d, 0.9).isnan().any()


def draws(kind=Normal, event: bool = True):
    generator = torch.Generator().manual_seed(0)
    loc, scale = (torch.randn(5, 4, 3, 2, dtype=D, generator=generator) for _ in range(2))
    base = kind(loc, scale.exp()) if kind is Normal else kind(6.0, loc, scale.exp())
    return Unwarped(base.to_event(1) if event else base, warps.Log(top=4.0))


@pytest.mark.parametrize("of", [Normal, StudentT])
@pytest.mark.parametrize("event", [True, False])
def test_a_mixture_of_one_warp_is_the_warp_of_a_mixture(of, event: bool) -> None:
    each = draws(of, event)
    weights = torch.randn(5, 1, *[1] * (len(each.batch_shape) - 2), dtype=D)
    d, share = mixture(each, weights), weights.softmax(0)
    assert isinstance(d, Unwarped)
    assert (d.batch_shape, d.event_shape) == (each.batch_shape[1:], each.event_shape)
    y = torch.rand(4, 3, 2, dtype=D) * 6
    torch.testing.assert_close(d.log_prob(y).exp(), (share * each.log_prob(y).exp()).sum(0))
    wide = share.reshape(*share.shape, *[1] * (each.mean.dim() - share.dim()))
    torch.testing.assert_close(d.mean, (wide * each.mean).sum(0), rtol=1e-9, atol=0)
    second = (wide * (each.variance + each.mean.square())).sum(0) - d.mean.square()
    torch.testing.assert_close(d.variance, second, rtol=1e-7, atol=1e-9)
    single = marginals(d)
    below = (share.reshape(5, 1, 1, 1) * cdf(marginals(each), y)).sum(0)
    torch.testing.assert_close(cdf(single, y), below)
    torch.testing.assert_close(cdf(single, quantile(d, 0.3)), torch.full_like(y, 0.3))
    twice = mixture(stack([d, d]))
    torch.testing.assert_close(twice.log_prob(y), d.log_prob(y))


def test_what_is_no_target_has_no_density_and_no_gradient() -> None:
    loc = torch.zeros(2, 3, 1, dtype=D, requires_grad=True)
    d = Unwarped(Normal(loc, 1.0).to_event(1), warps.Log())
    y = tensor(0.0, -1.0, 2.0).expand(2, 3)[..., None]
    assert (d.log_prob(y)[:, :2] == -math.inf).all()
    assert cdf(marginals(d), y)[:, :2].eq(0).all()
    mask = torch.tensor([False, False, True]).expand(2, 3)
    for given in (mask, mask[..., None]):
        total = log_prob(d, y, given).sum()
        (slope,) = torch.autograd.grad(total, loc, retain_graph=True)
        assert slope.isfinite().all()
        torch.testing.assert_close(total, log_prob(d, y, mask).sum())
    assert log_prob(d, y, torch.ones_like(y, dtype=torch.bool))[:, :2].isinf().all()
    assert d.support.check(y).tolist() == [[False, False, True]] * 2
    assert kind(d) == "real"
    assert not undefined(d).any()
    with pytest.raises(TypeError, match=r"whose unit can be changed, got Normal under Log.*Warped.from_tasks"):
        affine(d, tensor(0.0), tensor(2.0))


def test_a_temperature_acts_on_the_warped_scale() -> None:
    d, tau = mixture(draws()), torch.tensor(2.0, dtype=D)
    hot = temper(d, tau)
    base = temper(d.base, tau)
    y = torch.rand(4, 3, 2, dtype=D) + 0.1
    torch.testing.assert_close(hot.log_prob(y), Unwarped(base, d.warp).log_prob(y))
    torch.testing.assert_close(temper(d, tau, centre(d)).log_prob(y), hot.log_prob(y))
    torch.testing.assert_close(temper(hot, 1 / tau).log_prob(y), d.log_prob(y))


def test_draws_have_the_law_of_their_distribution() -> None:
    # Kolmogorov-Smirnov: a false alarm of .001 each.
    for base in bases():
        d = Unwarped(base, warps.Log(top=3.0))
        for drawn in (sample(d, 4000), d.sample(torch.Size([4000]))):
            ranks = cdf(d, drawn)
            assert all(scipy.stats.kstest(ranks[:, i].numpy(), "uniform").pvalue > 1e-3 for i in range(3))
    loc = torch.zeros(3, dtype=D, requires_grad=True)
    Unwarped(Normal(loc, 1.0), warps.Log()).rsample().sum().backward()
    assert loc.grad is not None
    assert (loc.grad > 0).all()


def test_float32_agrees_with_float64() -> None:
    d = mixture(draws())
    small = Unwarped(mixture(draws().base), d.warp)
    small = family(small).map(small, lambda p: p.float())
    y = torch.rand(4, 3, 2, dtype=D) * 6 + 0.1
    for f in (
        lambda d, y: d.log_prob(y),
        lambda d, y: d.mean,
        lambda d, y: d.variance,
        lambda d, y: crps(marginals(d), y),
        lambda d, y: quantile(d, 0.9),
    ):
        found = f(small, y.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), f(d, y), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: warps.Log(0.0), "top: expected a number above 0"),
        (lambda: warps.Log(-1.0), "top: expected a number above 0"),
        (lambda: warps.Log(math.nan), "top: expected a number above 0"),
        (lambda: warps.Log("a"), "top: expected a number above 0"),
        (lambda: warps.Log1p(unit=0.0), "unit: expected a finite number above 0"),
        (lambda: warps.Log1p(unit=math.inf), "unit: expected a finite number above 0"),
        (lambda: warps.Logit(1.0, 0.0), "high: expected a finite number above 1"),
        (lambda: warps.Logit(-math.inf, 0.0), "low: expected a finite number"),
        (lambda: warps.BoxCox(-0.5), "power: expected a number from 0 on"),
        (lambda: warps.BoxCox(0.5, unit=-1.0), "unit: expected a finite number above 0"),
    ],
)
def test_settings_that_make_no_warp_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_warps_are_values() -> None:
    assert warps.Log(top=torch.tensor(3.0)) == warps.Log(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        warps.Log().top = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"kinds Normal under Log.* and Normal under Log"):
        stack([Unwarped(Normal(tensor(0.0), 1.0), warps.Log(top)) for top in (2.0, 3.0)])
