"""Streams of pictures whose domain changes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesmeta import Points
from bayesmeta.tasks import ClassStreams, DomainStreams, ImageTasks

CLASSES = 5


def numbered(first: int, count: int, size: tuple[int, int] = (4, 6), channels: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures that tell which they are: of bytes, all different, their first channel's sum is their number's own."""
    generator = torch.Generator().manual_seed(first)
    images = torch.randint(256, (count, channels, *size), generator=generator).to(torch.uint8)
    return images, torch.arange(count) % CLASSES


def streams(**options: Any) -> DomainStreams:
    given = {"train": numbered(0, 40), "test": numbered(1, 15), "domains": 4, "shots": 20, "queries": 10, "batch": 2}
    return DomainStreams(**(given | options))


def places(drawn: Points, images: Tensor) -> list[list[int]]:
    """Which pictures these are, by their sorted pixels, which a permutation leaves."""
    known = {tuple(one.flatten().sort().values.tolist()): i for i, one in enumerate(images)}
    assert len(known) == len(images)
    rows = (255 * drawn.x).round().to(torch.uint8)
    return [[known[tuple(one.flatten().sort().values.tolist())] for one in row] for row in rows]


def test_permuted_parts_hold_other_pictures_each_under_a_permutation_of_its_own() -> None:
    (train, labels), (test, asked) = numbered(0, 40, channels=2), numbered(1, 15, channels=2)
    source = streams(train=(train, labels), test=(test, asked))
    orders = set()
    for t, part in enumerate(source.parts(3)):
        for given, images, names, count in ((part.support, train, labels, 20), (part.query, test, asked, 10)):
            found = places(given, images)
            for b, rows in enumerate(found):
                assert len(set(rows)) == count  # none twice
                assert torch.equal(given.y[b], names[rows])
                shown, own = given.x[b].flatten(2), images[rows].float().flatten(2) / 255
                same = (
                    (shown[..., :, None] == own[..., None, :]).all(0).all(0)
                )  # (to, from), by all pictures and channels
                order = same.float().argmax(1)
                assert torch.equal(shown, own[..., order])
                if t == 0:
                    assert torch.equal(order, torch.arange(24))
                orders.add((t, b, tuple(order.tolist())))
    assert len(orders) == 8  # one a part and a task: support and queries share it
    assert len({order for *_, order in orders}) == 1 + 6
    assert places(source.parts(3)[1].support, train) != places(source.parts(3)[2].support, train)  # drawn anew


def test_turned_pictures() -> None:
    """By 90 and 180 degrees they are torch's, and nothing but zeros comes from outside."""
    for degrees, turns in ((0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)):
        source = streams(
            train=numbered(0, 40, (6, 6)), test=numbered(1, 15, (6, 6)), change="rotated", degrees=(degrees, degrees)
        )
        plain = streams(train=numbered(0, 40, (6, 6)), test=numbered(1, 15, (6, 6)), domains=2, batch=1)
        found = source.parts(0)[1].query.x
        assert {_key(one) for one in found[0]} <= {_key(torch.rot90(one, turns, (-2, -1))) for one in _all(plain)}
    ones = torch.ones(8, 9, 9)
    turned = streams(
        train=(ones, torch.arange(8)), test=(ones.clone(), torch.arange(8)), change="rotated", degrees=(45.0, 45.0),
        shots=None, queries=None,
    ).parts(0)[0].support.x[0, 0, 0]  # fmt: skip
    assert turned[4, 4].item() == pytest.approx(1.0)
    assert turned[0, 0].item() == 0.0
    right = torch.zeros(1, 9, 9)
    right[0, 4, 7] = 1.0  # three to the right of the middle: after 90 degrees counter-clockwise three above it
    up = streams(
        train=(right, [0]), test=(right.clone(), [0]), change="rotated", degrees=(90.0, 90.0), shots=None, queries=None
    ).parts(0)[0].query.x[0, 0, 0]  # fmt: skip
    assert up.argmax() == 1 * 9 + 4


def _all(source: DomainStreams) -> Tensor:
    return source._test.float() / 255


def _key(image: Tensor) -> tuple[int, ...]:
    return tuple((255 * image).round().long().flatten().tolist())


def test_angles_grow_by_equal_steps() -> None:
    """The mark's angle tells that of its part."""
    mark = torch.zeros(1, 41, 41)
    mark[0, 20, 36:39] = 1.0
    source = streams(
        train=(mark, [0]), test=(mark.clone(), [0]), change="rotated", degrees=(30.0, 150.0), shots=None, queries=None
    )
    for index in range(5):
        for t, part in enumerate(source.parts(index)):
            for picture in part.support.x[:, 0, 0]:
                weight = picture / picture.sum()
                down = (weight.sum(1) * (torch.arange(41) - 20)).sum().item()
                right = (weight.sum(0) * (torch.arange(41) - 20)).sum().item()
                angle = math.degrees(math.atan2(-down, right))
                assert 30 + 30 * t - 1 <= angle <= 60 + 30 * t + 1


