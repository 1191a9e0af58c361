"""95 % intervals hold known truths, for means, distances from perfection, and tasks that share units."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.stats
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, bootstrap, difference, interval

D = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes(tasks: int, temperature: float, draw: torch.Generator) -> tuple[dist.Categorical, bm.Points]:
    """20 points a task; labels are drawn from the stated probabilities to the power 1/temperature."""
    logits = 2 * torch.randn(tasks, 20, 3, generator=draw)
    p = (logits / temperature).softmax(-1)
    y = torch.multinomial(p.flatten(0, 1), 1, generator=draw).reshape(tasks, 20)
    return dist.Categorical(logits=logits), bm.Points(
        torch.zeros(tasks, 20, 1), y, torch.ones_like(y, dtype=torch.bool)
    )


def held(found: list[bm.metrics.Estimate], truth: float) -> int:
    return sum(e.low <= truth <= e.high for e in found)


@pytest.mark.parametrize(
    "metric",
    [bm.metrics.ECE(), bm.metrics.AdaptiveECE(), bm.metrics.ClasswiseECE(), bm.metrics.Brier("reliability")],
    ids=str,
)
def test_zero_is_inside_for_a_calibrated_learner(metric: bm.metrics.Metric) -> None:
    """The plain percentile interval never holds it. 60 data sets; at 93 % or more, 50 are too few once in 500 times."""
    draw = generator()
    found = [bootstrap(metric, metric.statistic(*classes(30, 1.0, draw)), resamples=200, seed=i) for i in range(60)]
    assert held(found, 0.0) >= 50
    assert all(e.low <= e.value <= e.high for e in found)


def test_a_known_calibration_error_is_inside_and_zero_is_not() -> None:
    """Stated confidence 0.9 at an accuracy of 0.7, and 0.6 at 0.65: an ECE of 0.5 * 0.2 + 0.5 * 0.05."""
    draw, truth, found = generator(1), 0.125, []
    for i in range(100):
        confidence = torch.tensor([0.9, 0.6]).repeat(30, 10)
        right = torch.rand(30, 20, generator=draw) < torch.where(confidence > 0.8, 0.7, 0.65)
        d = dist.Categorical(probs=torch.stack([confidence, 1 - confidence], -1))
        given = bm.Points(torch.zeros(30, 20, 1), (~right).long(), torch.ones(30, 20, dtype=torch.bool))
        found.append(bootstrap(bm.metrics.ECE(), bm.metrics.ECE().statistic(d, given), resamples=300, seed=i))
    low, high = scipy.stats.binom.interval(1 - 1e-4, 100, 0.95)
    assert low <= held(found, truth) <= high
    assert held(found, 0.0) <= 5


def test_skewed_means_are_held_more_often_than_by_percentiles() -> None:
    """Of 30 exponential numbers with mean 1: BCa at the levels of t holds it about 93 times in 100, percentiles 90."""
    draw, found, plain = generator(2), [], 0
    for i in range(400):
        x = -torch.rand(30, generator=draw, dtype=D).log()
        rows = torch.stack([x, torch.ones_like(x)], 1)
        found.append(bootstrap(bm.metrics.NLL(), rows, resamples=400, seed=i))
        means = x[torch.randint(30, (400, 30), generator=draw)].mean(1)
        low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=D))
        plain += int(low <= 1 <= high)
    assert plain < held(found, 1.0)
    assert held(found, 1.0) >= 365


@pytest.mark.parametrize(("units", "ways", "tasks"), [(15, 1, 60), (20, 5, 200)])
def test_clusters_hold_what_independent_tasks_do_not(units: int, ways: int, tasks: int) -> None:
    """Tasks are the mean of their units' effects, and noise; the truth is 0, over other units."""
    draw, told, blind = generator(3), [], []
    for _ in range(100):
        effect = torch.randn(units, generator=draw, dtype=D)
        shared = torch.rand(tasks, units, generator=draw).topk(ways).indices
        y = effect[shared].mean(1) + torch.randn(tasks, generator=draw, dtype=D) / ways**0.5
        learner = Says(y)
        for found, clusters in ((told, lambda index, s=shared: s), (blind, None)):
            metrics: list[bm.metrics.Metric] = [Mean()]
            found.append(bm.evaluate(learner, learner, episodes=1, metrics=metrics, clusters=clusters)["Mean"])
    assert held(told, 0.0) >= 87
    assert held(blind, 0.0) <= 80
    assert [a.value for a in told] == pytest.approx([b.value for b in blind])


