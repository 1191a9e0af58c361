"""Texts as token ids, and back: byte-pair encoding by `tokenizers`.

Sennrich, Haddow & Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", https://arxiv.org/abs/1508.07909,
section 3.2; on the bytes of UTF-8, so that every text of every script has tokens, with spaces between words or without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count
from bayesmeta.networks.transformer import BEGIN, END, PADDING

__all__ = ["Tokens"]

_OWN = max(PADDING, BEGIN, END) + 1
"""Ids before those of the tokenizer, so that no text can spell them."""


class Tokens:
    """A tokenizer's ids, after those of `PADDING`, `BEGIN` and `END`: 0, 1 and 2.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``, of your own (``Tokenizer.from_file``), or of `learned`.

    Raises:
        TypeError: it is no tokenizer.

    Example:
        >>> tokens = Tokens.learned(["all is well", "well, all is said"], size=300)
        >>> tokens.decode(tokens.encode(["all is well"]))
        ['all is well']
        >>> tokens.decode(tokens.encode(["日本語"]))
        ['日本語']
    """

    def __init__(self, tokenizer: Any) -> None:
        if not all(hasattr(tokenizer, name) for name in ("encode_batch", "decode_batch", "get_vocab")):
            raise TypeError(
                f"tokenizer: expected a tokenizers.Tokenizer, got {type(tokenizer).__name__}; learn one, Tokens.learned(texts), "
                "or read one, Tokens.load(path)"
            )
        self._tokenizer = tokenizer
        self._size = _OWN + 1 + max(tokenizer.get_vocab().values(), default=-1)  # numbers of tokens may have gaps

    @classmethod
    def learned(cls, texts: Iterable[str], size: int = 2000) -> Tokens:
        """A tokenizer whose tokens are the bytes and what often stands together in texts.

        Args:
            texts: those of training tasks; a test's would tell of it.
            size: V, the number of tokens, at least 259: 256 bytes and the three without text. Fewer where the texts have fewer.

        Raises:
            ImportError: `tokenizers` is not installed.
            ValueError: there is no text, or the size is too small.
        """
        check_count("size", size)
        if size < _OWN + 256:
            raise ValueError(
                f"size: expected at least {_OWN + 256} tokens, 256 bytes among them, got {size}; e.g. 2000"
            )
        kit = _kit()
        tokenizer = kit.Tokenizer(kit.models.BPE())
        tokenizer.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = kit.decoders.ByteLevel()
        alphabet = sorted(kit.pre_tokenizers.ByteLevel.alphabet())
        trainer = kit.trainers.BpeTrainer(vocab_size=size - _OWN, initial_alphabet=alphabet, show_progress=False)
        known = read_texts(texts, "texts")
        if not known:
            raise ValueError("texts: expected at least one text to learn tokens of, got none; give those of training")
        tokenizer.train_from_iterator(known, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """A tokenizer from a file of JSON, as `save` and `tokenizers` write it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no tokenizer.
        """
        text = Path(path).read_bytes()
        try:
            return cls(_kit().Tokenizer.from_buffer(text))
        except ValueError as error:
            raise ValueError(
                f"path: expected a tokenizer's file of JSON, got another in {os.fspath(path)} ({error}); give tokenizer.json, "
                "or what Tokens.save wrote"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer as JSON; a network that was trained with it understands no other."""
        self._tokenizer.save(os.fspath(path))

    @property
    def size(self) -> int:
        """V, the vocabulary of a network that reads or writes them."""
        return self._size

    def ids(self, texts: Sequence[str], name: str = "texts") -> list[list[int]]:
        """The ids of each text, without beginning, end or padding.

        Args:
            texts: not empty.
            name: for messages.

        Raises:
            ValueError: a text is empty, or no text.
        """
        return self._rows(read_texts(texts, name))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Ids ``(n, L)``, filled up with `PADDING`: sources, as `generate` takes them, and what `TextEncoder` reads.

        An empty text is a row of padding.

        Raises:
            ValueError: something is no text, or not one of Unicode's letters.
        """
        return filled(self._rows(read_texts(texts, "texts", empty=True)))

    def _rows(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        # A tokenizer of your own may fill texts up to the longest by itself: such tokens are none of the text's.
        return [[_OWN + i for i, real in zip(one.ids, one.attention_mask, strict=True) if real] for one in encoded]

    def decode(self, ids: Tensor) -> list[str]:
        """The texts of ids ``(n, T)``, each up to its `END` or padding.

        Raises:
            ValueError: an id is not the tokenizer's.
        """
        ids = as_tensor(ids, "ids")
        if (
            ids.dim() != 2
            or ids.is_floating_point()
            or ids.dtype == torch.bool
            or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.size)
        ):
            raise ValueError(
                f"ids: expected (n, T) whole numbers from 0 to {self.size - 1}, got {tuple(ids.shape)} {ids.dtype} up to "
                f"{ids.max().item() if ids.numel() else 'none'}; decode by the tokenizer that encoded, of generated texts "
                "those of one source, tokens[0, 0]"
            )
        rows = []
        for row in ids.tolist():
            ends = [place for place, token in enumerate(row) if token in (END, PADDING)]
            rows.append([token - _OWN for token in row[: ends[0] if ends else None] if token >= _OWN])
        found: list[str] = self._tokenizer.decode_batch(rows)
        return found


def filled(rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
    """Rows of ids as one tensor, filled up with `PADDING` to a length, the longest's if None."""
    length = max([1, *map(len, rows)]) if length is None else length
    return torch.tensor([[*row, *[PADDING] * (length - len(row))] for row in rows], dtype=torch.long).reshape(
        -1, length
    )


def read_texts(texts: Iterable[str], name: str, empty: bool = False) -> list[str]:
    """A list of texts, none of which is empty unless that is allowed."""
    if isinstance(texts, str):
        raise ValueError(f"{name}: expected a list of texts, got one text; write [text]")
    if not isinstance(texts, Iterable):
        raise ValueError(f"{name}: expected a list of texts, got {texts!r}; write [text]")
    known = list(texts)
    for place, text in enumerate(known):
        if not isinstance(text, str):
            raise ValueError(
                f"{name}: expected a list of texts, got {text!r} at {place}; leave it out, or make it a text"
            )
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"{name}: expected texts of Unicode, got half a letter, a surrogate, in {text!r} at {place}; read the file in "
                "its own encoding"
            )
        if not empty and not text.strip():
            raise ValueError(f"{name}: expected texts, got an empty one at {place}; leave it out, and its partner")
    return known


def _kit() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError(f"tokens take tokenizers ({error}); pip install bayesmeta[text]") from error
    return tokenizers
