"""Languages as tasks: what is encoded, what is left out, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import bayesmeta as bm
from bayesmeta.networks import BEGIN, END, PADDING
from bayesmeta.tasks import Tokens, TranslationTasks, pair_file, translation_points

PAIRS = {
    "deu": (["Das ist gut.", "Wo bist du?", "Ja."], ["That is good.", "Where are you?", "Yes."]),
    "jpn": (["それは良いです。", "どこですか", "はい"], ["That is good.", "Where?", "Yes."]),
    "tha": (["นี่ดีมาก", "คุณอยู่ที่ไหน", "ใช่"], ["This is good.", "Where are you?", "Yes."]),
}


def tokens(size: int = 300) -> Tokens:
    return Tokens.learned([text for both in PAIRS.values() for part in both for text in part], size)


@pytest.mark.parametrize("text", ["それは良い", "ใช่", "Ünïcödé <end> <pad>", "a  b\n c", "😀", "\x00"])
def test_every_text_comes_back(text: str) -> None:
    """Of scripts without spaces too, and of text that looks like a token without text."""
    assert tokens().decode(tokens().encode([text, "Das ist"])) == [text, "Das ist"]
    assert tokens().encode([text]).min() > END


def test_points_are_the_pairs() -> None:
    known = tokens()
    given = translation_points(*PAIRS["deu"], known)
    y, prefix, mask = given.y[0], given.x["prefix"][0], given.mask[0]
    assert known.decode(y) == PAIRS["deu"][1]
    assert known.decode(given.x["source"][0]) == PAIRS["deu"][0]
    for row, before, seen in zip(y, prefix, mask, strict=True):
        end = row.tolist().index(END)
        assert before[0] == BEGIN
        assert before[1 : end + 1].tolist() == row[:end].tolist()
        assert (row[end + 1 :] == PADDING).all()
        assert seen.tolist() == [place <= end for place in range(len(row))]


def test_episodes_depend_on_the_index_alone_and_are_cut() -> None:
    source = TranslationTasks(PAIRS, tokens(), batch=2, shots=1, queries=1)
    one, other = source[3], source[3]
    for part, again in zip(one, other, strict=True):
        assert torch.equal(part.y, again.y)
    for index in range(5):
        episode = source[index]
        for name, leaf in (("source", episode.query.x["source"]), ("prefix", episode.query.x["prefix"])):
            both = torch.cat([episode.support.x[name], leaf], 1)
            assert (both != PADDING).any(0).any(0).all(), name
        bm.check(episode.support)
    assert source.members(0).shape == (2,)
    learner = bm.MAML(
        bm.networks.Transformer(source._all.points.x["source"].max().item() + 60, width=8, heads=2, layers=1),
        bm.likelihoods.Categorical(event_dims=1),
    )
    assert len(bm.fit(learner, source, steps=2, progress=False).losses) == 2
    assert bm.evaluate(learner, source, episodes=3)["NLL"].value > 0


def test_long_pairs_are_left_out_and_counted() -> None:
    sources, targets = PAIRS["deu"]
    longer = {"deu": ([*sources, "0123456789" * 3, "Nein."], [*targets, "No.", "0123456789" * 3])}
    source = TranslationTasks(longer, tokens(), batch=1, shots=1, longest=20)
    assert source.left_out == {"deu": 2}
    assert source[0].query.y.shape[1] == 2


def test_tokens_are_kept(tmp_path: Path) -> None:
    tokens().save(tmp_path / "tokens.json")
    again = Tokens.load(tmp_path / "tokens.json")
    assert again.size == tokens().size == 300
    assert torch.equal(again.encode(["Das ist gut."]), tokens().encode(["Das ist gut."]))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("de\tJa.\tYes.\n\nfr\tOui.\tYes.\nde\tNein.\tNo.\n", encoding="utf-8")
    assert pair_file(path) == {"de": (["Ja.", "Nein."], ["Yes.", "No."]), "fr": (["Oui."], ["Yes."])}
    path.write_text("de\tJa.\tYes.\nde\tNein.\t\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected language, sentence and translation"):
        pair_file(path)
    with pytest.raises(FileNotFoundError, match=r"expected tatoeba112.json.gz in"):
        bm.tasks.tatoeba(tmp_path)


def test_tatoeba() -> None:
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no Tatoeba: BAYESMETA_DATA is not set")
    pairs = bm.tasks.tatoeba()
    assert len(pairs) == 112
    assert sum(len(sources) for sources, _ in pairs.values()) == 88_877
    with pytest.raises(
        ValueError, match=r"shots: expected fewer than every language has pairs, got 200 and .* pairs of 'tzl'"
    ):
        TranslationTasks({"tzl": pairs["tzl"]}, tokens(), batch=1, shots=200)


def test_bad_input_is_refused() -> None:
    known = tokens()
    with pytest.raises(ValueError, match="sources of 'deu': expected texts, got an empty one at 1"):
        TranslationTasks({"deu": (["Ja.", " "], ["Yes.", "No."])}, known, batch=1, shots=1)
    with pytest.raises(ValueError, match="pairs of 'deu': expected as many sentences as translations, got 2 and 1"):
        TranslationTasks({"deu": (["Ja.", "Nein."], ["Yes."])}, known, batch=1, shots=1)
    with pytest.raises(ValueError, match="got 3 and 3 pairs of 'deu'"):
        TranslationTasks(PAIRS, known, shots=3)
    with pytest.raises(ValueError, match="pairs: expected at least one language"):
        TranslationTasks({}, known)
    with pytest.raises(ValueError, match="texts: expected a list of texts, got one text"):
        known.encode("Ja.")
    with pytest.raises(ValueError, match="size: expected at least 259"):
        tokens(100)
    with pytest.raises(ValueError, match="texts: expected at least one text"):
        Tokens.learned([])
    with pytest.raises(TypeError, match=r"tokenizer: expected a tokenizers\.Tokenizer, got str"):
        Tokens("bpe")
    with pytest.raises(ValueError, match="ids: expected"):
        known.decode(torch.tensor([[400]]))
    learner = bm.MAML(
        bm.networks.Transformer(280, width=8, heads=2, layers=1), bm.likelihoods.Categorical(event_dims=1)
    )
    with pytest.raises(ValueError, match="encode with the tokenizer that the network was built for"):
        learner(translation_points(*PAIRS["deu"], known))


def test_texts_may_be_any_iterable() -> None:
    """A generator's texts used to be lost."""
    known = tokens()
    assert torch.equal(known.encode(text for text in ["Ja.", "Wo"]), known.encode(["Ja.", "Wo"]))  # type: ignore[arg-type]
    for wrong in (None, 3):
        with pytest.raises(ValueError, match="texts: expected a list of texts"):
            known.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"texts: expected texts of Unicode, got half a letter, .* at 1"):
        known.encode(["Ja.", "\ud800"])


