"""Baselines: mixed effects against closed forms and statsmodels, boosting and values by what must hold of them."""

from __future__ import annotations

import pickle
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.baselines import Boosting, LastValue, Mean, MixedEffects
from bayesmeta.baselines.base import Spread
from bayesmeta.tasks import ArrayTasks, LinearGaussian, Sinusoids, tasks_from_arrays

D = torch.float64


@cache
def panel(seed: int = 0, shots: int | tuple[int, int] = (1, 5)) -> ArrayTasks:
    """60 patients of 8 visits: a level and a slope each, a covariate, and noise."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.rand(60, 8, generator=draw) * 10
    covariate = torch.randn(60, 1, generator=draw).expand(-1, 8)
    level, slope = 3 * torch.randn(2, 60, 1, generator=draw)
    y = 50 + level + 2 * covariate + (1 + 0.2 * slope) * time + 1.5 * torch.randn(60, 8, generator=draw)
    x = torch.stack([time, covariate], -1)
    return tasks_from_arrays(
        x.flatten(0, 1), y.flatten(), torch.arange(60).repeat_interleave(8), shots=shots, batch=30, seed=seed
    )


@cache
def built(name: str) -> bm.Learner:
    return {"boosting": Boosting, "mixed": MixedEffects, "last": LastValue, "mean": Mean}[name].from_tasks(  # type: ignore[attr-defined, no-any-return]
        panel()
    )


each = pytest.mark.parametrize("name", ["boosting", "mixed", "last", "mean"])


def log_prob(learner: bm.Learner, support: bm.Points, query: bm.Points) -> Tensor:
    found: Tensor = learner(support)(query.x).log_prob(query.y)
    return found


@each
def test_order_and_padding_do_not_matter_and_queries_do_not_see_each_other(name: str) -> None:
    learner, (support, query) = built(name), panel(1)[0]
    expected = log_prob(learner, support, query)
    assert expected.shape == query.mask.shape
    assert expected[query.mask].isfinite().all()
    shuffled = bm.Points(*(leaf.flip(1) for leaf in support))
    torch.testing.assert_close(log_prob(learner, shuffled, query), expected)
    padded = bm.Points(*(torch.cat([leaf, torch.zeros_like(leaf[:, :3])], 1) for leaf in support))
    torch.testing.assert_close(log_prob(learner, padded, query), expected)
    torch.testing.assert_close(
        log_prob(learner, support, bm.Points(*(leaf[:, :1] for leaf in query))), expected[:, :1], rtol=1e-4, atol=1e-4
    )


@each
def test_updates_equal_one_batch_and_functions_add_nothing_to_what_is_known(name: str) -> None:
    learner, (support, query) = built(name), panel(1)[0]
    posterior = learner(support).update(query)
    together = learner(bm.concatenate(support, query))(query.x)
    torch.testing.assert_close(posterior(query.x).mean, together.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior(query.x).stddev, together.stddev, rtol=1e-4, atol=1e-4)
    total, _, epistemic = posterior.decompose(query.x, 4)
    torch.testing.assert_close(total, posterior(query.x).variance, rtol=1e-4, atol=1e-4)
    assert (epistemic.mean() > 0.0) == (name == "mixed")
    assert posterior.functions(3)(query.x).batch_shape == (3, *query.mask.shape)
    assert posterior.expand(2)(query.x.repeat_interleave(2, 0)).batch_shape == (60, query.mask.shape[1])


@each
def test_intervals_hold_on_new_tasks(name: str) -> None:
    # 120 new patients, some five queries each in three divisions: a standard error of .02 by tasks.
    found = [
        bm.evaluate(built(name), panel(seed), episodes=3, metrics=[bm.metrics.Coverage(0.9)])["90% coverage"].value
        for seed in (1, 2)
    ]
    assert 0.84 < sum(found) / 2 < 0.96


@each
def test_without_a_known_point_the_answer_is_that_of_all_training_tasks(name: str) -> None:
    nothing = bm.Points(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool))
    prediction = built(name)(nothing)(torch.tensor([[[5.0, 0.0]]]))
    y = panel().points.y
    assert abs(prediction.mean.item() - y.mean().item()) < 1.5
    assert 0.5 * y.std() < prediction.stddev.item() < 1.5 * y.std()


def test_who_uses_more_of_what_there_is_to_know_is_better() -> None:
    found = bm.compare(
        {name: built(name) for name in ("mixed", "boosting", "last", "mean")},
        panel(3),
        episodes=3,
        against="boosting",
        train=panel(),  # there is nothing to train
        progress=False,
    )
    nll = {row.learner: row.value for row in found.rows if row.metric == "NLL"}
    assert nll["mixed"] < nll["boosting"] < min(nll["last"], nll["mean"])
    assert {row.learner for row in found.differences} == {"mixed", "last", "mean"}


def test_where_there_is_nothing_to_learn_boosting_is_not_surer_than_the_truth() -> None:
    # Standard normal targets, of which the best NLL is 1.419; 400 test points: a standard error of .035.
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(600, 1, generator=draw), torch.randn(600, generator=draw)
    ids = torch.arange(100).repeat_interleave(6)
    train = tasks_from_arrays(x[:300], y[:300], ids[:300], shots=(2, 4))
    test = tasks_from_arrays(x[300:], y[300:], ids[300:], shots=(2, 4))
    nll = bm.evaluate(Boosting.from_tasks(train), test, episodes=4, metrics=[bm.metrics.NLL()])["NLL"].value
    assert nll < 1.419 + 0.12


# --- mixed effects


def test_mixed_effects_are_the_best_linear_unbiased_prediction() -> None:
    torch.manual_seed(0)
    root = torch.randn(3, 3, dtype=D)
    psi = torch.zeros(4, 4, dtype=D)
    psi[:3, :3] = root @ root.mT
    beta, noise = torch.randn(4, dtype=D), 0.4
    loc, scale = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 3.0])
    learner = MixedEffects(beta, psi, noise, squares=(1,), x_loc=loc, x_scale=scale).double()
    beta, psi, noise = learner.mean, learner.covariance, learner.noise
    x, y, asked = (torch.randn(1, n, d, dtype=D) for n, d in ((5, 2), (5, 1), (3, 2)))
    prediction = learner(bm.Points(x, y, torch.ones(1, 5).bool()))(asked)

    def effects(x: Tensor) -> Tensor:
        z = (x[0] - loc) / scale
        return torch.cat([torch.ones(len(z), 1, dtype=D), z, z[:, 1:].square()], 1)

    phi, new = effects(x), effects(asked)
    gain = new @ psi @ phi.mT @ torch.linalg.inv(phi @ psi @ phi.mT + noise**2 * torch.eye(5, dtype=D))
    mean = new @ beta + gain @ (y[0, :, 0] - phi @ beta)
    variance = (new @ psi @ new.mT - gain @ phi @ psi @ new.mT).diagonal() + noise**2
    torch.testing.assert_close(prediction.mean[0, :, 0], mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prediction.variance[0, :, 0], variance, rtol=1e-7, atol=1e-7)


def test_random_effects_are_those_of_statsmodels() -> None:
    tasks = panel()
    whole = ArrayTasks(tasks.points, tasks.names, shots=1)
    learner = MixedEffects.from_tasks(whole, episodes=1)
    x, y = tasks.points.x.double().numpy(), tasks.points.y.double().numpy()[..., 0]
    z = (x - learner.x_loc.numpy()) / learner.x_scale.numpy()
    target = (y - y.mean()) / y.std()
    flat = z.reshape(-1, 2)
    plain = np.column_stack([np.ones(len(flat)), flat])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.regression.mixed_linear_model import MixedLM

        fitted = MixedLM(target.reshape(-1), np.column_stack([plain, flat**2]), np.repeat(np.arange(60), 8), plain).fit(
            reml=True
        )
        effects = np.stack([np.asarray(fitted.random_effects[k]) for k in range(60)])
    exact = (np.column_stack([plain, flat**2]) @ fitted.fe_params).reshape(60, 8)
    exact = y.mean() + y.std() * (exact + np.einsum("tnd,td->tn", plain.reshape(60, 8, 3), effects))
    found = learner(bm.Points(*(leaf.double() if leaf.dim() > 2 else leaf for leaf in tasks.points)))
    torch.testing.assert_close(found(tasks.points.x).mean[..., 0], torch.from_numpy(exact), rtol=1e-4, atol=1e-3)


def test_mixed_effects_come_near_the_exact_answer_where_they_are_right() -> None:
    tasks, test = LinearGaussian(noise=0.3, shots=(1, 6)), LinearGaussian(noise=0.3, shots=(1, 6), seed=1)
    learner = MixedEffects.from_tasks(tasks)
    own, exact = (
        bm.evaluate(answerer, test, episodes=20, metrics=[bm.metrics.NLL()])["NLL"].value
        for answerer in (learner, test.oracle)
    )
    assert exact < own < exact + 0.02


def test_files_keep_those_that_are_numbers(tmp_path: Path) -> None:
    support, query = panel(1)[0]
    for name in ("mixed", "last", "mean"):
        bm.save(built(name), tmp_path / name, support=support)
        again = bm.load(tmp_path / name)
        torch.testing.assert_close(
            again(query.x).log_prob(query.y), log_prob(built(name), support, query), rtol=0, atol=0
        )


# --- the spread


@pytest.mark.parametrize("power", [0.0, -0.5])
def test_the_spread_of_errors_is_found(power: float) -> None:
    # 20,000 errors: scale and power to .05, the degrees of freedom to 20 %.
    torch.manual_seed(0)
    known = torch.randint(1, 9, (20_000,))
    law = torch.distributions.StudentT(torch.tensor(4.0, dtype=D))
    residuals = 7.0 * (1 + known) ** power * law.sample((20_000,))
    found = Spread.fitted(residuals, known, 100 + 20 * torch.randn(20_000, dtype=D))
    assert found.scale == pytest.approx(7.0, rel=0.05)
    assert found.power == pytest.approx(power, abs=0.05)
    assert found.df == pytest.approx(4.0, rel=0.2)
    assert found.deviation == pytest.approx(20.0, rel=0.05)


def test_errors_of_nothing_leave_a_distribution() -> None:
    found = Spread.fitted(torch.zeros(10, dtype=D), torch.ones(10), torch.ones(10, dtype=D))
    assert found.around(torch.ones(1, 2), torch.tensor([3])).log_prob(torch.ones(1, 2, 1)).isfinite().all()


# --- bad input


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (Boosting, MixedEffects, LastValue, Mean)
    one = tasks_from_arrays([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], ["a", "a", "a"], shots=1)
    for kind in kinds:
        with pytest.raises(ValueError, match="tasks: expected at least two training tasks, got one"):
            kind.from_tasks(one)
        with pytest.raises(ValueError, match="episodes: expected"):
            kind.from_tasks(panel(), episodes=0)
    two = tasks_from_arrays(torch.rand(6, 1), torch.rand(6, 2), ["a", "a", "a", "b", "b", "b"], shots=1)
    labels = tasks_from_arrays(torch.rand(6, 1), [0, 1, 0, 1, 0, 1], ["a", "a", "a", "b", "b", "b"], classes=2, shots=1)
    for kind in kinds:
        for tasks in (two, labels):
            with pytest.raises(ValueError, match=r"tasks: support: expected features x .* and one real target"):
                kind.from_tasks(tasks)
    empty = Sinusoids(shots=0)
    for kind in (Boosting, LastValue, Mean):
        with pytest.raises(ValueError, match="tasks: expected supports with points"):
            kind.from_tasks(empty, episodes=2)
    with pytest.raises(ValueError, match=r"support\.x: expected 2 features"):
        built("mixed")(bm.points([0.0], [0.0]))
    with pytest.raises(ValueError, match="support: expected features x"):
        built("mean")(bm.points(torch.rand(3, 2), torch.rand(3, 2)))
    with pytest.raises(ValueError, match="mean, covariance and noise: expected"):
        MixedEffects([0.0, 1.0], [[1.0]], 1.0, x_loc=[0.0], x_scale=[1.0])
    for kind, package in ((Boosting, "sklearn"), (MixedEffects, "statsmodels")):
        for module in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"package {package}, got none; pip install \"bayesmeta\[baselines\]\""):
            kind.from_tasks(panel())


def test_a_baseline_may_be_wrapped() -> None:
    support, query = panel(1)[0]
    both = bm.Ensemble(
        [built("mixed"), built("boosting"), bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian())]
    )
    assert both(support)(query.x).log_prob(query.y)[query.mask].isfinite().all()
    own = bm.OwnScale(built("mixed"))
    assert own(support)(query.x).mean.shape == query.y.shape
    warp = bm.warps.Log(top=1000.0)
    warped = bm.Warped(built("mean"), warp)(support)(query.x)
    assert (bm.distributions.quantile(warped, 0.01) > 0).all()


def test_trees_are_kept_by_pickle_alone(tmp_path: Path) -> None:
    learner, (support, query) = built("boosting"), panel(1)[0]
    whole = bm.Standardized.from_tasks(bm.Ensemble([built("mean"), learner]), panel(), episodes=1)
    for each, name in ((learner, r"Boosting, which"), (whole, r"Boosting \(learner\.learners\.1\), which")):
        with pytest.raises(ValueError, match=rf"learner: expected weights and settings, got {name} .* pickle\.dump"):
            bm.save(each, tmp_path / "trees")
        again = pickle.loads(pickle.dumps(each))
        assert torch.equal(log_prob(again, support, query), log_prob(each, support, query))


@pytest.mark.parametrize("make", [bm.baselines.LastValue, bm.baselines.Boosting])
def test_tasks_and_features_that_are_none(make: Any) -> None:
    tasks = bm.tasks.Sinusoids(batch=4)
    for wrong in (None, {"x": [1.0]}):
        with pytest.raises(TypeError, match="tasks: expected a task source or a list of episodes"):
            make.from_tasks(wrong)
    with pytest.raises(ValueError, match="feature: expected the place of one of 1 features of x"):
        make.from_tasks(tasks, feature=3, episodes=1)
    learner = make.from_tasks(tasks, episodes=1)
    assert learner(tasks[0].support)(torch.zeros(4, 0, 1)).mean.shape == (4, 0, 1)
    learner.feature = 3
    with pytest.raises(ValueError, match="feature: expected the place of one of 1 features of x"):
        learner(tasks[0].support)


def test_an_ensemble_that_begins_with_a_baseline_comes_back_from_its_file(tmp_path: Path) -> None:
    tasks = bm.tasks.Sinusoids(batch=4)
    plain = bm.baselines.Mean.from_tasks(tasks, episodes=1)
    line = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())
    for number, members in enumerate(([plain, line], [plain], [line, plain])):
        learner = bm.Ensemble(members)
        bm.save(learner, tmp_path / str(number))
        support, x = tasks[0].support, tasks[0].query.x
        assert torch.equal(bm.load(tmp_path / str(number))(support)(x).mean, learner(support)(x).mean)
