"""Tables that are not what they seem: wrong numbers in silence are the worst, then errors that do not say what to do."""

import datetime
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bayesmeta as bm


def frame(**columns: Any) -> pd.DataFrame:
    """Three tasks of six rows."""
    rows = pd.DataFrame({"id": np.repeat([0, 1, 2], 6), "x": np.tile(np.arange(6.0), 3)})
    return rows.assign(y=rows.x * (1 + rows.id), day=np.tile(np.arange(6), 3)).assign(**columns)


def tasks(table: Any, **options: Any) -> Any:
    return bm.tasks_from_frame(table, **{"task": "id", "x": "x", "y": "y", "shots": 2, **options})


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (None, {}, TypeError, "frame: expected a data frame .* got NoneType"),
        ("points.csv", {}, TypeError, "frame: expected a data frame .* got str; .*pd.read_csv"),
        (frame().to_numpy(), {}, TypeError, "got ndarray; tasks_from_arrays takes arrays"),
        (frame()[:0], {"categorical": "x"}, ValueError, "x: expected some values, got none in 0 rows"),
        (frame(), {"x": None}, ValueError, "x: expected at least one column, each once, got none"),
        (frame(), {"x": 3}, ValueError, "x: expected a column of the frame, got 3"),
        (frame(), {"x": ["x", "x"]}, ValueError, "x: expected at least one column, each once, got 'x' twice"),
        (frame(), {"y": ["y", "y"]}, ValueError, "y: expected at least one column, each once, got 'y' twice"),
        (frame(), {"y": "id"}, ValueError, "y: expected targets beside the task, got 'id' as both"),
        (frame(), {"order": "y"}, ValueError, "order: expected a column of times beside the target"),
        (frame(), {"classes": "abc"}, ValueError, "classes: expected labels, each once, got 'abc'"),
        (frame(x=[[1]] * 18), {"categorical": "x"}, ValueError, "x: expected categories, texts or numbers"),
        (frame(id=[[1]] * 18), {}, ValueError, "task_ids: expected names that can be looked up, got .* in row 0"),
        ({"id": [1, 1], "x": 3.0, "y": [1, 2]}, {}, ValueError, "frame: expected columns of one length"),
        ({"id": [1, 1], "x": np.zeros((2, 2)), "y": [1, 2]}, {}, ValueError, "frame: expected columns of one length"),
        ({"id": [1, 1], "x": [[1, 2], [3, 4]], "y": [1, 2]}, {}, ValueError, "x: expected one number a row, got shape"),
    ],
)
def test_tables_that_are_none(table: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tasks(table, **options)


def test_names_may_be_numbers_of_numpy() -> None:
    table = frame().rename(columns={"x": np.int64(7)})
    assert tasks(table, x=np.int64(7)).columns.features == ["7"]


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ([str(n) for n in range(5, 23)], "order: expected times that can be compared, numbers or dates, got '5'"),
        (pd.Categorical(["low", "high"] * 9), "got 'low'; text is sorted by its letters.*ordered category"),
        (np.r_[np.inf, np.arange(17.0)], "order: expected finite times, got inf in row 0"),
        (np.arange(18) * 1j, "order: expected times that can be compared"),
    ],
)
def test_times_that_sort_otherwise_than_they_pass(day: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks(frame(day=day), order="day")


def test_ordered_categories_are_sorted_as_they_say() -> None:
    """By letters "high" would come before "low"."""
    day = pd.Categorical(["low", "high", "mid"] * 6, categories=["low", "mid", "high"], ordered=True)
    for episode in (tasks(frame(day=day), order="day")[0], bm.tasks_from_arrays(*_arrays(), order=day, shots=2)[0]):
        assert episode.support.x[..., 0].tolist() == [[0, 3]] * 3
        assert episode.query.x[..., 0].tolist() == [[2, 5, 1, 4]] * 3
    with pytest.raises(ValueError, match="order: expected a time for every row, got nan in row 1"):
        tasks(frame(day=pd.Categorical(["a", None] * 9, ordered=True)), order="day")


def _arrays() -> tuple[Any, Any, Any]:
    return frame().x, frame().y, frame().id


@pytest.mark.parametrize("type_", ["int8", "uint8", "int16", "float16", "Int64", "uint64"])
def test_a_horizon_does_not_wrap_around(type_: str) -> None:
    """75 + 100 is no number of eight bits."""
    table = frame(day=pd.Series(np.tile(25 * np.arange(6), 3)).astype(type_))
    assert tasks(table, order="day", horizon=50, shots=4)[0].query.x[..., 0].tolist() == [[4, 5]] * 3


@pytest.mark.parametrize(
    "horizon", [np.timedelta64(2, "D"), datetime.timedelta(days=2), pd.Timedelta("2D"), np.timedelta64(48, "h")]
)
@pytest.mark.parametrize("kind", ["dates", "zoned", "durations", "objects"])
def test_durations_of_each_kind(horizon: Any, kind: str) -> None:
    days = pd.to_timedelta(frame().day, "D")
    dates = pd.Timestamp("2026-05-01") + days
    zoned = dates.dt.tz_localize("Europe/Rome")
    day = {"dates": dates, "zoned": zoned, "durations": days, "objects": list(dates.dt.date)}[kind]
    table = {name: list(column) if kind == "objects" else column for name, column in frame(day=day).items()}
    assert tasks(table, order="day", horizon=horizon)[0].query.x[..., 0].tolist() == [[2, 3]] * 3


@pytest.mark.parametrize(
    ("kind", "horizon", "message"),
    [
        ("dates", np.int64(2), "horizon: expected a length .* got np.int64"),
        ("dates", np.timedelta64("NaT"), "horizon: .*no length"),
        ("durations", 2, "horizon: .*times are durations"),
        ("numbers", np.timedelta64(2, "D"), "horizon: .*times are numbers"),
        ("numbers", float("nan"), "horizon: .*no length"),
        ("numbers", [2], "horizon: .*times are numbers"),
    ],
)
def test_horizons_in_another_unit(kind: str, horizon: Any, message: str) -> None:
    """To numpy a whole number beside dates is one of nanoseconds, and nothing is further than NaN."""
    days = pd.to_timedelta(frame().day, "D")
    day = {"dates": pd.Timestamp("2026-05-01") + days, "durations": days, "numbers": frame().day}[kind]
    with pytest.raises(ValueError, match=message):
        tasks(frame(day=day), order="day", horizon=horizon)


def test_columns_that_do_not_fit() -> None:
    columns = bm.tasks.Columns(task="id", x="x", y="y")  # type: ignore[arg-type]
    assert columns == bm.tasks.Columns(task=("id",), x=("x",), y=("y",))
    with pytest.raises(ValueError, match="fills: expected one entry for each of 1 inputs, got 2"):
        bm.tasks.Columns(task=("id",), x=("x",), y=("y",), fills=(0.0, 1.0))


def line() -> bm.Learner:
    return bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())


