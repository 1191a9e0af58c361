"""Classes' spread and noise in a feature space, by moments: where training starts the scales of learners that tell classes apart.

With features f of n points in C classes of n_k points, means m̄_k and residuals r = f - m̄_k, of one number as of F,

    σ̂² = Σ ‖r‖² / F(n - C),   τ̂² = Σ_k ‖m̄_k - μ̂‖² / F(C - 1) - σ̂² mean(1/n_k),   μ̂ the mean of the m̄_k

are the estimates of the analysis of variance. Features of a network repeat each other, and classes differ in their noise: the
distances q = ‖r‖² n_k / (n_k - 1) then vary as if there were not F independent numbers, but

    d = 2 mean(q)² / var(q)

(Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components", https://doi.org/10.2307/3002019).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesmeta.data import Points

__all__ = ["ClassMoments", "class_moments", "met", "starting"]

_MET: ContextVar[list[tuple[nn.Module, Points]] | None] = ContextVar("_MET", default=None)


@contextmanager
def starting() -> Iterator[list[tuple[nn.Module, Points]]]:
    """Within it, learners that start from data note the features that they are called with, whatever wraps them."""
    found: list[tuple[nn.Module, Points]] = []
    token = _MET.set(found)
    try:
        yield found
    finally:
        _MET.reset(token)


def met(learner: nn.Module, embedded: Points) -> None:
    """Notes what a learner was called with, if anybody asks."""
    if not torch.compiler.is_compiling() and (found := _MET.get()) is not None:
        found.append((learner, embedded))


class ClassMoments(NamedTuple):
    """What points of several classes say of a feature, as a mean over features but for the first."""

    mean: Tensor
    """μ̂ ``(F,)``."""
    spread: Tensor
    """τ̂², of the classes' means; at least a hundredth of the noise."""
    noise: Tensor
    """σ̂², within a class."""
    share: Tensor
    """d / F, in (0, 1]: how much a feature says beside the others."""


def class_moments(points: Points) -> ClassMoments | None:
    """By moments, of all tasks' classes together; None where too little repeats, or nothing varies.

    Args:
        points: features ``(B, N, F)`` and labels ``(B, N)`` of B tasks. A label is a class of its own in each task.

    Example:
        >>> x = torch.tensor([[[0.0], [2.0], [10.0], [12.0]]])
        >>> given = Points(x, torch.tensor([[0, 0, 1, 1]]), torch.ones(1, 4, dtype=torch.bool))
        >>> mean, spread, noise, _ = class_moments(given)
        >>> mean, spread, noise
        (tensor([6.], dtype=torch.float64), tensor(49., dtype=torch.float64), tensor(2., dtype=torch.float64))
    """
    features = points.x[points.mask].double()  # (n, F)
    task = torch.arange(len(points.mask), device=points.mask.device)[:, None].expand_as(points.mask)
    key = task[points.mask] * (int(points.y.max()) + 1) + points.y[points.mask]
    _, place, count = key.unique(return_inverse=True, return_counts=True)
    means = features.new_zeros(len(count), features.shape[1]).index_add_(0, place, features) / count[:, None]
    left = len(features) - len(count)  # degrees of freedom
    if left < 2 or len(count) < 2:
        return None
    residual = features - means[place]
    noise = residual.square().sum() / (left * features.shape[1])
    mean = means.mean(0)
    spread = (means - mean).square().sum() / ((len(count) - 1) * features.shape[1]) - noise * (1 / count).mean()
    if not noise > 0:
        return None
    several = count > 1
    distance = (residual.square().sum(1) * (count / (count - 1).clamp(min=1))[place])[several[place]]
    share = 2 * distance.mean().square() / distance.var().clamp(min=1e-300) / features.shape[1]
    return ClassMoments(mean, spread.maximum(noise / 100), noise, share.clamp(max=1.0))
