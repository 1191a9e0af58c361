from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import distributions as dist

from bayesmeta import Points
from bayesmeta.distributions import (
    Family,
    affine,
    cdf,
    class_probabilities,
    crps,
    kind,
    marginals,
    mixture,
    quantile,
    register,
    sample,
    select,
    stack,
    temper,
    undefined,
)
from bayesmeta.distributions.family import family as family_of
from bayesmeta.metrics import CRPS, Coverage, Width

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)
D = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def gaussian(*shape: int, seed: int = 0):
    return dist.Normal(2 * normal(*shape, seed=seed), normal(*shape, seed=seed + 1).exp())


def student(*shape: int, seed: int = 0):
    like = gaussian(*shape, seed=seed)
    return dist.StudentT(2 + normal(*shape, seed=seed + 2).exp(), like.loc / 2, like.scale)


def bernoulli(*shape: int, seed: int = 0):
    return dist.Bernoulli(logits=normal(*shape, seed=seed))


# One row a kind of single-number distribution, batch (4, 3).
SCALARS = {
    "normal": gaussian(4, 3),
    "student": student(4, 3),
    "mixture of normals": mixture(gaussian(5, 4, 3)),
    "mixture of students": mixture(student(5, 4, 3), normal(5, 1, 1, seed=8)),
    "normal entries of an event": marginals(gaussian(4, 3).to_event(1)),
    "entries of a mixture's event": marginals(mixture(gaussian(5, 4, 3).to_event(1))),
}
scalars = pytest.mark.parametrize("d", SCALARS.values(), ids=SCALARS)


def poisson(*shape: int, seed: int = 0):
    return dist.Poisson(normal(*shape, seed=seed).exp() * 3)


def negative_binomial(*shape: int, seed: int = 0):
    return dist.NegativeBinomial(normal(*shape, seed=seed + 1).exp(), logits=normal(*shape, seed=seed))


families = pytest.mark.parametrize("family", [gaussian, student, bernoulli, poisson, negative_binomial])
counts = pytest.mark.parametrize("family", [poisson, negative_binomial])


# --- cdf and quantile


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("df", [0.5, 1.0, 1.5, 2.0, 2.001, 3.0, 10.0, 100.0, 1e4, 1e6, 1e9])
def test_student_cdf_equals_scipys(df, dtype):
    t = torch.cat([torch.linspace(-40, 40, 161, dtype=dtype), torch.tensor([-1e6, -1e-3, 0.0, 1e-3, 1e6], dtype=dtype)])
    ours = cdf(dist.StudentT(torch.full_like(t, df), 0.5, 2.0), 0.5 + 2 * t)
    rounded = ((0.5 + 2 * t - 0.5) / 2).double().numpy()
    exact = torch.from_numpy(scipy.stats.t.cdf(rounded, torch.tensor(df, dtype=dtype).item()))
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("df", [1.5, 2.1, 5.0, 100.0, 1e6])
def test_a_table_of_students_cdf_is_it_to_seven_digits(df):
    t = torch.cat([torch.linspace(-8, 8, 2001, dtype=D), torch.tensor([-1e9, -1e3, 1e3, 1e9], dtype=D)])
    d = dist.StudentT(torch.full_like(t, df), 0.5, 2.0)
    exact = torch.from_numpy(scipy.stats.t.cdf(t.numpy(), df))
    torch.testing.assert_close(family_of(d).below(d)(0.5 + 2 * t), exact, rtol=0, atol=1e-7)


def test_normal_cdf_and_quantile_equal_scipys():
    d, p = SCALARS["normal"], 0.03
    exact = scipy.stats.norm(d.loc.numpy(), d.scale.numpy())
    x = normal(4, 3, seed=5)
    torch.testing.assert_close(cdf(d, x), torch.from_numpy(exact.cdf(x.numpy())), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(quantile(d, p), torch.from_numpy(exact.ppf(p)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1e-6, 0.025, 0.5, 0.975, 1 - 1e-6])
def test_student_quantile_equals_scipys(p):
    d = SCALARS["student"]
    exact = scipy.stats.t.ppf(p, d.df.numpy(), d.loc.numpy(), d.scale.numpy())
    torch.testing.assert_close(quantile(d, p), torch.from_numpy(exact), rtol=1e-8, atol=1e-10)


@scalars
def test_cdf_is_the_integral_of_the_density(d):
    low, high = quantile(d, 0.1), quantile(d, 0.8)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(400))
    x = low + (high - low) * (nodes[:, None, None] + 1) / 2
    mass = (weights[:, None, None] * d.log_prob(x).exp()).sum(0) * (high - low) / 2
    torch.testing.assert_close(mass, torch.full_like(mass, 0.7), rtol=1e-7, atol=0)


