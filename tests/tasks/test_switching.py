"""Streams without boundaries: tasks that change without notice, and one that drifts, with their exact answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.data import join
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import NLL
from bayesmeta.tasks import DriftingSinusoids, GaussianProcessTasks, LinearGaussian, Sinusoids, Switching


def lines(shots: int = 1, queries: int = 1, batch: int = 4, **options: Any) -> Switching:
    given: dict[str, Any] = {"hazard": 0.2, "steps": 12, **options}
    return Switching(LinearGaussian(shots=shots, queries=queries, batch=batch, noise=0.1), **given)


def equal(first: list[Episode], second: list[Episode]) -> bool:
    return all(torch.equal(a.support.y, b.support.y) for a, b in zip(first, second, strict=True))


def test_each_part_is_of_the_task_that_holds_then_and_tasks_change_at_the_hazard() -> None:
    """Of exact lines two points tell the line: it is the same within a segment, and another in the next."""
    streams = Switching(LinearGaussian(shots=2, queries=1, batch=200, noise=1e-6), hazard=0.2, steps=20, seed=1)
    segments, parts = streams.segments(3), streams.parts(3)
    found = []
    for support, query in parts:
        slope = (support.y[:, 1] - support.y[:, 0]) / (support.x[:, 1] - support.x[:, 0])
        well = ((support.x[:, 1] - support.x[:, 0]).abs() > 0.2)[:, 0]
        level = support.y[:, 0] - slope * support.x[:, 0]
        torch.testing.assert_close(query.y[well, 0], (level + slope * query.x[:, 0])[well], rtol=0, atol=1e-3)
        found.append(torch.where(well[:, None], slope, torch.nan)[:, 0])
    slopes = torch.stack(found, 1)
    changed = segments.diff(dim=1) > 0
    moved = slopes.diff(dim=1).abs()
    assert (moved[~changed].nan_to_num(0.0) < 1e-3).all()
    assert (moved[changed].nan_to_num(1.0) > 1e-3).all()
    assert segments[:, 0].eq(0).all()
    assert scipy.stats.binomtest(int(changed.sum()), changed.numel(), 0.2).pvalue > 0.01


def test_parts_depend_on_seed_and_index_alone_and_join_to_their_episode() -> None:
    for streams, other in (
        (lines(shots=2), lines(shots=2, seed=1)),
        (DriftingSinusoids(steps=4, batch=3), DriftingSinusoids(steps=4, batch=3, seed=1)),
    ):
        torch.manual_seed(1)
        expected = streams.parts(4)
        torch.manual_seed(2)
        assert equal(streams.parts(4), expected)
        assert torch.equal(join(expected).query.y, streams[4].query.y)
        assert not equal(streams.parts(5), expected)
        assert not equal(other.parts(4), expected)
    assert torch.equal(lines().segments(2), lines().segments(2))


def test_who_knows_of_changes_answers_from_the_points_of_the_present_task() -> None:
    streams = lines(shots=2, queries=3)
    segments, parts = streams.segments(0), streams.parts(0)
    for t, (posterior, part) in enumerate(zip(streams.informed(0), parts, strict=True)):
        found: Any = posterior(part.query.x)
        for b in range(4):
            earlier = [parts[s].support for s in range(t) if segments[b, s] == segments[b, t]]
            x = torch.cat([given.x[b] for given in earlier]) if earlier else torch.zeros(0, 1)
            y = torch.cat([given.y[b] for given in earlier]) if earlier else torch.zeros(0, 1)
            phi = torch.cat([x, torch.ones(len(x), 1)], 1).double()
            precision = torch.eye(2).double() + phi.T @ phi / 0.01
            mean = torch.linalg.solve(precision, phi.T @ y.double() / 0.01)
            asked = torch.cat([part.query.x[b], torch.ones(3, 1)], 1).double()
            torch.testing.assert_close(found.mean[b].double(), asked @ mean, rtol=1e-5, atol=1e-5)


def test_the_oracle_is_near_who_knows_of_changes_and_far_above_who_believes_in_none() -> None:
    streams = Switching(LinearGaussian(shots=1, queries=1, batch=20, noise=0.1, seed=2), hazard=0.05, steps=40, seed=2)
    kept = evaluate_stream(
        streams.oracle, streams, episodes=2, metrics=[NLL()], at=[39], together=False, progress=False
    )
    assert kept.ahead is not None
    blind = evaluate_stream(
        streams.tasks.oracle, streams, episodes=2, metrics=[NLL()], at=[39], together=False, progress=False
    )
    assert blind.ahead is not None
    told = [
        NLL().statistic(posterior(part.query.x), part.query)
        for index in (0, 1)
        for t, (posterior, part) in enumerate(zip(streams.informed(index), streams.parts(index), strict=True))
        if t
    ]
    known = NLL().reduce(torch.cat(told).sum(0)).item()
    assert known < kept.ahead["NLL"].value < known + 0.25
    assert blind.ahead["NLL"].value > known + 5


def test_other_tasks_may_switch_too() -> None:
    streams = Switching(GaussianProcessTasks(RBFKernel(), batch=2, shots=2, queries=2), steps=3)
    first, second, third = streams.parts(0)
    assert streams.oracle(first.support).update(second.support)(third.query.x).batch_shape == (2, 2)
    waves = Switching(Sinusoids(noise=0.5, batch=2, shots=1, queries=1), steps=3)
    assert len(waves.informed(0)) == 3
    with pytest.raises(NotImplementedError, match="update: expected a posterior that can be told further points"):
        waves.oracle(waves.parts(0)[0].support)


def kalman(streams: DriftingSinusoids, parts: list[Episode], b: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each part's queries right before it comes, by a filter in (a, b)."""

    def wave(x: Tensor) -> np.ndarray:
        u = x[:, 0].double().numpy()
        return np.stack([np.sin(u), np.cos(u)], 1)

    stay, found = math.exp(-1 / streams.memory), []
    mean, covariance = np.zeros(2), streams.scale**2 * np.eye(2)
    for part in parts:
        asked = wave(part.query.x[b])
        spread = np.einsum("mi,ij,mj->m", asked, covariance, asked) + streams.noise**2
        found.append((asked @ mean, np.sqrt(spread)))
        phi, y = wave(part.support.x[b]), part.support.y[b, :, 0].double().numpy()
        gain = covariance @ phi.T @ np.linalg.inv(phi @ covariance @ phi.T + streams.noise**2 * np.eye(len(y)))
        mean, covariance = mean + gain @ (y - phi @ mean), covariance - gain @ phi @ covariance
        mean = stay * mean
        covariance = stay**2 * covariance + (1 - stay**2) * streams.scale**2 * np.eye(2)
    return found


