"""Metrics of none of these, against all points at once and scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.distributions import Categorical

from bayesmeta import Points
from bayesmeta.metrics import Accuracy, Inside, Metric, Outside, OutsideAUPR, OutsideRecall

W = 4
"""The last of five labels is that of none."""


def some(tasks: int = 30, points: int = 40, seed: int = 0) -> tuple[Categorical, Points]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(W + 1, (tasks, points), generator=generator)
    # Log-odds of the last label in the middles of bins that are apart, so that bins lose nothing.
    odds = 0.3 + torch.randint(-8, 8, (tasks, points), generator=generator).double() + 2.0 * (y == W)
    inside = torch.randn(tasks, points, W, generator=generator, dtype=torch.float64)
    inside.scatter_add_(-1, y.clamp(max=W - 1)[..., None], torch.full((tasks, points, 1), 2.0, dtype=torch.float64))
    p_none = odds.sigmoid()
    p = torch.cat([inside.softmax(-1) * (1 - p_none[..., None]), p_none[..., None]], -1)
    mask = torch.rand(tasks, points, generator=generator) < 0.8
    return Categorical(probs=p), Points(torch.zeros(tasks, points, 1), y, mask)


def figure(metric: Metric, prediction: Categorical, given: Points) -> float:
    return metric.reduce(metric.statistic(prediction, given).sum(0)).item()


def flat(prediction: Categorical, given: Points) -> tuple[torch.Tensor, torch.Tensor]:
    return prediction.probs[given.mask].round(decimals=12), given.y[given.mask]  # so that ties are ties


def test_average_precision_is_scikit_learns() -> None:
    prediction, given = some()
    p, y = flat(prediction, given)
    expected = average_precision_score((y == W).numpy(), p[:, -1].numpy())
    assert figure(OutsideAUPR(), prediction, given) == pytest.approx(expected, abs=1e-9)


def test_recall_at_an_accuracy_is_that_of_the_lowest_threshold() -> None:
    prediction, given = some()
    p, y = flat(prediction, given)
    outside, right = y == W, p[:, :-1].argmax(-1) == y
    for accuracy in (0.3, 0.5, 0.7):
        recalls = [0.0]
        for threshold in [*p[:, -1].unique().tolist(), 1.1]:
            below = p[:, -1] < threshold
            if (right & below)[~outside].double().mean() >= accuracy:
                recalls.append((~below)[outside].double().mean().item())
        found = figure(OutsideRecall(accuracy), prediction, given)
        assert found == pytest.approx(max(recalls), abs=1e-9)
        assert 0 < found < 1
    assert figure(OutsideRecall(0.999), prediction, given) == 0.0


def test_inside_and_outside_are_the_metric_of_each_kind() -> None:
    prediction, given = some()
    p, y = flat(prediction, given)
    right = (p.argmax(-1) == y).double()
    assert figure(Inside(Accuracy()), prediction, given) == pytest.approx(right[y < W].mean().item())
    assert figure(Outside(Accuracy()), prediction, given) == pytest.approx(right[y == W].mean().item())
    assert (Inside(Accuracy()).name, Outside(Accuracy()).name) == ("Accuracy inside", "Accuracy outside")
    assert Inside(Accuracy()).better == "higher"


def test_without_points_outside_there_is_no_figure() -> None:
    prediction, given = some()
    inside = given._replace(mask=given.mask & (given.y < W))
    for metric in (OutsideAUPR(), OutsideRecall()):
        assert torch.tensor(figure(metric, prediction, inside)).isnan()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="accuracy: expected a probability strictly between 0 and 1, got 95"):
        OutsideRecall(95)
