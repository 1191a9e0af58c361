from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from gpytorch.kernels import RBFKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import distributions as dist

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.distributions import mixture
from bayesmeta.functional import Frozen, call
from bayesmeta.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    OneVsEach,
    Poisson,
    StudentT,
    check_gaussian,
    check_likelihood,
    check_targets,
    nll,
    support_error,
)

examples = settings(max_examples=15, deadline=None, derandomize=True, database=None)
D = torch.float64
B, M = 3, 5


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(B * M).reshape(B, M) % 4
BITS = (normal(B, M, 2, seed=3) > 0).to(D)
REAL = normal(B, M, 2, seed=1)
COUNTS = (3 * normal(B, M, 2, seed=4)).abs().floor()
# likelihood, outputs, targets
ROWS = {
    "Gaussian": (Gaussian().double(), normal(B, M, 2), REAL),
    "HeteroscedasticGaussian": (HeteroscedasticGaussian().double(), normal(B, M, 4), REAL),
    "StudentT": (StudentT().double(), normal(B, M, 2), REAL),
    "Categorical": (Categorical().double(), normal(B, M, 4), LABELS),
    "Bernoulli": (Bernoulli().double(), normal(B, M, 2), BITS),
    "Poisson": (Poisson().double(), normal(B, M, 2), COUNTS),
    "NegativeBinomial": (NegativeBinomial().double(), normal(B, M, 2), COUNTS),
}
every = pytest.mark.parametrize(("likelihood", "outputs", "y"), ROWS.values(), ids=ROWS)


def observe(y: torch.Tensor, mask: torch.Tensor | None = None) -> Points:
    mask = torch.ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
    return Points(torch.zeros(*mask.shape, 1), y, mask)


@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0])
def test_gaussian_and_student_start_at_the_scale_and_degrees_of_freedom_asked_for(scale):
    student = StudentT(scale=scale, df=2.5).double()(normal(B, M, 2)).base_dist
    for sigma in (Gaussian(scale=scale).double()(normal(B, M, 2)).stddev, student.scale):
        torch.testing.assert_close(sigma, torch.full_like(sigma, scale), rtol=1e-6, atol=0)
    torch.testing.assert_close(student.df, torch.full_like(student.df, 2.5), rtol=1e-6, atol=0)


def test_gaussian_and_student_densities_are_scipys():
    loc = normal(B, M, 2)
    d = Gaussian().double()(loc)
    exact = scipy.stats.norm.logpdf(REAL.numpy(), loc.numpy(), d.stddev.detach().numpy()).sum(-1)
    torch.testing.assert_close(d.log_prob(REAL), torch.from_numpy(exact), rtol=1e-12, atol=1e-12)
    d = StudentT().double()(loc)
    df, scale = (p.detach().numpy() for p in (d.base_dist.df, d.base_dist.scale))
    exact = scipy.stats.t.logpdf(REAL.numpy(), df, loc.numpy(), scale).sum(-1)
    torch.testing.assert_close(d.log_prob(REAL), torch.from_numpy(exact), rtol=1e-12, atol=1e-12)


def test_heteroscedastic_outputs_are_means_then_scales_before_a_softplus():
    outputs = normal(B, M, 4)
    d = HeteroscedasticGaussian()(outputs)
    torch.testing.assert_close(d.mean, outputs[..., :2], rtol=0, atol=0)
    torch.testing.assert_close(d.stddev, torch.log1p(outputs[..., 2:].exp()) + 1e-4, rtol=1e-12, atol=1e-12)
    assert HeteroscedasticGaussian()(torch.full((1, 2), -1e4)).stddev.item() > 0


