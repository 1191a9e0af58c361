"""What every learner keeps on a GPU: the CPU's answers in float64, but for rounding, from the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_contract as contract
import torch
from same_draws import SameDraws
from torch import Tensor

import bayesmeta as bm
from bayesmeta import Episode, Learner

DEVICE = "cuda"
S = 6

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA on this machine"),
    pytest.mark.filterwarnings("default"),  # of another build of torch than the one that all else is tested with
]
every_learner = pytest.mark.parametrize(("name", "likelihood"), contract.CASES)


def pair(name: str, likelihood: str) -> tuple[tuple[Learner, Episode], tuple[Learner, Episode]]:
    """The learner on the CPU in float64 and on the card in float32, each with an episode that is on the CPU."""
    ours = contract.build(name, likelihood, torch.float32).to(DEVICE)
    return (
        (contract.build(name, likelihood), contract.episode(likelihood)),
        (ours, contract.episode(likelihood, torch.float32)),
    )


def seeded(function: Callable[[], Any]) -> Any:
    with SameDraws():
        return function()


def gradient(learner: Learner, episode: Episode) -> tuple[Tensor, Tensor]:
    loss = seeded(lambda: learner.loss(bm.move(episode, learner)))
    slopes = torch.autograd.grad(loss, list(learner.parameters()), allow_unused=True, materialize_grads=True)
    return loss, torch.cat([slope.flatten() for slope in slopes])


def assert_close(ours: Tensor, exact: Tensor, tolerance: float = 1e-3) -> None:
    """On the card, and within a relative distance ‖ours - exact‖ / ‖exact‖."""
    assert ours.device.type == DEVICE
    assert exact.device.type == "cpu"
    distance = (ours.detach().cpu().double() - exact.detach().double()).norm()
    assert distance <= tolerance * exact.detach().double().norm() + 1e-6, f"{distance / exact.detach().norm():.2g}"


def assert_here(*tensors: Tensor) -> None:
    for tensor in tensors:
        assert tensor.device.type == DEVICE
        assert tensor.isfinite().all()


@every_learner
class TestLearner:
    def test_loss_and_gradient(self, name: str, likelihood: str) -> None:
        (exact, given), (ours, here) = pair(name, likelihood)
        for found, expected in zip(gradient(ours, here), gradient(exact, given), strict=True):
            assert_close(found, expected, 1e-2)

    def test_predictions_for_points_of_the_cpu(self, name: str, likelihood: str) -> None:
        """Support and inputs are moved."""
        (exact, given), (ours, here) = pair(name, likelihood)
        expected = seeded(lambda: exact(given.support)(given.query.x).log_prob(given.query.y))
        found = seeded(lambda: ours(here.support)(here.query.x).log_prob(here.query.y.to(DEVICE)))
        assert_close(found, expected)

    def test_draws_and_parts_of_the_uncertainty(self, name: str, likelihood: str) -> None:
        (exact, given), (ours, here) = pair(name, likelihood)
        posterior, y = ours(here.support), here.query.y.to(DEVICE)
        predictive, draws = posterior(here.query.x), posterior.draws(here.query.x, S)
        assert draws.batch_shape == (S, *y.shape[:2])
        assert_here(predictive.sample(), draws.sample(), draws.log_prob(y))
        expected = seeded(lambda: exact(given.support).decompose(given.query.x))
        found = seeded(lambda: ours(here.support).decompose(here.query.x))
        assert_close(torch.stack(found), torch.stack(expected), 1e-2)

    def test_fit(self, name: str, likelihood: str) -> None:
        losses = []
        for learner, episode in pair(name, likelihood):
            with SameDraws():
                history = bm.fit(learner, [episode] * 3, steps=3, seed=5, progress=False)  # type: ignore[arg-type]
            losses.append(torch.tensor(history.losses))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-3)
        assert_here(*learner.parameters())

    def test_save_and_load(self, name: str, likelihood: str, tmp_path: Path) -> None:
        """A file of the card serves the card and the CPU."""
        _, (ours, here) = pair(name, likelihood)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.mul_(1.01)
        expected = seeded(lambda: ours(here.support)(here.query.x).log_prob(here.query.y.to(DEVICE)))
        bm.save(ours, tmp_path / "a", support=bm.move(here.support, ours))
        for device in (DEVICE, "cpu"):
            other = contract.build(name, likelihood, torch.float32).to(device)
            y = here.query.y.to(device)
            found = seeded(lambda other=other, y=y: bm.load(tmp_path / "a", other)(here.query.x).log_prob(y))  # type: ignore[misc]
            assert found.device.type == device
            torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "likelihood"), [("MAML", "gaussian"), ("ABML", "classes"), ("DKT", "gaussian")])
def test_evaluate(name: str, likelihood: str) -> None:
    scores = []
    for learner, episode in pair(name, likelihood):
        with SameDraws():
            scores.append(bm.evaluate(learner, [episode], episodes=1))  # type: ignore[arg-type]
    for metric, expected in scores[0].items():
        assert scores[1][metric].value == pytest.approx(expected.value, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(("name", "likelihood"), [("MAML", "gaussian"), ("ABML", "classes"), ("DKT", "gaussian")])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda learner, tasks: bm.Standardized.from_tasks(learner, tasks),
        lambda learner, tasks: bm.Calibrated.from_tasks(learner, tasks, episodes=3),
        lambda learner, tasks: bm.Ensemble([learner, learner]),
        lambda learner, tasks: bm.Calibrated.from_tasks(bm.Standardized.from_tasks(learner, tasks), tasks, episodes=3),
    ],
    ids=["Standardized", "Calibrated", "Ensemble", "Calibrated(Standardized)"],
)
def test_what_wraps_a_learner_of_the_card(name: str, likelihood: str, wrap: Callable[..., Learner]) -> None:
    """From tasks of the CPU: its answers are those of a wrapper that was built on the CPU and moved."""
    tasks = [contract.episode(likelihood, torch.float32)] * 3
    support, query = tasks[0]
    found, moved = [
        seeded(make)
        for make in (
            lambda: wrap(contract.build(name, likelihood, torch.float32).to(DEVICE), tasks),
            lambda: wrap(contract.build(name, likelihood, torch.float32), tasks).to(DEVICE),
        )
    ]
    answers = [
        seeded(lambda learner=learner: learner(support)(query.x).log_prob(query.y.to(DEVICE)))
        for learner in (found, moved)
    ]
    assert_here(*answers)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-3)
    assert_here(*found(support).decompose(query.x, 8))
    bm.fit(found, tasks, steps=2, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "likelihood"), [("MAML", "gaussian"), ("ABML", "classes")])
def test_conformal_regions(name: str, likelihood: str) -> None:
    tasks: Any = [contract.episode(likelihood, torch.float32)] * 3
    conformal = bm.Conformal.from_tasks(
        contract.build(name, likelihood, torch.float32).to(DEVICE), tasks, level=0.5, episodes=3
    )
    regions = conformal(tasks[0].support)
    if likelihood == "classes":
        assert_here(regions.classes(tasks[0].query.x))
    else:
        assert_here(*regions.interval(tasks[0].query.x))
    assert 0 <= conformal.coverage(tasks, episodes=3).value <= 1


def test_points_are_made_and_moved() -> None:
    given = bm.points([torch.rand(3), torch.rand(5)], [torch.rand(3), torch.rand(5)], device=DEVICE)
    assert {leaf.device.type for leaf in given} == {DEVICE}
    labels = bm.points([torch.rand(3, 2)], [torch.tensor([0, 1, 1])], classes=2, device=DEVICE)
    assert {leaf.device.type for leaf in labels} == {DEVICE}
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()).to(DEVICE)
    episode = bm.move(bm.tasks.Sinusoids(batch=2)[0], learner)
    assert {leaf.device.type for part in episode for leaf in part} == {DEVICE}
    assert_here(learner(given)(given.x).mean)


def test_a_run_resumes_where_it_was(tmp_path: Path) -> None:
    """With the card's own generator, of which ABML draws."""

    def run(steps: int, folder: Path) -> list[float]:
        torch.manual_seed(0)
        learner = bm.ABML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=2).to(DEVICE)
        tasks = bm.tasks.Sinusoids(batch=4)
        if steps < 6:
            tasks = _Stopping(tasks, steps)  # type: ignore[assignment]
        return bm.fit(learner, tasks, steps=6, checkpoint=folder, checkpoint_every=1, progress=False).losses

    whole = run(6, tmp_path / "whole")
    with pytest.raises(_StopError):
        run(3, tmp_path / "parts")
    resumed = run(6, tmp_path / "parts")
    assert len(resumed) == 6
    assert resumed == pytest.approx(whole, rel=1e-4)


