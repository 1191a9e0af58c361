"""Files that survive: written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

__all__ = ["check_target", "write_atomically"]

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