def test_parts_depend_on_seed_and_index_alone_and_join_to_their_episode() -> None:
    for change in ("permuted", "rotated"):
        source, again = streams(change=change), streams(change=change)
        torch.manual_seed(1)
        expected = source.parts(2)
        torch.manual_seed(2)
        again.parts(1)
        assert all(torch.equal(a.support.x, b.support.x) for a, b in zip(again.parts(2), expected, strict=True))
        assert torch.equal(torch.cat([part.query.x for part in expected], 1), source[2].query.x)
        assert not torch.equal(source[1].query.x, source[2].query.x)
        assert not torch.equal(streams(change=change, seed=1)[2].query.x, source[2].query.x)


def test_all_pictures_are_used_where_no_number_is_said_and_floats_stay_as_they_are() -> None:
    (train, labels), (test, asked) = numbered(0, 40), numbered(1, 15)
    names = np.array(["cat", "dog", "ant", "bee", "elk"])
    source = streams(
        train=(train.double()[:, 0], names[labels]), test=(test.double()[:, 0], names[asked]), shots=None, queries=None
    )
    part = source.parts(0)[1]
    assert part.support.x.shape == (2, 40, 1, 4, 6)
    assert part.support.x.dtype == torch.float64
    assert part.support.x.max() > 1
    assert [sorted(row) for row in places(part.support._replace(x=part.support.x / 255), train)] == [
        list(range(40))
    ] * 2
    assert source.names.tolist() == ["ant", "bee", "cat", "dog", "elk"]
    rows = places(part.query._replace(x=part.query.x / 255), test)[0]
    assert source.names[part.query.y[0]].tolist() == names[asked][rows].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": "blurred"}, "change: expected 'permuted' or 'rotated', got 'blurred'"),
        ({"domains": 1}, "domains: expected a whole number of at least 2, got 1"),
        ({"batch": 0}, "batch: expected a whole number of at least 1, got 0"),
        ({"shots": 0}, "shots: expected a whole number of at least 1, got 0"),
        ({"shots": 41}, "shots: expected at most the 40 pictures there are, got 41"),
        ({"queries": 16}, "queries: expected at most the 15 pictures there are, got 16"),
        ({"train": numbered(0, 40)[0]}, r"train: expected images and labels, \(train_images, train_labels\), got Tensor"),
        ({"test": numbered(1, 15) * 2}, "test: expected images and labels, .* got 4 of them"),
        ({"test": (numbered(1, 15)[0], torch.arange(15))}, "test: expected labels that train has, got 5"),
        ({"test": numbered(1, 15, (4, 5))}, r"test: .* train, uint8 \(1, 4, 6\), got uint8 \(1, 4, 5\)"),
        ({"test": (numbered(1, 15)[0] / 255, numbered(1, 15)[1])}, r"test: .* uint8 \(1, 4, 6\), got float32 \(1, 4, 6\)"),
        ({"train": (numbered(0, 40)[0], torch.arange(39))}, r"train images and labels: .* got \(40, 1, 4, 6\) and \(39,\)"),
        ({"train": (torch.full((3, 4, 6), torch.nan), torch.arange(3))}, "train images: expected finite numbers"),
        ({"test": (torch.zeros(0, 4, 6), torch.arange(0))}, "test images: expected at least one, got none"),
        ({"degrees": (0.0, 90.0)}, "degrees: expected None for permuted pictures"),
        ({"change": "rotated", "degrees": 90.0}, "degrees: expected two finite angles, got 90.0"),
        ({"change": "rotated", "degrees": ("a", 90.0)}, r"degrees: expected two finite angles, got \('a', 90.0\)"),
        ({"change": "rotated", "degrees": (0.0, math.inf)}, "degrees: expected two finite angles"),
    ],
)  # fmt: skip
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        streams(**options)


def test_support_and_queries_are_other_pictures() -> None:
    images, labels = numbered(0, 40)
    with pytest.raises(ValueError, match="test: expected other pictures than train, got the same"):
        streams(train=(images, labels), test=(images, labels))
    streams(train=(images[:20], labels[:20]), test=(images[20:], labels[20:]))


def test_split_pictures_are_streams_of_classes() -> None:
    images = torch.rand(200, 4, 4)
    tasks = ImageTasks(images, torch.arange(200) % 10, ways=10, shots=12, queries=5, batch=1)
    parts = ClassStreams(tasks, classes=2).parts(0)
    assert [part.support.y.unique().tolist() for part in parts] == [[2 * t, 2 * t + 1] for t in range(5)]


@pytest.mark.skipif("BAYESMETA_DATA" not in os.environ, reason="BAYESMETA_DATA says where MNIST is")
def test_mnist() -> None:
    given = np.load(Path(os.environ["BAYESMETA_DATA"]) / "mnist" / "mnist.npz")
    train, test = ((given[f"x_{name}"], given[f"y_{name}"]) for name in ("train", "test"))
    part = DomainStreams(train, test, domains=2).parts(0)[1]
    assert (part.support.x.shape, part.query.x.shape) == ((1, 30000, 1, 28, 28), (1, 10000, 1, 28, 28))
    assert part.support.y[0].bincount().tolist() == [3000] * 10
    assert repr(DomainStreams(train, test, domains=2, change="rotated")) == "DomainStreams(change='rotated', domains=2)"
