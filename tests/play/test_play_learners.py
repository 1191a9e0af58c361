"""What the playground's panels show, the learners that it trains, and those that it loads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel
from play_support import maml, running
from torch import nn

import bayesmeta as bm
from bayesmeta.play.__main__ import main
from bayesmeta.play.learners import RECIPES, Recipe, axes_of, from_file, hidden_task, shown, trained

X = torch.linspace(-2, 2, 9)


def test_a_panel_shows_the_exact_band_of_a_gaussian_process() -> None:
    learner = bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(0.3))
    x, y, scale = np.array([-1.0, 0.5]), np.array([0.4, -0.2]), learner.kernel.lengthscale.item()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((a[:, None] - b) / scale) ** 2)

    at = X.numpy().astype(float)
    gain = np.linalg.solve(kernel(x, x) + 0.09 * np.eye(2), kernel(x, at)).T
    mean, variance = gain @ y, 1 - (gain * kernel(at, x)).sum(1)
    found = shown(learner, list(zip(x, y, strict=True)), X)
    z = 1.6448536
    for name, expected in {
        "mean": mean,
        "low": mean - z * np.sqrt(variance + 0.09),
        "high": mean + z * np.sqrt(variance + 0.09),
        "inner_low": mean - z * np.sqrt(variance),
        "inner_high": mean + z * np.sqrt(variance),
    }.items():
        np.testing.assert_allclose(found[name], expected, atol=2e-4)
    assert np.shape(found["draws"]) == (8, 9)
    assert len(np.unique(found["draws"], axis=0)) == 8


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_trains_and_answers(recipe: Recipe) -> None:
    state, steps = torch.get_rng_state(), []
    learner = trained(recipe, effort=2 / recipe.steps, on_step=lambda history: steps.append(len(history.losses)))
    assert steps == [1, 2]
    assert torch.equal(torch.get_rng_state(), state)
    prior, after = (shown(learner, known, X) for known in ([], [(0.0, 3.0), (1.0, 2.0)]))
    for found in (prior, after):
        low, mean, high = (np.array(found[name]) for name in ("low", "mean", "high"))
        assert ((low < mean) & (mean < high)).all()
    assert prior["mean"] != after["mean"]
    assert shown(learner, [(0.0, 3.0), (1.0, 2.0)], X) == after  # draws are of a seed


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_seconds_of_training_are_enough_to_be_shown(recipe: Recipe) -> None:
    """Of five points the NLL is far below that of the prior, 2.0; intervals hold 85 to 100 % of 1,500 queries."""
    test = bm.tasks.Sinusoids(noise=0.1, seed=9)
    metrics = [bm.metrics.NLL(), bm.metrics.Coverage(0.9)]
    found = bm.evaluate(trained(recipe), test, episodes=4, metrics=metrics, progress=False)
    assert found["NLL"].value < (0 if recipe.name in ("ALPaCA", "DKT") else 1.2)
    assert found["90% coverage"].value > 0.85


def test_a_hidden_task_is_a_noisy_sinusoid() -> None:
    x = torch.linspace(-5, 5, 50)
    task = hidden_task(7, x)

    def waves(at: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(at), np.cos(at)], 1)

    weights, *_ = np.linalg.lstsq(waves(x.numpy()), np.array(task["truth"]), rcond=None)
    np.testing.assert_allclose(waves(x.numpy()) @ weights, task["truth"], atol=1e-4)
    assert 0.1 <= np.hypot(*weights) <= 5
    at, y = np.array(task["points"]).T
    noise = y - waves(at) @ weights
    assert 0.05 < noise.std() < 0.15
    assert (np.abs(at) <= 5).all()


def scaled() -> bm.Learner:
    return bm.Standardized(maml(), x_loc=10.0, x_scale=2.0, y_loc=50.0, y_scale=5.0)


def test_axes_are_those_of_the_data() -> None:
    assert axes_of([maml()]) == ((-5.0, 5.0), (-6.0, 6.0))
    x, y = axes_of([maml(), scaled()])
    assert x == pytest.approx((10 - 2 * 3**0.5, 10 + 2 * 3**0.5))
    assert y == (35.0, 65.0)


def test_axes_of_evenly_spread_inputs_end_where_they_do() -> None:
    days = torch.linspace(0, 30, 1000)
    tasks = bm.tasks.tasks_from_arrays(days, days.square(), torch.arange(1000) % 10, shots=3)
    x, _ = axes_of([bm.Standardized.from_tasks(maml(), tasks)])
    assert x == pytest.approx((0, 30), abs=1.0)


@pytest.mark.parametrize("around", [lambda learner: learner, lambda learner: bm.Ensemble([learner, scaled()])])
def test_the_axis_of_a_logarithmic_learner_is_in_the_users_units(around: Callable[[bm.Learner], bm.Learner]) -> None:
    """Of incomes whose logarithm is normal, it holds all but those of the outer 5 %."""
    within = bm.Standardized(maml(), x_loc=10.0, x_scale=2.0, y_loc=4.0, y_scale=1.2)
    _, (low, high) = axes_of([around(bm.Warped(within, bm.warps.Log()))])
    assert (low, high) == pytest.approx((np.exp(4 - 2.4), np.exp(4 + 2.4)))
    incomes = np.exp(4 + 1.2 * np.random.default_rng(0).standard_normal(20_000))
    assert 0.94 < ((low < incomes) & (incomes < high)).mean() < 0.97
    assert axes_of([bm.Ensemble([scaled(), bm.Warped(within, bm.warps.Log())])])[1] == (35.0, 65.0)


def saved(folder: Path, name: str, learner: bm.Learner, **options: bm.Points) -> Path:
    bm.save(learner, folder / f"{name}.bayesmeta", **options)
    return folder / f"{name}.bayesmeta"


def test_the_dark_band_lies_within_the_light_one() -> None:
    """Also of draws that are far from normal: two kinds of functions, far apart."""
    learners = [bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian(0.1)) for _ in range(2)]
    for learner, bias in zip(learners, (-9.0, 9.0), strict=True):
        nn.init.constant_(learner.network.bias, bias)
    found = shown(bm.Ensemble(learners), [], X)
    low, inner, mean, top, high = (np.array(found[n]) for n in ("low", "inner_low", "mean", "inner_high", "high"))
    assert ((low <= inner) & (inner < mean) & (mean < top) & (top <= high)).all()
    assert (top - inner > 0.99 * (high - low)).all()  # all but the noise is doubt


def test_a_file_answers_as_its_learner(tmp_path: Path) -> None:
    known = [(9.0, 48.0), (11.0, 52.0)]
    for learner in (scaled(), bm.Ensemble([scaled(), maml()]), bm.Warped(maml(), bm.warps.Log())):
        assert shown(from_file(saved(tmp_path, "own", learner)), known, X) == shown(learner, known, X)


def test_files_that_are_no_such_learners_say_why(tmp_path: Path) -> None:
    classes = bm.MAML(bm.networks.MLP(1, 3), bm.likelihoods.Categorical())
    yes_or_no = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Bernoulli())
    inputs, targets = (bm.MAML(bm.networks.MLP(*size), bm.likelihoods.Gaussian()) for size in ((2, 1), (1, 2)))
    posterior = saved(tmp_path, "posterior", maml(), support=bm.points([0.0], [1.0]))
    damaged = saved(tmp_path, "damaged", maml())
    damaged.write_bytes(damaged.read_bytes()[:-20])
    one = "of one input and one real target"
    for path, line in {
        tmp_path / "none": "none: no such file",
        tmp_path: re.escape(str(tmp_path)),
        damaged: "damaged",
        posterior: "expected a learner, got PointEstimate",
        saved(tmp_path, "classes", classes): one,
        saved(tmp_path, "yes", yes_or_no): f"{one}.*classes",
        saved(tmp_path, "inputs", inputs): f"{one}, got MAML that .*it takes 2 inputs",
        saved(tmp_path, "targets", targets): f"{one}.*event shape",
    }.items():
        with pytest.raises((OSError, ValueError), match=line):
            from_file(path)


def test_the_command_leaves_out_a_broken_file_and_goes_on(tmp_path: Path) -> None:
    good, broken = saved(tmp_path, "good", scaled()), tmp_path / "broken.bayesmeta"
    broken.write_text("no learner")
    command = [sys.executable, "-m", "bayesmeta.play", "--port", "0", str(broken), str(good), str(good)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127.0.0.1:\d+/", line):
                break
        with urlopen(f"{found[0]}state", timeout=20) as answer:
            state = json.loads(answer.read())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == "ended\n"
    assert state["learners"] == {"good": "Standardized, MAML", "good (2)": "Standardized, MAML"}
    assert (state["y"], state["hidden"]) == ([35, 65], False)
    assert "broken.bayesmeta" in state["problems"][0]
    assert any(line.startswith("left out: ") and "broken.bayesmeta" in line for line in lines)
    assert not state["training"]


def test_ctrl_c_at_the_first_line_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        if "http" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr("bayesmeta.play.__main__._say", say)
    main([str(saved(tmp_path, "good", scaled())), "--port", "0"])
    assert lines[1:] == ["ended"]


def test_commands_that_cannot_be_fulfilled_end_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running({}) as other:
        port = other.server_address[1]
        for arguments, line in {
            ("--port", str(port)): f"--port: expected a free port, got {port}",
            ("--port", f"{port}", "--effort", "2"): "or --port 0 for any that is free",
            ("--port", "70000"): "--port: expected a free port, got 70000",
            ("--x", "1", "1"): "--x: expected a low and a higher end",
            ("--y", "0", "inf"): "--y: expected a low and a higher end",
            ("--x", "nan", "1"): "--x: expected a low and a higher end",
            ("--effort", "0"): "--effort: expected a number above 0",
            (str(tmp_path / "none"),): "no file could be used",
        }.items():
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code != 0
            assert line in capsys.readouterr().err