@scalars
def test_quantile_inverts_cdf_and_rises(d):
    levels = [1e-4, 0.05, 0.5, 0.9, 0.9999]
    values = torch.stack([quantile(d, p) for p in levels])
    assert (values.diff(dim=0) > 0).all()
    for p, value in zip(levels, values, strict=True):
        torch.testing.assert_close(cdf(d, value), torch.full_like(value, p), rtol=1e-9, atol=1e-12)


@examples
@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e3), st.floats(1e-3, 0.999))
def test_quantile_brackets_mixtures_of_far_apart_components(gap, scale, p):
    d = mixture(dist.Normal(torch.tensor([0.0, gap], dtype=D), torch.tensor([1.0, scale], dtype=D)))
    value = quantile(d, p)
    step = 1e-9 * (abs(gap) + scale + 1)  # between far components the cdf is flat: ask that p is crossed here
    assert cdf(d, value - step) <= p + 1e-12
    assert cdf(d, value + step) >= p - 1e-12


@scalars
def test_several_levels_lead_the_result_and_have_no_gradient(d):
    levels = [0.05, 0.5, 0.95]
    expected = torch.stack([quantile(d, p) for p in levels])
    for several in (levels, tuple(levels), torch.tensor(levels, dtype=D), np.array(levels)):
        assert torch.equal(quantile(d, several), expected)
    loc = torch.zeros(2, requires_grad=True)
    assert quantile(dist.StudentT(3.0, loc, 1.0), levels).numpy().shape == (3, 2)


@pytest.mark.parametrize(
    "d", [gaussian(2, 0, 1), student(2, 0, 1), gaussian(5, 2, 0, 1)], ids=["normal", "t", "mixture"]
)
def test_no_points_have_no_quantiles(d):
    d = d.to_event(1)
    d = mixture(d) if len(d.batch_shape) == 3 else d
    assert quantile(d, 0.5).shape == (2, 0, 1)
    assert quantile(d, [0.1, 0.9]).shape == (2, 2, 0, 1)


@pytest.mark.parametrize(
    "wrong", [[], torch.empty(0), "a", None, ["a"], [0.1, None], 1.0, [0.5, 0.0], float("nan"), [[0.5]]]
)
def test_quantiles_are_asked_for_by_probabilities(wrong: Any) -> None:
    with pytest.raises(ValueError, match="p: expected a probability strictly between 0 and 1, or a list of them, got"):
        quantile(dist.Normal(torch.zeros(2), 1.0), wrong)


@pytest.mark.parametrize(
    "kind",
    [
        "normal",
        "student",
        "bernoulli",
        "categorical",
        "mixture",
        "mixture of bits",
        "poisson",
        "mixture of counts",
    ],
)
def test_draws_have_the_moments_of_their_distribution(kind):
    """20,000 draws: six standard errors."""
    d = {
        "normal": gaussian(2, 3, 1).to_event(1),
        "student": dist.StudentT(9.0, *(gaussian(2, 3, 1).loc, gaussian(2, 3, 1).scale)).to_event(1),
        "bernoulli": bernoulli(2, 3, 1).to_event(1),
        "categorical": dist.Categorical(logits=normal(2, 3, 4)),
        "mixture": mixture(gaussian(4, 2, 3, 2).to_event(1), normal(4, 1, 1)),
        "mixture of bits": mixture(bernoulli(4, 2, 3, 1).to_event(1)),
        "poisson": poisson(2, 3, 1).to_event(1),
        "mixture of counts": mixture(negative_binomial(4, 2, 3, 1).to_event(1)),
    }[kind]
    drawn = sample(d, 20_000)
    assert drawn.shape == (20_000, *d.batch_shape, *d.event_shape)
    if kind == "categorical":
        shares = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
        torch.testing.assert_close(shares, d.probs, rtol=0, atol=6 * 0.5 / 20_000**0.5)
        return
    error = (drawn.mean(0) - d.mean).abs() / (d.variance / 20_000).sqrt()
    assert (error < 6).all()
    torch.testing.assert_close(drawn.var(0), d.variance, rtol=0.15, atol=1e-3)


