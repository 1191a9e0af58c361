from __future__ import annotations

import numpy as np
import pytest
import torch

from bayesmeta import ABML, MAML, Ensemble, Episode, Learner, Points, Standardized, points
from bayesmeta.likelihoods import Bernoulli, Categorical, Gaussian, StudentT, nll
from bayesmeta.networks import MLP
from bayesmeta.posteriors import BayesianLinear

D = torch.float64
LOC, SCALE = torch.tensor([100.0, -3.0], dtype=D), torch.tensor([20.0, 0.1], dtype=D)
SLOPES = torch.tensor([[5.0, 0.01], [-300.0, 2.0]], dtype=D)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


class Tasks(list):
    """Ragged linear tasks in wild units, in which padding would spoil means and deviations."""

    def __init__(self, episodes: int = 3, dtype: torch.dtype = D) -> None:
        super().__init__(Episode(ragged(2 * i, dtype), ragged(2 * i + 1, dtype)) for i in range(episodes))


def ragged(seed: int, dtype: torch.dtype = D) -> Points:
    x = [LOC + SCALE * normal(n, 2, seed=10 * seed + n) for n in (2, 5, 3)]
    y = [a @ SLOPES + 40 + normal(len(a), 2, seed=seed) for a in x]
    return points(x, y, dtype=dtype)


def maml(outputs: int = 2, likelihood=None) -> MAML:
    return MAML(MLP(2, outputs, hidden=(8,)), likelihood or Gaussian())


def values(tasks: list[Episode], field: str) -> np.ndarray:
    return torch.cat([getattr(p, field)[p.mask] for e in tasks for p in e]).numpy()


class Recorder(Learner):
    """A learner that keeps what it is given; its posterior is Bayesian linear regression."""

    def forward(self, support: Points) -> BayesianLinear:
        self.seen = support
        one = torch.eye(2, dtype=D)
        return BayesianLinear(0 * one, one, torch.tensor(0.5, dtype=D), support)


def test_the_learner_sees_observed_values_of_mean_zero_and_deviation_one():
    tasks = Tasks()
    recorder = Recorder()
    learner = Standardized.from_tasks(recorder, tasks)
    seen = []
    for episode in tasks:
        for part in episode:
            learner(part)
            seen.append(recorder.seen)
            assert torch.equal(recorder.seen.mask, part.mask)
            assert not recorder.seen.x[~part.mask].any()
            assert not recorder.seen.y[~part.mask].any()
    for field in ("x", "y"):
        everything = torch.cat([getattr(p, field)[p.mask] for p in seen])
        torch.testing.assert_close(everything.mean(0), torch.zeros(2, dtype=D), rtol=0, atol=1e-10)
        torch.testing.assert_close(everything.std(0, correction=0), torch.ones(2, dtype=D), rtol=1e-10, atol=0)


