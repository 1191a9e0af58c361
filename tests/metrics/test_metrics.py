from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import distributions as dist

from bayesmeta import Points
from bayesmeta.distributions import mixture, sample
from bayesmeta.metrics import (
    AURC,
    CRPS,
    ECE,
    MCE,
    NLL,
    PIT,
    RMSE,
    Accuracy,
    AdaptiveECE,
    Brier,
    ClasswiseECE,
    Coverage,
    EnergyScore,
    ErrorAUROC,
    Estimate,
    OutsideAUROC,
    QuantileCalibrationError,
    Sharpness,
    Width,
    auroc,
    bootstrap,
    default_metrics,
    ranks,
    summary,
)

examples = settings(max_examples=15, deadline=None, derandomize=True, database=None)
D = torch.float64
B, M = 4, 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


MASK = uniform(B, M, seed=9) < 0.7
ALL = torch.ones(B, M, dtype=torch.bool)


def observe(y: torch.Tensor, mask: torch.Tensor = MASK) -> Points:
    return Points(torch.zeros(*mask.shape, 1), y, mask)


def figure(metric, d, given: Points) -> float:
    return metric.reduce(metric.statistic(d, given).sum(0)).item()


def regression(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return normal(B, M, 2, seed=seed), normal(B, M, 2, seed=seed + 1).exp(), normal(B, M, 2, seed=seed + 2)


def classes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * normal(B, M, 3, seed=seed), (3 * uniform(B, M, seed=seed + 1)).long()


LOC, SCALE, Y = regression()
LOGITS, LABELS = classes()
# metric, predictions as a function of a task order and a point order, targets
ROWS = {
    "NLL": (NLL(), lambda r: dist.Normal(r(LOC), r(SCALE)).to_event(1), Y),
    "RMSE": (RMSE(), lambda r: dist.Normal(r(LOC), r(SCALE)).to_event(1), Y),
    "Coverage": (Coverage(0.5), lambda r: dist.Normal(r(LOC), r(SCALE)).to_event(1), Y),
    "Accuracy": (Accuracy(), lambda r: dist.Categorical(logits=r(LOGITS)), LABELS),
    "ECE": (ECE(), lambda r: dist.Categorical(logits=r(LOGITS)), LABELS),
    **{
        metric.name: (metric, lambda r: dist.Normal(r(LOC), r(SCALE)).to_event(1), Y)
        for metric in (CRPS(), Width(0.5), Sharpness(), QuantileCalibrationError(), PIT())
    },
    **{
        metric.name: (metric, lambda r: dist.Categorical(logits=r(LOGITS)), LABELS)
        for metric in (
            *(Brier(part) for part in ("score", "reliability", "resolution", "uncertainty")),
            *(MCE(), AdaptiveECE(), ClasswiseECE(), ErrorAUROC(), AURC()),
        )
    },
}
every = pytest.mark.parametrize(("metric", "predict", "y"), ROWS.values(), ids=ROWS)


# --- truths


def test_nll_and_rmse_are_those_of_numpy_over_the_observed_points():
    d, seen = dist.Normal(LOC, SCALE).to_event(1), MASK.numpy()
    density = scipy.stats.norm.logpdf(Y.numpy(), LOC.numpy(), SCALE.numpy()).sum(-1)[seen]
    assert figure(NLL(), d, observe(Y)) == pytest.approx(-density.mean(), rel=1e-12)
    assert figure(RMSE(), d, observe(Y)) == pytest.approx(np.sqrt(((LOC - Y).numpy()[seen] ** 2).mean()), rel=1e-12)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["normal", "student", "mixture"])
