"""How well a score tells two kinds of points apart: for detecting errors and what lies outside the training distribution."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["aupr", "auroc", "risk_coverage"]


def auroc(scores: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """The probability that a positive point has a higher score than a negative one; ties count half.

    Args:
        scores: the score of each point, ``(n,)``.
        positive: which points are of the kind that should score high, ``(n,)`` bool.
        weights: how often each point counts, ``(..., n)``; once if None.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, False, True, True]))
        tensor(0.8750, dtype=torch.float64)
    """
    positives, negatives = _by_score(scores, positive, weights)
    return auroc_of_bins(positives, negatives)


def aupr(scores: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """The average precision: the mean, over positive points, of the share of positives among the points that score as high.

    Args:
        scores, positive, weights: as in `auroc`.

    Example:
        >>> aupr(torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([False, False, True, True]))
        tensor(0.8333, dtype=torch.float64)
    """
    return aupr_of_bins(*_by_score(scores, positive, weights))


def risk_coverage(confidence: Tensor, correct: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The share of points that are at least so confident, and the error rate among them, for each confidence from the top.

    Args:
        confidence: how sure each prediction is, ``(n,)``.
        correct: which predictions are right, ``(n,)`` bool.
        weights: how often each point counts, ``(n,)``; once if None.

    Returns:
        Coverage and risk, each as long as there are different confidences.

    Example:
        >>> risk_coverage(torch.tensor([0.9, 0.6, 0.8]), torch.tensor([True, False, True]))[1]
        tensor([0.0000, 0.0000, 0.3333], dtype=torch.float64)
    """
    right, wrong = (part.flip(-1) for part in _by_score(confidence, correct, weights))
    count = (right + wrong).cumsum(-1)
    return count / count[..., -1:], wrong.cumsum(-1) / count


def _by_score(scores: Tensor, positive: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many positive and negative points have each of the different scores, which rise: ``(..., values)``."""
    if scores.shape != positive.shape or scores.dim() != 1:
        raise ValueError(
            f"scores and positive: expected the same shape (n,), got {tuple(scores.shape)} and {tuple(positive.shape)}; "
            "flatten both and leave out what is not observed"
        )
    if not scores.isfinite().all():
        raise ValueError("scores: expected finite numbers, got NaN or infinity; look for it in the predictions")
    values, place = scores.unique(return_inverse=True)
    weights = torch.ones_like(scores, dtype=torch.float64) if weights is None else weights.double()
    empty = weights.new_zeros(*weights.shape[:-1], len(values))
    index = place.expand(weights.shape)
    chosen = positive.bool()
    return empty.scatter_add(-1, index, weights * chosen), empty.scatter_add(-1, index, weights * ~chosen)


def auroc_of_bins(positives: Tensor, negatives: Tensor) -> Tensor:
    """The same from the numbers ``(..., bins)`` of both kinds in bins of rising score."""
    below = negatives.cumsum(-1) - negatives / 2
    return (positives * below).sum(-1) / (positives.sum(-1) * negatives.sum(-1))


def aupr_of_bins(positives: Tensor, negatives: Tensor) -> Tensor:
    """The same from the numbers ``(..., bins)`` of both kinds in bins of rising score; within a bin points have no order."""
    positives, negatives = positives.flip(-1), negatives.flip(-1)
    found = positives.cumsum(-1)
    precision = found / (found + negatives.cumsum(-1)).clamp(min=1e-12)
    return (precision * positives).sum(-1) / positives.sum(-1)


def risk_coverage_of_bins(right: Tensor, wrong: Tensor) -> Tensor:
    """The area under the risk-coverage curve from the numbers ``(..., bins)`` right and wrong in bins of rising confidence.

    Within a bin points have no order: each has the risk of its whole bin and those above.
    """
    right, wrong = right.flip(-1), wrong.flip(-1)
    count = right + wrong
    risk = wrong.cumsum(-1) / count.cumsum(-1).clamp(min=1)
    return (risk * count).sum(-1) / count.sum(-1)
