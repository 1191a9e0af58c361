"""Tasks of masks: what they hold, what is held out, and pictures from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bayesmeta import points
from bayesmeta.tasks import SceneTasks, SegmentationTasks, mask_folder

N, H, V, VOID = 60, 6, 8, 9


def data() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Pictures whose first channel is their number and whose second the class of each pixel; three scenes."""
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(4, (N, H, V), generator=g)
    masks[:, 0, 0] = VOID
    images = torch.stack([torch.arange(N)[:, None, None].expand_as(masks), masks], 1).float()
    return images, masks, [f"scene {i % 3}" for i in range(N)]


def test_a_task_is_of_one_class_and_one_scene_and_void_is_masked() -> None:
    images, masks, groups = data()
    tasks = SegmentationTasks(
        images,
        masks,
        void=VOID,
        classes=[1, 3],
        groups=groups,
        subset=["scene 0", "scene 2"],
        shots=3,
        queries=2,
        batch=4,
    )
    for index in range(5):
        episode, chosen = tasks[index], tasks.clusters(index)
        assert episode.support.x.shape == (4, 3, 2, H, V)
        assert episode.query.y.shape == (4, 2, H, V)
        for b in range(4):
            x = torch.cat([part.x[b] for part in episode])
            y, mask = (torch.cat([getattr(part, name)[b] for part in episode]) for name in ("y", "mask"))
            numbers = x[:, 0, 0, 0].long()
            assert len(numbers.unique()) == 5
            assert len({groups[i] for i in numbers}) == 1
            assert groups[int(numbers[0])] != "scene 1"
            assert torch.equal(mask, masks[numbers] != VOID)
            assert torch.equal(y == 1, masks[numbers] == [1, 3][int(chosen[b])])
    assert torch.equal(tasks[7].support.x, tasks[7].support.x)
    assert {int(c) for i in range(5) for c in tasks.clusters(i)} == {0, 1}


def test_unions_are_of_several_classes_and_every_picture_shows_them() -> None:
    images, masks, _ = data()
    masks[20:][masks[20:] == 2] = 0
    tasks = SegmentationTasks(images, masks, void=VOID, classes=[1, 2, 3], unions=3, least=0.05, shots=3, queries=2)
    seen = set()
    for index in range(12):
        episode = tasks[index]
        for part in episode:
            assert (part.y.flatten(2).double().mean(2) >= 0.05).all()
            kinds = [frozenset(part.x[b, :, 1][part.y[b] == 1].long().tolist()) for b in range(2)]
            seen.update(map(len, kinds))
    assert seen == {1, 2, 3}
    alone = SegmentationTasks(images, masks, void=VOID, classes=[2], shots=3, queries=2, least=0.05)
    assert (alone[0].support.x[:, :, 0] < 20).all()


def test_a_scene_is_segmented_into_all_classes_that_take_part() -> None:
    images, masks, groups = data()
    tasks = SceneTasks(images, masks, void=VOID, classes=[3, 1], groups=groups, shots=3, queries=2)
    episode = tasks[0]
    number, true = episode.query.x[:, :, 0, 0, 0].long(), episode.query.x[:, :, 1]
    assert (number % 3 == tasks.clusters(0)[:, None]).all()
    assert torch.equal(episode.query.mask, (true == 3) | (true == 1))
    assert (true[episode.query.mask & (episode.query.y == 0)] == 3).all()
    assert (true[episode.query.mask & (episode.query.y == 1)] == 1).all()


