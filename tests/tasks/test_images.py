"""Few-shot tasks from images: every pixel says which image it belongs to, so that an episode can be read back."""

from __future__ import annotations

import io
import struct
import zipfile
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
        tasks = bm.tasks.ImageTasks(*pictures(), ways=4, shots=2, queries=5, batch=3)
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
        first, again = (bm.tasks.ImageTasks(*pictures(), ways=3, queries=2, rotations=True) for _ in range(2))
        other = bm.tasks.ImageTasks(*pictures(), ways=3, queries=2, rotations=True, seed=1)
        again[5]
        assert torch.equal(first[7].query.x, again[7].query.x)
        assert not torch.equal(first[7].query.x, first[8].query.x)
        assert not torch.equal(first[7].query.x, other[7].query.x)

    def test_a_turned_class_is_another_class_and_turned_as_one(self) -> None:
        tasks = bm.tasks.ImageTasks(*pictures(), ways=20, shots=1, queries=2, batch=2, rotations=True)
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

        tasks = bm.tasks.ImageTasks(*pictures(), ways=3, shots=1, queries=3, batch=1000)
        numbers = torch.cat([number(part.x).flatten() for part in tasks[0]])
        assert chisquare(numbers.bincount(minlength=CLASSES * EACH).numpy()).pvalue > 1e-3

    def test_classes_of_unequal_size(self) -> None:
        images, labels = pictures()
        kept = (labels != 10) | (torch.arange(len(labels)) < 3 * CLASSES)  # class 10 has three images
        tasks = bm.tasks.ImageTasks(images[kept], labels[kept], ways=6, shots=1, queries=2, batch=50)
        numbers = torch.cat([number(part.x) for part in tasks[0]], 1)
        assert all(len(row.unique()) == 18 for row in numbers)
        assert set(numbers[numbers % CLASSES == 0].tolist()) == {0, 6, 12}

    def test_bytes_are_scaled(self) -> None:
        _, labels = pictures()
        given = bm.tasks.ImageTasks(np.full((42, 4, 4), 255, np.uint8), labels.numpy(), queries=2)[0].support.x
        assert given.dtype == torch.float32
        assert torch.equal(given, torch.ones_like(given))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ways": 7}, "ways: expected at most the 6 classes there are, got 7; ask for fewer"),
            (
                {"shots": 3, "queries": 5},
                "shots and queries: expected at most 7 together, the images of class 10, got 3",
            ),
            ({"shots": 0}, "shots: expected a whole number of at least 1, got 0"),
            ({"shots": (1, 3)}, r"shots: expected a whole number of at least 1, got \(1, 3\)"),
            ({"batch": 2.5}, r"batch: expected a whole number of at least 1, got 2\.5"),
            ({"labels": ["cat"] * 42}, "ways: expected at most the 1 classes there are, got 5"),
            (
                {"labels": [None] * 42},
                "labels: expected whole numbers or strings, got torch.float64; number the classes",
            ),
            (
                {"labels": [np.datetime64("2020")] * 42},
                "labels: expected whole numbers or strings, got list.*number the",
            ),
            ({"images": [torch.zeros(1, 4, 4)] * 42}, r"images: expected an array or tensor.*got list.*torch\.stack"),
            (
                {"images": torch.zeros(42, 8, 8, 3)},
                r"images: expected channels before rows.*got \(42, 8, 8, 3\); .*movedim",
            ),
            ({"images": torch.zeros(42, 4, 4).long()}, r"images: expected bytes .* got torch\.int64; convert"),
            ({"images": torch.zeros(42, 4, 4).bool()}, r"images: expected bytes .* got torch\.bool; convert"),
            (
                {"images": torch.zeros(42, 4, 4).index_fill(0, torch.tensor([7, 9]), float("nan"))},
                "images: expected finite numbers, got NaN or infinity in 2 of 42 images, first in image 7; fill",
            ),
            ({"subset": torch.ones(42).bool()}, "subset: expected whole numbers or strings, got torch.bool"),
            ({"subset": ["cat"]}, "subset: expected some of the labels 10 to 15, got cat"),
            ({"labels": torch.zeros(3).long()}, r"images and labels: expected .* got \(42, 1, 4, 4\) and \(3,\)"),
            ({"labels": torch.zeros(42)}, "labels: expected whole numbers or strings, got torch.float32"),
            (
                {"images": torch.zeros(42, 1, 4, 5), "rotations": True},
                r"rotations: expected square images, got \(4, 5\)",
            ),
        ],
    )
    def test_bad_input(self, options: dict[str, Any], message: str) -> None:
        images, labels = pictures()
        with pytest.raises(ValueError, match=message):
            bm.tasks.ImageTasks(**{"images": images, "labels": labels, "queries": 5, **options})

    def test_images_that_are_not_square(self) -> None:
        tasks = bm.tasks.ImageTasks(torch.rand(42, 1, 4, 6), pictures()[1], ways=3, queries=2)
        assert tasks[0].support.x.shape == (4, 3, 1, 4, 6)

    def test_an_episode_does_not_depend_on_torchs_defaults(self) -> None:
        tasks = bm.tasks.ImageTasks(np.full((42, 4, 4), 255, np.uint8), pictures()[1].tolist(), queries=2)
        wanted = tasks[3].query
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                again = bm.tasks.ImageTasks(
                    np.full((42, 4, 4), 255, np.uint8), [10 + i % CLASSES for i in range(42)], queries=2
                )
                found = (tasks[3].query, again[3].query)
        finally:
            torch.set_default_dtype(torch.float32)
        for query in found:
            assert query.x.dtype == torch.float32
            assert torch.equal(query.x, wanted.x)
            assert torch.equal(query.y, wanted.y)

    def test_its_repr_says_its_settings(self) -> None:
        tasks = bm.tasks.ImageTasks(*pictures(), subset=[10, 11, 12], ways=3, queries=2, rotations=True)
        assert (
            repr(tasks) == "ImageTasks(float32 (42, 1, 4, 4), rotations=True, subset=[10, 11, 12], ways=3, queries=2)"
        )

    def test_labels_of_any_integer_type(self) -> None:
        images, labels = pictures()
        wanted = bm.tasks.ImageTasks(images, labels, subset=[10, 11], ways=2, queries=2)[0].query.x
        for dtype in (np.uint8, np.uint16, np.uint64, np.int32, ">i4"):
            given = labels.numpy().astype(dtype)
            found = bm.tasks.ImageTasks(images, given, subset=[10, 11], ways=2, queries=2)[0].query.x
            assert torch.equal(found, wanted)


