"""Pictures with a label for each pixel, from a folder of one's own or from two public sets.

Brostow, Fauqueur & Cipolla 2009, "Semantic object classes in video: A high-definition ground truth database" (CamVid),
https://doi.org/10.1016/j.patrec.2008.04.005; Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation
algorithms for connectomics" (ISBI 2012), https://doi.org/10.3389/fnana.2015.00142.

Shape letters of pictures: n pictures, C channels, H rows, V columns.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.tasks.images import PICTURES

__all__ = ["Masks", "camvid", "mask_folder", "membranes"]


class Masks(NamedTuple):
    """Pictures with labels, as `SegmentationTasks` and `SceneTasks` take them."""

    images: Tensor
    """``(n, C, H, V)`` bytes."""
    masks: Tensor
    """``(n, H, V)`` whole numbers: the class of each pixel."""
    names: list[str]
    """Of the classes, in the order of their numbers."""
    groups: list[str]
    """``(n,)``, the scene of each picture."""


def camvid(root: str | os.PathLike[str] | None = None, *, size: tuple[int, int] = (48, 64)) -> Masks:
    """CamVid: 701 frames of four drives through Cambridge, with 11 classes and void, 11.

    Args:
        root: the folder of ``camvid_240x180.npz``; None for ``camvid`` in the folder that the variable BAYESMETA_DATA names.
        size: H and V; pictures by the mean over each pixel's area, labels by the nearest pixel.

    Raises:
        FileNotFoundError: the file is not there.
        ImportError: Pillow is not installed.

    Example:
        >>> pictures = camvid()  # doctest: +SKIP
        >>> tasks = SegmentationTasks(
        ...     pictures.images, pictures.masks, groups=pictures.groups, void=11
        ... )  # doctest: +SKIP
    """
    images, masks = [], []
    with np.load(_file(root, "camvid", "camvid_240x180.npz")) as pack:
        given = {name: pack[name] for name in pack}
    for i in range(len(given["frame"])):
        picture, labels = (
            given[part][given[place][i] : given[place][i + 1]].tobytes()
            for part, place in (("jpeg", "jpeg_offset"), ("mask_png", "mask_offset"))
        )
        images.append(_picture(io.BytesIO(picture), f"frame {i}", size, 3))
        masks.append(_labels(io.BytesIO(labels), f"mask {i}", size))
    groups = [str(frame).split("_")[0] for frame in given["frame"]]
    return _stacked(images, masks, [str(name) for name in given["class_names"]], groups)


def membranes(root: str | os.PathLike[str] | None = None, *, tile: int = 64) -> Masks:
    """ISBI 2012: cells (1) and their membranes (0) in 30 electron micrographs of 256 x 256, each of which is a group of tiles.

    Args:
        root: the folder of ``isbi_membrane_256.npz``; None for ``isbi_membrane`` in the folder that BAYESMETA_DATA names.
        tile: H = V, rows and columns of the tiles that the micrographs are cut into.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: tiles do not divide 256.
    """
    check_count("tile", tile)
    if 256 % tile:
        raise ValueError(f"tile: expected a divisor of 256, got {tile}; e.g. 64")
    with np.load(_file(root, "isbi_membrane", "isbi_membrane_256.npz")) as pack:
        images, masks = (torch.from_numpy(pack[name]) for name in ("images", "masks"))
    cut = [
        part.unfold(1, tile, tile).unfold(2, tile, tile).reshape(-1, tile, tile).contiguous()
        for part in (images, masks)
    ]
    groups = [f"{i:02}" for i in range(len(images)) for _ in range((256 // tile) ** 2)]
    return Masks(cut[0][:, None], cut[1].long(), ["membrane", "cell"], groups)


def mask_folder(root: str | os.PathLike[str], size: tuple[int, int], *, channels: int = 3) -> Masks:
    """Pictures and masks from two folders of the same names: ``root/images/one.jpg`` and ``root/masks/one.png``.

    A mask holds the number of each pixel's class: a grey or a palette picture, best a PNG, as JPEG makes further numbers along
    edges. One in 0 and 255 has the classes 0 and 255, and names are the numbers as texts. Folders within are groups, scenes or
    patients: ``root/images/patient 1/one.jpg``. All are resized, pictures by the mean over each pixel's area, masks by the
    nearest pixel; that takes Pillow (``pip install bayesmeta[images]``).

    Args:
        root: the folder.
        size: H and V.
        channels: 1 for grey, 3 for colours.

    Raises:
        FileNotFoundError: there are no pictures, or a picture has no mask.
        ValueError: a file does not read, a mask has another size than its picture, or it is of colours.
        ImportError: Pillow is not installed.

    Example:
        >>> pictures = mask_folder("cells", size=(96, 128))  # doctest: +SKIP
    """
    check_size(size, channels)
    folder = Path(root)
    files = sorted(
        file for file in (folder / "images").rglob("*") if file.suffix.lower() in PICTURES and file.name[0] != "."
    )
    if not files:
        raise FileNotFoundError(
            f"root: expected pictures in {folder / 'images'}, and their masks in {folder / 'masks'}, got none; e.g. "
            "images/one.jpg and masks/one.png"
        )
    images, masks, groups = [], [], []
    for file in files:
        place = file.relative_to(folder / "images")
        mask = next((m for end in PICTURES if (m := folder / "masks" / place.with_suffix(end)).exists()), None)
        if mask is None:
            raise FileNotFoundError(
                f"{file}: expected a mask {folder / 'masks' / place.with_suffix('.png')}, got none; add it, or remove the picture"
            )
        images.append(_picture(file, str(file), size, channels))
        masks.append(_labels(mask, str(mask), size, like=file))
        groups.append(str(place.parent))
    most = int(max(mask.max() for mask in masks))
    return _stacked(images, masks, [str(c) for c in range(most + 1)], groups)


def _file(root: str | os.PathLike[str] | None, folder: str, name: str) -> Path:
    named = os.environ.get("BAYESMETA_DATA")
    where = Path(root) if root is not None else Path(named or ".") / folder
    if not (where / name).exists():
        raise FileNotFoundError(
            f"root: expected {name} in {where}, found none; pass the folder that holds it, or set BAYESMETA_DATA to the "
            f"folder of {folder}"
        )
    return where / name


def _stacked(
    images: Sequence[np.ndarray[Any, Any]], masks: Sequence[np.ndarray[Any, Any]], names: list[str], groups: list[str]
) -> Masks:
    labels = torch.from_numpy(np.stack(masks)).long()
    return Masks(torch.from_numpy(np.stack(images)), labels, names, groups)


def check_size(size: Any, channels: int = 3) -> None:
    """Raises a ValueError if it is not rows and columns to which pictures can be resized, in grey or in colours."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size: expected rows and columns, got {size!r}; e.g. (64, 64)")
    for number in size:
        check_count("size", number)
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 for grey or 3 for colours, got {channels!r}")


