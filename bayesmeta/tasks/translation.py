"""Few-shot translation: each language is a task, whose points are pairs of sentences.

Gu et al. 2018, "Meta-Learning for Low-Resource Neural Machine Translation", https://arxiv.org/abs/1808.08437; pairs with English
from Tatoeba by Artetxe & Schwenk 2019, https://arxiv.org/abs/1812.10464, appendix B.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor

from bayesmeta.border import check_count, points
from bayesmeta.data import Episode, Points
from bayesmeta.networks.transformer import BEGIN, END, PADDING
from bayesmeta.tasks.arrays import ArrayTasks
from bayesmeta.tasks.source import TaskSource, shots_per_task
from bayesmeta.tasks.tokens import Tokens, filled, read_texts

__all__ = ["Pairs", "TranslationTasks", "pair_file", "tatoeba", "translation_points"]

Pairs: TypeAlias = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Of each language its sentences, and what they are in the other language."""


def translation_points(sources: Sequence[str], targets: Sequence[str], tokens: Tokens) -> Points:
    """One language's pairs of sentences, as learners of a `Transformer` and ``Categorical(event_dims=1)`` take them.

    x is ``{"source": (1, N, L), "prefix": (1, N, T)}``, y the next tokens ``(1, N, T)``, and the mask is of y's shape: true up to
    the end, whose token counts.

    Args:
        sources: N sentences.
        targets: what they are in the other language.
        tokens: the tokenizer of both.

    Raises:
        ValueError: there are not as many of both, or one is empty.

    Example:
        >>> tokens = Tokens.learned(["ein Haus", "a house", "zwei Hunde", "two dogs"], size=280)
        >>> support = translation_points(["ein Haus", "zwei Hunde"], ["a house", "two dogs"], tokens)
        >>> tokens.decode(support.y[0])
        ['a house', 'two dogs']
    """
    return _points({"": _encoded("", sources, targets, tokens)}, tokens)


