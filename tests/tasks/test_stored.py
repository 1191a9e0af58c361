"""Tables on disk: episodes hold the rows that were written, each once, and files that changed are refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesmeta.data import Episode
from bayesmeta.tasks import StoredTasks, store_tasks

ROWS = [5, 1, 2, 9, 30, 3]


def parts(size: int = 7) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A row says its task and its place in it."""
    ids = np.repeat(np.arange(len(ROWS)), ROWS)
    place = np.concatenate([np.arange(n) for n in ROWS])
    x, y = np.stack([ids, place], 1).astype(np.float32), 100.0 * ids + place
    for at in range(0, len(ids), size):
        yield x[at : at + size], y[at : at + size], ids[at : at + size]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store_tasks(tmp_path / "table", parts(), progress=False)
    return tmp_path / "table"


def told(episode: Episode, task: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The rows of a task's support and query."""
    found = []
    for part in episode:
        x, y = part.x[task, part.mask[task]], part.y[task, part.mask[task], 0]
        torch.testing.assert_close(y, 100 * x[:, 0] + x[:, 1])
        assert not part.x[task, ~part.mask[task]].any()
        found.append([(int(a), int(b)) for a, b in x.tolist()])
    return found[0], found[1]


@pytest.mark.parametrize("ordered", [False, True])
def test_episodes_divide_the_rows_of_different_tasks(folder: Path, ordered: bool) -> None:
    tasks = StoredTasks(folder, batch=5, shots=(0, 4), queries=6, ordered=ordered)
    for index in range(20):
        episode, members = tasks[index], tasks.members(index)
        assert sorted(members.tolist()) == [0, 2, 3, 4, 5]  # all that have two rows
        for place, task in enumerate(members.tolist()):
            support, query = told(episode, place)
            rows = support + query
            assert len(set(rows)) == len(rows)
            assert {name for name, _ in rows} == {task}
            assert len(support) <= min(4, ROWS[task] - 1)
            assert len(query) == min(6, ROWS[task] - len(support))
            if ordered:
                assert rows == [(task, row) for row in range(len(rows))]


def test_each_row_is_as_likely_as_another(folder: Path) -> None:
    # Task 4 has 30 rows, of which 3 are support: of 2,000 divisions each is in 200, σ = 13.4. The largest of 30 deviations is
    # beyond 4.5 σ with a probability of 2e-4.
    tasks, counts = StoredTasks(folder, batch=5, shots=3, queries=1), torch.zeros(30)
    for index in range(2000):
        support = tasks[index].support
        place = tasks.members(index).tolist().index(4)
        counts[support.x[place, support.mask[place], 1].long()] += 1
    assert counts.sum() == 6000
    assert ((counts - 200).abs() < 4.5 * 13.4).all()


def test_an_episode_depends_on_its_number_alone(folder: Path) -> None:
    tasks = StoredTasks(folder, batch=3, shots=(1, 3))
    first = tasks[7]
    tasks[3]
    again = pickle.loads(pickle.dumps(tasks))
    for one, other in ((first, tasks[7]), (first, again[7])):
        for a, b in zip(one, other, strict=True):
            assert all(torch.equal(*pair) for pair in zip(a, b, strict=True))
    loader = torch.utils.data.DataLoader(tasks, batch_size=None, num_workers=1)
    assert torch.equal(next(iter(loader)).query.y, tasks[0].query.y)
    assert not torch.equal(StoredTasks(folder, batch=3, shots=(1, 3), seed=1)[7].query.x, first.query.x)


def test_parts_may_cut_tasks_anywhere(folder: Path, tmp_path: Path) -> None:
    for size in (1, 4, 1000):
        store_tasks(tmp_path / str(size), parts(size), progress=False)
        for name in ("x", "y", "starts", "about.json"):
            assert (tmp_path / str(size) / name).read_bytes() == (folder / name).read_bytes()


def test_tables_that_changed_are_refused(folder: Path) -> None:
    tasks = StoredTasks(folder, batch=2)
    tasks[0]
    with (folder / "y").open("r+b") as file:
        file.write(b"\0" * 8)
    with pytest.raises(RuntimeError, match=r"folder: expected the files .* as they were"):
        tasks[1]
    with (folder / "y").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"expected 200 bytes in .*y, got 201"):
        StoredTasks(folder, batch=2)
    (folder / "about.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match=r"format 1, got 7, of another version"):
        StoredTasks(folder, batch=2)
    with pytest.raises(FileNotFoundError, match=r"without about\.json"):
        StoredTasks(folder.parent)


def test_bad_rows_are_refused_and_no_folder_is_left(folder: Path, tmp_path: Path) -> None:
    one = torch.ones(3)
    for given, message in (
        (
            [(one, one, [0, 1, 0])],
            r"parts\[0\]: expected the rows of a task to stand together, got task 0 again in row 2",
        ),
        ([(one, one, ["a", "a", "b"]), (one, one, ["b", "a", "a"])], r"parts\[1\]: .*got task 'a' again in row 1"),
        ([(one, one, [0, 0])], r"parts\[0\]: expected as many rows"),
        ([(one, one * torch.nan, [0, 0, 0])], r"parts\[0\]\.y: expected finite numbers"),
        (
            [(one, one, [0, 0, 0]), (torch.ones(3, 2), one, [1, 1, 1])],
            r"expected 1 features and 1 targets as before, got 2",
        ),
        ([], r"parts: expected rows, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            store_tasks(tmp_path / "bad", given, progress=False)
        assert not (tmp_path / "bad").exists()
    with pytest.raises(FileExistsError, match="expected a new one"):
        store_tasks(folder, parts(), progress=False)
    with pytest.raises(ValueError, match="at most the 5 tasks of two rows and more, got 6"):
        StoredTasks(folder, batch=6)
