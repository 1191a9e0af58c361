"""Boxes in a grid: densities against sums of torch's, mixtures that stay pictures, and geometry by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, StudentT

from bayesmeta.distributions import box_overlaps, log_prob, mixture, quantile, select, stack, suppress, temper
from bayesmeta.distributions.boxes import (
    BoxGrid,
    box_edges,
    boxes,
    boxes_of,
    edges,
    grid_of,
)

S, B, M, G, K = 4, 2, 3, 2, 3
SIZE = (16, 36)


def grids(*batch: int) -> BoxGrid:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, G, K, *shape, generator=g, dtype=torch.float64)

    return BoxGrid(normal(), normal(4), normal(4).mul(0.3).exp(), torch.tensor(4.5, dtype=torch.float64))


def density(d: BoxGrid, y: Tensor) -> Tensor:
    """By torch's own distributions."""
    there = Bernoulli(logits=d.logits).log_prob(y[..., 0].expand_as(d.logits)).sum((-2, -1))
    marks = StudentT(4.5, d.loc, d.scale).log_prob(y[..., 1:])
    return there + (marks * y[..., :1]).sum((-3, -2, -1))


def drawn(d: BoxGrid, samples: int) -> Tensor:
    torch.manual_seed(0)
    return d.sample(torch.Size([samples]))


def test_log_prob_is_a_sum_of_bernoullis_and_of_student_ts_where_there_is_a_box() -> None:
    d = grids(B, M)
    y = drawn(d, 1)[0]
    assert 0 < y[..., 0].mean() < 1
    torch.testing.assert_close(d.log_prob(y), density(d, y))
    assert torch.equal(y[..., 1:][y[..., 0] == 0], torch.zeros_like(y[..., 1:][y[..., 0] == 0]))
    wild = y.clone()
    wild[..., 1:][y[..., 0] == 0] = torch.inf  # what stands where there is no box changes nothing
    d.loc.requires_grad_()
    d.log_prob(wild).sum().backward()
    assert d.loc.grad is not None
    assert d.loc.grad.isfinite().all()
    torch.testing.assert_close(d.log_prob(wild).detach(), density(d, y).detach())


def test_a_mixture_is_of_whole_pictures() -> None:
    d = grids(S, B, M)
    mixed = mixture(d)
    assert (mixed.batch_shape, mixed.event_shape) == ((B, M), (G, K, 5))
    y = mixed.sample()
    torch.testing.assert_close(mixed.log_prob(y), density(d, y).logsumexp(0) - math.log(S))
    weights = torch.randn(S, B, 1, dtype=torch.float64)
    expected = (density(d, y) + weights.log_softmax(0)).logsumexp(0)
    torch.testing.assert_close(mixture(d, weights).log_prob(y), expected)
    several = mixture(stack([mixed, mixture(d, weights)]))
    torch.testing.assert_close(
        several.log_prob(y), torch.stack([mixed.log_prob(y), expected]).logsumexp(0) - math.log(2)
    )


def test_mean_variance_and_edges_are_those_of_draws() -> None:
    for d in (grids(), mixture(grids(S))):
        torch.manual_seed(0)
        y = d.sample(torch.Size([200_000]))
        torch.testing.assert_close(y.mean(0), d.mean, atol=0.05, rtol=0.02)
        torch.testing.assert_close(y.var(0), d.variance, atol=0.05, rtol=0.3)
        there = y[..., :1].sum(0)
        torch.testing.assert_close(y[..., 1:].sum(0) / there, edges(d).mean, atol=0.05, rtol=0.03)
        below = ((y[..., 1:] < quantile(edges(d), 0.3)) & (y[..., :1] == 1)).sum(0) / there
        torch.testing.assert_close(below, torch.full_like(below, 0.3), atol=0.01, rtol=0)
        found, scores = boxes(d, SIZE)
        torch.testing.assert_close(scores, y[..., 0].mean(0).flatten(), atol=0.01, rtol=0)
        middle = box_edges(d, SIZE, 0.5)
        low, high = box_edges(d, SIZE, [0.05, 0.95])
        assert found.shape == middle.shape == (G * K, 4)
        assert (low < middle).all()
        assert (middle < high).all()


def test_a_mask_of_entries_leaves_cells_out() -> None:
    for d in (grids(B, M), mixture(grids(S, B, M))):
        y = d.sample()
        mask = torch.ones(B, M, G, K, 5, dtype=torch.bool)
        torch.testing.assert_close(log_prob(d, y, mask), d.log_prob(y))
        mask[:, :, 0, 1] = False
        other = y.clone()
        other[:, :, 0, 1] = 1.0
        torch.testing.assert_close(log_prob(d, y, mask), log_prob(d, other, mask))
    single = grids(B, M)
    known = torch.ones(G, K, dtype=torch.bool)
    known[0, 1] = False
    expected = single.entries(y)[..., known, :].sum((-2, -1))
    torch.testing.assert_close(log_prob(single, y, mask), expected)


def test_a_temperature_widens_edges_and_draws_scores_to_a_half() -> None:
    d = grids(B)
    warm = temper(d, torch.tensor(2.0))
    torch.testing.assert_close(warm.logits, d.logits / 2)
    torch.testing.assert_close(warm.edges.variance, 4 * d.edges.variance)


def test_a_mixture_is_tempered_picture_by_picture() -> None:
    d, warm = grids(S, B, M), torch.tensor(1.7, dtype=torch.float64)
    y = drawn(mixture(d), 1)[0]
    found = temper(mixture(d), warm).log_prob(y)
    torch.testing.assert_close(found, temper(d, warm).log_prob(y).logsumexp(0) - math.log(S))


