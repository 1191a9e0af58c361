"""Temperatures against closed forms, conformal regions against their guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta import Episode, Points, Posterior
from bayesmeta.answers import Functions, repeated
from bayesmeta.distributions import mixture, temper


class Scripted(bm.Learner):
    """Predicts what it is told to, of the query's inputs alone."""

    def __init__(self, predict: Any) -> None:
        super().__init__()
        self.predict, self.idle = predict, nn.Parameter(torch.zeros(()))

    def forward(self, support: Points) -> Posterior:
        return Says(self.predict, support)


class Says(Posterior):
    def __init__(self, predict: Any, support: Points) -> None:
        super().__init__(support)
        self.predict = predict

    def _predictive(self, x: Tensor, samples: int | None = None) -> Distribution:
        found: Distribution = self.predict(x)
        return found

    def _functions(self, samples: int) -> Functions:
        return repeated(self.predict, samples)


def tasks(y: Any, count: int, queries: int = 20, batch: int = 100, seed: int = 0) -> list[Episode]:
    """Tasks whose targets are made of their inputs and a generator."""
    generator = torch.Generator().manual_seed(seed)
    episodes = []
    for _ in range(count // batch):
        x = torch.randn(batch, queries, 1, generator=generator)
        given = Points(x, y(x, generator), torch.ones(batch, queries, dtype=torch.bool))
        episodes.append(Episode(given, given))
    return episodes


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Dependent within a task: half of the variance is the task's own."""
    common = torch.randn(x.shape[0], 1, 1, generator=generator)
    return x + 0.5**0.5 * (common + torch.randn(x.shape, generator=generator))


def overconfident(x: Tensor) -> Distribution:
    normal: Distribution = dist.Normal(x, 0.25).to_event(1)
    return normal


def sharp_logits(x: Tensor) -> Tensor:
    return torch.cat([x, -x, 2 * x.square() - 1], -1)


def labels(x: Tensor, generator: torch.Generator) -> Tensor:
    p = sharp_logits(x).softmax(-1)
    return torch.multinomial(p.flatten(0, 1), 1, generator=generator).reshape(p.shape[:2])


class TestTemper:
    def test_normals_and_students_spread_by_the_factor(self) -> None:
        loc, scale = torch.randn(3, 4, 2), torch.rand(3, 4, 2) + 0.5
        for single in (dist.Normal(loc, scale), dist.StudentT(5.0, loc, scale)):
            wide = temper(single.to_event(1), torch.tensor(3.0))
            torch.testing.assert_close(wide.mean, loc)
            torch.testing.assert_close(wide.stddev, 3 * single.stddev)

    def test_a_mixture_spreads_around_its_mean(self) -> None:
        mixed = mixture(dist.Normal(torch.randn(5, 3, 4, 2), 0.3).to_event(1))
        wide = temper(mixed, torch.tensor(2.0))
        torch.testing.assert_close(wide.mean, mixed.mean)
        torch.testing.assert_close(wide.variance, 4 * mixed.variance)

    def test_classes_are_powers(self) -> None:
        p = torch.rand(3, 4, 5).softmax(-1)
        found = temper(dist.Categorical(probs=p), torch.tensor(0.5)).probs  # type: ignore[attr-defined]
        torch.testing.assert_close(found, p.square() / p.square().sum(-1, keepdim=True))
        yes = temper(dist.Bernoulli(probs=p[..., :1]).to_event(1), torch.tensor(0.5))
        torch.testing.assert_close(yes.mean, p[..., :1].square() / (p[..., :1].square() + (1 - p[..., :1]).square()))


class TestCalibrated:
    def test_scale_of_normals_is_the_ratio_of_the_deviations(self) -> None:
        """The maximum likelihood: the root mean square of (y - mean) / σ."""
        validation = tasks(noisy, 200)
        learner = bm.Calibrated.from_tasks(Scripted(overconfident), validation, episodes=2)  # type: ignore[arg-type]
        square = torch.cat([((e.query.y - e.query.x) / 0.25).square().flatten() for e in validation])
        assert learner.temperature.item() == pytest.approx(square.mean().sqrt().item(), rel=2e-3)

    def test_temperature_of_classes_undoes_the_one_they_were_made_with(self) -> None:
        """40,000 labels; the temperature's standard error is below 0.02."""
        learner = bm.Calibrated.from_tasks(
            Scripted(lambda x: dist.Categorical(logits=3 * sharp_logits(x))),
            tasks(labels, 2000),
            episodes=20,  # type: ignore[arg-type]
        )
        assert learner.temperature.item() == pytest.approx(3.0, abs=0.1)
        support = tasks(labels, 100)[0].support
        calibrated = learner(support)(support.x).probs  # type: ignore[attr-defined]
        torch.testing.assert_close(calibrated, sharp_logits(support.x).softmax(-1), atol=0.02, rtol=0)

    def test_errors_fall_and_nll_does_not_rise_on_new_tasks(self) -> None:
        test: Any = tasks(noisy, 500, seed=1)
        before: Any = Scripted(overconfident)
        after = bm.Calibrated.from_tasks(before, tasks(noisy, 500), episodes=5)  # type: ignore[arg-type]
        metrics = [bm.metrics.NLL(), bm.metrics.QuantileCalibrationError(), bm.metrics.RMSE()]
        raw, found = (bm.evaluate(learner, test, episodes=5, metrics=metrics) for learner in (before, after))
        name = "quantile calibration error"
        assert found[name].value < raw[name].value / 2
        assert found["NLL"].value < raw["NLL"].value
        assert found["RMSE"] == raw["RMSE"]

    def test_draws_mix_to_the_prediction(self) -> None:
        learner = bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
        source = bm.tasks.Sinusoids(noise=0.1, batch=3)
        posterior = bm.wrappers.Tempered(learner(source[0].support), 2.0)
        with torch.no_grad():
            torch.manual_seed(0)
            x = source[0].query.x[:, :4]
            wide, drawn = posterior(x, samples=4000), mixture(posterior.draws(x, 4000))
        torch.testing.assert_close(wide.mean, drawn.mean, atol=0.1, rtol=0)
        torch.testing.assert_close(wide.stddev, drawn.stddev, rtol=0.1, atol=0.02)

    def test_it_is_built_from_a_number_alone(self) -> None:
        inner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(scale=0.5))
        support = bm.points([0.0, 1.0], [0.0, 1.0])
        spread = bm.Calibrated(inner, 3.0)(support)([0.5]).stddev
        torch.testing.assert_close(spread, torch.full((1, 1, 1), 1.5))
        for wrong in (0.0, -1.0, torch.inf, torch.nan, torch.ones(2)):
            with pytest.raises(ValueError, match="temperature: expected a number above 0, got"):
                bm.Calibrated(inner, wrong)

    def test_the_temperature_is_saved_and_errors_are_named(self) -> None:
        source = bm.tasks.Sinusoids(noise=0.1)
        learner = bm.Calibrated.from_tasks(
            bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), source, episodes=1
        )
        other = bm.Calibrated.from_tasks(
            bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(2.0)), source, episodes=1
        )
        other.load_state_dict(learner.state_dict())
        assert other.temperature == learner.temperature
        with pytest.raises(ValueError, match="episodes"):
            bm.Calibrated.from_tasks(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), source, episodes=0)
        with pytest.raises(TypeError, match="learner"):
            bm.Calibrated.from_tasks(nn.Linear(1, 1), source)  # type: ignore[arg-type]


