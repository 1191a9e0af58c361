"""Learners that are an ordered pass of gradient steps, against plain torch, finite differences and the law of the reservoir."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from test_contract import OneByOne
from test_gradients import finite_differences, gradient, relative_error
from torch import Tensor, nn
from torch.func import functional_call

import bayesmeta as bm
from bayesmeta import Episode, Learner, Points
from bayesmeta.functional import Params
from bayesmeta.likelihoods import Categorical, Gaussian
from bayesmeta.networks import MLP, Gated
from bayesmeta.posteriors import recall
from bayesmeta.randomness import hashed

W = 3
GRADIENTS: dict[str, Callable[[bm.likelihoods.Likelihood], Learner]] = {
    "OML": lambda likelihood: bm.OML(*divided(likelihood), likelihood),
    "OML, three points a step": lambda likelihood: bm.OML(*divided(likelihood), likelihood, points=3),
    "OML, all weights": lambda likelihood: bm.OML(nn.Identity(), whole(likelihood), likelihood),
    "OML, classes": lambda _: bm.OML(divided(Gaussian())[0], nn.Linear(5, 1), OneByOne(), classes=W),
    "ANML": lambda likelihood: bm.OML(
        Gated(divided(likelihood)[0], MLP(2, 5, hidden=(4,), activation=nn.Tanh)), divided(likelihood)[1], likelihood
    ),
    "LaMAML": lambda likelihood: bm.LaMAML(whole(likelihood), likelihood, points=3, memory=5, replay=4),
    "MER": lambda likelihood: bm.MER(whole(likelihood), likelihood, memory=5, replay=2),
    "ExperienceReplay": lambda likelihood: bm.ExperienceReplay(whole(likelihood), likelihood, points=3, memory=5),
}


def whole(likelihood: bm.likelihoods.Likelihood) -> MLP:
    return MLP(2, W if isinstance(likelihood, Categorical) else 1, hidden=(5,), activation=nn.Tanh)


def divided(likelihood: bm.likelihoods.Likelihood) -> tuple[nn.Module, nn.Module]:
    network = whole(likelihood)
    return network.features, network.head


def some(count: int, seed: int = 0, classes: bool = False, tasks: int = 2) -> Points:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, count, 2, generator=g, dtype=torch.float64)
    y: Tensor = torch.randn(tasks, count, 1, generator=g, dtype=torch.float64)
    if classes:
        y = torch.randint(W, (tasks, count), generator=g)
    return Points(x, y, torch.ones(tasks, count, dtype=torch.bool))


def rows(given: Points, chosen: Any) -> Points:
    return Points(*(leaf[:, chosen] for leaf in given))


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
@pytest.mark.parametrize("classes", [False, True], ids=["numbers", "labels"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_through_the_whole_pass(name: str, classes: bool, strategy: bm.functional.Strategy) -> None:
    torch.manual_seed(0)
    if name == "OML, classes" and not classes:
        return
    learner = GRADIENTS[name](Categorical() if classes else Gaussian()).double()
    learner.strategy = strategy
    given = Episode(some(10, 0, classes), some(4, 1, classes))
    parameters = list(learner.parameters())
    found = gradient(learner.loss(given), parameters)
    directions = torch.randn(12, len(found), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = nn.utils.parameters_to_vector(parameters).detach().clone()

    def at(vector: Tensor) -> float:
        nn.utils.vector_to_parameters(vector, parameters)
        with torch.no_grad():
            return learner.loss(given).item()

    quotients = [(at(start + 1e-5 * each) - at(start - 1e-5 * each)) / 2e-5 for each in directions]
    assert relative_error(directions @ found, torch.tensor(quotients, dtype=torch.float64)) < 1e-6


def test_one_hundred_steps_in_order_are_torchs_own_and_their_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    learner = bm.OML(nn.Linear(2, 4), nn.Linear(4, W), Categorical()).double()
    support, query = some(100, 0, classes=True, tasks=1), some(5, 1, classes=True, tasks=1)
    weights = dict(learner.head.named_parameters())
    rates = dict(zip(weights, learner.rates, strict=True))
    for x, y in zip(support.x[0], support.y[0], strict=True):
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        error = nn.functional.cross_entropy(functional_call(learner.head, leaves, learner.features(x).detach()), y)
        slopes = torch.autograd.grad(error, list(leaves.values()))
        weights = {n: leaves[n] - rates[n] * slope for n, slope in zip(leaves, slopes, strict=True)}  # type: ignore[misc]
    expected = functional_call(learner.head, weights, learner.features(query.x[0])).log_softmax(-1)
    torch.testing.assert_close(learner(support)(query.x).logits[0].log_softmax(-1), expected)  # type: ignore[attr-defined]
    parameters = list(learner.parameters())
    slopes = finite_differences(lambda: learner.loss(Episode(support, query)).detach(), parameters)
    assert relative_error(gradient(learner.loss(Episode(support, query)), parameters), slopes) < 1e-6


class TestClasses:
    def test_every_class_begins_with_the_row_of_the_head_and_there_may_be_more_after_training(self) -> None:
        torch.manual_seed(0)
        learner = bm.OML(nn.Identity(), nn.Linear(2, 1), OneByOne(), classes=W).double()
        support, query = some(12, 0, classes=True), some(5, 1, classes=True)
        bm.fit(learner, [Episode(support, query)], steps=3, progress=False)
        by_hand = bm.OML(nn.Identity(), nn.Linear(2, 7), OneByOne()).double()
        with torch.no_grad():
            by_hand.head.weight.copy_(learner.head.weight.expand(7, -1))  # type: ignore[union-attr, arg-type]
            by_hand.head.bias.copy_(learner.head.bias.expand(7))  # type: ignore[union-attr, arg-type]
            for mine, given in zip(by_hand.rates, learner.rates, strict=True):
                mine.copy_(given.expand_as(mine))
        learner.classes = 7
        found, expected = learner(support)(query.x), by_hand(support)(query.x)
        torch.testing.assert_close(found.logits, expected.logits)  # type: ignore[attr-defined]
        assert found.logits.shape == (2, 5, 7)  # type: ignore[attr-defined]

    def test_labels_beyond_the_classes(self) -> None:
        learner = bm.OML(nn.Identity(), nn.Linear(2, 1), Categorical(), classes=2)
        with pytest.raises(ValueError, match=r"y: expected labels from 0"):
            learner(some(20, 0, classes=True))

    def test_a_head_that_is_not_of_one_output(self) -> None:
        for head in (nn.Linear(2, 3), MLP(2, 1)):
            with pytest.raises(
                ValueError, match=r"head: expected nn.Linear\(F, 1\) where there are classes.*leave classes out"
            ):
                bm.OML(nn.Identity(), head, Categorical(), classes=3)
        with pytest.raises(ValueError, match="classes: expected a whole number of at least 2, got 1"):
            bm.OML(nn.Identity(), nn.Linear(2, 1), Categorical(), classes=1)
        with pytest.raises(ValueError, match="points: expected a whole number of at least 1, got 0"):
            bm.OML(nn.Identity(), nn.Linear(2, 1), Categorical(), points=0)


def test_a_gate_multiplies_features_by_its_sigmoid() -> None:
    features, gate, x = nn.Linear(2, 4), nn.Linear(2, 4), torch.randn(5, 2)
    torch.testing.assert_close(Gated(features, gate)(x), features(x) / (1 + (-gate(x)).exp()))
    with pytest.raises(
        ValueError, match=r"gate: expected as many outputs as there are features, \(4,\) a point, got \(3,\)"
    ):
        Gated(features, nn.Linear(2, 3))(x)


def errors(network: nn.Module, weights: Params, given: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean of half squared errors, written anew."""
    return torch.stack([0.5 * (functional_call(network, weights, x) - y).square().sum() for x, y in given]).mean()


