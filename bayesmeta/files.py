"""Files that survive: written whole or not at all, checked when read, and never executed.

A file is a line that says what it is, the SHA-256 of the rest, and the rest as ``torch.save`` writes it, which is read with
``weights_only=True``: tensors, numbers and texts, and no code. Classes are named in it (`bayesmeta.blueprint`), from a list.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import secrets
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.blueprint import blueprint, build
from bayesmeta.data import Points, check, check_shapes

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


__all__ = ["alone", "check_state", "check_target", "load", "read", "save", "unusable", "write", "write_atomically"]

_MAGIC = b"bayesmeta file 1\n"
_DIGEST = 32
_HALF, _ENDING = ".bayesmeta-", ".new"
"""How the name of a file that is being written begins and ends; 16 random hexadecimal digits are between."""


def check_target(path: str | os.PathLike[str], name: str = "path") -> None:
    """Raises an error where `write_atomically` would not write: ask before the work whose result the file is to hold.

    Args:
        path: of the file.
        name: of the argument that gave the path, for messages.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there is something else than a file, such as a folder, a link or a device.
        PermissionError: the folder, or the file in it, may not be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name}: expected a file in a folder that exists, got {path}; make the folder first")
    if path.is_symlink():
        raise ValueError(
            f"{name}: expected a file, got {path}, a link to {path.readlink()}; name the file that is meant, or remove the link"
        )
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise ValueError(f"{name}: expected a file, got {path}, which is {what}; name a file")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{name}: expected a file that may be written, got {path}; name another, or allow it")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all: after a crash at any moment there is the old one or the new one.

    The data are first written to a file of a random name in the same folder, which only a process that is killed meanwhile leaves
    behind (``.bayesmeta-*.new``). A file that is replaced keeps its mode; a new one gets the process's usual one.

    Args:
        path: of the file, which is no link.
        data: the content.

    Raises:
        FileNotFoundError, ValueError, PermissionError: as `check_target` says.
        OSError: the disk is full, say; the old file is as it was.
    """
    path = Path(path)
    check_target(path)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    fresh = path.with_name(f"{_HALF}{secrets.token_hex(8)}{_ENDING}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # exclusive: no link is followed
    descriptor = os.open(fresh, flags, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None and sys.platform != "win32":
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    if sys.platform != "win32":  # which cannot open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a folder: until the block ends, or this process, however it dies, no other process or thread gets it.

    The lock is the system's, on the file ``lock``, which stays. Halves of files that killed holders left are removed.

    Raises:
        ValueError: another holds it.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with ExitStack() as held:
        held.callback(os.close, descriptor)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"checkpoint: expected a folder that no other run uses, got {folder}, where one is at work; wait for its "
                    "end, end it (worker processes that it left behind count), or name another folder"
                ) from error
            warnings.warn(
                f"checkpoint: the file system of {folder} has no locks ({error}), so that nothing keeps another run from the "
                "same folder; give each run a folder of its own",
                stacklevel=2,
            )
        else:
            held.callback(
                _unlock, descriptor
            )  # closing is not enough: forked children, such as workers, have it open too
            for left in folder.glob(f"{_HALF}{'[0-9a-f]' * 16}{_ENDING}"):
                left.unlink(missing_ok=True)
        yield


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors, numbers and texts by name, with their checksum, atomically."""
    payload = io.BytesIO()
    torch.save(dict(content), payload)
    data = payload.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(data).digest() + data)


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
    """Saves a learner, or what it made of a support, atomically: weights, settings, the library's version, and a checksum.

    A posterior is a learner and a support: the file then holds both, and `load` gives the same answers, bit by bit.

    Args:
        learner: any learner, wrapped or not.
        path: of the file, whose folder exists. A file there is replaced and its mode kept; a link is refused.
        support: of B tasks, to keep the posterior ``learner(support)``. x is a tensor, or dicts, lists and tuples of tensors.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder or the file may not be written.
        ValueError: the path is a folder or a link; a weight is NaN or infinite; the support is not one, or its x holds what a
            file that never runs code cannot.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/child.bayesmeta"
        >>> save(MAML(MLP(1, 1), Gaussian()), path, support=points([2.0, 3.5], [87.1, 99.0]))
        >>> load(path)([8.0]).mean.shape
        torch.Size([1, 1, 1])
    """
    check_target(path)
    state = learner.state_dict()
    if (name := unusable(learner, state)) is not None:
        raise ValueError(
            f"learner: expected finite weights, got NaN or infinity in {name!r}; train it anew, or go back to a checkpoint or an "
            "older file"
        )
    described = {"kind": "learner", "type": type(learner).__name__, "version": version("bayesmeta")}
    given = None
    if support is not None:
        check_shapes(support, "support")
        _check_plain(support.x)
        given = tree_map(
            lambda leaf: leaf.detach().cpu().clone(), tuple(support)
        )  # a view would keep all it is a view of
    write(Path(path), {**described, "settings": blueprint(learner), "state": state, "support": given})