def test_what_is_no_distribution_is_found():
    loc = torch.tensor([0.0, float("nan"), float("inf")])
    for d in (dist.Normal(loc, 1.0, validate_args=False), dist.StudentT(3.0, loc, 1.0, validate_args=False)):
        assert undefined(d).tolist() == [False, True, True]
        assert undefined(d.expand([2, 3]).to_event(1)).tolist() == [True, True]
    mixed = mixture(dist.Normal(torch.stack([loc, torch.zeros(3)]), 1.0, validate_args=False))
    assert undefined(mixed).tolist() == [False, True, True]
    logits = torch.tensor([[0.0, -float("inf")], [float("nan"), 0.0]])  # a class without probability is no fault
    assert undefined(dist.Categorical(logits=logits, validate_args=False)).tolist() == [False, True]


@pytest.mark.parametrize("p", [-0.1, 0.0, 1.0, 1.1, float("nan")])
def test_quantile_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="p: expected a probability"):
        quantile(gaussian(2), p)


def test_cdf_and_quantile_name_a_distribution_they_do_not_know():
    for d, name in (
        (bernoulli(2), "Bernoulli"),
        (mixture(bernoulli(3, 2)), "Bernoulli"),
        (dist.Categorical(logits=normal(2, 3)), "Categorical"),
        (dist.Gamma(1.0, 1.0), "Gamma"),
    ):
        with pytest.raises(TypeError, match=f"distribution: expected .* got {name}"):
            cdf(d, torch.zeros(2, dtype=D))
        with pytest.raises(TypeError, match=f"distribution: expected .* got {name}"):
            quantile(d, 0.5)


@pytest.mark.parametrize("at", [-2.0, 0.0, 1e-3, 3.0])
def test_the_derivative_of_the_cdf_is_the_density(at):
    for d in SCALARS.values():
        x = torch.full((4, 3), at, dtype=D, requires_grad=True)
        slope = torch.autograd.grad(cdf(d, x).sum(), x)[0]
        torch.testing.assert_close(slope, d.log_prob(x).exp(), rtol=1e-9, atol=1e-12)
    centred = dist.StudentT(torch.tensor(4.0, dtype=D), torch.tensor(at, dtype=D), 1.0)
    x = torch.tensor(at, dtype=D, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(cdf(centred, x), x)[0], torch.tensor(0.375, dtype=D))


# --- mixture, select, marginals


@families
@pytest.mark.parametrize("event", [0, 1, 2])
def test_a_mixture_averages_the_densities_and_moments_of_its_draws(family, event):
    draws = family(5, 4, 3, 2, 2)
    draws = draws.to_event(event) if event else draws
    log_weights = normal(5, 4, *[1] * (len(draws.batch_shape) - 2), seed=7)
    for weights in (None, log_weights):
        d = mixture(draws, weights)
        assert (d.batch_shape, d.event_shape) == (draws.batch_shape[1:], draws.event_shape)
        share = torch.full([5] + [1] * len(d.batch_shape), 0.2, dtype=D) if weights is None else weights.softmax(0)
        y = (normal(*d.batch_shape, *d.event_shape, seed=6) > 0).to(D)
        density = (share * draws.log_prob(y).exp()).sum(0)
        torch.testing.assert_close(d.log_prob(y).exp(), density, rtol=1e-10, atol=1e-14)
        wide = share.reshape(*share.shape, *[1] * (draws.mean.dim() - share.dim()))
        mean = (wide * draws.mean).sum(0)
        torch.testing.assert_close(d.mean, mean, rtol=1e-10, atol=1e-12)
        variance = (wide * (draws.variance + draws.mean.square())).sum(0) - mean.square()
        torch.testing.assert_close(d.variance, variance, rtol=1e-9, atol=1e-10)


