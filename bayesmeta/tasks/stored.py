"""Tables that no memory holds, as a task source: rows on disk, of which an episode reads its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesmeta.border import as_tensor, check_count, check_values
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.source import TaskSource, shots_per_task

__all__ = ["StoredTasks", "store_tasks"]

_FORMAT = 1
_ABOUT = "about.json"


def store_tasks(
    folder: str | os.PathLike[str], parts: Iterable[tuple[Any, Any, Any]], *, progress: bool = True
) -> None:
    """Writes a table as `StoredTasks` reads it, part by part: no more than a part is ever in memory, and a number a task.

    The folder appears when all is written; what an interrupted call leaves ends in ``.writing``, and the next writes over it.

    Args:
        folder: a new one.
        parts: x ``(rows, D)``, y ``(rows, Y)`` and task ids ``(rows,)``, as often as there are parts. Rows of a task stand
            together, in the order of time if they have one, and may go on in the next part.
        progress: shows a bar of rows.

    Raises:
        FileExistsError: there is such a folder.
        ValueError: a task's rows do not stand together, parts differ in features or targets, a value is not finite, or there is
            no row.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "curves"
        >>> rows = torch.arange(12.0)
        >>> store_tasks(folder, [(rows, rows**2, [0] * 5 + [1] * 7)], progress=False)
        >>> StoredTasks(folder, batch=2, shots=2, queries=3)[0].query.y.shape
        torch.Size([2, 3, 1])
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder: expected a new one, got {folder}, which exists; remove it, or name another")
    fresh = folder.with_name(f"{folder.name}.writing")
    fresh.mkdir(parents=True, exist_ok=True)
    starts, names, sizes, rows = [], set(), None, 0
    last: Any = None
    bar = tqdm(unit=" rows", unit_scale=True, disable=not progress)
    with (fresh / "x").open("wb") as xs, (fresh / "y").open("wb") as ys, bar:
        for number, (x, y, ids) in enumerate(parts):
            values = [_columns(part, f"parts[{number}].{name}") for name, part in (("x", x), ("y", y))]
            ids = np.asarray(ids)
            if ids.ndim != 1 or not len(ids) == len(values[0]) == len(values[1]):
                raise ValueError(
                    f"parts[{number}]: expected as many rows of x and y as task ids, got {len(values[0])}, {len(values[1])} and "
                    f"{ids.shape}; give every row an input, a target and a task id"
                )
            sizes = sizes or [part.shape[1] for part in values]
            if sizes != [part.shape[1] for part in values]:
                raise ValueError(
                    f"parts[{number}]: expected {sizes[0]} features and {sizes[1]} targets as before, got "
                    f"{values[0].shape[1]} and {values[1].shape[1]}; give all parts the same columns"
                )
            first = np.flatnonzero(ids[1:] != ids[:-1]) + 1
            for place in [0, *first.tolist()] if len(ids) else []:
                task = ids[place].item()
                if place == 0 and rows and task == last:
                    continue
                if task in names:
                    raise ValueError(
                        f"parts[{number}]: expected the rows of a task to stand together, got task {task!r} again in row "
                        f"{place}; sort the table by task"
                    )
                names.add(task)
                starts.append(rows + place)
            last, rows = ids[-1].item() if len(ids) else last, rows + len(ids)
            for file, part in zip((xs, ys), values, strict=True):
                file.write(part.numpy().tobytes())
            bar.update(len(ids))
    if not rows or sizes is None:
        raise ValueError("parts: expected rows, got none; check how they were read")
    np.asarray([*starts, rows], dtype=np.int64).tofile(fresh / "starts")
    about = {"format": _FORMAT, "rows": rows, "tasks": len(starts), "features": sizes[0], "targets": sizes[1]}
    (fresh / _ABOUT).write_text(json.dumps(about))
    fresh.rename(folder)


def _columns(values: Any, name: str) -> Tensor:
    """Finite numbers ``(rows, n)``, float32."""
    rows = as_tensor(values, name).detach().cpu()
    rows = rows[:, None] if rows.dim() == 1 else rows
    if rows.dim() != 2:
        raise ValueError(f"{name}: expected numbers (rows, columns), got {tuple(rows.shape)}; flatten them")
    rows = rows.to(torch.float32)
    check_values(rows[None], name)
    return rows.contiguous()


