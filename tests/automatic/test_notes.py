"""What `autofit` says of the table itself, and which tasks it learns from when nothing is said."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

import bayesmeta as bm
from bayesmeta.automatic.findings import of_data
from bayesmeta.automatic.folds import Folds

DRAW = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"field": np.arange(6).repeat(20), "plot": np.tile(np.arange(2).repeat(10), 6), "x": DRAW.random(120)}
)
FRAME["y"] = 5 + FRAME.x + 0.1 * DRAW.normal(size=120)
FRAME["alone"] = 2 * FRAME.field + FRAME["plot"]


def fitted(frame: pd.DataFrame, **settings: Any) -> bm.AutoFit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the report says too
        return bm.autofit(frame, **{"task": "field", "x": "x", "y": "y", "steps": 1, "progress": False, **settings})


def notes(frame: pd.DataFrame, task: Any = "field") -> str:
    tasks = bm.tasks_from_frame(frame, task=task, x="x", y="y", shots=(1, 3))
    return " ".join(of_data(Folds(tasks, 2, [None], seed=0), tasks.columns))


def test_tasks_of_a_group_are_not_new_groups() -> None:
    assert notes(FRAME, ["field", "plot"]).startswith(
        "12 tasks share 6 values of 'field': tasks held out are not of a new one"
    )
    assert not notes(FRAME)
    assert not notes(FRAME, "alone")
    # The plots have names of their own: what they share is the field, the second column.
    assert "share 6 values of 'field'" in notes(FRAME, ["alone", "field"])


def test_few_targets_that_are_not_above_zero_are_noted() -> None:
    low = FRAME.assign(y=FRAME.y.where(FRAME.index != 7, 0.0))
    said = "1 of 120 targets is not above 0: members on a logarithmic scale are left out; "
    assert notes(low).startswith(said)
    assert "Log1p()" in notes(low)
    assert not notes(low.assign(y=low.y.where(low.index > 8, -1.0)))  # 9 of 120
    report = fitted(low).report()
    assert f"Note: {said}" in str(report)
    assert not any(", log" in name for name in report.members)


def test_nothing_said_of_shots_is_up_to_ten_known_points_and_none() -> None:
    x = torch.linspace(0, 1, 5)[None, :, None]
    means = [
        fitted(FRAME, **shots)(bm.points([0.5], [6.0]))(x).mean
        for shots in ({}, {"shots": (0, 10)}, {"shots": (1, 10)})
    ]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
