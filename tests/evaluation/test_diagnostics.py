"""Simulation-based calibration and PIT of exact oracles; ArviZ's own functions on what `to_arviz` gives.

A uniform p-value is below 0.01 once in 100: four sources and two tests at fixed seeds, all of them passed when written.
"""

from __future__ import annotations

from typing import Any

import arviz
import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.answers import repeated
from bayesmeta.wrappers import Tempered

SOURCES: dict[str, Any] = {
    "sinusoids": bm.tasks.Sinusoids(batch=100, noise=0.1, shots=5, queries=6),
    "linear": bm.tasks.LinearGaussian(batch=100, shots=(0, 5), queries=6),
    "Gaussian process": bm.tasks.GaussianProcessTasks(RBFKernel(), batch=100, shots=5, queries=6),
}


@pytest.mark.parametrize("name", [pytest.param("sinusoids", marks=pytest.mark.slow), "linear", "Gaussian process"])
def test_oracles_are_calibrated_and_overconfident_ones_are_caught(name: str) -> None:
    """1,000 tasks; standard deviations halved."""
    tasks = SOURCES[name]

    def overconfident(support: Points) -> Tempered:
        return Tempered(tasks.oracle(support), 0.5)

    for test in (bm.evaluation.sbc, bm.evaluation.pit):
        right = test(tasks.oracle, tasks, episodes=10)
        assert right.values.shape == (1000,)
        assert right.p_value > 0.01
        assert test(overconfident, tasks, episodes=10).p_value < 1e-4


def test_sbc_sees_how_points_go_together() -> None:
    """Draws whose points are independent have the right margins and the wrong joint distribution: PIT passes, SBC does not."""
    tasks = SOURCES["Gaussian process"]

    class Shuffled(bm.Posterior):
        def _functions(self, samples: int) -> Any:
            return repeated(self._predictive, samples)

        def _predictive(self, x: Any, samples: int | None = None) -> Any:
            return tasks.oracle(self.support)(x)

    assert bm.evaluation.pit(Shuffled, tasks, episodes=10).p_value > 0.01
    assert bm.evaluation.sbc(Shuffled, tasks, episodes=10).p_value < 0.01


def test_ranks_among_draws_of_the_truths_own_distribution_are_uniform_with_ties() -> None:
    """Labels: a quantity with many ties."""

    class Coin(bm.Posterior):
        def _functions(self, samples: int) -> Any:
            return repeated(self._predictive, samples)

        def _predictive(self, x: Any, samples: int | None = None) -> Any:
            return torch.distributions.Categorical(logits=torch.zeros(*x.shape[:2], 2), validate_args=False)

    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1000, 3, 1)
    y = torch.randint(2, (1000, 3), generator=generator)
    points = Points(x, y, torch.ones(1000, 3, dtype=torch.bool))
    tasks: Any = [bm.Episode(points, points)]
    assert bm.evaluation.sbc(Coin, tasks, episodes=1).p_value > 0.01
    assert bm.evaluation.sbc(Coin, tasks, episodes=1, quantity=lambda y, mask: y[..., 0, 0]).p_value > 0.01


def test_every_learner_has_ranks() -> None:
    tasks = bm.tasks.Sinusoids(batch=20, noise=0.1)
    found = bm.evaluation.sbc(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), tasks, episodes=2, draws=19)
    assert found.values.shape == (40,)
    assert ((found.values >= 0) & (found.values <= 1)).all()
    assert found.p_value < 0.01  # it has learned nothing yet
    again = bm.evaluation.sbc(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), tasks, episodes=2, draws=19)
    assert again.values.shape == found.values.shape