def test_a_mixture_of_classes_is_a_categorical_of_the_mean_probabilities():
    draws = dist.Categorical(logits=50 * normal(5, 4, 3, 6))
    d = mixture(draws)
    assert isinstance(d, dist.Categorical)
    torch.testing.assert_close(d.probs, draws.probs.mean(0), rtol=1e-12, atol=1e-15)
    weights = normal(5, 4, 1, seed=3)
    expected = (weights.softmax(0)[..., None] * draws.probs).sum(0)
    torch.testing.assert_close(mixture(draws, weights).probs, expected, rtol=1e-12, atol=1e-15)


@families
def test_a_mixture_of_one_draw_or_of_equal_draws_is_that_draw(family):
    one = family(1, 4, 3).to_event(1)
    y = (normal(4, 3) > 0).to(D)
    for draws in (one, one.expand(torch.Size([7, 4]))):
        torch.testing.assert_close(mixture(draws).log_prob(y), one.log_prob(y)[0], rtol=1e-12, atol=1e-12)


@examples
@given(st.permutations(range(5)), st.floats(-50, 50))
def test_a_mixture_ignores_the_order_of_draws_and_the_constant_of_log_weights(order, shift):
    draws, weights, y = gaussian(5, 3), normal(5, 3, seed=4), normal(3, seed=5)
    other = mixture(dist.Normal(draws.loc[list(order)], draws.scale[list(order)]), weights[list(order)] + shift)
    torch.testing.assert_close(other.log_prob(y), mixture(draws, weights).log_prob(y), rtol=1e-9, atol=1e-9)


def test_a_mixture_of_mixtures_is_the_mixture_of_all():
    draws, y = gaussian(6, 5, 4, 3).to_event(1), normal(4, 3)
    nested = mixture(mixture(draws))
    flat = mixture(dist.Normal(draws.base_dist.loc.flatten(0, 1), draws.base_dist.scale.flatten(0, 1)).to_event(1))
    torch.testing.assert_close(nested.log_prob(y), flat.log_prob(y), rtol=1e-10, atol=1e-10)


@families
def test_select_takes_each_tasks_own_draw(family):
    draws = family(5, 4, 3, 2).to_event(1)
    index = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 0]])
    y = (normal(4, 3, 2) > 0).to(D)
    chosen, every = select(draws, index).log_prob(y), draws.log_prob(y)
    for s in range(2):
        for b in range(4):
            assert torch.equal(chosen[s, b], every[index[s, b], b])


@families
@pytest.mark.parametrize("event", [1, 2])
def test_marginals_add_up_where_entries_are_independent_and_integrate_where_they_are_not(family, event):
    draws = family(5, 4, 3, 2)
    y = (normal(4, 3, 2, seed=6) > 0).to(D)
    single = marginals(draws.to_event(event))
    assert single.event_shape == ()
    total, expected = single.log_prob(y).flatten(-event).sum(-1), draws.to_event(event).log_prob(y)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    entries = marginals(mixture(draws.to_event(event)))
    assert (entries.batch_shape, entries.event_shape) == ((4, 3, 2), ())
    torch.testing.assert_close(entries.log_prob(y), mixture(draws).log_prob(y), rtol=1e-12, atol=1e-12)


def test_marginals_of_single_numbers_are_themselves_and_of_dependent_entries_an_error():
    assert marginals(SCALARS["normal"]) is SCALARS["normal"]
    with pytest.raises(TypeError, match="independent event entries"):
        marginals(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))


# --- affine


@pytest.mark.parametrize("event", [0, 1])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("family", [gaussian, student])
@pytest.mark.parametrize("loc", [3.0, [3.0, -1.0]], ids=["scalar", "vector"])
def test_affine_changes_variables_and_back(family, mixed, event, loc):
    loc = torch.tensor(loc, dtype=D)
    scale = (loc / 2).abs() + 0.5
    d = family(5, 4, 2) if mixed else family(4, 2)
    d = d.to_event(event) if event else d
    d = mixture(d) if mixed else d
    moved, y = affine(d, loc, scale), normal(4, 2, seed=6)
    assert (moved.batch_shape, moved.event_shape) == (d.batch_shape, d.event_shape)
    logdet = scale.log().expand(2)
    expected = d.log_prob(y) - (logdet.sum() if event else logdet)
    torch.testing.assert_close(moved.log_prob(loc + scale * y), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.mean, loc + scale * d.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.stddev, scale * d.stddev, rtol=1e-10, atol=1e-10)
    back = affine(moved, -loc / scale, 1 / scale)
    torch.testing.assert_close(back.log_prob(y), d.log_prob(y), rtol=1e-9, atol=1e-9)
    single, wide = marginals(moved), marginals(d)
    torch.testing.assert_close(quantile(single, 0.9), loc + scale * quantile(wide, 0.9), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cdf(single, loc + scale * y), cdf(wide, y), rtol=1e-10, atol=1e-12)


