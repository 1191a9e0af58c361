"""Few-shot classification of images: any labelled pictures, from arrays or from folders.

Shape letters of images: n images, C channels, H rows and columns.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count
from bayesmeta.tasks.classes import ClassTasks, Labels, read_labels

__all__ = ["EpisodeShape", "ImageTasks", "image_folder"]


class EpisodeShape(TypedDict, total=False):
    """The keyword arguments of `ImageTasks` that say what an episode holds."""

    subset: Labels | None
    ways: int
    shots: int
    queries: int
    outside: int
    batch: int
    seed: int
    length: int


class ImageTasks(ClassTasks):
    """`ClassTasks` of pictures: W-way K-shot tasks from labelled images.

    Images of bytes are scaled to [0, 1], so a new task is asked with ``points(images / 255, labels, classes=W)``; floating-point
    images are taken as they are.

    Args:
        images: ``(n, C, H, H)``, or ``(n, H, H)`` for one channel; an array or tensor of bytes or of floating-point numbers.
        labels: ``(n,)`` whole numbers or strings: the class of each image.
        rotations: whether each class turned by 90, 180 and 270 degrees is another class, as in Santoro et al. 2016
            (https://arxiv.org/abs/1605.06065).
        shape: subset, ways, shots, queries, outside, batch, seed, length: see `ClassTasks`.

    Raises:
        ValueError: shapes or types that do not fit, NaN or infinity, or what `ClassTasks` raises.

    Example:
        >>> images, labels = torch.rand(60, 1, 28, 28), torch.arange(60) % 6
        >>> tasks = ImageTasks(images, labels, ways=3, shots=1, queries=4, batch=2)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape
        (torch.Size([2, 3, 1, 28, 28]), torch.Size([2, 12]))
    """

    _rows = "images"

    def __init__(self, images: Any, labels: Labels, *, rotations: bool = False, **shape: Unpack[EpisodeShape]) -> None:
        images, given = read_images(images, labels)
        if rotations and images.shape[2] != images.shape[3]:
            raise ValueError(
                f"rotations: expected square images, got {tuple(images.shape[2:])}; crop them, or rotations=False"
            )
        self.rotations = rotations
        self._turns = 4 if rotations else 1
        super().__init__(images, given, **shape)

    def _read(self, x: Any, whole: bool, dtype: torch.dtype) -> Any:
        return x

    def _at(self, places: Tensor, turns: Tensor) -> Any:
        x = super()._at(places, turns)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        for turn in range(1, self._turns):
            turned = (turns == turn).to(x.device)
            x[turned] = torch.rot90(x[turned], turn, (-2, -1))
        return x


def read_images(images: Any, labels: Any, name: str = "images") -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Pictures ``(n, C, H, H)`` of bytes or floating-point numbers, and the label of each."""
    images = _tensor(name, images, "torch.stack a list of images of one size")
    if images.dim() == 3:
        images = images[:, None]
    given = read_labels("labels", labels)
    if images.dim() != 4 or given.shape != images.shape[:1]:
        raise ValueError(
            f"{name} and labels: expected (n, C, H, H) or (n, H, H) and (n,), got {tuple(images.shape)} and "
            f"{tuple(given.shape)}; give every image one label; for vectors use ClassTasks"
        )
    _check_images(images, name)
    return images, given


def _tensor(name: str, value: Any, remedy: str) -> Tensor:
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
            raise ValueError("its elements are tensors")
        return as_tensor(value, name)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected an array or tensor of numbers, got {type(value).__name__} that does not convert "
            f"({error}); {remedy}"
        ) from error


def _check_images(images: Tensor, name: str) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(
            f"{name}: expected bytes (torch.uint8) or floating-point numbers, got {images.dtype}; convert them to torch.uint8, "
            "or to floating point and scale them, e.g. to [0, 1]"
        )
    if images.shape[3] in (1, 3, 4) and images.shape[1] == images.shape[2] > 4:
        raise ValueError(
            f"{name}: expected channels before rows and columns, (n, C, H, H), got {tuple(images.shape)}; turn them with "
            "np.moveaxis(images, -1, 1), or images.movedim(-1, 1) for a tensor"
        )
    if images.is_floating_point():
        finite = torch.cat([part.flatten(1).isfinite().all(1) for part in images.split(1024)])  # no copy of all at once
        bad = (~finite).nonzero()[:, 0].tolist()
        if bad:
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity in {len(bad)} of {len(images)} images, first in image "
                f"{bad[0]}; fill them in, or leave these images and their labels out"
            )