def test_the_scaling_is_that_of_the_named_tasks_first_episodes():
    tasks = Tasks(4)
    learner = Standardized.from_tasks(maml().double(), tasks, episodes=2)
    for field in ("x", "y"):
        data = values(tasks[:2], field)
        np.testing.assert_allclose(getattr(learner, f"{field}_loc"), data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(getattr(learner, f"{field}_scale"), data.std(0), rtol=1e-12)


def test_predictions_and_draws_come_back_in_the_users_units():
    tasks = Tasks()
    given, x = tasks[0].support, tasks[0].query.x
    learner = Standardized.from_tasks(Recorder(), tasks)
    x_loc, x_scale = (torch.from_numpy(f(values(tasks, "x"), 0)) for f in (np.mean, np.std))
    y_loc, y_scale = (torch.from_numpy(f(values(tasks, "y"), 0)) for f in (np.mean, np.std))
    m = given.mask[..., None]
    inner = Recorder()(Points((given.x - x_loc) / x_scale * m, (given.y - y_loc) / y_scale * m, given.mask))
    scaled = inner((x - x_loc) / x_scale)
    d = learner(given)(x)
    torch.testing.assert_close(d.mean, y_loc + y_scale * scaled.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(d.stddev, y_scale * scaled.stddev, rtol=1e-10, atol=1e-10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = learner(given).draws(x, 3)
        torch.manual_seed(0)
        expected = y_loc + y_scale * inner.draws((x - x_loc) / x_scale, 3).mean
    torch.testing.assert_close(draws.mean, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("likelihood", [Gaussian, StudentT])
def test_the_loss_is_the_nll_in_the_users_units_but_for_the_log_scale(likelihood):
    tasks = Tasks()
    learner = Standardized.from_tasks(maml(likelihood=likelihood()).double(), tasks)
    expected = nll(learner(tasks[1].support)(tasks[1].query.x), tasks[1].query) - learner.y_scale.log().sum()
    torch.testing.assert_close(learner.loss(tasks[1]), expected.mean(), rtol=1e-10, atol=1e-10)


def test_a_change_of_units_changes_predictions_by_that_change_alone():
    tasks, inner = Tasks(), maml().double()
    a, b = torch.tensor([1000.0, 0.01], dtype=D), torch.tensor([5.0, -7.0], dtype=D)

    def convert(p: Points) -> Points:
        m = p.mask[..., None]
        return Points((a * p.x + b) * m, (a * p.y - b) * m, p.mask)

    other = [Episode(*map(convert, e)) for e in tasks]
    d = Standardized.from_tasks(inner, tasks)(tasks[0].support)(tasks[0].query.x)
    converted = Standardized.from_tasks(inner, other)(other[0].support)(a * tasks[0].query.x + b)
    torch.testing.assert_close(converted.mean, a * d.mean - b, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(converted.stddev, a * d.stddev, rtol=1e-8, atol=0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3.3, 273.15, 1e6])
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_feature_is_only_centred(constant, features, dtype):
    def part(seed: int) -> Points:
        x = torch.full((500, features), constant, dtype=D)
        x[:, 1:] += normal(500, 1, seed=seed)
        return points(x, normal(500, seed=seed + 1), dtype=dtype)

    learner = Standardized.from_tasks(MAML(MLP(features, 1), Gaussian()).to(dtype), [Episode(part(0), part(1))])
    assert learner.x_scale[0] == 1  # whatever rounding says: the mean of many 0.1 is not 0.1
    assert (learner.x_scale[1:] != 1).all()
    assert learner.x_loc[0].item() == pytest.approx(constant, rel=1e-5)


def test_labels_are_left_as_they_are():
    def part(seed: int) -> Points:
        return points(LOC + SCALE * normal(6, 2, seed=seed), [0, 1, 2, 0, 1, 2], classes=3)

    episode = Episode(part(0), part(1))
    learner = Standardized.from_tasks(maml(3, Categorical()), [episode])
    d = learner(episode.support)(episode.query.x)
    assert d.probs.shape == (1, 6, 3)
    torch.testing.assert_close(learner.loss(episode), nll(d, episode.query).mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "draws", "ensemble"])
def test_yes_or_no_targets_are_left_as_they_are(kind):
    """What a Bernoulli learns through the scaling is what it learns of scaled inputs alone."""

    def part(seed: int) -> Points:
        return points(LOC + SCALE * normal(6, 2, seed=seed), (normal(6, seed=seed) > 0).double(), dtype=D)

    episode = Episode(part(0), part(1))
    build = {
        "plain": lambda: maml(1, Bernoulli()),
        "draws": lambda: ABML(MLP(2, 1, hidden=(8,)), Bernoulli()),
        "ensemble": lambda: Ensemble([maml(1, Bernoulli()), maml(1, Bernoulli())]),
    }[kind]
    inner = build().double()
    before = torch.get_rng_state()
    learner = Standardized.from_tasks(inner, [episode])
    assert torch.equal(torch.get_rng_state(), before)
    assert (learner.y_loc, learner.y_scale) == (0, 1)
    scaled = [p._replace(x=(p.x - learner.x_loc) / learner.x_scale) for p in episode]
    torch.manual_seed(0)
    expected = inner(scaled[0])(scaled[1].x)
    torch.manual_seed(0)
    found = learner(episode.support)(episode.query.x)
    torch.testing.assert_close(found.mean, expected.mean)
    assert learner(episode.support).draws(episode.query.x, 3).mean.shape == (3, 1, 6, 1)
    assert learner(episode.support).decompose(episode.query.x).total.isfinite().all()
    whole = Standardized.from_tasks(maml(1).double(), [episode])  # whole numbers that a Gaussian answers are numbers
    assert whole.y_scale != 1


def test_the_scaling_is_saved_with_the_learner():
    tasks = Tasks()
    learner, other = (
        Standardized.from_tasks(maml().double(), tasks),
        Standardized.from_tasks(maml().double(), Tasks()[1:]),
    )
    assert not torch.equal(learner.x_loc, other.x_loc)
    other.load_state_dict(learner.state_dict())
    for p in (learner, other):
        assert {"x_loc", "x_scale", "y_loc", "y_scale"} < set(p.state_dict())
    a, b = (p(tasks[0].support)(tasks[0].query.x) for p in (learner, other))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.stddev, b.stddev)


def test_it_is_built_from_numbers_alone():
    """Of the numbers that the tasks gave, the same answers; one number for all features is each one's."""
    tasks, inner = Tasks(), maml().double()
    given = Standardized.from_tasks(inner, tasks)
    numbers = {name: getattr(given, name).tolist() for name in ("x_loc", "x_scale", "y_loc", "y_scale")}
    for other in (numbers, {name: getattr(given, name) for name in numbers}):
        a, b = (p(tasks[0].support)(tasks[0].query.x) for p in (given, Standardized(inner, **other)))
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.stddev, b.stddev)
    support, x = tasks[0].support, tasks[0].query.x
    one = Standardized(inner, x_loc=3, x_scale=2.0, y_loc=[1.0, 1.0], y_scale=[0.5, 0.5])(support)
    m = support.mask[..., None]
    scaled = inner(Points((support.x - 3) / 2 * m, (support.y - 1) / 0.5 * m, support.mask))
    torch.testing.assert_close(one(x).mean, 1 + 0.5 * scaled((x - 3) / 2).mean)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"x_loc": 0.0, "x_scale": 0.0}, "x_scale: expected finite numbers above 0 of the shape of x_loc, got 0.0"),
        ({"x_loc": 0.0, "x_scale": [1.0, 1.0]}, "x_scale: expected finite numbers above 0 of the shape of x_loc"),
        ({"x_loc": [0.0, torch.nan], "x_scale": [1.0, 1.0]}, "x_scale: expected finite"),
        ({"x_loc": 0, "x_scale": 1, "y_scale": -1}, "y_scale: expected finite numbers above 0"),
        ({"x_loc": 0, "x_scale": 1, "y_scale": 1e-60}, "y_scale: expected finite numbers above 0"),  # 0 in float32
        ({"x_loc": "a", "x_scale": 1}, "x_loc: expected numbers"),
    ],
)
def test_numbers_that_are_no_scaling_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Standardized(maml(), **numbers)
    with pytest.raises(ValueError, match="y_scale: expected targets of a discrete likelihood as they are"):
        Standardized(maml(3, Categorical()), x_loc=0, x_scale=1, y_scale=2)


