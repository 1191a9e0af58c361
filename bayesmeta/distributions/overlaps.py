"""How far boxes in a picture overlap, and which stay where several are found of one thing.

Shape letters: P and Q boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["box_overlaps", "suppress"]


def box_overlaps(a: Tensor, b: Tensor) -> Tensor:
    """The share of two boxes' joint area that both cover, of boxes ``(..., P, 4)`` and ``(..., Q, 4)``: ``(..., P, Q)``.

    Example:
        >>> box_overlaps(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])
    """
    a, b = (one if one.is_floating_point() else one.to(torch.get_default_dtype()) for one in (a, b))
    a, b = a[..., :, None, :], b[..., None, :, :]
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1) for one in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=torch.finfo(both.dtype).tiny)


def suppress(given: Tensor, scores: Tensor, overlap: float = 0.5) -> Tensor:
    """The places of one picture's boxes that stay, the best score first, once those that overlap a better one are left out.

    Args:
        given: boxes ``(P, 4)``: left, top, right, bottom.
        scores: ``(P,)``.
        overlap: the largest share of the joint area (IoU) that two boxes that stay may have in common.

    Raises:
        ValueError: there are boxes of several pictures, or not a score for each.

    Example:
        >>> suppress(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]]), torch.tensor([0.5, 0.9, 0.1]))
        tensor([1, 2])
    """
    if given.dim() != 2 or given.shape[1:] != (4,) or scores.shape != given.shape[:1]:
        raise ValueError(
            f"given, scores: expected one picture's boxes (P, 4) and their scores (P,), got {(*given.shape,)} and "
            f"{(*scores.shape,)}; take one picture of one task, such as found[0, 0] and scores[0, 0]"
        )
    order = scores.argsort(descending=True, stable=True)
    close = box_overlaps(given[order], given[order]) > overlap
    stays = torch.ones_like(order, dtype=torch.bool)
    for place in range(len(order)):
        stays[place + 1 :] &= ~(close[place, place + 1 :] & stays[place])
    return order[stays]
