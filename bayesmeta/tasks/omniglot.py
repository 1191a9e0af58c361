"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov & Tenenbaum 2015, "Human-level concept learning through probabilistic program induction",
https://www.science.org/doi/10.1126/science.aab3050; the drawings are at https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from tqdm.auto import tqdm

from bayesmeta.tasks.images import EpisodeShape, ImageTasks, read_picture

__all__ = ["Omniglot", "omniglot_folder"]

Split: TypeAlias = Literal["train", "validation", "test", "background", "evaluation"]
Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]

FILE = "omniglot28.npz"
SPLITS = {"train": ("split_vinyals", 0), "validation": ("split_vinyals", 1), "test": ("split_vinyals", 2)} | {
    "background": ("split", 0),
    "evaluation": ("split", 1),
}
SIZES = {"split_vinyals": [1028, 172, 423], "split": [964, 659]}
ARCHIVES = {  # the author's, with their MD5
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# The split of Vinyals et al. 2016 by alphabets: the rest is for training, but for the last four characters of Gurmukhi.
VALIDATION = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
TEST = {"Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya"} | {
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
}


def Omniglot(  # noqa: N802 (a source, named like the others)
    root: str | os.PathLike[str] | None = None,
    *,
    split: Split = "train",
    rotations: bool | None = None,
    download: bool = False,
    **shape: Unpack[EpisodeShape],
) -> ImageTasks:
    """Few-shot tasks of handwritten characters, 28 x 28 pixels, ink is 1.

    The folder holds ``omniglot28.npz``, or the author's two archives ``images_background.zip`` and ``images_evaluation.zip``, of
    which that file is made at the first call (a minute; takes Pillow: ``pip install bayesmeta[images]``).

    Args:
        root: the folder; None for ``omniglot`` in the folder that the variable BAYESMETA_DATA names, or if that is not set
            ``omniglot`` in the user's cache folder.
        split: which characters. Vinyals et al. 2016 (https://arxiv.org/abs/1606.04080): 1,028 to train, 172 for validation, 423
            for test. Lake et al. 2015: 964 of the background alphabets, 659 of the evaluation alphabets.
        rotations: whether turned characters are further classes; None for "train" and "background" only.
        download: whether to fetch the archives where they are missing (10 MB); their checksums are compared in any case.
        shape: ways, shots, queries, batch, seed, length: see `ImageTasks`.

    Raises:
        FileNotFoundError: neither the file nor the archives are there.
        ValueError: an unknown split, a file that is truncated or holds something else, or an archive of another checksum.
        ImportError: the archives are to be read without Pillow, or fetched without pooch.

    Example:
        >>> tasks = Omniglot(split="test", ways=20, shots=1, queries=5)  # doctest: +SKIP
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    folder = omniglot_folder(root)
    path = folder / FILE
    if not path.exists():
        _make(folder, download)
    part, number = SPLITS[split]
    arrays = _read(path, part)
    kept = arrays["images"][arrays[part] == number]
    turned = split in ("train", "background") if rotations is None else rotations
    tasks = ImageTasks(kept.reshape(-1, 28, 28), np.arange(len(kept)).repeat(20), rotations=turned, **shape)
    tasks.title = f"Omniglot(split={split!r})"
    return tasks


def omniglot_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Where `Omniglot` looks for its drawings, and keeps what it has fetched."""
    if root is not None:
        return Path(root)
    named = os.environ.get("BAYESMETA_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bayesmeta"
    return Path(named) / "omniglot" if named else cache / "omniglot"


def _read(path: Path, part: str) -> Arrays:
    remedy = "copy it anew, or remove it and call Omniglot(download=True)"
    shapes = {"images": (1623, 20, 28, 28), part: (1623,)}
    try:
        with zipfile.ZipFile(path) as archive:
            found_shapes = {name: _shape(archive, name) for name in shapes}
            fits = found_shapes == shapes  # before anything of another size is read
            arrays = {name: _array(archive, name) for name in shapes if fits}
    except Exception as error:  # damage shows in many ways: BadZipFile, zlib.error, tokenize.TokenError, ...
        raise ValueError(
            f"{path}: expected a NumPy archive of images and {part}, got one that does not read ({error}); {remedy}"
        ) from error
    if not fits:
        raise ValueError(
            f"{path}: expected images {shapes['images']} and {part} {shapes[part]}, got {found_shapes['images']} and "
            f"{found_shapes[part]}; {remedy}"
        )
    found = [int((arrays[part] == number).sum()) for number in range(len(SIZES[part]))]
    if arrays["images"].dtype != np.uint8 or found != SIZES[part]:
        raise ValueError(
            f"{path}: expected images of uint8 and a {part} of {SIZES[part]} characters, got {arrays['images'].dtype} and "
            f"{found}; {remedy}"
        )
    drawings = arrays["images"].reshape(-1, 28 * 28)
    blank = int(((drawings.max(1) < 64) | (drawings.min(1) > 64)).sum())
    if blank:
        raise ValueError(f"{path}: expected ink and paper in every drawing, got {blank} without; {remedy}")
    return arrays


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """An array's shape, by the head of its member of the archive."""
    if archive.getinfo(f"{name}.npy").file_size > 2**28:
        raise ValueError(f"{name} of {archive.getinfo(f'{name}.npy').file_size} bytes")
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):  # others are for long headers, which arrays of numbers have not
            raise ValueError(f"{name} in another version of NumPy's format than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.itemsize > 8:
        raise ValueError(f"{name} of {dtype}")
    return shape


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    with archive.open(f"{name}.npy") as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _make(folder: Path, download: bool) -> None:
    """Makes the file of the author's archives."""
    for name, checksum in ARCHIVES.items():
        if download and not (folder / name).exists():
            _fetch(folder, name, checksum)
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"root: expected {FILE}, or the archives {' and '.join(ARCHIVES)}, in {folder}, found neither; pass the folder "
                f"that holds them, fetch them from {ADDRESS}, or download=True"
            )
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != checksum:
            raise ValueError(
                f"{folder / name}: expected the MD5 checksum {checksum}, got {found}; the file is damaged or another: remove "
                "it, and fetch it anew (download=True)"
            )
    arrays = from_archives([folder / name for name in ARCHIVES])
    fresh = folder / f".{FILE}.{secrets.token_hex(8)}.new"
    try:
        with fresh.open("xb") as file:  # nobody else's, and no link
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        fresh.replace(folder / FILE)  # whole at every moment
    finally:
        fresh.unlink(missing_ok=True)


def _fetch(folder: Path, name: str, checksum: str) -> None:
    try:
        import pooch
    except ImportError as error:
        raise ImportError(f"downloading takes pooch ({error}); pip install bayesmeta[images]") from error
    pooch.retrieve(ADDRESS + name, known_hash=f"md5:{checksum}", fname=name, path=folder, progressbar=False)


def from_archives(paths: list[Path]) -> Arrays:
    """The arrays of the file, from archives of ``images_*/alphabet/character/drawing.png``: background, then evaluation."""
    images: list[np.ndarray[Any, Any]] = []
    names: list[tuple[int, str, str]] = []
    for part, path in enumerate(paths):
        with zipfile.ZipFile(path) as archive:
            drawings: dict[tuple[str, str], list[str]] = {}
            for name in sorted(one for one in archive.namelist() if one.endswith(".png")):
                drawings.setdefault((name.split("/")[-3], name.split("/")[-2]), []).append(name)
            for (alphabet, character), files in tqdm(drawings.items(), desc=path.stem, unit="character"):
                ink = [255 - read_drawing(archive, name) for name in files]
                images.append(np.stack(ink))
                names.append((part, alphabet, character))
    split, alphabet, character = (np.array(column) for column in zip(*names, strict=True))
    late = (alphabet == "Gurmukhi") & (character >= "character42")
    vinyals = np.where(np.isin(alphabet, list(VALIDATION)), 1, np.where(np.isin(alphabet, list(TEST)) | late, 2, 0))
    return {
        "images": np.stack(images),
        "alphabet": alphabet,
        "character": character,
        "split": split.astype(np.uint8),
        "split_vinyals": vinyals.astype(np.uint8),
    }


def read_drawing(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    with archive.open(name) as file:
        picture: np.ndarray[Any, Any] = read_picture(file, name, 28, 1)[0]
    return picture