def test_tasks_under_names_of_another_type_are_told() -> None:
    """Names read as text find none of the known rows: answers of no support, which look like others."""
    source, learner = tasks(frame()), line()
    with pytest.warns(UserWarning, match="task: expected some tasks of asked in known too, .*asked has '0', known 0"):
        bm.predict_frame(learner, frame(), frame(id=frame().id.astype(str)), source.columns)


@pytest.mark.parametrize("written", ["0", 0.5, "0 "])
def test_one_task_that_is_written_in_another_way_is_told(written: Any) -> None:
    """The others are found, so that its answers of no support are easily overlooked; a new task is none of these."""
    source, learner = tasks(frame()), line()
    asked = frame(id=[written if name == 0 else name for name in frame().id])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bm.predict_frame(learner, frame(), asked, source.columns)
    said = [str(warning.message) for warning in caught]
    assert [f"got {written!r} beside 0 (and 0 more)" in text for text in said] == ([] if written == 0.5 else [True])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"levels": 0.5}, ValueError, "levels: expected quantiles between 0 and 1, got 0.5"),
        ({"levels": "0.5"}, ValueError, "levels: expected quantiles"),
        ({"columns": None}, TypeError, "learner and columns: .* got NoneType"),
        ({"columns": tasks(frame())}, TypeError, "learner and columns: .* got ArrayTasks; .*tasks.columns"),
        ({"learner": line}, TypeError, "learner and columns: .* got function"),
        ({"known": None}, TypeError, "frame: expected a data frame"),
    ],
)
def test_questions_that_are_none(change: dict[str, Any], error: type[Exception], message: str) -> None:
    asked = {"learner": line(), "known": frame(), "asked": frame(), "columns": tasks(frame()).columns}
    with pytest.raises(error, match=message):
        bm.predict_frame(**{**asked, **change})


def test_a_learner_of_other_classes() -> None:
    table = frame(y=["a", "b"] * 9)
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 3), bm.likelihoods.Categorical())
    with pytest.raises(ValueError, match="learner: expected 2 classes, as the columns have, got 3"):
        bm.predict_frame(learner, table, table, tasks(table, classes=["a", "b"]).columns)


def test_tasks_of_very_different_length_are_answered_row_by_row() -> None:
    """Long tasks are asked in parts, and short ones not padded to them: answers are those of each task by itself."""
    long = pd.DataFrame({"id": 0, "x": torch.linspace(-1, 1, 9000).numpy()})
    asked = pd.concat([frame()[["id", "x"]], long]).sample(frac=1, random_state=0)
    learner, columns = line(), tasks(frame()).columns
    found = bm.predict_frame(learner, frame(), asked, columns)
    for name in range(3):
        mine = frame()[frame().id == name]
        posterior = learner(bm.points(mine.x, mine.y))
        rows = (asked.id == name).to_numpy()
        exact = posterior(torch.as_tensor(asked.x.to_numpy()[rows], dtype=torch.float32)).mean.detach()
        np.testing.assert_allclose(found["y mean"].to_numpy()[rows], exact.flatten().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frequencies", [(3.0, float("inf")), 3.0, ("a", "b"), None])
def test_frequencies_that_are_none(frequencies: Any) -> None:
    with pytest.raises(ValueError, match="frequencies: expected bounds"):
        bm.tasks.Sawtooth(frequencies=frequencies)
