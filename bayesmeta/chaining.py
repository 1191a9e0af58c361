"""Answers one by one, each fed back: draws from p(y_1, ..., y_M | x, support), and its density, where a posterior can be told.

By the chain rule p(y_1, ..., y_M) = Π_m p(y_m | y_<m), whatever the posterior is: of one that answers each question by itself,
such as a conditional neural process, this is the only way to answers that hang together (Bruinsma et al. 2023, "Autoregressive
Conditional Neural Processes", https://arxiv.org/abs/2303.14468). Where all that can be asked is asked, a draw is a whole task
that may be the present one; to act as if it were is Thompson's sampling (1933, https://doi.org/10.2307/2332286).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.border import check_count, check_shapes
from bayesmeta.data import Points
from bayesmeta.distributions import log_prob, sample
from bayesmeta.learner import check_posterior
from bayesmeta.posterior import Posterior

__all__ = ["Chained", "chained", "joint_nll"]


class Chained(NamedTuple):
    """S draws of the answers to M questions in B tasks."""

    y: Tensor
    """The answers ``(S, B, M, *Y)``."""
    log_prob: Tensor
    """Of each answer given those before it, ``(S, B, M)``; their sum over M is that of all together."""


@torch.no_grad()
def chained(posterior: Posterior, x: Any, samples: int) -> Chained:
    """Draws answers at x in their order, and tells the posterior each one before the next is asked.

    S copies of each task go their own ways, by `expand` and `update`. A learner whose posterior cannot be told points, or which
    by an update would forget the old ones, adapts to all of them again each time: ``Rehearsal(learner)(support)``. Answers have
    their noise, as they are y and not the function's values. It costs M questions and M - 1 updates, of B S tasks each.

    Draws from the library's generator (`bayesmeta.randomness.seeded`).

    Args:
        posterior: what a support taught.
        x: M questions, as for a prediction. Of exact posteriors the order makes no difference.
        samples: S.

    Raises:
        NotImplementedError: the posterior cannot be told further points, or cannot be copied.
        ValueError: fewer than one draw, or questions that do not fit.

    Example:
        >>> learner = Rehearsal(MAML(MLP(1, 3), Categorical()))
        >>> drawn = chained(learner(points([0.0, 1.0], [0, 2], classes=3)), [0.2, 0.4, 0.6, 0.8], samples=5)
        >>> drawn.y.shape, drawn.log_prob.sum(-1).shape
        (torch.Size([5, 1, 4]), torch.Size([5, 1]))
    """
    check_count("samples", samples)
    check_posterior(posterior)
    asked = tree_map(lambda leaf: leaf.repeat_interleave(samples, 0), posterior._inputs(x))
    copies = posterior.expand(samples)
    count = tree_leaves(asked)[0].shape[1]
    if not count:
        raise ValueError("x: expected at least one question, got none; give inputs (B, M, *X) with M >= 1")
    there = torch.ones_like(posterior.support.mask[:, :1].repeat_interleave(samples, 0))
    answers, logs = [], []
    for m in range(count):
        question = tree_map(lambda leaf, m=m: leaf[:, m : m + 1], asked)
        said = copies(question)
        y = sample(said, 1)[0]
        answers.append(y)
        logs.append(log_prob(said, y, there))
        if m + 1 < count:
            copies = copies.update(Points(question, y, there))
    found = (torch.cat(part, 1).unflatten(0, (-1, samples)).movedim(1, 0) for part in (answers, logs))
    return Chained(*found)


def joint_nll(posterior: Posterior, points: Points) -> Tensor:
    """-log p(y_1, ..., y_M | x, support) of each task's points together, by the chain rule: ``(B,)`` nats, a sum over its points.

    Each point is asked for, and then told, in the order in which they stand; masked ones are passed over. It costs M questions
    and M - 1 updates. Of exact posteriors the order makes no difference; of others, such as neural processes, a little.

    Args:
        posterior: what a support taught, of the same B tasks. One that cannot be told points is wrapped before, as for `chained`:
            ``Rehearsal(learner)(support)``.
        points: what is to be predicted.

    Raises:
        NotImplementedError: the posterior cannot be told further points.
        ValueError: points that do not fit.

    Example:
        >>> posterior = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
        >>> joint_nll(posterior, points([0.2, 0.4, 0.6], [0.1, 0.5, 0.6])).shape
        torch.Size([1])
    """
    check_posterior(posterior)
    check_shapes(points)
    posterior._inputs(points.x)  # all at once, so that an error comes early
    total = points.y.new_zeros(
        len(points.mask), dtype=None if points.y.is_floating_point() else torch.get_default_dtype()
    )
    count = points.mask.shape[1]
    for m in range(count):
        one: Points = tree_map(lambda leaf, m=m: leaf[:, m : m + 1], points)
        total = total - log_prob(posterior(one.x), one.y, one.mask)[:, 0]
        if m + 1 < count:
            posterior = posterior.update(one)
    return total
