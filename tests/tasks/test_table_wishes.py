"""Tables as a new user brings them: each is taken for what it is, or refused with what to do."""

from __future__ import annotations

import datetime
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

import bayesmeta as bm

FRAME = pd.DataFrame({"id": ["a"] * 5 + ["b"] * 5, "x": list(range(5)) * 2, "y": [1.0, 5, 2, 3, 4, 9, 7, 8, 6, 0]})
ROLES: Any = {"task": "id", "x": "x", "y": "y"}


@pytest.mark.parametrize("kind", ["object", "string"])
def test_text_is_no_time(kind: str) -> None:
    frame = FRAME.assign(week=pd.Series(["1", "10", "11", "2", "3"] * 2, dtype=kind))
    with pytest.raises(
        ValueError, match=r"order: .* got '1'; .* pd\.to_numeric\(.*pd\.to_datetime\(\.\.\., utc=True\)"
    ):
        bm.tasks_from_frame(frame, **ROLES, order="week", shots=1)
    tasks = bm.tasks_from_frame(frame.assign(week=pd.to_numeric(frame.week)), **ROLES, order="week", shots=1)
    assert tasks.points.y[0, :, 0].tolist() == [1.0, 3.0, 4.0, 5.0, 2.0]


DAYS = pd.date_range("2026-03-20", periods=5, freq="3D")  # over a change of clocks in Rome
ROME = DAYS.tz_localize("Europe/Rome")


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([*DAYS] * 2),
        pd.Series([*ROME] * 2),
        pd.Series([*ROME] * 2, dtype=object),
        pd.Series([*ROME, *DAYS.tz_localize("US/Pacific")], dtype=object),
        [day.to_pydatetime() for day in ROME] * 2,
        [day.date() for day in DAYS] * 2,
    ],
    ids=["dates", "zoned", "objects", "zones", "python", "days"],
)
@pytest.mark.parametrize(
    "horizon", ["7D", "168 h", "1w", datetime.timedelta(days=7), np.timedelta64(7, "D"), pd.Timedelta(7, "D")]
)
def test_a_horizon_is_any_duration(column: Any, horizon: Any) -> None:
    tasks = bm.tasks_from_frame(FRAME.assign(day=column), **ROLES, order="day", horizon=horizon, shots=2)
    assert tasks[0].query.mask.sum(1).tolist() == [2, 2]  # of three that are left, 3, 6 and 9 days later


@pytest.mark.parametrize("horizon", ["7M", "7", "week", "-7D"])
def test_a_horizon_without_a_length_is_refused(horizon: str) -> None:
    with pytest.raises(
        ValueError, match=r"horizon: expected .* such as '30D' .* a text is a whole number and one of w, d"
    ):
        bm.tasks_from_frame(FRAME.assign(day=[*DAYS] * 2), **ROLES, order="day", horizon=horizon, shots=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bm.tasks_from_frame(FRAME, **ROLES, shot=3), "shot: expected .* of tasks_from_frame, .*'shots' is the nearest"),
        (lambda: bm.tasks_from_arrays([0.0], [0.0], [0], oder=[1]), "oder: .* of tasks_from_arrays, .*'order' is"),
        (lambda: bm.tasks.Columns.from_frame(FRAME, **ROLES).tasks(FRAME, querys=1), "querys: .*'queries' is the nearest"),
        (lambda: bm.autofit(FRAME, **ROLES, categories=["x"]), "categories: expected an option of autofit or tasks_from_frame"),
        (lambda: bm.autofit(FRAME, **ROLES, step=3), "step: .*'steps' is the nearest"),
        (lambda: bm.tasks_from_frame(FRAME, **ROLES, qwfp=3), "qwfp: .* of tasks_from_frame, got another; they are task, x"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_told_the_nearest(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_columns_say_their_order() -> None:
    columns = bm.tasks_from_frame(FRAME, **ROLES, order="x", shots=1).columns
    with pytest.raises(TypeError, match="order: expected how tasks are divided, got what the columns say, order='x'"):
        columns.tasks(FRAME, order="x", shots=1)  # type: ignore[call-arg]
    assert columns.tasks(FRAME, shots=1).ordered


TWICE: Any = [
    ([False, True, True, False, True] * 2, "0 or 1"),
    ([0, 1, 1, 0, 1] * 2, "0 or 1"),
    ([-1.5, 3.0, 3.0, -1.5, 3.0] * 2, "-1.5 or 3"),
]


@pytest.mark.parametrize(("y", "values"), TWICE)
def test_yes_or_no_is_no_regression(y: Any, values: str) -> None:
    frame = FRAME.assign(y=y)
    said = rf"expected amounts, got one of two values, {values}, in all 10 rows.*Bernoulli\(\).*Categorical\(\): docs/tables.md"
    with pytest.raises(ValueError, match=f"^y='y': {said}"):
        bm.autofit(frame, **ROLES, progress=False)
    tasks = bm.tasks_from_frame(frame, **ROLES, shots=2)
    for baseline in ("Boosting", "LastValue", "Mean", "MixedEffects"):
        with pytest.raises(ValueError, match=r"^tasks: y: expected amounts"):
            getattr(bm.baselines, baseline).from_tasks(tasks, episodes=1)


def test_rows_before_those_that_are_known_are_warned_of_once() -> None:
    frame = FRAME.assign(day=[*ROME] * 2)
    columns = bm.tasks_from_frame(frame, **ROLES, order="day", shots=2).columns
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())

    def warned(known: Any, asked: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bm.predict_frame(learner, known, asked, columns)
        return [str(warning.message) for warning in caught]

    early, middle, late = (frame[frame.x.isin(some)] for some in ([0, 1], [2], [2, 3, 4]))
    (said,) = warned(late, early)
    assert "order: expected rows to answer after those that are known" in said
    assert "got earlier ones in task 'a' (and in 1 more)" in said
    for known, asked in (
        (early, late),
        (middle, late),
        (late.drop(columns="day"), early),
        (late, early.drop(columns="day")),
    ):
        assert warned(known, asked) == []
    (said,) = warned(late[late.id == "b"], frame[(frame.x == 0) | (frame.id == "a")])
    assert "in task 'b' (and in 0 more)" in said
