"""Labels of an event shape, and masks of the entries of y: for every learner that has them, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from shapes import B, Labels, M, S, Source, W, episode, tagged
from test_contract import LEARNERS, REAL_TARGETS
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.data import concatenate, observed
from bayesmeta.distributions import (
    class_probabilities,
    has_labels,
    log_prob,
    marginals,
    mixture,
    sample,
    temper,
    uncertainty,
)
from bayesmeta.likelihoods import nll

EVENTS = [((3,), False), ((4, 5), False), ((4, 5), True)]
WITH_EVENTS = (
    "MAML",
    "FirstOrderMAML",
    "MetaSGD",
    "Reptile",
    "ImplicitMAML",
    "ABML",
    "ABML, ELBO",
    "PLATIPUS",
    "BMAML",
    "Ensemble",
    "ABML, rehearsed",
)


def build(name: str, event: tuple[int, ...], first: bool = False) -> bm.Learner:
    torch.manual_seed(1)
    likelihood = bm.likelihoods.Categorical(event_dims=len(event), classes_first=first)
    make = (lambda: Labels(event, first)) if event else (lambda: bm.networks.MLP(2, W, hidden=(8,)))
    if name == "Ensemble":
        return bm.Ensemble([bm.ABML(make(), likelihood, steps=1), bm.MAML(make(), likelihood)]).double()
    if name == "Calibrated":
        return bm.Calibrated(bm.ABML(make(), likelihood, steps=2), 2.0).double()
    if name == "ANIL":
        network = make()
        return bm.ANIL(bm.networks.MLP(2, 2, hidden=(8,)), network, likelihood, steps=2).double()
    return LEARNERS[name](make(), likelihood).double()  # type: ignore[arg-type]


def masked(given: Episode) -> Episode:
    """With some labels not observed, in each point but the first."""
    g = torch.Generator().manual_seed(3)
    parts = []
    for part in given:
        mask = torch.rand(part.y.shape, generator=g) < 0.7
        mask[:, 0] = True
        parts.append(Points(part.x, part.y * mask, mask))
    return Episode(*parts)


def loss(learner: bm.Learner, given: Episode) -> Tensor:
    torch.manual_seed(3)
    return learner.loss(given)


@pytest.mark.parametrize(("event", "first"), EVENTS)
@pytest.mark.parametrize("name", [*WITH_EVENTS, "Calibrated", "ANIL"])
class TestLabelsOfAnEvent:
    def test_predictions_and_gradients(self, name: str, event: tuple[int, ...], first: bool) -> None:
        learner, given = build(name, event, first), tagged(event)
        loss(learner, given).backward()
        idle = [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.any()]
        assert not idle
        posterior = learner(given.support)
        predictive, draws = posterior(given.query.x), posterior.draws(given.query.x, S)
        assert (predictive.batch_shape, predictive.event_shape) == ((B, M), event)
        assert (draws.batch_shape, draws.event_shape) == ((S, B, M), event)
        assert predictive.log_prob(given.query.y).isfinite().all()
        total, aleatoric, epistemic = posterior.decompose(given.query.x, samples=4)
        assert total.shape == (B, M, *event)
        assert ((aleatoric >= 0) & (epistemic >= 0)).all()

    def test_what_is_not_observed_changes_nothing(self, name: str, event: tuple[int, ...], first: bool) -> None:
        learner, given = build(name, event, first), masked(tagged(event))
        expected = loss(learner, given)
        slopes = torch.autograd.grad(expected.sum(), list(learner.parameters()), allow_unused=True)
        other = Episode(*(p._replace(y=torch.where(p.mask, p.y, (p.y + 1) % W)) for p in given))
        found = loss(learner, other)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        for a, b in zip(
            slopes, torch.autograd.grad(found.sum(), list(learner.parameters()), allow_unused=True), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)

    def test_a_mask_of_points_is_one_of_all_their_labels(self, name: str, event: tuple[int, ...], first: bool) -> None:
        learner, given = build(name, event, first), tagged(event)
        whole = Episode(*(p._replace(mask=torch.ones_like(p.y, dtype=torch.bool)) for p in given))
        torch.testing.assert_close(loss(learner, whole), loss(learner, given))
        torch.testing.assert_close(loss(learner, Episode(given.support, whole.query)), loss(learner, given))

    def test_training_evaluation_and_update(self, name: str, event: tuple[int, ...], first: bool) -> None:
        learner, given = build(name, event, first), masked(tagged(event))
        bm.fit(learner, Source(given), steps=2, progress=False)
        found = bm.evaluate(
            learner,
            Source(given),
            episodes=1,
            metrics=[bm.metrics.NLL(), bm.metrics.Accuracy(), bm.metrics.ECE(), bm.metrics.Brier(), bm.metrics.AURC()],
        )
        assert 0 <= found["Accuracy"].value <= 1
        assert found["NLL"].value > 0
        if name in ("MAML", "MetaSGD", "Reptile", "ABML, rehearsed"):
            later = learner(given.support).update(given.query)
            assert later(given.query.x).log_prob(given.query.y).isfinite().all()


@pytest.mark.parametrize(
    "name", [n for n in LEARNERS if n not in (*WITH_EVENTS, "Calibrated", "ANIL", "Standardized", "PLATIPUS, one draw")]
)
def test_other_learners_refuse_labels_of_an_event(name: str) -> None:
    likelihood = (
        bm.likelihoods.Gaussian()
        if name in REAL_TARGETS or name == "PACOH-NN"
        else bm.likelihoods.Categorical(event_dims=1)
    )

    def adapt() -> None:
        learner = LEARNERS[name](
            bm.networks.MLP(2, 1 if name in REAL_TARGETS else W, hidden=(8, 8)), likelihood
        ).double()
        learner(tagged((3,)).support)

    with pytest.raises(ValueError, match=r"expected (one label a point|labels of [02] dimensions|targets)"):
        adapt()


def test_a_label_a_point_has_the_same_loss_as_an_event_of_one() -> None:
    """One label, as *Y = () and as *Y = (1,)."""
    given, event = tagged(()), tagged((1,))
    event = Episode(*(p._replace(y=q.y[..., None], x=q.x) for p, q in zip(event, given, strict=True)))
    a, b = build("MAML", ()), build("MAML", (1,))
    b.network.inner.load_state_dict(a.network.state_dict())  # type: ignore[union-attr, operator]
    a.network.features[1] = nn.Tanh()  # type: ignore[union-attr, operator, index]
    torch.testing.assert_close(loss(b, event), loss(a, given))


def test_the_loss_of_tokens_is_the_mean_over_observed_tokens() -> None:
    given = masked(tagged((3,))).query
    logits = torch.randn(B, M, 3, W, dtype=torch.float64)
    predictive = bm.likelihoods.Categorical(event_dims=1)(logits)
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 2), given.y.flatten(), reduction="none").view_as(given.y)
    expected = (each * given.mask).flatten(1).sum(1) / given.mask.flatten(1).sum(1)
    torch.testing.assert_close(nll(predictive, given), expected)
    assert torch.equal(observed(given), given.mask.sum(2))
    assert torch.equal(observed(given._replace(mask=torch.ones(B, M, dtype=torch.bool))), torch.full((B, M), 3))


@pytest.mark.parametrize(
    "metric",
    [
        bm.metrics.NLL(),
        bm.metrics.Accuracy(),
        bm.metrics.ECE(),
        bm.metrics.MCE(),
        bm.metrics.Brier(),
        bm.metrics.Brier("reliability"),
        bm.metrics.AURC(),
    ],
)
def test_a_metric_flattens_the_event(metric: bm.metrics.Metric) -> None:
    """Labels of an event are scored as so many points, those that are not observed left out."""
    given = masked(tagged((4, 5))).query
    logits = torch.randn(B, M, 4, 5, W, dtype=torch.float64)
    found = metric.statistic(bm.likelihoods.Categorical(event_dims=2)(logits), given)
    flat = Points(given.x, given.y.flatten(1), given.mask.flatten(1))
    expected = metric.statistic(bm.likelihoods.Categorical()(logits.flatten(1, 3)), flat)
    torch.testing.assert_close(found, expected.to(found))


def test_distributions_of_labels_of_an_event() -> None:
    logits = torch.randn(S, B, M, 4, 5, W, dtype=torch.float64)
    draws = bm.likelihoods.Categorical(event_dims=2)(logits)
    torch.testing.assert_close(
        bm.likelihoods.Categorical(event_dims=2, classes_first=True)(logits.movedim(-1, -3)).base_dist.logits,
        draws.base_dist.logits,  # type: ignore[attr-defined]
    )
    weights = torch.randn(S, B, 1, dtype=torch.float64)
    mixed = mixture(draws, weights)
    assert has_labels(mixed)
    expected = (logits.softmax(-1) * weights.softmax(0)[..., None, None, None]).sum(0)
    torch.testing.assert_close(class_probabilities(mixed), expected)
    torch.testing.assert_close(uncertainty(mixed), -(expected * expected.log()).sum(-1))
    assert (marginals(mixed).batch_shape, marginals(mixed).event_shape) == ((B, M, 4, 5), ())
    cooler = class_probabilities(temper(mixed, torch.tensor(2.0)))
    torch.testing.assert_close(cooler, expected.sqrt() / expected.sqrt().sum(-1, keepdim=True))
    drawn = sample(mixed, 7)
    assert drawn.shape == (7, B, M, 4, 5)
    assert mixed.log_prob(drawn).shape == (7, B, M)
    with pytest.raises(TypeError, match="cumulative distribution function"):
        bm.distributions.quantile(mixed, 0.5)


def test_real_targets_that_are_seen_in_part() -> None:
    """A Gaussian's missing entries are integrated out: of mixtures too, by each component."""
    y = torch.randn(B, M, 2, dtype=torch.float64)
    mask = torch.tensor([True, False]).expand(B, M, 2)
    mean = torch.randn(S, B, M, 2, dtype=torch.float64)
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, 0.5), 1)
    alone = torch.distributions.Normal(mean[..., 0], 0.5)
    torch.testing.assert_close(
        log_prob(normal, y.expand(S, -1, -1, -1), mask.expand(S, -1, -1, -1)), alone.log_prob(y[..., 0])
    )
    expected = alone.log_prob(y[..., 0]).logsumexp(0) - torch.tensor(S).log()
    torch.testing.assert_close(log_prob(mixture(normal), y, mask), expected)