class TestOmniglot:
    def test_splits(self, data_root: Path) -> None:
        with np.load(data_root / "omniglot" / "omniglot28.npz") as file:
            images, part = file["images"], file["split_vinyals"]
        for number_, (split, count) in enumerate((("train", 1028), ("validation", 172), ("test", 423))):
            tasks = bm.tasks.Omniglot(data_root / "omniglot", split=split, rotations=False)  # type: ignore[arg-type]
            assert tasks.classes == count
            assert torch.equal(tasks.x[:, 0], torch.from_numpy(images[part == number_]).flatten(0, 1))
        assert bm.tasks.Omniglot(data_root / "omniglot").classes == 4 * 1028

    def test_missing_or_broken_files(self, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(FileNotFoundError, match=r"root: expected omniglot28\.npz, or the archives"):
            bm.tasks.Omniglot(tmp_path)
        whole = (data_root / "omniglot" / "omniglot28.npz").read_bytes()
        for broken in (b"", whole[: len(whole) // 2], b"no archive"):
            (tmp_path / "omniglot28.npz").write_bytes(broken)
            with pytest.raises(ValueError, match="expected a NumPy archive of images"):
                bm.tasks.Omniglot(tmp_path)
        np.savez(tmp_path / "omniglot28.npz", images=np.zeros((2, 20, 28, 28)), split_vinyals=np.zeros(2))
        with pytest.raises(ValueError, match=r"got \(2, 20, 28, 28\) and \(2,\)"):
            bm.tasks.Omniglot(tmp_path)
        for at in (len(whole) * k // 8 for k in range(1, 8)):  # bytes turned within the compressed images
            (tmp_path / "omniglot28.npz").write_bytes(
                whole[:at] + bytes(255 - b for b in whole[at : at + 9]) + whole[at + 9 :]
            )
            with pytest.raises(ValueError, match=r"expected a NumPy archive of images.*copy it anew"):
                bm.tasks.Omniglot(tmp_path)
        with (tmp_path / "omniglot28.npz").open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(ValueError, match=r"expected a NumPy archive of images.*copy it anew"):
            bm.tasks.Omniglot(tmp_path)
        images = np.zeros((1623, 20, 28, 28), np.uint8)
        np.savez(tmp_path / "omniglot28.npz", images=images, split_vinyals=np.zeros(1623))
        with pytest.raises(
            ValueError, match=r"a split_vinyals of \[1028, 172, 423\] characters, got uint8 and \[1623, 0, 0\]"
        ):
            bm.tasks.Omniglot(tmp_path)
        with pytest.raises(ValueError, match=r"split: expected one of train, .*, got 'dev'"):
            bm.tasks.Omniglot(tmp_path, split="dev")  # type: ignore[arg-type]
        monkeypatch.delenv("BAYESMETA_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(FileNotFoundError, match=r"cache/bayesmeta/omniglot, found neither"):
            bm.tasks.Omniglot()

    def test_a_blank_file_is_refused(self, tmp_path: Path) -> None:
        part = np.repeat([0, 1, 2], [1028, 172, 423])
        for ink in (0, 255):
            images = np.full((1623, 20, 28, 28), ink, np.uint8)
            np.savez_compressed(tmp_path / "omniglot28.npz", images=images, split_vinyals=part)
            with pytest.raises(ValueError, match="expected ink and paper in every drawing, got 32460 without; copy it"):
                bm.tasks.Omniglot(tmp_path)

    @pytest.mark.parametrize(
        "head", [("|u1", (20_000_000, 784)), ("|u1", (1623, 20, 28, 280)), ("|U9999999", (1623, 20, 28, 28))]
    )
    def test_an_array_of_another_size_is_refused_by_its_head(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: tuple[str, tuple[int, ...]]
    ) -> None:
        """Nothing of what it would unpack to is read."""
        raw = io.BytesIO()
        np.lib.format.write_array_header_1_0(raw, {"descr": head[0], "fortran_order": False, "shape": head[1]})
        small = io.BytesIO()
        np.save(small, np.repeat([0, 1, 2], [1028, 172, 423]))
        with zipfile.ZipFile(tmp_path / "omniglot28.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", raw.getvalue() + bytes(1000))
            archive.writestr("split_vinyals.npy", small.getvalue())
        monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
        with pytest.raises(
            ValueError, match=r"omniglot28\.npz: expected (images \(1623, 20|a NumPy archive).*copy it anew"
        ):
            bm.tasks.Omniglot(tmp_path)

    def test_a_member_that_says_it_is_huge_is_refused_unread(self, tmp_path: Path) -> None:
        with (
            zipfile.ZipFile(tmp_path / "omniglot28.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("images.npy", "w") as member,
        ):
            for _ in range(2**8 + 1):
                member.write(bytes(2**20))
        with pytest.raises(ValueError, match=r"images of \d+ bytes"):
            bm.tasks.Omniglot(tmp_path)

    def test_its_repr_says_its_settings(self, data_root: Path) -> None:
        found = repr(bm.tasks.Omniglot(data_root / "omniglot", split="validation", ways=20, seed=2))
        assert found == "Omniglot(split='validation'): uint8 (3440, 1, 28, 28), ways=20, seed=2"


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
        with pytest.raises(ValueError, match="classes: expected a whole number of at least 2, got 1"):
            bm.PrototypicalNetwork(nn.Identity(), classes=1)
        with pytest.raises(ValueError, match=r"support\.y: expected labels 0 to 1, got 2.*classes=3"):
            bm.PrototypicalNetwork(nn.Identity(), classes=2)(bm.points(torch.tensor([[0.0], [1.0]]), [0, 2], classes=3))


class TestImageFolder:
    def test_pictures_become_bytes_by_class(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / name / "deep").mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 6), (10 * i, 100 * label, 0)).save(tmp_path / name / "deep" / f"{i}.png")
        (tmp_path / "cat" / "notes.txt").write_text("not a picture")
        images, labels, names = bm.tasks.image_folder(tmp_path, size=4, channels=3)
        assert images.shape == (6, 3, 4, 4)
        assert images.dtype == torch.uint8
        assert labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert names == ["cat", "dog"]
        assert images[:, :, 0, 0].tolist() == [[10 * i, 100 * label, 0] for label in range(2) for i in range(3)]
        grey, _, _ = bm.tasks.image_folder(tmp_path, size=4, invert=True)
        assert grey.shape == (6, 1, 4, 4)
        assert grey[0].eq(255).all()
        assert bm.tasks.ImageTasks(images, labels, ways=2, queries=2)[0].support.x.shape == (4, 2, 3, 4, 4)

    def test_the_picture_is_cut_to_a_square_and_averaged(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        (tmp_path / "one").mkdir()
        pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
        Image.fromarray(pixels).save(tmp_path / "one" / "a.png")
        images, _, _ = bm.tasks.image_folder(tmp_path, size=2)
        expected = pixels[:, 1:5].reshape(2, 2, 2, 2).mean((1, 3))  # the middle four columns, in blocks of 2 x 2
        assert np.abs(images[0, 0].numpy() - expected).max() <= 0.5

    def test_errors_name_what_is_wrong(self, tmp_path: Path) -> None:
        pytest.importorskip("PIL")
        with pytest.raises(FileNotFoundError, match="expected a folder that holds one folder a class"):
            bm.tasks.image_folder(tmp_path, size=4)
        (tmp_path / "cat").mkdir()
        with pytest.raises(ValueError, match=r"cat: expected pictures"):
            bm.tasks.image_folder(tmp_path, size=4)
        (tmp_path / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        with pytest.raises(ValueError, match=r"1\.png: expected a picture"):
            bm.tasks.image_folder(tmp_path, size=4)
        with pytest.raises(ValueError, match="channels: expected 1"):
            bm.tasks.image_folder(tmp_path, size=4, channels=2)
        with pytest.raises(ValueError, match=r"size: expected a whole number of at least 1, got 4\.5"):
            bm.tasks.image_folder(tmp_path, size=4.5)  # type: ignore[arg-type]

    def test_the_error_says_which_of_many_files_of_a_name(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
        whole = (tmp_path / "dog" / "1.png").read_bytes()
        (tmp_path / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"dog.1\.png: expected a picture, got one that does not read"):
            bm.tasks.image_folder(tmp_path, size=4)

    def test_damaged_pictures_are_counted_and_may_be_left_out(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / name).mkdir()
            for i in range(3):
                Image.new("L", (8, 8), 100 * label + i).save(tmp_path / name / f"{i}.png")
        for place in ("cat/1.png", "dog/2.png"):
            whole = (tmp_path / place).read_bytes()
            (tmp_path / place).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r'cat.1\.png: .*\(2 of 6 pictures do not read; damaged="skip" leaves'):
            bm.tasks.image_folder(tmp_path, size=4)
        with pytest.warns(UserWarning, match=r"cat.1\.png: .*\(2 of 6 pictures do not read and are left out\)"):
            images, labels, names = bm.tasks.image_folder(tmp_path, size=4, damaged="skip")
        assert images[:, 0, 0, 0].tolist() == [0, 2, 100, 101]
        assert labels.tolist() == [0, 0, 1, 1]
        assert names == ["cat", "dog"]
        for i in (0, 2):
            (tmp_path / "cat" / f"{i}.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"cat: expected pictures .*, got none that reads"):
            bm.tasks.image_folder(tmp_path, size=4, damaged="skip")
        with pytest.raises(ValueError, match=r'damaged: expected "raise" or "skip", got True'):
            bm.tasks.image_folder(tmp_path, size=4, damaged=True)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0", b"Exif\0\0II*\0\xff\xff", b"Exif\0\0"]
    )
    def test_damaged_exif_is_said_with_the_files_name_or_ignored(self, tmp_path: Path, exif: bytes) -> None:
        Image = pytest.importorskip("PIL.Image")
        (tmp_path / "cat").mkdir()
        Image.new("L", (8, 8)).save(tmp_path / "cat" / "1.jpg", exif=exif)
        try:
            assert len(bm.tasks.image_folder(tmp_path, size=4)[0]) == 1
        except ValueError as error:
            assert "1.jpg: expected a picture" in str(error)  # noqa: PT017 (either is right)

    @pytest.mark.parametrize("fault", [struct.error, TypeError, KeyError, ZeroDivisionError, OverflowError])
    def test_whatever_a_decoder_raises_names_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
    ) -> None:
        Image = pytest.importorskip("PIL.Image")
        (tmp_path / "cat").mkdir()
        Image.new("L", (8, 8)).save(tmp_path / "cat" / "1.png")

        def broken(image: object) -> None:
            raise fault("damage")

        monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
        with pytest.raises(ValueError, match=r"cat.1\.png: expected a picture, got one that does not read \(.*damage"):
            bm.tasks.image_folder(tmp_path, size=4)

    def test_hidden_files_are_passed_over(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        for place in ("cat/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png", ".git/1.png"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(tmp_path / place)
        (tmp_path / "cat" / "._1.png").write_bytes(b"not a picture")
        (tmp_path / "cat" / "folder.png").mkdir()
        images, _, names = bm.tasks.image_folder(tmp_path, size=4)
        assert len(images) == 1
        assert names == ["cat"]

    def test_what_is_transparent_is_white(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        (tmp_path / "one").mkdir()
        picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        picture.paste((0, 0, 0, 255), (0, 0, 2, 4))
        picture.save(tmp_path / "one" / "a.png")
        for channels in (1, 3):
            images, _, _ = bm.tasks.image_folder(tmp_path, size=4, channels=channels)
            assert images[0, :, 0].tolist() == [[0, 0, 255, 255]] * channels

    def test_more_than_eight_bits_are_refused(self, tmp_path: Path) -> None:
        Image = pytest.importorskip("PIL.Image")
        (tmp_path / "one").mkdir()
        Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 1000).save(tmp_path / "one" / "a.png")
        with pytest.raises(
            ValueError, match=r"a\.png: expected a picture.*more than 8 bits; scale its values to 0 to 255"
        ):
            bm.tasks.image_folder(tmp_path, size=4)


class TestSubset:
    def test_only_its_classes_are_drawn(self) -> None:
        images, labels = pictures()
        tasks = bm.tasks.ImageTasks(images, labels, subset=[10, 13, 15], ways=3, shots=1, queries=3, batch=20)
        support, query = tasks[0]
        drawn = torch.cat([number(support.x), number(query.x)], 1) % CLASSES
        assert set(drawn.flatten().tolist()) == {0, 3, 5}

    @pytest.mark.parametrize("subset", [[], [9], [10.5], [[10]]])
    def test_an_unknown_label_is_an_error(self, subset: Any) -> None:
        with pytest.raises(ValueError, match=r"subset: expected (some of the labels 10 to 15|whole numbers)"):
            bm.tasks.ImageTasks(*pictures(), subset=subset, ways=2, queries=2)


class TestArchives:
    def test_the_authors_drawings_become_the_file(self, tmp_path: Path, data_root: Path) -> None:
        """Drawings of 105 x 105 as the author's archives hold them, against the file of 28 x 28 made elsewhere."""
        Image = pytest.importorskip("PIL.Image")
        from bayesmeta.tasks.omniglot import from_archives

        folder = data_root / "omniglot"
        with np.load(folder / "omniglot105_bits.npz") as file:
            bits, *names = [file[name] for name in ("bits", "alphabet", "character", "split")]
        places = [np.flatnonzero(names[0] == "Hebrew")[:3], np.flatnonzero(names[0] == "Gurmukhi")[-5:]]
        with np.load(folder / "omniglot28.npz") as file:
            wanted = {key: file[key][np.concatenate(places)] for key in file.files if len(file[key]) == 1623}
        for part, (name, chosen) in enumerate(zip(("images_background", "images_evaluation"), places, strict=True)):
            assert (names[2][chosen] == part).all()
            with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
                for i in chosen:
                    ink = np.unpackbits(bits[i], axis=-1)[:, : 105 * 105].reshape(20, 105, 105).astype(bool)
                    for j, drawing in enumerate(~ink):
                        raw = io.BytesIO()
                        Image.fromarray(drawing).save(raw, "png")  # 1 bit, paper is 1
                        archive.writestr(f"{name}/{names[0][i]}/{names[1][i]}/{i:04}_{j + 1:02}.png", raw.getvalue())
        made = from_archives([tmp_path / "images_background.zip", tmp_path / "images_evaluation.zip"])
        for key in ("alphabet", "character", "split", "split_vinyals"):
            assert made[key].tolist() == wanted[key].tolist()
        assert np.abs(made["images"].astype(int) - wanted["images"]).max() <= 1  # of 255: rounding

    def test_an_archive_of_another_checksum_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "images_background.zip").write_bytes(b"something else")
        with pytest.raises(ValueError, match=r"images_background\.zip: expected the MD5 checksum"):
            bm.tasks.Omniglot(tmp_path)

    @pytest.mark.parametrize(("split", "classes"), [("background", 964), ("evaluation", 659)])
    def test_lakes_split(self, data_root: Path, split: Any, classes: int) -> None:
        assert bm.tasks.Omniglot(data_root / "omniglot", split=split, rotations=False).classes == classes
