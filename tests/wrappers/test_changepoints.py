"""Changepoints: a filter over when the present task began."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Changepoints, Learner, Points
from bayesmeta.data import concatenate
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import NLL
from bayesmeta.posteriors import Runs
from bayesmeta.tasks import LinearGaussian, Switching

B, HAZARD = 2, 0.3


def alpaca() -> Learner:
    torch.manual_seed(1)
    return bm.ALPaCA(nn.Sequential(nn.Linear(1, 3), nn.Tanh()), nn.Linear(3, 1), bm.likelihoods.Gaussian(0.4)).double()


def prototypes() -> Learner:
    torch.manual_seed(1)
    return bm.PrototypicalNetwork(nn.Linear(1, 2), classes=3).double()


def part(count: int, seed: int, classes: bool = False) -> Points:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, count, 1, generator=generator).double()
    y: Tensor = torch.randn(B, count, 1, generator=generator).double()
    y = torch.randint(3, (B, count), generator=generator) if classes else y
    return Points(x, y, torch.ones(B, count, dtype=torch.bool))


def nothing(like: Points) -> Points:
    return Points(*(torch.zeros_like(leaf[:, :1]) for leaf in like))


def told(learner: Learner, parts: list[Points]) -> Any:
    posterior = learner(parts[0])
    for each in parts[1:]:
        posterior = posterior.update(each)
    return posterior


def joint(learner: Learner, points: Points, known: Points) -> Tensor:
    """log p of a part's points given others, one after the other, ``(B,)``."""
    total = torch.zeros(B).double()
    for n in range(points.mask.shape[1]):
        one = Points(*(leaf[:, n : n + 1] for leaf in points))
        total = total + learner(known)(one.x).log_prob(one.y)[:, 0]
        known = concatenate(known, one)
    return total