def image_folder(
    root: str | os.PathLike[str],
    size: int,
    *,
    channels: int = 1,
    invert: bool = False,
    damaged: Literal["raise", "skip"] = "raise",
) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures from a folder that holds one folder a class, such as ``root/cat/1.png``; deeper folders belong to the class.

    Each picture is made square by cutting off what is longer, around its middle, and resized; what is transparent becomes white.
    Files and folders whose names begin with a dot are passed over. Reading them takes Pillow (``pip install bayesmeta[images]``).

    Args:
        root: the folder of the classes' folders.
        size: H, rows and columns.
        channels: 1 for grey, 3 for colours.
        invert: whether to turn light into dark: networks like ink to be 1 and paper 0.
        damaged: what happens to pictures that do not read: "raise" an error once all have been tried, or "skip" them with a
            warning; either says how many they are.

    Returns:
        Images ``(n, C, H, H)`` of bytes, labels ``(n,)``, and the classes' names in the order of their labels, which is the
        alphabet's. The first two are what `ImageTasks` takes.

    Raises:
        FileNotFoundError: there is no such folder, or no class in it.
        ValueError: a class without pictures that read, a picture that does not read, or one of more than 8 bits that would be
            cut off; the message names the first and counts them.
        ImportError: Pillow is not installed.

    Example:
        >>> images, labels, names = image_folder("pictures", size=28)  # doctest: +SKIP
        >>> tasks = ImageTasks(images, labels, ways=5, shots=1)  # doctest: +SKIP
    """
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (colours), got {channels}; choose one of them")
    if damaged not in ("raise", "skip"):
        raise ValueError(f'damaged: expected "raise" or "skip", got {damaged!r}; choose one of them')
    check_count("size", size)
    folder = Path(root)
    inside = [one for one in folder.iterdir() if one.is_dir() and one.name[0] != "."] if folder.is_dir() else []
    names = sorted(one.name for one in inside)
    if not names:
        raise FileNotFoundError(
            f"root: expected a folder that holds one folder a class, got {folder}; e.g. {folder}/cat/1.png"
        )
    images: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    errors: list[ValueError] = []
    tried = 0
    for label, name in enumerate(names):
        before = len(images)
        for file in sorted(one for one in (folder / name).rglob("*") if _is_picture(one, folder)):
            tried += 1
            try:
                images.append(read_picture(file, str(file), size, channels))
            except ValueError as error:
                errors.append(error)
        labels += [label] * (len(images) - before)
        if len(images) == before and not (errors and damaged == "raise"):
            raise ValueError(
                f"{folder / name}: expected pictures ({', '.join(PICTURES)}), got none that reads; add some, or remove it"
            )
    if errors:
        said = f"{errors[0]} ({len(errors)} of {tried} pictures do not read"
        if damaged == "raise":
            raise ValueError(f'{said}; damaged="skip" leaves them out)') from errors[0]
        warnings.warn(f"{said} and are left out)", stacklevel=2)
    stacked = np.stack(images)
    return torch.from_numpy(255 - stacked if invert else stacked), torch.tensor(labels, device="cpu"), names


PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)  # thumbnails, copies that editors keep
    return path.suffix.lower() in PICTURES and not hidden and path.is_file()


def read_picture(file: Any, name: str, size: int, channels: int) -> np.ndarray[Any, Any]:
    """One picture as bytes ``(C, H, H)``, by the mean over each pixel's area."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"reading pictures takes Pillow ({error}); pip install bayesmeta[images]") from error
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # which `convert` would cut off at 255
                raise ValueError(f"mode {image.mode}, more than 8 bits; scale its values to 0 to 255 and save it anew")
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            upright = upright.convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BOX))
    except Exception as error:  # damage shows in many ways: OSError, SyntaxError, struct.error, ... of EXIF too
        raise ValueError(
            f"{name}: expected a picture, got one that does not read ({error}); replace or remove it"
        ) from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
