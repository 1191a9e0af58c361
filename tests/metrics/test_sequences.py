"""Metrics of sequences, against counts by hand."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor

import bayesmeta as bm
from bayesmeta.metrics import NLL, ExactMatch, Perplexity, SequenceECE, SpanF1, TokenF1


def certain(labels: Tensor, classes: int = 4) -> Categorical:
    return Categorical(logits=20.0 * torch.nn.functional.one_hot(labels, classes).double()).to_event(1)


def spans(row: list[int]) -> set[tuple[int, int, int]]:
    """Label, beginning and end of each run of one label other than 0."""
    found, begin = set(), 0
    for place in range(1, len(row) + 1):
        if place == len(row) or row[place] != row[begin]:
            if row[begin]:
                found.add((row[begin], begin, place - 1))
            begin = place
    return found


def given(y: Tensor, mask: Tensor) -> bm.Points:
    return bm.Points(torch.zeros(*y.shape[:2], 1), y * mask, mask)


def test_span_and_token_f1_are_those_of_sets() -> None:
    torch.manual_seed(0)
    y, label = torch.randint(3, (2, 40, 6)), torch.randint(3, (2, 40, 6))
    label = torch.where(torch.rand(y.shape) < 0.7, y, label)
    mask = torch.arange(6) < torch.randint(1, 7, (2, 40, 1))
    right = found = there = tokens_right = tokens_found = tokens_there = 0
    for truth, guess, seen in zip(y.flatten(0, 1), label.flatten(0, 1), mask.flatten(0, 1), strict=True):
        one, other = spans(truth[seen].tolist()), spans(guess[seen].tolist())
        right, found, there = right + len(one & other), found + len(other), there + len(one)
        pairs = list(zip(truth[seen].tolist(), guess[seen].tolist(), strict=True))
        tokens_right += sum(a == b > 0 for a, b in pairs)
        tokens_found += sum(b > 0 for _, b in pairs)
        tokens_there += sum(a > 0 for a, _ in pairs)
    points, prediction = given(y, mask), certain(label)
    for metric, expected in (
        (SpanF1(), 2 * right / (found + there)),
        (TokenF1(), 2 * tokens_right / (tokens_found + tokens_there)),
    ):
        assert float(metric.reduce(metric.statistic(prediction, points).sum(0))) == pytest.approx(expected, abs=1e-12)
        assert metric.better == "higher"


def test_whole_sequences() -> None:
    y = torch.tensor([[[0, 1, 2], [1, 1, 0], [2, 2, 2]]])
    mask = torch.tensor([[[True, True, True], [True, True, False], [False, False, False]]])
    label = torch.tensor([[[0, 1, 1], [1, 1, 3], [0, 0, 0]]])
    points = given(y, mask)
    metric = ExactMatch()
    assert float(metric.reduce(metric.statistic(certain(label), points).sum(0))) == 0.5  # of two that are observed
    p = torch.tensor([0.7, 0.1, 0.1, 0.1]).double()
    prediction = Categorical(probs=p).expand(torch.Size([1, 3, 3])).to_event(1)
    ece = SequenceECE()
    # The likeliest are 000 at .343 and 00 at .49, both wrong.
    assert float(ece.reduce(ece.statistic(prediction, points).sum(0))) == pytest.approx((0.343 + 0.49) / 2)
    perplexity, loss = (float(m.reduce(m.statistic(prediction, points).sum(0))) for m in (Perplexity(), NLL()))
    assert perplexity == pytest.approx(math.exp(loss))
    assert loss == pytest.approx(-(math.log(0.7) + 4 * math.log(0.1)) / 5)


def test_a_calibrated_predictors_sequence_ece_is_small() -> None:
    torch.manual_seed(0)
    prediction = Categorical(logits=torch.randn(1, 20_000, 3, 3).double() * 2).to_event(1)
    y = prediction.sample()
    points = given(y, torch.ones_like(y, dtype=torch.bool))
    assert float(SequenceECE().reduce(SequenceECE().statistic(prediction, points).sum(0))) < 0.015


def test_other_predictions_are_refused() -> None:
    points = given(torch.zeros(1, 2, 3).long(), torch.ones(1, 2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected predictions of sequences of labels"):
        SpanF1().statistic(Normal(torch.zeros(1, 2, 3), 1.0).to_event(1), points)
    with pytest.raises(ValueError, match="bins"):
        SequenceECE(bins=0)
