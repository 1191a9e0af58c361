from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesmeta import Episode, Points, PrototypicalNetwork, check, concatenate, move, points
from bayesmeta.data import split
from bayesmeta.networks import Conv4

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)
lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def numbered(sizes: list[int]) -> Points:
    """Ragged tasks in which every point has its own number: x is (n, 10 n), y is n; numbers start at 1."""
    ends = np.cumsum([0, *sizes]) + 1
    tasks = [np.arange(a, b, dtype=float) for a, b in pairwise(ends)]
    return points([np.stack([n, 10 * n], 1) for n in tasks], tasks)


def observed(given: Points, task: int) -> list[float]:
    return given.y[task, given.mask[task], 0].tolist()


@examples
@given(lengths)
def test_points_keeps_every_value_in_order_and_pads_with_masked_zeros(sizes):
    p, end = numbered(sizes), 1
    assert p.mask.sum(1).tolist() == sizes
    assert p.x.shape == (len(sizes), max(1, *sizes), 2)
    for b, size in enumerate(sizes):
        assert observed(p, b) == list(range(end, end + size))
        end += size
    assert torch.equal(p.x[p.mask], torch.cat([p.y, 10 * p.y], 2)[p.mask])
    assert not p.x[~p.mask].any()
    assert not p.y[~p.mask].any()


@examples
@given(lengths)
def test_points_of_permuted_tasks_are_permuted_points(sizes):
    forward, backward = numbered(sizes), [np.arange(n, dtype=float) + b for b, n in enumerate(sizes)]
    order = list(range(len(sizes)))[::-1]
    a, b = points(backward, backward), points([backward[i] for i in order], [backward[i] for i in order])
    assert all(torch.equal(u[order], v) for u, v in zip(a, b, strict=True))
    assert forward.mask.shape == a.mask.shape


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 3],
        [1.0, 2.0, 3.0],
        (1, 2, 3),
        range(1, 4),
        [np.float32(1), np.float64(2), np.int64(3)],
        [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)],
        np.array([1, 2, 3], dtype=np.int16),
        np.array([1.0, 2.0, 3.0]),
        np.array([3.0, 2.0, 1.0])[::-1],
        np.arange(1.0, 7.0).reshape(3, 2, order="F")[:, 0],
        torch.tensor([1, 2, 3], dtype=torch.uint8),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True),
        pd.Series([1.0, 2.0, 3.0]),
        pd.Series([1.0, 2.0, 3.0], index=[7, 8, 9]),
        pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=[7, 8, 9]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_points_reads_any_column_of_numbers_as_one_feature(column):
    p = points(column, column)
    assert p.x.dtype == p.y.dtype == torch.get_default_dtype()
    assert p.x[0, :, 0].tolist() == p.y[0, :, 0].tolist() == [1, 2, 3]
    assert p.mask.all()


def test_points_reads_an_array_that_may_not_be_written_without_a_warning():
    column = np.array([1.0, 2.0])  # as pandas hands them out
    column.flags.writeable = False
    assert points(column, column).x[0, :, 0].tolist() == [1, 2]


def test_points_live_on_the_cpu_unless_told() -> None:
    with torch.device("meta"):
        given = points([[1.0], [2.0, 3.0]], [[0], [1, 2]], classes=3)
        assert given.mask.sum().item() == 3
        assert {leaf.device.type for leaf in given} == {"cpu"}
        parts = split(points(range(3), range(3)), torch.tensor([1], device="cpu"), None, torch.Generator())
        assert {leaf.device.type for part in parts for leaf in part} == {"cpu"}


def test_points_does_not_share_memory_with_its_input():
    x = torch.tensor([[1.0], [2.0]])
    p = points(x, x)
    x.zero_()
    assert p.x[0, :, 0].tolist() == p.y[0, :, 0].tolist() == [1, 2]


def test_points_keeps_event_shapes_dtype_and_labels():
    p = points([torch.ones(2, 3, 4), torch.ones(1, 3, 4)], [[2, 0], [1]], classes=3, dtype=torch.float64)
    assert (p.x.shape, p.x.dtype) == ((2, 2, 3, 4), torch.float64)
    assert (p.y.shape, p.y.dtype) == ((2, 2), torch.long)
    assert p.y.tolist() == [[2, 0], [1, 0]]
    assert points(torch.ones(2, 1), torch.ones(2, 3)).y.shape == (1, 2, 3)


def test_an_empty_support_is_one_masked_row_of_zeros():
    for p in (points([], []), points([[]], [[]]), points(np.zeros((0, 1)), np.zeros(0))):
        assert (p.x.shape, p.y.shape, p.mask.tolist()) == ((1, 1, 1), (1, 1, 1), [[False]])
        assert not p.x.any()


