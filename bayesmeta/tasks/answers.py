"""Questions about paragraphs: which sentence holds the answer, or which words are it, chosen among candidates.

Artetxe, Ruder & Yogatama 2020, "On the Cross-lingual Transferability of Monolingual Representations" (XQuAD),
https://arxiv.org/abs/1910.11856. A candidate is known by how it and what surrounds it agree with the question, numbers that mean
the same in every article and language, in the manner of Richardson, Burges & Renshaw 2013 (MCTest), https://aclanthology.org/D13-1020.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.border import check_count

__all__ = ["Candidates", "Question", "sentence_choices", "span_choices", "xquad"]

KINDS = {
    "how many": r"how (many|much|long|far|old|big|large|high|often)|what (percent|year|date|century|number)",
    "who": r"\bwho(m|se)?\b",
    "when": r"\bwhen\b|what (year|date|century|day|time)",
    "where": r"\bwhere\b|(what|which) (city|country|state|place|region)",
}
"""Types of question by their English words; the first that fits; "what" for all others."""


class Question(NamedTuple):
    """A question, and what there is to know about it."""

    text: str
    paragraph: str
    answer: str
    start: int
    """Where in the paragraph the answer begins."""
    language: str
    article: str
    kind: str
    """who, when, where, how many, or what."""


class Candidates(NamedTuple):
    """Questions whose answer is one of W candidates, as `Choice` takes them."""

    x: Tensor
    """``(n, W, F + 1)``: of each candidate F numbers, and 1 if there is one."""
    y: Tensor
    """``(n,)``, the right one's number."""
    questions: list[Question]
    """Those n that have candidates, the right one among them."""


