"""One call from a table to a learner: what it chooses by, what it reports, and what it refuses."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.automatic.choice import best_shares, shrunk_temperature
from bayesmeta.automatic.copies import Copies
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import MEMBERS
from bayesmeta.automatic.run import Run
from bayesmeta.automatic.whole import judged, narrowed, whole
from bayesmeta.metrics import NLL, Coverage, difference
from bayesmeta.tasks import LinearGaussian
from bayesmeta.warps import Log


def arrays(tasks: int = 10, points: int = 7, offset: float = 10.0, targets: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Lines that differ, with noise: inputs, targets above 0 where the offset is 10, and the task of each row."""
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(tasks, points, 2, generator=draw)
    slope, noise = torch.randn(tasks, 1, targets, generator=draw), torch.randn(tasks, points, targets, generator=draw)
    y = offset + slope * x[..., :1] + x[..., 1:] + 0.1 * noise
    return x.flatten(0, 1), y.flatten(0, 1), torch.arange(tasks).repeat_interleave(points)


def source(shots: tuple[int, int] = (1, 4), **settings: Any) -> bm.tasks.ArrayTasks:
    return bm.tasks_from_arrays(*arrays(**settings), shots=shots)


def fitted(tasks: bm.tasks.ArrayTasks, **settings: Any) -> bm.AutoFit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few tasks, and few steps
        return bm.autofit(tasks, **{"steps": 3, "progress": False, **settings})


@pytest.fixture(scope="module")
def learner() -> bm.AutoFit:
    return fitted(source())


def log_prob(learner: bm.Learner, tasks: bm.tasks.ArrayTasks) -> Tensor:
    support, query = tasks[0]
    with torch.no_grad():
        found: Tensor = learner(support)(query.x).log_prob(query.y)
    return found


@pytest.mark.parametrize("name", MEMBERS)
def test_copies_answer_and_learn_as_the_learners_by_themselves(name: str) -> None:
    copies, tasks, targets = 3, 4, 2
    learners = [MEMBERS[name].build(2, targets) for _ in range(copies)]
    with torch.no_grad():
        for each in learners:
            for parameter in each.parameters():
                parameter += 0.1 * torch.randn_like(parameter)

    def some(points: int) -> bm.Points:
        mask = torch.rand(copies, tasks, points) < 0.7
        mask[..., 0] = True
        x, y = torch.randn(copies, tasks, points, 2), torch.randn(copies, tasks, points, targets)
        return bm.Points(x * mask[..., None], y * mask[..., None], mask)

    episode = bm.Episode(some(4), some(6))
    together = Copies(learners, lambda: MEMBERS[name].build(2, targets))
    found = together.nll(episode)
    (slope,) = torch.autograd.grad(found.mean(1).sum(), together.weights)
    for place, each in enumerate(learners):
        mine = bm.Episode(*(bm.Points(*(leaf[place] for leaf in part)) for part in episode))
        loss = each.loss(mine)
        torch.testing.assert_close(found[place].mean(), loss, rtol=1e-5, atol=1e-6)
        parameters = list(each.parameters())
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(slope[place], torch.cat([s.flatten() for s in slopes]), rtol=1e-4, atol=1e-5)
        again = together.learner(place, together.weights)
        torch.testing.assert_close(again.loss(mine), loss, rtol=1e-5, atol=1e-6)