class Says:
    """One episode of a target a task, and the prediction that it is zero."""

    def __init__(self, y: Tensor) -> None:
        given = bm.points(list(torch.zeros(len(y), 1)), list(y[:, None].float()))
        self.episode = bm.Episode(given, given)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bm.Episode:
        return self.episode

    def __call__(self, support: bm.Points) -> Any:
        return lambda x: dist.Normal(torch.zeros_like(x), 1.0).to_event(1)


class Mean(bm.metrics.Metric):
    """The mean target."""

    def statistic(self, distribution: Any, given: bm.Points) -> Tensor:
        return torch.stack([given.y[..., 0].double().sum(1), given.mask.sum(1).double()], 1)

    def reduce(self, sums: Tensor) -> Tensor:
        return sums[..., 0] / sums[..., 1]


def test_units_that_are_not_shared_change_nothing_and_one_unit_tells_nothing() -> None:
    y = torch.randn(40, generator=generator(4), dtype=D)
    rows = torch.stack([y, torch.ones_like(y)], 1)
    own = torch.arange(80).reshape(40, 2)
    plain, same = bootstrap(bm.metrics.NLL(), rows), bootstrap(bm.metrics.NLL(), rows, own)
    assert (same.low, same.high) == (pytest.approx(plain.low, abs=0.02), pytest.approx(plain.high, abs=0.02))
    everyone = bootstrap(bm.metrics.NLL(), rows, torch.tensor([[0, 1]]).expand(40, 2))
    assert everyone.low != everyone.low
    learner = Says(y)
    one = bm.evaluate(learner, learner, episodes=1, clusters=lambda index: torch.zeros(40, dtype=torch.long))
    assert one["NLL"].low != one["NLL"].low