def load(path: str | os.PathLike[str], learner: nn.Module | None = None) -> Any:
    """Loads what `save` saved: a learner, or the posterior that it made of a support.

    A file is enough where the learner is made of the library's own parts, of common layers of ``torch.nn``, and of kernels, means
    and priors of gpytorch: it says by which classes of these and with which arguments to build it. Where it holds others, such as
    a network of yours, or was changed since it was built, build it the same way and pass it too. No file ever runs code.

    Args:
        path: of the file.
        learner: to load the weights into, built with the same arguments as the one that was saved; it is unchanged where an error
            is raised. Its settings, such as ``steps`` and ``rate``, are its own. A new one by the file's settings if None.

    Returns:
        The learner, if the file was saved without a support: the one that was passed, or a new one, on the CPU and in evaluation
        mode. Else the posterior, of a learner of its own that adapts to the support again; where adaptation draws random numbers
        (`ABML`, `PACOHNN`), seed torch's generator before it as before the first time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, changed, foreign, or of a learner of another type, other names, other shapes or another
            floating type; a weight in it is NaN or infinite; or it has not all of the settings and no learner was passed.

    Example:
        >>> learner = load("maml.bayesmeta")  # doctest: +SKIP
        >>> load("own.bayesmeta", MAML(MyNetwork(), Gaussian()))  # doctest: +SKIP
    """
    content = read(Path(path), "learner", "type", "version", "settings", "state")
    source = f"{path} (by version {content['version']})"
    given = content.get("support")
    if learner is None:
        target = _built(content, source)
    elif content["type"] != type(learner).__name__:
        raise ValueError(
            f"{path}: expected a saved {type(learner).__name__}, got a {content['type']}; pass one of those, or none"
        )
    else:
        target = learner if given is None else deepcopy(learner)  # that a support does not fit is known at the end
    check_state(target, content["state"], source)
    target.load_state_dict(content["state"])
    if given is None:
        return target
    posterior = target(_as_points(given, path))
    if learner is not None:
        learner.load_state_dict(content["state"])
    return posterior


def _built(content: Mapping[str, Any], source: str) -> nn.Module:
    """A learner of a file's settings."""
    remedy = "build the learner as it was built when it was saved, and pass it: load(path, learner)"
    settings = content["settings"]
    if isinstance(settings, str):
        raise ValueError(f"{source}: expected a learner that its file alone can give back, got {settings}; {remedy}")
    try:
        return build(settings)
    except ValueError as error:
        raise ValueError(f"{source}: expected settings of a {content['type']}, got {error}; {remedy}") from error


def check_state(learner: nn.Module, state: Any, source: str) -> None:
    """Raises a ValueError where a state is not one of this learner, or holds weights that are not finite.

    Args:
        learner: that the state is for.
        state: what a file holds in the place of ``learner.state_dict()``.
        source: the file, for messages.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{source}: expected weights by name, got {type(state).__name__}; save the learner again")
    mine = learner.state_dict()
    wanted, found = _shapes(mine), _shapes(state)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{source}: expected {name!r} of shape {wanted.get(name, 'none')}, got {found.get(name, 'none')}; build the "
                "learner with the arguments of the one that was saved"
            )
    for name, value in mine.items():
        if isinstance(value, Tensor) and value.dtype != state[name].dtype:
            raise ValueError(
                f"{source}: expected {name!r} in {value.dtype}, as the learner has it, got {state[name].dtype}; convert the "
                f"learner first, learner.to({state[name].dtype}), and back after it is loaded if need be"
            )
    if (broken := unusable(learner, state)) is not None:
        raise ValueError(
            f"{source}: expected finite weights, got NaN or infinity in {broken!r}; go back to an older file"
        )


def unusable(learner: nn.Module, state: Mapping[str, Any]) -> str | None:
    """The first name of a state's parameters that are not finite, or of its buffers that hold NaN: those may be infinite."""
    parameters = {name for name, _ in learner.named_parameters(remove_duplicate=False)}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.layout == torch.strided:
            wrong = ~torch.isfinite(value) if name in parameters else torch.isnan(value)
            if wrong.any():
                return name
    return None


def _as_points(given: Any, path: str | os.PathLike[str]) -> Points:
    """What a file holds as a support, checked."""
    if not isinstance(given, tuple) or len(given) != 3 or not all(isinstance(t, Tensor) for t in tree_leaves(given)):
        raise ValueError(f"{path}: expected a support's x, y and mask, got something else; save the posterior again")
    support = Points(*given)
    check(support, f"{path}: support")
    return support


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


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each tensor in a state, and what it is if it is no usual one."""
    return {
        name: list(value.shape) if isinstance(value, Tensor) and value.layout == torch.strided else type(value).__name__
        for name, value in state.items()
    }
