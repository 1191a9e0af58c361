"""Few-shot slot filling: each intent is a task, whose points are sentences with a label for each word.

A label is a slot's number, 0 for words of none. What a slot is called says something of it before any sentence does, as in Bapna,
Tür, Hakkani-Tür & Heck 2017, "Towards Zero-Shot Frame Semantic Parsing for Domain Scaling", https://arxiv.org/abs/1707.02363.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor

from bayesmeta.border import check_count, check_function
from bayesmeta.data import Episode, Points
from bayesmeta.tasks.slot_files import Tagged
from bayesmeta.tasks.source import TaskSource, uniform

__all__ = ["SlotTasks", "slot_names", "slot_points"]


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
        named: whether the support shows the names of the task's slots too, after its sentences: a row for each, its `slot_names`.
            Learners are so told of slots that no sentence of the support shows.
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
        named: bool = False,
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
        self.known, self.hidden = _named(known, "known"), hidden
        if len(set(self.known)) < len(self.known):
            raise ValueError(f"known: expected different names, got {self.known}; name each slot once")
        if not isinstance(sentences, Mapping) or not sentences:
            raise ValueError(
                f"sentences: expected a dictionary of intents, got {type(sentences).__name__}"
                f'{" of none" if isinstance(sentences, Mapping) else ""}; write {{"book": [(words, slots)]}}'
            )
        check_function("encode", encode, "from words to a row for each, such as bm.tasks.spelled")
        if batch > len(sentences):
            raise ValueError(f"batch: expected at most the {len(sentences)} intents that there are, got {batch}")
        self.intents = list(sentences)
        self.batch, self.shots, self.queries = batch, shots, queries
        if not (isinstance(hidden, Real) and 0 <= hidden <= 1):
            raise ValueError(f"hidden: expected a probability from 0 to 1, got {hidden!r}; e.g. 0.5")
        self.slots: dict[str, list[str]] = {}
        """Of each intent the names of its slots."""
        self._words: dict[str, list[Tensor]] = {}
        self._labels: dict[str, list[Tensor]] = {}
        self._names: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for intent, given in sentences.items():
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise ValueError(
                    f"sentences of {intent!r}: expected a list of (words, slots), got {type(given).__name__}; make it a list"
                )
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
            self._names[intent] = [
                (_read(encode, words), torch.tensor([number[slot] for slot in slots]))
                for words, slots in (slot_names(names) if named else ())
            ]
            self._words[intent] = [_read(encode, words) for words, _ in given]
            self._labels[intent] = [torch.tensor([number[slot] for slot in slots]) for _, slots in given]
        read = [
            *(rows for part in self._words.values() for rows in part),
            *(r for p in self._names.values() for r, _ in p),
        ]
        forms = {f"{rows.dtype} (words, {', '.join(map(str, rows.shape[1:]))})" for rows in read}
        if len(forms) > 1:
            raise ValueError(
                f"encode: expected rows of one type and shape for all words, got {' and '.join(sorted(forms))}"
            )
        new = [sum(bool(hidden > 0) or name not in self.known for name in names) for names in self.slots.values()]
        least = 1 + len(self.known) + max(new)
        if labels is not None:
            check_count("labels", labels)
        self.labels: int = least if labels is None else int(labels)
        """W, labels of the learner, 0 among them."""
        if self.labels < least:
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
        support: list[list[tuple[Tensor, Tensor]]] = []
        query: list[list[tuple[Tensor, Tensor]]] = []
        for task in self._chosen(generator).tolist():
            intent = self.intents[task]
            rows = torch.randperm(len(self._words[intent]), generator=generator)[: self.shots + self.queries].tolist()
            numbers = self._numbers(self.slots[intent], generator)
            told = [(self._words[intent][row], numbers[self._labels[intent][row]]) for row in rows]
            names = [(words, numbers[labels]) for words, labels in self._names[intent]]
            support.append([*told[: self.shots], *names])
            query.append(told[self.shots :])
        longest = max(len(labels) for task in (*support, *query) for _, labels in task)
        return Episode(_points(support, longest), _points(query, longest))

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


def slot_points(sentences: Sequence[Tagged], slots: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Points:
    """One task's sentences with their slots as numbers, filled up to the longest, as learners of `SlotTasks` take them.

    x is ``(1, N, T, *X)``, y ``(1, N, T)``, and the mask is of y's shape: true for the words that there are.

    Args:
        sentences: N of them, words and slots; with `slot_names` among them, what slots are called.
        slots: their names, numbered from 1 in this order: known ones first, as in training.
        encode: what the network reads of each word, as in training.

    Raises:
        ValueError: there is no sentence, one has no word or another slot, or a name comes twice.

    Example:
        >>> told = slot_points([(["to", "Rome"], [None, "city"]), (["Oslo"], ["city"])], ["city"], spelled)
        >>> told.y, told.mask
        (tensor([[[0, 1],
                 [1, 0]]]), tensor([[[ True,  True],
                 [ True, False]]]))
    """
    if not len(sentences):
        raise ValueError("sentences: expected one at least, got none; give some, or slot_names")
    if isinstance(slots, str) or len(set(slots)) != len(slots):
        raise ValueError(f"slots: expected a list of names, each once, got {slots!r}")
    number: dict[str | None, int] = {None: 0, **{name: k for k, name in enumerate(slots, 1)}}
    rows = []
    for place, sentence in enumerate(sentences):
        _check_tagged(sentence, "sentences", place)
        words, marked = sentence
        if not number.keys() >= set(marked):
            raise ValueError(
                f"sentences: expected slots among {list(slots)}, got {list(marked)} at {place}; name all of them in slots"
            )
        rows.append((_read(encode, words), torch.tensor([number[slot] for slot in marked])))
    return _points([rows], max(len(labels) for _, labels in rows))


def _check_tagged(sentence: Tagged, name: str, place: int) -> None:
    pair = isinstance(sentence, Sequence) and not isinstance(sentence, str) and len(sentence) == 2
    if not pair or not all(isinstance(part, Sequence) and not isinstance(part, str) for part in sentence):
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
    rows = encode(list(words))
    if isinstance(rows, Tensor) and not rows.isfinite().all():
        raise ValueError(f"encode: expected finite numbers, got NaN or infinity for {list(words)}; look at its vectors")
    if not isinstance(rows, Tensor) or rows.shape[:1] != (len(words),) or rows.is_complex():
        got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"encode: expected a tensor with a row for each word, {len(words)} of them, got {got}; e.g. bm.tasks.spelled"
        )
    return rows.detach()


def _points(tasks: Sequence[Sequence[tuple[Tensor, Tensor]]], longest: int) -> Points:
    """Words and labels of each task's sentences, of which tasks may have unequally many."""
    most = max(map(len, tasks))
    none = tuple(part[:0] for part in tasks[0][0])
    rows = [[*task, *[none] * (most - len(task))] for task in tasks]
    x, y, mask = (
        torch.stack([torch.stack([_padded(row, longest) for row in task]) for task in part])
        for part in (
            [[words for words, _ in task] for task in rows],
            [[labels for _, labels in task] for task in rows],
            [[torch.ones_like(labels, dtype=torch.bool) for _, labels in task] for task in rows],
        )
    )
    return Points(x, y, mask)


def _padded(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])


def _named(names: Any, what: str) -> list[str]:
    """Slots' names as a list; refused by the argument's name if they are none."""
    if isinstance(names, (str, bytes)):
        raise ValueError(f"{what}: expected a list of slots' names, got one name, {names!r}; write [{names!r}]")
    given = list(names) if isinstance(names, Iterable) else [names]
    for name in given:
        if not isinstance(name, str):
            raise ValueError(f"{what}: expected a list of slots' names, got {name!r}; write them as text, ['city']")
    return given


def slot_names(names: Sequence[str]) -> list[Tagged]:
    """What slots are called, as sentences: "=" and the words of the name, which have the slot.

    Names are split at low lines and before capitals.

    Raises:
        ValueError: it is one name, not a list of them; or a name has no letter.

    Example:
        >>> slot_names(["movie_name"])
        [(['=', 'movie', 'name'], [None, 'movie_name', 'movie_name'])]
    """
    found: list[Tagged] = []
    for name in _named(names, "names"):
        words = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])|[\W_]+", " ", name).casefold().split()
        if not words:
            raise ValueError(f"names: expected slots' names of words, got {name!r}; name it in letters")
        found.append((["=", *words], [None, *[name] * len(words)]))
    return found