def test_coverage_counts_targets_between_scipys_quantiles(kind, level):
    low, high, moments = (1 - level) / 2, (1 + level) / 2, (LOC.numpy(), SCALE.numpy())
    if kind == "mixture":
        d = mixture(dist.Normal(torch.stack([LOC, LOC]), torch.stack([SCALE, SCALE])).to_event(1))
        exact = scipy.stats.norm(*moments)
    else:
        student = kind == "student"
        d = (dist.StudentT(3.0, LOC, SCALE) if student else dist.Normal(LOC, SCALE)).to_event(1)
        exact = scipy.stats.t(3.0, *moments) if student else scipy.stats.norm(*moments)
    inside = (exact.ppf(low) <= Y.numpy()) & (Y.numpy() <= exact.ppf(high))
    assert figure(Coverage(level), d, observe(Y)) == pytest.approx(inside[MASK.numpy()].mean(), abs=1e-15)


def test_coverage_of_the_truth_is_its_level():
    n = 20_000
    y = normal(1, n, 1, seed=5)
    d = dist.Normal(torch.zeros_like(y), torch.ones_like(y)).to_event(1)
    share = figure(Coverage(0.9), d, observe(y, torch.ones(1, n, dtype=torch.bool)))
    assert abs(share - 0.9) < 5 * math.sqrt(0.09 / n)  # five standard deviations: error rate 6e-7


def ece_in_numpy(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in pairwise(edges):
        chosen = (confidence > low) & (confidence <= high)
        if chosen.any():
            total += chosen.mean() * abs(correct[chosen].mean() - confidence[chosen].mean())
    return total


@examples
@given(st.integers(0, 999), st.integers(1, 40), st.integers(2, 6), st.floats(0.1, 10))
def test_ece_is_that_of_a_numpy_loop_over_pooled_points(seed, bins, ways, sharpness):
    logits, y = sharpness * normal(B, M, ways, seed=seed), (ways * uniform(B, M, seed=seed + 1)).long()
    d = dist.Categorical(logits=logits)
    top, predicted = d.probs.max(-1)
    expected = ece_in_numpy(top[MASK].numpy(), (predicted == y)[MASK].numpy(), bins)
    assert figure(ECE(bins), d, observe(y)) == pytest.approx(expected, abs=1e-12)
    assert figure(Accuracy(), d, observe(y)) == pytest.approx((predicted == y)[MASK].double().mean().item(), abs=1e-15)


def test_ece_pools_points_over_tasks_and_is_no_mean_of_tasks():
    probs = torch.tensor([[[0.75, 0.25]], [[0.75, 0.25]]], dtype=D)
    given = observe(torch.tensor([[0], [1]]), torch.ones(2, 1, dtype=torch.bool))
    assert figure(ECE(), dist.Categorical(probs), given) == pytest.approx(0.25, abs=1e-15)  # a mean of tasks: 0.5


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    probs = torch.tensor([[[0.5, 0.25, 0.25], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]]], dtype=D)
    given = observe(torch.zeros(1, 3).long(), torch.ones(1, 3, dtype=torch.bool))
    assert ECE(4).statistic(dist.Categorical(probs), given)[0, :4].tolist() == [0, 1, 1, 1]


def test_a_bernoulli_is_judged_as_its_two_classes():
    logits = 2 * normal(B, M, 1)
    y = (uniform(B, M, seed=3) < 0.5).to(D)
    two = dist.Categorical(logits=torch.cat([torch.zeros_like(logits), logits], -1))
    one = dist.Bernoulli(logits=logits).to_event(1)
    draws = dist.Bernoulli(logits=torch.stack([logits, logits - 1])).to_event(1)
    drawn = dist.Categorical(logits=torch.stack([two.logits, torch.cat([torch.zeros_like(logits), logits - 1], -1)]))
    for metric in (NLL(), Accuracy(), ECE()):
        for a, b in ((one, two), (mixture(draws), mixture(drawn))):
            expected = figure(metric, b, observe(y.long()))
            assert figure(metric, a, observe(y[..., None])) == pytest.approx(expected, abs=1e-9)


# --- properties of every metric