@final
class StoredTasks(TaskSource):
    """Episodes from a table on disk, of millions of tasks: an episode reads the rows that it holds, and no others.

    Its tasks are drawn without replacement, and each task's rows divided anew, at random or in their order. Memory grows with the
    episode, and with the rows of its longest task (4 bytes a row and task). The files must stay as they are meanwhile.

    Args:
        folder: what `store_tasks` wrote.
        batch: B, tasks in an episode.
        shots: support points a task, or a range (low, high) from which each task's number is drawn, lowered where a task has too
            few points to leave one for the query. Tasks of one row are not drawn.
        queries: M, query points a task at most.
        ordered: whether the support are a task's first rows and the query the next ones, for forecasts.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is of another version, or its files are not as long as it says; there are fewer tasks than a batch, or a
            number is out of range.
        RuntimeError: at an episode, where the files have changed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        batch: int = 25,
        shots: int | tuple[int, int] = 5,
        queries: int = 15,
        ordered: bool = False,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        check_count("batch", batch)
        check_count("queries", queries)
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        self.folder, self.batch, self.shots, self.queries, self.ordered = Path(folder), batch, shots, queries, ordered
        self._open()
        self.most = int((self._starts[1:] - self._starts[:-1]).max())
        """The rows of the longest task."""
        enough = int((self._starts[1:] - self._starts[:-1] > 1).sum())
        if batch > enough:
            raise ValueError(f"batch: expected at most the {enough} tasks of two rows and more, got {batch}; lower it")

    def _open(self) -> None:
        about = self.folder / _ABOUT
        if not about.is_file():
            raise FileNotFoundError(
                f"folder: expected what store_tasks writes, got {self.folder}, without {_ABOUT}; write it anew"
            )
        said = json.loads(about.read_text())
        if said.get("format") != _FORMAT:
            raise ValueError(
                f"folder: expected a table of format {_FORMAT}, got {said.get('format')!r}, of another version; write it anew"
            )
        shapes = {
            "x": (said["rows"], said["features"]),
            "y": (said["rows"], said["targets"]),
            "starts": (said["tasks"] + 1,),
        }
        for name, shape in shapes.items():
            dtype, file = np.dtype(np.int64 if name == "starts" else np.float32), self.folder / name
            wanted, got = int(np.prod(shape)) * dtype.itemsize, file.stat().st_size if file.is_file() else 0
            if wanted != got:
                raise ValueError(
                    f"folder: expected {wanted} bytes in {file}, got {got}; it is cut off or of another table: write it anew"
                )
            setattr(self, f"_{name}", np.memmap(file, dtype, "r", shape=shape))
        self._stamp = self._seen()

    def _seen(self) -> list[tuple[int, int]]:
        found = ((self.folder / name).stat() for name in (_ABOUT, "x", "y", "starts"))
        return [(file.st_size, file.st_mtime_ns) for file in found]

    _x: Any
    _y: Any
    _starts: Any

    def __getstate__(self) -> dict[str, Any]:  # a process of a loader opens the files itself
        return {name: value for name, value in self.__dict__.items() if name not in ("_x", "_y", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stamp = state["_stamp"]
        self.__dict__.update(state)
        self._open()
        self._stamp = stamp

    def members(self, index: int) -> Tensor:
        return self._chosen(self._generator(index))

    def _chosen(self, generator: torch.Generator) -> Tensor:
        """B numbers of different tasks of two rows and more."""
        found = torch.zeros(0, dtype=torch.long, device="cpu")
        tasks = len(self._starts) - 1
        for _ in count():  # as good as never a second time where tasks are many
            more = torch.randint(tasks, (2 * self.batch,), generator=generator, device="cpu")
            long = torch.from_numpy(self._starts[more + 1] - self._starts[more] > 1)
            found = torch.cat([found, more[long]])
            once = np.unique(found.numpy(), return_index=True)[1]
            if len(once) >= self.batch:
                return found[np.sort(once)][: self.batch]
        raise AssertionError

    def draw(self, generator: torch.Generator) -> Episode:
        if self._seen() != self._stamp:
            raise RuntimeError(
                f"folder: expected the files of {self.folder} as they were when it was opened, got others; build StoredTasks anew"
            )
        chosen = self._chosen(generator).numpy()
        first = self._starts[chosen]
        rows = torch.from_numpy(self._starts[chosen + 1] - first)  # (B,)
        shots = shots_per_task(self.shots, len(chosen), generator).minimum(rows - 1)
        queries = (rows - shots).clamp(max=self.queries)
        keys = torch.arange(int(rows.max()), dtype=torch.float32).expand(len(chosen), -1)
        if not self.ordered:
            keys = torch.rand(keys.shape, generator=generator)
        keys = keys.masked_fill(torch.arange(keys.shape[1]) >= rows[:, None], torch.inf)
        order = keys.topk(int((shots + queries).max()), largest=False, sorted=True).indices
        support = self._points(first, order, torch.zeros_like(shots), shots)
        return Episode(support, self._points(first, order, shots, queries))

    def _points(self, first: Any, order: Tensor, start: Tensor, counts: Tensor) -> Points:
        """So many of each task's rows in this order, from the start-th on."""
        places = torch.arange(max(1, int(counts.max())))
        mask = places < counts[:, None]
        picked = order.gather(1, (start[:, None] + places).clamp(max=order.shape[1] - 1))
        at = np.where(mask.numpy(), first[:, None] + picked.numpy(), first[:, None])
        x, y = (torch.from_numpy(table[at]) * mask[..., None] for table in (self._x, self._y))
        dtype = torch.get_default_dtype()
        return Points(x.to(dtype), y.to(dtype), mask)