@examples
@given(st.data(), st.lists(st.integers(2, 7), min_size=1, max_size=4), st.integers(1, 7) | st.none())
def test_split_partitions_the_observed_points(data, sizes, queries):
    shots = torch.tensor([data.draw(st.integers(0, n - 1)) for n in sizes])
    whole = numbered(sizes)
    order = torch.randperm(max(sizes), generator=torch.Generator().manual_seed(len(sizes)))
    whole = Points(whole.x[:, order], whole.y[:, order], whole.mask[:, order])  # gaps anywhere, not only at the end
    support, query = split(whole, shots, queries, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    for b, n in enumerate(sizes):
        taken, asked = observed(support, b), observed(query, b)
        left = n - int(shots[b])
        assert len(taken) == shots[b]
        assert len(asked) == (left if queries is None else min(left, queries))
        assert len({*taken, *asked}) == len(taken) + len(asked)
        assert {*taken, *asked} <= {*observed(whole, b)}
        assert queries is not None or sorted(taken + asked) == sorted(observed(whole, b))
    for part in (support, query):
        assert torch.equal(part.x[part.mask], torch.cat([part.y, 10 * part.y], 2)[part.mask])
        assert not part.x[~part.mask].any()
        check(part)


def test_split_is_uniform_over_points():
    whole, n = points([np.arange(4)] * 4000, [np.arange(4)] * 4000), 4000
    support, _ = split(whole, torch.full((n,), 2), 1, torch.Generator().manual_seed(0))
    counts = support.y.flatten().long().bincount(minlength=4)
    # Each is Binomial(4000, 1/2), standard deviation 31.6: 5 of them, error rate 4 x 6e-7.
    assert (counts - 2000).abs().max() < 158


def test_split_reads_trees_of_inputs_and_depends_on_its_generator_alone():
    y = torch.arange(1.0, 6.0)[None, :, None]
    tree = Points({"a": y * 2, "b": (y * 3).long()}, y, torch.ones(1, 5, dtype=torch.bool))
    parts = [split(tree, torch.tensor([2]), None, torch.Generator().manual_seed(7)) for _ in range(2)]
    for support, query in parts:
        both = concatenate(support, query)
        assert torch.equal(both.x["a"], both.y * 2)
        assert torch.equal(both.x["b"], (both.y * 3).long())
        assert both.y.flatten().sort()[0].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(parts[0].support.y, parts[1].support.y)


@pytest.mark.parametrize(("shots", "queries"), [(3, None), (4, 1), (-1, None), (1, 0), (1, -2)])
def test_split_refuses_to_leave_a_part_without_meaning(shots, queries):
    with pytest.raises(ValueError, match=r"shots|queries"):
        split(points(range(3), range(3)), torch.tensor([shots]), queries, torch.Generator())


def test_concatenate_keeps_support_then_query():
    joined = concatenate(points([[1.0], [2.0, 3.0]], [[1.0], [2.0, 3.0]]), points([[4.0], [5.0]], [[4.0], [5.0]]))
    assert joined.mask.tolist() == [[True, False, True], [True, True, True]]
    assert [observed(joined, b) for b in range(2)] == [[1, 4], [2, 3, 5]]


def test_move_casts_floating_tensors_only_and_leaves_alone_what_has_no_parameters():
    p = points([0.0, 1.0], [0, 1], classes=2)
    moved = move(Episode(p, p), torch.nn.Linear(1, 1).double())
    assert (moved.query.x.dtype, moved.query.y.dtype, moved.query.mask.dtype) == (torch.float64, torch.long, torch.bool)
    assert move(p, torch.nn.ReLU()) is p


def test_check_finds_the_first_bad_value_wherever_it_stands():
    for field in ("x", "y"):
        p = numbered([2, 3])
        getattr(p, field)[1, 2, -1] = torch.inf
        with pytest.raises(ValueError, match=rf"support\.{field}: .*task 1, point 2"):
            check(Episode(p, numbered([1, 1])))


def test_pictures_as_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="x: expected pictures of values from 0 to 1, got bytes; divide by 255"):
        points(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), [0, 1], classes=2)
    assert points(torch.zeros(2, 3, dtype=torch.uint8), [0, 1], classes=2).x.dtype == torch.float32  # counts, say
    learner = PrototypicalNetwork(Conv4(width=8).features, classes=2)
    posterior = learner(points(torch.rand(2, 1, 28, 28), [0, 1], classes=2))
    with pytest.raises(ValueError, match="x: expected pictures of values from 0 to 1, got bytes; divide by 255"):
        posterior(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