@every
@examples
@given(data=st.data())
def test_order_padding_batching_and_duplication_change_nothing(metric, predict, y, data):
    tasks, points = data.draw(st.permutations(range(B))), data.draw(st.permutations(range(M)))
    value = figure(metric, predict(lambda t: t), observe(y))

    def shuffle(t):
        return t[tasks][:, points]

    def pad(t):
        return torch.cat([t, torch.ones_like(t[:, :2])], 1)

    def masked(t):
        return torch.cat([t, torch.zeros_like(t[:, :2])], 1)

    assert figure(metric, predict(shuffle), observe(shuffle(y), shuffle(MASK))) == pytest.approx(value, abs=1e-12)
    assert figure(metric, predict(pad), observe(masked(y), masked(MASK))) == pytest.approx(value, abs=1e-12)
    twice = figure(metric, predict(lambda t: torch.cat([t, t])), observe(torch.cat([y, y]), torch.cat([MASK, MASK])))
    assert twice == pytest.approx(value, abs=1e-12)
    halves = [metric.statistic(predict(lambda t, h=h: t[h]), observe(y[h], MASK[h])) for h in (slice(1), slice(1, B))]
    assert metric.reduce(torch.cat(halves).sum(0)).item() == pytest.approx(value, abs=1e-12)


@every
def test_statistics_are_rows_of_float64_and_a_single_point_is_enough(metric, predict, y):
    mask = torch.zeros(1, 1, dtype=torch.bool) | True
    row = metric.statistic(predict(lambda t: t[:1, :1]), observe(y[:1, :1], mask))
    assert row.dtype == D
    assert row.shape[0] == 1
    value = metric.reduce(row.sum(0))
    assert value.shape == ()
    if metric == ErrorAUROC():  # one point is not both right and wrong: there is nothing to tell apart
        assert value.isnan()
        return
    assert value.isfinite()
    twice = bootstrap(metric, row.expand(2, -1))
    assert twice == Estimate(*[pytest.approx(value.item())] * 3)
    one = bootstrap(metric, row)  # one task says nothing of the spread between tasks
    assert one.value == value.item()
    assert one.low != one.low
    assert one.high != one.high
    assert metric.reduce(row.expand(7, *row.shape).sum(1)).shape == (7,)


@every
def test_a_task_without_points_adds_nothing(metric, predict, y):
    empty = torch.zeros(1, M, dtype=torch.bool)
    given = observe(torch.cat([y, y[:1]]), torch.cat([MASK, empty]))
    rows = metric.statistic(predict(lambda t: torch.cat([t, t[:1]])), given)
    assert not rows[-1].any()


def test_perfect_and_worst_predictions():
    right, wrong = torch.nn.functional.one_hot(LABELS, 3), torch.nn.functional.one_hot((LABELS + 1) % 3, 3)
    for probs, accuracy, error in ((right, 1, 0), (wrong, 0, 1)):
        for d in (dist.Categorical(probs.to(D)), dist.Categorical(logits=probs.to(D).log())):
            assert figure(Accuracy(), d, observe(LABELS)) == accuracy
            assert figure(ECE(), d, observe(LABELS)) == pytest.approx(error, abs=1e-12)
    certain = dist.Categorical(logits=right.to(D).log())
    assert figure(NLL(), certain, observe(LABELS * MASK)) == 0
    exact = dist.Normal(Y, SCALE).to_event(1)
    assert figure(RMSE(), exact, observe(Y)) == 0
    assert figure(Coverage(0.01), exact, observe(Y)) == 1
    assert figure(Coverage(0.99), dist.Normal(Y + 9 * SCALE, SCALE).to_event(1), observe(Y)) == 0


def test_float32_predictions_are_judged_within_float32_of_float64():
    d = dist.Normal(LOC.float(), SCALE.float()).to_event(1)
    for metric in (NLL(), RMSE(), Coverage(0.5)):
        expected = figure(metric, dist.Normal(LOC, SCALE).to_event(1), observe(Y))
        assert figure(metric, d, observe(Y.float())) == pytest.approx(expected, rel=1e-5)