def summed(learner: Learner, parts: list[Points], query: Points, hazard: float) -> tuple[Tensor, Tensor]:
    """log p of the query before the next part, and of all parts, by the sum over all segmentations of these and of the query."""
    answers, evidence = [], []
    for changes in itertools.product(
        (False, True), repeat=len(parts)
    ):  # before each part but the first, and before the query
        weight = sum(math.log(hazard if change else 1 - hazard) for change in changes)
        known, log_p = nothing(query), torch.zeros(B).double()
        for t, each in enumerate(parts):
            known = nothing(query) if t and changes[t - 1] else known
            log_p = log_p + joint(learner, each, known)
            known = concatenate(known, each)
        known = nothing(query) if changes[-1] else known
        answers.append(weight + log_p[:, None] + learner(known)(query.x).log_prob(query.y))
        evidence.append(weight + log_p)
    total = torch.stack(evidence).logsumexp(0)
    return torch.stack(answers).logsumexp(0) - total[:, None], total


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1, 1), (3, 1, 2, 4)])
@pytest.mark.parametrize("classes", [False, True])
def test_it_is_the_sum_over_all_segmentations(counts: tuple[int, ...], classes: bool) -> None:
    """With its gradient."""
    inner = prototypes() if classes else alpaca()
    parts, query = [part(count, seed, classes) for seed, count in enumerate(counts)], part(5, 9, classes)
    posterior = told(Changepoints(inner, HAZARD), parts)
    found = posterior(query.x).log_prob(query.y)
    expected, evidence = summed(inner, parts, query, HAZARD)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(posterior.evidence, evidence, rtol=0, atol=1e-9)
    assert posterior.log_weights.shape == (B, len(counts) + 1)
    torch.testing.assert_close(posterior.log_weights.exp().sum(1), torch.ones(B).double())
    parameters = list(inner.parameters())
    for mine, other in ((found, expected), (posterior.evidence, evidence)):
        slopes = (torch.autograd.grad(of.sum(), parameters, retain_graph=True) for of in (mine, other))
        for ours, theirs in zip(*slopes, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_a_part_longer_than_a_block_is_weighed_as_its_points_in_turn() -> None:
    inner, long, query = alpaca(), part(70, 0), part(2, 9)
    found = told(Changepoints(inner, HAZARD), [part(2, 1), long])
    expected, evidence = summed(inner, [part(2, 1), long], query, HAZARD)
    torch.testing.assert_close(found(query.x).log_prob(query.y), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.evidence, evidence, rtol=0, atol=1e-8)


def test_no_time_passes_for_a_task_without_a_point() -> None:
    """Task 0 is told parts 0 and 2, task 1 parts 1 and 2; the empty ones change nothing, at the start or later."""
    learner, query = Changepoints(alpaca(), HAZARD), part(3, 9)
    parts = [part(2, seed) for seed in range(3)]
    for t, there in ((0, [True, False]), (1, [False, True])):
        mask = parts[t].mask & torch.tensor(there)[:, None]
        parts[t] = Points(parts[t].x * mask[..., None], parts[t].y * mask[..., None], mask)
    posterior = told(learner, parts)
    for b, mine in ((0, [0, 2]), (1, [1, 2])):
        alone = told(learner, [Points(*(leaf[b : b + 1] for leaf in parts[t])) for t in mine])
        torch.testing.assert_close(
            posterior(query.x).log_prob(query.y)[b], alone(query.x[b : b + 1]).log_prob(query.y[b : b + 1])[0]
        )
        torch.testing.assert_close(posterior.evidence[b], alone.evidence[0])
        torch.testing.assert_close(posterior.log_weights[b].exp().sum(), torch.tensor(1.0).double())


@pytest.mark.parametrize("capacity", [None, 2])
def test_lengths_say_of_how_many_of_the_last_parts_a_run_is(capacity: int | None) -> None:
    learner, parts = alpaca(), [part(1, seed) for seed in range(5)]
    posterior = told(Changepoints(learner, HAZARD, capacity), parts)
    assert posterior.lengths.shape == posterior.log_weights.shape
    assert (posterior.lengths[:, 0] == 0).all()
    x = part(3, 9).x
    answers = posterior._by_run(posterior.runs._predictive(posterior._each(x))).mean  # (K, B, M, 1)
    for task, run in itertools.product(range(B), range(1, posterior.lengths.shape[1])):
        last = parts[-int(posterior.lengths[task, run]) :]
        torch.testing.assert_close(answers[run, task], told(learner, last)(x).mean[task])
    if capacity is None:
        assert posterior.lengths.tolist() == [list(range(6))] * B
    still = posterior.update(nothing(parts[0]))  # no point has come, and no time has passed
    torch.testing.assert_close(still(x).mean, posterior(x).mean)
    believed = still.log_weights.exp() > 0
    assert still.lengths[believed].tolist() == posterior.lengths.flatten().tolist()


def test_functions_are_draws_from_the_mixture() -> None:
    """Their mean is the prediction, and each keeps to one run: the law of total variance holds."""
    posterior = told(Changepoints(alpaca(), HAZARD), [part(1, seed) for seed in range(4)])
    x = part(3, 9).x
    torch.manual_seed(0)
    draws, predictive = posterior.draws(x, 20_000), posterior(x)
    deviation = predictive.stddev / math.sqrt(20_000)
    assert ((draws.mean.mean(0) - predictive.mean).abs() < 5 * deviation).all()
    parts = posterior.decompose(x)
    torch.testing.assert_close(parts.total, predictive.variance)
    torch.testing.assert_close(parts.epistemic, draws.mean.var(0), rtol=0.05, atol=1e-3)
    own = torch.cat([x, x], 1).expand(7, -1, -1, -1)
    functions = posterior.functions(7)
    torch.testing.assert_close(functions(own).mean[..., :3, :], functions(x).mean)


def test_a_capacity_keeps_the_likeliest_runs_and_says_what_the_others_weighed() -> None:
    inner, query, parts = alpaca(), part(3, 9), [part(1, seed) for seed in range(8)]
    whole = told(Changepoints(inner, HAZARD), parts)
    errors = []
    for capacity in (2, 4, 8):
        posterior = told(Changepoints(inner, HAZARD, capacity=capacity), parts)
        assert posterior.log_weights.shape == (B, min(capacity, 8) + 1)
        torch.testing.assert_close(posterior.log_weights.exp().sum(1), torch.ones(B).double())
        errors.append((posterior(query.x).mean - whole(query.x).mean).abs().max().item())
        assert (posterior.dropped >= 0).all()
        assert (posterior.dropped < 0.9).all()
    assert errors[0] > errors[1] > errors[2] == 0.0
    assert posterior.dropped.tolist() == [0.0, 0.0]
    # By hand: of three parts the second update leaves out the run that weighs least of three.
    three, two = told(Changepoints(inner, HAZARD), parts[:3]), told(Changepoints(inner, HAZARD, capacity=2), parts[:3])
    belief = three.log_weights[:, 1:].softmax(1)
    torch.testing.assert_close(two.dropped, belief.min(1).values)
    left = belief.topk(2).values.sort().values / (1 - belief.min(1, keepdim=True).values)
    torch.testing.assert_close(two.log_weights[:, 1:].exp().sort().values, (1 - HAZARD) * left)


def test_it_foretells_switching_lines_nearly_as_who_knows_of_changes() -> None:
    """A learner that has the lines' prior is the oracle."""
    streams = Switching(LinearGaussian(shots=1, queries=1, batch=20, noise=0.1, seed=5), hazard=0.05, steps=60, seed=5)
    line = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian(0.1), prior_scale=1.0)
    with torch.no_grad():
        for parameter in (line.head.weight, line.head.bias):
            parameter.zero_()

    def ahead(learner: Any) -> float:
        kept = evaluate_stream(learner, streams, episodes=1, metrics=[NLL()], at=[59], together=False, progress=False)
        assert kept.ahead is not None
        return kept.ahead["NLL"].value

    told_of_changes = [
        NLL().statistic(posterior(asked.query.x), asked.query)
        for posterior, asked in list(zip(streams.informed(0), streams.parts(0), strict=True))[1:]
    ]
    known = NLL().reduce(torch.cat(told_of_changes).sum(0)).item()
    with torch.no_grad():
        assert known < ahead(Changepoints(line, 0.05, capacity=20)) < known + 0.25
        assert ahead(streams.oracle) == pytest.approx(ahead(Changepoints(line, 0.05)), abs=1e-4)
        assert ahead(line) > known + 2


