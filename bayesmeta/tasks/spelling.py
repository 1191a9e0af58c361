"""Words as numbers: how they are spelled, and what stands around them.

Levy & Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", https://papers.nips.cc/paper/5477, with what
Levy, Goldberg & Dagan 2015, "Improving Distributional Similarity with Lessons Learned from Word Embeddings",
https://aclanthology.org/Q15-1016, find best of it (section 3: contexts' counts to the power of 3/4, nearer ones for more,
singular values to the power of 1/2).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count

__all__ = ["WordVectors", "spelled"]

_PIECES, _TABLE = 12, 2048


def spelled(words: Sequence[str]) -> Tensor:
    """Each word as 12 whole numbers from 1 to 2047: hashes of itself, of its shape, and of its first and last letters; 0 is none.

    Words that were never seen so share numbers with words that look like them. Give an embedding 2,048 rows.

    Raises:
        ValueError: it is one word, not a list of them, or something in it is no text.

    Example:
        >>> spelled(["Rome", "Roma"]).shape
        torch.Size([2, 12])
    """
    rows = [[1 + _hash(piece) % (_TABLE - 1) for piece in _pieces(word)] for word in check_words(words)]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, _PIECES)


def check_words(words: Any, name: str = "words") -> list[str]:
    """A user's words as a list.

    Raises:
        ValueError: they are one text, or nothing that can be gone through, or something among them is no text.
    """
    if isinstance(words, (str, bytes)):
        raise ValueError(f"{name}: expected a list of words, got one text, {words!r}; write {words!r}.split()")
    if not isinstance(words, Iterable):
        raise ValueError(f"{name}: expected a list of words, got {type(words).__name__}; write ['one', 'two']")
    given = list(words)
    for word in given:
        if not isinstance(word, str):
            raise ValueError(f"{name}: expected words, got {word!r} among them; leave it out, or write it as text")
    return given


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
    for byte in text.encode(errors="surrogatepass"):
        value = (value ^ byte) * 16777619 % 2**32
    return value


_REACH = 2
"""Words to either side that say what a word is."""


class WordVectors:
    """A vector for each word, whatever its letters' case, and zeros for those that it has not: pretrained ones, or `learned`.

    Args:
        words: n of them.
        vectors: ``(n, E)``, of each word.

    Raises:
        ValueError: there are not as many vectors as words, a number is not finite, or a word is no text.

    Example:
        >>> vectors = WordVectors(["rome", "oslo"], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> vectors(["Rome", "unheard"])
        tensor([[0., 1.],
                [0., 0.]])
    """

    def __init__(self, words: Sequence[str], vectors: Tensor) -> None:
        words, vectors = check_words(words), as_tensor(vectors, "vectors")
        if vectors.dim() != 2 or len(words) != len(vectors):
            raise ValueError(
                f"vectors: expected a row for each word, got {tuple(vectors.shape)} for {len(words)}; give words as a list, and "
                "as many vectors"
            )
        if not vectors.isfinite().all():
            row = int((~vectors.isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"vectors: expected finite numbers, got NaN or infinity of {words[row]!r}; leave out the word"
            )
        vectors = vectors if vectors.is_floating_point() else vectors.to(torch.get_default_dtype())
        self.place = {word.casefold(): k for k, word in reversed(list(enumerate(words)))}
        self.vectors = vectors

    @property
    def size(self) -> int:
        """E."""
        return self.vectors.shape[1]

    def __call__(self, words: Sequence[str]) -> Tensor:
        """``(words, E)``."""
        given = check_words(words)
        known = {k: self.place[word.casefold()] for k, word in enumerate(given) if word.casefold() in self.place}
        to, of = (
            torch.tensor(list(part), dtype=torch.long, device=self.vectors.device) for part in (known, known.values())
        )
        return self.vectors.new_zeros(len(given), self.size).index_copy(0, to, self.vectors[of])

    @classmethod
    def learned(
        cls, sentences: Iterable[Sequence[str]], size: int = 64, *, least: int = 3, most: int = 12_000
    ) -> WordVectors:
        """Vectors of length 1, near for words that stand beside the same words: from sentences without any labels.

        Of positive pointwise mutual information with the words up to two places before and after, the first singular vectors.

        Args:
            sentences: as lists of words; a test's would tell of it.
            size: E.
            least: how often a word has to be there.
            most: as many words are kept, the most frequent, and a third of them as those that stand beside.

        Raises:
            ValueError: fewer than E words are there as often, or never two of them side by side.

        Example:
            >>> towns, foods = ["rome", "oslo", "lima"], ["rice", "beans", "soup"]
            >>> texts = [["go", "to", a] for a in towns * 3] + [["eat", "some", a] for a in foods * 3]
            >>> rome, oslo, rice = WordVectors.learned(texts, size=4)(["rome", "oslo", "rice"])
            >>> bool(rome @ oslo > 0.9 > 0.1 > rome @ rice)
            True
        """
        for name, value in (("size", size), ("least", least), ("most", most)):
            check_count(name, value)
        if isinstance(sentences, (str, bytes)) or not isinstance(sentences, Iterable):
            raise ValueError(
                f"sentences: expected lists of words, got {type(sentences).__name__}; write [text.split() for text in texts]"
            )
        texts = [[word.casefold() for word in check_words(words, "sentences")] for words in sentences]
        count = Counter(word for words in texts for word in words)
        words = [
            word for word, number in sorted(count.items(), key=lambda one: (-one[1], one[0]))[:most] if number >= least
        ]
        if len(words) < size:
            raise ValueError(
                f"size: expected at most as many as the {len(words)} words that are there {least} times or more, got {size}; "
                "lower it, or least, raise most, or give more sentences"
            )
        beside = _beside(texts, words, max(size, most // 3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the random start of the decomposition
            left, values, _ = torch.svd_lowrank(beside, size, niter=4)
        return cls(words, torch.nn.functional.normalize(left * values.sqrt(), dim=1))


def _beside(texts: Sequence[Sequence[str]], words: Sequence[str], contexts: int) -> Tensor:
    """Positive pointwise mutual information of words with those before and after them, a sparse ``(words, 2 contexts)``."""
    place = {word: k for k, word in enumerate(words)}
    contexts = min(contexts, len(words))
    pairs: Counter[tuple[int, int]] = Counter()
    for text in texts:
        known = [place.get(word) for word in text]
        for k, word in enumerate(known):
            for reach in range(1, _REACH + 1):
                other = known[k - reach] if k >= reach else None
                if word is not None and other is not None:
                    weight = 6 // reach  # whole numbers, so that sums have no order
                    if other < contexts:
                        pairs[word, other] += weight
                    if word < contexts:
                        pairs[other, contexts + word] += weight
    if not pairs:
        raise ValueError("sentences: expected words side by side, got none; give whole sentences, not single words")
    index, number = torch.tensor(list(pairs)).T, torch.tensor(list(pairs.values()), dtype=torch.double)
    shape = (len(words), 2 * contexts)
    of_word, of_context = (torch.zeros(n).double().index_add_(0, i, number) for n, i in zip(shape, index, strict=True))
    smooth = of_context.pow(0.75)
    told = (number / of_word[index[0]] / smooth[index[1]] * smooth.sum()).log()
    kept = told > 0
    return torch.sparse_coo_tensor(index[:, kept], told[kept].float(), shape, check_invariants=True).coalesce()