def xquad(root: str | os.PathLike[str] | None = None, languages: Sequence[str] = ("en",)) -> list[Question]:
    """XQuAD: 1,190 questions about 240 paragraphs of 48 articles, in each of twelve languages.

    Args:
        root: the folder of ``xquad.json.gz``; None for ``xquad`` in the folder that the variable BAYESMETA_DATA names.
        languages: of ar, de, el, en, es, hi, ro, ru, th, tr, vi, zh.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: there is no such language.

    Example:
        >>> candidates = sentence_choices(xquad())  # doctest: +SKIP
    """
    named = os.environ.get("BAYESMETA_DATA")
    path = (Path(root) if root is not None else Path(named or ".") / "xquad") / "xquad.json.gz"
    if not path.exists():
        raise FileNotFoundError(
            f"root: expected {path.name} in {path.parent}, found none; pass the folder that holds it, or set BAYESMETA_DATA to "
            "the folder of xquad. Its questions are those of github.com/deepmind/xquad"
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pack = json.load(file)
    strange = [language for language in languages if language not in pack]
    if strange:
        raise ValueError(f"languages: expected some of {', '.join(sorted(pack))}, got {strange}")
    kinds = {one[0]: _kind(one[1]) for article in pack["en"] for _, asked in article["paragraphs"] for one in asked}
    return [
        Question(text, paragraph, answer, start, language, article["title"], kinds[number])
        for language in languages
        for article in pack[language]
        for paragraph, asked in article["paragraphs"]
        for number, text, answer, start in asked
    ]


def _kind(question: str) -> str:
    return next((kind for kind, words in KINDS.items() if re.search(words, question, re.IGNORECASE)), "what")


def sentence_choices(questions: Sequence[Question], *, most: int = 16) -> Candidates:
    """Which sentence of the paragraph holds the answer?

    Args:
        questions: of `xquad` or your own. Those whose answer is in no single sentence, and those of paragraphs of one sentence,
            or of more than `most`, are left out.
        most: W.

    Raises:
        ValueError: no question is left, or an answer does not stand where its question says.

    Example:
        >>> text = "Rome lies on the Tiber. Oslo lies on a fjord, says the book."
        >>> asked = Question("What lies on a fjord?", text, "Oslo", 24, "en", "towns", "what")
        >>> found = sentence_choices([asked], most=3)
        >>> found.y, found.x[0, :, -1]
        (tensor([1]), tensor([1., 1., 0.]))
    """
    check_count("most", most)
    questions = _asked(questions)
    rows, labels, kept = [], [], []
    for one in questions:
        places = _sentences(one.paragraph)
        right = [k for k, (b, e) in enumerate(places) if b <= one.start and one.start + len(one.answer) <= e]
        if right and 2 <= len(places) <= most:
            rows.append(_of_sentences(one, [one.paragraph[b:e] for b, e in places]))
            labels.append(right[0])
            kept.append(one)
    return _stacked(rows, labels, kept, most)


def span_choices(questions: Sequence[Question], *, words: int = 160, widths: int = 6) -> Candidates:
    """Which words of the paragraph are the answer? One label, ``start * widths + width - 1``, of W = words · widths.

    Args:
        questions: of `xquad` or your own. Those whose answer is longer, or beyond the paragraph's first words, are left out.
        words: of a paragraph, from its beginning.
        widths: of an answer at most, in words.

    Raises:
        ValueError: no question is left, or an answer does not stand where its question says.

    Example:
        >>> asked = Question("What lies on a fjord?", "Oslo lies on a fjord.", "Oslo", 0, "en", "towns", "what")
        >>> found = span_choices([asked], words=8, widths=2)
        >>> found.x.shape[:2], found.y
        (torch.Size([1, 16]), tensor([0]))
    """
    check_count("words", words)
    check_count("widths", widths)
    questions = _asked(questions)
    rows, labels, kept = [], [], []
    for one in questions:
        places = [m.span() for m in re.finditer(r"\w+(?:[.,'’:-]\w+)*|[^\w\s]", one.paragraph)][:words]
        inside = [k for k, (b, e) in enumerate(places) if b < one.start + len(one.answer) and e > one.start]
        if inside and len(inside) <= widths and places[inside[-1]][1] >= one.start + len(one.answer):
            rows.append(_of_spans(one, [one.paragraph[b:e] for b, e in places], words, widths))
            labels.append(inside[0] * widths + len(inside) - 1)
            kept.append(one)
    return _stacked(rows, labels, kept, words * widths)


def _asked(questions: Sequence[Question]) -> list[Question]:
    """Questions whose answers stand where they say: else another sentence would be learned as the right one."""
    if isinstance(questions, Question):
        raise ValueError("questions: expected a list of questions, got one; write [question]")
    for place, one in enumerate(questions):
        if not isinstance(one, Question):
            raise ValueError(
                f"questions: expected Question at {place}, got {type(one).__name__}; make one, Question(...)"
            )
        start, stands = one.start, isinstance(one.start, int) and one.start >= 0 and one.answer
        if not stands or one.paragraph[start : start + len(one.answer)] != one.answer:
            raise ValueError(
                f"questions: expected the answer {one.answer!r} at {start!r} of its paragraph, got another text at {place}; "
                "say where it begins, paragraph.index(answer)"
            )
    return list(questions)


def _stacked(rows: list[Tensor], labels: list[int], kept: list[Question], most: int) -> Candidates:
    if not rows:
        raise ValueError(
            "questions: expected some whose answer is among the candidates, got none; look at where answers begin, or allow "
            "for more"
        )
    x = torch.zeros(len(rows), most, rows[0].shape[1])
    for place, row in enumerate(rows):
        x[place, : len(row)] = row
    return Candidates(x, torch.tensor(labels), kept)


def _sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end; those of less than 20 letters go with the next."""
    places, begin = [], 0
    for found in re.finditer(r"[.!?؟।]+[\"”)\]]*\s+|[。！？]", text):
        if found.end() - begin > (6 if found[0] in "。！？" else 20):
            places.append((begin, found.end()))
            begin = found.end()
    return [*places, (begin, len(text))] if begin < len(text) else places


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _pieces(text: str) -> Counter[str]:
    """Runs of three letters; of Chinese and Thai too, which have no spaces."""
    plain = " ".join(_words(text))
    return Counter(plain[k : k + 3] for k in range(len(plain) - 2)) + Counter(c for c in plain if ord(c) > 0x2E7F)


def _weights(parts: Sequence[Sequence[str]]) -> dict[str, float]:
    """How much a word or piece tells: less the more parts have it."""
    count = Counter(word for part in parts for word in set(part))
    return {word: math.log((1 + len(parts)) / number) for word, number in count.items()}


def _share(asked: Sequence[str], given: Sequence[str], weights: dict[str, float]) -> float:
    """The share of the question's weight that is in a part."""
    own = set(asked) & weights.keys()
    total = sum(weights[word] for word in own)
    return sum(weights[word] for word in own & set(given)) / total if total else 0.0


def _has(kind: str, text: str) -> float:
    """Whether a text holds what a type of question asks for, by its looks."""
    number, names = bool(re.search(r"\d", text)), len(re.findall(r"(?<!^)\b[^\W\d_a-z]\w+", text.strip()))
    if kind in ("how many", "when"):
        return float(number)
    return min(names, 3) / 3 if kind in ("who", "where") else 0.0


def _of_sentences(one: Question, parts: list[str]) -> Tensor:
    words, pieces = [_words(part) for part in parts], [_pieces(part) for part in parts]
    asked_words, asked_pieces = _words(one.text), _pieces(one.text)
    by_word, by_piece = _weights(words), _weights([list(p) for p in pieces])
    pairs = set(pairwise(asked_words))
    rows = []
    for k, part in enumerate(parts):
        cosine = sum(asked_pieces[p] * pieces[k][p] * by_piece.get(p, 0) ** 2 for p in asked_pieces)
        norm = math.sqrt(sum((n * by_piece[p]) ** 2 for p, n in pieces[k].items())) or 1.0
        bigrams = len(pairs & set(pairwise(words[k]))) / max(1, len(pairs))
        stems = _share(
            [w[:4] for w in asked_words], [w[:4] for w in words[k]], _weights([[w[:4] for w in p] for p in words])
        )
        rows.append([
            _share(asked_words, words[k], by_word), stems, _share(list(asked_pieces), list(pieces[k]), by_piece),
            cosine / norm / 10, bigrams, len(words[k]) / 30, math.log1p(len(part)) / 5, k / len(parts), float(k == 0),
            _has(one.kind, part),
        ])  # fmt: skip
    x = torch.tensor(rows)
    lead = x[:, :5]
    above = lead - torch.stack([torch.cat([lead[:k], lead[k + 1 :]]).amax(0) for k in range(len(lead))])
    around = torch.cat([lead.new_zeros(1, 5), lead, lead.new_zeros(1, 5)])
    near = (around[:-2] + around[2:])[:, :2]  # a sentence whose neighbours agree may go on from them
    return torch.cat([x, 3 * above, near, torch.ones(len(x), 1)], 1)


def _of_spans(one: Question, parts: list[str], most: int, widths: int) -> Tensor:
    low, asked = [part.casefold() for part in parts], {word[:5] for word in _words(one.text)}
    rare = _weights([[word[:5]] for word in low])
    common = max(rare.values())
    agrees = torch.tensor([rare[word[:5]] / common if word[:5] in asked else 0.0 for word in low])
    n, sums = len(low), torch.cat([torch.zeros(1), agrees.cumsum(0)])
    looks = torch.tensor([
        [bool(re.search(r"\d", p)), p[:1].isupper(), not re.search(r"\w", p), len(p) <= 3, len(p) / 10] for p in parts
    ], dtype=torch.float)  # fmt: skip
    kind = torch.tensor([float(one.kind == name) for name in [*KINDS, "what"]])
    start, width = torch.arange(most)[:, None].expand(-1, widths), torch.arange(1, widths + 1).expand(most, -1)
    there, begin = (start + width <= n).flatten(), start.flatten().clamp(max=n - 1)
    end = (start + width).flatten().clamp(max=n)

    def total(reach: int) -> Tensor:
        return sums[(end + reach).clamp(max=n)] - sums[(begin - reach).clamp(min=0)]

    own = total(0)
    first, last = looks[begin], looks[end - 1]
    before, after = looks[(begin - 1).clamp(min=0)], looks[end.clamp(max=n - 1)]
    near = torch.stack([(total(reach) - own) / 3 for reach in (2, 5, 10, 20)], 1)
    size = torch.nn.functional.one_hot(width.flatten() - 1, widths).float()
    kinds = torch.cat([kind[:, None] * first[:, k] for k in (0, 1)] + [kind[:, None] * last[:, k] for k in (0, 1)]).T
    marks = torch.stack([looks[b:e, 2].sum() for b, e in zip(begin.tolist(), end.tolist(), strict=True)])
    columns = [own[:, None], near, first, last, before[:, :4], after[:, :4], size, kinds, marks[:, None]]
    return torch.cat([*columns, torch.ones(len(own), 1)], 1) * there[:, None]
