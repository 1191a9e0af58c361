"""The benchmarks' learners can be built: their runs take hours, and so would not tell for long."""

from __future__ import annotations

import importlib
import sys
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
        lambda: built("accuracy.segmentation", "LEARNERS"),
        lambda: built("accuracy.detection", "LEARNERS", *detector()),
        lambda: built("cost.masks", "LEARNERS"),
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