def test_affine_refuses_what_is_no_real_number():
    for d in (bernoulli(3).to_event(1), dist.Categorical(logits=normal(2, 3)), mixture(bernoulli(3, 2))):
        with pytest.raises(TypeError, match="of real numbers"):
            affine(d, torch.tensor(0.0), torch.tensor(1.0))


# --- classes


def test_class_probabilities_are_the_distributions_own():
    categorical, yes_or_no = dist.Categorical(logits=normal(4, 3)), bernoulli(5, 4, 1).to_event(1)
    torch.testing.assert_close(class_probabilities(categorical), categorical.probs, rtol=1e-12, atol=0)
    for d in (yes_or_no, mixture(yes_or_no)):
        p = class_probabilities(d)
        yes = d.log_prob(torch.ones(4, 1, dtype=D)).exp()
        torch.testing.assert_close(p[..., 1], yes[..., None], rtol=1e-10, atol=0)
        torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]), rtol=1e-12, atol=0)


@scalars
def test_real_numbers_have_no_class_probabilities(d):
    with pytest.raises(TypeError, match="expected Categorical or Bernoulli"):
        class_probabilities(d)


# --- counts


def exact(d):
    """The same as scipy's."""
    if isinstance(d, dist.Poisson):
        return scipy.stats.poisson(d.rate.numpy())
    return scipy.stats.nbinom(d.total_count.numpy(), (-d.logits).sigmoid().numpy())


@counts
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_cdf_and_quantiles_of_counts_equal_scipys(family, scale):
    d = family(4, 3)
    d = dist.Poisson(d.rate * scale) if family is poisson else dist.NegativeBinomial(d.total_count, logits=d.logits)
    if family is negative_binomial:  # means from 1e-3 to 1e7, and from few failures to many
        d = dist.NegativeBinomial(d.total_count * scale, logits=d.logits + (scale > 1) * normal(4, 3, seed=9))
    at = (normal(4, 3, seed=5).exp() * d.mean).round()
    for value in (at, at + 0.5, torch.zeros_like(at), torch.full_like(at, -1.0)):
        expected = torch.from_numpy(exact(d).cdf(value.numpy()))
        torch.testing.assert_close(cdf(d, value), expected, rtol=1e-8, atol=1e-12)
    for p in (1e-6, 0.05, 0.5, 0.975, 1 - 1e-6):
        assert torch.equal(quantile(d, p), torch.from_numpy(exact(d).ppf(p)))


@counts
def test_the_quantile_of_a_mixture_of_counts_is_the_least_whole_number_with_the_probability(family):
    d = marginals(mixture(family(5, 4, 3).to_event(1), normal(5, 1, seed=8)))
    for p in (0.01, 0.3, 0.95):
        value = quantile(d, p)
        assert torch.equal(value, value.round())
        assert (cdf(d, value) >= p).all()
        assert (cdf(d, value - 1) < p).all()
    assert kind(d) == "counts"
    every = torch.arange(30.0, dtype=D)[:, None, None].expand(30, 4, 3)
    torch.testing.assert_close(cdf(d, every), d.log_prob(every).exp().cumsum(0), rtol=1e-9, atol=1e-9)


@counts
def test_crps_of_counts_is_that_of_all_pairs(family):
    """E|Y - y| - ½ E|Y - Y'| over 0 to 600."""
    every = torch.arange(600.0, dtype=D)
    for d in (family(4, 3), mixture(family(5, 4, 3))):
        p = d.log_prob(every[:, None, None].expand(600, 4, 3)).exp()
        y = sample(d, 1)[0]
        error = ((every[:, None, None] - y).abs() * p).sum(0)
        pairs = torch.einsum("ibm,ij,jbm->bm", p, (every[:, None] - every).abs(), p)
        torch.testing.assert_close(crps(d, y), error - pairs / 2, rtol=1e-6, atol=1e-6)


