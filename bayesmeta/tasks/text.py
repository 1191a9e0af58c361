"""Texts with labels, from three public sets: intents of a dialogue system and of a bank's customers, and relations in sentences.

Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction" (CLINC150),
https://arxiv.org/abs/1909.02027; Casanueva et al. 2020, "Efficient Intent Detection with Dual Sentence Encoders" (BANKING77),
https://arxiv.org/abs/2003.04807; Gao et al. 2019, "FewRel 2.0: Towards More Challenging Few-Shot Relation Classification",
https://arxiv.org/abs/1910.07124. The splits of classes are those of Dopierre, Gravier & Logerais 2021, "ProtAugment",
https://arxiv.org/abs/2105.12995.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["ClassSplit", "LabelledTexts", "banking77", "clinc150", "fewrel"]


class ClassSplit(NamedTuple):
    """Labels to train on, to choose settings by, and to test."""

    train: list[str]
    validation: list[str]
    test: list[str]


class LabelledTexts(NamedTuple):
    """Texts with labels, as `ClassTasks` takes them: x is the embeddings, or token ids of the texts by `Tokens`."""

    texts: list[str]
    labels: list[str]
    """``(n,)``, the class of each."""
    parts: list[str]
    """``(n,)``, the part of the set that each came in: train, val, test; of relations, the domain."""
    splits: list[ClassSplit]
    """Of the labels, by which published figures were made; none for relations."""
    embeddings: Tensor | None
    """``(n, E)``, float32, of a frozen network; None where there are none."""

    def take(self, *parts: str) -> LabelledTexts:
        """The texts of some parts.

        Raises:
            ValueError: there is no such part.
        """
        known = list(dict.fromkeys(self.parts))
        if not parts or any(part not in known for part in parts):
            raise ValueError(f"parts: expected some of {', '.join(known)}, got {', '.join(map(str, parts)) or 'none'}")
        chosen = [i for i, part in enumerate(self.parts) if part in parts]
        texts, labels, there = ([of[i] for i in chosen] for of in (self.texts, self.labels, self.parts))
        return LabelledTexts(
            texts, labels, there, self.splits, None if self.embeddings is None else self.embeddings[chosen]
        )


def clinc150(root: str | os.PathLike[str] | None = None) -> LabelledTexts:
    """CLINC150: 22,500 utterances of 150 intents, and 1,200 that are out of scope.

    The parts train, val and test have 100, 20 and 30 utterances of each intent; those of oos_train, oos_val and oos_test have the
    label "oos".
    The five splits have 50 intents each to train, validate and test. Embeddings are read where ``clinc150_minilm.npz`` is, in
    the folder or in ``text_embeddings`` beside it.

    Args:
        root: the folder of ``clinc150.json.gz`` and ``few_shot_class_splits.json.gz``; None for ``clinc150`` in the folder that
            the variable BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: one of the two is not there.
        ValueError: a file does not read, or there are not as many embeddings as texts.

    Example:
        >>> intents = clinc150()  # doctest: +SKIP
        >>> tasks = ClassTasks(
        ...     intents.embeddings, intents.labels, subset=intents.splits[0].train, shots=5
        ... )  # doctest: +SKIP
    """
    return _intents(root, "clinc150")


def banking77(root: str | os.PathLike[str] | None = None) -> LabelledTexts:
    """BANKING77: 13,083 questions of a bank's customers, of 77 intents that lie close together.

    The parts are train and test; of the classes' five splits 25 are to train, 25 to validate and 27 to test.

    Args:
        root: the folder of ``banking77.json.gz`` and ``few_shot_class_splits.json.gz``; None for ``banking77`` in the folder
            that the variable BAYESMETA_DATA names. Embeddings: as in `clinc150`.

    Raises:
        FileNotFoundError, ValueError: as in `clinc150`.
    """
    return _intents(root, "banking77")


def fewrel(root: str | os.PathLike[str] | None = None) -> LabelledTexts:
    """FewRel 2.0's public validation sentences, each with two things between which a relation holds.

    The parts are domains: wiki, 16 relations of 700 sentences, and for tests elsewhere nyt, 25 of 100, pubmed, 10 of 100, and
    semeval, 17 of 110 to 1,135. In a text the two stand in marks: ``the [head] bridge [/head] over the [tail] river [/tail]``.
    Labels are the domain and the relation as the file names it: ``wiki: P177``.

    Args:
        root: the folder of ``val_wiki.json.gz`` and the others; None for ``fewrel`` in the folder that BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: one does not read.
    """
    rows: list[tuple[str, str, str]] = []
    for domain in ("wiki", "nyt", "pubmed", "semeval"):
        with _read(_folder(root, "fewrel"), f"val_{domain}.json.gz") as given:
            rows += [
                (_marked(one), f"{domain}: {relation}", domain) for relation, ones in given.items() for one in ones
            ]
    texts, labels, parts = (list(column) for column in zip(*rows, strict=True))
    return LabelledTexts(texts, labels, parts, [], None)


def _intents(root: str | os.PathLike[str] | None, name: str) -> LabelledTexts:
    folder = _folder(root, name)
    with _read(folder, f"{name}.json.gz") as given:
        rows = [(text, label, part) for part, ones in given["splits"].items() for text, label in ones]
        texts, labels, parts = (list(column) for column in zip(*rows, strict=True))
    with _read(folder, "few_shot_class_splits.json.gz") as given:
        splits = [ClassSplit(split["train"], split["valid"], split["test"]) for split in given]
    file = f"{name}_minilm.npz"
    found = next((at for at in (folder / file, folder.parent / "text_embeddings" / file) if at.exists()), None)
    return LabelledTexts(texts, labels, parts, splits, None if found is None else _embeddings(found, len(texts)))


def _embeddings(path: Path, count: int) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings = torch.from_numpy(file["embeddings"].astype(np.float32))
    except Exception as error:
        raise ValueError(
            f"{path}: expected a NumPy archive of embeddings, got one that does not read ({error}); copy it anew"
        ) from error
    if embeddings.shape[:1] != (count,) or not embeddings.isfinite().all():
        got = f"{len(embeddings)}" if embeddings.isfinite().all() else "NaN or infinity"
        raise ValueError(
            f"{path}: expected one embedding for each of {count} texts, got {got}; embed these texts, in their order"
        )
    return embeddings


def _marked(sentence: dict[str, Any]) -> str:
    """The tokens in a row, the first mention of both things between marks."""
    count = len(sentence["tokens"])
    before: dict[int, list[str]] = {}
    after: dict[int, list[str]] = {}
    for which, (_, _, places) in (("head", sentence["h"]), ("tail", sentence["t"])):
        if not 0 <= min(places[0]) <= max(places[0]) < count:
            raise ValueError(f"a {which} at {places[0]} of {count} tokens")
        before.setdefault(min(places[0]), []).append(f"[{which}]")
        after.setdefault(max(places[0]), []).insert(0, f"[/{which}]")
    words = [
        word for i, token in enumerate(sentence["tokens"]) for word in (*before.get(i, ()), token, *after.get(i, ()))
    ]
    return " ".join(words)


def _folder(root: str | os.PathLike[str] | None, name: str) -> Path:
    return Path(root) if root is not None else Path(os.environ.get("BAYESMETA_DATA") or ".") / name


@contextmanager
def _read(folder: Path, name: str) -> Iterator[Any]:
    """What a file of packed JSON holds; within it, what lacks says so in the file's name."""
    given = _json(folder, name)
    try:
        yield given
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{folder / name}: expected texts and labels as the set has them, got JSON of another form ({error!r}); copy it anew"
        ) from error


def _json(folder: Path, name: str) -> Any:
    if not (folder / name).exists():
        raise FileNotFoundError(
            f"root: expected {name} in {folder}, found none; pass the folder that holds it, or set BAYESMETA_DATA to the folder "
            f"of {folder.name}"
        )
    try:
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{folder / name}: expected packed JSON, got what does not read ({error}); copy it anew"
        ) from error
