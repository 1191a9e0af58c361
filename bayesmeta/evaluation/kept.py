"""The streams that an evaluation has finished, on disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayesmeta.files import MODES, alone, check_target, describe, digest, plain, read, write
from bayesmeta.metrics import Metric
from bayesmeta.randomness import set_stream_state, stream_state

__all__ = ["Kept", "settings_of"]

_KIND = "evaluation of a stream"


class Kept:
    """One file a stream, in the order in which they are read.

    Args:
        folder: of the evaluation; it is made where there is none.
        settings: what decides the figures, by name.

    Raises:
        ValueError, PermissionError: the folder's files cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        if folder == "":
            raise ValueError("checkpoint: expected a folder, got ''; name one, or give None to keep nothing")
        self.folder, self.settings = Path(folder), dict(settings)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"checkpoint: expected a folder, for one file a stream, got {folder}, which is none; name a folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        check_target(self._path(0), "checkpoint")

    def _path(self, index: int) -> Path:
        return self.folder / f"stream-{index}.bayesmeta"

    def alone(self) -> AbstractContextManager[None]:
        """Keeps other runs from the folder.

        Raises:
            ValueError: one is at work there.
        """
        return alone(self.folder)

    def write(self, index: int, stream: str, tables: Sequence[Sequence[Tensor]]) -> None:
        """Keeps a stream's statistics, one tensor a kind and metric, and where the random numbers are after it.

        Args:
            index: the stream's number.
            stream: its digest.
            tables: its statistics.
        """
        content = {"settings": self.settings, "stream": stream, "tables": [list(kind) for kind in tables]}
        write(self._path(index), {"kind": _KIND, **content, "generator": stream_state()})

    def resume(self, streams: Sequence[str]) -> list[list[list[Tensor]]]:
        """The statistics of the streams that are finished, up to the first that is not; random numbers go on after them.

        Args:
            streams: the digest of each stream.

        Raises:
            ValueError: a file is damaged, or of another evaluation.
        """
        found = []
        for index, stream in enumerate(streams):
            if not self._path(index).exists():
                break
            content = read(self._path(index), _KIND, "settings", "stream", "tables", "generator")
            self._check(content, index, stream)
            found.append(content["tables"])
            set_stream_state(content["generator"])
        return found

    def _check(self, content: Mapping[str, Any], index: int, stream: str) -> None:
        theirs = content["settings"]
        for name in self.settings | theirs:
            if self.settings.get(name) != theirs.get(name):
                raise ValueError(
                    f"checkpoint: expected the evaluation of {self.folder} to go on, whose {name} is {theirs.get(name)!r}, got "
                    f"{self.settings.get(name)!r}; use the same learner and settings, or another folder"
                )
        if content["stream"] != stream:
            raise ValueError(
                f"checkpoint: expected the streams of the evaluation of {self.folder}, got others, whose number {index} differs; "
                "use the same streams, which depend on their index alone, or another folder"
            )


def settings_of(learner: Any, metrics: Sequence[Metric], **settings: Any) -> dict[str, Any]:
    """What decides the figures of an evaluation, as numbers and texts by name.

    Functions are described by their names alone; a method, such as the oracle of tasks, by what it is a method of too.
    """
    described: dict[str, Any] = {"learner": getattr(learner, "__qualname__", type(learner).__name__)}
    owner = getattr(learner, "__self__", None)
    says: Any = type(owner).__repr__
    if owner is not None and says is not object.__repr__:  # which would say where it is in memory
        described["object"] = repr(owner)
    if isinstance(learner, nn.Module):
        described = describe(learner) | {"checksum of the weights": digest(learner.state_dict())}
        described.pop(MODES, None)  # evaluations are in evaluation mode
    described["metrics"] = ", ".join(metric.name for metric in metrics)
    for metric in metrics:
        described |= {f"metric {metric.name}": type(metric).__name__} | plain(f"metric {metric.name}", vars(metric))
    for name, value in settings.items():
        described |= plain(name, value)
    return described