def test_bytes_become_numbers_from_0_to_1() -> None:
    images, masks, _ = data()
    tasks = SegmentationTasks(images.byte(), masks.numpy().astype(np.uint8), void=VOID)
    assert tasks[0].support.x.dtype == torch.float32
    assert tasks[0].support.x.max() <= 1
    with pytest.raises(ValueError, match="x: expected pictures of values from 0 to 1, got bytes"):
        points(images.byte(), masks, classes=10, event_dims=2)
    with pytest.raises(ValueError, match=r"y: expected labels 0 to 2 \(classes=3\), got 9"):
        points(images, masks, classes=3, event_dims=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masks": torch.zeros(N, H, V + 1).long()},
            r"masks: expected a label for each pixel of the images .*\(60, 6, 9\)",
        ),
        ({"masks": torch.full((N, H, V), 0.5)}, r"masks: expected whole numbers from 0 on, .* got 0.5"),
        ({"masks": torch.full((N, H, V), -1)}, r"masks: expected whole numbers from 0 on, .* got -1"),
        (
            {"images": [torch.zeros(2, 6, 8), torch.zeros(2, 5, 8)]},
            "images: expected pictures of one size in one array",
        ),
        ({"images": torch.zeros(N, 2, H, V).long()}, "images: expected bytes"),
        ({"images": torch.full((N, 2, H, V), torch.nan)}, "images: expected finite numbers"),
        ({"classes": [1, 17]}, r"classes: expected some of the masks' \[0, 1, 2, 3\], without void 9, got \[17\]"),
        ({"classes": [VOID]}, "classes: expected some"),
        ({"classes": [1, 1]}, r"classes: expected some .* got \[1, 1\]; .* each once"),
        ({"classes": 1}, "classes: expected some"),
        ({"classes": [True]}, "classes: expected whole numbers"),
        ({"subset": "scene 1"}, r"subset: expected some of the groups .*; name those that there are, in a list"),
        ({"subset": [["scene 1"]]}, "subset: expected some of the groups"),
        ({"masks": torch.ones(N, H, V).long()}, "masks: expected pixels of at least two classes"),
        ({"groups": ["a"]}, "groups: expected one for each of the 60 pictures"),
        ({"subset": ["scene 5"]}, "subset: expected some of the groups"),
        ({"shots": 19, "queries": 2}, "shots and queries: expected at most 20 together, the pictures of one group"),
        ({"unions": 5}, "unions: expected at most the 4 classes"),
        ({"least": 0.0}, "least: expected a probability"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    images, masks, groups = data()
    given = {"images": images, "masks": masks, "groups": groups, "void": VOID, **change}
    with pytest.raises(ValueError, match=message):
        SegmentationTasks(given.pop("images"), given.pop("masks"), **given)


def test_a_folder_of_pictures_and_masks(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for scene in ("a", "b"):
        for kind in ("images", "masks"):
            (tmp_path / kind / scene).mkdir(parents=True)
        for i in range(2):
            labels = np.zeros((12, 16), np.uint8)
            labels[:, 8:] = 1 + i
            image.fromarray(np.full((12, 16, 3), 100 * i, np.uint8)).save(tmp_path / "images" / scene / f"{i}.png")
            image.fromarray(labels).save(tmp_path / "masks" / scene / f"{i}.png")
    found = mask_folder(tmp_path, (6, 8))
    assert found.images.shape == (4, 3, 6, 8)
    assert found.groups == ["a", "a", "b", "b"]
    assert found.names == ["0", "1", "2"]
    assert found.masks[1, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert (found.images[1] == 100).all()
    image.fromarray(np.zeros((12, 15), np.uint8)).save(tmp_path / "masks" / "a" / "0.png")
    with pytest.raises(ValueError, match="expected a mask of its picture's size, 16 x 12, got 15 x 12"):
        mask_folder(tmp_path, (6, 8))
    image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "masks" / "a" / "0.png")
    with pytest.raises(ValueError, match="expected a mask of class numbers, grey or with a palette, got colours"):
        mask_folder(tmp_path, (6, 8))
    (tmp_path / "masks" / "a" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match="expected a mask"):
        mask_folder(tmp_path, (6, 8))
    with pytest.raises(FileNotFoundError, match="root: expected pictures"):
        mask_folder(tmp_path / "nowhere", (6, 8))


def test_pictures_without_a_label_are_no_part_of_a_scene() -> None:
    images, masks, groups = data()
    masks = masks.clone()
    masks[::2] = VOID
    tasks = SceneTasks(images, masks, void=VOID, groups=groups, shots=2, queries=2, batch=4)
    assert all(part.mask.flatten(2).any(2).all() for i in range(5) for part in tasks[i])
    with pytest.raises(ValueError, match="shots and queries: expected at most 0 together, the pictures of group"):
        SceneTasks(images, masks, void=VOID, groups=[i % 2 for i in range(N)], shots=2, queries=2)


def test_classes_may_have_any_numbers() -> None:
    images, masks, groups = data()
    few, far = (
        SceneTasks(images, m, void=v, groups=groups, shots=2, queries=2)
        for m, v in ((masks, VOID), (masks + 2**40, VOID + 2**40))
    )
    assert torch.equal(few[0].query.y, far[0].query.y)
