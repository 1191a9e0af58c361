"""Few-shot classification of anything that has labels: vectors, texts as token ids, pictures, or trees of these.

Shape letter here: n rows of data, each with one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.border import as_inputs, as_tensor, check_count, check_values
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.source import TaskSource, uniform

__all__ = ["ClassTasks"]

Labels = Sequence[int] | Sequence[str] | Tensor | np.ndarray[Any, Any]


class ClassTasks(TaskSource):
    """W-way K-shot tasks from labelled data: each task has classes and rows of its own choice.

    Within a task classes are numbered 0 to W - 1 in an order drawn for it. Data stay on their device, and so are the episodes.

    With `outside` the query also holds rows of classes that the task has not, labelled W, to see whether a learner knows what it
    was not taught. A learner needs W + 1 classes for them: a network of W + 1 outputs (`MAML(network, Categorical())` and its
    kin), or ``classes=W + 1``. The support has none of them, so what such a learner says of label W it learns from other tasks'
    queries. Learners of W classes refuse the label; train
    and evaluate them without `outside`, and compare their doubt about both kinds of queries by `decompose` and `auroc`.

    Args:
        x: inputs, ``(n, *X)``, as an array, tensor or list; or a dictionary of such, nested as deep as one likes.
        labels: ``(n,)`` whole numbers or strings: the class of each row.
        subset: the labels that take part, None for all: hold classes out for validation and test.
        ways: W, classes a task.
        shots: K, support rows a class.
        queries: query rows a class.
        outside: query rows a task from classes that it has not, labelled W; from as many such classes as can be.
        batch: B, tasks in an episode.
        whole: whether whole numbers in x stay what they are (``torch.long``), as token ids must; else they become floating.
        dtype: floating type of x; torch's default type at this call if None.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: shapes or types that do not fit, NaN or infinity, a subset of labels that are not there, fewer classes than
            ways (one more with `outside`), a class of fewer rows than shots + queries, or too few rows for `outside`.

    Example:
        >>> tokens, topics = torch.randint(100, (60, 12)), ["sport", "law", "art", "food", "music", "war"] * 10
        >>> tasks = ClassTasks(tokens, topics, ways=3, shots=1, queries=4, outside=2, batch=2, whole=True)
        >>> tasks[0].support.x.shape, tasks[0].support.x.dtype, tasks[0].query.y.shape
        (torch.Size([2, 3, 12]), torch.int64, torch.Size([2, 14]))
        >>> tasks[0].query.y[0, -2:]
        tensor([3, 3])
    """

    _rows = "rows"
    _turns = 1
    """How many classes each label stands for."""

    def __init__(
        self,
        x: Any,
        labels: Labels,
        *,
        subset: Labels | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        outside: int = 0,
        batch: int = 4,
        whole: bool = False,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        self.x = self._read(x, whole, dtype or torch.get_default_dtype())
        names = read_labels("labels", labels)
        for leaf in tree_leaves(self.x):
            if leaf.shape[:1] != names.shape or names.ndim != 1:
                raise ValueError(
                    f"x and labels: expected (n, *X) and (n,), got {tuple(leaf.shape)} and {names.shape}; give every "
                    "row one label"
                )
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("batch", batch)):
            check_count(name, value)
        check_count("outside", outside, least=0)
        there = np.ones(len(names), bool) if subset is None else _members(names, subset)
        places = torch.from_numpy(there.nonzero()[0])
        self.names, codes = np.unique(names[there], return_inverse=True)
        self._counts = torch.from_numpy(np.bincount(codes))
        self.classes = len(self.names) * self._turns
        if self.classes < ways + bool(outside):
            there_are = f"{self.classes} classes there are" + (", less one for outside" if outside else "")
            raise ValueError(f"ways: expected at most the {there_are}, got {ways}; ask for fewer, or add classes")
        fewest = int(self._counts.min())
        smallest = self.names[int(self._counts.argmin())]
        if fewest < shots + queries:
            raise ValueError(
                f"shots and queries: expected at most {fewest} together, the {self._rows} of class {smallest}, got "
                f"{shots} + {queries}; ask for fewer, or leave that class out"
            )
        self._others = min(
            outside, self.classes - ways
        )  # classes outside, of which each gives as many rows, or one more
        if outside > self._others * fewest:
            raise ValueError(
                f"outside: expected at most {self._others * fewest}, the {self._others} other classes times the {fewest} "
                f"{self._rows} of class {smallest}, got {outside}; ask for fewer, or add classes"
            )
        self.ways, self.shots, self.queries, self.outside, self.batch = ways, shots, queries, outside, batch
        self.subset, self.whole = subset, whole
        order = torch.from_numpy(codes).argsort(stable=True)
        parts = places[order].split(self._counts.tolist())
        self._table = pad_sequence(list(parts), batch_first=True)  # (classes, most rows of one): places in x

    def _read(self, x: Any, whole: bool, dtype: torch.dtype) -> Any:
        """The data as they are kept."""
        read = as_inputs(x, whole=whole, dtype=dtype)
        for leaf in tree_leaves(read):
            check_values(leaf[None], "x")
        return read

    def _at(self, places: Tensor, turns: Tensor) -> Any:
        """The inputs of rows at so many places, ``(B, ..., *X)``, of labels turned so often, ``(B, ...)``."""
        return tree_map(lambda leaf: leaf[places.to(leaf.device)], self.x)

    def clusters(self, index: int) -> Tensor:
        """The classes that each task is made of, ``(B, W)``: tasks that share one are not independent. Turned classes are one."""
        return self._chosen(self._generator(index))[:, : self.ways] % len(self._table)

    def _chosen(self, generator: torch.Generator) -> Tensor:
        """The classes of each task, and then those outside."""
        return uniform(self.batch, self.classes, generator=generator).topk(self.ways + self._others).indices

    def _drawn(self, chosen: Tensor, count: int, generator: torch.Generator) -> Any:
        """So many different rows of each class ``(B, C)``: inputs ``(B, C, count, *X)``."""
        one, turns = chosen % len(self._table), chosen // len(self._table)
        lots = uniform(*chosen.shape, self._table.shape[1], generator=generator)
        lots[torch.arange(lots.shape[-1]) >= self._counts[one][..., None]] = -1.0  # padding is drawn last
        return self._at(self._table[one].gather(-1, lots.topk(count).indices), turns)

    def draw(self, generator: torch.Generator) -> Episode:
        return self.of_classes(self._chosen(generator), generator)

    def of_classes(self, chosen: Tensor, generator: torch.Generator) -> Episode:
        """Tasks of these classes, ``(B, W)`` numbers of `names`, and of those outside after them; their rows are drawn."""
        x = self._drawn(chosen[:, : self.ways], self.shots + self.queries, generator)
        device = tree_leaves(x)[0].device
        y = torch.arange(self.ways, device=device)[:, None].expand(self.batch, -1, self.shots + self.queries)
        support, query = (
            (tree_map(lambda leaf, part=part: leaf[:, :, part].flatten(1, 2), x), y[..., part].flatten(1))
            for part in (slice(self.shots), slice(self.shots, None))
        )
        if self.outside:
            each = -(-self.outside // self._others)
            other = self._drawn(chosen[:, self.ways :], each, generator)
            other = tree_map(
                lambda leaf: leaf.transpose(1, 2).flatten(1, 2)[:, : self.outside], other
            )  # class by class
            strange = query[1].new_full((self.batch, self.outside), self.ways)
            query = tree_map(lambda *parts: torch.cat(parts, 1), query, (other, strange))
        parts = (Points(x, y, torch.ones_like(y, dtype=torch.bool)) for x, y in (support, query))
        return Episode(*parts)


def read_labels(name: str, labels: Any) -> np.ndarray[Any, Any]:
    """Labels as an array of whole numbers or of strings."""
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        if array.dtype.kind == "O" and array.size and all(isinstance(label, str) for label in array.flat):
            array = array.astype(str)
        if array.dtype.kind == "U":
            return array
    try:
        if isinstance(labels, (list, tuple)) and any(isinstance(one, Tensor) for one in labels):
            raise ValueError("its elements are tensors")
        read = as_tensor(labels, name).cpu()
    except ValueError as error:
        raise ValueError(
            f"{name}: expected whole numbers or strings, got {type(labels).__name__} that does not convert ({error}); number "
            "the classes"
        ) from error
    if (read.is_floating_point() and read.numel()) or read.dtype == torch.bool:
        raise ValueError(f"{name}: expected whole numbers or strings, got {read.dtype}; number the classes")
    return read.long().numpy()


def read_classes(classes: Any, known: Sequence[int], which: str, name: str = "classes") -> list[int]:
    """The numbers of the classes that take part, of those that are known; all if None."""
    chosen = np.asarray(known) if classes is None else read_labels(name, classes)
    strange = [one for one in chosen.flat if one not in known]
    if strange or chosen.ndim != 1 or not chosen.size or len(np.unique(chosen)) < chosen.size:
        raise ValueError(
            f"{name}: expected some of {which}, got {np.asarray(strange or chosen).tolist()}; name those that there are, each "
            "once"
        )
    return [int(one) for one in chosen]


def read_groups(groups: Any, subset: Any, count: int) -> tuple[np.ndarray[Any, Any], Tensor]:
    """The groups' names, and which of them each of so many pictures is of, ``(n,)``; -1 where it takes no part."""
    given = np.zeros(count, int) if groups is None else read_labels("groups", groups)
    if given.shape != (count,):
        raise ValueError(
            f"groups: expected one for each of the {count} pictures, got {given.shape}; name every picture's"
        )
    names, codes = np.unique(given, return_inverse=True)
    chosen = names if subset is None else read_labels("subset", subset)
    absent = [one for one in chosen.flat if one not in names]
    if absent or chosen.ndim != 1 or not chosen.size:
        raise ValueError(
            f"subset: expected some of the groups {names.tolist()}, got {np.asarray(absent or chosen).tolist()}; name those that "
            "there are, in a list"
        )
    return names, torch.from_numpy(codes).masked_fill(~torch.from_numpy(np.isin(given, chosen)), -1)


def _members(names: np.ndarray[Any, Any], subset: Any) -> np.ndarray[Any, Any]:
    """Which rows have one of these labels."""
    chosen = read_labels("subset", subset)
    known = np.unique(names)
    unknown = [one for one in chosen.flat if one not in known]
    if chosen.ndim != 1 or chosen.size == 0 or unknown:
        raise ValueError(
            f"subset: expected some of the labels {known[0]} to {known[-1]}, got {unknown[0] if unknown else subset}; name "
            "labels that there are"
        )
    found: np.ndarray[Any, Any] = np.isin(names, chosen)
    return found
