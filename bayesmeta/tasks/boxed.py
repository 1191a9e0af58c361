"""Pictures with boxes, from a COCO file of one's own or from a public set.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context", https://arxiv.org/abs/1405.0312 (the format is that of its object
detection: https://cocodataset.org/#format-data).

Shape letters of pictures: n pictures, C channels, H rows, V columns, P boxes.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesmeta.border import as_tensor
from bayesmeta.tasks.masks import _file, _opened, _picture, check_size

__all__ = ["Boxed", "cells_and_cards", "coco", "read_boxes", "read_pictures"]


class Boxed(NamedTuple):
    """Pictures with boxes, as `DetectionTasks` takes them."""

    images: Tensor
    """``(n, C, H, V)`` bytes."""
    boxes: list[Tensor]
    """Of each picture ``(P, 4)``: left, top, right, bottom in its pixels."""
    labels: list[Tensor]
    """Of each picture ``(P,)``, the class of each box."""
    names: list[str]
    """Of the classes, in the order of their numbers."""
    groups: list[str]
    """``(n,)``, where each picture comes from."""


def cells_and_cards(root: str | os.PathLike[str] | None = None, *, size: tuple[int, int] = (64, 64)) -> Boxed:
    """727 pictures: blood under the microscope (three kinds of cells) and playing cards on tables (six values).

    Of the repositories Shenggan/BCCD_Dataset (MIT) and EdjeElectronics' tutorial of object detection (Apache 2.0). Pictures are
    stretched to `size`. Groups are the two sources.

    Args:
        root: the folder of ``detection.npz``; None for ``detection`` in the folder that the variable BAYESMETA_DATA names.
        size: H and V.

    Raises:
        FileNotFoundError: the file is not there.
        ImportError: Pillow is not installed.

    Example:
        >>> pictures = cells_and_cards()  # doctest: +SKIP
        >>> tasks = DetectionTasks(
        ...     pictures.images, pictures.boxes, pictures.labels, groups=pictures.groups
        ... )  # doctest: +SKIP
    """
    with np.load(_file(root, "detection", "detection.npz")) as pack:
        given = {name: pack[name] for name in pack}
    images, boxes, labels = [], [], []
    for i, _ in enumerate(given["source"]):
        file = io.BytesIO(given["jpeg"][given["offset"][i] : given["offset"][i + 1]].tobytes())
        picture, scale = _sized(file, f"picture {i}", size, 3)
        own = given["box_image"] == i
        corners = torch.from_numpy(given["box_xyxy"][own]) * scale
        images.append(picture)
        boxes.append(corners.clamp(min=0).minimum(torch.tensor(size[::-1] * 2)))
        labels.append(torch.from_numpy(given["box_class"][own]))
    names = [str(name) for name in given["class_names"]]
    return Boxed(torch.from_numpy(np.stack(images)), boxes, labels, names, [str(source) for source in given["source"]])


def coco(
    file: str | os.PathLike[str], folder: str | os.PathLike[str], size: tuple[int, int], *, channels: int = 3
) -> Boxed:
    """Pictures and boxes from a JSON file of COCO's format and the folder of its pictures.

    All pictures are stretched to `size`, and their boxes with them; that takes Pillow (``pip install bayesmeta[images]``). Boxes
    of crowds (``iscrowd``) are left out. A picture's group is the folder that it is in.

    Args:
        file: the JSON file: "images" with "id" and "file_name", "categories" with "id" and "name", and "annotations" with
            "image_id", "category_id" and "bbox" (left, top, width and height in pixels).
        folder: that of the pictures.
        size: H and V.
        channels: 1 for grey, 3 for colours.

    Raises:
        FileNotFoundError: a picture is not there.
        ValueError: the file is of another format, a picture does not read, or a box lies outside its picture or has no area.
        ImportError: Pillow is not installed.

    Example:
        >>> pictures = coco("parts.json", "pictures", size=(96, 128))  # doctest: +SKIP
    """
    try:
        given = json.loads(Path(file).read_text())
        records = {
            one["id"]: (os.fspath(one["file_name"]), one.get("width"), one.get("height")) for one in given["images"]
        }
        categories = sorted((one["id"], str(one["name"])) for one in given["categories"])
        found: dict[Any, list[tuple[Any, list[float], int]]] = {one: [] for one in records}
        numbers = {one: number for number, (one, _) in enumerate(categories)}
        for one in given["annotations"]:
            if not one.get("iscrowd"):
                left, top, wide, high = map(float, one["bbox"])
                found[one["image_id"]].append((one.get("id"), [left, top, wide, high], numbers[one["category_id"]]))
        if len(records) < len(given["images"]) or len(numbers) < len(categories):
            raise ValueError("an id that two images or two categories have")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected COCO's format, images, categories and annotations that name each other by id, got {error!r}; see "
            "https://cocodataset.org/#format-data"
        ) from error
    check_size(size, channels)
    images, boxes, labels, groups = [], [], [], []
    for one, (name, *said) in records.items():
        path = Path(folder) / name
        if not path.exists():
            raise FileNotFoundError(f"folder: expected {name} in {folder}, found none; pass the folder of the pictures")
        picture, scale = _sized(path, str(path), size, channels)
        width, height = (end / by for end, by in zip(size[::-1], scale[:2].tolist(), strict=True))
        if any(number is not None and number != round(own) for number, own in zip(said, (width, height), strict=True)):
            raise ValueError(
                f"{file}: expected pictures of the sizes that it says, {said[0]} x {said[1]} of {name}, got {width:.0f} x "
                f"{height:.0f} pixels in {folder}; its boxes are in pixels of the pictures that were labelled: pass their folder"
            )
        corners = []
        for number, (left, top, wide, high), _ in found[one]:
            right, bottom = left + wide, top + high
            cut = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
            if not (
                wide > 0 and high > 0 and left > -1 and top > -1 and right < width + 1 and bottom < height + 1
            ) or not (cut[0] < cut[2] and cut[1] < cut[3]):
                raise ValueError(
                    f"{file}: expected boxes [left, top, width, height] of some area within the picture's {width:.0f} x "
                    f"{height:.0f} pixels, got {[left, top, wide, high]} (annotation {number} of {name}); cut "
                    "it at the picture's edge"
                )
            corners.append(cut)
        images.append(picture)
        boxes.append(torch.tensor(corners).reshape(-1, 4) * scale)
        labels.append(torch.tensor([number for *_, number in found[one]], dtype=torch.long))
        groups.append(str(Path(name).parent))
    if not images:
        raise ValueError(f"{file}: expected at least one picture, got none; add some to its images")
    return Boxed(torch.from_numpy(np.stack(images)), boxes, labels, [name for _, name in categories], groups)


def _sized(file: Any, name: str, size: tuple[int, int], channels: int) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Bytes ``(C, H, V)``, and by what boxes' corners ``(P, 4)`` are multiplied."""
    whole = _opened(file, name).size
    width, height = (new / old for new, old in zip(size[::-1], whole, strict=True))
    return _picture(file, name, size, channels), torch.tensor([width, height, width, height])


