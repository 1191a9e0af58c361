"""Overlap and decisions against brute force over all masks."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from pyro.distributions import Categorical
from torch import Tensor

from bayesmeta import Points
from bayesmeta.metrics import ECE, NLL, Accuracy, Dice, Edges, IoU, best_mask, bootstrap

D = torch.float64


def expected_dice(chosen: Tensor, masks: Tensor, weight: Tensor) -> float:
    """Of masks ``(K, P)`` that are true with probability `weight` ``(K,)``; two empty masks agree."""
    sizes = chosen.sum() + masks.sum(1)
    dice = torch.where(sizes > 0, 2 * (chosen & masks).sum(1) / sizes.clamp(min=1), 1.0)
    return float((dice.to(D) * weight).sum())


@pytest.mark.parametrize("seed", range(8))
def test_the_best_mask_is_that_of_all_masks_or_as_good(seed: int) -> None:
    pixels = 10
    p = torch.rand(pixels, generator=torch.Generator().manual_seed(seed), dtype=D) ** (1 + seed % 3)
    masks = torch.tensor(list(product([False, True], repeat=pixels)))
    weight = torch.where(masks, p, 1 - p).prod(1)
    values = [expected_dice(one, masks, weight) for one in masks]
    chosen = best_mask(p[None])[0]
    assert expected_dice(chosen, masks, weight) > max(values) - 0.01
    best = masks[torch.tensor(values).argmax()]  # which holds the likeliest pixels, as the decision does
    assert p[best].min() > p[~best].max()


def test_the_best_mask_of_hundreds_of_pixels_is_cut_at_half_the_dice() -> None:
    p = torch.rand(1, 40, 50, generator=torch.Generator().manual_seed(0), dtype=D) ** 4
    chosen = best_mask(p)
    value = 2 * p[chosen].sum() / (chosen.sum() + p.sum())
    torch.testing.assert_close(chosen, p > value / 2)
    assert (chosen & (p < 0.5)).any()


def test_an_empty_picture_is_an_answer_and_void_pixels_count_for_nothing() -> None:
    assert not best_mask(torch.full((1, 3, 3), 1e-3)).any()
    assert not best_mask(torch.zeros(1, 3, 3)).any()
    assert best_mask(torch.ones(1, 3, 3)).all()
    p, mask = torch.tensor([[0.9, 0.2], [0.3, 0.1]]), torch.tensor([[False, True], [True, True]])
    assert best_mask(p, mask).tolist() == best_mask(p * mask).tolist()
    assert not best_mask(p, mask)[0, 0]


def given(seed: int = 0, classes: int = 2) -> tuple[Categorical, Points, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 6, 7, classes, generator=g, dtype=D)
    y = torch.randint(classes, (2, 3, 6, 7), generator=g)
    mask = torch.rand(2, 3, 6, 7, generator=g) < 0.8
    return Categorical(logits=logits).to_event(2), Points(torch.zeros(2, 3, 1, 6, 7), y * mask, mask), logits


@pytest.mark.parametrize("classes", [2, 4])
def test_overlaps_are_those_of_their_definition(classes: int) -> None:
    prediction, points, logits = given(classes=classes)
    said = logits.argmax(-1)
    iou, dice = [], []
    for label in range(1 if classes == 2 else 0, classes):
        for b in range(2):
            a, t = ((part[b] == label) & points.mask[b] for part in (said, points.y))
            iou.append((a & t).sum() / (a | t).sum())
            dice.append(2 * (a & t).sum() / (a.sum() + t.sum()))
    for metric, expected in ((IoU("likeliest"), iou), (Dice("likeliest"), dice)):
        rows = metric.statistic(prediction, points)
        torch.testing.assert_close(metric.reduce(rows.sum(0)), torch.stack(expected).double().mean())
        found = bootstrap(metric, rows)
        assert found.low <= found.value <= found.high


def test_labels_that_no_task_shows_do_not_count() -> None:
    prediction, points, _ = given(classes=3)
    logits = prediction.base_dist.logits.clone()
    logits[..., 2] = -100
    points = points._replace(y=points.y.clamp(max=1))
    metric = IoU("likeliest")
    rows = metric.statistic(Categorical(logits=logits).to_event(2), points)
    assert rows[:, 5].tolist() == [0, 0]
    torch.testing.assert_close(metric.reduce(rows.sum(0)), (rows[:, [0, 2]]).mean())


def test_pixels_near_edges_and_far_from_them_are_all_pixels() -> None:
    prediction, points, logits = given()
    y = torch.zeros(2, 3, 6, 7).long()
    y[..., 4:] = 1
    points = points._replace(y=y * points.mask)
    near = torch.zeros(7, dtype=torch.bool)
    near[3:5] = True
    rows = Edges(Accuracy(), distance=1).statistic(prediction, points._replace(mask=torch.ones_like(points.mask), y=y))
    right = logits.argmax(-1) == y
    torch.testing.assert_close(rows[:, 0], right[..., near].flatten(1).sum(1).double())
    for metric in (NLL(), ECE(), Accuracy()):
        parts = [Edges(metric, far=far).statistic(prediction, points) for far in (False, True)]
        torch.testing.assert_close(sum(parts)[:, -1], metric.statistic(prediction, points)[:, -1])
    assert Edges(ECE(), far=True).name == "ECE far from edges"


def test_other_predictions_are_refused() -> None:
    one = Categorical(logits=torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="predictions: expected pictures of labels"):
        IoU().statistic(one, Points(torch.zeros(1, 2, 1), torch.zeros(1, 2).long(), torch.ones(1, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match='decision: expected "dice" or "likeliest"'):
        IoU("half")  # type: ignore[arg-type]