PREDICTIONS: dict[str, tuple[Any, Any]] = {
    "overconfident": (overconfident, noisy),
    "vague": (lambda x: dist.Normal(x + 3, 50.0).to_event(1), noisy),
    "heavy tails": (lambda x: dist.StudentT(3.0, 0 * x, 1e-3).to_event(1), noisy),
    "sure classes": (lambda x: dist.Categorical(logits=50 * sharp_logits(x)), labels),
    "wrong classes": (lambda x: dist.Categorical(logits=-9 * sharp_logits(x)), labels),
    "no idea": (lambda x: dist.Categorical(logits=torch.zeros(*x.shape[:2], 3)), labels),
}


def sized() -> list[Episode]:
    """60 tasks of 4 to 200 points in one episode; the errors of a task grow with its size."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.linspace(4, 200, 60).round().long()
    x = torch.randn(60, 200, 1, generator=generator)
    noise = torch.randn(60, 200, 1, generator=generator) * (sizes / 50)[:, None, None]
    given = Points(x, x + noise, torch.arange(200) < sizes[:, None])
    return [Episode(given, given)]


class TestConformal:
    @pytest.mark.parametrize("name", PREDICTIONS)
    def test_covers_as_promised_however_bad_the_predictions(self, name: str) -> None:
        """2,000 calibration and 2,000 new tasks of 20 dependent points: the standard error of the difference is below 0.006."""
        predict, targets = PREDICTIONS[name]
        learner: Any = Scripted(predict)
        conformal = bm.Conformal.from_tasks(learner, tasks(targets, 2000), level=0.9, episodes=20)  # type: ignore[arg-type]
        test: Any = tasks(targets, 2000, seed=1)
        found = conformal.coverage(test, episodes=20)
        assert 0.885 < found.value < 0.925
        regions, query = conformal(test[0].support), test[0].query
        torch.manual_seed(0)
        if targets is labels:
            inside = regions.classes(query.x).gather(-1, query.y[..., None])
        else:
            low, high = regions.interval(query.x)
            inside = (low <= query.y) & (query.y <= high)
        assert 0.8 < inside.double().mean() < 0.98

    def test_the_threshold_is_the_conformal_quantile(self) -> None:
        """One point a task: the ⌈0.9 (n + 1)⌉-th smallest of n scores, exactly."""
        given = tasks(noisy, 30, queries=1, batch=30)
        conformal = bm.Conformal.from_tasks(Scripted(overconfident), given, episodes=1)  # type: ignore[arg-type]
        scores = ((given[0].query.y - given[0].query.x).abs() / 0.25).flatten().sort().values
        assert conformal.threshold == pytest.approx(scores[27].item())

    def test_a_task_that_comes_again_counts_once(self) -> None:
        source = bm.tasks_from_arrays(torch.rand(40), torch.rand(40), [i // 4 for i in range(40)], shots=2)
        bm.Conformal.from_tasks(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), source, episodes=3)
        with pytest.raises(ValueError, match=r"at least 19 calibration tasks for a level of 0\.95, got 10"):
            bm.Conformal.from_tasks(
                bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), source, episodes=3, level=0.95
            )

    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_the_calibration_tasks_have_exactly_the_promise(self, level: float) -> None:
        """Tasks of 4 to 200 points, long ones the harder: level (K + 1) / K of the mean over tasks, and the next step up at most.

        A step is the weight of one point: of the K tasks' mean at most 1 / (4 K).
        """
        source, K = sized(), 60
        learner: Any = Scripted(overconfident)
        conformal = bm.Conformal.from_tasks(learner, source, level=level, episodes=1)  # type: ignore[arg-type]
        support, query = source[0]
        low, high = conformal(support).interval(query.x)
        inside = ((low <= query.y) & (query.y <= high))[..., 0]
        by_task = torch.stack([inside[b][query.mask[b]].double().mean() for b in range(K)])
        found = conformal.coverage(source, episodes=1)  # type: ignore[arg-type]
        assert found.value == pytest.approx(by_task.mean().item(), abs=1e-9)
        assert 0 <= found.value - level * (K + 1) / K < 1 / (4 * K)
        assert found.value - inside[query.mask].double().mean() > 0.05  # of pooled points it is another thing

    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_a_region_over_points_has_the_promise_over_points(self, level: float) -> None:
        """level (n + 200) / n of all n points, as the task to come may have 200; and the next point up at most."""
        source = sized()
        conformal = bm.Conformal.from_tasks(Scripted(overconfident), source, level=level, over="points", episodes=1)  # type: ignore[arg-type]
        support, query = source[0]
        low, high = conformal(support).interval(query.x)
        inside, n = ((low <= query.y) & (query.y <= high))[..., 0][query.mask], int(query.mask.sum())
        found = conformal.coverage(source, episodes=1)  # type: ignore[arg-type]
        assert found.value == pytest.approx(inside.double().mean().item(), abs=1e-9)
        assert 0 <= found.value - level * (n + 200) / n < 1.001 / n

    def test_a_box_for_several_targets(self) -> None:
        def two(x: Tensor, generator: torch.Generator) -> Tensor:
            return torch.randn(*x.shape[:2], 2, generator=generator)

        learner: Any = Scripted(lambda x: dist.Normal(x.expand(*x.shape[:2], 2) * 0, 0.1).to_event(1))
        conformal = bm.Conformal.from_tasks(learner, tasks(two, 1000), episodes=10)  # type: ignore[arg-type]
        test = tasks(two, 1000, seed=1)
        low, high = conformal(test[0].support).interval(test[0].query.x)
        both = ((low <= test[0].query.y) & (test[0].query.y <= high)).all(-1)
        assert both.double().mean() == pytest.approx(0.9, abs=0.04)

    def test_it_is_built_from_a_number_alone(self) -> None:
        source = bm.tasks.Sinusoids(noise=0.1)
        given = bm.Conformal.from_tasks(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), source, episodes=2)
        other = bm.Conformal(given.learner, given.threshold)
        assert other.coverage(source, episodes=2) == given.coverage(source, episodes=2)
        with pytest.raises(ValueError, match="threshold: expected a number, got NaN"):
            bm.Conformal(given.learner, torch.nan)

    def test_errors(self) -> None:
        source = bm.tasks.Sinusoids(noise=0.1, batch=3)
        learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
        with pytest.raises(ValueError, match="at least 9 calibration tasks"):
            bm.Conformal.from_tasks(learner, source, episodes=1)
        with pytest.raises(ValueError, match="level"):
            bm.Conformal.from_tasks(learner, source, level=90)
        with pytest.raises(ValueError, match="over"):
            bm.Conformal.from_tasks(learner, source, over="tasks alike")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the points of the longest"):
            bm.Conformal.from_tasks(learner, source, over="points", episodes=1)
        with pytest.raises(TypeError, match="use interval"):
            bm.Conformal.from_tasks(learner, source, episodes=9)(source[0].support).classes(source[0].query.x)
        classes = bm.LaplaceGP(nn.Identity(), RBFKernel(), classes=3)
        with pytest.raises(TypeError, match="use classes"):
            bm.Conformal.from_tasks(classes, tasks(labels, 100), episodes=1)(tasks(labels, 100)[0].support).interval(
                torch.zeros(100, 1, 1)
            )  # type: ignore[arg-type]

    @pytest.mark.parametrize("over", ["tasks", "points"])
    @pytest.mark.parametrize("level", [0.5, 0.8])
    def test_the_calibration_tasks_have_the_promise_however_often_each_comes(self, over: str, level: float) -> None:
        """60 tasks of 4 to 200 points, the long ones in four episodes, the short ones in one."""
        source = Often()
        learner: Any = Scripted(overconfident)
        given: Any = {"over": over, "episodes": 4}
        conformal = bm.Conformal.from_tasks(learner, source, level=level, **given)  # type: ignore[arg-type]
        found = conformal.coverage(source, episodes=4).value  # type: ignore[arg-type]
        sizes = source[0].query.mask.sum(1)
        assert len(source.members(1)) < len(sizes)
        whole = 60.0 if over == "tasks" else float(sizes.sum())
        reserve = 1.0 if over == "tasks" else float(sizes.max())
        assert 0 <= found - level * (whole + reserve) / whole < (1 / 60 if over == "tasks" else 5 / whole)

    def test_coverage_of_shared_units_has_the_interval_of_the_units(self) -> None:
        generator, people = torch.Generator().manual_seed(0), torch.arange(80) // 10
        x, noise = torch.rand(400, generator=generator), torch.randn(400, generator=generator)
        source = bm.tasks_from_arrays(x, x + noise * people.repeat_interleave(5), torch.arange(400) // 5, shots=2)
        learner: Any = Scripted(overconfident)
        conformal = bm.Conformal(learner, 8.0)
        alone = conformal.coverage(source, episodes=2)
        found = conformal.coverage(source, episodes=2, clusters=lambda index: people[source.members(index)])
        assert found.value == pytest.approx(alone.value)
        assert found.high - found.low > 1.5 * (alone.high - alone.low)
        one = conformal.coverage(source, episodes=2, clusters=lambda index: 0 * source.members(index))
        assert one.low != one.low
        with pytest.raises(TypeError, match="clusters: expected a function from an episode's index"):
            conformal.coverage(source, episodes=2, clusters=people)  # type: ignore[arg-type]

    @pytest.mark.parametrize("over", ["tasks", "points"])
    def test_it_is_saved_with_its_threshold(self, over: Any, tmp_path: Path) -> None:
        def build(threshold: float, network: nn.Module | None = None) -> bm.Conformal:
            return bm.Conformal(
                bm.MAML(network or bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), threshold, over=over
            )

        conformal, path, support = build(1 / 3), tmp_path / "a", bm.points([0.0, 1.0], [0.0, 1.0])
        low, high = conformal(support).interval([0.5])
        bm.save(conformal, path)
        for again in (bm.load(path), bm.load(path, build(2.0))):
            assert (again.threshold, again.over) == (1 / 3, over)
            assert torch.equal(again(support).interval([0.5])[0], low)
        bm.save(conformal, path, support=support)
        assert torch.equal(bm.load(path).interval([0.5])[1], high)
        conformal.threshold = 2.0
        bm.save(conformal, path)
        assert bm.load(path).threshold == 2.0
        own = build(0.25, nn.Sequential(nn.Linear(1, 4), Own(), nn.Linear(4, 1)))
        bm.save(own, path)
        again = bm.load(path, build(1.0, nn.Sequential(nn.Linear(1, 4), Own(), nn.Linear(4, 1))))
        assert again.threshold == 0.25
        with pytest.raises(TypeError, match="learner: expected a learner"):
            bm.save(conformal(support), path)  # type: ignore[arg-type]

    @pytest.mark.parametrize("level", ["a", "0.9", None, [], 1.0, 90, torch.nan, torch.ones(2)])
    def test_a_level_is_a_probability(self, level: Any) -> None:
        learner, source = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), bm.tasks.Sinusoids(batch=3)
        for ask in (
            lambda: bm.Conformal.from_tasks(learner, source, level=level),
            lambda: bm.metrics.Coverage(level),
            lambda: bm.metrics.Width(level),
            lambda: bm.plots.bands(learner(source[0].support), source[0].query.x, level=level),
        ):
            with pytest.raises(ValueError, match="level: expected a probability strictly between 0 and 1, got"):
                ask()

    def test_errors_are_divided_by_no_deviation_of_zero(self) -> None:
        given: Any = tasks(lambda x, generator: torch.zeros_like(x), 100)
        learner: Any = Scripted(lambda x: dist.Normal(0 * x, 0 * x, validate_args=False).to_event(1))
        with pytest.raises(
            ValueError, match=r"learner: expected predictions with standard deviations above 0, .* in episode 0"
        ):
            bm.Conformal.from_tasks(learner, given, episodes=1)

    def test_numbers_that_are_none_are_named(self) -> None:
        learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
        for wrong in ("a", None, torch.ones(2)):
            with pytest.raises(ValueError, match="threshold: expected a number, got"):
                bm.Conformal(learner, wrong)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="temperature: expected a number above 0, got"):
                bm.Calibrated(learner, wrong)  # type: ignore[arg-type]


class Own(nn.Module):
    """A layer that no file can build."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class Often:
    """The tasks of `sized`, of which later episodes hold the longer half alone."""

    def __init__(self) -> None:
        (self.all,) = sized()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Episode:
        first = 30 * (index > 0)
        return Episode(*(Points(*(leaf[first:] for leaf in part)) for part in self.all))

    def members(self, index: int) -> Tensor:
        return torch.arange(30 * (index > 0), 60)