def test_a_tokenizer_that_fills_up_and_numbers_with_gaps() -> None:
    """As those of published encoders do: what it fills up with is no text, and the vocabulary reaches to its highest number."""
    kit = pytest.importorskip("tokenizers")
    own = kit.Tokenizer(kit.models.WordLevel({"a": 1, "b": 2, "?": 9}, unk_token="?"))
    own.pre_tokenizer = kit.pre_tokenizers.Whitespace()
    own.enable_padding(pad_id=9, pad_token="?")
    known = Tokens(own)
    ids = known.encode(["a b", "a", "c"])
    assert known.size == 13
    assert int(ids.max()) == 12
    assert ids[:, 1].tolist() == [ids[0, 1], PADDING, PADDING]
    assert known.decode(ids) == ["a b", "a", "?"]
    assert translation_points(["a b", "a"], ["a b", "a"], known).mask.sum(-1).tolist() == [[3, 2]]


def test_files_of_tokenizers_and_pairs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Tokens.load(tmp_path / "none.json")
    path = tmp_path / "other.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"path: expected a tokenizer's file of JSON, got another in .*other\.json"):
        Tokens.load(path)
    path.write_text("\ufeffdeu\tJa.\tYes.\n", encoding="utf-8")  # as spreadsheets begin a file
    assert pair_file(path) == {"deu": (["Ja."], ["Yes."])}


def test_what_are_no_pairs_is_refused() -> None:
    known = tokens()
    assert known.decode([[known.size - 1, 0]]) == known.decode(torch.tensor([[known.size - 1]]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids: expected"):
        known.decode(torch.tensor([[True]]))
    with pytest.raises(ValueError, match="pairs: expected a dictionary of languages, got list"):
        TranslationTasks([("Ja.", "Yes.")], known)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pairs of 'deu': expected two lists, .* got 3 parts"):
        TranslationTasks({"deu": [("Ja.", "Yes."), ("Wo", "Where"), ("Da", "There")]}, known)  # type: ignore[dict-item]
    for name in ("batch", "queries"):
        with pytest.raises(ValueError, match=f"{name}: expected .*, got 'x'"):
            TranslationTasks(PAIRS, known, **{"batch": 1, "shots": 1, name: "x"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"decode by the tokenizer that encoded, of generated texts .* tokens\[0, 0\]"):
        known.decode(torch.zeros(1, 1, 2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="shots: expected a count"):
        TranslationTasks(PAIRS, known, shots=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens: expected Tokens, got NoneType"):
        translation_points(["Ja."], ["Yes."], None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sources: expected a list of texts, got None"):
        translation_points(None, ["Yes."], known)  # type: ignore[arg-type]