def pairs(points: Points, task: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(points.x[task], points.y[task], strict=True))


def moved(network: nn.Module, weights: Params, given: list[tuple[Tensor, Tensor]], rates: Params | float) -> Params:
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    slopes = torch.autograd.grad(errors(network, leaves, given), list(leaves.values()))
    step = {name: rates if isinstance(rates, float) else rates[name] for name in leaves}
    return {n: leaves[n].detach() - step[n] * slope for n, slope in zip(leaves, slopes, strict=True)}


class TestLaMAML:
    def test_its_step_is_the_look_aheads_gradient_by_finite_differences(self) -> None:
        """One update with a memory that is recalled as a whole: rates and weights move by the slopes of L(θ, α), written anew."""
        torch.manual_seed(0)
        network, size, task = MLP(2, 1, hidden=(3,), activation=nn.Tanh), 0.05, 1
        settings = {"rate": 0.2, "rate_of_rates": size, "points": 4, "memory": 20, "replay": 20}
        learner = bm.LaMAML(network, Gaussian(), clip=float("inf"), **settings).double()  # type: ignore[arg-type]
        first, second = some(8, 0), some(4, 1)
        before: Any = learner(first)
        after: Any = before.update(second)
        weights = {name: value[task].detach().clone() for name, value in before.weights.items()}
        rates = {name: before.carried[f"rate of {name}"][task].detach().clone() for name in weights}

        def ahead() -> Tensor:
            there = weights
            for pair in pairs(second, task):
                there = moved(network, there, [pair], rates)
            return errors(network, there, pairs(first, task) + pairs(second, task)).detach()

        for name, value in weights.items():
            by_rate = finite_differences(ahead, [rates[name]]).view_as(value)
            by_weight = finite_differences(ahead, [value]).view_as(value)
            new_rate = after.carried[f"rate of {name}"][task].detach()
            assert relative_error((rates[name] - new_rate) / size, by_rate) < 1e-6
            assert (
                relative_error((value - after.weights[name][task].detach()) / new_rate.clamp(min=1e-9), by_weight)
                < 1e-6
            )

    def test_a_long_gradient_is_shortened_to_the_norm_and_a_short_one_is_not(self) -> None:
        torch.manual_seed(0)
        network, given = MLP(2, 1, hidden=(3,), activation=nn.Tanh), some(3)
        moves = {}
        for clip in (0.01, 1e9, float("inf")):
            learner = bm.LaMAML(network, Gaussian(), rate=0.1, rate_of_rates=1.0, clip=clip, memory=0).double()
            posterior: Any = learner(given)
            rates = [posterior.carried[f"rate of {name}"] for name, _ in network.named_parameters()]
            moves[clip] = torch.cat([(0.1 - rate).flatten(1) for rate in rates], 1)
        torch.testing.assert_close(moves[0.01].norm(dim=1), torch.full((2,), 0.01, dtype=torch.float64))
        torch.testing.assert_close(moves[1e9], moves[float("inf")])
        direction = moves[float("inf")] / moves[float("inf")].norm(dim=1, keepdim=True)
        torch.testing.assert_close(moves[0.01], 0.01 * direction)

    def test_a_weight_whose_rate_fell_below_zero_stays(self) -> None:
        torch.manual_seed(0)
        learner = bm.LaMAML(
            MLP(2, 1, hidden=(3,)), Gaussian(), rate=0.01, rate_of_rates=5.0, points=2, clip=100.0
        ).double()
        before: Any = learner(some(6))
        after: Any = before.update(some(2, 1))
        below = 0
        for name, value in after.weights.items():
            stays = after.carried[f"rate of {name}"] <= 0
            assert torch.equal(value[stays], before.weights[name][stays])
            below += int(stays.sum())
        assert below