def test_discrete_likelihoods_read_outputs_as_logits():
    torch.testing.assert_close(Categorical()(normal(B, M, 4)).probs, normal(B, M, 4).softmax(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(Bernoulli()(normal(B, M, 2)).mean, normal(B, M, 2).sigmoid(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dispersion", [0.002, 0.5, (2.0, 0.1)])
def test_counts_are_scipys_with_the_outputs_as_log_mean(dispersion):
    mean = normal(B, M, 2).exp().numpy()
    exact = torch.from_numpy(scipy.stats.poisson.logpmf(COUNTS.numpy(), mean).sum(-1))
    torch.testing.assert_close(Poisson()(normal(B, M, 2)).log_prob(COUNTS), exact, rtol=1e-10, atol=1e-10)
    likelihood = NegativeBinomial(dispersion).double()
    alpha = likelihood.dispersion.detach()
    torch.testing.assert_close(alpha, torch.as_tensor(dispersion, dtype=D), rtol=1e-5, atol=0)
    failures = (1 / alpha).numpy()
    exact = scipy.stats.nbinom(failures, failures / (failures + mean))
    d = likelihood(normal(B, M, 2))
    torch.testing.assert_close(
        d.log_prob(COUNTS), torch.from_numpy(exact.logpmf(COUNTS.numpy()).sum(-1)), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(d.mean, torch.from_numpy(mean), rtol=1e-9, atol=0)
    torch.testing.assert_close(d.variance, torch.from_numpy(mean + mean**2 / failures), rtol=1e-9, atol=0)


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()], ids=["Poisson", "NegativeBinomial"])
def test_counts_of_wild_outputs_have_finite_moments_and_a_slope(likelihood):
    outputs = torch.tensor([-1e4, -20.0, 20.0, 1e4], requires_grad=True)
    d = likelihood(outputs[:, None])
    assert d.mean.isfinite().all()
    assert d.variance.isfinite().all()
    assert (d.mean.diff(dim=0) > 0).all()
    for y in (0.0, 5.0):
        slope = torch.autograd.grad(likelihood.error(outputs[:, None], torch.full((4, 1), y)).sum(), outputs)[0]
        assert slope.isfinite().all()
        assert (slope[2:] > 0).all()
        assert y == 0 or (slope[:2] < 0).all()


def test_a_support_of_impossible_targets_is_refused_where_it_enters():
    for make, bad, match in (
        (Poisson, 1.5, "a Poisson can produce, whole numbers"),
        (NegativeBinomial, -1.0, "a NegativeBinomial can produce, whole numbers"),
        (Bernoulli, 0.5, "a Bernoulli can produce, 0.0 or 1.0"),
    ):
        learner = bm.MAML(bm.networks.MLP(1, 1), make())
        learner(bm.points([0.0, 1.0], [1.0, 0.0]))([0.5])
        with pytest.raises(ValueError, match=f"{match}.*got .* at task 0, point 1"):
            learner(bm.points([0.0, 1.0], [1.0, bad]))


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-3, math.nan, math.inf])
def test_impossible_dispersions_are_refused(bad):
    with pytest.raises(ValueError, match="dispersion: expected a positive number above"):
        NegativeBinomial(bad)
    with pytest.raises(ValueError, match="dispersion: expected one for all targets or one for each of 3, got 2"):
        NegativeBinomial((1.0, 2.0))(torch.zeros(B, M, 3))


@every
def test_shapes_dtypes_and_gradients_of_every_parameter(likelihood, outputs, y):
    for dtype in (torch.float32, D):
        likelihood.to(dtype)
        d = likelihood(outputs.to(dtype))
        assert (d.batch_shape, d.event_shape) == ((B, M), y.shape[2:])
        value = nll(d, observe(y.to(dtype) if y.is_floating_point() else y))
        assert (value.shape, value.dtype) == ((B,), dtype)
        assert likelihood.error(outputs.to(dtype), y.to(dtype) if y.is_floating_point() else y).shape == y.shape
        names = [name for name, _ in likelihood.named_parameters()]
        if names:
            slopes = torch.autograd.grad(value.sum(), list(likelihood.parameters()))
            assert [n for n, s in zip(names, slopes, strict=True) if not (s.isfinite() and s != 0)] == []


@every
def test_the_error_is_free_of_parameters_and_is_what_its_name_says(likelihood, outputs, y):
    own = {n: p + 1.0 for n, p in likelihood.named_parameters()}
    error = likelihood.error(outputs, y)
    if y is COUNTS:  # half a deviance: the NLL less that of a mean equal to y
        mean = outputs.exp()
        if isinstance(likelihood, Poisson):
            nll_of = lambda mu: -scipy.stats.poisson.logpmf(y.numpy(), mu.numpy())  # noqa: E731
        else:  # of dispersion 1
            nll_of = lambda mu: -scipy.stats.nbinom.logpmf(y.numpy(), 1.0, 1 / (1 + mu.numpy()))  # noqa: E731
        expected = torch.from_numpy(nll_of(mean) - nll_of(y))
    elif y.is_floating_point() and not isinstance(likelihood, Bernoulli):
        expected = 0.5 * (outputs[..., :2] - y).square()
    else:
        expected = -likelihood(outputs).log_prob(y)  # cross-entropy
    of_entries = error.sum(-1) if expected.dim() < error.dim() else error
    torch.testing.assert_close(of_entries, expected, rtol=1e-12, atol=1e-12)
    leaf = outputs.clone().requires_grad_()
    inputs = [leaf, *own.values()]
    slopes = torch.autograd.grad(likelihood.error(leaf, y).sum(), inputs, allow_unused=True)
    assert slopes[0] is not None
    assert all(s is None for s in slopes[1:])


@every
def test_error_and_density_survive_wild_outputs(likelihood, outputs, y):
    for factor in (1e-30, 1e3, -1e3):
        leaf = (outputs * factor).requires_grad_()
        for value in (likelihood.error(leaf, y), nll(likelihood(leaf), observe(y))):
            assert value.isfinite().all()
            assert torch.autograd.grad(value.sum(), leaf)[0].isfinite().all()


# --- nll


@every
@examples
@given(data=st.data())
def test_nll_is_the_mean_over_observed_points_in_any_order_and_padding_changes_nothing(likelihood, outputs, y, data):
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=B * M, max_size=B * M))).reshape(B, M)
    order = data.draw(st.permutations(range(M)))
    value = nll(likelihood(outputs), observe(y, mask))
    for b in range(B):
        own = likelihood(outputs[b])
        terms = [-own.log_prob(y[b])[m] for m in range(M) if mask[b, m]]
        expected = torch.stack(terms).mean() if terms else torch.zeros((), dtype=D)
        torch.testing.assert_close(value[b], expected, rtol=1e-10, atol=1e-10)
    shuffled = nll(likelihood(outputs[:, order]), observe(y[:, order], mask[:, order]))
    torch.testing.assert_close(shuffled, value, rtol=1e-10, atol=1e-10)
    wider = torch.cat([outputs, torch.zeros_like(outputs)], 1), torch.cat([y, torch.zeros_like(y)], 1)
    padded = nll(likelihood(wider[0]), observe(wider[1], torch.cat([mask, torch.zeros_like(mask)], 1)))
    torch.testing.assert_close(padded, value, rtol=1e-10, atol=1e-10)


