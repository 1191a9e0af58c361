"""What `autofit` makes of tables, types and folders that are not what it was told."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmeta as bm
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.run import Run


def frame(rows: int = 6) -> pd.DataFrame:
    """Six noisy lines."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": np.repeat(np.arange(6), rows), "x": np.tile(np.arange(float(rows)), 6)})
    return table.assign(y=(1 + rng.normal(size=6)[table.id]) * table.x + 0.1 * rng.normal(size=len(table)))


def fitted(table: Any, **options: Any) -> bm.automatic.AutoFit:
    return bm.autofit(table, **{"task": "id", "x": "x", "y": "y", "steps": 1, "progress": False, **options})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_members_have_the_floating_type_of_the_tasks() -> None:
    learner = fitted(frame(), dtype=torch.float64)
    assert learner(bm.points([0.0], [1.0], dtype=torch.float64))([2.0]).mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.float16}, ValueError, "data: expected torch.float32 or torch.float64, .* got torch.float16"),
        ({"shot": 3}, TypeError, "shot: expected an option of autofit or tasks_from_frame, .*'shots' is the nearest"),
        ({"whole": True}, ValueError, "data: expected numbers, x .* got others, such as labels, tokens"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitted(frame().astype({"x": int}), **options)


def test_a_run_with_another_horizon_is_not_gone_on_with(tmp_path: Path) -> None:
    """Of a table of more than a thousand numbers, which torch prints in part."""
    runs = []
    for horizon in (2.0, 3.0):
        tasks = bm.tasks_from_frame(
            frame(rows=300), task="id", x="x", y="y", order="x", horizon=horizon, shots=(1, 290)
        )
        assert tasks.reach is not None
        assert tasks.reach.numel() > 1000
        runs.append(Run(Folds(tasks, 2, [None], seed=0), ["line"], steps=1))
    runs[0].train(progress=False, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint: expected the run of .*, whose horizon is"):
        runs[1].train(progress=False, checkpoint=tmp_path)