@counts
def test_intervals_of_calibrated_counts_cover_as_promised_without_noise(family):
    """The mean over all counts, weighed by their probability, is the level: not more, as whole numbers alone would give."""
    every = torch.arange(400.0, dtype=D)[:, None]
    for d in (family(1, 1), mixture(family(5, 1, 1))):
        p = d.log_prob(every[:, None]).exp()[:, 0, 0]
        wide = d.expand(torch.Size([400, 1]))
        given = Points(torch.zeros(400, 1, 1), every, torch.ones(400, 1, dtype=torch.bool))
        for level in (0.5, 0.9):
            inside = Coverage(level).statistic(wide, given)[:, 0]
            assert (p * inside).sum().item() == pytest.approx(level, abs=1e-9)
            assert ((inside > 0) & (inside < 1)).any()
        width = Width(0.9).statistic(wide, given)[0, 0]
        assert width == quantile(d, 0.95) - quantile(d, 0.05)
    with pytest.raises(TypeError, match="CRPS"):
        CRPS().statistic(
            dist.Gamma(1.0, every[:2] + 1), Points(every[:2], every[:2], torch.ones(2, 1, dtype=torch.bool))
        )


@counts
def test_counts_have_no_unit_and_no_temperature(family):
    for d in (family(4, 3).to_event(1), mixture(family(5, 4, 3).to_event(1))):
        with pytest.raises(TypeError, match="of real numbers"):
            affine(d, torch.tensor(0.0), torch.tensor(2.0))
        with pytest.raises(TypeError, match="counts must stay whole; use the likelihood NegativeBinomial"):
            temper(d, torch.tensor(2.0))
        with pytest.raises(TypeError, match="expected Categorical or Bernoulli"):
            class_probabilities(d)
        assert not undefined(d).any()
    assert undefined(dist.Poisson(torch.tensor([1.0, torch.inf, torch.nan]), validate_args=False)).tolist() == [
        False,
        True,
        True,
    ]


# --- a family of one's own


def test_a_family_is_registered_in_one_place():
    class Rayleigh(dist.Weibull):
        """A family that the library does not know."""

    draws = Rayleigh(normal(5, 4, 3).exp(), 2 * torch.ones(5, 4, 3, dtype=D))
    with pytest.raises(TypeError, match=r"of a known family \(.*\), got Rayleigh"):
        mixture(draws)

    @register(dist.Weibull)
    class WeibullFamily(Family):
        parameters = ("scale", "concentration")

        def affine(self, d, loc, scale):
            if loc.any():
                return super().affine(d, loc, scale)
            return self.make(scale * d.scale, d.concentration, validate_args=False)

    try:
        y = normal(4, 3, seed=5).exp()
        for d in (
            mixture(draws),
            marginals(mixture(draws.to_event(1))),
            mixture(stack([mixture(draws), mixture(draws)])),
        ):
            torch.testing.assert_close(d.log_prob(y).exp(), draws.log_prob(y).exp().mean(0))
            below = scipy.stats.weibull_min.cdf(y.numpy(), 2, scale=draws.scale.numpy()).mean(0)
            torch.testing.assert_close(cdf(d, y), torch.from_numpy(below))
            torch.testing.assert_close(cdf(d, quantile(d, 0.1)), torch.full_like(y, 0.1))
            moved = affine(d, torch.tensor(0.0), torch.tensor(3.0))
            torch.testing.assert_close(quantile(moved, 0.1), 3 * quantile(d, 0.1))
        with pytest.raises(TypeError, match=r"of real numbers \(Normal, StudentT, Weibull, or .*\), got Rayleigh"):
            affine(draws, torch.tensor(1.0), torch.tensor(1.0))
        assert sample(draws, 7).shape == (7, 5, 4, 3)
    finally:
        from bayesmeta.distributions.family import _FAMILIES

        del _FAMILIES[dist.Weibull]