def test_default_metrics_fit_the_targets():
    names = {True: ["NLL", "Accuracy", "ECE"], False: ["NLL", "RMSE", "90% coverage"]}
    bits = dist.Bernoulli(logits=normal(3, B, M, 1)).to_event(1)
    real = dist.StudentT(3.0, normal(3, B, M, 1), 1.0).to_event(1)
    classes = dist.Categorical(logits=normal(3, B, M, 4))
    for draws, discrete in ((bits, True), (real, False), (classes, True)):
        for d in (draws, mixture(draws)):
            assert [m.name for m in default_metrics(d)] == names[discrete]


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90, math.nan])
def test_coverage_refuses_what_is_no_probability(level):
    with pytest.raises(ValueError, match="level: expected a probability"):
        Coverage(level)


def test_metrics_refuse_predictions_that_they_cannot_judge():
    with pytest.raises(ValueError, match="bins: expected a whole number of at least 1"):
        ECE(0)
    with pytest.raises(ValueError, match="one yes-or-no target"):
        Accuracy().statistic(dist.Bernoulli(logits=LOC).to_event(1), observe(Y.sign().clamp(min=0)))
    for metric in (Accuracy(), ECE()):
        for d in (dist.Normal(LOC, SCALE).to_event(1), mixture(dist.Normal(LOC[None], SCALE[None]).to_event(1))):
            with pytest.raises((TypeError, ValueError), match="expected"):
                metric.statistic(d, observe(Y))
    with pytest.raises(TypeError, match="cumulative distribution function"):
        Coverage().statistic(dist.Categorical(logits=LOGITS), observe(LABELS))
    one = Y[..., :1]
    with pytest.raises(ValueError, match="event shape"):
        RMSE().statistic(dist.Normal(LOC, SCALE).to_event(1), observe(one))
    with pytest.raises(ValueError, match="event shape"):
        Coverage().statistic(dist.Normal(LOC, SCALE).to_event(1), observe(one))


@pytest.mark.parametrize(
    "metric",
    [RMSE(), CRPS(), Coverage(), Width(), Sharpness(), QuantileCalibrationError(), PIT(), EnergyScore(8)],
    ids=lambda metric: metric.name,
)
def test_metrics_of_numbers_refuse_classes_of_every_kind(metric):
    bits = dist.Bernoulli(logits=LOC[..., :1]).to_event(1)
    for d, y in (
        (dist.Categorical(logits=LOGITS), LABELS),
        (bits, Y[..., :1].sign().clamp(min=0)),
        (mixture(dist.Bernoulli(logits=normal(3, B, M, 1)).to_event(1)), Y[..., :1].sign().clamp(min=0)),
    ):
        with pytest.raises(TypeError, match=r"expected one of numbers .* which is of classes; use NLL, Accuracy"):
            metric.statistic(d, observe(y))


def test_a_distance_from_perfection_is_the_size_of_its_gaps():
    for metric, predict, y in ROWS.values():
        sums = metric.statistic(predict(lambda t: t), observe(y)).sum(0)
        gaps = metric.gaps(sums)
        if gaps is not None:
            assert metric.size(gaps) == metric.reduce(sums)
            assert metric.size(torch.zeros_like(gaps)) == 0


# --- bootstrap


def sums(values: torch.Tensor) -> torch.Tensor:
    return torch.stack([values, torch.ones_like(values)], 1)


def test_the_bootstrap_interval_covers_a_known_mean_as_often_as_it_says():
    repetitions, tasks = 400, 60
    hits = 0
    for i in range(repetitions):
        estimate = bootstrap(NLL(), sums(3 + normal(tasks, seed=i)), resamples=400, seed=i)
        hits += estimate.low <= 3 <= estimate.high
    # A percentile interval of n normal values is the mean +- 1.96 s sqrt((n - 1) / n): Student's t covers that with
    nominal = 1 - 2 * scipy.stats.t.sf(1.96 * math.sqrt((tasks - 1) / tasks), tasks - 1)  # .943
    low, high = scipy.stats.binom.interval(1 - 1e-5, repetitions, nominal)  # error rate 1e-5
    assert low <= hits <= high


def test_the_bootstrap_interval_reaches_the_ends_that_resampling_reaches_often_enough():
    values = torch.tensor([0.0, 1.0, 5.0], dtype=D)
    # Of the 27 resamples one is (0, 0, 0) and one (5, 5, 5): .037 of the probability, more than .025, lies at each end.
    # Of 20,000 drawn that share has the standard deviation .0013: nine of them to .025, error rate 1e-18.
    assert bootstrap(NLL(), sums(values), resamples=20_000) == Estimate(2.0, 0.0, 5.0)