def test_draws_are_chosen_by_task() -> None:
    d = grids(S, B, M)
    chosen = select(d, torch.tensor([[3, 0], [1, 1]]))
    torch.testing.assert_close(chosen.loc, torch.stack([torch.stack([d.loc[3, 0], d.loc[0, 1]]), d.loc[1]]))


def random_boxes(n: int, generator: torch.Generator) -> Tensor:
    height, width = SIZE
    corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height])
    return torch.cat([corners.amin(1), corners.amax(1) + 0.01], 1)


def test_boxes_return_from_their_grid() -> None:
    g = torch.Generator().manual_seed(0)
    for n in (0, 1, 2, 30):
        given = random_boxes(n, g)
        y, kept = grid_of(given, (4, 6), SIZE)
        found = boxes_of(y, SIZE)
        assert len(found) == kept.sum() == y[..., 0].sum()
        assert n < 30 or not kept.all()
        order = [a[a[:, 0].argsort()] for a in (found, given[kept])]
        torch.testing.assert_close(*order)
    one = torch.tensor([[0.0, 0.0, 8.0, 8.0], [1.0, 1.0, 6.0, 6.0], [28.0, 8.0, 36.0, 16.0]])
    y, kept = grid_of(one, (2, 4), (16, 36))
    assert kept.tolist() == [True, False, True]  # of two in a cell the larger
    assert y[..., 0].nonzero().tolist() == [[0, 0], [1, 3]]
    known = BoxGrid(60 * y[..., 0] - 30, y[..., 1:], torch.full((2, 4, 4), 0.1), torch.tensor(5.0))
    found, scores = boxes(known, (16, 36))
    torch.testing.assert_close(found[scores > 0.5], one[kept])
    edge = torch.tensor([[35.0, 15.0, 37.0, 17.0]])  # whose centre is the picture's corner
    assert grid_of(edge, (2, 4), (16, 36))[0][1, 3, 0] == 1


def test_boxes_are_tensors_arrays_or_lists_and_whole_numbers_too() -> None:
    expected = grid_of(torch.tensor([[8.0, 0.0, 16.0, 8.0]]), (2, 4), (16, 32))[0]
    for given in ([[8, 0, 16, 8]], torch.tensor([[8, 0, 16, 8]]), np.array([[8, 0, 16, 8]], dtype=np.float32)):
        assert torch.equal(grid_of(given, (2, 4), (16, 32))[0], expected)
    y, kept = grid_of([], (2, 4), (16, 32))
    assert not y.any()
    assert kept.shape == (0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[8.0, 8.0, 4.0, 4.0]], "give corners, not width and height"),  # COCO's left, top, width, height
        ([[40.0, 2.0, 50.0, 8.0]], r"centres within 32 x 16 pixels, got \[40.0"),
        ([[0.0, 0.0, math.nan, 8.0]], "expected left < right"),
        ([8.0, 0.0, 16.0, 8.0], r"one picture's boxes \(P, 4\), got \(4,\)"),
        (torch.zeros(2, 3, 4), "one picture at a time"),
    ],
)
def test_boxes_without_a_place_in_a_grid_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_of(given, (2, 4), (16, 32))


def area(box: list[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def overlap(a: list[float], b: list[float]) -> float:
    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return both / (area(a) + area(b) - both)


def test_overlaps_and_what_is_suppressed_are_those_of_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        given, scores = random_boxes(15, g), torch.rand(15, generator=g)
        a = given.tolist()
        expected = torch.tensor([[overlap(p, q) for q in a] for p in a], dtype=torch.float64)
        torch.testing.assert_close(box_overlaps(given, given), expected)
        stay: list[int] = []
        for place in sorted(range(15), key=lambda i: -float(scores[i])):
            if all(overlap(a[place], a[other]) <= 0.3 for other in stay):
                stay.append(place)
        assert suppress(given, scores, 0.3).tolist() == stay
    assert suppress(torch.zeros(0, 4), torch.zeros(0)).tolist() == []
    with pytest.raises(ValueError, match=r"got \(1, 2, 9, 4\) and \(1, 2, 9\); take one picture of one task"):
        suppress(torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 9))


def test_other_distributions_have_no_boxes() -> None:
    with pytest.raises(TypeError, match="distribution: expected boxes, a BoxGrid or a mixture of some, got Normal"):
        boxes(torch.distributions.Normal(0.0, 1.0), SIZE)


def test_boxes_that_no_cell_can_hold_are_refused() -> None:
    for wrong in ([[-20.0, -20, -4, -4]], [[100.0, 0, 104, 4]], [[torch.nan, 0, 4, 4]]):
        with pytest.raises(
            ValueError, match="given: expected left < right, top < bottom and centres within 16 x 16 pixels"
        ):
            grid_of(torch.tensor(wrong), (2, 2), (16, 16))
    with pytest.raises(ValueError, match=r"given: expected one picture's boxes \(P, 4\), got \(4,\)"):
        grid_of(torch.tensor([0.0, 0, 4, 4]), (2, 2), (16, 16))


def test_whole_numbers_are_boxes_too() -> None:
    whole = torch.tensor([[0, 0, 4, 4], [8, 8, 16, 12]])
    assert torch.equal(grid_of(whole, (2, 2), (16, 16))[0], grid_of(whole.float(), (2, 2), (16, 16))[0])
    assert torch.equal(box_overlaps(whole, whole), torch.eye(2))
