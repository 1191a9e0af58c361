"""Intents as tasks: labels by name, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import bayesmeta as bm
from bayesmeta.tasks import SlotTasks, WordVectors, slot_domains, slot_file, slot_names, slot_points, spelled
from bayesmeta.tasks.slot_files import Tagged

BOOK: list[Tagged] = [
    (["a", "table", "in", "Rome"], [None, None, None, "city"]),
    (["Oslo", "at", "9"], ["city", None, "hour"]),
    (["at", "10", "please"], [None, "hour", None]),
]
PLAY: list[Tagged] = [(["play", "jazz"], [None, "genre"]), (["rock", "in", "Rome"], ["genre", None, "city"])]


def test_known_slots_keep_their_numbers_and_others_do_not() -> None:
    source = SlotTasks({"book": BOOK}, spelled, known=["city"], labels=6, batch=1, shots=2, queries=1)
    numbers = set()
    for index in range(30):
        episode = source[index]
        for part in episode:
            for row, words in zip(part.y[0], part.x[0], strict=True):
                length = int((words > 0).any(-1).sum())
                sentence = next(one for one in BOOK if torch.equal(spelled(one[0]), words[:length]))
                for label, slot in zip(row.tolist(), sentence[1], strict=False):
                    assert (label == 0) == (slot is None)
                    assert (label == 1) == (slot == "city")
                    numbers |= {label} if slot == "hour" else set()
        assert torch.equal(episode.support.mask, (episode.support.x > 0).any(-1))
    assert numbers == {2, 3, 4, 5}


def test_hidden_slots_are_numbered_as_new_ones() -> None:
    source = SlotTasks({"book": BOOK, "play": PLAY}, spelled, known=["city"], hidden=1.0, batch=2, shots=1, queries=1)
    assert source.labels == 4
    assert all((source[index].support.y != 1).all() for index in range(20))


def test_the_support_shows_what_its_slots_are_called() -> None:
    plain = SlotTasks({"book": BOOK, "play": [*PLAY, PLAY[0]]}, spelled, batch=2, shots=1, queries=2)
    named = SlotTasks({"book": BOOK, "play": [*PLAY, PLAY[0]]}, spelled, batch=2, shots=1, queries=2, named=True)
    for index in range(5):
        (support, query), (told, asked) = plain[index], named[index]
        length = support.y.shape[-1]
        assert all(map(torch.equal, asked, query))
        assert all(map(torch.equal, [part[:, :1, :length] for part in told], support))
        assert told.y.shape == (2, 3, length)
        for task in range(2):
            intent = named.intents[int(named.members(index)[task])]
            words = [spelled(["=", name]) for name in named.slots[intent]]
            assert all(torch.equal(told.x[task, 1 + k, :2], one) for k, one in enumerate(words))
            labels = told.y[task, 1:, 1]
            assert labels.unique().tolist() == [1, 2]
            assert not told.y[task, 1:, 0].any()
            assert told.mask[task, 1:].sum() == 4
            shown = {*query.y[task][query.y[task] > 0].tolist(), *support.y[task][support.y[task] > 0].tolist()}
            assert shown <= set(labels.tolist())
    assert slot_names(["timeRange", "served_dish"]) == [
        (["=", "time", "range"], [None, "timeRange", "timeRange"]),
        (["=", "served", "dish"], [None, "served_dish", "served_dish"]),
    ]
    with pytest.raises(ValueError, match="names: expected slots' names of words, got '_'"):
        slot_names(["_"])
    with pytest.raises(ValueError, match="names: expected a list of slots' names, got one name"):
        slot_names("city")


def test_own_sentences() -> None:
    own = [(["to", "Rome", "today"], [None, "city", "day"]), (["Oslo"], ["city"]), *slot_names(["day"])]
    told = slot_points(own, ["day", "city"], spelled)
    assert told.x.shape == (1, 3, 3, 12)
    assert told.y.tolist() == [[[0, 2, 1], [2, 0, 0], [0, 1, 0]]]
    assert told.mask.tolist() == [[[True, True, True], [True, False, False], [True, True, False]]]
    assert torch.equal(told.x[0, 1, :1], spelled(["Oslo"]))
    assert not told.x[~told.mask].any()
    refused: list[tuple[tuple[Any, ...], str]] = [
        (([], ["city"], spelled), "sentences: expected one at least"),
        ((own, ["city"], spelled), r"sentences: expected slots among \['city'\], got .*'day'.* at 0"),
        ((own, "city", spelled), "slots: expected a list of names, each once, got 'city'"),
        ((own, ["day", "city", "day"], spelled), "slots: expected a list of names, each once"),
        (
            ([(["Rome"], [])], ["city"], spelled),
            "sentences: expected a slot or None for each word, got 0 for 1 words at 0",
        ),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            slot_points(*arguments)


def test_sentences_of_vectors_have_any_length() -> None:
    """A network that reads word by word says the same of a sentence alone and filled up."""
    vectors = WordVectors.learned([words for words, _ in 3 * (BOOK + PLAY)], size=4)
    learner = bm.ANIL(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), bm.likelihoods.Categorical(event_dims=1))
    posterior = learner(slot_points(BOOK, ["city", "hour"], vectors))
    for words in (["Rome"], ["a", "table", "at", "10", "in", "Oslo", "please"]):
        alone = bm.distributions.class_probabilities(posterior(vectors(words)[None]))
        assert alone.shape == (1, 1, len(words), 3)
        each = [bm.distributions.class_probabilities(posterior(vectors([word] * 4)[None]))[0, 0, 0] for word in words]
        torch.testing.assert_close(alone[0, 0], torch.stack(each))
    with pytest.raises(ValueError, match=r"x: expected inputs of event shape \(4, 4\).*got \(2, 5\)"):
        posterior(torch.zeros(1, 2, 5))


def test_learners_take_them_named_too() -> None:
    source = SlotTasks({"book": [*BOOK, BOOK[0]], "play": [*PLAY, (["jazz"], ["genre"])]}, spelled, batch=2, shots=1,
                       queries=2, named=True)  # fmt: skip
    body = torch.nn.Sequential(torch.nn.Embedding(2048, 8), torch.nn.Flatten(-2), torch.nn.Linear(96, 8))
    learner = bm.ANIL(body, torch.nn.Linear(8, source.labels), bm.likelihoods.Categorical(event_dims=1))
    history = bm.fit(learner, source, steps=3, progress=False)
    assert all(map(math.isfinite, history.losses))


def test_learners_take_them() -> None:
    source = SlotTasks({"book": BOOK, "play": PLAY}, spelled, batch=2, shots=1, queries=1)
    body = torch.nn.Sequential(
        torch.nn.Embedding(2048, 8), torch.nn.Flatten(-2), torch.nn.Linear(96, 8), torch.nn.Tanh()
    )
    learner = bm.ANIL(body, torch.nn.Linear(8, source.labels), bm.likelihoods.Categorical(event_dims=1))
    bm.fit(learner, source, steps=2, progress=False)
    metrics = [bm.metrics.TokenF1(), bm.metrics.SpanF1(), bm.metrics.SequenceECE(), bm.metrics.Perplexity()]
    assert list(bm.evaluate(learner, source, episodes=3, metrics=metrics)) == [
        "token F1", "span F1", "sequence ECE", "Perplexity",
    ]  # fmt: skip


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "slots.tsv"
    path.write_text("# book\na\ntable\nRome\tcity\n\nOslo\tcity\nat\tO\n# play\njazz\tgenre\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 8: expected an empty line before"):
        slot_file(path)
    path.write_text("# book\na\ntable\nRome\tcity\n\nOslo\tcity\nat\tO\n\n# play\njazz\tgenre\n", encoding="utf-8")
    assert slot_file(path) == {
        "book": [(["a", "table", "Rome"], [None, None, "city"]), (["Oslo", "at"], ["city", None])],
        "play": [(["jazz"], ["genre"])],
    }
    path.write_text("jazz\tgenre\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: expected a word, a tab and its slot, below a line '# intent'"):
        slot_file(path)
    with pytest.raises(FileNotFoundError, match=r"expected snips.json.gz in"):
        bm.tasks.snips(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected span_extraction_dstc8_restaurant8k.json.gz in"):
        slot_domains(tmp_path)


def test_snips() -> None:
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no SNIPS: BAYESMETA_DATA is not set")
    sentences = bm.tasks.snips()
    assert {intent: len(mine) for intent, mine in sentences.items()}["AddToPlaylist"] == 2042
    assert SlotTasks(sentences, spelled).labels == 15


def test_domains(tmp_path: Path) -> None:
    text = "A bus to New York on May 3 please"
    given = [
        [text, [["to", 9, 17], ["when", 21, 26], ["where", 13, 17]], []],
        ["May 3", [["when", 0, 5]], []],
        [text, [], []],
    ]
    with gzip.open(tmp_path / "span_extraction_dstc8_restaurant8k.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"bus": {"train": given, "test": []}}, file)
    slots = [None, None, None, "to", "to", None, "when", "when", None]
    assert slot_domains(tmp_path) == {"bus": [(text.split(), slots)]}


def test_word_vectors_factor_what_words_share_with_their_neighbours() -> None:
    """By a full decomposition of the matrix, counted pair by pair."""
    generator = torch.Generator().manual_seed(0)
    words = [f"w{k}" for k in range(6)]
    texts = [[words[k] for k in torch.randint(6, (7,), generator=generator).tolist()] for _ in range(30)]
    vectors = WordVectors.learned(texts, size=6, least=1)
    count = torch.zeros(6, 12, dtype=torch.double)
    for text in texts:
        places = [words.index(word) for word in text]
        for k, m in itertools.permutations(range(7), 2):
            if abs(k - m) <= 2:
                count[places[k], places[m] + 6 * (m > k)] += 1 / abs(k - m)
    smooth = count.sum(0) ** 0.75
    told = (count / count.sum(1, keepdim=True) / smooth * smooth.sum()).log().clamp(min=0.0)
    left, values, _ = torch.linalg.svd(told, full_matrices=False)
    full = torch.nn.functional.normalize(left * values.sqrt(), dim=1)
    found = vectors(words).double()
    torch.testing.assert_close(found @ found.T, full @ full.T, atol=1e-4, rtol=0.0)
    assert vectors(["W3", "unheard"]).norm(dim=1).tolist() == pytest.approx([1.0, 0.0])
    state = torch.random.get_rng_state()
    assert torch.equal(WordVectors.learned(texts, size=2)(words), WordVectors.learned(texts, size=2)(words))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_word_vectors_refuse_what_is_none() -> None:
    with pytest.raises(ValueError, match=r"vectors: expected a row for each word, got \(3, 2\) for 2"):
        WordVectors(["a", "b"], torch.zeros(3, 2))
    with pytest.raises(ValueError, match="size: expected at most as many as the 1 words"):
        WordVectors.learned([["a", "b"], ["a"]], size=2, least=2)
    with pytest.raises(ValueError, match="sentences: expected words side by side"):
        WordVectors.learned([["a"], ["b"]], size=2, least=1)
    with pytest.raises(ValueError, match="words: expected a list of words"):
        WordVectors(["a"], torch.zeros(1, 2))("a")


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no more than each intent has sentences, got 5 and 15 of the 3 of 'book'"):
        SlotTasks({"book": BOOK}, spelled, batch=1)
    with pytest.raises(ValueError, match="expected a slot or None for each word, got 1 for 2 words at 1"):
        SlotTasks({"book": [BOOK[0], (["a", "b"], [None])]}, spelled, batch=1, shots=1, queries=1)
    with pytest.raises(ValueError, match="expected a slot or None for each word, got 0 for 0 words at 1"):
        SlotTasks({"book": [BOOK[0], ([], [])]}, spelled, batch=1, shots=1, queries=1)
    with pytest.raises(ValueError, match="labels: expected at least 3"):
        SlotTasks({"book": BOOK}, spelled, labels=2, batch=1, shots=1, queries=1)
    with pytest.raises(ValueError, match="batch: expected at most the 1 intents"):
        SlotTasks({"book": BOOK}, spelled, batch=2, shots=1, queries=1)
    with pytest.raises(ValueError, match="hidden: expected a probability from 0 to 1"):
        SlotTasks({"book": BOOK}, spelled, hidden=2, batch=1, shots=1, queries=1)


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (("ab", [None, None]), "expected a list of words and one of their slots"),
        ("ab", "expected a list of words and one of their slots"),
        ((["a", ""], [None, None]), "expected words, got ''"),
        ((["a", None], [None, None]), "expected words, got None"),
        ((["a", "b"], ["O", "city"]), "expected slots' names, and None for none, got 'O'"),
        ((["a", "b"], [0, 1]), "expected slots' names, and None for none, got 0"),
    ],
)
def test_what_is_no_tagged_sentence_is_refused(sentence: Any, message: str) -> None:
    """Rather than read as letters, or O as a slot."""
    with pytest.raises(ValueError, match=f"sentences of 'book': {message}.* at 1"):
        SlotTasks({"book": [BOOK[0], sentence]}, spelled, batch=1, shots=1, queries=1)


def test_other_arguments_are_refused_by_name() -> None:
    few = {"batch": 1, "shots": 1, "queries": 1}
    with pytest.raises(ValueError, match="known: expected a list of slots' names, got one name, 'city'"):
        SlotTasks({"book": BOOK}, spelled, known="city", **few)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sentences: expected a dictionary of intents, got list"):
        SlotTasks(BOOK, spelled, **few)  # type: ignore[arg-type]
    for encode, got in ((lambda words: torch.zeros(1, 3), r"\(1, 3\)"), (list, "list")):
        with pytest.raises(
            ValueError, match=f"encode: expected a tensor with a row for each word, 4 of them, got {got}"
        ):
            SlotTasks({"book": BOOK}, encode, **few)  # type: ignore[arg-type]
    for name, value in (("labels", 4.5), ("labels", "4"), ("hidden", "half"), ("hidden", None)):
        with pytest.raises(ValueError, match=f"{name}: expected .* got {value!r}"):
            SlotTasks({"book": BOOK}, spelled, **few, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="words: expected a list of words, got one text"):
        spelled("Rome")


def test_a_file_of_slots_may_have_a_byte_order_mark_but_no_empty_word(tmp_path: Path) -> None:
    path = tmp_path / "slots.tsv"
    path.write_text("\ufeff# book\nRome\tcity\n", encoding="utf-8")
    assert slot_file(path) == {"book": [(["Rome"], ["city"])]}
    path.write_text("# book\n\tcity\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected a word, a tab and its slot"):
        slot_file(path)


@pytest.mark.parametrize(
    ("words", "vectors", "said"),
    [
        (["a"], torch.tensor([[float("inf"), 0.0]]), "vectors: expected finite numbers, got NaN or infinity of 'a'"),
        ("ab", torch.zeros(2, 2), "words: expected a list of words, got one text"),
        ([3], torch.zeros(1, 2), "words: expected words, got 3 among them"),
        (None, torch.zeros(1, 2), "words: expected a list of words, got NoneType"),
    ],
)
def test_words_and_vectors_that_are_none_are_named(words: Any, vectors: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WordVectors(words, vectors)


def test_no_words_have_no_rows_and_texts_are_not_read_as_letters() -> None:
    assert spelled([]).shape == (0, 12)
    assert WordVectors(["a"], torch.ones(1, 2))([]).shape == (0, 2)
    assert WordVectors([], torch.zeros(0, 2))(["a"]).tolist() == [[0.0, 0.0]]
    assert WordVectors(["a"], [[1, 2]])(["a"]).is_floating_point()  # type: ignore[arg-type]
    for sentences in ("go to rome", ["go to rome"] * 3):
        with pytest.raises(ValueError, match="sentences: expected"):
            WordVectors.learned(sentences, size=2)
    with pytest.raises(ValueError, match="words: expected words, got None among them"):
        spelled([None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"known": 3}, "known: expected a list of slots' names, got 3"),
        ({"known": ["city", "city"]}, "known: expected different names"),
        ({"encode": None}, "encode: expected a function"),
        ({"encode": lambda words: torch.zeros(len(words), len(words))}, "encode: expected rows of one type and shape"),
        ({"encode": lambda words: torch.full((len(words), 2), float("nan"))}, "encode: expected finite numbers"),
        ({"sentences": {}}, "sentences: expected a dictionary of intents, got dict of none"),
        ({"sentences": {"book": None}}, "sentences of 'book': expected a list of"),
        ({"sentences": {"book": [(["a", "b"], "xy"), BOOK[0]]}}, "sentences of 'book': expected a list of words"),
    ],
)
def test_slots_and_encoders_that_are_none_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        SlotTasks(**{"sentences": {"book": BOOK}, "encode": spelled, "batch": 1, "shots": 1, "queries": 1, **options})
    for names in (3, [None], [3]):
        with pytest.raises(ValueError, match="names: expected a list of slots' names"):
            slot_names(names)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    options = {"hidden": numpy.float64(0.5), "labels": numpy.int64(9), "batch": 1, "shots": 1, "queries": 1}
    assert SlotTasks({"book": BOOK}, spelled, **options).labels == 9