@examples
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.integers(0, 9))
def test_the_bootstrap_holds_the_range_of_tasks_and_is_equivariant(values, seed):
    rows = sums(torch.tensor(values, dtype=D))
    one = bootstrap(NLL(), rows, resamples=50, seed=seed)
    assert one == bootstrap(NLL(), rows, resamples=50, seed=seed)
    assert one.value == pytest.approx(float(sum(map(Fraction, values)) / len(values)), abs=1e-9)
    assert min(values) - 1e-9 <= one.low <= one.high <= max(values) + 1e-9
    moved = bootstrap(NLL(), rows * torch.tensor([2.0, 1.0], dtype=D), resamples=50, seed=seed)
    assert list(moved) == pytest.approx([2 * v for v in one], abs=1e-9)


def test_the_interval_narrows_with_tasks_and_the_seed_matters():
    few, many = (bootstrap(NLL(), sums(normal(n, seed=1))) for n in (50, 5000))
    # The width goes as 1/sqrt(n): a tenth, with a relative error of a tenth. A quarter is 15 deviations off.
    assert many.high - many.low < (few.high - few.low) / 4
    assert bootstrap(NLL(), sums(normal(50, seed=1)), seed=1) != few


def test_the_last_label_is_told_from_all_others_by_its_probability():
    logits, y = classes()
    d = dist.Categorical(logits=logits)
    score, outside = d.probs[..., 2][MASK], y[MASK] == 2
    assert figure(OutsideAUROC(), d, observe(y)) == pytest.approx(auroc(score, outside).item(), abs=0.01)  # of 256 bins
    sure = dist.Categorical(logits=torch.tensor([[[0.0, -30.0], [0.0, -20.0], [0.0, 12.0], [0.0, 14.0]]], dtype=D))
    points = observe(torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 4, dtype=torch.bool))
    assert figure(OutsideAUROC(), sure, points) == 0.75  # probabilities near 0 and 1 have an order too
    nobody = observe(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool))
    assert math.isnan(figure(OutsideAUROC(), sure, nobody))


def test_no_tasks_is_a_clear_error():
    with pytest.raises(ValueError, match="task"):
        bootstrap(NLL(), torch.zeros(0, 2))


def test_summary_has_a_row_a_learner_and_a_column_a_metric():
    rows = {"MAML": {"NLL": Estimate(1.0, 0.5, 1.5)}, "Reptile": {"NLL": Estimate(-2.0, -3.0, -1.0)}}
    table = summary(rows).splitlines()
    assert [line.split() for line in table] == [
        ["NLL"],
        ["MAML", "1.000", "[0.500,", "1.500]"],
        ["Reptile", "-2.000", "[-3.000,", "-1.000]"],
    ]
    assert len({len(line) for line in table}) == 1


def test_long_names_of_metrics_do_not_run_together_in_a_summary():
    names = ["ECE", "outside recall at 0.95 inside", "a name of metrics that is longer still"]
    table = summary({"MAML": {name: Estimate(1.0, 0.5, 1.5) for name in names}}).splitlines()
    assert [part.strip() for part in table[0].split("  ") if part.strip()] == names
    assert len({len(line) for line in table}) == 1


@pytest.mark.parametrize("rate", [0.3, 20.0])
def test_ranks_of_counts_are_uniform_and_histograms_are_their_mean(rate):
    """Of 20,000 draws of their own distribution; the mean of 400 random histograms, within five standard errors."""
    d = dist.Poisson(torch.full((1, 20_000, 1), rate, dtype=D)).to_event(1)
    given = observe(sample(d, 1)[0], torch.ones(1, 20_000, dtype=torch.bool))
    assert scipy.stats.kstest(ranks(d, given.y).flatten().numpy(), "uniform").pvalue > 1e-3
    assert figure(PIT(), d, given) < 5 / 20_000**0.5
    few, some = dist.Poisson(torch.full((1, 40, 1), rate, dtype=D)).to_event(1), slice(0, 40)
    part = observe(given.y[:, some], given.mask[:, some])
    drawn = torch.stack([torch.histc(ranks(few, part.y).flatten(), 4, 0, 1) for _ in range(400)])
    error = (drawn.mean(0) - PIT(4).statistic(few, part)[0]).abs()
    assert (error <= 5 * drawn.std(0) / 400**0.5 + 1e-9).all()