def test_an_empty_support_stays_finite_and_a_snapshot_stays():
    tasks = Tasks()
    learner = Standardized.from_tasks(maml().double(), tasks)
    zeros = Points(tasks[0].support.x * 0, tasks[0].support.y * 0, tasks[0].support.mask & False)
    posterior = learner(zeros)
    before = posterior(tasks[0].query.x)
    assert before.mean.isfinite().all()
    learner.load_state_dict({n: v + 1 for n, v in learner.state_dict().items()})
    after = posterior(tasks[0].query.x)
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.stddev, before.stddev)


def test_inputs_that_are_no_tensor_are_named():
    p = points([[0.0], [1.0]], [[0.0], [1.0]])
    tree = Points({"a": p.x}, p.y, p.mask)
    with pytest.raises(ValueError, match="tasks: expected x to be one tensor"):
        Standardized.from_tasks(maml(1), [Episode(tree, tree)])


class TestEnsemble:
    """Three linear learners on two tasks."""

    support = points([normal(4, 2, seed=1), normal(3, 2, seed=2)], [normal(4, seed=3), normal(3, seed=4)], dtype=D)
    x = normal(2, 5, 2, seed=5)

    def ensemble(self) -> Ensemble:
        torch.manual_seed(0)
        return Ensemble([maml(1) for _ in range(3)]).double()

    def test_density_and_moments_are_the_mean_of_the_members(self) -> None:
        ensemble = self.ensemble()
        members = [learner(self.support)(self.x) for learner in ensemble.learners]
        predictive, y = ensemble(self.support)(self.x), normal(2, 5, 1, seed=6)
        density = torch.stack([member.log_prob(y).exp() for member in members]).mean(0)
        torch.testing.assert_close(predictive.log_prob(y).exp(), density)
        means = torch.stack([member.mean for member in members])
        torch.testing.assert_close(predictive.mean, means.mean(0))
        total, aleatoric, epistemic = ensemble(self.support).decompose(self.x)
        torch.testing.assert_close(aleatoric, torch.stack([member.variance for member in members]).mean(0))
        torch.testing.assert_close(epistemic, means.var(0, correction=0))
        torch.testing.assert_close(total, predictive.variance)

    def test_each_draw_is_a_members_function(self) -> None:
        """40 draws miss one of three members once in ten million times."""
        ensemble = self.ensemble()
        means = torch.stack([learner(self.support)(self.x).mean for learner in ensemble.learners])
        draws = ensemble(self.support).draws(self.x, 40).mean
        distance = (draws[:, None] - means).abs().amax((2, 3, 4))
        assert (distance.min(1).values == 0).all()
        assert set(distance.argmin(1).tolist()) == {0, 1, 2}

    def test_loss_is_the_mean_of_the_members(self) -> None:
        ensemble = self.ensemble()
        episode = Episode(self.support, self.support)
        losses = torch.stack([learner.loss(episode) for learner in ensemble.learners])
        torch.testing.assert_close(ensemble.loss(episode), losses.mean())

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="at least one learner"):
            Ensemble([])
        with pytest.raises(TypeError, match="kinds"):
            Ensemble([maml(1), maml(1, Bernoulli())]).double()(self.support._replace(y=self.support.y * 0))(self.x)
        for weights in ([1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]):
            with pytest.raises(ValueError, match="weights: expected 3 numbers from 0 on"):
                Ensemble([maml(1), maml(1), maml(1)], weights)
