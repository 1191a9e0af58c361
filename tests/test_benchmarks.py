"""The benchmarks' learners can be built: their runs take hours, and so would not tell for long."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import bayesmeta as bm

ROOT = Path(__file__).parent.parent


def built(module: str, name: str, *arguments: Any) -> list[bm.Learner]:
    """What a benchmark's table of learners gives; an entry is a function, or begins with one, or has it as `build`."""
    table = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    entries = [entry[0] if isinstance(entry, tuple) else getattr(entry, "build", entry) for entry in table.values()]
    return [build(*arguments) for build in entries]


def detector() -> tuple[nn.Module, nn.Module, bm.likelihoods.Boxes]:
    return bm.networks.Cells(1, widths=(8,)).features, nn.Linear(8, 9), bm.likelihoods.Boxes()


@pytest.mark.parametrize(
    "find",
    [
        lambda: built("accuracy.longitudinal_learners", "LEARNERS", 2, 20),
        lambda: built("accuracy.sinusoid", "METHODS"),
        lambda: built("accuracy.sinusoid_oracle", "LEARNERS"),
        lambda: built("accuracy.calibration", "REAL", False),
        lambda: built("accuracy.calibration", "CLASSES", True),
        lambda: built("accuracy.kernel_starts", "REGRESSORS", 10),
        lambda: built("accuracy.kernel_starts", "CLASSIFIERS"),
        lambda: built("accuracy.omniglot_learners", "RUNS", bm.networks.Conv4(width=8)),
        lambda: built("accuracy.games", "LEARNERS"),
        lambda: built("accuracy.neural_processes", "LEARNERS"),
        lambda: built("accuracy.segmentation", "LEARNERS"),
        lambda: built("accuracy.detection", "LEARNERS", *detector()),
        lambda: built("cost.masks", "LEARNERS"),
        lambda: built("cost.evaluation", "CLASSIFIERS"),
        lambda: built("accuracy.text_learners", "LEARNERS", SimpleNamespace(ways=5, labels=6), 300),
        lambda: built("accuracy.slots", "LEARNERS", 20),
        lambda: built("robustness.soak", "LEARNERS"),
        lambda: built("accuracy.bandits", "LEARNERS"),
        lambda: built("cost.speed_learners", "LEARNERS", 8, 2, 2),
    ],
)
def test_the_learners_of_a_benchmark_are_learners(
    find: Callable[[], list[bm.Learner]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    found = find()
    assert found
    assert all(isinstance(learner, bm.Learner) for learner in found)


@pytest.mark.slow
def test_ten_steps_help_to_reach_with_gears_of_either_sign() -> None:
    """With a tenth of the training: the mean gain of eight worlds is some 6, of a return of -13 without steps."""
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    reacher = importlib.import_module("benchmarks.accuracy.control_reacher")
    found = reacher.measured(0, 8, True, episodes=30, steps=500)
    none, ten, oracle = (sum(found[way]) / 8 for way in ("none", "10", "oracle"))
    assert ten - none > 2
    assert oracle - none > 2


def test_the_gap_closed_is_of_paired_worlds() -> None:
    tables = importlib.import_module("benchmarks.accuracy.control_tables")
    results = {
        "pendulum; physics; 0": {"physics": [0.0, -2.0]},
        "pendulum; ALPaCA; 0": {"none": [-10.0, -12.0], "50": [-1.0, -3.0]},
        "pendulum; ALPaCA; 1": {"none": [-10.0, -12.0], "50": [-3.0, -5.0]},
    }
    found = tables.closed(results, "pendulum", "ALPaCA", "50")
    assert found[1] == "0.800 [0.800, 0.800]"
    assert found[0].startswith("-3.000 [-4.000, -2.000")


def one_table() -> Any:
    with warnings.catch_warnings():  # libraries of the baselines set filters while they are imported
        return importlib.import_module("benchmarks.one_table")


def test_the_table_of_all_learners_is_of_the_kept_results() -> None:
    """As `python benchmarks/one_table.py` writes it; every link in it leads to a heading."""
    program = one_table()
    begin, end = program.MARKS
    written = program.PAGE.read_text().split(begin)[1].split(end)[0].strip()
    assert written == program.table()
    for link in re.findall(r"\]\(([\w.-]*#[\w-]+)\)", written):
        file, _, anchor = link.partition("#")
        headings = re.findall(r"(?m)^#+ (.*)$", (program.PAGE.parent / (file or program.PAGE.name)).read_text())
        assert anchor in {re.sub(r"[^\w]+", "-", re.sub(r"[?,:.]", "", heading)).lower() for heading in headings}, link


def test_every_method_has_a_row_in_the_table_of_all_learners() -> None:
    rows = set(re.findall(r"\w+", " ".join(one_table().LEARNERS)))
    methods = {
        name for name, value in vars(bm.methods).items() if isinstance(value, type) and issubclass(value, bm.Learner)
    }
    assert methods <= rows
