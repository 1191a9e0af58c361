"""The best state by validation tasks, when to stop, and what is called after each step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.training import checkpoint
from bayesmeta.training.validation import lowest

TASKS, VALIDATION = bm.tasks.Sinusoids(noise=0.1, batch=4), bm.tasks.Sinusoids(noise=0.1, batch=4, seed=1, length=3)
FILE = "checkpoint.bayesmeta"


def build(kind: str = "ABML") -> bm.Learner:
    """ABML draws random numbers in each step, and in each prediction."""
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(8,))
    if kind == "Reptile":  # whose objective is a distance
        return bm.Reptile(network, bm.likelihoods.Gaussian(), steps=2)
    return (
        bm.ABML(network, bm.likelihoods.Gaussian(), steps=2)
        if kind == "ABML"
        else bm.MAML(network, bm.likelihoods.Gaussian())
    )


def state(learner: nn.Module) -> list[Tensor]:
    return [value.clone() for value in learner.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def fit(learner: bm.Learner, tasks: Any = TASKS, steps: int = 12, **options: Any) -> bm.training.History:
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    return bm.fit(learner, tasks, steps=steps, optimizer=optimizer, progress=False, **options)


class Sliding(bm.Learner):
    """Predicts N(m, 1) whatever it is told, and trains m upwards, by 1 a step."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.tensor([start]))

    def forward(self, support: bm.Points) -> Any:
        normal = torch.distributions.Normal
        return lambda x: torch.distributions.Independent(normal(self.m + 0 * x, 1.0, validate_args=False), 1)

    def loss(self, episode: bm.Episode) -> Tensor:
        return -self.m


def slide(start: float, **options: Any) -> tuple[Sliding, bm.training.History]:
    """Validation targets are 0, so that the NLL after k steps is (start + k)²/2 + log √2π."""
    learner = Sliding(start)
    given = bm.points([0.0, 1.0], [0.0, 0.0])
    options = {"steps": 20, "validate_every": 1, "validation": [bm.Episode(given, given)], **options}
    optimizer = torch.optim.SGD(learner.parameters(), lr=1.0)
    return learner, bm.fit(learner, TASKS, optimizer=optimizer, clip=None, progress=False, **options)


def test_the_best_state_is_kept_and_the_run_ends_when_the_nll_no_longer_falls() -> None:
    learner, history = slide(-5.0, patience=3)
    assert history.validation == pytest.approx({k: (k - 5) ** 2 / 2 + 0.5 * math.log(2 * math.pi) for k in range(9)})
    assert (history.best, len(history.losses), learner.m.item()) == (5, 8, 0.0)
    assert not history.interrupted
    assert not learner.training


@pytest.mark.parametrize(
    ("start", "every", "steps", "looked", "best"),
    [
        (-5.0, 4, 10, [0, 4, 8, 10], 4),
        (3.0, 2, 5, [0, 2, 4, 5], 0),
        (-9.0, 4, 6, [0, 4, 6], 6),
        (-9.0, 100, 6, [0, 6], 6),
    ],
)
def test_looks_are_before_the_first_step_every_so_many_and_after_the_last(
    start: float, every: int, steps: int, looked: list[int], best: int
) -> None:
    """So that the learner in the end is never worse on the validation tasks than the one that was given."""
    learner, history = slide(start, validate_every=every, steps=steps)
    assert list(history.validation) == looked
    assert (history.best, learner.m.item()) == (best, start + best)


@pytest.mark.parametrize("kind", ["ABML", "MAML", "Reptile"])
def test_it_is_the_nll_of_predictions_and_moves_no_bit_of_training(kind: str) -> None:
    states: dict[int, list[Tensor]] = {}
    learner, reference = build(kind), build(kind)
    history = fit(
        learner,
        validation=VALIDATION,
        validate_every=5,
        on_step=lambda history: states.update({len(history.losses): state(learner)}),
    )
    plain = fit(reference)
    assert history.losses == plain.losses
    assert equal(states[12], state(reference))
    assert list(history.validation) == [0, 5, 10, 12]
    for step in (5, 10, 12):
        reference.load_state_dict(dict(zip(reference.state_dict(), states[step], strict=True)))
        found = bm.evaluate(reference, VALIDATION, episodes=3)["NLL"].value
        assert history.validation[step] == pytest.approx(found, rel=1e-12)
    assert history.best is not None
    assert equal(state(learner), states[history.best] if history.best else state(build(kind)))
    assert plain.validation == {}
    assert plain.best is None


class Broken(bm.tasks.Sinusoids):  # type: ignore[misc]
    def __getitem__(self, index: int) -> bm.Episode:
        if index == 7:
            raise RuntimeError("power cut")
        return super().__getitem__(index)