def read_pictures(images: Any) -> Tensor:
    """Pictures ``(n, C, H, V)`` of bytes or floating-point numbers."""
    try:
        tensors = isinstance(images, (list, tuple)) and any(isinstance(one, Tensor) for one in images)
        read = torch.stack(list(images)) if tensors else as_tensor(images, "images")
    except (ValueError, RuntimeError) as error:
        sizes = sorted({str(tuple(getattr(one, "shape", ()))) for one in images}) if hasattr(images, "__iter__") else []
        raise ValueError(
            f"images: expected pictures of one size in one array, got {type(images).__name__} of {', '.join(sizes[:4])} "
            f"({error}); resize them and their boxes"
        ) from error
    read = read[:, None] if read.dim() == 3 else read
    if read.dim() != 4 or not (read.dtype == torch.uint8 or read.is_floating_point()):
        raise ValueError(
            f"images: expected (n, C, H, V) of bytes (torch.uint8) or floating-point numbers, got {read.dtype} of "
            f"{tuple(read.shape)}; convert them"
        )
    if read.is_floating_point() and not read.isfinite().all():
        raise ValueError(
            "images: expected finite numbers, got NaN or infinity; fill them in, or leave those pictures out"
        )
    return read


def read_boxes(boxes: Any, labels: Any, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each picture its boxes ``(P, 4)`` and their classes ``(P,)``."""
    counts = [len(each) if hasattr(each, "__len__") else type(each).__name__ for each in (boxes, labels)]
    listed = counts == [len(images)] * 2 and all(hasattr(one, "__len__") for each in (boxes, labels) for one in each)
    if not listed:
        raise ValueError(
            f"boxes and labels: expected one list for each of the {len(images)} pictures, got {counts[0]} and {counts[1]}, or "
            "what are no lists; give pictures without a box empty lists"
        )
    height, width = images.shape[2:]
    found = []
    for place, (given, names) in enumerate(zip(boxes, labels, strict=True)):
        corners = as_tensor(given, f"boxes[{place}]").float() if len(given) else torch.zeros(0, 4)
        if corners.dim() != 2 or corners.shape[1] != 4:
            raise ValueError(
                f"boxes[{place}]: expected (P, 4), left, top, right and bottom of each box, got {tuple(corners.shape)}; give one "
                "box as [[left, top, right, bottom]]"
            )
        kinds = as_tensor(names, f"labels[{place}]").reshape(-1) if len(names) else torch.zeros(0).long()
        if len(corners) != len(kinds) or (kinds.long() != kinds).any() or (kinds < 0).any():
            raise ValueError(
                f"labels[{place}]: expected a whole number from 0 on for each of the picture's {len(corners)} boxes, got "
                f"{kinds.tolist()}; number the classes"
            )
        wrong = ~corners.isfinite().all(1) | (corners[:, 2:] <= corners[:, :2]).any(1)
        wrong |= (corners < 0).any(1) | (corners > corners.new_tensor([width, height, width, height])).any(1)
        if wrong.any():
            raise ValueError(
                f"boxes[{place}]: expected left < right <= {width} and top < bottom <= {height}, in pixels from 0, got "
                f"{corners[wrong][0].tolist()} (left, top, right, bottom); cut boxes at the picture's edge, and give corners, "
                "not width and height"
            )
        found.append((corners, kinds.long()))
    return found
