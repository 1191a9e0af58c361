"""Users' values: what is a number, what a floating type may lose of it, at every entrance alike."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gpytorch.kernels import RBFKernel

import bayesmeta as bm
from bayesmeta import Episode, Points, points
from bayesmeta.border import check_spread, convert, queries

pytestmark = pytest.mark.filterwarnings("ignore:task. expected several tasks")
NAN = float("nan")
HOURS = pd.Series(pd.date_range("2020-03-01", periods=4, freq="h"))


def linear(inputs: int = 1) -> bm.Posterior:
    return bm.MAML(torch.nn.Linear(inputs, 1), bm.likelihoods.Gaussian())(points(torch.zeros(1, inputs), [0.0]))


ENTRANCES: dict[str, Callable[[Any], Any]] = {
    "points x": lambda values: points(values, range(len(values))).x,
    "points y": lambda values: points(range(len(values)), values).y,
    "arrays x": lambda values: bm.tasks_from_arrays(values, range(len(values)), [0] * len(values), shots=1).points.x,
    "arrays y": lambda values: bm.tasks_from_arrays(range(len(values)), values, [0] * len(values), shots=1).points.y,
    "frame x": lambda values: (
        bm.tasks_from_frame(
            {"id": [0] * len(values), "t": values, "y": range(len(values))}, task="id", x="t", y="y", shots=1
        ).points.x
    ),
    "query": lambda values: linear()._inputs(values),
}

LOST = {
    "seconds": 1.5e9 + np.arange(4.0),
    "a list of seconds": [1.5e9, 1.5e9 + 1],
    "whole numbers": np.array([2**24, 2**24 + 1]),
    "whole numbers of 32 bits": np.array([2**24, 2**24 + 1], np.int32),
    "a tensor": torch.tensor([1.5e9, 1.5e9 + 1], dtype=torch.float64),
    "seconds beside a zero": np.array([0.0, 1.5e9, 1.5e9 + 1]),
    "halves beside small numbers": np.array([0.5, 1.5, 1e9 + 0.25, 1e9 + 0.75]),
    "Julian dates": 2459000.5 + 0.1 * np.arange(50),
    "a trend on an offset": 1.7e9 + np.array([0.0, 190.123456, 330.123456]),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", LOST)
def test_what_float32_merges_is_refused_with_the_values_and_the_remedies(name: str, entrance: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected values that torch\.float32 can tell apart, got .*; subtract an offset.*float64"
    ):
        ENTRANCES[entrance](LOST[name])


@pytest.mark.parametrize("values", LOST.values(), ids=LOST)
def test_float64_keeps_what_float32_merges(values: Any) -> None:
    kept = points(values, values, dtype=torch.float64)
    wanted = np.asarray(values, dtype=np.float64)
    assert kept.x.flatten().tolist() == kept.y.flatten().tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", [float, int])
def test_tasks_are_not_pooled(kind: type) -> None:
    """Between tasks these values differ by far more than float32 loses; within one they become equal."""
    time = np.r_[1.5e9 + np.arange(4.0), 1.6e9 + np.arange(4.0)].astype(kind)
    ids = ["a"] * 4 + ["b"] * 4
    for x, y in ((time, np.arange(8.0)), (np.arange(8.0), time), (np.stack([np.arange(8.0), time], 1), np.arange(8.0))):
        with pytest.raises(ValueError, match=r"tell apart, got 15000\d+(\.0)? and 15000\d+(\.0)? in task 'a'"):
            bm.tasks_from_arrays(x, y, ids, shots=1)
        kept = bm.tasks_from_arrays(x, y, ids, shots=1, dtype=torch.float64)
        assert kept.points.x.dtype == kept[0].query.y.dtype == torch.float64
        assert len(kept.points.x.unique()) + len(kept.points.y.unique()) >= 16


def test_whole_numbers_beyond_float64_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float64 can tell apart, got 1152921504606846976 and"):
        points([2**60, 2**60 + 1], [0, 1], dtype=torch.float64)
    frame = pd.DataFrame({"a": [2**60, 2**60 + 1], "b": [0.5, 1.5]})  # whose columns share a floating type
    with pytest.raises(ValueError, match="x: expected whole numbers that float64 holds, got 1152921504606846977"):
        points(frame, [0, 1], dtype=torch.float64)
    assert points(frame - [2**60, 0], [0, 1]).x[0, :, 0].tolist() == [0, 1]


KEPT = {
    "many measurements": lambda g: g.normal(size=100_000),  # of which some agree to seven digits
    "heavy tails": lambda g: np.exp(3 * g.normal(size=10_000)),
    "a small spread on an offset": lambda g: 1e4 + g.normal(size=1000),
    "equal but for rounding": lambda g: np.array([0.3, 0.1 + 0.2, 1.0, 1 / 3, 1 - 2 / 3]),
    "years": lambda g: np.arange(1950, 2020),
    "days in seconds": lambda g: 1.5e9 + 86400.0 * np.arange(30),
    "one point": lambda g: np.array([1.5e9 + 1]),
    "equal points": lambda g: np.full(5, 0.1),
}


@pytest.mark.parametrize("entrance", ["points x", "query"])
@pytest.mark.parametrize("name", KEPT)
def test_what_float32_rounds_harmlessly_is_taken(name: str, entrance: str) -> None:
    values = KEPT[name](np.random.default_rng(0))
    np.testing.assert_allclose(ENTRANCES[entrance](values).numpy()[0, :, 0], values, rtol=6e-8)


def test_close_measurements_among_many_tasks_are_taken() -> None:
    """Of 20,000 pairs of numbers some agree to seven digits by chance: their distance is nothing beside that of the others."""
    pairs = torch.rand(5_000, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs[7, 1, 0] = pairs[7, 0, 0] + 1e-12
    assert len(convert(pairs, torch.float32, "x")) == 5_000


def test_a_learner_in_float32_refuses_a_support_that_it_cannot_tell_apart() -> None:
    support = points(1.5e9 + np.arange(4.0), np.arange(4.0), dtype=torch.float64)
    learner = bm.DKT(torch.nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(0.1))
    with pytest.raises(ValueError, match=r"support\.x: expected values that torch\.float32 can tell apart"):
        learner(support)
    tasks = bm.tasks_from_arrays(1.5e9 + np.arange(8.0), np.arange(8.0), [0] * 8, shots=4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\.x: expected values that torch\.float32 can tell apart"):
        bm.fit(learner, tasks, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"\.x: expected values that torch\.float32 can tell apart"):
        bm.evaluate(learner, tasks, episodes=1)
    mean = learner.double()(support)(1.5e9 + np.arange(4.0)).mean.flatten()
    shifted = learner(points(np.arange(4.0), np.arange(4.0), dtype=torch.float64))(np.arange(4.0)).mean.flatten()
    torch.testing.assert_close(mean, shifted)  # the kernel is stationary


# kind: (the values, what the message says of them, the remedy applied to hourly data)
REFUSED: dict[str, tuple[Any, str, Callable[[Any], Any] | None]] = {
    "dates": (HOURS, "got datetime64", lambda t: (t - t.min()) / np.timedelta64(1, "h")),
    "dates in an array": (HOURS.to_numpy(), "got datetime64", lambda t: (t - t.min()) / np.timedelta64(1, "h")),
    "dates with a zone": (
        HOURS.dt.tz_localize("Europe/Berlin"),
        "got Timestamp",
        lambda t: (t - t.min()) / np.timedelta64(1, "h"),
    ),
    "date objects": (pd.Series([datetime.date(2020, 1, d) for d in (1, 2, 3, 4)]), "got date '2020-01-01'", None),
    "datetime objects": ([datetime.datetime(2020, 1, 1, h) for h in range(4)], "got datetime '2020-01-01", None),
    "periods": (
        HOURS.dt.to_period("h"),
        r"got Period .* t = t\.dt\.start_time",
        lambda t: (t.dt.start_time - t.dt.start_time.min()) / np.timedelta64(1, "h"),
    ),
    "durations": (HOURS - HOURS.min(), "got timedelta64", lambda t: t / np.timedelta64(1, "h")),
    "duration objects": ([datetime.timedelta(hours=h) for h in range(4)], "got timedelta '0:00:00'", None),
    "numpy durations as objects": (
        np.array([np.timedelta64(h, "h") for h in range(4)] + [None], dtype=object)[:4],
        "got timedelta64",
        None,
    ),
    "categories": (pd.Series([0, 1, 2, 3]).astype("category"), "got categories.*cat.codes", lambda t: t.cat.codes),
    "amounts as categories": (
        pd.Series([0.0, 1.0, 2.0, 3.0]).astype("category"),
        "astype",
        lambda t: t.astype(float),
    ),
    "text": (["one", "two", "three", "four"], "got <U5", None),
    "digits": (pd.Series(["0", "1", "2", "3"]), "got str '0'.*pd.to_numeric", pd.to_numeric),
    "digits as Python reads them": (["1_000", "2", "3", "4"], "got <U5", None),
    "complex numbers": (np.arange(4) * 1j, "got complex128.*real and imaginary", None),
    "a complex tensor": (torch.zeros(4, dtype=torch.complex64), r"torch\.complex64.*real and imaginary", None),
    "objects": (pd.Series([{}] * 4), "got dict", None),
    "more than float64": ([10**400, 1, 2, 3], "float64 holds, got one beyond.*change the unit", None),
    "more than float32": ([1e300, 1.0, 2.0, 3.0], r"up to 3\.4e\+38, the largest of torch\.float32, got 1e\+300", None),
    "squares beyond float32": ([1e30, 1.0, 2.0, 3.0], r"up to 1\.8e\+19, whose squares .* got 1e\+30", None),
    "NA": (pd.Series([1, 2, 3, None], dtype="Int64"), "finite numbers, got NaN", None),
    "None": ([1.0, 2.0, 3.0, None], "finite numbers, got NaN", None),
    "a mask": (np.ma.array([1.0, 2.0, 3.0, 4.0], mask=[0, 1, 0, 0]), "masked array that hides", None),
}


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "frame x"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused_and_its_remedy_is_right_for_hours(kind: str, entrance: str) -> None:
    values, message, remedy = REFUSED[kind]
    with pytest.raises(ValueError, match=re.compile(f"expected .*{message}", re.DOTALL)):
        ENTRANCES[entrance](values)
    if remedy:
        assert ENTRANCES[entrance](remedy(values)).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [k for k in REFUSED if k not in ("a complex tensor", "a mask")])
def test_a_column_of_no_numbers_is_refused_by_its_name(kind: str) -> None:
    values, message, _ = REFUSED[kind]
    message = {"NA": "in every row, got 1 row", "None": "in every row, got 1 row"}.get(kind, message)
    frame = {"id": [0, 0, 1, 1], "t": values, "y": [1.0, 2.0, 3.0, 4.0]}
    for x, y, name in (("t", "y", "[tx]"), ("y", "t", "[ty]"))["categories" in kind :]:  # an input may be one
        with pytest.raises(ValueError, match=re.compile(f"{name}: expected .*{message}", re.DOTALL)):
            bm.tasks_from_frame(frame, task="id", x=x, y=y, shots=1)


TAKEN = {
    "true and false": [True, False, True],
    "a nullable column": pd.Series([1, 0, 1], dtype="Int64"),
    "a nullable column of truths": pd.Series([True, False, True], dtype="boolean"),
    "Decimal": pd.Series([Decimal(1), Decimal(0), Decimal(1)]),
    "Fraction": [Fraction(1), Fraction(0), Fraction(1)],
    "objects": np.array([1, False, 1.0], dtype=object),
    "big-endian": np.array([1.0, 0.0, 1.0], dtype=">f8"),
    "big-endian whole": np.array([1, 0, 1], dtype=">i2"),
    "longdouble": np.array([1, 0, 1], dtype=np.longdouble),
    "half": np.array([1, 0, 1], dtype=np.float16),
    "sparse": pd.Series([1.0, 0.0, 1.0]).astype(pd.SparseDtype(float)),
    **{f"uint{bits}": np.array([1, 0, 1], dtype=f"uint{bits}") for bits in (8, 16, 32, 64)},
}


@pytest.mark.parametrize("name", TAKEN)
def test_every_kind_of_number_is_taken_at_every_entrance_also_as_a_label(name: str) -> None:
    for entrance in ENTRANCES.values():
        assert entrance(TAKEN[name]).flatten().tolist() == [1, 0, 1]
    labels = points([0.0, 0.0, 0.0], TAKEN[name], classes=2).y
    assert labels.dtype == torch.long
    assert labels.tolist() == [[1, 0, 1]]


def test_longer_floats_are_taken_only_where_float64_tells_them_apart() -> None:
    close = np.longdouble(1) + np.arange(2) * np.finfo(np.longdouble).eps
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(ValueError, match="x: expected numbers that float64 holds and can tell apart"):
            points(close, [0, 1], dtype=torch.float64)


def test_a_frame_of_mixed_columns_means_the_same_to_support_query_and_source() -> None:
    frame = pd.DataFrame(
        {"a": [1, 2, 3], "b": [True, False, True], "c": [0.5, 1.5, 2.5], "d": pd.Series([7, 8, 9], dtype="Int64")}
    )
    wanted = [[1, 1, 0.5, 7], [2, 0, 1.5, 8], [3, 1, 2.5, 9]]
    assert points(frame, frame["a"]).x[0].tolist() == wanted
    assert points(frame["a"], frame).y[0].tolist() == wanted
    assert linear(4)._inputs(frame)[0].tolist() == wanted
    assert points([frame, frame], [[1, 2, 3]] * 2).x.tolist() == [wanted] * 2
    assert bm.tasks_from_arrays(frame, [1, 2, 3], [0] * 3, shots=1).points.x[0].tolist() == wanted
    frame["t"] = HOURS[:3]
    with pytest.raises(ValueError, match="t: expected a numeric column, got datetime64"):
        linear(5)(frame)


@pytest.mark.parametrize("bad", [NAN, math.inf, 1e30])
def test_a_query_is_checked_as_a_support_is(bad: float) -> None:
    posterior, tree = linear(), torch.tensor([[[0.0], [bad]]])
    for ask in (posterior, lambda x: posterior.draws(x, 2), lambda x: posterior.decompose(x)):
        for x in ([0.0, bad], np.array([0.0, bad]), tree):
            with pytest.raises(ValueError, match=r"x: expected .* at task 0, point 1"):
                ask(x)
    labels = bm.MAML(bm.networks.MLP(1, 3), bm.likelihoods.Categorical())(points([0.0], [0], classes=3))
    with pytest.raises(ValueError, match=r"x: expected .* at task 0, point 0"):
        labels([bad])


def test_a_single_number_as_a_query_says_what_to_pass() -> None:
    for x in (5.0, torch.tensor(5.0), np.float64(5.0)):
        with pytest.raises(ValueError, match=r"x: expected points, got a single number; pass a list, as in \[5\.0\]"):
            linear()(x)


def test_queries_may_be_mapped_and_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where values cannot be read they are not."""
    posterior = linear()
    x = torch.linspace(-1, 1, 6).reshape(3, 1, 2, 1)
    wanted = torch.stack([posterior(one).mean for one in x])
    torch.testing.assert_close(torch.func.vmap(lambda one: posterior(one).mean)(x), wanted)
    slopes = torch.func.vmap(torch.func.grad(lambda one: posterior(one).mean.sum()))(x)
    torch.testing.assert_close(slopes, ((wanted[0, 0, 1] - wanted[0, 0, 0]) / 0.4).expand_as(slopes))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert queries(x[0], torch.full_like(x[0], NAN)).isnan().all()


