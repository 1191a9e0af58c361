"""Tasks of boxes: what they hold, what is held out, collages, and pictures from a COCO file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesmeta.distributions.boxes import boxes_of, grid_of
from bayesmeta.tasks import Collages, DetectionTasks, coco
from bayesmeta.tasks.detection import joined, mirrored

N, H, V = 60, 16, 32
CELLS = (2, 4)


def data() -> tuple[Tensor, list[Tensor], list[list[int]], list[str]]:
    """Pictures whose pixels are their number, each with a box of class i % 3 and every other one with one of class 3, too."""
    images = torch.arange(N)[:, None, None, None].expand(N, 1, H, V).float()
    boxes = [torch.tensor([[1.0, 2.0, 5.0 + i % 3, 8.0], [20.0, 4.0, 31.0, 16.0]])[: 1 + i % 2] for i in range(N)]
    return images, boxes, [[i % 3, 3][: 1 + i % 2] for i in range(N)], [f"scene {i // 6 % 2}" for i in range(N)]


def tasks_of(**shape: Any) -> DetectionTasks:
    images, boxes, labels, groups = data()
    return DetectionTasks(images, boxes, labels, groups=groups, cells=CELLS, **shape)


def test_a_task_is_of_one_class_and_one_group_and_its_grids_hold_that_class_alone() -> None:
    _, boxes, labels, groups = data()
    tasks = tasks_of(classes=[1, 3], subset=["scene 1"], shots=3, queries=2, batch=4)
    for index in range(5):
        episode, chosen = tasks[index], tasks.clusters(index)
        assert episode.support.x.shape == (4, 3, 1, H, V)
        assert episode.query.y.shape == (4, 2, *CELLS, 5)
        for b in range(4):
            numbers = torch.cat([part.x[b, :, 0, 0, 0] for part in episode]).long()
            c = [1, 3][int(chosen[b])]
            assert len(numbers.unique()) == 5
            for number, y in zip(numbers.tolist(), torch.cat([part.y[b] for part in episode]), strict=True):
                assert groups[number] == "scene 1"
                own = boxes[number][torch.tensor(labels[number]) == c]
                assert len(own) == 1
                torch.testing.assert_close(boxes_of(y, (H, V)), own)
    assert torch.equal(tasks[7].support.x, tasks[7].support.x)


def test_supports_of_several_sizes_are_padded() -> None:
    tasks = tasks_of(shots=(0, 3), queries=2, batch=8)
    assert {n for i in range(4) for n in tasks[i].support.mask.sum(1).tolist()} == {0, 1, 2, 3}
    support = tasks[0].support
    assert not support.x[~support.mask].any()
    assert not support.y[~support.mask].any()


def test_some_pictures_show_nothing_of_the_class() -> None:
    tasks = tasks_of(classes=[0], absent=0.5, shots=5, queries=5, batch=2)
    shows = torch.stack([torch.cat([part.y[..., 0].flatten(2).any(2) for part in tasks[i]], 1) for i in range(20)])
    assert shows[..., 0].all()
    assert 0.4 < shows[..., 1:].float().mean() < 0.6


def test_unions_are_of_several_classes() -> None:
    tasks = tasks_of(unions=(4, 4), shots=3, queries=2, batch=2)
    episode = tasks[0]
    for x, y in zip(episode.query.x.flatten(0, 1), episode.query.y.flatten(0, 1), strict=True):
        assert y[..., 0].sum() == 1 + int(x[0, 0, 0]) % 2
    assert {int(tasks_of(unions=2, batch=1)[i].query.y[0, :, :, :, 0].sum()) for i in range(20)} > {5}
    pair = torch.stack([grid_of(torch.tensor([box]), CELLS, (H, V))[0] for box in ([0.0, 0, 7, 7], [1.0, 1, 6, 6])])
    assert torch.equal(joined(pair.flip(0)), pair[0])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_a_mirrored_grid_is_that_of_mirrored_boxes(across: bool, down: bool) -> None:
    g = torch.Generator().manual_seed(0)
    given = torch.rand(3, 2, 2, generator=g, dtype=torch.float64) * torch.tensor([V, H])
    given = torch.cat([given.amin(1), given.amax(1)], 1)
    x, y = mirrored(torch.rand(1, H, V, generator=g), grid_of(given, CELLS, (H, V))[0], across, down)
    if across:
        given = torch.stack([V - given[:, 2], given[:, 1], V - given[:, 0], given[:, 3]], 1)
    if down:
        given = torch.stack([given[:, 0], H - given[:, 3], given[:, 2], H - given[:, 1]], 1)
    torch.testing.assert_close(y, grid_of(given, CELLS, (H, V))[0])
    assert x.shape == (1, H, V)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[[1.0, 1, 33, 8]]] * N}, r"boxes\[0\]: expected left < right <= 32 and top < bottom <= 16"),
        ({"boxes": [[[-1.0, 1, 3, 8]]] * N}, r"boxes\[0\]: expected .* got \[-1.0, 1.0, 3.0, 8.0\]"),
        ({"boxes": [[[4.0, 1, 3, 8]]] * N}, r"boxes\[0\]: expected left < right"),
        ({"boxes": [[[3.0, 1, 3, 8]]] * N}, r"boxes\[0\]: expected left < right"),
        ({"boxes": [[[1.0, 1, torch.nan, 8]]] * N}, r"boxes\[0\]: expected left < right"),
        ({"boxes": [[[1.0, 1, 3]]] * N}, r"boxes\[0\]: expected \(P, 4\), left, top, right and bottom of each box"),
        ({"boxes": [[[1.0, 1, 3, 8]]] * 3}, "boxes and labels: expected one list for each of the 60 pictures, got 3"),
        ({"labels": [[0, 1]] * N}, r"labels\[0\]: expected a whole number from 0 on for each of the picture's 1 boxes"),
        ({"labels": [[0.5]] * N}, r"labels\[0\]: expected a whole number"),
        ({"images": torch.zeros(N, 3, H, V).long()}, "images: expected .* of bytes"),
        ({"images": torch.full((N, 3, H, V), torch.nan)}, "images: expected finite numbers"),
        ({"images": [torch.zeros(3, 6, 8), torch.zeros(3, 5, 8)]}, "images: expected pictures of one size"),
        ({"classes": [7]}, r"classes: expected some of the labels' \[0\], got \[7\]"),
        ({"groups": ["a"]}, "groups: expected one for each of the 60 pictures"),
        ({"subset": [5]}, "subset: expected some of the groups"),
        ({"shots": 59, "queries": 2}, "shots and queries: expected at most 60 together"),
        ({"absent": 1.0}, "absent: expected a share"),
        ({"cells": (0, 4)}, "cells: expected"),
        ({"cells": 8}, "cells: expected two whole numbers, got 8"),
        ({"cells": (8, 8, 8)}, "cells: expected two whole numbers"),
        ({"unions": 0}, "unions: expected a whole number of at least 1"),
        ({"unions": (0, 1)}, "unions: expected a whole number of at least 1"),
        ({"unions": (2, 1)}, "unions: expected two whole numbers, the first not above the second"),
        ({"unions": 2.5}, "unions: expected a whole number"),
        ({"absent": "few"}, "absent: expected a share"),
        ({"classes": [0, 0]}, "classes: expected some .* each once"),
        ({"subset": "a", "groups": ["a"] * N}, "subset: expected some of the groups .* in a list"),
        ({"boxes": [None] * N}, "boxes and labels: expected one list for each"),
        ({"labels": [0] * N}, "boxes and labels: expected one list for each"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"images": torch.zeros(N, 3, H, V), "boxes": [[[1.0, 1, 3, 8]]] * N, "labels": [[0]] * N, **change}
    with pytest.raises(ValueError, match=message):
        DetectionTasks(given.pop("images"), given.pop("boxes"), given.pop("labels"), **given)


def test_pictures_without_a_box_are_legal_and_bytes_become_numbers_from_0_to_1() -> None:
    images = torch.full((N, 3, H, V), 255).byte()
    boxes: list[Any] = [[[1.0, 1, 3, 8]], [], torch.zeros(0, 4)] * (N // 3)
    tasks = DetectionTasks(images, boxes, [[0], [], torch.zeros(0)] * (N // 3), cells=CELLS, absent=0.5)
    episode = tasks[0]
    assert episode.support.x.dtype == torch.float32
    assert episode.support.x.max() == 1
    assert set(torch.cat([part.y[..., 0].sum((2, 3)).flatten() for part in episode]).tolist()) == {0, 1}


def test_boxes_that_share_a_cell_are_counted() -> None:
    boxes = [[[1.0, 1, 6, 6], [0.0, 0, 7, 7]]] * N
    with pytest.warns(UserWarning, match="cells: 60 of 120 boxes lie in the cell of a larger one"):
        tasks = DetectionTasks(torch.zeros(N, 3, H, V), boxes, [[0, 0]] * N, cells=CELLS)
    assert boxes_of(tasks[0].query.y[0, 0], (H, V)).tolist() == [[0, 0, 7, 7]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectionTasks(torch.zeros(N, 3, H, V), boxes, [[0, 1]] * N, cells=CELLS)


def objects() -> Tensor:
    """Plain rectangles of a brightness of their own, on black."""
    views = torch.zeros(5, 2, 12, 12, dtype=torch.uint8)
    for c in range(5):
        views[c, 0, 2:10, 3:9] = 100 + 30 * c
        views[c, 1, 3:9, 2:10] = 100 + 30 * c
    return views


@pytest.mark.parametrize("varied", [0.0, 1.0])
def test_a_collage_holds_its_object_where_the_box_says(varied: float) -> None:
    grounds = torch.zeros(1, 80, 90, dtype=torch.uint8)
    tasks = Collages(objects(), grounds, classes=[1, 3], among=[0, 2], batch=3, absent=0.3, varied=varied, seed=1)
    for index in range(3):
        episode, chosen = tasks[index], tasks.clusters(index)
        assert set(chosen.tolist()) <= {1, 3}
        assert episode.support.y[:, 0, ..., 0].sum((1, 2)).eq(1).all()  # the first shows it
        for part in episode:
            for b in range(3):
                for x, y in zip(part.x[b], part.y[b], strict=True):
                    found = boxes_of(y, (64, 64))
                    assert len(found) <= 1
                    for left, top, right, bottom in found.round().long().tolist():
                        if not varied:  # of which others cover the edges, if anything
                            inside = x[0, top:bottom, left:right]
                            assert (inside - (100 + 30 * chosen[b]) / 255).abs().median() < 1e-3
                        assert 16 <= max(right - left, bottom - top) <= 32
    assert torch.equal(tasks[2].query.x, tasks[2].query.x)


def test_a_folder_of_cocos_format(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    for name, size in (("a/0.png", (32, 16)), ("1.png", (64, 64))):
        image.fromarray(np.full((*size[::-1], 3), 7, np.uint8)).save(tmp_path / name)

    def written(**change: Any) -> Path:
        one = {"id": 5, "image_id": 3, "category_id": 9, "bbox": [8, 4, 16, 8]}
        content = {
            "images": [{"id": 3, "file_name": "a/0.png"}, {"id": 4, "file_name": "1.png"}],
            "categories": [{"id": 9, "name": "screw"}, {"id": 2, "name": "nut"}],
            "annotations": [one, {**one, "image_id": 4, "category_id": 2}, {**one, "iscrowd": 1}],
            **change,
        }
        (tmp_path / "parts.json").write_text(json.dumps(content))
        return tmp_path / "parts.json"

    found = coco(written(), tmp_path, (32, 32))
    assert found.images.shape == (2, 3, 32, 32)
    assert found.names == ["nut", "screw"]
    assert found.groups == ["a", "."]
    assert [labels.tolist() for labels in found.labels] == [[1], [0]]
    assert [boxes.tolist() for boxes in found.boxes] == [[[8, 8, 24, 24]], [[4, 2, 12, 6]]]
    assert len(coco(written(annotations=[]), tmp_path, (32, 32)).boxes[0]) == 0
    for bbox in ([20, 4, 16, 8], [8, 4, 0, 8], [-4, 4, 8, 8]):
        wrong = {"id": 5, "image_id": 3, "category_id": 9, "bbox": bbox}
        with pytest.raises(
            ValueError, match=r"of some area within the picture's 32 x 16 pixels, got .* \(annotation 5 of"
        ):
            coco(written(annotations=[wrong]), tmp_path, (32, 32))
    with pytest.raises(ValueError, match="expected COCO's format"):
        coco(written(categories=[]), tmp_path, (32, 32))
    with pytest.raises(FileNotFoundError, match=r"folder: expected b.png in"):
        coco(written(images=[{"id": 3, "file_name": "b.png"}, {"id": 4, "file_name": "1.png"}]), tmp_path, (32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [7]}, r"classes: expected some of the 4 objects of views, got \[7\]"),
        ({"classes": []}, "classes: expected some of the 4 objects"),
        ({"classes": [0]}, "among: expected objects beside those that are looked for"),
        ({"unions": 4, "absent": 0.5}, "among: expected objects beside"),
        ({"among": [9]}, "among: expected some of the 4 objects"),
        ({"views": torch.zeros(4, 3, 32, 32).byte()}, "views: expected an object on black"),
        ({"views": torch.ones(4, 3, 3, 32, 32).byte()}, "views: expected grey pictures"),
        ({"views": torch.full((4, 3, 32, 32), 255.0)}, "views: expected grey pictures, bytes or numbers from 0 to 1"),
        ({"grounds": torch.zeros(2, 20, 90).byte()}, r"grounds: expected at least \(64, 64\) pixels"),
        ({"grounds": torch.zeros(2, 3, 80, 90).byte()}, "grounds: expected grey pictures"),
        ({"size": 64}, "size: expected two whole numbers"),
        ({"sides": (16, 100)}, "sides: expected objects that fit into collages"),
        ({"sides": (32, 16)}, "sides: expected two whole numbers, the first not above the second"),
        ({"others": 3}, "others: expected two whole numbers"),
        ({"varied": torch.nan}, "varied: expected a number from 0 to 1"),
        ({"absent": 1.0}, "absent: expected a share"),
    ],
)
def test_collages_refuse_what_they_cannot_paste(change: dict[str, Any], message: str) -> None:
    views, grounds = torch.full((4, 3, 32, 32), 200).byte(), torch.zeros(2, 80, 90).byte()
    given = {"views": views, "grounds": grounds, **change}
    with pytest.raises(ValueError, match=message):
        Collages(given.pop("views"), given.pop("grounds"), **given)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bbox": [1, 2, 3]}, "expected COCO's format"),
        ({"bbox": []}, "expected COCO's format"),
        ({"bbox": [-0.9, 1, 0.5, 3]}, "of some area within the picture's 32 x 16 pixels"),
        ({"bbox": [32.2, 1, 0.5, 3]}, "of some area within the picture's 32 x 16 pixels"),
        ({"bbox": [1, 1, float("nan"), 3]}, "of some area"),
        ({"width": 320, "height": 160}, "expected pictures of the sizes that it says, 320 x 160 of 0.png, got 32 x 16"),
        ({"file_name": None}, "expected COCO's format"),
        ({"images": [{"id": 3, "file_name": "0.png"}] * 2}, "an id that two images or two categories have"),
        ({"categories": [{"id": 9, "name": "a"}, {"id": 9, "name": "b"}]}, "an id that two images or two categories"),
        ({"file_name": "16.png"}, "16.png: expected a picture of 8 bits"),
        ({"size": 16}, "size: expected rows and columns, got 16"),
        ({"size": (0, 16)}, "size: expected a whole number"),
        ({"channels": 4}, "channels: expected 1 for grey or 3 for colours"),
    ],
)
def test_what_a_coco_file_says_wrongly_is_refused(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(tmp_path / "0.png")
    image.fromarray(np.full((16, 32), 40_000, np.uint16)).save(tmp_path / "16.png")
    picture = {"id": 3, "file_name": "0.png", "width": 32, "height": 16}
    one = {"id": 5, "image_id": 3, "category_id": 9, "bbox": [8, 4, 16, 8]}
    content: dict[str, Any] = {"images": [picture], "categories": [{"id": 9, "name": "nut"}], "annotations": [one]}
    for key, value in bad.items():
        next((part for part in (content, picture, one) if key in part), {})[key] = value
    (tmp_path / "parts.json").write_text(json.dumps(content))
    settings = {key: bad[key] for key in ("size", "channels") if key in bad}
    with pytest.raises(ValueError, match=message):
        coco(tmp_path / "parts.json", tmp_path, **{"size": (8, 8), **settings})


def test_void_boxes_have_no_label_where_their_centres_are_and_are_else_as_they_were() -> None:
    _, boxes, labels, _ = data()
    shape: dict[str, Any] = {"classes": [0, 1, 2], "shots": (1, 3), "queries": 2, "batch": 4}
    tasks, before = tasks_of(void=[3], **shape), tasks_of(**shape)
    for mirror in (False, True):
        tasks.turned = before.turned = mirror
        for part, plain in zip(tasks[1], before[1], strict=True):
            there = plain.mask
            assert torch.equal(part.x, plain.x)
            assert torch.equal(part.mask.flatten(2).any(2), there)
            said = part.y[..., 0] > 0
            torch.testing.assert_close(part.y, plain.y)
            assert part.mask[said].all()  # what is looked for has its label
            for b, n in there.nonzero().tolist():
                number = int(part.x[b, n, 0, 0, 0])
                void = [box for box, c in zip(boxes[number], labels[number], strict=True) if c == 3]
                lacking = (~part.mask[b, n]).all(-1)
                assert int(lacking.sum()) == len(void)
                if void and not mirror:
                    expected = grid_of(void[0][None], CELLS, (H, V))[0][..., 0] > 0
                    assert torch.equal(lacking, expected)


def test_a_void_class_is_not_looked_for() -> None:
    with pytest.raises(ValueError, match="void: expected none of the classes"):
        tasks_of(classes=[0, 3], void=[3])


def test_labelled_pictures_say_of_each_class_where_it_is() -> None:
    _, boxes, labels, _ = data()
    tasks = tasks_of(classes=[0, 1, 2], subset=["scene 1"], void=[3], shots=3, queries=2)
    x, y, known = tasks.labelled(12, torch.Generator().manual_seed(0))
    assert y.shape == (12, 3, *CELLS, 5)
    for picture, grids, cells in zip(x, y, known, strict=True):
        number = int(picture[0, 0, 0])
        assert number // 6 % 2 == 1
        for c, grid in enumerate(grids):
            own = boxes[number][torch.tensor(labels[number]) == c]
            torch.testing.assert_close(boxes_of(grid, (H, V)), own)
        assert int((~cells).sum()) == labels[number].count(3)


def test_a_labelled_collage_shows_its_objects_where_the_grids_say() -> None:
    grounds = torch.zeros(2, 80, 90).byte()
    tasks = Collages(objects(), grounds, classes=[0, 2], among=[0, 1, 2], turned=True, varied=0.4)
    x, y, known = tasks.labelled(9, torch.Generator().manual_seed(0))
    assert x.shape == (9, 1, 64, 64)
    assert y.shape == (9, 2, 8, 8, 5)
    assert known.all()
    assert (y[..., 0].flatten(1).sum(1) >= 1).all()
    for picture, grids in zip(x, y, strict=True):
        for grid in grids:
            for left, top, right, bottom in boxes_of(grid, (64, 64)).long().tolist():
                assert picture[0, top:bottom, left:right].mean() > 0.1