def _picture(file: Any, name: str, size: tuple[int, int], channels: int) -> np.ndarray[Any, Any]:
    """Bytes ``(C, H, V)``, by the mean over each pixel's area."""
    image = _opened(file, name)
    if image.mode[0] in "IF":  # which `convert` would cut off at 255
        raise ValueError(
            f"{name}: expected a picture of 8 bits, got one of more ({image.mode}); scale its values to 0 to 255 and save it anew"
        )
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image.resize(size[::-1], 4))  # BOX
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _labels(file: Any, name: str, size: tuple[int, int], like: Path | None = None) -> np.ndarray[Any, Any]:
    """Classes ``(H, V)``, of the nearest pixels."""
    image = _opened(file, name)
    if image.mode not in ("L", "P", "1", "I;16", "I"):
        raise ValueError(
            f"{name}: expected a mask of class numbers, grey or with a palette, got colours ({image.mode}); save each pixel's "
            "class as a grey value"
        )
    if like is not None and (given := _opened(like, str(like)).size) != image.size:
        raise ValueError(
            f"{name}: expected a mask of its picture's size, {given[0]} x {given[1]}, got {image.size[0]} x {image.size[1]}; "
            "export it anew"
        )
    return np.asarray(image.resize(size[::-1], 0))  # NEAREST


def _opened(file: Any, name: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"reading pictures takes Pillow ({error}); pip install bayesmeta[images]") from error
    try:
        image = Image.open(file)
        image.load()
    except Exception as error:
        raise ValueError(
            f"{name}: expected a picture, got one that does not read ({error}); replace or remove it"
        ) from error
    return image
