"""Tasks that change without notice: a filter over when the present one began, around any posterior that can be updated.

Harrison, Sharma, Finn & Pavone 2020, "Continuous Meta-Learning without Tasks" (MOCA), https://arxiv.org/abs/1912.08866: Bayesian
online changepoint detection (Adams & MacKay 2007, https://arxiv.org/abs/0710.3742) over what a meta-learner knows of each run of
parts that the present task may have. `bayesmeta.posteriors.Runs` has the equations.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_probability
from bayesmeta.data import Episode, Points, move
from bayesmeta.evaluation import reading
from bayesmeta.evaluation.streaming import Streams, check_streams
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Runs

__all__ = ["Changepoints"]


@final
class Changepoints(Learner):
    """A learner for streams without boundaries: before each part a task is a new one with probability `hazard`.

    A part is what comes at once, the support or the points of one `update`, and all of one task: tell point by point what may
    change from point to point. A posterior answers of the next part, before which the task may change again: a mixture over how
    many of the last parts are of the present task, and of a new task, of which the learner's prior answers. Each is weighed by
    how well it foretold the parts (log p(y | x); MOCA's classifiers weigh log p(x, y)). With a learner whose updates are exact,
    that is the sum over all segmentations of the stream.

    A posterior grows by one run with each part, and so does the cost of the next. With a `capacity` it stays bounded; then
    ``posterior.dropped`` ``(B,)`` is the probability of the runs that were not kept, summed over all updates: each changed the
    beliefs by so much in total variation. ``posterior.evidence`` ``(B,)`` is log p of all parts told, to compare hazards by; and
    ``posterior.log_weights`` ``(B, K)`` what is believed of the run: first a new task, last the longest. ``posterior.lengths``
    ``(B, K)`` says how many parts each has: the weight where that is 1, over 1 - hazard, is the belief that the last part told
    began a new task.

    Training passes through: the learner is trained on episodes of one task each. Gradients of a posterior's answers flow to it
    through weights and predictions alike.

    Args:
        learner: one whose posteriors can be told further points (`Posterior.update` says which).
        hazard: the probability of a change before a part, between 0 and 1: one over the mean number of parts of a task.
            ``Changepoints.from_streams(learner, streams)`` finds it.
        capacity: how many runs are kept of each task, those of the largest weight; None for all.

    Raises:
        TypeError: the learner is no learner.
        ValueError: the hazard is no probability, or the capacity not at least 1.
        NotImplementedError: at a call, the learner's posteriors cannot be told further points.

    Example:
        >>> learner = Changepoints(ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian(0.1)), hazard=0.05)
        >>> posterior = learner(points([0.0], [0.0])).update(points([1.0], [0.1])).update(points([0.5], [3.0]))
        >>> posterior.log_weights.exp()[0, :2] > 0.04  # of a new task, and of one that began with the last point
        tensor([True, True])
        >>> posterior([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(self, learner: Learner, hazard: float, capacity: int | None = None) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as ALPaCA(...), got {type(learner).__name__}")
        check_probability("hazard", hazard)
        if capacity is not None:
            check_count("capacity", capacity)
        self.learner = learner
        self.hazard = float(hazard)
        self.capacity = capacity

    @classmethod
    def from_streams(
        cls, learner: Learner, streams: Streams, *, capacity: int | None = None, episodes: int = 2, seed: int = 0
    ) -> Changepoints:
        """The hazard under which training streams are likeliest, to a factor of √2, between 1/1448 and 1/√2.

        Nobody needs to know where their tasks change.

        Args:
            learner: the learner to wrap, trained already.
            streams: a `StreamSource` of training or validation streams, not those of a test.
            capacity: how many runs are kept of each task; None for all.
            episodes: how many of their episodes to read, about fifteen times each.
            seed: of random predictions; torch's global generator is not touched.

        Raises:
            TypeError: the learner is no learner, or streams have no parts.
            ValueError: there are not so many episodes, or the streams are infinitely unlikely.
            NotImplementedError: the learner's posteriors cannot be told further points.

        Example:
            >>> streams = Switching(LinearGaussian(shots=1, queries=1), hazard=0.1, steps=30)
            >>> line = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian(0.1), prior_scale=1.0)
            >>> 0.05 < Changepoints.from_streams(line, streams, episodes=1).hazard < 0.2
            True
        """
        check_streams(streams)
        cls(learner, 0.5, capacity)
        with reading(learner, streams, episodes=episodes, seed=seed) as read:  # type: ignore[arg-type]
            told = [[move(part.support, learner) for part in streams.parts(index)] for index, _ in read]

            def evidence(hazard: float) -> float:
                found = 0.0
                for first, *others in told:
                    posterior = cls(learner, hazard, capacity)(first)
                    for part in others:
                        posterior = posterior.update(part)
                    assert isinstance(posterior, Runs)
                    found += float(posterior.evidence.sum())
                return found if math.isfinite(found) else -math.inf

            scores = {hazard: evidence(hazard) for hazard in (2.0**-k for k in range(1, 11))}
            best = max(scores, key=lambda hazard: scores[hazard])
            scores |= {hazard: evidence(hazard) for hazard in (best * 2**0.5, best / 2**0.5)}
        if max(scores.values()) == -math.inf:
            raise ValueError(
                "learner: expected predictions that allow for the streams' points, got log p of -inf; train it first"
            )
        return cls(learner, max(scores, key=lambda hazard: scores[hazard]), capacity)

    def forward(self, support: Points) -> Posterior:
        nothing = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(support)))
        posterior = Runs(self.learner(nothing), self.hazard, self.capacity)._updated(support)
        posterior.support = support
        return posterior

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(episode)
