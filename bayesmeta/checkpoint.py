"""Files that survive: written whole or not at all, checked when read, and never executed.

A file is a line that says what it is, the SHA-256 of the rest, and the rest as ``torch.save`` writes it, which is read with
``weights_only=True``: tensors, numbers and texts, and no code.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.data import Episode, Points, check_shapes
from bayesmeta.learner import Learner, Posterior

__all__ = ["Checkpoint", "load", "save"]

_MAGIC = b"bayesmeta file 1\n"
_DIGEST = 32
_RUN = ("settings", "states", "generators", "cuda", "losses", "gradient_norms", "seconds")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file atomically: after a crash at any moment there is the old one or the new one, whole."""
    payload = io.BytesIO()
    torch.save(dict(content), payload)
    data = payload.getvalue()
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(_MAGIC + hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def read(path: Path, kind: str, *names: str) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        ValueError: the file is truncated, changed, not one of ours, or not of this kind with these names.
    """
    if path.is_dir():
        raise ValueError(
            f"{path}: expected a file, got a folder; a folder of fit(checkpoint=) is for fit to go on from"
        )
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise ValueError(f"{path}: expected a file that this library wrote, got another or a damaged one")
    digest, payload = data[len(_MAGIC) :][:_DIGEST], data[len(_MAGIC) + _DIGEST :]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError(
            f"{path}: expected the checksum it was written with, got another; the file is truncated or changed"
        )
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: expected tensors, numbers and texts, got content that is not safe to read ({error})"
        ) from error
    found = content.get("kind") if isinstance(content, dict) else None
    if found != kind:
        raise ValueError(f"{path}: expected a saved {kind}, got {f'a {found}' if found else 'a file of another kind'}")
    if missing := set(names) - content.keys():
        raise ValueError(f"{path}: expected a {kind} with its {' and '.join(sorted(missing))}, got a file without")
    return content


def save(learner: nn.Module, path: str | os.PathLike[str], *, support: Points | None = None) -> None:
    """Saves a learner, or what it made of a support, atomically: names, shapes, the library's version, and a checksum.

    A posterior is a learner and a support: the file then holds both, and `load` gives the same answers, bit by bit.

    Args:
        learner: any learner, wrapped or not.
        path: of the file, whose folder exists.
        support: of B tasks, to keep the posterior ``learner(support)``. x is a tensor, or dicts, lists and tuples of tensors.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the support is not one, or its x holds what a file that never runs code cannot.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/child.bayesmeta"
        >>> save(MAML(MLP(1, 1), Gaussian()), path, support=points([2.0, 3.5], [87.1, 99.0]))
        >>> load(MAML(MLP(1, 1), Gaussian()), path)([8.0]).mean.shape
        torch.Size([1, 1, 1])
    """
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in a folder that exists, got {path}; make the folder first")
    state = learner.state_dict()
    described = {"kind": "learner", "type": type(learner).__name__, "version": version("bayesmeta")}
    given = None
    if support is not None:
        check_shapes(support, "support")
        _check_plain(support.x)
        given = tree_map(
            lambda leaf: leaf.detach().cpu().clone(), tuple(support)
        )  # a view would keep all it is a view of
    write(Path(path), {**described, "state": state, "support": given})


def load(learner: nn.Module, path: str | os.PathLike[str]) -> Posterior | None:
    """Loads what `save` saved into a learner that was built the same way; it is unchanged where an error is raised.

    The file has weights and buffers. Settings such as ``steps`` and ``rate`` are those of the learner it is loaded into.

    Args:
        learner: built with the same arguments as the one that was saved.
        path: of the file.

    Returns:
        The posterior, if the file was saved with a support, else None. A copy of the learner adapts to the support again; where
        adaptation draws random numbers (`ABML`, `PACOHNN`), seed torch's generator before it as before the first time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, changed, foreign, or of a learner of another type, other names, other shapes or another
            floating type.

    Example:
        >>> load(MAML(MLP(1, 1), Gaussian()), "maml.bayesmeta")  # doctest: +SKIP
    """
    content = read(Path(path), "learner", "type", "version", "state")
    if content["type"] != type(learner).__name__:
        raise ValueError(
            f"{path}: expected a saved {type(learner).__name__}, got a {content['type']}; build that first"
        )
    state = content["state"]
    wanted, found = _shapes(learner.state_dict()), _shapes(state)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path}: expected {name!r} of shape {wanted.get(name, 'none')}, got {found.get(name, 'none')}; build the "
                f"learner with the arguments of the one that was saved (by version {content['version']})"
            )
    for name, value in learner.state_dict().items():
        if name in wanted and value.dtype != state[name].dtype:
            raise ValueError(
                f"{path}: expected {name!r} in {value.dtype}, as the learner has it, got {state[name].dtype}; convert the "
                f"learner first, learner.to({state[name].dtype}), and back after it is loaded if need be"
            )
    posterior: Posterior | None = None
    if (support := content.get("support")) is not None:
        adapting = deepcopy(learner)  # if the support does not fit, the learner stays as it was
        adapting.load_state_dict(state)
        posterior = adapting(Points(*support))
    learner.load_state_dict(state)
    return posterior


def _check_plain(x: Any) -> None:
    """Raises a ValueError where x holds anything but tensors in dicts, lists and tuples."""
    if type(x) in (dict, list, tuple):
        for part in x.values() if isinstance(x, dict) else x:
            _check_plain(part)
    elif not isinstance(x, Tensor):
        raise ValueError(
            f"support.x: expected tensors in dicts, lists and tuples, got {type(x).__name__}, which a file that never runs code "
            "cannot hold; make a dict of it"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


class Checkpoint:
    """A run of `fit` on disk: where it was, and what it was asked to do.

    Args:
        folder: of the run; it is made where there is none.
        learner, optimizer, scheduler: of the run.
        settings: the arguments that decide its result.
        episode: the first, which stands for the tasks.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        learner: Learner,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        settings: Mapping[str, Any],
        episode: Episode,
    ) -> None:
        self.path = Path(folder) / "checkpoint.bayesmeta"
        self.parts: dict[str, Any] = {"learner": learner, "optimizer": optimizer}
        if scheduler is not None:
            self.parts["scheduler"] = scheduler
        self.settings = {**settings, **_describe(learner, optimizer, scheduler), "first episode": _digest(episode)}
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, generators: Tensor, **progress: Any) -> None:
        """Writes the run's state, with torch's generators of each process, and its progress."""
        write(
            self.path,
            {
                "kind": "checkpoint",
                "settings": self.settings,
                "states": {name: part.state_dict() for name, part in self.parts.items()},
                "generators": generators,
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                **progress,
            },
        )

    def resume(self, rank: int = 0) -> dict[str, Any] | None:
        """Takes learner, optimiser, scheduler and generators to where the run was, and returns its progress; None for a new run.

        Raises:
            ValueError: the file is damaged, or belongs to a run of other settings. Nothing is changed then.
        """
        for left in self.path.parent.glob(f"{self.path.name}.*.new"):  # of processes that were killed while they wrote
            left.unlink(missing_ok=True)
        if not self.path.exists():
            return None
        content = read(self.path, "checkpoint", *_RUN)
        theirs = content["settings"]
        if self.settings["first episode"] != theirs.get("first episode"):
            raise ValueError(
                f"checkpoint: expected the tasks of the run of {self.path.parent}, got others, whose first episode differs; use "
                "the same tasks, or another folder"
            )
        for name in self.settings | theirs:
            if self.settings.get(name) != theirs.get(name):
                raise ValueError(
                    f"checkpoint: expected the run of {self.path.parent} to go on, whose {name} is {theirs.get(name)!r}, got "
                    f"{self.settings.get(name)!r}; use the same settings, or another folder"
                )
        for name, part in self.parts.items():
            part.load_state_dict(content["states"][name])
        torch.set_rng_state(content["generators"][rank].clone())  # torch crashes on a view that begins later
        if content["cuda"]:
            torch.cuda.set_rng_state_all(content["cuda"])
        return content


def _describe(learner: Learner, optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Everything but the weights that tells one learner and optimiser from another, as numbers and texts."""
    described: dict[str, Any] = {"learner": type(learner).__name__, "torch": str(torch.__version__)}
    for path, module in learner.named_modules(prefix="learner"):  # the prefix keeps its steps apart from those of fit
        described[f"type of {path}"] = type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name != "training":
                described[f"{path}.{name}"] = value
    for name, value in learner.state_dict().items():
        if isinstance(value, Tensor):
            described |= {f"shape of {name}": list(value.shape), f"floating type of {name}": str(value.dtype)}
    described["optimizer"] = type(optimizer).__name__
    described |= {f"optimizer's {name}": repr(value) for name, value in optimizer.defaults.items()}
    described["scheduler"] = type(scheduler).__name__
    return described


def _digest(episode: Episode) -> str:
    digest = hashlib.sha256()
    for leaf in tree_leaves(episode):
        digest.update(repr((leaf.dtype, tuple(leaf.shape))).encode())
        digest.update(leaf.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