@pytest.mark.parametrize(
    "likelihood",
    [
        bm.likelihoods.Gaussian,
        bm.likelihoods.StudentT,
        bm.likelihoods.Bernoulli,
        bm.likelihoods.Poisson,
        bm.likelihoods.NegativeBinomial,
    ],
)
@pytest.mark.parametrize("name", ["MAML", "ABML", "ABML, ELBO", "PLATIPUS", "BMAML", "Reptile"])
def test_learners_of_targets_that_are_seen_in_part(
    name: str, likelihood: Callable[[], bm.likelihoods.Likelihood]
) -> None:
    torch.manual_seed(0)
    learner = LEARNERS[name](bm.networks.MLP(2, 2, hidden=(8, 8), activation=nn.Tanh), likelihood()).double()
    g = torch.Generator().manual_seed(0)
    plain = episode(
        lambda n: torch.randn(B, n, 2, generator=g, dtype=torch.float64),
        lambda n: torch.randint(2, (B, n, 2), generator=g).double(),
    )
    whole = Episode(*(p._replace(mask=torch.ones_like(p.y, dtype=torch.bool)) for p in plain))
    torch.testing.assert_close(loss(learner, whole), loss(learner, plain))
    given = masked(plain)
    expected = loss(learner, given)
    other = Episode(*(p._replace(y=torch.where(p.mask, p.y, 1 - p.y)) for p in given))
    torch.testing.assert_close(loss(learner, other), expected, rtol=0, atol=0)
    assert not torch.equal(expected, loss(learner, plain))
    metrics: list[bm.metrics.Metric] = [bm.metrics.NLL()] + (
        [bm.metrics.RMSE()] if likelihood is not bm.likelihoods.Bernoulli else []
    )
    assert bm.evaluate(learner, Source(given), episodes=1, metrics=metrics)


