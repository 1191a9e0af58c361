"""Metrics of boxes against COCO's own evaluation, netcal, brute force and cases made by hand."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

import netcal.metrics
import numpy as np
import pytest
import torch
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor

import bayesmeta as bm
from bayesmeta.distributions import BoxGrid, box_overlaps, grid_of, mixture, sample
from bayesmeta.distributions.boxes import boxes
from bayesmeta.metrics import (
    COCO_OVERLAPS,
    ECE,
    NLL,
    AveragePrecision,
    Centres,
    DetectionECE,
    EdgeCoverage,
    EdgeWidth,
    ErrorAUROC,
    Metric,
    bootstrap,
    default_metrics,
    detections,
    risk_coverage,
)
from bayesmeta.metrics.detection import average_precision_of_bins, score_bins
from bayesmeta.metrics.matching import match

D = torch.float64
METRICS = [AveragePrecision(), AveragePrecision(COCO_OVERLAPS), DetectionECE(), EdgeCoverage(), EdgeWidth()]


def scene(
    seed: int = 0, *, tasks: int = 3, pictures: int = 4, cells: tuple[int, int] = (4, 5), wrong: float = 1.0
) -> tuple[BoxGrid, bm.Points]:
    """Predictions of boxes in pictures of 32 x 40 pixels, and what they predict, with the logits off by `wrong`."""
    g = torch.Generator().manual_seed(seed)
    shape = (tasks, pictures, *cells)
    half = torch.tensor([-1.0, -1, 1, 1], dtype=D) * (0.4 + 0.8 * torch.rand(*shape, 4, generator=g, dtype=D))
    scale = 0.05 + 0.3 * torch.rand(*shape, 4, generator=g, dtype=D)
    logits = 2 * torch.randn(shape, generator=g, dtype=D) - 1
    d = BoxGrid(logits, half, scale, torch.tensor(5.0, dtype=D))
    with bm.randomness.seeded(seed):
        y = sample(d, 1)[0]
    d = BoxGrid(logits * wrong, half, scale, torch.tensor(5.0, dtype=D))
    mask = torch.rand(tasks, pictures, generator=g) < 0.8
    return d, bm.Points(torch.zeros(tasks, pictures, 3, 32, 40, dtype=D), y * mask[..., None, None, None], mask)


def pictures_of(d: BoxGrid, given: bm.Points) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes found, their scores and true boxes of each picture that is observed, by a plain loop."""
    rows = []
    for task, picture in given.mask.nonzero().tolist():
        one, scores = boxes(BoxGrid(*(p[task, picture] for p in (d.logits, d.loc, d.scale, d.df))), (32, 40))
        left: list[int] = []
        for place in scores.argsort(descending=True).tolist():
            if all(box_overlaps(one[[place]], one[[other]]) <= 0.5 for other in left):
                left.append(place)
        true = [
            [
                8 * (column + 0.5 + cell[1]),
                8 * (row + 0.5 + cell[2]),
                8 * (column + 0.5 + cell[3]),
                8 * (row + 0.5 + cell[4]),
            ]
            for row, line in enumerate(given.y[task, picture].tolist())
            for column, cell in enumerate(line)
            if cell[0]
        ]
        rows.append((one[left], scores[left], torch.tensor(true, dtype=D).reshape(-1, 4)))
    return rows