def test_any_learner_that_can_be_told_more_and_wrappers_around_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(5,))
    inner: dict[str, Learner] = {
        "MAML": bm.MAML(network, bm.likelihoods.Gaussian(), steps=2),
        "ABML": bm.ABML(network, bm.likelihoods.Gaussian(), steps=2),
        "DKT": bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian()),
        "CNP": bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(1, 1, 6), bm.networks.MLP(7, 1), bm.likelihoods.Gaussian()
        ),
        "Rehearsal": bm.Rehearsal(bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Poisson()), capacity=4),
        "Ensemble": bm.Ensemble([alpaca(), alpaca()]),
    }
    for learner in inner.values():
        changing = Changepoints(learner, 0.1, capacity=3).double()
        given = [part(2, seed) for seed in range(5)]
        if learner is inner["Rehearsal"]:
            given = [each._replace(y=each.y.abs().floor()) for each in given]
        posterior = told(changing, given)
        assert posterior(given[0].x).log_prob(given[0].y).isfinite().all()
        assert posterior.draws(given[0].x, 3).batch_shape == (3, B, 2)
    scaled = bm.Standardized(Changepoints(alpaca(), 0.1), x_loc=1.0, x_scale=2.0, y_loc=3.0, y_scale=4.0).double()
    parts = [part(1, seed) for seed in range(4)]
    by_hand = told(
        Changepoints(alpaca(), 0.1), [Points((each.x - 1) / 2, (each.y - 3) / 4, each.mask) for each in parts]
    )
    torch.testing.assert_close(
        told(scaled, parts)(parts[0].x).log_prob(parts[0].y),
        by_hand((parts[0].x - 1) / 2).log_prob((parts[0].y - 3) / 4) - math.log(4),
    )


