"""Evaluation names what is wrong with predictions, and leaves a user's own errors alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro import distributions as dist
from tests_support import Blobs
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.evaluation import reading

TASKS = bm.tasks.LinearGaussian(batch=10, shots=3)


def broken(value: float = float("nan")) -> bm.Learner:
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    with torch.no_grad():
        next(learner.network.parameters()).fill_(value)
    return learner


def classifier(value: float | None = None) -> bm.Learner:
    learner = bm.PrototypicalNetwork(nn.Linear(2, 2), classes=3)
    if value is not None:
        with torch.no_grad():
            next(learner.parameters()).fill_(value)
    return learner


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "judge",
    [
        lambda learner: bm.evaluate(learner, TASKS, episodes=1),
        lambda learner: bm.compare({"broken": learner}, TASKS, episodes=1, progress=False),
        lambda learner: bm.Calibrated.from_tasks(learner, TASKS, episodes=1),
        lambda learner: bm.Conformal.from_tasks(learner, TASKS, episodes=1),
        lambda learner: bm.evaluation.sbc(learner, TASKS, episodes=1),
        lambda learner: bm.evaluation.pit(learner, TASKS, episodes=1),
        lambda learner: bm.plots.pit(learner, TASKS, episodes=1),
    ],
    ids=["evaluate", "compare", "Calibrated", "Conformal", "sbc", "pit", "plot_pit"],
)
def test_predictions_that_are_no_numbers_are_named(judge: Any, value: float) -> None:
    with pytest.raises(
        ValueError, match="learner: expected predictions that are numbers, got NaN or infinity at task 0"
    ):
        judge(broken(value))
    assert torch.is_grad_enabled()


def test_nan_probabilities_are_no_class_0() -> None:
    for metrics in (None, [bm.metrics.Accuracy()], [bm.metrics.ECE()]):
        with pytest.raises(ValueError, match="learner: expected predictions that are numbers"):
            bm.evaluate(classifier(float("nan")), Blobs(), episodes=1, metrics=metrics)


def test_an_infinite_nll_of_a_sure_learner_is_a_figure() -> None:
    """Probability zero for what happened is a fair answer, if a bad one."""

    def sure(support: bm.Points) -> Any:
        return lambda x: dist.Categorical(
            logits=torch.tensor([0.0, -float("inf"), -float("inf")]).expand(*x.shape[:2], 3), validate_args=False
        )

    found = bm.evaluate(sure, Blobs(), episodes=1)
    assert found["NLL"].value == float("inf")
    assert found["Accuracy"].low <= found["Accuracy"].value <= found["Accuracy"].high


def certain(support: bm.Points) -> Any:
    return lambda x: dist.Normal(torch.zeros_like(x), torch.zeros_like(x), validate_args=False).to_event(1)


def test_a_density_of_no_width_is_named() -> None:
    message = "predictions of which NLL is a number, got NaN for certain at task 0 of episode 0; .* deviations of 0"
    with pytest.raises(ValueError, match=message):
        bm.evaluate(certain, TASKS, episodes=2)
    with pytest.raises(ValueError, match=message) as caught:
        bm.compare({"exact": TASKS.oracle, "mine": certain}, TASKS, episodes=1, progress=False)
    assert caught.value.__notes__ == ["of 'mine' among the learners"]
    assert bm.evaluate(certain, TASKS, episodes=2, metrics=[bm.metrics.RMSE()])["RMSE"].value > 0


def test_a_metric_of_the_wrong_kind_is_one_type_error() -> None:
    learner = bm.DKTClassifier(nn.Identity(), RBFKernel(), classes=3)
    for metric in (bm.metrics.Sharpness(), bm.metrics.EnergyScore(), bm.metrics.RMSE(), bm.metrics.Width()):
        with pytest.raises(TypeError, match="which is of classes"):
            bm.evaluate(learner, Blobs(), episodes=1, metrics=[metric])
    for metric in (bm.metrics.Accuracy(), bm.metrics.MCE(), bm.metrics.Brier(), bm.metrics.AURC()):
        with pytest.raises(TypeError, match="which is of numbers"):
            bm.evaluate(TASKS.oracle, TASKS, episodes=1, metrics=[metric])


@pytest.mark.parametrize(
    "work",
    [lambda x: bm.evaluate(x, TASKS, episodes=1), lambda x: bm.fit(x, TASKS, steps=1, progress=False)],
    ids=["evaluate", "fit"],
)
def test_errors_of_a_users_network_stay_what_they_are(work: Any) -> None:
    class Own(nn.Linear):
        def __init__(self, error: Exception) -> None:
            super().__init__(1, 1)
            self.error = error

        def forward(self, x: Tensor) -> Tensor:
            raise self.error

    for error in (RuntimeError("the database is gone"), IndexError("no such row"), NotImplementedError("later")):
        with pytest.raises(type(error), match=str(error)):
            work(bm.MAML(Own(error), bm.likelihoods.Gaussian()))
    with pytest.raises(ValueError, match="expected tasks that fit"):
        work(bm.MAML(nn.Linear(2, 1), bm.likelihoods.Gaussian()))


class Later:
    """The third episode is broken."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> bm.Episode:
        episode = TASKS[index]
        if index == 2:
            self.change(episode.query)
        return episode


def nothing_asked(query: bm.Points) -> None:
    for leaf in query:
        leaf[4] = 0


def a_nan(query: bm.Points) -> None:
    query.y[4, 1] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"), [(nothing_asked, "none in task 4"), (a_nan, "NaN or infinity at task 4")]
)
def test_later_episodes_are_checked_too(change: Any, message: str) -> None:
    tasks: Any = Later(change)
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    for judge in (
        lambda: bm.evaluate(learner, tasks, episodes=3),
        lambda: bm.Calibrated.from_tasks(learner, tasks, episodes=3),
        lambda: bm.Conformal.from_tasks(learner, tasks, episodes=3),
        lambda: bm.evaluation.sbc(learner, tasks, episodes=3),
        lambda: bm.evaluation.pit(learner, tasks, episodes=3),
    ):
        with pytest.raises(ValueError, match=message):
            judge()


def test_reading_leaves_no_trace_when_its_body_fails() -> None:
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()).train()

    def fail() -> None:
        with reading(learner, TASKS, episodes=2, seed=5) as read:
            next(read)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert learner.training
    assert torch.is_grad_enabled()
