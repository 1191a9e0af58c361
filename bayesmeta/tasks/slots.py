"""Few-shot slot filling: each intent is a task, whose points are sentences with a label for each word.

Coucke et al. 2018, "Snips Voice Platform", https://arxiv.org/abs/1805.10190, section 5 (the sentences of seven intents). Words
are what stands between spaces, and each punctuation mark by itself. A label is a slot's number, 0 for words of none.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.source import TaskSource, uniform

__all__ = ["SlotTasks", "Tagged", "slot_file", "snips", "spelled"]

Tagged: TypeAlias = tuple[Sequence[str], Sequence[str | None]]
"""A sentence's words, and of each the slot that it fills, None for none."""


@final
class SlotTasks(TaskSource):
    """Intents as tasks: sentences whose slots are marked to learn from, and others to be judged on.

    An episode's y are labels ``(B, N, T)`` in sentences filled up to T words, with a mask of that shape. Slots that intents
    share, such as a city, may be `known`: they have the same number in all tasks. The others of a task have numbers
    above, in an order that each episode draws anew, so that these mean nothing beyond the task. Slots that the support does not
    show may be asked about.

    Args:
        sentences: of each intent its sentences: of `snips`, `slot_file`, or your own.
        encode: from a sentence's words to what the network reads of each: ``(words, *X)``, floating or whole; e.g. `spelled`.
        known: names of slots whose numbers are 1, 2, ... in all tasks, whether or not intents here have them.
        hidden: with which probability a known slot of a task is numbered as if it were not known, so that learners meet new
            slots in training too.
        labels: W, of the learner, 0 and the known ones among them, beside as many as an intent has slots. None for as many as
            the intents here need.
        batch: B, intents in an episode, drawn without replacement.
        shots: sentences to learn from.
        queries: sentences to be judged on.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: an intent has too few sentences or too many slots, a sentence has no word, or not as many slots as words; or
            an argument is out of range; or a word or slot is no text, a slot is O, or `encode` has not a row for each word.

    Example:
        >>> booking = [(["a", "table", "in", "Rome"], [None, None, None, "city"]), (["Oslo", "please"], ["city", None])]
        >>> episode = SlotTasks({"book": booking}, spelled, batch=1, shots=1, queries=1)[0]
        >>> sorted(episode.support.y.unique().tolist()), episode.support.x.shape[-1]
        ([0, 1], 12)
    """

    def __init__(
        self,
        sentences: Mapping[str, Sequence[Tagged]],
        encode: Callable[[Sequence[str]], Tensor],
        *,
        known: Sequence[str] = (),
        hidden: float = 0.0,
        labels: int | None = None,
        batch: int = 2,
        shots: int = 5,
        queries: int = 15,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        for name, value in (("batch", batch), ("shots", shots), ("queries", queries)):
            check_count(name, value)
        if isinstance(known, str):
            raise ValueError(f"known: expected a list of slots' names, got one name, {known!r}; write [{known!r}]")
        if not isinstance(sentences, Mapping):
            raise ValueError(
                f'sentences: expected a dictionary of intents, got {type(sentences).__name__}; write {{"book": [(words, slots)]}}'
            )
        if batch > len(sentences):
            raise ValueError(f"batch: expected at most the {len(sentences)} intents that there are, got {batch}")
        self.intents = list(sentences)
        self.batch, self.shots, self.queries = batch, shots, queries
        if not (isinstance(hidden, int | float) and 0 <= hidden <= 1):
            raise ValueError(f"hidden: expected a probability from 0 to 1, got {hidden!r}; e.g. 0.5")
        self.known, self.hidden = list(known), hidden
        self.slots: dict[str, list[str]] = {}
        """Of each intent the names of its slots."""
        self._words: dict[str, list[Tensor]] = {}
        self._labels: dict[str, list[Tensor]] = {}
        for intent, given in sentences.items():
            if len(given) < shots + queries:
                raise ValueError(
                    f"shots and queries: expected no more than each intent has sentences, got {shots} and {queries} of the "
                    f"{len(given)} of {intent!r}; lower them, or leave the intent out"
                )
            for place, sentence in enumerate(given):
                _check_tagged(sentence, f"sentences of {intent!r}", place)
            names = sorted({slot for _, slots in given for slot in slots if slot is not None})
            number: dict[str | None, int] = {None: 0, **{name: k for k, name in enumerate(names, 1)}}
            self.slots[intent] = names
            self._words[intent] = [_read(encode, words) for words, _ in given]
            self._labels[intent] = [torch.tensor([number[slot] for slot in slots]) for _, slots in given]
        new = [sum(hidden > 0 or name not in self.known for name in names) for names in self.slots.values()]
        least = 1 + len(self.known) + max(new)
        self.labels = least if labels is None else labels
        """W, labels of the learner, 0 among them."""
        if not isinstance(self.labels, int) or self.labels < least:
            raise ValueError(
                f"labels: expected at least {least}, for 0, {len(self.known)} known slots and {max(new)} others of an intent, "
                f"got {labels!r}; raise it, or leave it out"
            )

    def members(self, index: int) -> Tensor:
        return self._chosen(self._generator(index))

    def _chosen(self, generator: torch.Generator) -> Tensor:
        with torch.device("cpu"):
            return torch.randperm(len(self.intents), generator=generator)[: self.batch]

    def draw(self, generator: torch.Generator) -> Episode:
        words: list[list[Tensor]] = []
        labels: list[list[Tensor]] = []
        for task in self._chosen(generator).tolist():
            intent = self.intents[task]
            rows = torch.randperm(len(self._words[intent]), generator=generator)[: self.shots + self.queries].tolist()
            numbers = self._numbers(self.slots[intent], generator)
            words.append([self._words[intent][row] for row in rows])
            labels.append([numbers[self._labels[intent][row]] for row in rows])
        longest = max(len(row) for task in labels for row in task)
        x, y, mask = (
            torch.stack([torch.stack([_padded(row, longest) for row in task]) for task in part])
            for part in (words, labels, [[torch.ones_like(row, dtype=torch.bool) for row in task] for task in labels])
        )
        return Episode(
            *(Points(x[:, part], y[:, part], mask[:, part]) for part in (slice(self.shots), slice(self.shots, None)))
        )

    def _numbers(self, names: Sequence[str], generator: torch.Generator) -> Tensor:
        """The labels of no slot and of an intent's slots in an episode."""
        above = 1 + len(self.known)
        new = (above + torch.randperm(self.labels - above, generator=generator)).tolist()
        shown = (uniform(len(names), generator=generator) >= self.hidden).tolist()
        return torch.tensor(
            [0]
            + [
                1 + self.known.index(name) if seen and name in self.known else new.pop()
                for name, seen in zip(names, shown, strict=True)
            ]
        )


def _check_tagged(sentence: Tagged, name: str, place: int) -> None:
    if isinstance(sentence, str) or len(sentence) != 2 or isinstance(sentence[0], str):
        raise ValueError(
            f"{name}: expected a list of words and one of their slots, got {sentence!r} at {place}; split the sentence into words"
        )
    words, slots = sentence
    if not words or len(words) != len(slots):
        raise ValueError(
            f"{name}: expected a slot or None for each word, got {len(slots)} for {len(words)} words at {place}; leave out empty "
            "sentences"
        )
    for word in words:
        if not isinstance(word, str) or not word:
            raise ValueError(f"{name}: expected words, got {word!r} at {place}; leave it out, and its slot")
    for slot in slots:
        if slot is not None and (not isinstance(slot, str) or slot in ("", "O")):
            raise ValueError(
                f"{name}: expected slots' names, and None for none, got {slot!r} at {place}; name it, or write None"
            )


def _read(encode: Callable[[Sequence[str]], Tensor], words: Sequence[str]) -> Tensor:
    rows = encode(words)
    if not isinstance(rows, Tensor) or rows.shape[:1] != (len(words),):
        got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"encode: expected a tensor with a row for each word, {len(words)} of them, got {got}; e.g. bm.tasks.spelled"
        )
    return rows