def test_gradients_flow_through_weights_and_predictions() -> None:
    """Finite differences by each parameter of the learner."""
    inner, parts, query = alpaca(), [part(1, seed) for seed in range(4)], part(3, 9)

    def value() -> Tensor:
        return told(Changepoints(inner, HAZARD, capacity=2), parts)(query.x).log_prob(query.y).sum()

    slopes = torch.autograd.grad(value(), list(inner.parameters()))
    generator = torch.Generator().manual_seed(3)
    for parameter, slope in zip(inner.parameters(), slopes, strict=True):
        way = torch.randn(parameter.shape, generator=generator).double()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(1e-5 * sign * way)
                ends.append(value())
                parameter.sub_(1e-5 * sign * way)
        torch.testing.assert_close((slope * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("hazard", [0.02, 0.3])
def test_the_hazard_of_streams_is_found_to_a_factor_of_two(hazard: float) -> None:
    """Without knowing where tasks change; and by capacity too."""
    line = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian(0.1), prior_scale=1.0)
    with torch.no_grad():
        for parameter in (line.head.weight, line.head.bias):
            parameter.zero_()
    streams = Switching(LinearGaussian(shots=1, queries=1, batch=20, noise=0.1), hazard=hazard, steps=40, seed=6)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = Changepoints.from_streams(line, streams, capacity=8, episodes=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert hazard / 2 < found.hazard < hazard * 2
    assert found.capacity == 8
    assert found.learner is line


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match=r"learner: expected a learner such as ALPaCA\(...\), got Linear"):
        Changepoints(nn.Linear(1, 1), 0.1)  # type: ignore[arg-type]
    for hazard in (0.0, 1.0, -0.1, "often", torch.nan):
        with pytest.raises(ValueError, match="hazard: expected a probability strictly between 0 and 1"):
            Changepoints(alpaca(), hazard)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match="streams: expected a source of streams, whose episodes have parts, got LinearG"
    ):
        Changepoints.from_streams(alpaca(), LinearGaussian())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="learner: expected a learner"):
        Changepoints.from_streams(nn.Linear(1, 1), Switching(LinearGaussian()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes: expected 1 to"):
        Changepoints.from_streams(alpaca(), Switching(LinearGaussian()), episodes=0)
    with pytest.raises(ValueError, match="capacity: expected a whole number of at least 1, got 0"):
        Changepoints(alpaca(), 0.1, capacity=0)
    with pytest.raises(NotImplementedError, match=r"update: expected .* got .*Rehearsal\(learner"):
        Changepoints(bm.PLATIPUS(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), 0.1)(bm.points([0.0], [0.0]))
    posterior = Changepoints(alpaca(), 0.1)(part(2, 0))
    assert isinstance(posterior, Runs)
    with pytest.raises(ValueError, match="points: expected further points of the 2 tasks of the support, got 1 tasks"):
        posterior.update(Points(*(leaf[:1] for leaf in part(2, 1))))
    with pytest.raises(NotImplementedError, match="joint: expected a posterior whose functions are Gaussian"):
        posterior.joint(part(2, 1).x)
    with pytest.raises(ValueError, match=r"points\.y: expected labels|y: expected labels 0 to 2"):
        told(Changepoints(prototypes(), 0.1), [part(2, 0, True), part(2, 1, True)._replace(y=torch.full((B, 2), 7))])


def test_points_that_no_run_allows_for_are_refused() -> None:
    """Weights of runs would else be NaN from then on."""
    learner = Changepoints(bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian(1e-3)), 0.1)
    posterior = learner(bm.points([0.0], [0.0]))
    with pytest.raises(
        ValueError, match=r"points: expected predictions that allow for the points, got log p of -inf at task 0"
    ):
        posterior.update(bm.points([0.0], [1e18]))