def test_shares_are_those_of_a_flat_dirichlet() -> None:
    # Of two tasks the weights are u and 1 - u with u uniform: the first learner is better where u < 3 (1 - u), u < 3/4.
    shares = best_shares(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), seed=0)
    assert shares.sum() == 1
    assert shares[0].item() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000))  # one in 16,000 fails
    # By hand: the same weights, and for each the lowest sum.
    sums = torch.rand(6, 4, dtype=torch.float64)
    weights = -torch.log1p(-torch.rand(4000, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    best = [int((row[:, None] * sums).sum(0).argmin()) for row in weights]
    counts = torch.tensor([best.count(k) / 4000 for k in range(4)])
    counts[counts < 0.01] = 0
    torch.testing.assert_close(best_shares(sums, seed=7), (counts / counts.sum()).double())


def test_temperatures_shrink_where_tasks_are_few() -> None:
    # Normals of standard deviation 1 whose errors have s = 2: the NLL is log τ + s² / (2 τ²), and T slope + log τ / 0.2² = 0.
    def nll(temperature: float) -> float:
        return math.log(temperature) + 4 / (2 * temperature**2)

    found = {tasks: shrunk_temperature(nll, tasks) for tasks in (1, 10, 100_000)}
    for tasks, value in found.items():
        assert tasks * (1 - 4 / value**2) + math.log(value) / 0.04 == pytest.approx(0, abs=0.2 * (tasks + 25))
    assert 1 < found[1] < found[10] < found[100_000]
    assert found[100_000] == pytest.approx(2, abs=0.04)


def test_copies_together_are_as_far_off_as_they_say() -> None:
    # 5 copies, each off by a common error of variance 1 and one of its own of 0.2, and each right to say 1.2. The error of their
    # mean has 1 + 0.2 / 5, and so must their mixture. Of 200,000 points: 4 standard errors.
    common, own = torch.randn(200_000), 0.2**0.5 * torch.randn(5, 200_000)
    factor = narrowed(own, torch.full_like(own, 1.2)).square().mean()
    said = factor * 1.2 + own.var(0, correction=0).mean()
    off = (common + own.mean(0)).square().mean()
    assert said.item() == pytest.approx(1.04, abs=0.005)
    assert off.item() == pytest.approx(said.item(), abs=0.02)


def test_the_report_says_what_evaluate_says() -> None:
    # 10 tasks in 5 folds: every held-out row counts. Each member's figure is in the user's units, also of logarithms.
    tasks = source()
    run = Run(Folds(tasks, 5, [None, Log(top=40.0)], seed=0), ["line", "line + smooth function"], 3)
    run.train(progress=False)
    episodes = [bm.Episode(*(bm.Points(*(leaf[k] for leaf in part)) for part in run.asked.plain)) for k in range(5)]
    counts = [int(episode.query.mask.sum()) for episode in episodes]

    def by_evaluate(shares: Tensor, name: str) -> float:
        each = [bm.evaluate(whole(run, shares, 1.2, [k]), [episodes[k]], episodes=1)[name].value for k in range(5)]  # type: ignore[arg-type]
        return sum(value * count for value, count in zip(each, counts, strict=True)) / sum(counts)

    shares = torch.tensor([[0.3, 0.2], [0.1, 0.4]])
    nll, coverage = judged(run, shares, 1.2, [NLL(), Coverage(0.9)])
    assert float(NLL().reduce(nll.sum(0))) == pytest.approx(by_evaluate(shares, "NLL"), abs=1e-5)
    assert float(Coverage().reduce(coverage.sum(0))) == pytest.approx(by_evaluate(shares, "90% coverage"), abs=1e-6)
    for member in range(2):
        for place in range(2):
            one = torch.zeros(2, 2)
            one[member, place] = 1
            rows = judged(run, one, 1.0, [NLL()])[0]
            assert float(rows[:, 0].sum()) == pytest.approx(float(run.sums[member, place].sum()), rel=1e-5)


def test_weights_count_the_members(learner: bm.AutoFit) -> None:
    report = learner.report()
    assert sum(report.weights) == pytest.approx(1)
    assert len(learner.learner.learners) == sum(weight > 0 for weight in report.weights)  # type: ignore[union-attr, arg-type]
    assert {len(each) for each in (report.members, report.steps, report.member_nll, report.weights)} == {10}
    assert "temperature" in str(report)
    assert "90% coverage" in str(report)


def test_the_same_seed_gives_the_same_learner(learner: bm.AutoFit) -> None:
    before = torch.get_rng_state()
    again = fitted(source())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(log_prob(learner, source()), log_prob(again, source()))
    assert not torch.equal(log_prob(learner, source()), log_prob(fitted(source(), seed=1), source()))


def test_a_file_gives_it_back(learner: bm.AutoFit, tmp_path: Path) -> None:
    bm.save(learner, tmp_path / "all.bayesmeta")
    again = bm.load(tmp_path / "all.bayesmeta")
    assert torch.equal(log_prob(learner, source()), log_prob(again, source()))
    assert again.report() == learner.report()


def test_an_interrupted_run_ends_with_the_same_bits(
    learner: bm.AutoFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, made = Run._advance, []

    def broken_off(self: Run) -> None:
        made.append(self.step)
        if len(made) == 3:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(Run, "_advance", broken_off)
    with pytest.raises(KeyboardInterrupt):
        fitted(source(), checkpoint=tmp_path)
    again = fitted(source(), checkpoint=tmp_path)
    assert made == [0, 1, 2, 2]
    assert torch.equal(log_prob(learner, source()), log_prob(again, source()))
    assert torch.equal(log_prob(fitted(source(), checkpoint=tmp_path), source()), log_prob(learner, source()))
    with pytest.raises(ValueError, match=r"checkpoint: expected the run .* whose steps is 3, got 4"):
        fitted(source(), checkpoint=tmp_path, steps=4)
    with pytest.raises(ValueError, match="whose tasks is"):
        fitted(source(offset=11.0), checkpoint=tmp_path)


def test_logarithms_only_where_targets_are_positive() -> None:
    assert not any("log" in name for name in fitted(source(offset=0.0), steps=1).report().members)
    assert sum("log" in name for name in fitted(source(), steps=1).report().members) == 5
    assert "neural process" not in fitted(source(tasks=4), steps=1).report().members


def test_it_can_be_told_more(learner: bm.AutoFit) -> None:
    support, query = source(shots=(4, 4))[0]
    first, rest = (bm.Points(*(leaf[:, part] for leaf in support)) for part in (slice(2), slice(2, None)))
    with torch.no_grad():
        found = learner(first).update(rest)(query.x).log_prob(query.y)
        wanted = learner(support)(query.x).log_prob(query.y)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_forecasts_learn_from_the_earliest_points() -> None:
    x, y, task = arrays()
    day = torch.arange(len(y)).flip(0)
    tasks = bm.tasks_from_arrays(x, y, task, order=day, shots=2)
    folds = Folds(tasks, 5, [None], seed=0)
    asked = folds.asking()
    for fold in range(5):
        for place, name in enumerate(asked.tasks[fold].tolist()):
            mine = y[task == name].flip(0)  # in time
            assert torch.equal(asked.plain.support.y[fold, place], mine[:2])
            assert torch.equal(asked.plain.query.y[fold, place][asked.plain.query.mask[fold, place]], mine[2:])
    assert fitted(tasks, steps=1).report().tasks == 10


def test_frames_are_tables_too(tmp_path: Path) -> None:
    x, y, task = arrays()
    frame = {"who": task.tolist(), "a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": y[:, 0].tolist()}
    learner = fitted(frame, task="who", x=["a", "b"], y="y", shots=(1, 4))  # type: ignore[arg-type]
    torch.testing.assert_close(log_prob(learner, source()), log_prob(fitted(source()), source()))
    asked = {"who": [0, 99], "a": [0.5, 0.5], "b": [0.5, 0.5]}
    found = bm.predict_frame(learner, frame, asked, learner.columns)
    assert found["y 5%"][1] < found["y 5%"][0] < found["y 95%"][0] < found["y 95%"][1]
    bm.save(learner, tmp_path / "table.bayesmeta")
    assert bm.load(tmp_path / "table.bayesmeta").columns == learner.columns


def test_several_targets_in_their_own_type() -> None:
    tasks = bm.tasks_from_arrays(*arrays(targets=2), shots=(1, 4), dtype=torch.float64)
    support, query = tasks[0]
    prediction = fitted(tasks, steps=1)(support)(query.x)
    assert prediction.event_shape == (2,)
    assert prediction.log_prob(query.y).dtype == torch.float64


SHORT = {"who": [0, 0, 1], "x": [0, 1, 2], "y": [0, 1, 2]}
ENDLESS = {"who": [0, 0, 1, 1], "x": [0, 1, 2, 3], "y": [0, 1, 2, math.inf]}
ALL = {"task": "who", "x": "x", "y": "y"}


def four(y: list[int], **settings: Any) -> bm.tasks.ArrayTasks:
    return bm.tasks_from_arrays([0.0, 1.0, 2.0, 3.0], y, [0, 0, 1, 1], shots=1, **settings)


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        (lambda: source(tasks=1), {}, "data: expected at least 2 tasks, .* got 1"),
        (lambda: four([5, 5, 5, 5]), {}, "y: expected targets that vary, got 5"),
        (lambda: four([0, 1, 0, 1], classes=2), {}, r"data: expected numbers, .* such as labels.*docs/tables\.md"),
        (lambda: source(), {"task": "who"}, "task: expected nothing beside tasks"),
        (lambda: SHORT, {"task": "who", "x": "x"}, "y: expected the name of a column"),
        (lambda: SHORT, ALL, "at least two rows a task"),
        (lambda: ENDLESS, ALL, "infinit"),
    ],
)
def test_what_it_refuses(data: Any, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bm.autofit(data(), **columns, steps=1, progress=False)


def test_it_learns_from_tables_alone() -> None:
    with pytest.raises(TypeError, match=r"data: expected a data frame, or tasks of .* got LinearGaussian"):
        bm.autofit(LinearGaussian(), progress=False)
    with pytest.raises(ValueError, match="steps"):
        bm.autofit(source(), steps=0, progress=False)


def test_it_warns_of_few_tasks() -> None:
    with pytest.warns(UserWarning, match="3 tasks are few"):
        bm.autofit(source(tasks=3), steps=1, progress=False)


@pytest.mark.slow
def test_it_comes_near_the_best_that_there_is() -> None:
    # Lines with a known prior, 60 tasks of them. On 200 others it is within 0.02 nats of the exact posterior.
    truth = LinearGaussian(noise=0.3, batch=60, shots=5, queries=15)
    support, query = truth[0]
    given = bm.concatenate(support, query)
    tasks = bm.tasks.ArrayTasks(given, [str(k) for k in range(60)], shots=(1, 8))
    learner = fitted(tasks, steps=400)
    ahead = LinearGaussian(noise=0.3, batch=200, shots=5, queries=15, seed=1)
    rows = []
    for predictor in (learner, truth.oracle):
        with torch.no_grad():
            rows.append(NLL().statistic(predictor(ahead[0].support)(ahead[0].query.x), ahead[0].query))
    gap = difference(NLL(), *rows)
    assert gap.low > -0.01
    assert gap.high < 0.02
