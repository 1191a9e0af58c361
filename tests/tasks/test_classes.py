"""Few-shot tasks from labelled rows of any kind: every row says which it is, so that an episode can be read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bayesmeta as bm

CLASSES, EACH = 6, 5
NAMES = ["art", "food", "law", "music", "sport", "war"]


def rows() -> tuple[torch.Tensor, list[str]]:
    """Tokens: the number of a row, twice; its class is that number modulo 6."""
    number = torch.arange(CLASSES * EACH)
    return number[:, None].expand(-1, 2), [NAMES[i % CLASSES] for i in number.tolist()]


def tasks(**options: Any) -> bm.tasks.ClassTasks:
    x, labels = rows()
    return bm.tasks.ClassTasks(x, labels, **{"ways": 3, "queries": 2, "batch": 50, "whole": True, **options})


def test_a_label_is_a_class_and_no_row_comes_twice() -> None:
    source = tasks(shots=2, outside=4)
    support, query = source[3]
    assert source.names.tolist() == NAMES
    assert (support.x.shape, support.x.dtype) == ((50, 6, 2), torch.int64)
    assert query.y.shape == (50, 3 * 2 + 4)
    numbers = torch.cat([support.x, query.x], 1)[..., 0]
    for row, y in zip(numbers, torch.cat([support.y, query.y], 1), strict=True):
        assert len(row.unique()) == len(row)
        inside = {(int(n) % CLASSES, int(label)) for n, label in zip(row, y, strict=True) if label < 3}
        assert len(inside) == len({one for one, _ in inside}) == 3
        strange = (row[y == 3] % CLASSES).tolist()
        assert not set(strange) & {one for one, _ in inside}
        assert sorted(strange.count(one) for one in set(strange)) == [1, 1, 2]  # of all three others


def test_asking_for_outside_leaves_the_rest_as_it_was() -> None:
    plain, asked = tasks()[7], tasks(outside=3)[7]
    assert torch.equal(plain.support.x, asked.support.x)
    assert torch.equal(plain.query.x, asked.query.x[:, :-3])
    assert torch.equal(tasks().clusters(7), tasks(outside=3).clusters(7))


def test_the_classes_outside_come_up_equally_often() -> None:
    """Chi-squared of 4,000 rows over 30: fails by chance in less than one of 1,000 seeds, and the seed is fixed."""
    from scipy.stats import chisquare

    query = tasks(outside=2, batch=2000)[0].query
    strange = query.x[..., 0][query.y == 3]
    assert chisquare(strange.bincount(minlength=CLASSES * EACH).numpy()).pvalue > 1e-3


def test_trees_and_types() -> None:
    x, labels = rows()
    tree = {"tokens": x.numpy(), "more": {"length": np.arange(30), "weight": np.arange(30) / 4}}
    found = bm.tasks.ClassTasks(tree, labels, ways=3, queries=2, whole=True)[0].query.x
    assert found["tokens"].dtype == found["more"]["length"].dtype == torch.int64
    assert found["more"]["weight"].dtype == torch.float32
    assert torch.equal(found["more"]["weight"] * 4, found["tokens"][..., 0].float())
    floating = bm.tasks.ClassTasks(tree, labels, ways=3, queries=2, dtype=torch.float64)[0].query.x
    assert floating["tokens"].dtype == torch.float64
    assert torch.equal(floating["tokens"].long(), found["tokens"])


def test_pictures_are_a_case_of_it() -> None:
    x = torch.rand(30, 1, 4, 4)
    options: dict[str, Any] = {"ways": 3, "queries": 2, "outside": 2, "seed": 5}
    pictures, any_kind = (
        bm.tasks.ImageTasks(x, rows()[1], **options)[1],
        bm.tasks.ClassTasks(x, rows()[1], **options)[1],
    )
    assert torch.equal(pictures.query.x, any_kind.query.x)
    assert torch.equal(pictures.query.y, any_kind.query.y)


def test_labels_and_subsets_may_be_strings() -> None:
    source = tasks(subset=["war", "art", "law"])
    assert set((source[0].query.x % CLASSES).unique().tolist()) == {0, 2, 5}
    assert repr(source).startswith(
        "ClassTasks(int64 (30, 2), subset=['war', 'art', 'law'], ways=3, queries=2, batch=50"
    )


def test_a_learner_of_one_class_more_learns_what_is_outside() -> None:
    """Classes are corners far apart; rows outside lie near the centre."""
    corners = 4 * torch.eye(8).repeat_interleave(10, 0)
    source = bm.tasks.ClassTasks(
        corners + 0.1 * torch.randn(80, 8), torch.arange(80) // 10, ways=3, queries=3, outside=3
    )
    learner = bm.MAML(bm.networks.MLP(8, 4), bm.likelihoods.Categorical(), rate=0.1, steps=3)
    bm.fit(learner, source, steps=100, progress=False)
    assert bm.evaluate(learner, source, episodes=5)["Accuracy"].value > 0.5
    few = bm.MAML(bm.networks.MLP(8, 3), bm.likelihoods.Categorical())
    for act in (lambda: bm.fit(few, source, steps=1, progress=False), lambda: bm.evaluate(few, source, episodes=1)):
        with pytest.raises(ValueError, match="y: expected labels 0 to 2, as many as the network has outputs, got 3"):
            act()
    prototypes = bm.PrototypicalNetwork(nn.Identity(), classes=3)
    with pytest.raises(ValueError, match="labels 0 to 2"):
        bm.evaluate(prototypes, source, episodes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 7}, "ways: expected at most the 6 classes there are, got 7"),
        ({"ways": 6, "outside": 1}, "ways: expected at most the 6 classes there are, less one for outside, got 6"),
        ({"outside": 16}, "outside: expected at most 15, the 3 other classes times the 5 rows of class art, got 16"),
        ({"outside": -1}, "outside: expected a whole number of at least 0, got -1"),
        ({"shots": 4}, r"shots and queries: expected at most 5 together, the rows of class art, got 4 \+ 2"),
        ({"labels": NAMES}, r"x and labels: expected \(n, \*X\) and \(n,\), got \(30, 2\) and \(6,\)"),
        ({"x": {"a": torch.zeros(30), "b": torch.zeros(29)}}, r"x and labels: .*got \(29,\) and \(30,\)"),
        ({"x": {}}, "x: expected arrays by name, got an empty dictionary"),
        ({"x": {"a": ["text"] * 30}}, r"x\['a'\]: expected numbers"),
        ({"x": torch.full((30, 2), torch.nan)}, "x: expected finite numbers"),
        ({"subset": ["peace"]}, "subset: expected some of the labels art to war, got peace"),
        ({"subset": [3]}, "subset: expected some of the labels art to war, got 3"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    x, labels = rows()
    given = {"x": x, "labels": labels, "ways": 3, "queries": 2, **options}
    with pytest.raises(ValueError, match=message):
        bm.tasks.ClassTasks(given.pop("x"), given.pop("labels"), **given)