def test_mer_goes_a_part_of_the_way_that_single_steps_lead() -> None:
    torch.manual_seed(0)
    network = MLP(2, 1, hidden=(3,), activation=nn.Tanh)
    learner = bm.MER(network, Gaussian(), rate=0.1, part=0.4, memory=1, replay=1).double()
    given = some(2)
    posterior: Any = learner(given)
    for task in range(2):
        first, second = pairs(given, task)
        start = dict(network.named_parameters())
        there = moved(network, start, [first], 0.1)  # the memory is empty
        start = {name: value + 0.4 * (there[name] - value) for name, value in start.items()}
        there = moved(network, moved(network, start, [first], 0.1), [second], 0.1)
        for name, value in start.items():
            torch.testing.assert_close(posterior.weights[name][task], value + 0.4 * (there[name] - value))


def test_replay_steps_on_new_points_beside_old_ones_and_without_memory_on_the_new_alone() -> None:
    torch.manual_seed(0)
    network, given = MLP(2, 1, hidden=(3,), activation=nn.Tanh), some(4)
    for memory in (0, 9):
        learner = bm.ExperienceReplay(
            network, Gaussian(), steps=2, rate=0.1, points=2, memory=memory, replay=9
        ).double()
        posterior: Any = learner(given)
        for task in range(2):
            first, weights = pairs(given, task), dict(network.named_parameters())
            for lot in (first[:2], first if memory else first[2:]):
                for _ in range(2):
                    weights = moved(network, weights, lot, 0.1)
            for name, value in weights.items():
                torch.testing.assert_close(posterior.weights[name][task], value)