def test_clusters_of_tasks_are_tasks_added_up() -> None:
    """People of two days each: the rows of a person's days are one row."""
    source = bm.tasks_from_arrays(torch.rand(60), torch.rand(60), torch.arange(60) // 5, shots=2)
    people = torch.arange(12) // 2
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    found = bm.evaluate(learner, source, episodes=3, clusters=lambda index: people[source.members(index)])
    from bayesmeta.evaluation import statistics

    metrics, rows, _ = statistics(learner, source, episodes=3)
    added = [row.new_zeros(6, row.shape[1]).index_add(0, people, row) for row in rows]
    assert found["NLL"] == bootstrap(metrics[0], added[0])


@pytest.mark.parametrize(
    "units",
    [torch.zeros(3).long(), torch.zeros(12), torch.zeros(12, 0).long(), ["a"] * 12, "people", 3, [[1]] * 11 + [[1, 2]]],
    ids=["too few", "floats", "none a task", "names", "a text", "a number", "ragged"],
)
def test_units_that_are_none_are_named(units: Any) -> None:
    source = bm.tasks_from_arrays(torch.rand(60), torch.rand(60), torch.arange(60) // 5, shots=2)
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    with pytest.raises(
        ValueError, match=r"clusters: expected whole numbers \(12,\), the unit of each .* for episode 0"
    ):
        bm.evaluate(learner, source, episodes=1, clusters=lambda index: units)
    if not isinstance(units, int):
        with pytest.raises(TypeError, match=f"clusters: expected a function .* got {type(units).__name__}"):
            bm.evaluate(learner, source, episodes=1, clusters=units)


def test_as_many_units_in_every_episode() -> None:
    source = bm.tasks_from_arrays(torch.rand(60), torch.rand(60), torch.arange(60) // 5, shots=2)
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    for other in (None, torch.zeros(12, 2).long()):
        with pytest.raises(ValueError, match="clusters: expected as many units for each task"):
            bm.evaluate(learner, source, episodes=2, clusters=lambda i, other=other: other if i else torch.arange(12))


def test_images_know_their_classes() -> None:
    """The classes of each task, and those of turned pictures are one; `evaluate` asks without being told."""
    x, y = torch.rand(80, 1, 8, 8), torch.arange(80) % 10
    x[:, 0, 0, 0] = y / 10  # a picture shows its class
    tasks = bm.tasks.ImageTasks(x, y, ways=3, shots=1, queries=2, batch=6)
    episode = tasks[4]
    shown = (10 * episode.support.x[:, :, 0, 0, 0]).round().long()
    assert torch.equal(tasks.clusters(4), shown.gather(1, episode.support.y.argsort(1)))
    turned = bm.tasks.ImageTasks(x, y, ways=3, shots=1, queries=2, batch=6, rotations=True)
    assert turned.clusters(0).max() < 10
    learner = bm.PrototypicalNetwork(nn.Flatten(), classes=3)
    by_source = bm.evaluate(learner, tasks, episodes=5)
    assert by_source == bm.evaluate(learner, tasks, episodes=5, clusters=tasks.clusters)
    apart = bm.evaluate(learner, [tasks[i] for i in range(5)], episodes=5)  # type: ignore[arg-type]
    assert by_source["Accuracy"].value == apart["Accuracy"].value
    assert by_source["Accuracy"] != apart["Accuracy"]


def test_many_figures_at_once_are_those_one_by_one() -> None:
    rows = torch.rand(20, 3, generator=generator(5), dtype=D)
    value, low, high = interval(lambda sums: sums / sums.sum(-1, keepdim=True), rows)
    for i in range(3):
        one = interval(lambda sums, i=i: sums[..., i] / sums.sum(-1), rows)
        assert [part.item() for part in one] == pytest.approx([part[i].item() for part in (value, low, high)])


def test_differences_are_of_the_same_tasks() -> None:
    """What both learners find hard cancels: the interval is that of the tasks' differences, and holds the truth 95 % of times."""
    draw = generator(3)
    inside = 0
    for _ in range(200):
        hard = 10 * torch.randn(40, 1, generator=draw).double()
        rows, others = (
            torch.cat([hard + torch.randn(40, 1, generator=draw) + by, torch.ones(40, 1)], 1) for by in (0.5, 0.0)
        )
        found = bm.metrics.difference(bm.metrics.NLL(), rows, others)
        alone = bm.metrics.bootstrap(bm.metrics.NLL(), torch.stack([(rows - others)[:, 0], torch.ones(40).double()], 1))
        assert found == pytest.approx(tuple(alone), abs=1e-9)
        inside += found.low <= 0.5 <= found.high
    assert found.high - found.low < 2 < bm.metrics.bootstrap(bm.metrics.NLL(), rows).high - found.value
    assert 181 <= inside <= 198  # of Binomial(200, .95), beyond which one run in 1,000 would fall
    with pytest.raises(ValueError, match="same episodes"):
        bm.metrics.difference(bm.metrics.NLL(), rows, others[:-1])


def test_differences_of_what_is_none_are_named() -> None:
    rows = torch.tensor([[3.0, 1.0], [5.0, 1.0]])
    bad: tuple[tuple[Any, Any, Any, str], ...] = (
        (NLL(), rows[:0], None, "rows: expected the statistics of at least one task"),
        (NLL(), rows[0], None, r"rows: expected the statistics of at least one task \(T, K\), got \(2,\)"),
        (NLL(), rows, torch.zeros(3, 1), "shared: expected the units of 2 tasks"),
        (NLL, rows, None, "metric: expected a metric, got NLL; build it"),
        (ECE(bins=2), torch.rand(3, 6), None, "metric: expected one that is no distance from perfection"),
    )
    for metric, given, shared, said in bad:
        with pytest.raises((ValueError, TypeError), match=said):
            difference(metric, given, given, shared)
    assert difference(NLL(), rows.tolist(), rows.numpy()).value == 0  # type: ignore[arg-type]