@final
class TranslationTasks(TaskSource):
    """Languages as tasks: some pairs of sentences to learn from, and others to be judged on.

    Episodes are as `translation_points` has them, filled up to the longest sentence of the episode.

    Args:
        pairs: of each language its sentences and their translations: of `tatoeba`, `pair_file`, or your own.
        tokens: the tokenizer of both.
        longest: pairs with a sentence of more tokens are left out; `left_out` says how many of each language.
        batch: B, languages in an episode; None for all, in their order.
        shots: pairs to learn from, or a range (low, high).
        queries: pairs to be judged on, at most; None for all others.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: a language has not as many sentences as translations, too few for the shots, or an empty one; or an argument
            is out of range.

    Example:
        >>> pairs = {"de": (["ein Haus", "zwei"], ["a house", "two"]), "fr": (["une maison", "oui"], ["a house", "yes"])}
        >>> tokens = Tokens.learned([text for both in pairs.values() for part in both for text in part], size=280)
        >>> episode = TranslationTasks(pairs, tokens, batch=2, shots=1)[0]
        >>> episode.support.y.shape[:2], episode.query.mask.shape == episode.query.y.shape
        (torch.Size([2, 1]), True)
    """

    def __init__(
        self,
        pairs: Pairs,
        tokens: Tokens,
        *,
        longest: int = 48,
        batch: int | None = 4,
        shots: int | tuple[int, int] = 20,
        queries: int | None = 20,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        check_count("longest", longest)
        if not pairs:
            raise ValueError("pairs: expected at least one language, got none; check how they were selected")
        encoded, self.left_out = {}, {}
        if not isinstance(pairs, Mapping):
            raise ValueError(
                f"pairs: expected a dictionary of languages, got {type(pairs).__name__}; write "
                '{"de": (sentences, translations)}'
            )
        for name, both in pairs.items():
            if isinstance(both, str) or len(both) != 2:
                raise ValueError(
                    f"pairs of {name!r}: expected two lists, of sentences and of their translations, got {len(both)} parts; of a "
                    "list of pairs make them by zip(*pairs)"
                )
            every = _encoded(name, *both, tokens)
            encoded[name] = [pair for pair in every if max(len(pair[0]), len(pair[1]) + 1) <= longest]
            self.left_out[name] = len(every) - len(encoded[name])
        shots_per_task(shots, 1, torch.Generator())  # fails early on a bad range
        fewest = shots[0] if isinstance(shots, (tuple, list)) else shots
        for name, kept in encoded.items():
            if len(kept) <= fewest:
                raise ValueError(
                    f"shots: expected fewer than every language has pairs, got {fewest} and {len(kept)} pairs of {name!r} "
                    f"({self.left_out[name]} of more than {longest} tokens are left out); lower shots, or leave the language out"
                )
        self.languages = list(encoded)
        self.longest, self.batch, self.shots, self.queries = longest, batch, shots, queries
        self._all = ArrayTasks(
            _points(encoded, tokens),
            self.languages,
            batch=batch,
            shots=shots,
            queries=queries,
            seed=seed,
            length=length,
        )

    def members(self, index: int) -> Tensor:
        return self._all.members(index)

    def draw(self, generator: torch.Generator) -> Episode:
        episode = self._all.draw(generator)
        sizes = {name: max(_used(part.x[name]) for part in episode) for name in ("source", "prefix")}

        def cut(part: Points) -> Points:
            written = sizes["prefix"]
            x = {name: part.x[name][..., :size].contiguous() for name, size in sizes.items()}
            return Points(x, part.y[..., :written].contiguous(), part.mask[..., :written].contiguous())

        return Episode(cut(episode.support), cut(episode.query))


def _used(tokens: Tensor) -> int:
    """How many places hold a token, at least 1."""
    return max(1, int((tokens != PADDING).flatten(0, -2).any(0).sum()))


Encoded: TypeAlias = list[tuple[list[int], list[int]]]


def _encoded(name: str, sources: Sequence[str], targets: Sequence[str], tokens: Tokens) -> Encoded:
    of = f" of {name!r}" if name else ""
    if not isinstance(tokens, Tokens):
        raise ValueError(
            f"tokens: expected Tokens, got {type(tokens).__name__}; learn them, Tokens.learned(texts), or give yours as "
            "Tokens(tokenizer)"
        )
    sources, targets = read_texts(sources, f"sources{of}"), read_texts(targets, f"targets{of}")
    if len(sources) != len(targets):
        raise ValueError(
            f"pairs{of}: expected as many sentences as translations, got {len(sources)} and {len(targets)}; pair them one by one"
        )
    return list(zip(tokens.ids(sources, f"sources{of}"), tokens.ids(targets, f"targets{of}"), strict=True))


def _points(encoded: Mapping[str, Encoded], tokens: Tokens) -> Points:
    every = [pair for kept in encoded.values() for pair in kept]
    length, written = (max([1, *(len(pair[side]) for pair in every)]) for side in (0, 1))
    xs, ys = [], []
    for kept in encoded.values():
        source = filled([pair[0] for pair in kept], length)
        prefix = filled([[BEGIN, *pair[1]] for pair in kept], written + 1)
        xs.append({"source": source, "prefix": prefix})
        ys.append(filled([[*pair[1], END] for pair in kept], written + 1))
    return points(xs, ys, classes=tokens.size, event_dims=1, mask=[y != PADDING for y in ys], whole=True)


def tatoeba(root: str | os.PathLike[str] | None = None) -> dict[str, tuple[list[str], list[str]]]:
    """Sentences of 112 languages with their English translations: 104 to 1,000 of each, by ISO 639-3 names.

    English sentences recur from language to language: leave those of test languages out of training.

    Args:
        root: the folder of ``tatoeba112.json.gz``; None for ``tatoeba112`` in the folder that the variable BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: the file is not there.

    Example:
        >>> sentences, english = tatoeba()["deu"]  # doctest: +SKIP
    """
    named = os.environ.get("BAYESMETA_DATA")
    path = (Path(root) if root is not None else Path(named or ".") / "tatoeba112") / "tatoeba112.json.gz"
    if not path.exists():
        raise FileNotFoundError(
            f"root: expected {path.name} in {path.parent}, found none; pass the folder that holds it, or set BAYESMETA_DATA to "
            "the folder of tatoeba112. Its pairs are those of github.com/facebookresearch/LASER, data/tatoeba/v1"
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {name: (list(source), list(english)) for name, (source, english) in json.load(file).items()}


def pair_file(path: str | os.PathLike[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Pairs from a text file of three columns with tabs between: language, sentence, translation; empty lines are skipped.

    Raises:
        ValueError: a line has not three columns, or an empty one; the message says which.

    Example:
        >>> pairs = pair_file("pairs.tsv")  # doctest: +SKIP
    """
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3 or not all(columns):
            raise ValueError(
                f"{path}, line {number}: expected language, sentence and translation, with tabs between, got {line!r}; fill in "
                "what is missing, or remove the line"
            )
        language, sentence, translation = columns
        sources, targets = pairs.setdefault(language, ([], []))
        sources.append(sentence)
        targets.append(translation)
    return pairs
