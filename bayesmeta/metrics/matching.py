"""Which boxes are found in pictures, and which of them are right.

What is found in a picture is a box for each cell, less those that overlap a surer one by more than half of their joint area
(`suppress`); its score is the probability of a centre in the cell. What is right is COCO's rule (Lin et al. 2014, "Microsoft
COCO: Common Objects in Context", https://arxiv.org/abs/1405.0312; its program is https://github.com/cocodataset/cocoapi): boxes
choose in the order of their scores, each the true box that it overlaps most, of those that are left and overlap far enough.

What is true is what the target's cells hold: boxes that found no place in the grid (see `grid_of`) are no part of it. Cells that
a mask of entries leaves out hold nothing, and find nothing.

Shape letters of boxes: P found and Q true ones in a picture, L overlaps that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points
from bayesmeta.distributions import box_overlaps, boxes_of, suppress
from bayesmeta.distributions.boxes import boxes, check_boxes, edges
from bayesmeta.distributions.family import family
from bayesmeta.likelihoods import check_event

__all__ = ["Detections", "detections", "match", "size_of", "true_cells", "true_edges"]

MOST = 100
"""How many boxes of a picture count, those of the highest scores: as with COCO."""


def match(overlaps: Tensor, scores: Tensor, kept: Tensor, there: Tensor, least: Sequence[float]) -> Tensor:
    """Which boxes are right, if that is to overlap a true one by at least each of L numbers: bool ``(L, ..., P)``.

    Args:
        overlaps: of each box with each true one, ``(..., P, Q)``.
        scores: how sure each box is, ``(..., P)``; of equally sure ones the first chooses first.
        kept: which boxes there are, ``(..., P)`` bool.
        there: which true boxes there are, ``(..., Q)`` bool.
        least: the L numbers, up to 1.

    Example:
        Two boxes overlap one true box, which is the surer one's:

        >>> overlaps, two, one = torch.tensor([[0.9], [0.8]]), torch.ones(2).bool(), torch.ones(1).bool()
        >>> match(overlaps, torch.tensor([0.2, 0.7]), two, one, [0.5, 0.85]).tolist()
        [[False, True], [True, False]]
    """
    right = kept.new_zeros(len(least), *kept.shape)
    if not there.any() or not kept.any():
        return right
    ranks = min(MOST, int(kept.sum(-1).max()))
    order = scores.masked_fill(~kept, -torch.inf).argsort(dim=-1, descending=True, stable=True)[..., :ranks]
    bars = torch.tensor([min(bar, 1 - 1e-10) for bar in least], dtype=overlaps.dtype, device=overlaps.device)
    bars = bars.reshape(-1, *[1] * there.dim())
    free = there.expand(len(least), *there.shape)
    for place in order.split(1, -1):
        overlap = overlaps.gather(-2, place[..., None].expand(*place.shape, overlaps.shape[-1])).squeeze(-2)
        furthest, chosen = overlap.masked_fill(~free, -1.0).max(-1, keepdim=True)  # (L, ..., 1)
        hit = (furthest >= bars) & kept.gather(-1, place)
        free = free & ~torch.zeros_like(free).scatter(-1, chosen, hit)
        right = right.scatter(-1, place.expand(hit.shape), hit)
    return right


class Detections(NamedTuple):
    """What is found in pictures, and whether it is right. Of the P boxes of each picture only those that are kept are there."""

    scores: Tensor
    """The probability of each box's centre in its cell, ``(B, M, P)``."""
    kept: Tensor
    """Which boxes are left once those that overlap a surer one are left out, ``(B, M, P)`` bool."""
    right: Tensor
    """Which of these have a true box for themselves, ``(B, M, P)`` bool, or ``(L, B, M, P)`` of L overlaps."""
    true: Tensor
    """How many true boxes each picture has, ``(B, M)``."""


