"""Few-shot tasks from images: every pixel says which image it belongs to, so that an episode can be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bayesmeta as bm

CLASSES, EACH = 6, 7


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """42 images of 4 x 4: the corner holds the image's number plus one, the rest is empty; labels 10, 11, ... interleaved."""
    images = torch.zeros(CLASSES * EACH, 1, 4, 4)
    images[:, 0, 0, 0] = torch.arange(1.0, CLASSES * EACH + 1)
    return images, 10 + torch.arange(CLASSES * EACH) % CLASSES


def number(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(-3).amax(-1).long() - 1


class TestImageTasks:
    def test_a_label_is_a_class_and_support_and_query_differ(self) -> None:
        tasks = bm.ImageTasks(*pictures(), ways=4, shots=2, queries=5, batch=3)
        for index in range(20):
            support, query = tasks[index]
            assert support.x.shape == (3, 8, 1, 4, 4)
            assert query.x.shape == (3, 20, 1, 4, 4)
            numbers = torch.cat([number(support.x), number(query.x)], 1)
            labels = torch.cat([support.y, query.y], 1)
            for row, y in zip(numbers, labels, strict=True):
                assert len(row.unique()) == len(row)  # no image twice
                pairs = {(int(n) % CLASSES, int(label)) for n, label in zip(row, y, strict=True)}
                assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 4

    def test_an_episode_depends_on_seed_and_index_alone(self) -> None:
        first, again = (bm.ImageTasks(*pictures(), ways=3, queries=2, rotations=True) for _ in range(2))
        other = bm.ImageTasks(*pictures(), ways=3, queries=2, rotations=True, seed=1)
        again[5]
        assert torch.equal(first[7].query.x, again[7].query.x)
        assert not torch.equal(first[7].query.x, first[8].query.x)
        assert not torch.equal(first[7].query.x, other[7].query.x)

    def test_a_turned_class_is_another_class_and_turned_as_one(self) -> None:
        tasks = bm.ImageTasks(*pictures(), ways=20, shots=1, queries=2, batch=2, rotations=True)
        assert tasks.classes == 4 * CLASSES
        corner = {(0, 0): 0, (3, 0): 1, (3, 3): 2, (0, 3): 3}  # where np.rot90 takes the corner
        support, query = tasks[0]
        x, y = torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1)
        for images, labels in zip(x, y, strict=True):
            seen: dict[int, set[tuple[int, int]]] = {}
            for image, label in zip(images[:, 0], labels, strict=True):
                place = tuple(int(i) for i in image.nonzero()[0])
                seen.setdefault(int(label), set()).add((int(image.max() - 1) % CLASSES, corner[place]))  # type: ignore[index]
            assert all(len(found) == 1 for found in seen.values())
            assert len(set().union(*seen.values())) == 20

    def test_all_classes_and_images_come_up_equally_often(self) -> None:
        """Chi-squared of 12,000 images over 42: fails by chance in less than one of 1,000 seeds, and the seed is fixed.

        Less, as images of a task are drawn without replacement.
        """
        from scipy.stats import chisquare

        tasks = bm.ImageTasks(*pictures(), ways=3, shots=1, queries=3, batch=1000)
        numbers = torch.cat([number(part.x).flatten() for part in tasks[0]])
        assert chisquare(numbers.bincount(minlength=CLASSES * EACH).numpy()).pvalue > 1e-3

    def test_classes_of_unequal_size(self) -> None:
        images, labels = pictures()
        kept = (labels != 10) | (torch.arange(len(labels)) < 3 * CLASSES)  # class 10 has three images
        tasks = bm.ImageTasks(images[kept], labels[kept], ways=6, shots=1, queries=2, batch=50)
        numbers = torch.cat([number(part.x) for part in tasks[0]], 1)
        assert all(len(row.unique()) == 18 for row in numbers)
        assert set(numbers[numbers % CLASSES == 0].tolist()) == {0, 6, 12}

    def test_bytes_are_scaled(self) -> None:
        _, labels = pictures()
        given = bm.ImageTasks(np.full((42, 4, 4), 255, np.uint8), labels.numpy(), queries=2)[0].support.x
        assert given.dtype == torch.float32
        assert torch.equal(given, torch.ones_like(given))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ways": 7}, "ways: expected at most the 6 classes there are, got 7"),
            (
                {"shots": 3, "queries": 5},
                "shots and queries: expected at most 7 together, the images of class 10, got 3",
            ),
            ({"shots": 0}, "shots: expected at least 1, got 0"),
            ({"labels": torch.zeros(3)}, r"images and labels: expected .* got \(42, 1, 4, 4\) and \(3,\)"),
            ({"labels": torch.zeros(42)}, "labels: expected whole numbers, got torch.float32"),
            (
                {"images": torch.zeros(42, 1, 4, 5), "rotations": True},
                r"rotations: expected square images, got \(4, 5\)",
            ),
        ],
    )
    def test_bad_input(self, options: dict[str, Any], message: str) -> None:
        images, labels = pictures()
        with pytest.raises(ValueError, match=message):
            bm.ImageTasks(**{"images": images, "labels": labels, "queries": 5, **options})