def test_the_oracle_of_drifting_sinusoids_is_the_kalman_filter() -> None:
    streams = DriftingSinusoids(scale=1.5, memory=4.0, noise=0.2, steps=6, batch=3, shots=3, queries=2)
    parts = [
        Episode(*(given._replace(x=given.x.double(), y=given.y.double()) for given in p)) for p in streams.parts(1)
    ]
    expected = [kalman(streams, parts, b) for b in range(3)]
    posterior = streams.oracle(parts[0].support)
    for t in range(1, 6):
        found: Any = posterior(parts[t].query.x)
        for b in range(3):
            mean, deviation = expected[b][t]
            np.testing.assert_allclose(found.mean[b, :, 0].detach(), mean, rtol=0, atol=2e-6)
            np.testing.assert_allclose(found.stddev[b, :, 0].detach(), deviation, rtol=0, atol=2e-6)
        posterior = posterior.update(parts[t].support)


def test_the_past_of_a_drift_is_a_question_with_an_answer() -> None:
    """Told what came after, the oracle knows each part better than when it had just come; and has no gap."""
    streams = DriftingSinusoids(steps=8, batch=30, shots=2, memory=4.0)
    kept = evaluate_stream(streams.oracle, streams, episodes=2, progress=False)
    assert kept.backward["NLL"].low > 0
    assert abs(kept.gap["NLL"].value) < 1e-3
    assert 0.85 < kept.final["90% coverage"].value < 0.95
    assert kept.ahead is not None
    assert kept.ahead["NLL"].value > kept.final["NLL"].value


def test_weights_drift_as_they_are_said_to() -> None:
    """The correlation of parts k apart, by noise-free pairs of points."""
    streams = DriftingSinusoids(scale=2.0, memory=3.0, noise=1e-6, steps=5, batch=2000, shots=1)
    first = streams.parts(0)[0].support
    for t, part in enumerate(streams.parts(0)):
        given = part.support
        covariance = 4 * (given.x[..., 0] - first.x[..., 0]).cos() * math.exp(-t / 3)
        expected, product = covariance.mean().item(), (given.y * first.y)[..., 0]
        assert abs(product.mean().item() - expected) < 4 * product.std().item() / math.sqrt(2000)
        weighed = (product * covariance.sign()).mean().item()
        assert abs(weighed - covariance.abs().mean().item()) < 4 * product.std().item() / math.sqrt(2000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hazard": 0.0}, "hazard: expected a probability strictly between 0 and 1, got 0.0"),
        ({"hazard": 1}, "hazard: expected a probability"),
        ({"steps": 1}, "steps: expected a whole number of at least 2, got 1"),
        ({"shots": 0}, "tasks: expected one number of shots of at least 1, the points of a part, got 0"),
        ({"shots": (1, 5)}, r"tasks: expected one number of shots .* got \(1, 5\)"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lines(**options)


def test_tasks_without_an_oracle_are_no_tasks_to_switch() -> None:
    with pytest.raises(TypeError, match=r"tasks: expected a source of tasks with an oracle, .* got ClassTasks"):
        Switching(bm.tasks.ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, queries=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale: expected a number above 0, got 0.0"),
        ({"memory": -1.0}, "memory: expected a number above 0"),
        ({"noise": 0.0}, "noise: expected a number above 0"),
        ({"noise": math.inf}, "noise: expected a number above 0"),
        ({"steps": 1}, "steps: expected a whole number of at least 2"),
        ({"shots": 0}, "shots: expected a whole number of at least 1"),
        ({"queries": 0}, "queries: expected a whole number of at least 1"),
        ({"batch": 0}, "batch: expected a whole number of at least 1"),
    ],
)
def test_bad_settings_of_a_drift(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftingSinusoids(**options)
