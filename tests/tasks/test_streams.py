"""Streams: episodes with parts in time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.border import check_parts
from bayesmeta.data import join
from bayesmeta.tasks import ClassStreams, ClassTasks, StreamSource

CLASSES = 6


def tasks(**options: Any) -> ClassTasks:
    """Tokens: the number of a row, twice; its class is that number modulo 6. Classes 0 and 1 have fewer rows than the others."""
    number = torch.arange(50)
    number = number[(number % CLASSES > 1) | (number < 36)]
    given = {"ways": 5, "shots": 2, "queries": 3, "batch": 7, "whole": True, "seed": 3, **options}
    return ClassTasks(number[:, None].expand(-1, 2), number % CLASSES, **given)


def equal(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True))


@pytest.mark.parametrize(("classes", "each"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), ((1, 3, 1), [1, 3, 1])])
def test_parts_join_to_the_episode_which_is_that_of_the_tasks(classes: Any, each: list[int]) -> None:
    streams = ClassStreams(tasks(), classes=classes)
    for index in (0, 9):
        parts = streams.parts(index)
        assert [len(part.support.y[0].unique()) for part in parts] == each
        for leaf, *leaves in zip(tree_leaves(streams[index]), *map(tree_leaves, parts), strict=True):
            assert torch.equal(leaf, torch.cat(leaves, 1))
        assert equal(join(parts), streams[index])
        assert equal(streams[index], tasks()[index])
    assert torch.equal(streams.clusters(4), tasks().clusters(4))  # type: ignore[arg-type]


def test_parts_depend_on_seed_and_index_alone() -> None:
    streams, again = ClassStreams(tasks()), ClassStreams(tasks())
    torch.manual_seed(1)
    expected = streams.parts(5)
    again.parts(4)
    torch.manual_seed(2)
    assert equal(again.parts(5), expected)
    assert not equal(streams.parts(6), expected)
    assert not equal(ClassStreams(tasks(seed=4)).parts(5), expected)


def test_nothing_of_a_class_is_there_before_it_comes() -> None:
    """Labels number the classes as they come, and every part holds rows of its own classes alone, none twice."""
    streams, seen = ClassStreams(tasks(batch=40), classes=(2, 1, 2)), 0
    known: list[dict[int, int]] = [{} for _ in range(40)]
    numbers: list[Tensor] = []
    for part, count in zip(streams.parts(2), (2, 1, 2), strict=True):
        for given in part:
            assert set(given.y.unique().tolist()) == set(range(seen, seen + count))
            assert given.mask.all()
            numbers.append(given.x[..., 0])
            for task, (row, y) in enumerate(zip(given.x[..., 0], given.y, strict=True)):
                for number, label in zip(row.tolist(), y.tolist(), strict=True):
                    assert known[task].setdefault(label, number % CLASSES) == number % CLASSES
        seen += count
    for row, classes in zip(torch.cat(numbers, 1), known, strict=True):
        assert len(row.unique()) == len(row)
        assert len(set(classes.values())) == len(classes) == 5
    first = torch.tensor([classes[0] for classes in known])
    assert len(first.unique()) == CLASSES  # in an order drawn for each task


def test_pictures_and_trees_come_in_parts() -> None:
    pictures = bm.tasks.ImageTasks(torch.rand(30, 1, 4, 4), torch.arange(30) % 3, rotations=True, ways=12, queries=2)
    assert [part.query.x.shape[1] for part in ClassStreams(pictures, classes=5).parts(0)] == [10, 10, 4]
    tree = ClassTasks({"a": torch.rand(30, 2), "b": torch.rand(30)}, torch.arange(30) % 6, ways=4, queries=2)
    streams = ClassStreams(tree, classes=2)
    assert equal(join(streams.parts(1)), streams[1])
    assert set(streams.parts(1)[0].support.x) == {"a", "b"}


def test_named_classes_come_in_the_order_in_which_they_are_named() -> None:
    order = [[4, 0], [5], [2, 1]]
    streams = ClassStreams(tasks(), classes=order)
    for index in (0, 1):
        label = 0
        for part, names in zip(streams.parts(index), order, strict=True):
            for name in names:
                for given in part:
                    assert (given.x[given.y == label] % CLASSES == name).all()
                label += 1
        assert equal(join(streams.parts(index)), streams[index])
    assert not equal(streams[0].support.x, streams[1].support.x)  # rows are drawn
    assert streams.clusters(0) is None  # classes are not
    texts = ClassTasks(torch.rand(30, 2), ["law", "art", "war"] * 10, ways=3, queries=2)
    assert len(ClassStreams(texts, classes=[["war"], ["art", "law"]]).parts(0)) == 2


def test_a_learner_trains_on_streams_and_is_evaluated_as_on_tasks() -> None:
    source = ClassTasks(torch.randn(60, 2), torch.arange(60) % 6, ways=3, queries=3)
    learner = bm.PrototypicalNetwork(nn.Linear(2, 2), classes=3)
    found = []
    for given in (source, ClassStreams(source)):
        other = copy.deepcopy(learner)
        bm.fit(other, given, steps=3, progress=False)
        found.append(bm.evaluate(other, given, episodes=2))
    assert found[0] == found[1]


def test_settings_are_said() -> None:
    assert repr(ClassStreams(tasks(), classes=2)).startswith("ClassStreams(ClassTasks(")


class Given(StreamSource):
    """Parts that a user made."""

    def __init__(self, parts: Any) -> None:
        super().__init__(seed=0, length=2)
        self.given = parts

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        return self.given


def part(points: int = 3, features: int = 2, batch: int = 2, dtype: torch.dtype = torch.float32) -> Episode:
    def drawn() -> Points:
        y = torch.zeros(batch, points, dtype=torch.long)
        return Points(torch.rand(batch, points, features, dtype=dtype), y, torch.ones_like(y, dtype=torch.bool))

    return Episode(drawn(), drawn())


def empty(given: Points) -> Points:
    return Points(*tree_map(torch.zeros_like, tuple(given)))


def told(**fields: Any) -> Episode:
    """A part whose support has other fields."""
    return part()._replace(support=part().support._replace(**fields))


def on_another_device() -> Episode:
    return Episode(*(Points(*(leaf.to("meta") for leaf in given)) for given in part()))


def test_ragged_parts_join_with_their_masks() -> None:
    parts = [part(2), part(4)]
    parts[1].support.mask[0, 1:] = False
    joined = Given(parts)[0]
    assert joined.support.mask.tolist() == [[True, True, True, False, False, False], [True] * 6]
    nothing = part(2)
    nothing.support.mask[0] = False  # a task without new points beside one with
    assert len(Given([part(), nothing]).parts(1)) == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part()], r"parts: expected at least two parts, got 1; what is learned at once is no stream"),
        ([], r"parts: expected at least two parts, got 0"),
        (part(), r"parts: expected a list of episodes, one a part, got \['Points', 'Points'\]"),
        ([part(), part().support], r"parts: expected a list of episodes, one a part, got \['Episode', 'Points'\]"),
        (part, r"parts: expected a list of episodes, one a part, got function"),
        ([part(), part()._replace(support=empty(part().support))], r"parts\[1\]\.support: .* at least one point, got none"),
        ([part()._replace(query=empty(part().query)), part()], r"parts\[0\]\.query: .* at least one point, got none"),
        ([part(), part(features=3)], r"parts\[1\]\.support: .* as part 0 has them, .*float32 \(2,\).* got .*float32 \(3,\)"),
        ([part(), part()._replace(query=part(features=3).query)], r"parts\[1\]\.query: .* got .*float32 \(3,\)"),
        ([part(), part(dtype=torch.float64)], r"parts\[1\]\.support: .* got .*float64 \(2,\)"),
        ([part(), part(batch=3)], r"parts\[1\]\.support: .*'tasks': 2.* got .*'tasks': 3"),
        ([part(), part()._replace(query=part().query._replace(y=torch.zeros(2, 3, 1)))], r"parts\[1\]\.query: .*float32 \(1,\)"),
        ([part(), on_another_device()], r"parts\[1\]\.support: expected points on the device of part 0, cpu, got some on meta"),
        ([part(), told(x=torch.full((2, 3, 2), torch.nan))], r"parts\[1\]\.support\.x: expected finite"),
        ([part(), told(x={"a": torch.zeros(2, 3, 2)})], r"parts\[1\]\.support: .*'a'"),
    ],
)  # fmt: skip
def test_bad_parts(parts: Any, message: str) -> None:
    for act in (lambda: Given(parts).parts(0), lambda: Given(parts)[0], lambda: check_parts(parts)):
        with pytest.raises(ValueError, match=message):
            act()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes: expected a whole number of at least 1, got 0"),
        ({"classes": 5}, "classes: expected at least two parts, got all 5 classes at once"),
        ({"classes": [5]}, "classes: expected at least two parts, got all 5 classes at once"),
        ({"classes": [2, 2]}, r"classes: expected the 5 classes of a task in parts, got \[2, 2\], in all 4"),
        ({"classes": [5, 0]}, "classes: expected a whole number of at least 1, got 0"),
        ({"classes": 1.5}, "classes: expected a whole number of at least 1, got 1.5"),
        (
            {"classes": [[1, 2], [3, 1, 4]]},
            "classes: expected each label in one part, got 1 in parts 0 and 1, where it would",
        ),
        ({"classes": [[1, 2, 2], [3, 4]]}, "classes: expected each label in one part, got 2 in parts 0 and 0"),
        ({"classes": [[1, 2], [3, 4, 6]]}, "classes: expected labels of the tasks, got 6"),
        (
            {"classes": [[1, 2, 4], 0]},
            r"classes: expected numbers of classes, or the labels of each part, got both, \[\[1",
        ),
        ({"classes": [[1, 2], [3, 4]]}, r"classes: expected the 5 classes of a task in parts, got \[2, 2\]"),
        ({"classes": [[1, 2, 3, 4, 5], []]}, r"classes\[1\]: expected|classes: expected a whole number of at least 1"),
        ({"classes": [["a"], [1, 2, 3, 4]]}, "classes: expected labels of the tasks, got 'a'"),
        ({"tasks": tasks(outside=1)}, "tasks: expected outside=0, got 1"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassStreams(**{"tasks": tasks(), **options})


def test_other_things_than_classes_or_an_index_that_is_not_there() -> None:
    with pytest.raises(TypeError, match=r"tasks: expected a source of classes, .* got Sinusoids"):
        ClassStreams(bm.tasks.Sinusoids(noise=0.1))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="index: expected 0 to 1, got 2"):
        Given([part(), part()]).parts(2)