class _StopError(Exception):
    pass


class _Stopping(torch.utils.data.Dataset[Episode]):
    """Tasks that end the run at a step."""

    def __init__(self, tasks: bm.TaskSource, step: int) -> None:
        self.tasks, self.step = tasks, step

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Episode:
        if index == self.step:
            raise _StopError
        return self.tasks[index]


def test_the_generators_stay_as_they_were() -> None:
    learner = bm.ABML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=2).to(DEVICE)
    tasks = bm.tasks.Sinusoids(batch=4)
    before = torch.cuda.get_rng_state()
    bm.fit(learner, tasks, steps=2, progress=False)
    bm.evaluate(learner, tasks, episodes=1)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
@pytest.mark.parametrize("norm", [bm.networks.BatchNorm, bm.networks.GroupNorm])
def test_convolutions(norm: Any, strategy: bm.functional.Strategy) -> None:
    def build(dtype: torch.dtype) -> Learner:
        torch.manual_seed(0)
        learner = bm.MAML(bm.networks.Conv4(outputs=3, width=8, norm=norm), bm.likelihoods.Categorical(), rate=0.1).to(
            dtype
        )
        learner.strategy = strategy
        return learner

    x, labels = torch.rand(2, 6, 1, 28, 28), torch.arange(3).repeat(2, 2)
    given = bm.Points(x, labels, torch.ones(2, 6, dtype=torch.bool))
    exact = gradient(build(torch.float64), Episode(given, given))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        ours = gradient(build(torch.float32).to(DEVICE), Episode(given, given))
    for found, expected in zip(ours, exact, strict=True):
        assert_close(found, expected, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "likelihood"), [("MAML", "gaussian"), ("CNP", "gaussian"), ("DKT", "gaussian")])
def test_a_compiled_run_is_the_eager_one(name: str, likelihood: str) -> None:
    losses = []
    for compile in (False, True):
        learner = contract.build(name, likelihood, torch.float32).to(DEVICE)
        tasks: Any = [contract.episode(likelihood, torch.float32)]
        losses.append(bm.fit(learner, tasks, steps=4, compile=compile, progress=False).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
