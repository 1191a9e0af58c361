"""Tables as they come: categories, what is missing, tasks of several names, times, and that the columns are remembered."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.recorded import kept
from bayesmeta.tasks import Columns

NAN = float("nan")
SITE = {"x": "site", "categorical": ()}
FRAME = pd.DataFrame(
    {
        "school": ["n", "n", "n", "s", "s", "s"],
        "room": [1, 1, 1, 1, 1, 1],
        "kind": ["oak", "pine", None, "oak", "elm", "elm"],
        "dose": [1.0, NAN, 3.0, 4.0, NAN, 8.0],
        "site": [7, 7, 7, 9, 9, 9],
        "wet": [True, False, True, True, False, False],
        "y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "z": [NAN, 0.5, 1.5, NAN, NAN, 3.5],
    }
)
ALL: dict[str, Any] = {
    "task": "school",
    "x": ["kind", "dose", "site", "wet"],
    "y": "y",
    "categorical": ["kind"],
    "missing": True,
}


def rows(tasks: bm.tasks.ArrayTasks) -> list[list[float]]:
    return tasks.points.x[
        tasks.points.mask.flatten(2).any(2) if tasks.points.mask.dim() > 2 else tasks.points.mask
    ].tolist()


def test_the_encoding_by_hand() -> None:
    tasks = bm.tasks_from_frame(FRAME, **ALL, shots=1)
    assert tasks.columns.features == [
        "kind elm",
        "kind oak",
        "kind pine",
        "kind missing",
        "dose",
        "dose missing",
        "site",
        "wet",
    ]
    assert rows(tasks) == [
        [0, 1, 0, 0, 1, 0, 7, 1],
        [0, 0, 1, 0, 4, 1, 7, 0],
        [0, 0, 0, 1, 3, 0, 7, 1],
        [0, 1, 0, 0, 4, 0, 9, 1],
        [1, 0, 0, 0, 4, 1, 9, 0],
        [1, 0, 0, 0, 8, 0, 9, 0],
    ]


def test_categories_by_their_type_in_its_order_and_those_of_numbers() -> None:
    grade = pd.Categorical(["b", "a", "b", "a", "b", "a"], categories=["c", "b", "a"])
    frame = FRAME.assign(grade=grade, zone=[3, 3, 10, 3, 10, 10])
    tasks = bm.tasks_from_frame(frame, task="school", x=["grade", "zone"], y="y", categorical="zone", shots=1)
    assert tasks.columns.features == ["grade b", "grade a", "zone 3", "zone 10"]
    assert rows(tasks)[:2] == [[1, 0, 1, 0], [0, 1, 1, 0]]
    floats = frame.assign(zone=[10.0, 3.0, 10.0, 3.0, 10.0, 10.0])  # as pandas reads them where one is missing
    assert tasks.columns.inputs(floats)[:, 2:].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]


def test_what_training_showed_decides_and_survives_json() -> None:
    columns = bm.tasks_from_frame(FRAME, **ALL, shots=1).columns
    again = Columns(**json.loads(json.dumps(asdict(columns))))
    assert again == columns == kept(columns)  # as a learner's file keeps its arguments
    other = FRAME.assign(kind="oak", dose=[NAN, 0.0, 0.0, 0.0, 0.0, 0.0])
    tasks = again.tasks(other, shots=2)
    assert tasks.columns == columns
    assert rows(tasks)[0] == [0, 1, 0, 0, 4, 1, 7, 1]  # the mean of training
    np.testing.assert_array_equal(again.inputs(other), columns.inputs(other))


def test_an_unseen_category_is_none_of_those_known_with_a_warning() -> None:
    columns = Columns.from_frame(FRAME, **ALL)
    with pytest.warns(
        UserWarning, match=r"kind: expected categories of training, got others, ash, in 6 rows \(the first is row 0\)"
    ):
        found = columns.inputs(FRAME.assign(kind="ash"))
    assert not found[:, :4].any()


def test_a_task_named_by_several_columns_keeps_its_types() -> None:
    frame = pd.concat([FRAME, FRAME.assign(room=2)])
    tasks = bm.tasks_from_frame(frame, task=["school", "room"], x="site", y="y", shots=1)
    assert tasks.names == [("n", 1), ("s", 1), ("n", 2), ("s", 2)]
    assert bm.tasks_from_frame(frame, task="room", x="site", y="y", shots=1).names == [1, 2]
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())
    asked = frame.iloc[[0, 11]].assign(site=0)
    both = bm.predict_frame(learner, frame, asked, tasks.columns)
    for row, name in enumerate([("n", 1), ("s", 2)]):
        mine = frame[(frame.school == name[0]) & (frame.room == name[1])]
        with torch.no_grad():
            alone = learner(bm.points(mine.site.to_numpy(), mine.y.to_numpy()))([0.0]).mean.item()
        assert both["y mean"].iloc[row] == pytest.approx(alone, rel=1e-5)
    with pytest.raises(ValueError, match=r"expected a task for every row, got \('n', None\)|got \('n', nan\)"):
        bm.tasks_from_frame(
            frame.assign(room=frame.room.where(frame.site > 7)), task=["school", "room"], x="site", y="y", shots=1
        )


def test_several_targets_of_which_some_are_missing() -> None:
    """Each counts where it is, in the support, the query and the scaling; a row with none is left out, and said so."""
    frame = FRAME.assign(y=[NAN, 2.0, 3.0, 4.0, 5.0, NAN])
    with pytest.warns(UserWarning, match=r"y, z: 1 row \(the first is row 0\) of 6 have no target, and are left out"):
        tasks = bm.tasks_from_frame(frame, task="school", x="site", y=["y", "z"], missing=True, shots=1)
    assert tasks.points.mask.tolist() == [
        [[True, True], [True, True], [False, False]],
        [[True, False], [True, False], [False, True]],
    ]
    learner = bm.Standardized.from_tasks(bm.MAML(bm.networks.MLP(1, 2), bm.likelihoods.Gaussian()), tasks)
    seen = frame[["y", "z"]]
    assert learner.y_loc.tolist() == pytest.approx(seen.mean().tolist())
    assert learner.y_scale.tolist() == pytest.approx(seen.std(ddof=0).tolist())
    bm.fit(learner, tasks, steps=2, progress=False)
    found = bm.predict_frame(learner, frame, frame, tasks.columns)
    one = frame[frame.school == "s"]
    with torch.no_grad():
        y = torch.tensor(one[["y", "z"]].to_numpy(np.float32))
        alone = learner(bm.points(one.site.to_numpy(), y, mask=~y.isnan()))([9.0]).mean[0, 0]
    assert found.iloc[-1][["y mean", "z mean"]].tolist() == pytest.approx(alone.tolist(), rel=1e-4)


def test_rows_without_their_target_teach_nothing() -> None:
    frame = pd.concat([FRAME, FRAME.assign(y=NAN, site=1e3)])
    with pytest.warns(UserWarning, match=r"y: 6 rows \(the first is row 6\) of 12 have no target"):
        tasks = bm.tasks_from_frame(frame, task="school", x="site", y="y", missing=True, shots=1)
    assert tasks.points.x.max() == 9
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())
    pd.testing.assert_frame_equal(
        bm.predict_frame(learner, frame, FRAME, tasks.columns), bm.predict_frame(learner, FRAME, FRAME, tasks.columns)
    )


def test_labels_by_their_names() -> None:
    frame = FRAME.assign(back=["no", "yes", "yes", "no", "no", "yes"])
    tasks = bm.tasks_from_frame(frame, task="school", x="site", y="back", classes=["no", "yes"], shots=1)
    assert tasks.points.y.tolist() == [[0, 1, 1], [0, 0, 1]]
    network = bm.networks.MLP(1, 2)
    found = bm.predict_frame(bm.MAML(network, bm.likelihoods.Categorical()), frame, frame, tasks.columns)
    np.testing.assert_allclose(found["back no"] + found["back yes"], 1.0, rtol=1e-5)
    figures = bm.evaluate(
        bm.MAML(network, bm.likelihoods.Categorical()),
        tasks,
        episodes=2,
        metrics=[bm.metrics.AUROC(), bm.metrics.AUPR()],
    )
    assert 0 <= figures["AUROC"].value <= 1
    with pytest.raises(
        ValueError, match=r"back: expected one of the classes \['no', 'yes'\], got 'maybe'; add it to classes"
    ):
        tasks.columns.tasks(frame.assign(back="maybe"), shots=1)


def test_yes_or_no() -> None:
    tasks = bm.tasks_from_frame(FRAME, task="school", x="site", y="wet", shots=1)
    learner = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Bernoulli())
    found = bm.predict_frame(learner, FRAME, FRAME, tasks.columns)
    assert list(found)[-4:] == ["wet 0", "wet 1", "wet aleatoric", "wet epistemic"]
    assert found["wet 1"].iloc[0] > found["wet 1"].iloc[3]  # two of three, and one of three
    np.testing.assert_allclose(found["wet 0"] + found["wet 1"], 1.0, rtol=1e-5)


def test_labels_of_rows_make_tasks_of_classes() -> None:
    frame = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20) % 3, "label": list("uvwx") * 5})
    episode = bm.tasks.ClassTasks(frame[["a", "b"]], frame["label"], ways=2, shots=1, queries=3)[0]
    assert episode.support.x.shape == (4, 2, 2)
    for x, y in zip(episode.query.x, episode.query.y, strict=True):
        assert len({int(row[0]) % 4 for row in x[y == 0]}) == 1


HOURS = pd.to_timedelta([0, 1, 2, 30, 0, 40, 41, 90], "h")


@pytest.mark.parametrize("dates", [False, True])
def test_a_horizon_bounds_how_far_forecasts_go(dates: bool) -> None:
    """Task a is asked at 1 and 2 hours; b at 41 alone, after two points; nothing is asked 28 hours after the last known point."""
    hours = HOURS / pd.Timedelta(hours=1)
    time = pd.Timestamp("2026-03-28", tz="Europe/Rome") + HOURS if dates else hours
    frame = pd.DataFrame({"id": list("aaaabbbb"), "time": time, "x": hours, "y": hours})
    horizon: Any = np.timedelta64(5, "h") if dates else 5
    tasks = bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", horizon=horizon, shots=(1, 3))
    asked: dict[str, set[tuple[int, tuple[float, ...]]]] = {"a": set(), "b": set()}
    for index in range(30):
        support, query = tasks[index]
        for task, name in enumerate(tasks.names):
            told = tuple(query.y[task, query.mask[task], 0].tolist())
            asked[name].add((int(support.mask[task].sum()), told))
    assert asked == {"a": {(1, (1.0, 2.0)), (2, (2.0,))}, "b": {(2, (41.0,))}}
    one = bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", horizon=horizon, queries=1, shots=(1, 2))
    assert {int(one[index].query.mask.sum()) for index in range(5)} == {2}
    with pytest.warns(UserWarning, match=r"horizon: 1 of 2 tasks, such as 'b', have no point within .* after 1 shots"):
        assert tasks.columns.tasks(frame, horizon=horizon, shots=1).names == ["a"]
    with pytest.raises(ValueError, match="horizon: expected a point within it in some task, got none"):
        bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", horizon=horizon / 10, shots=1)
    with pytest.raises(ValueError, match="horizon: expected a length in the unit of order"):
        bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", horizon=5 if dates else "5h", shots=1)
    with pytest.raises(ValueError, match="horizon: expected none without order"):
        bm.tasks_from_frame(frame, task="id", x="x", y="y", horizon=5, shots=1)


def test_times_of_several_zones_are_compared_as_moments() -> None:
    at = [pd.Timestamp("2026-03-29 12:00", tz=zone) for zone in ("America/New_York", "Asia/Tokyo", "Europe/Rome")]
    frame = {"id": ["a"] * 3 + ["b"] * 3, "time": at * 2, "x": [0.0] * 6, "y": [3.0, 1.0, 2.0] * 2}
    tasks = bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", shots=1)
    assert tasks.points.y[..., 0].tolist() == [[1.0, 2.0, 3.0]] * 2
    frame["time"] = [*at[:2], pd.Timestamp("2026-03-29")] * 2
    with pytest.raises(ValueError, match=r"order: expected times that can be compared.*time zone"):
        bm.tasks_from_frame(frame, task="id", x="x", y="y", order="time", shots=1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"missing": False}, r"kind: expected a value in every row, got 1 row \(the first is row 2\) missing"),
        ({"dose": [1.0, np.inf, 3.0, np.inf, 5.0, 6.0]}, {}, r"dose: expected finite numbers, got 2 rows \(the first is row 1\)"),
        ({"dose": [1.0, NAN, 3.0, 4.0, 5.0, 6.0]}, {"missing": False, **SITE, "x": "dose"}, "train with missing=True"),
        ({"y": [1.0, NAN, 3.0, 4.0, 5.0, NAN]}, {"missing": False, **SITE}, "y: expected a target in every row, got 2 rows"),
        ({"y": [1.0, np.inf, 3.0, 4.0, 5.0, 6.0]}, {}, r"y: expected finite numbers, got 1 row"),
        ({}, {"categorical": ()}, r"kind: .*categorical=\['kind'\]"),
        ({}, {"categorical": ["room"]}, "categorical: expected some of x, got 'room'"),
        ({"dose": NAN}, {}, "dose: expected some values, got none in 6 rows"),
        ({"school": ["n", "n", "n", "n", "s", "t"]}, {}, r"two rows a task .* got one for 's' \(row 4\) and 1 more; drop"),
        ({}, {"task": []}, "task: expected at least one column"),
        ({}, {"classes": ["a", "a"]}, "classes: expected labels, each once"),
        ({}, {"y": ["y", "z"], "classes": ["a", "b"]}, "y: expected a single column of labels"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bm.tasks_from_frame(FRAME.assign(**change), **{**ALL, **options}, shots=1)


def test_a_gap_where_training_had_none_is_refused_at_prediction() -> None:
    columns = Columns.from_frame(FRAME, **ALL)
    with pytest.raises(
        ValueError, match=r"site: expected a value in every row, got 6 rows .* none was missing in training"
    ):
        columns.inputs(FRAME.assign(site=NAN))


def test_a_column_of_missing_categories_is_missing_however_it_is_typed() -> None:
    """Each NaN that is taken from a column of numbers is another object, and equal to none."""
    columns = Columns.from_frame(FRAME, **ALL | {"x": "kind"})
    for gaps in (NAN, None):
        assert columns.inputs(FRAME.assign(kind=gaps)).tolist() == [[0, 0, 0, 1]] * 6


def test_tasks_whose_columns_become_other_numbers_are_not_judged() -> None:
    """Their shapes agree: what was learned of one column would be asked of another."""
    frame = pd.DataFrame({"id": [0, 0, 0, 1, 1, 1], "a": range(6), "b": list("xyxyxy"), "y": range(6)})
    given: dict[str, Any] = {"task": "id", "x": ["a", "b"], "y": "y", "categorical": "b"}
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(3, 1), bm.likelihoods.Gaussian())
    learner.columns = Columns.from_frame(frame, **given)
    bm.evaluate(
        learner, bm.tasks_from_frame(frame.assign(y=frame.y[::-1].to_numpy(), a=1.0), **given, shots=1), episodes=1
    )
    for other, options in (
        (frame.assign(b=list("xzxzxz")), {}),
        (frame, {"x": ["b", "a"]}),
        (frame.rename(columns={"a": "c"}), {"x": ["c", "b"]}),
    ):
        tasks = bm.tasks_from_frame(other, **given | options, shots=1)
        with pytest.raises(
            ValueError, match=r"tasks: expected columns that become numbers as in training.*columns\.tasks\("
        ):
            bm.evaluate(learner, tasks, episodes=1)


def test_tables_that_teach_nothing_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="task: expected several tasks to learn from, got one, 1; name the columns"):
        bm.tasks_from_frame(FRAME, task="room", x="site", y="y", shots=1)
    with pytest.warns(UserWarning, match="y: expected targets that differ, got 2 in every row of every task"):
        bm.tasks_from_frame(FRAME.assign(y=2.0), task="school", x="site", y="y", shots=1)