def detections(distribution: Distribution, given: Points, overlap: float | Sequence[float] = 0.5) -> Detections:
    """The boxes found in pictures, with their scores, and which of them are right.

    With `risk_coverage` it says how far the surest of them can be trusted.

    Args:
        distribution: a `BoxGrid`, or a mixture of some, batch ``(B, M)``.
        given: pictures and the grids of their true boxes.
        overlap: the share of the joint area (IoU) of a box that is right and the true one, at least; or L such.

    Raises:
        TypeError: another distribution.
        ValueError: targets of another shape.

    Example:
        >>> loc = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand(1, 1, 2, 2, 4)
        >>> logits = torch.tensor([[[[3.0, 2.0], [1.0, -4.0]]]])
        >>> d = BoxGrid(logits, loc, torch.full_like(loc, 0.1), torch.tensor(5.0))
        >>> y = torch.zeros(1, 1, 2, 2, 5)
        >>> y[0, 0, 0] = torch.tensor([1, -0.5, -0.5, 0.5, 0.5])  # boxes in the two cells above, none below
        >>> found = detections(d, points(torch.zeros(1, 3, 16, 16), y[0]))
        >>> found.scores[found.kept], found.right[found.kept]
        (tensor([0.9526, 0.8808, 0.7311, 0.0180]), tensor([ True,  True, False, False]))
        >>> coverage, risk = risk_coverage(found.scores[found.kept], found.right[found.kept])
        >>> (1 - risk)[coverage <= 0.5]  # the precision among the surest half
        tensor([1., 1.], dtype=torch.float64)
    """
    there, known = true_cells(distribution, given)
    size, y = size_of(given), given.y * there[..., None]
    there, known = there.flatten(2), known.flatten(2)
    found, scores = boxes(distribution, size)
    true = found.new_zeros(*there.shape[:2], max(1, int(there.sum(-1).max())), 4)
    kept, holds = torch.zeros_like(known), there.new_zeros(true.shape[:-1])
    for task, picture in known.any(-1).nonzero().tolist():
        places = known[task, picture].nonzero()[:, 0]
        stay = suppress(found[task, picture, places], scores[task, picture, places])
        kept[task, picture, places[stay]] = True
        seen = boxes_of(y[task, picture], size)
        true[task, picture, : len(seen)], holds[task, picture, : len(seen)] = seen.to(true), True
    single = isinstance(overlap, float | int)
    asked: Any = [overlap] if single else overlap
    right = match(box_overlaps(found.double(), true.double()), scores, kept, holds, asked)
    return Detections(scores, kept, right[0] if single else right, there.sum(-1))


def true_cells(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor]:
    """Which cells hold a true box, and of which it is known, ``(B, M, G, K)`` bool; checks that both are of such boxes.

    A cell is known whose centre is observed, and if there is one its edges.
    """
    check_boxes(distribution)
    check_event(distribution.event_shape, given.y.shape[2:])
    there = given.y[..., 0] > 0.5
    if given.mask.dim() == 2:
        known = given.mask[..., None, None].expand_as(there)
    else:
        known = given.mask[..., 0] & (given.mask[..., 1:].all(-1) | ~there)
    return there & known, known


def true_edges(distribution: Distribution, given: Points) -> tuple[Tensor, Distribution, Tensor]:
    """Which cells hold a true box, ``(B, M, G, K)``; what is predicted of their n boxes' edges; where these are, ``(n, 4)``."""
    there, _ = true_cells(distribution, given)
    every = edges(distribution)
    single: Distribution = family(every).map(every, lambda p: p[there])
    return there, single, given.y[there][:, 1:]


def size_of(given: Points) -> tuple[int, int]:
    """Rows and columns of pictures in pixels; where inputs are no pictures, each cell is a pixel."""
    x = given.x
    rows, columns = x.shape[-2:] if isinstance(x, Tensor) and x.dim() == 5 else given.y.shape[2:4]
    return rows, columns