class TestOmniglot:
    def test_splits(self, data_root: Path) -> None:
        with np.load(data_root / "omniglot" / "omniglot28.npz") as file:
            images, part = file["images"], file["split_vinyals"]
        for number_, (split, count) in enumerate((("train", 1028), ("validation", 172), ("test", 423))):
            tasks = bm.Omniglot(data_root / "omniglot", split=split, rotations=False)  # type: ignore[arg-type]
            assert tasks.classes == count
            assert torch.equal(tasks.images[:, 0], torch.from_numpy(images[part == number_]).flatten(0, 1))
        assert bm.Omniglot(data_root / "omniglot").classes == 4 * 1028

    def test_missing_or_broken_files(self, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(FileNotFoundError, match=r"root: expected the file .*omniglot28\.npz"):
            bm.Omniglot(tmp_path)
        whole = (data_root / "omniglot" / "omniglot28.npz").read_bytes()
        for broken in (b"", whole[: len(whole) // 2], b"no archive"):
            (tmp_path / "omniglot28.npz").write_bytes(broken)
            with pytest.raises(ValueError, match="expected a NumPy archive of images"):
                bm.Omniglot(tmp_path)
        np.savez(tmp_path / "omniglot28.npz", images=np.zeros((2, 20, 28, 28)), split_vinyals=np.zeros(2))
        with pytest.raises(ValueError, match=r"got \(2, 20, 28, 28\) and \(2,\)"):
            bm.Omniglot(tmp_path)
        with pytest.raises(ValueError, match="split: expected train, validation or test, got 'dev'"):
            bm.Omniglot(tmp_path, split="dev")  # type: ignore[arg-type]
        monkeypatch.delenv("BAYESMETA_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match=r"root: expected the folder of omniglot28\.npz, got none"):
            bm.Omniglot()


class TestPrototypicalNetwork:
    def test_equals_the_formula(self) -> None:
        """Equations 1 and 2 of the paper, written out; class 2 of the second task has no support."""
        torch.manual_seed(0)
        features = nn.Linear(3, 5)
        learner = bm.PrototypicalNetwork(features, classes=3).double()
        x = torch.randn(2, 6, 3, dtype=torch.float64)
        y = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 1, 0, 1, 0]])
        mask = torch.tensor([[True] * 6, [True] * 5 + [False]])
        query = torch.randn(2, 4, 3, dtype=torch.float64)
        found = learner(bm.Points(x * mask[..., None], y * mask, mask))(query)
        for task in range(2):
            embedded = features(x[task][mask[task]])
            labels = y[task][mask[task]]
            own = [embedded[labels == k] for k in range(3)]
            prototypes = torch.stack([(rows if len(rows) else embedded).mean(0) for rows in own])
            distances = torch.cdist(features(query[task]), prototypes) ** 2
            torch.testing.assert_close(found.probs[task], (-distances).softmax(-1), rtol=1e-9, atol=1e-12)  # type: ignore[attr-defined]

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="classes: expected at least 2, got 1"):
            bm.PrototypicalNetwork(nn.Identity(), classes=1)
        with pytest.raises(ValueError, match=r"support\.y: expected labels 0 to 1, got 2.*classes=3"):
            bm.PrototypicalNetwork(nn.Identity(), classes=2)(bm.points(torch.tensor([[0.0], [1.0]]), [0, 2], classes=3))