@pytest.mark.parametrize("components", [1, 3])
def test_crps_is_the_integral_of_its_definition(components):
    """∫ (F(t) - 1[y <= t])² dt, on a grid that is fine beside the scales."""
    mean, scale = normal(components, B, M, 1, seed=1), 0.2 + uniform(components, B, M, 1, seed=2)
    predicted = mixture(dist.Normal(mean, scale).to_event(1))
    y = normal(B, M, 1, seed=3)
    grid = torch.linspace(-12, 12, 48_001, dtype=D)
    below = dist.Normal(mean[..., None], scale[..., None]).cdf(grid).mean(0)
    area = torch.trapezoid((below - (y[..., None] <= grid).double()).square(), grid)[..., 0]
    sums = CRPS().statistic(predicted, Points(torch.zeros(B, M, 1), y, torch.ones(B, M, dtype=torch.bool)))
    torch.testing.assert_close(sums[:, 0], area.sum(1), rtol=1e-3, atol=1e-3)


def test_crps_names_what_it_cannot_judge():
    predicted = dist.Laplace(torch.zeros(B, M, 1), 1.0).to_event(1)
    with pytest.raises(TypeError, match="CRPS, got Laplace"):
        CRPS().statistic(predicted, Points(torch.zeros(B, M, 1), normal(B, M, 1), torch.ones(B, M, dtype=torch.bool)))


def test_perfect_and_worst_predictions_of_every_score() -> None:
    given = observe(LABELS)
    certain = torch.nn.functional.one_hot(LABELS, 3).to(D)
    for probabilities, right in ((certain, 1.0), (certain.roll(1, -1), 0.0)):
        d = dist.Categorical(probs=probabilities)
        assert figure(Accuracy(), d, given) == right
        assert figure(Brier(), d, given) == pytest.approx(2 * (1 - right), abs=1e-6)
        assert figure(AURC(), d, given) == pytest.approx(1 - right)
        for metric in (ECE(), MCE(), AdaptiveECE()):
            assert figure(metric, d, given) == pytest.approx(1 - right, abs=1e-6)
        assert figure(ClasswiseECE(), d, given) == pytest.approx((1 - right) * 2 / 3, abs=1e-6) or right == 0.0


def test_real_targets_at_their_median_and_far_away() -> None:
    d = dist.Normal(Y, 1e-3).to_event(1)
    assert figure(CRPS(), d, observe(Y)) < 1e-3
    assert figure(CRPS(), d, observe(Y + 5)) == pytest.approx(5.0, abs=1e-2)
    assert figure(PIT(20), d, observe(Y + 5)) == pytest.approx(0.95)
    assert figure(QuantileCalibrationError(20), d, observe(Y + 5)) == pytest.approx(0.5)


def test_a_single_point_has_a_value_and_no_interval() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    d = dist.Categorical(probs=torch.tensor([[[0.25, 0.75]]]))
    given = observe(torch.ones(1, 1).long(), one)
    for metric, expected in (
        (ECE(), 0.25),
        (MCE(), 0.25),
        (AdaptiveECE(), 0.25),
        (ClasswiseECE(), 0.25),
        (Brier(), 0.125),
    ):
        found = bootstrap(metric, metric.statistic(d, given))
        assert found.value == pytest.approx(expected)
        assert math.isnan(found.low)
        assert str(found) == f"{expected:.3f}"
    assert math.isnan(bootstrap(ErrorAUROC(), ErrorAUROC().statistic(d, given)).value)  # there is no error to detect