class One(torch.utils.data.Dataset[Episode]):
    def __init__(self, unit: float, dtype: torch.dtype) -> None:
        y = unit * torch.randn(2, 8, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = torch.randn(2, 8, 5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        self.episode = Episode(*(Points(x[i], y[i].to(dtype), torch.ones(8, 5, dtype=torch.bool)) for i in (0, 1)))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Episode:
        return self.episode


@pytest.mark.parametrize("unit", [1e-22, 1e-17])
def test_units_whose_variances_float32_cannot_hold_are_refused(unit: float) -> None:
    y = unit * np.random.default_rng(0).normal(size=12)
    for x, t, name in ((np.arange(12.0), y, "y"), (y, np.arange(12.0), "x")):
        with pytest.raises(
            ValueError, match=rf"{name}: expected values that spread over at least 3\.1e-16.*change the unit"
        ):
            bm.tasks_from_arrays(x, t, [0] * 6 + [1] * 6, shots=2)
    with pytest.raises(ValueError, match=r"tasks: y: expected values that spread.*float64"):
        bm.Standardized.from_tasks(bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), One(unit, torch.float32))


@pytest.mark.parametrize("unit", [1e-60, 1e-22, 1e12, 1e60])
def test_in_float64_the_answers_do_not_depend_on_the_unit(unit: float) -> None:
    """-log p of y in another unit differs by its logarithm, a standard deviation by the unit."""
    found = []
    for scale in (1.0, unit):
        torch.manual_seed(0)
        tasks = One(scale, torch.float64)
        learner = bm.Standardized.from_tasks(
            bm.ABML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=1).double(), tasks
        )
        torch.manual_seed(1)
        rows = bm.evaluate(learner, tasks, episodes=1, metrics=[bm.metrics.NLL(), bm.metrics.Sharpness()])
        found.append((rows["NLL"].value - math.log(scale), rows["Sharpness"].value / scale))
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_constant_has_no_unit_unless_it_is_tiny() -> None:
    check_spread(torch.zeros(3, 1), torch.float32, "y")
    check_spread(torch.full((3, 1), 1e6), torch.float32, "y")
    assert bm.tasks_from_arrays(np.arange(4.0), np.zeros(4), [0] * 4, shots=1).points.y.eq(0).all()
    assert points([0.0], [1e-30]).y.item() == pytest.approx(1e-30)  # a point alone, near zero, tells no unit
    with pytest.raises(ValueError, match="got 1e-30"):
        check_spread(torch.full((3, 1), 1e-30), torch.float32, "y")


def test_values_whose_squares_are_infinite_are_refused_in_hand_made_points_too() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    huge = Points(torch.zeros(1, 2, 1), torch.tensor([[[0.0], [-1e30]]]), mask)
    with pytest.raises(ValueError, match=r"query\.y: expected numbers up to 1\.8e\+19.*got -1e\+30 at task 0, point 1"):
        bm.check(Episode(Points(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), mask), huge))
