"""Sentences with slots: seven intents, five domains of dialogues, or a file of one's own.

Coucke et al. 2018, "Snips Voice Platform", https://arxiv.org/abs/1805.10190, section 5 (the sentences of seven intents); Coope,
Farghly, Gerz, Vulić & Henderson 2020, "Span-ConveRT: Few-shot Span Extraction for Dialog with Pretrained Conversational
Representations", https://arxiv.org/abs/2005.08866 (restaurants, and four domains of DSTC8). Words are what stands between spaces,
and each punctuation mark by itself.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Tagged", "slot_domains", "slot_file", "snips"]

Tagged: TypeAlias = tuple[Sequence[str], Sequence[str | None]]
"""A sentence's words, and of each the slot that it fills, None for none."""

_WORD = r"\w+|[^\w\s]"


def snips(root: str | os.PathLike[str] | None = None) -> dict[str, list[Tagged]]:
    """SNIPS: some 2,000 sentences of each of seven intents, with two to fourteen slots.

    Args:
        root: the folder of ``snips.json.gz``; None for ``snips_slots`` in the folder that the variable BAYESMETA_DATA names.

    Raises:
        FileNotFoundError: the file is not there.

    Example:
        >>> tasks = SlotTasks(snips(), spelled)  # doctest: +SKIP
    """
    pack = _pack(root, "snips.json.gz", "github.com/snipsco/nlu-benchmark, 2017-06-custom-intent-engines")
    return {intent: [_tagged(one) for one in parts["train"] + parts["valid"]] for intent, parts in pack.items()}


def _tagged(pieces: Sequence[tuple[str, str | None]]) -> Tagged:
    words = [(word, slot) for text, slot in pieces for word in re.findall(_WORD, text)]
    return [word for word, _ in words], [slot for _, slot in words]


def slot_domains(root: str | os.PathLike[str] | None = None) -> dict[str, list[Tagged]]:
    """Five domains of dialogues: 800 to 7,000 sentences each of booking buses, events, homes, cars and tables.

    Sentences of fewer than four words are left out, whose slots only the dialogue tells, and those without a slot, of which many
    have one that is not marked. Of slots that overlap, a word has the first.

    Args:
        root: the folder of ``span_extraction_dstc8_restaurant8k.json.gz``; None as in `snips`.

    Raises:
        FileNotFoundError: the file is not there.

    Example:
        >>> tasks = SlotTasks({**snips(), **slot_domains()}, spelled)  # doctest: +SKIP
    """
    name = "span_extraction_dstc8_restaurant8k.json.gz"
    pack = _pack(root, name, "github.com/PolyAI-LDN/task-specific-datasets, span_extraction")
    found: dict[str, list[Tagged]] = {}
    for domain, parts in pack.items():
        read = [_marked(text, spans) for text, spans, _ in parts["train"] + parts["test"]]
        found[domain] = [(words, slots) for words, slots in read if len(words) >= 4 and any(slots)]
    return found


def _marked(text: str, spans: Sequence[tuple[str, int, int]]) -> tuple[list[str], list[str | None]]:
    words, slots = list[str](), list[str | None]()
    for match in re.finditer(_WORD, text):
        words.append(match[0])
        slots.append(next((slot for slot, a, b in spans if a <= match.start() and match.end() <= b), None))
    return words, slots


def _pack(root: str | os.PathLike[str] | None, name: str, source: str) -> dict[str, Any]:
    path = (Path(root) if root is not None else Path(os.environ.get("BAYESMETA_DATA") or ".") / "snips_slots") / name
    if not path.exists():
        raise FileNotFoundError(
            f"root: expected {path.name} in {path.parent}, found none; pass the folder that holds it, or set BAYESMETA_DATA to "
            f"the folder of snips_slots. Its sentences are those of {source}"
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pack: dict[str, Any] = json.load(file)
    return pack


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