def _padded(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])


_PIECES, _TABLE = 12, 2048


def spelled(words: Sequence[str]) -> Tensor:
    """Each word as 12 whole numbers from 1 to 2047: hashes of itself, of its shape, and of its first and last letters; 0 is none.

    Words that were never seen so share numbers with words that look like them. Give an embedding 2,048 rows.

    Raises:
        ValueError: it is one word, not a list of them.

    Example:
        >>> spelled(["Rome", "Roma"]).shape
        torch.Size([2, 12])
    """
    if isinstance(words, str):
        raise ValueError(f"words: expected a list of words, got one text, {words!r}; write {words!r}.split()")
    return torch.tensor([[1 + _hash(piece) % (_TABLE - 1) for piece in _pieces(word)] for word in words])


def _pieces(word: str) -> list[str]:
    low = word.casefold()
    shape = re.sub(
        r"(.)\1+", r"\1", re.sub(r"[^\W\d_]", lambda m: "A" if m[0].isupper() else "a", re.sub(r"\d", "0", word))
    )
    middle = [low[k : k + 3] for k in range(1, 4)]
    pieces = [low, shape, str(min(len(low), 12)), low[:1], low[:2], low[:3], low[-1:], low[-2:], low[-3:], *middle]
    return [f"{kind}:{piece}" for kind, piece in enumerate(pieces)][:_PIECES]


