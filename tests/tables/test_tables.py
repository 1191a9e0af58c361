"""From a file to predictions: the three scripts beside their tables, in at most fifteen lines each."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import table

HERE = Path(__file__).parent
NAMES = ["plants", "sensors", "clinics"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_was_made(name: str) -> None:
    pd.testing.assert_frame_equal(pd.read_csv(HERE / f"{name}.csv"), table(name)[0], check_dtype=False)


@pytest.fixture(params=NAMES)
def answered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any], pd.Series]:
    monkeypatch.chdir(HERE)
    script = HERE / f"{request.param}.py"
    assert sum(bool(line.strip()) for line in script.read_text().splitlines()) <= 15
    names = runpy.run_path(str(script))
    truth = table(request.param)[1]
    assert names["found"].index.equals(truth.index)
    return request.param, names, truth


def test_answers_are_better_than_what_anybody_would_say(answered: tuple[str, dict[str, Any], pd.Series]) -> None:
    name, names, truth = answered
    known, found = names["known"], names["found"]
    if name == "clinics":
        yes, share = truth == "yes", known.back.mean()
        own = np.log(np.where(yes, found["back 1"], found["back 0"])).mean()
        assert own > np.log(np.where(yes, share, 1 - share)).mean()
        assert found["back 1"][yes].mean() > 2 * found["back 1"][~yes].mean()
        return
    task, y = {"plants": ("plant", "height"), "sensors": ("sensor", "reading")}[name]
    last = found[task].map(known.groupby(task)[y].last())
    mean = found[task].map(known.groupby(task)[y].mean())
    error = (found[f"{y} mean"] - truth).pow(2).mean()
    assert error < 0.5 * min((last - truth).pow(2).mean(), (mean - truth).pow(2).mean())
    inside = (found[f"{y} 5%"] < truth) & (truth < found[f"{y} 95%"])
    assert inside.mean() > 0.75  # of 40 or more points, of ten tasks or more