def test_nll_of_certain_and_right_classes_is_zero_whatever_stands_in_masked_rows():
    logits = torch.tensor([[[-torch.inf, 0.0], [-torch.inf, 0.0]]])  # the masked row's label 0 has probability zero
    given = observe(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    assert nll(dist.Categorical(logits=logits), given).tolist() == [0.0]


def test_nll_refuses_targets_that_would_broadcast_or_round():
    with pytest.raises(ValueError, match=r"y: expected targets of event shape \(2,\)"):
        nll(Gaussian()(torch.zeros(B, M, 2)), observe(torch.zeros(B, M, 1)))
    with pytest.raises(ValueError, match="integer labels"):
        nll(Categorical()(torch.zeros(B, M, 2)), observe(torch.zeros(B, M)))
    for likelihood in (Gaussian(), Bernoulli(), StudentT(), Poisson(), NegativeBinomial()):
        with pytest.raises(ValueError, match="event shape"):
            likelihood.error(torch.zeros(B, M, 2), torch.zeros(B, M, 1))


# --- check_targets


@every
def test_check_targets_accepts_what_the_distribution_can_produce(likelihood, outputs, y):
    check_targets(likelihood(outputs), observe(y))
    check_targets(mixture(likelihood(outputs).expand(torch.Size([4, B, M]))), observe(y))


@pytest.mark.parametrize(
    ("likelihood", "ways", "bad", "match"),
    [
        (Categorical(), 4, 4, "labels 0 to 3.*got 4 at task 1, point 2"),
        (Categorical(), 4, -1, "labels 0 to 3.*got -1 at task 1, point 2"),
        (Bernoulli(), 2, 0.5, r"at task 1, point 2"),
        (Gaussian(), 2, math.nan, r"at task 1, point 2"),
        (Poisson(), 2, 0.5, r"whole numbers from 0 on, got \[0.5, 0.5\] at task 1, point 2"),
        (NegativeBinomial(), 2, -1.0, r"whole numbers from 0 on, got \[-1.0, -1.0\] at task 1, point 2"),
    ],
)
def test_check_targets_names_the_observed_target_that_is_impossible(likelihood, ways, bad, match):
    y = LABELS.clone() if ways == 4 else BITS.clone()
    y[1, 2] = bad
    for d in (likelihood(torch.zeros(B, M, ways)), mixture(likelihood(torch.zeros(3, B, M, ways)))):
        with pytest.raises(ValueError, match=match):
            check_targets(d, observe(y))
        mask = torch.ones(B, M, dtype=torch.bool)
        mask[1, 2] = False
        check_targets(d, observe(y, mask))


# --- support_error


def test_support_error_is_the_mean_error_over_observed_points_and_zero_with_none():
    network, x, y = torch.nn.Linear(1, 2).double(), normal(M, 1), REAL[0]
    weights = {n: normal(*p.shape, seed=5) for n, p in network.named_parameters()}
    for mask in (torch.tensor([1, 0, 1, 1, 0]).bool(), torch.ones(M).bool()):
        value = support_error(Frozen(network), Gaussian(), Points(x, y, mask))(weights)
        predicted = x @ weights["weight"].mT + weights["bias"]
        torch.testing.assert_close(value, 0.5 * (predicted - y)[mask].square().sum(1).mean(), rtol=1e-12, atol=0)
    nothing = support_error(Frozen(network), Gaussian(), Points(x * 0, y * 0, torch.zeros(M).bool()))
    slopes = torch.func.grad(nothing)(weights)
    assert nothing(weights) == 0
    assert not any(s.any() for s in slopes.values())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_constructors_refuse_impossible_scales(bad):
    for make in (Gaussian, StudentT):
        with pytest.raises(ValueError, match="scale: expected a positive number"):
            make(scale=bad)
    with pytest.raises(ValueError, match="df: expected a number above 2"):
        StudentT(df=bad)


def test_an_odd_number_of_heteroscedastic_outputs_is_named():
    with pytest.raises(ValueError, match="even number of network outputs"):
        HeteroscedasticGaussian()(torch.zeros(4, 3))


@every
def test_parameters_swapped_by_name_act(likelihood, outputs, y):
    own = {n: p.detach() + 0.5 for n, p in likelihood.named_parameters()}
    moved, still = call(likelihood, own, outputs).log_prob(y), likelihood(outputs).log_prob(y)
    assert torch.equal(moved, still) == (not own)


# --- what is said, and refused


def test_likelihoods_say_their_present_settings():
    likelihood = Gaussian(scale=0.5)
    assert repr(likelihood) == "Gaussian(scale=0.5)"
    with torch.no_grad():
        likelihood.log_scale.fill_(math.log(0.125 - 1e-4))
    assert repr(likelihood) == "Gaussian(scale=0.125)"
    assert repr(Gaussian(scale=(0.5, 2.0))) == "Gaussian(scale=(0.5, 2))"
    assert repr(NegativeBinomial(dispersion=(0.5, 2.0))) == "NegativeBinomial(dispersion=(0.5, 2))"
    assert repr(StudentT(scale=0.25, df=3.5)) == "StudentT(scale=0.25, df=3.5)"
    assert [repr(one()) for one in (Categorical, Bernoulli, OneVsEach)] == [
        "Categorical()",
        "Bernoulli()",
        "OneVsEach()",
    ]
    assert repr(Gaussian().to("meta")) == "Gaussian(scale=?)"


def test_a_class_in_the_place_of_a_likelihood_is_refused_by_every_kernel_learner():
    kernel = RBFKernel()
    for build in (
        check_likelihood,
        check_gaussian,
        lambda likelihood: bm.DKT(torch.nn.Identity(), kernel, likelihood),
        lambda likelihood: bm.ADKL(bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, 4), kernel, likelihood),
        lambda likelihood: bm.ADKF(torch.nn.Identity(), kernel, likelihood),
        lambda likelihood: bm.PACOH(torch.nn.Identity(), kernel, likelihood, tasks=2),
    ):
        with pytest.raises(TypeError, match=r"likelihood: expected a likelihood such as .*call its class"):
            build(Gaussian)


def test_one_vs_each_of_many_classes_is_the_formula_and_piecewise_the_same():
    outputs = normal(2, 300)
    found = OneVsEach()(outputs).logits
    expected = torch.nn.functional.logsigmoid(outputs[..., :, None] - outputs[..., None, :]).sum(-1)
    torch.testing.assert_close(found, expected.log_softmax(-1))
    many = normal(60, 1000)  # of which not all pairs are held at once
    one = OneVsEach()(many[:1]).logits
    torch.testing.assert_close(OneVsEach()(many).logits[:1], one)
    assert OneVsEach()(many[:0]).logits.shape == (0, 1000)
