"""Files that survive: written whole or not at all, checked when read, and never executed.

A file is a line that says what it is, the SHA-256 of the rest, and the rest as ``torch.save`` writes it, which is read with
``weights_only=True``: tensors, numbers and texts, and no code.
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
from pathlib import Path
from typing import Any

import torch

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


__all__ = ["alone", "check_target", "read", "write", "write_atomically"]

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
