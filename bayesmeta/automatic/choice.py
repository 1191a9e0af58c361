"""What held-out tasks decide: how much each member counts, and how sure the whole may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["best_shares", "shrunk_temperature"]

_RESAMPLES = 4000
_LEAST = 0.01
"""Of a share that counts: a member costs the same to ask whatever its weight."""
_SPREAD = 0.2
"""The standard deviation of log τ where nothing is known: beyond a factor of 1.5 tasks must say so."""


def best_shares(sums: Tensor, seed: int) -> Tensor:
    """How often each of several learners has the lowest NLL when tasks are weighed anew: ``(T, K)`` to ``(K,)``, which sum to 1.

    A Bayesian bootstrap (Rubin 1981, https://doi.org/10.1214/aos/1176345338): tasks have the weights of a flat Dirichlet. With
    many tasks the best learner has all of the weight; with few tasks, those that are as good share it. Shares below one hundredth
    become 0.

    Args:
        sums: the NLL of each task's held-out points.
        seed: of the weights.

    Example:
        >>> best_shares(torch.tensor([[1.0, 2.0], [1.0, 3.0]]), seed=0)
        tensor([1., 0.], dtype=torch.float64)
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    uniform = torch.rand(_RESAMPLES, len(sums), generator=generator, dtype=torch.float64, device="cpu")
    best = (-torch.log1p(-uniform) @ sums.double()).argmin(1)
    shares = torch.bincount(best, minlength=sums.shape[1]).double() / _RESAMPLES
    shares = shares.masked_fill(shares < _LEAST, 0.0)
    return shares / shares.sum()


def shrunk_temperature(nll: Callable[[float], float], tasks: int) -> float:
    """The temperature that T held-out tasks ask for, nearer to 1 the fewer they are.

    It minimises T nll(τ) + log² τ / (2 s²), where the points of a task count as one, since they err together.

    Args:
        nll: of a temperature, a point, over the held-out tasks.
        tasks: T.
    """

    def score(log_temperature: float) -> float:
        value = tasks * nll(math.exp(log_temperature)) + log_temperature**2 / (2 * _SPREAD**2)
        return value if math.isfinite(value) else math.inf

    centre, width = 0.0, 1.5
    for _ in range(3):  # a grid, refined: the NLL need not have one minimum only
        grid = [centre + width * step / 6 for step in range(-6, 7)]
        centre, width = min(grid, key=score), width / 5
    return math.exp(centre)
