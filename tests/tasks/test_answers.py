"""Questions and their candidates: the right one is where it says, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.networks import Choice
from bayesmeta.tasks import Question, sentence_choices, span_choices

TEXT = "Rome lies on the Tiber, in Italy. Oslo lies on a fjord in Norway. Bern lies on the Aare, they say."


def asked(answer: str, text: str = "What lies on the water?", paragraph: str = TEXT) -> Question:
    return Question(text, paragraph, answer, paragraph.index(answer), "en", "towns", "what")


def test_sentences() -> None:
    found = sentence_choices([asked("Rome"), asked("Norway"), asked("Aare"), asked("Norway. Bern")], most=5)
    assert found.y.tolist() == [0, 1, 2]  # one answer is in two sentences
    assert [one.answer for one in found.questions] == ["Rome", "Norway", "Aare"]
    assert (found.x[..., -1] == torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])).all()
    assert (found.x[:, 3:] == 0).all()


def test_chinese_sentences() -> None:
    paragraph = "北京是中国的首都。东京是日本的首都。巴黎是法国的首都。"
    one = Question("哪里是日本的首都?", paragraph, "东京", paragraph.index("东京"), "zh", "towns", "where")
    found = sentence_choices([one], most=4)
    assert found.y.tolist() == [1]
    assert found.x[0, :3, 2].argmax() == 1  # pieces of words agree where there are no spaces


def test_spans() -> None:
    found = span_choices([asked("Oslo"), asked("on a fjord"), asked("the Tiber, in Italy")], words=40, widths=4)
    assert found.x.shape[:2] == (2, 160)  # the third has five words and marks
    words = TEXT.replace(",", " ,").replace(".", " .").split()
    assert found.y.tolist() == [words.index("Oslo") * 4, (words.index("a") - 1) * 4 + 2]
    there = found.x[..., -1].reshape(-1, 40, 4)
    for start in range(40):
        for width in range(1, 5):
            assert bool(there[0, start, width - 1]) == (start + width <= len(words))


def test_what_is_not_there_is_never_chosen() -> None:
    found = sentence_choices([asked("Rome"), asked("Norway"), asked("Aare")], most=8)
    network = Choice(nn.Linear(found.x.shape[-1] - 1, 1))
    support = bm.points(found.x, found.y, classes=8)
    for learner in (bm.MAML(network, bm.likelihoods.Categorical()), bm.ABML(network, bm.likelihoods.Categorical())):
        p = bm.distributions.class_probabilities(learner(support)(found.x))
        assert (p[..., 3:] == 0).all()
        torch.testing.assert_close(p.sum(-1), torch.ones(1, 3))
    assert (network(found.x).argmax(-1) < 3).all()


def test_xquad() -> None:
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no XQuAD: BAYESMETA_DATA is not set")
    questions = bm.tasks.xquad(languages=["en", "zh"])
    assert len(questions) == 2 * 1190
    assert len({one.article for one in questions}) == 48
    assert all(one.paragraph[one.start :].startswith(one.answer) for one in questions)
    assert questions[0].kind == questions[1190].kind == "how many"
    with pytest.raises(ValueError, match=r"languages: expected some of ar, de, .* got \['xx'\]"):
        bm.tasks.xquad(languages=["xx"])


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions: expected some whose answer is among the candidates, got none"):
        sentence_choices([asked("Rome", paragraph="Rome lies on the Tiber.")])
    with pytest.raises(ValueError, match="most: expected a whole number"):
        sentence_choices([asked("Rome")], most=0)
    with pytest.raises(FileNotFoundError, match=r"expected xquad.json.gz in"):
        bm.tasks.xquad(tmp_path)
    with pytest.raises(ValueError, match=r"x: expected candidates \(N, W, F \+ 1\)"):
        Choice(nn.Linear(1, 1))(torch.zeros(3, 1))
    with pytest.raises(
        ValueError, match=r"network: expected one score for each candidate, \(3, 4, 1\), got \(3, 4, 2\)"
    ):
        Choice(nn.Linear(1, 2))(torch.ones(3, 4, 2))
    with pytest.raises(ValueError, match="questions: expected a list of questions, got one"):
        sentence_choices(asked("Rome"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="questions: expected Question at 0, got str"):
        span_choices(["Rome"])  # type: ignore[list-item]


@pytest.mark.parametrize("choices", [sentence_choices, span_choices])
@pytest.mark.parametrize("wrong", [{"start": 0}, {"start": -1}, {"start": None}, {"start": 999}, {"answer": ""}])
def test_an_answer_that_is_not_where_it_says_is_refused(
    choices: Callable[[list[Question]], object], wrong: dict[str, Any]
) -> None:
    """Else another sentence, or other words, would be learned as the right ones."""
    with pytest.raises(ValueError, match=r"questions: expected the answer '.*' at .* of its paragraph, .* at 1"):
        choices([asked("Rome"), asked("Oslo")._replace(**wrong)])