class TestArviZ:
    tasks = bm.tasks.LinearGaussian(batch=3, inputs=2, shots=12, queries=6)

    def data(self, draws: int = 400) -> Any:
        return bm.evaluation.to_arviz(self.tasks.oracle, self.tasks[0], draws=draws)

    def test_groups_and_dimensions(self) -> None:
        data, (support, query) = self.data(), self.tasks[0]
        assert data.posterior["f"].dims == ("chain", "draw", "task", "point")
        assert data.posterior["f"].shape == (1, 400, 3, 12)
        assert data.posterior_predictive["y"].dims == ("chain", "draw", "task", "point")
        assert data.log_likelihood["y"].shape == (1, 400, 3, 12)
        assert data.observed_data["y"].dims == ("task", "point")
        assert data.constant_data["x"].dims == ("task", "point", "feature")
        assert data.predictions["y"].dims == ("chain", "draw", "task", "new_point")
        np.testing.assert_array_equal(data.observed_data["y"].values, support.y[..., 0].numpy())
        np.testing.assert_array_equal(data.predictions_constant_data["y_true"].values, query.y[..., 0].numpy())

    def test_log_likelihood_is_that_of_the_draws(self) -> None:
        data, support = self.data(), self.tasks[0].support
        normal = torch.distributions.Normal(torch.tensor(data.posterior["f"].values), self.tasks.noise)
        expected = normal.log_prob(support.y[..., 0])
        np.testing.assert_allclose(data.log_likelihood["y"].values, expected.numpy(), atol=1e-3)

    @pytest.mark.filterwarnings("ignore")  # of arviz itself, about its own future, and of Pareto shapes
    def test_arvizs_functions_run_and_rank_the_truth_first(self) -> None:
        import matplotlib

        matplotlib.use("Agg")
        data = self.data()
        assert len(arviz.summary(data, var_names=["f"])) == 36
        loo = arviz.loo(data)
        elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
        worse = bm.evaluation.to_arviz(
            lambda support: Tempered(self.tasks.oracle(support), 5.0), self.tasks[0], draws=400
        )
        assert arviz.compare({"oracle": data, "vague": worse}).index[0] == "oracle"
        # The leave-one-out density in closed form, by the oracle on all points but one.
        support = self.tasks[0].support
        total = 0.0
        for n in range(12):
            left = Points(*(torch.cat([leaf[:, :n], leaf[:, n + 1 :]], 1) for leaf in support))
            single = self.tasks.oracle(left)(support.x[:, n : n + 1])
            total += single.log_prob(support.y[:, n : n + 1]).sum().item()
        assert elpd == pytest.approx(total, abs=3.0)  # 36 points, 400 draws
        if arviz.__version__.startswith("0."):  # 1.x has other plots
            arviz.plot_ppc(data)
            arviz.plot_loo_pit(data, y="y")

    def test_classes_and_ragged_tasks(self) -> None:
        support = bm.points(
            [torch.rand(3, 2), torch.rand(2, 2)], [torch.tensor([0, 1, 2]), torch.tensor([1, 0])], classes=3
        )
        learner = bm.LaplaceGP(torch.nn.Identity(), RBFKernel(), classes=3)
        data = bm.evaluation.to_arviz(learner, bm.Episode(support, support), draws=50)
        assert data.posterior["p"].dims == ("chain", "draw", "observation", "class")
        assert data.posterior["p"].shape == (1, 50, 5, 3)
        np.testing.assert_allclose(data.posterior["p"].sum("class").values, 1.0, atol=1e-6)
        assert data.observed_data["task"].values.tolist() == [0, 0, 0, 1, 1]
        assert data.predictions["new_point"].values.tolist() == [0, 1, 2, 0, 1]

    def test_several_targets(self) -> None:
        learner = bm.MAML(bm.networks.MLP(1, 2), bm.likelihoods.Gaussian())
        given = bm.points(torch.rand(4, 1), torch.rand(4, 2))
        data = bm.evaluation.to_arviz(learner, bm.Episode(given, given), draws=5)
        assert data.posterior["f"].dims == ("chain", "draw", "task", "point", "target")
        assert data.log_likelihood["y"].dims == ("chain", "draw", "task", "point")

    def test_the_seed_decides(self) -> None:
        first, second = self.data(5), self.data(5)
        np.testing.assert_array_equal(first.posterior["f"].values, second.posterior["f"].values)


@pytest.mark.parametrize("judge", ["sbc", "pit", "to_arviz"])
def test_targets_that_are_seen_in_part_are_refused(judge: str) -> None:
    y = torch.zeros(1, 3, 2)
    seen = torch.tensor([[[True, True], [True, False], [False, True]]])
    whole = Points(torch.zeros(1, 3, 1), y, torch.ones(1, 3, dtype=torch.bool))
    episode = Episode(whole, whole._replace(mask=seen))
    learner = bm.ABML(bm.networks.MLP(1, 2), bm.likelihoods.Gaussian(), steps=1)
    ask = {
        "sbc": lambda: bm.evaluation.sbc(learner, [episode], episodes=1),
        "pit": lambda: bm.evaluation.pit(learner, [episode], episodes=1),
        "to_arviz": lambda: bm.evaluation.to_arviz(learner, episode),
    }[judge]
    with pytest.raises(ValueError, match=rf"query\.mask: expected a mask of points.*as {judge} takes or leaves"):
        ask()
