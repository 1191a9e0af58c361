"""Readers of labelled texts, against files made here and, where they are, the packs themselves."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.tasks import ClassTasks, Tokens, banking77, clinc150, fewrel

PACKS = os.environ.get("BAYESMETA_DATA")
packs = pytest.mark.skipif(not PACKS, reason="BAYESMETA_DATA is not set")


def written(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        json.dump(content, file)


def pack(root: Path, count: int = 4) -> Path:
    """Two intents of a bank, a few texts each, with embeddings beside it."""
    folder = root / "banking77"
    rows = [[f"text {i}", "lost" if i % 2 else "stolen"] for i in range(count)]
    written(folder, "banking77.json.gz", {"splits": {"train": rows[:3], "test": rows[3:]}, "categories": []})
    written(folder, "few_shot_class_splits.json.gz", [{"train": ["lost"], "valid": ["stolen"], "test": []}])
    return folder


def test_a_pack_is_read_in_its_order_with_embeddings_where_they_are(tmp_path: Path) -> None:
    folder = pack(tmp_path)
    read = banking77(folder)
    assert read.texts == [f"text {i}" for i in range(4)]
    assert read.labels == ["stolen", "lost"] * 2
    assert read.parts == ["train"] * 3 + ["test"]
    assert read.splits == [(["lost"], ["stolen"], [])]
    assert read.embeddings is None
    beside = tmp_path / "text_embeddings"
    beside.mkdir()
    np.savez(beside / "banking77_minilm.npz", embeddings=np.arange(8, dtype=np.float16).reshape(4, 2))
    read = banking77(folder)
    assert read.embeddings is not None
    assert torch.equal(read.embeddings, torch.arange(8.0).reshape(4, 2))
    test = read.take("test")
    assert (test.texts, test.labels, test.parts) == (["text 3"], ["lost"], ["test"])
    assert test.embeddings is not None
    assert test.embeddings.tolist() == [[6.0, 7.0]]


def test_relations_stand_between_marks(tmp_path: Path) -> None:
    sentence = {"tokens": ["the", "old", "bridge", "spans", "it"], "h": ["b", "Q1", [[1, 2]]], "t": ["i", "Q2", [[4]]]}
    for domain in ("wiki", "nyt", "pubmed", "semeval"):
        written(tmp_path, f"val_{domain}.json.gz", {"P177": [sentence]})
    read = fewrel(tmp_path)
    assert read.texts[0] == "the [head] old bridge [/head] spans [tail] it [/tail]"
    assert read.labels == [f"{domain}: P177" for domain in ("wiki", "nyt", "pubmed", "semeval")]
    assert read.parts == ["wiki", "nyt", "pubmed", "semeval"]


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"root: expected clinc150\.json\.gz in .*, found none; .* BAYESMETA_DATA"
    ):
        clinc150(tmp_path)
    with pytest.raises(FileNotFoundError, match="set BAYESMETA_DATA to the folder of fewrel"):
        fewrel()
    folder = pack(tmp_path)
    beside = tmp_path / "text_embeddings"
    beside.mkdir()
    np.savez(beside / "banking77_minilm.npz", embeddings=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected one embedding for each of 4 texts, got 3"):
        banking77(folder)
    (beside / "banking77_minilm.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="expected a NumPy archive of embeddings, got one that does not read"):
        banking77(folder)
    (beside / "banking77_minilm.npz").unlink()
    (folder / "banking77.json.gz").write_bytes(b"no JSON")
    with pytest.raises(ValueError, match="expected packed JSON, got what does not read"):
        banking77(folder)


def test_what_a_user_gives_wrongly_is_said() -> None:
    texts, labels = ["a b", "c d", "e f", "", "b c", "d e"], ["x", "x", "y", "y", "z", "z"]
    tokens = Tokens.learned(["a b c d e f"], size=300)
    ids = tokens.encode(texts)
    assert not ids[3].any()  # an empty text is no error: it is a row of padding
    with pytest.raises(ValueError, match="a list of texts"):
        tokens.encode("a b")
    with pytest.raises(ValueError, match="a list of texts"):
        tokens.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"subset: expected some of the labels x to z, got w"):
        ClassTasks(ids, labels, subset=["x", "w"], ways=2, whole=True)
    with pytest.raises(ValueError, match="shots and queries: expected at most 2 together, the rows of class x, got 2"):
        ClassTasks(ids, labels, ways=2, shots=2, queries=1, whole=True)
    tasks = ClassTasks(ids, labels, ways=2, shots=1, queries=1)  # floating, as whole=True was forgotten
    learner = bm.PrototypicalNetwork(bm.networks.TextEncoder(tokens.size).features, classes=2)
    with pytest.raises(ValueError, match="whole=True"):
        bm.fit(learner, tasks, steps=1, progress=False)
    other = bm.PrototypicalNetwork(bm.networks.TextEncoder(tokens.size - 3).features, classes=2)
    whole = ClassTasks(ids, labels, ways=2, shots=1, queries=1, whole=True)
    with pytest.raises(ValueError, match="encode with the tokenizer that the network was built for"):
        bm.fit(other, whole, steps=20, progress=False)


@packs
def test_the_packs_hold_what_is_said_of_them() -> None:
    intents, bank = clinc150(), banking77()
    assert len(intents.texts) == 23_700
    assert len({*intents.labels}) == 151
    assert len(bank.texts) == 13_083
    assert len({*bank.labels}) == 77
    for read, sizes in ((intents, (50, 50, 50)), (bank, (25, 25, 27))):
        assert [tuple(map(len, split)) for split in read.splits] == [sizes] * 5
        for split in read.splits:
            assert len({*split.train, *split.validation, *split.test}) == sum(sizes)
            assert {*split.train, *split.validation, *split.test} <= {*read.labels}
        assert read.embeddings is not None
        torch.testing.assert_close(read.embeddings.norm(dim=1), torch.ones(len(read.texts)), rtol=0, atol=1e-3)
    relations = fewrel()
    assert [relations.parts.count(domain) for domain in ("wiki", "nyt", "pubmed", "semeval")] == [
        11200,
        2500,
        1000,
        8851,
    ]
    assert all(text.count("[head]") == text.count("[/tail]") == 1 for text in relations.texts)


@pytest.mark.parametrize(
    ("texts", "splits"),
    [
        ({}, []),
        ([], []),
        ({"splits": {}}, []),
        ({"splits": {"train": [["a", "x", 3]]}}, []),
        ({"splits": {"train": [["a", "x"]]}}, [{"train": ["x"]}]),
        ({"splits": {"train": [["a", "x"]]}}, [3]),
    ],
)
def test_json_of_another_form_is_refused_by_the_files_name(tmp_path: Path, texts: Any, splits: Any) -> None:
    for name, content in (("clinc150", texts), ("few_shot_class_splits", splits)):
        with gzip.open(tmp_path / f"{name}.json.gz", "wt") as file:
            json.dump(content, file)
    with pytest.raises(
        ValueError, match=r"json\.gz: expected texts and labels as the set has them, got JSON of another"
    ):
        clinc150(tmp_path)


@pytest.mark.parametrize("change", [{"tokens": None}, {"h": ["a", "Q1", [[9]]]}, {"t": ["a", "Q1", []]}])
def test_sentences_without_their_things_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    sentence = {"tokens": ["a", "b"], "h": ["a", "Q1", [[0]]], "t": ["b", "Q2", [[1]]], **change}
    for name in ("wiki", "nyt", "pubmed", "semeval"):
        with gzip.open(tmp_path / f"val_{name}.json.gz", "wt") as file:
            json.dump({"P1": [sentence]}, file)
    with pytest.raises(ValueError, match=r"val_wiki\.json\.gz: expected texts and labels as the set has them"):
        fewrel(tmp_path)


def test_a_tokenizer_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokens = Tokens.learned(["all is well"], size=300)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Tokens.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"path: expected a tokenizer's file of JSON, got another in .*bad\.json"):
        Tokens.load(tmp_path / "bad.json")
    odd: Any
    for odd in ("all", None, [None], 3):
        with pytest.raises(ValueError, match="texts: expected a list of texts"):
            tokens.encode(odd)
    for reads in (tokens.encode, tokens.ids, Tokens.learned):
        with pytest.raises(ValueError, match="texts: expected texts of Unicode, got half a letter"):
            reads(["well", "\ud800"])
    assert len(tokens.encode(text for text in ["all", "well"])) == 2  # type: ignore[arg-type]