@pytest.mark.parametrize("patience", [1, 10])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, patience: int) -> None:
    options: dict[str, Any] = {"validation": VALIDATION, "validate_every": 2, "patience": patience}
    options |= {"checkpoint_every": 3}
    whole, parts = build(), build()
    expected = fit(whole, **options, checkpoint=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(parts, Broken(noise=0.1, batch=4), **options, checkpoint=tmp_path / "parts")
    assert list(checkpoint.read(tmp_path / "parts" / FILE, "checkpoint")["validation"]) == [0, 2, 4, 6]
    for _ in range(2):  # the second time a finished run is only read
        parts = build()
        history = fit(parts, **options, checkpoint=tmp_path / "parts")
        assert (history.losses, history.validation) == (expected.losses, expected.validation)
        assert equal(state(parts), state(whole))


def test_a_run_that_was_stopped_goes_on_with_more_patience(tmp_path: Path) -> None:
    _, stopped = slide(-2.0, patience=2, steps=10, checkpoint=tmp_path)
    learner, history = slide(-2.0, patience=20, steps=10, checkpoint=tmp_path)
    _, whole = slide(-2.0, patience=20, steps=10)
    assert len(stopped.losses) == 4
    assert history.validation == whole.validation
    assert learner.m.item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validate_every": 3}, "whose validate_every is 2, got 3"),
        ({"validation": None}, "whose validate_every is 2, got None"),
        ({"validation": TASKS}, "whose the first validation episode is"),
    ],
)
def test_other_validation_is_another_run(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"validation": VALIDATION, "validate_every": 2, "checkpoint": tmp_path}
    fit(build(), **options)
    with pytest.raises(ValueError, match=message):
        fit(build(), **options | change)


@pytest.mark.parametrize(
    "change", [{"validation": {"a": 1.0}}, {"validation": {0: "low"}}, {"best": {}}, {"best": {"a": torch.ones(1)}}]
)
def test_odd_content_with_a_right_checksum_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"validation": VALIDATION, "checkpoint": tmp_path, "steps": 3}
    fit(build("MAML"), **options)
    content = checkpoint.read(tmp_path / FILE, "checkpoint")
    checkpoint.write(tmp_path / FILE, content | change)
    learner = build("MAML")
    with pytest.raises(ValueError, match="expected"):
        fit(learner, **options)
    assert equal(state(learner), state(build("MAML")))


def test_a_callback_may_draw_and_ask_and_its_errors_end_the_run() -> None:
    learner, reference = build(), build()
    seen = []

    def look(history: bm.training.History) -> None:
        seen.append((len(history.losses), history.losses[-1], history.gradient_norms[-1]))
        learner(TASKS[0].support)(TASKS[0].query.x).mean.sum().backward()  # draws, and leaves gradients
        bm.evaluate(learner, VALIDATION, episodes=1)

    history = fit(learner, on_step=look)
    plain = fit(reference)
    assert history.losses == plain.losses
    assert equal(state(learner), state(reference))
    assert seen == [(k + 1, history.losses[k], history.gradient_norms[k]) for k in range(12)]

    def fail(history: bm.training.History) -> None:
        if len(history.losses) == 3:
            raise RuntimeError("the logger is gone")

    with pytest.raises(RuntimeError, match="the logger is gone"):
        fit(build(), on_step=fail)


def test_a_prediction_that_is_no_number_is_no_best() -> None:
    assert lowest({0: math.nan, 1: math.inf, 2: 3.0, 3: math.nan, 4: 3.0}) == 2
    assert lowest({}) is None
    _, history = slide(1e30, steps=2)
    assert list(history.validation.values()) == [math.inf] * 3
    assert history.best == 0


def test_what_ended_the_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    learner = Sliding(-2.0)
    given = bm.points([0.0, 1.0], [0.0, 0.0])
    optimizer = torch.optim.SGD(learner.parameters(), lr=1.0)
    bm.fit(
        learner,
        TASKS,
        steps=20,
        optimizer=optimizer,
        validation=[bm.Episode(given, given)],  # type: ignore[arg-type]
        validate_every=1,
        patience=2,
        clip=None,
    )
    assert "stopped after step 4 of 20: the learner is as after step 2, with the lowest validation NLL, 0.919" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validate_every": 0}, "validate_every: expected at least 1 step, got 0"),
        ({"patience": 0}, "patience: expected at least 1 look, got 0"),
        ({"patience": 1.5}, "patience: expected a whole number, got 1.5"),
        ({"validation": []}, "validation: expected at least one episode, got none"),
        ({"validation": 3}, "validation: expected a task source or a map-style dataset of episodes, got int"),
        ({"on_step": "print"}, "on_step: expected a function of the history, got 'print'"),
    ],
)
def test_arguments_are_checked_before_any_update(options: dict[str, Any], message: str) -> None:
    learner = build("MAML")
    with pytest.raises((ValueError, TypeError), match=message):
        fit(learner, **{"validation": VALIDATION, **options})
    assert equal(state(learner), state(build("MAML")))