def coco(sets: list[list[tuple[Tensor, Tensor, Tensor]]], overlaps: tuple[float, ...]) -> np.ndarray:
    """The AP at each overlap of each set of pictures, by pycocotools: ``(L, sets)``. Each set is one of its categories."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def wide(box: Tensor) -> list[float]:
        left, top, right, bottom = box.tolist()
        return [left, top, right - left, bottom - top]

    truth, found = [], []
    for category, pictures in enumerate(sets):
        for picture, (given, scores, true) in enumerate(pictures):
            of = {"image_id": picture + 1, "category_id": category + 1}
            truth += [of | {"bbox": wide(box), "area": 1.0, "iscrowd": 0} for box in true]
            found += [
                of | {"bbox": wide(box), "score": score} for box, score in zip(given, scores.tolist(), strict=True)
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": k + 1} for k in range(max(map(len, sets)))],
            "annotations": [one | {"id": k + 1} for k, one in enumerate(truth)],
            "categories": [{"id": k + 1} for k in range(len(sets))],
        }
        data.createIndex()
        judge = COCOeval(data, data.loadRes(found), "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.array(overlaps), [100]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 0].mean(1)


class Sets(NamedTuple):
    """Sets of pictures, each of boxes around true ones, more or less, with scores that say so in part."""

    found: Tensor  # (S, M, P, 4)
    scores: Tensor
    kept: Tensor
    true: Tensor  # (S, M, Q, 4)
    there: Tensor

    def pictures(self) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        return [
            [(found[kept], scores[kept], true[there]) for found, scores, kept, true, there in zip(*one, strict=True)]
            for one in zip(*self, strict=True)
        ]

    def precision(self, places: Tensor, bins: int, overlaps: tuple[float, ...]) -> np.ndarray:
        """The AP of each overlap and set, ``(L, S)``, with scores in bins."""
        right = match(box_overlaps(self.found, self.true), self.scores, self.kept, self.there, overlaps)
        empty, places = torch.zeros(len(places), bins, dtype=D), places.flatten(1)
        count, *hits = (empty.scatter_add(1, places, part.flatten(1).to(D)) for part in (self.kept, *right))
        true = self.there.flatten(1).sum(1).to(D)
        return torch.stack([average_precision_of_bins(one, count, true) for one in hits]).numpy()


def random_sets(count: int, pictures: int = 8, boxes: int = 16, true: int = 12) -> Sets:
    g, lead = torch.Generator().manual_seed(0), (count, pictures)
    lows = 50 * torch.rand(*lead, true, 2, generator=g, dtype=D)
    truth = torch.cat([lows, lows + 5 + 20 * torch.rand(*lead, true, 2, generator=g, dtype=D)], -1)
    of = torch.randint(true, (*lead, boxes), generator=g)
    noise = 4 * torch.rand(*lead, boxes, 1, generator=g, dtype=D) * torch.randn(*lead, boxes, 4, generator=g, dtype=D)
    found = truth.gather(2, of[..., None].expand(noise.shape)) + noise
    found[..., 2:] = found[..., 2:].maximum(found[..., :2] + 1)
    there = torch.rand(*lead, true, generator=g) < 0.7
    logit = 1.5 * torch.randn(of.shape, generator=g, dtype=D) + 1.5 * there.gather(2, of) - 0.5 * noise.abs().mean(-1)
    return Sets(found, logit.sigmoid(), torch.rand(of.shape, generator=g) < 0.8, truth, there)


def test_average_precision_is_cocos_within_a_hundredth_on_a_thousand_sets() -> None:
    sets = random_sets(1000)
    expected = coco(sets.pictures(), (0.5,))
    found = sets.precision(score_bins(sets.scores, 1000), 1000, (0.5,))
    assert abs(found - expected).max() < 0.01
    assert expected.std() > 0.03


def test_with_a_bin_for_every_score_it_is_cocos_at_all_overlaps() -> None:
    sets = random_sets(20)
    expected = coco(sets.pictures(), COCO_OVERLAPS)
    ranks = sets.scores.flatten(1).argsort(1).argsort(1)
    np.testing.assert_allclose(sets.precision(ranks, ranks.shape[1], COCO_OVERLAPS), expected, atol=1e-12)
    found = sets.precision(score_bins(sets.scores, 1000), 1000, COCO_OVERLAPS)
    assert abs(found - expected).max() < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_of_grids_are_cocos(seed: int) -> None:
    d, given = scene(seed)
    expected = coco([pictures_of(d, given)], COCO_OVERLAPS)[:, 0]
    for overlaps, value in (
        (COCO_OVERLAPS, expected.mean()),
        ((0.5,), expected[0]),
        ((0.75, 0.9), expected[[5, 8]].mean()),
    ):
        metric = AveragePrecision(overlaps, bins=20_000)
        assert metric.reduce(metric.statistic(d, given).sum(0)).item() == pytest.approx(value, abs=1e-9)


def test_names() -> None:
    names = [AveragePrecision().name, AveragePrecision((0.75, 0.9)).name, AveragePrecision(COCO_OVERLAPS).name]
    assert names == ["AP50", "AP75, 90", "AP"]
    assert [EdgeCoverage().name, EdgeCoverage(0.5).better] == ["90% edge coverage", "near 0.5"]
    assert Centres(NLL()).name == "NLL of centres"


@pytest.mark.parametrize("metric", [*METRICS, Centres(ECE())], ids=lambda metric: metric.name)
def test_statistics_add_up_over_tasks_and_pictures(metric: Metric) -> None:
    d, given = scene()
    rows = metric.statistic(d, given)
    assert len(rows) == 3

    def part(tasks: slice, pictures: slice) -> Tensor:
        one = BoxGrid(*(p[tasks, pictures] for p in (d.logits, d.loc, d.scale, d.df)))
        return metric.statistic(one, bm.Points(*(leaf[tasks, pictures] for leaf in given)))

    everything = slice(None)
    torch.testing.assert_close(torch.cat([part(slice(0, 1), everything), part(slice(1, 3), everything)]), rows)
    torch.testing.assert_close(part(everything, slice(0, 1)) + part(everything, slice(1, 4)), rows)
    found = bootstrap(metric, rows)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("metric", [*METRICS, Centres(ECE()), NLL()], ids=lambda metric: metric.name)
def test_padding_changes_nothing(metric: Metric) -> None:
    d, given = scene()
    rows = metric.statistic(d, given)
    hidden = ~given.mask[..., None, None]
    changed = BoxGrid(d.logits.masked_fill(hidden, 9.0), d.loc.masked_fill(hidden[..., None], 2.0), d.scale, d.df)
    torch.testing.assert_close(metric.statistic(changed, given), rows, rtol=0, atol=0)


def one_picture(scores: list[float], y: Tensor, loc: Tensor | None = None) -> tuple[BoxGrid, bm.Points]:
    """A picture of 8 x 32 pixels and 1 x 4 cells, each with a box of its own size unless said otherwise."""
    logits = torch.tensor(scores, dtype=D).logit().reshape(1, 1, 1, 4)
    usual = torch.tensor([-0.5, -0.5, 0.5, 0.5], dtype=D).expand(1, 1, 1, 4, 4)
    d = BoxGrid(
        logits, usual if loc is None else loc, torch.full((1, 1, 1, 4, 4), 0.1, dtype=D), torch.tensor(5.0, dtype=D)
    )
    return d, bm.Points(torch.zeros(1, 1, 3, 8, 32, dtype=D), y.reshape(1, 1, 1, 4, 5), torch.ones(1, 1).bool())


def truth(*places: int) -> Tensor:
    y = torch.zeros(4, 5, dtype=D)
    for place in places:
        y[place] = torch.tensor([1, -0.5, -0.5, 0.5, 0.5])
    return y


def figure(metric: Metric, d: BoxGrid | MixtureSameFamily, given: bm.Points) -> float:
    return metric.reduce(metric.statistic(d, given).sum(0)).item()


def test_cases_by_hand() -> None:
    ap = AveragePrecision()
    assert figure(ap, *one_picture([0.9, 0.2, 0.1, 0.1], truth(0))) == pytest.approx(1.0)
    assert figure(ap, *one_picture([0.2, 0.9, 0.1, 0.1], truth(0))) == pytest.approx(0.5)
    # Of two true boxes one is surest, and the other comes third: precision 1 up to recall 0.5, and 2/3 beyond it.
    assert figure(ap, *one_picture([0.9, 0.8, 0.7, 0.1], truth(0, 2))) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # A second box in the place of the first is left out, and so no error.
    doubled = torch.tensor([[-0.5, -0.5, 0.5, 0.5], [-1.5, -0.5, -0.5, 0.5]], dtype=D).repeat_interleave(
        torch.tensor([1, 3]), 0
    )
    d, given = one_picture([0.9, 0.8, 0.1, 0.1], truth(0), doubled.reshape(1, 1, 1, 4, 4))
    assert detections(d, given).kept.tolist() == [[[True, False, True, True]]]


def test_pictures_without_boxes_count_by_what_is_found_in_them_and_alone_they_have_no_precision() -> None:
    d, given = one_picture([0.3, 0.2, 0.1, 0.1], truth())
    assert torch.tensor(figure(AveragePrecision(), d, given)).isnan()
    assert torch.tensor(figure(EdgeCoverage(), d, given)).isnan()
    assert figure(DetectionECE(least=0.15), d, given) == pytest.approx(0.25)
    rows = [
        AveragePrecision().statistic(*one_picture([score, 0.2, 0.1, 0.1], y))
        for score, y in ((0.5, truth(0)), (0.9, truth()))
    ]
    assert AveragePrecision().reduce(sum(rows)).item() == pytest.approx(0.5)
    found = bootstrap(AveragePrecision(), torch.cat(rows))  # some resamples have no box
    assert 0 <= found.low <= 0.5 <= found.high <= 1
    assert torch.tensor(bootstrap(AveragePrecision(), rows[1].expand(3, -1)).value).isnan()


@pytest.mark.parametrize("wrong", [1.0, 3.0])
def test_the_calibration_error_is_netcals(wrong: float) -> None:
    d, given = scene(tasks=6, wrong=wrong)
    found = detections(d, given)
    chosen = found.kept & (found.scores >= 0.3)
    scores, right = found.scores[chosen].numpy(), found.right[chosen].double().numpy()
    expected = netcal.metrics.ECE(15, detection=True).measure(scores[:, None], right)
    assert figure(DetectionECE(), d, given) == pytest.approx(expected, abs=1e-9)


def test_the_surest_boxes_are_right_more_often() -> None:
    found = detections(*scene(tasks=12))
    coverage, risk = risk_coverage(found.scores[found.kept], found.right[found.kept])
    assert risk[coverage <= 0.1].mean() < risk[-1] / 2


def test_edges_are_covered_as_often_as_the_level_says() -> None:
    d, given = scene(tasks=40, pictures=10)
    for level in (0.5, 0.9):
        rows = EdgeCoverage(level).statistic(d, given)
        assert figure(EdgeCoverage(level), d, given) == pytest.approx(
            level, abs=4 * (level * (1 - level) / rows[:, 1].sum().item()) ** 0.5
        )
    d, given = scene(tasks=2)
    wide = BoxGrid(d.logits, d.loc, 5 * d.scale, d.df)
    assert figure(EdgeCoverage(), wide, given) > 0.99
    assert figure(EdgeWidth(), wide, given) == pytest.approx(5 * figure(EdgeWidth(), d, given))


def test_the_width_of_edges_is_in_pixels() -> None:
    d, given = one_picture([0.5] * 4, truth(1))
    width = 2 * 0.1 * 2.015048373  # of Student's t with 5 degrees of freedom, a scale of 0.1 cells of 8 pixels
    assert figure(EdgeWidth(), d, given) == pytest.approx(8 * width, rel=1e-6)
    assert figure(EdgeWidth(), d, given._replace(x={"any": given.x})) == pytest.approx(width, rel=1e-6)


def test_mixtures_and_draws_in_agreement_are_one_prediction() -> None:
    d, given = scene()
    draws = BoxGrid(*(p.expand(3, *p.shape) for p in (d.logits, d.loc, d.scale, d.df)))
    for metric in [*METRICS, Centres(ECE()), NLL()]:
        assert figure(metric, mixture(draws), given) == pytest.approx(figure(metric, d, given), rel=1e-6)


def test_nll_is_in_nats_a_picture() -> None:
    d, given = scene()
    rows = NLL().statistic(d, given)
    torch.testing.assert_close(rows[:, 1], given.mask.sum(1).to(D))
    torch.testing.assert_close(rows[:, 0], -(d.log_prob(given.y) * given.mask).sum(1))


def test_cells_that_are_left_out_hold_and_find_nothing() -> None:
    d, given = one_picture([0.2, 0.9, 0.1, 0.1], truth(0, 1))
    mask = torch.ones(1, 1, 1, 4, 5).bool()
    mask[..., 1, :] = False
    left_out = given._replace(y=given.y * mask, mask=mask)
    found = detections(d, left_out)
    assert found.kept.tolist() == [[[True, False, True, True]]]
    assert found.true.tolist() == [[1]]
    assert figure(AveragePrecision(), d, left_out) == pytest.approx(1.0)
    mask[..., 1, 0] = True  # a box whose edges are not known
    assert detections(d, given._replace(mask=mask)).true.tolist() == [[1]]
    mask[:] = False
    mask[..., 0] = True
    mask[..., 0, :] = True  # edges are observed where there is a box
    d, given = one_picture([0.2, 0.9, 0.1, 0.1], truth(0))
    for metric in METRICS:
        torch.testing.assert_close(metric.statistic(d, given._replace(mask=mask)), metric.statistic(d, given))


def test_metrics_of_cells_are_those_of_their_labels() -> None:
    d, given = scene()
    logits = torch.stack([torch.zeros_like(d.logits), d.logits], -1)
    labels = Categorical(logits=logits).to_event(2)
    for metric in (NLL(), ECE(), ErrorAUROC()):
        expected = metric.statistic(labels, given._replace(y=given.y[..., 0].long()))
        torch.testing.assert_close(Centres(metric).statistic(d, given), expected)


def test_the_default_metrics_of_boxes() -> None:
    d, _ = scene()
    draws = BoxGrid(*(p.expand(3, *p.shape) for p in (d.logits, d.loc, d.scale, d.df)))
    for prediction in (d, mixture(draws)):
        assert [metric.name for metric in default_metrics(prediction)] == ["NLL", "AP50", "90% edge coverage"]


def test_other_predictions_and_settings_are_refused() -> None:
    d, given = scene()
    for metric in [*METRICS, Centres(ECE())]:
        with pytest.raises(TypeError, match="distribution: expected boxes"):
            metric.statistic(Categorical(logits=torch.zeros(3, 4, 2)), given)
        with pytest.raises(ValueError, match="y: expected"):
            metric.statistic(d, given._replace(y=given.y[:, :, :2]))
    with pytest.raises(ValueError, match=r"overlaps: expected a tuple of at least one, got \(\)"):
        AveragePrecision(())
    with pytest.raises(ValueError, match=r"overlaps: expected a tuple of at least one, got 0\.5"):
        AveragePrecision(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overlaps: expected a probability"):
        AveragePrecision((0.5, 50))
    with pytest.raises(ValueError, match="least: expected a probability"):
        DetectionECE(least=30)


def test_grids_of_boxes_give_them_back_to_the_metrics() -> None:
    given = torch.tensor([[2.0, 3, 12, 14], [20, 1, 39, 30]], dtype=D)
    y, _ = grid_of(given, (4, 5), (32, 40))
    d = BoxGrid(
        torch.where(y[..., 0] > 0, 4.0, -4.0),
        y[..., 1:],
        torch.full((4, 5, 4), 0.1, dtype=D),
        torch.tensor(5.0, dtype=D),
    )
    d = d.expand((1, 1))
    points = bm.Points(torch.zeros(1, 1, 3, 32, 40, dtype=D), y[None, None], torch.ones(1, 1).bool())
    assert figure(AveragePrecision(COCO_OVERLAPS), d, points) == 1.0