@pytest.mark.parametrize("name", GRADIENTS)
def test_rows_without_points_among_others_do_not_divide_the_pass_otherwise(name: str) -> None:
    torch.manual_seed(0)
    classes = name == "OML, classes"
    learner = GRADIENTS[name](Categorical() if classes else Gaussian()).double()
    given, further = some(5, classes=classes), some(4, seed=1, classes=classes)
    places = torch.tensor([1, 2, 4, 6, 7])
    apart = Points(*(torch.zeros_like(leaf[:, :1]).repeat(1, 8, *[1] * (leaf.dim() - 2)) for leaf in given))
    for whole, leaf in zip(apart, given, strict=True):
        whole[:, places] = leaf
    x = some(3).x
    for ours, theirs in (
        (learner(apart), learner(given)),
        (learner(further).update(apart), learner(further).update(given)),
    ):
        for mine, right in zip(*(kept(posterior(x)) for posterior in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("name", ["OML", "LaMAML", "MER", "ExperienceReplay"])
@pytest.mark.parametrize("first", [True, False], ids=["points first", "entries first"])
def test_masks_of_points_beside_masks_of_entries(name: str, first: bool) -> None:
    torch.manual_seed(0)
    learner = GRADIENTS[name](Gaussian()).double()
    plain, other = some(4), some(5, seed=1)
    entries = other._replace(mask=torch.arange(5)[None, :, None] != torch.tensor([1, 3])[:, None, None])
    entries = Points(entries.x * entries.mask, entries.y * entries.mask, entries.mask)
    each = plain._replace(mask=plain.mask[..., None])
    mixed, whole = ((plain, entries), (each, entries)) if first else ((entries, plain), (entries, each))
    mine, right = (learner(before).update(after)(plain.x).mean for before, after in (mixed, whole))
    torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("name", ["OML", "GeMCL", "PrototypicalNetwork"])
@pytest.mark.parametrize("number", [1, 2.5, "9", None])
def test_a_number_of_classes_that_was_set_anew_is_checked_at_a_call(name: str, number: Any) -> None:
    made: dict[str, Any] = {
        "OML": bm.OML(nn.Linear(2, 3), nn.Linear(3, 1), Categorical(), classes=W),
        "GeMCL": bm.GeMCL(nn.Linear(2, 3), 3, classes=W),
        "PrototypicalNetwork": bm.PrototypicalNetwork(nn.Linear(2, 3), classes=W),
    }
    learner, given = made[name].double(), some(4, classes=True)
    learner.classes = 9
    assert learner(given)(given.x).probs.shape == (2, 4, 9)
    learner.classes = number
    if name != "OML" or number is not None:  # without classes its head gives all outputs
        with pytest.raises(ValueError, match="classes: expected a whole number of at least 2"):
            learner(given)


def kept(prediction: Any) -> list[Tensor]:
    return (
        [prediction.mean, prediction.stddev]
        if not isinstance(prediction, torch.distributions.Categorical)
        else [prediction.probs]
    )


STREAM, KEPT, SEEDS = 12, 3, 600


def test_every_point_of_a_stream_is_kept_and_recalled_with_the_same_probability_however_it_comes() -> None:
    """Of 12 points 3 are kept and 2 of these recalled, by 600 seeds; Pearson's chi-squared.

    Were seeds drawn anew, each of the two would fail in one of 1,000 runs though all is right.
    """
    stream = Points(torch.arange(12.0)[None, :, None], torch.zeros(1, 12, 1), torch.ones(1, 12, dtype=torch.bool))
    kept, again = torch.zeros(STREAM), torch.zeros(KEPT)
    for seed in range(SEEDS):
        learner = bm.ExperienceReplay(nn.Linear(1, 1), Gaussian(), points=5, memory=KEPT, replay=0, seed=seed)
        with torch.no_grad():
            memory = learner(stream).memory  # type: ignore[attr-defined]
            if seed < 5:
                posterior: Any = learner(rows(stream, slice(0, 1)))
                for place in range(1, STREAM):
                    posterior = posterior.update(rows(stream, slice(place, place + 1)))
                assert torch.equal(posterior.memory.points.x, memory.points.x)
                assert int(posterior.memory.told) == STREAM
        kept[memory.points.x[0, :, 0].long()] += 1
        alone = type(memory)(Points(*(leaf[0] for leaf in memory.points)), memory.keys[0], memory.told[0])
        recalled = recall(alone, 2, seed).x[:, 0]
        again += torch.isin(alone.points.x[:, 0], recalled)
    # Without replacement: the variance of each count is (n - k) / (n - 1) of that of independent choices.
    for counts, chosen in ((kept, KEPT), (again, 2)):
        expected = SEEDS * chosen / len(counts)
        variance = expected * (1 - chosen / len(counts)) * len(counts) / (len(counts) - 1)
        statistic = ((counts - expected).square() / variance).sum().item()
        assert scipy.stats.chi2.sf(statistic, len(counts) - 1) > 1e-3


def test_hashed_numbers_are_uniform_and_independent_from_place_to_place() -> None:
    drawn = torch.stack([hashed(seed, stream, torch.arange(4000)) for seed in range(3) for stream in range(3)])
    assert all(scipy.stats.kstest(row.numpy(), "uniform").pvalue > 1e-3 for row in drawn)
    correlation = torch.corrcoef(torch.cat([drawn[:, 1:], drawn[:, :-1]]))
    assert (correlation - torch.eye(18)).abs().max() < 5 / 4000**0.5
    expected = torch.vmap(lambda stream: hashed(1, stream, torch.arange(5)))(torch.arange(2))
    assert torch.equal(expected[1], hashed(1, 1, torch.arange(5)))


def test_replay_keeps_what_fine_tuning_forgets() -> None:
    """One half of a function after the other: the error of the first half at the end."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 80)
    first, second = bm.points(x[:40], (2 * x[:40]).sin()), bm.points(x[40:], (2 * x[40:]).sin())
    network = MLP(1, 1, hidden=(30,), activation=nn.Tanh)
    found = {}
    with torch.no_grad():
        for memory in (0, 40):
            learner = bm.ExperienceReplay(network, Gaussian(), steps=50, rate=0.1, points=10, memory=memory, replay=40)
            mean: Any = learner(first).update(second)(first.x).mean
            found[memory] = (mean - first.y).square().mean().item()
    assert found[40] < 0.5 * found[0]


LEARNERS: dict[str, Callable[..., Learner]] = {
    "LaMAML": bm.LaMAML,
    "MER": bm.MER,
    "ExperienceReplay": bm.ExperienceReplay,
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(
    "settings",
    [{"points": 0}, {"memory": -1}, {"replay": 1.5}, {"seed": -1}, {"rate": -0.1}, {"rate": float("nan")}],
    ids=str,
)
def test_settings_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected a "):
        LEARNERS[name](nn.Linear(1, 1), Gaussian(), **settings)


@pytest.mark.parametrize("name", LEARNERS)
def test_batch_normalisation_is_refused(name: str) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1))
    with pytest.raises(
        ValueError, match=r"network: expected layers to which a point looks the same.*batch normalisation"
    ):
        LEARNERS[name](network, Gaussian())


def test_parts_and_rates_out_of_range() -> None:
    for part in (0.0, 1.5):
        with pytest.raises(ValueError, match="part: expected a number above 0 and at most 1"):
            bm.MER(nn.Linear(1, 1), Gaussian(), part=part)
    with pytest.raises(ValueError, match="rate_of_rates: expected a number above 0, got -1"):
        bm.LaMAML(nn.Linear(1, 1), Gaussian(), rate_of_rates=-1)
    with pytest.raises(ValueError, match="clip: expected a number above 0, got 0"):
        bm.LaMAML(nn.Linear(1, 1), Gaussian(), clip=0)
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 0, got -1"):
        bm.ExperienceReplay(nn.Linear(1, 1), Gaussian(), steps=-1)
