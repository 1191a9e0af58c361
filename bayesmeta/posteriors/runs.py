"""What is known of a task that changes without notice: a mixture over when the present one began.

Adams & MacKay 2007, "Bayesian online changepoint detection", https://arxiv.org/abs/0710.3742. Before each part of a stream the
task is a new one with probability h, the hazard. Of run r, the task that began so long ago, with weight w(r) before part t,

    p(y_t | x_t, past) = Σ_r w(r) p(y_t | x_t, r),    w(r | part t) ∝ w(r) p(part t | r),
    w'(0) = h,   w'(r + 1) = (1 - h) w(r | part t),

where p(part | r) is the product of the predictives of its points, each after those before it. Run 0 is the prior, of a task that
has not begun: told a part it becomes run 1.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from bayesmeta.answers import Functions
from bayesmeta.border import readable
from bayesmeta.data import Points, seen
from bayesmeta.distributions import apart, log_prob, mixture, uncertainty
from bayesmeta.distributions.family import family
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Runs"]

_BLOCK = 32
"""So many points of a part are weighed at once, each by a copy of the posterior that was told those before it."""
_NEVER = -1e30
"""The log weight of what cannot be, finite so that its slope is 0."""


class Runs(Posterior):
    """A mixture over K runs, each with a posterior of its own; told a part, all but the first are told it, and one begins.

    All runs of all tasks are one posterior of B K tasks, of which the first of every K is the prior. An update copies and tells
    the others in one call, whatever K is. Where a task has no point in a part, no time passes for it.

    Args:
        prior: what a learner knows of B tasks before their first points, one that can be told further points.
        hazard: h, the probability that a task ends before the next part, between 0 and 1.
        capacity: how many runs that have begun are kept of each task, those of the largest weight; None for all.
    """

    _of_tasks = ("runs", "log_weights", "lengths", "dropped", "evidence")

    def __init__(self, prior: Posterior, hazard: float, capacity: int | None = None) -> None:
        super().__init__(prior.support)
        self.runs = prior
        self.hazard, self.capacity = hazard, capacity
        self.log_weights = torch.zeros(len(self.support.mask), 1, dtype=torch.float64, device=self.support.mask.device)
        """Of each run before the next part, ``(B, K)``: the first is of one that begins with it."""
        self.lengths = torch.zeros_like(self.log_weights, dtype=torch.long)
        """How many parts each run has, ``(B, K)``: none of the first, one of a run that began with the last part told."""
        self.dropped = self.log_weights[:, 0]
        """The probability of the runs that were not kept, summed over all updates ``(B,)``: what `capacity` has cost so far."""
        self.evidence = self.log_weights[:, 0]
        """log p of all that was told, ``(B,)``, of each part given those before it."""

    # --- all runs at once

    def _each(self, tree: Any) -> Any:
        """Of each task the same for its K runs: ``(B, ...)`` to ``(B K, ...)``."""
        return tree_map(lambda leaf: leaf.repeat_interleave(self.log_weights.shape[1], 0), tree)

    def _by_run(self, found: Distribution) -> Distribution:
        """Answers of batch ``(B K, M)`` as ``(K, B, M)``."""
        size = self.log_weights.shape
        apart: Distribution = family(found).map(found, lambda p: p.unflatten(0, size).movedim(1, 0))
        return apart

    def _chosen(self, tasks: Tensor) -> Self:
        runs = self.log_weights.shape[1]
        chosen = super()._chosen(tasks)  # of each task its first run alone, ...
        chosen.runs = self.runs._chosen((tasks[:, None] * runs + torch.arange(runs, device=tasks.device)).flatten())
        return chosen

    # --- answers

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        each = self._by_run(self.runs._predictive(self._each(x), samples))
        return mixture(each, self.log_weights.mT[..., None])

    def _functions(self, samples: int) -> Functions:
        (tasks, runs), device = self.log_weights.shape, self.log_weights.device
        lot = torch.rand(samples, 1, 1, dtype=torch.float64, device=device, generator=generator(device))
        chosen = (self.log_weights.detach().softmax(1).cumsum(1) < lot).sum(-1).clamp(max=runs - 1)  # (S, B)
        places = torch.arange(tasks, device=device) * runs + chosen
        drawn = self.runs._chosen(places.flatten())._functions(1)  # of S B tasks; the other runs need not be asked

        def ask(x: Any, own: bool) -> Distribution:
            by_function = apart if own else lambda leaf, _: leaf.expand(samples, *leaf.shape)
            found = drawn(tree_map(lambda leaf: by_function(leaf, samples).flatten(0, 1), x), False)  # (1, S B, M)
            answers: Distribution = family(found).map(found, lambda p: p.squeeze(0).unflatten(0, (samples, tasks)))
            return answers

        return ask

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric, _ = self.runs._decompose(self._each(x), samples)  # (B K, M, *Y)
        aleatoric = aleatoric.unflatten(0, self.log_weights.shape)
        weights = self.log_weights.softmax(1).to(aleatoric)
        aleatoric = (weights.reshape(weights.shape + (1,) * (aleatoric.dim() - 2)) * aleatoric).sum(1)
        return aleatoric, (uncertainty(self._predictive(x, samples)) - aleatoric).clamp(min=0)

    # --- updates

    def _updated(self, points: Points) -> Posterior:
        told = seen(points).any(1)
        joint = self.log_weights + self._log_evidence(points)
        evidence = joint.logsumexp(1)
        _check_possible(evidence, told)
        # Where there is no point none begins.
        stay = torch.cat([torch.full_like(joint[:, :1], _NEVER), self.log_weights[:, 1:]], 1)
        weights = torch.where(told[:, None], joint - evidence[:, None], stay)
        kept, weights, dropped = self._largest(weights)
        first = torch.where(told, math.log(self.hazard), self.log_weights[:, 0])
        weights = torch.where(told[:, None], math.log1p(-self.hazard) + weights, weights)

        later = self._later()
        later.log_weights = torch.cat([first[:, None], weights], 1)
        later.lengths = torch.cat([self.lengths[:, :1], self.lengths.gather(1, kept) + told[:, None]], 1)
        later.evidence = self.evidence + evidence.masked_fill(~told, 0.0)
        later.dropped = self.dropped + dropped.masked_fill(~told, 0.0)
        start = torch.arange(len(kept), device=kept.device)[:, None] * joint.shape[1]
        runs = self.runs._chosen((start + torch.cat([torch.zeros_like(kept[:, :1]), kept], 1)).flatten())
        begun = torch.arange(1 + kept.shape[1], device=kept.device) > 0
        later.runs = runs._updated(_only(later._each(points), begun.repeat(len(kept))[:, None]))
        return later

    def _largest(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The runs that are kept ``(B, K')``, in their order, what they weigh, and the probability of the others ``(B,)``."""
        count = weights.shape[1] if self.capacity is None else min(self.capacity, weights.shape[1])
        kept = weights.topk(count, 1).indices.sort(1).values
        chosen, whole = weights.gather(1, kept), weights.logsumexp(1)
        excess = whole - chosen.logsumexp(1)
        return kept, chosen + excess[:, None], (1 - (-excess.detach()).exp()).clamp(min=0)

    def _log_evidence(self, points: Points) -> Tensor:
        """log p of a part under each run, ``(B, K)``."""
        posterior, found = self.runs, torch.zeros_like(self.log_weights)
        count = points.mask.shape[1]
        for start in range(0, count, _BLOCK):
            block = self._each(Points(*tree_map(lambda leaf, at=start: leaf[:, at : at + _BLOCK], tuple(points))))
            size = block.mask.shape[1]
            copies = posterior
            if size > 1:  # copy n knows the first n points of the block
                before = torch.ones(size, size, dtype=torch.bool, device=block.mask.device).tril(-1)
                copies = copies.expand(size)
                known = Points(*tree_map(lambda leaf, n=size: leaf.repeat_interleave(n, 0), tuple(block)))
                copies = copies._updated(_only(known, before.repeat(len(block.mask), 1)))
            x, y, mask = tree_map(lambda leaf: leaf.flatten(0, 1)[:, None], tuple(block))  # (B K n, 1, ...)
            each = log_prob(copies._predictive(x), y, mask).double()
            found = found + each.reshape(*found.shape, size).sum(-1)
            if start + size < count:
                posterior = posterior._updated(block)
        return found


def _check_possible(evidence: Tensor, told: Tensor) -> None:
    """Raises a ValueError where no run allows for what a task was told: nothing could be believed of it any more."""
    if readable(told) and (bad := told & ~evidence.isfinite()).any():
        task = int(bad.int().argmax())
        raise ValueError(
            f"points: expected predictions that allow for the points, got log p of {evidence[task].item()} at task {task}, under "
            "every run; train the learner first, or look for points far from those of its training"
        )


def _only(points: Points, which: Tensor) -> Points:
    """Of all points those that are meant ``(B, N)``; the others are not observed."""

    def keep(leaf: Tensor) -> Tensor:
        return leaf * which.reshape(which.shape + (1,) * (leaf.dim() - 2))

    return Points(*tree_map(keep, tuple(points)))