def test_points_blank_what_is_not_observed() -> None:
    y = torch.tensor([[1, -100, 2], [0, 1, -100]])
    given = bm.points(torch.zeros(2, 1), y, classes=3, event_dims=1, mask=y >= 0)
    assert given.y.tolist() == [[[1, 0, 2], [0, 1, 0]]]
    assert torch.equal(given.mask[0], y >= 0)
    real = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    assert bm.points(torch.zeros(2, 1), real, mask=~real.isnan()).y.isfinite().all()
    both = concatenate(given, bm.points(torch.zeros(1, 1), y[:1].abs() % 3, classes=3, event_dims=1))
    assert both.mask.sum(1).tolist() == [[3, 2, 2]]


def test_arrays_of_tokens_trees_and_partly_missing_tags() -> None:
    g = torch.Generator().manual_seed(0)
    tokens, tags = torch.randint(9, (40, 3), generator=g), torch.randint(W, (40, 3), generator=g)
    mask = torch.rand(40, 3, generator=g) < 0.8
    mask[:, 0] = True
    source = bm.tasks_from_arrays(
        {"tokens": tokens, "weight": torch.rand(40)},
        tags.masked_fill(~mask, -100),
        torch.arange(40) // 10,
        classes=W,
        event_dims=1,
        mask=mask,
        whole=True,
        shots=4,
    )
    support, query = source[0]
    assert support.x["tokens"].dtype == torch.int64
    assert support.x["weight"].shape == (4, 4, 1)
    assert support.mask.shape == (4, 4, 3)
    assert int(support.mask.sum() + query.mask.sum()) == int(mask.sum())
    plain = bm.tasks_from_arrays(tokens, torch.rand(40), torch.arange(40) // 10)
    assert plain[0].support.x.dtype == torch.float32