def _hash(text: str) -> int:
    """FNV-1a, which is the same in every process."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value


def snips(root: str | os.PathLike[str] | None = None) -> dict[str, list[Tagged]]:
    """SNIPS: some 2,000 sentences of each of seven intents, with two to fourteen slots.

    Args:
        root: the folder of ``snips.json.gz``; None for ``snips_slots`` in the folder that the variable BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: the file is not there.

    Example:
        >>> tasks = SlotTasks(snips(), spelled)  # doctest: +SKIP
    """
    named = os.environ.get("BAYESMETA_DATA")
    path = (Path(root) if root is not None else Path(named or ".") / "snips_slots") / "snips.json.gz"
    if not path.exists():
        raise FileNotFoundError(
            f"root: expected {path.name} in {path.parent}, found none; pass the folder that holds it, or set BAYESMETA_DATA to "
            "the folder of snips_slots. Its sentences are those of github.com/snipsco/nlu-benchmark, "
            "2017-06-custom-intent-engines"
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pack = json.load(file)
    return {intent: [_tagged(one) for one in parts["train"] + parts["valid"]] for intent, parts in pack.items()}


def _tagged(pieces: Sequence[tuple[str, str | None]]) -> Tagged:
    words = [(word, slot) for text, slot in pieces for word in re.findall(r"\w+|[^\w\s]", text)]
    return [word for word, _ in words], [slot for _, slot in words]


def slot_file(path: str | os.PathLike[str]) -> dict[str, list[Tagged]]:
    """Sentences from a text file: a line ``# intent`` before those of an intent, then a word a line, a tab and its slot.

    A word without a slot stands alone, or beside O. An empty line ends a sentence.

    Raises:
        ValueError: a sentence stands before any intent, or a line has more than two columns; the message says which.

    Example:
        >>> sentences = slot_file("slots.tsv")  # doctest: +SKIP
    """
    found: dict[str, list[Tagged]] = {}
    intent, words, slots = None, list[str](), list[str | None]()
    for number, line in enumerate([*Path(path).read_text(encoding="utf-8-sig").split("\n"), ""], 1):
        columns = line.rstrip().split("\t")
        if line.startswith("# "):
            if words:
                raise ValueError(f"{path}, line {number}: expected an empty line before {line!r}, got none; add one")
            intent = line[2:].strip()
            found.setdefault(intent, [])
        elif not line.strip():
            if words and intent is not None:
                found[intent].append((words, slots))
            words, slots = [], []
        elif intent is None or len(columns) > 2 or not columns[0]:
            raise ValueError(
                f"{path}, line {number}: expected a word, a tab and its slot, below a line '# intent', got {line!r}; "
                "see slot_file"
            )
        else:
            words.append(columns[0])
            slots.append(columns[1] if len(columns) == 2 and columns[1] not in ("", "O") else None)
    return found
