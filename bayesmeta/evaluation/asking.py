"""The questions to a learner of one stream: about every part, as parts come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points, join
from bayesmeta.evaluation.evaluate import Predictor, answers, judged
from bayesmeta.metrics import Metric

__all__ = ["Asked", "LabelSpace", "check_seen", "first_answer"]

LabelSpace: TypeAlias = Literal["all", "seen", "own"]
"""Among which labels a prediction chooses: all, those that have come so far, or those of the part that is asked about."""
Row: TypeAlias = list[list[Tensor] | None]
"""Of each part the statistics of its queries, one a metric; None where it was not asked about."""


class Asked:
    """What one learner says as the parts of streams come.

    Args:
        learner: see `evaluate_stream`.
        metrics: what to measure.
        labels: among which labels a prediction chooses.
    """

    def __init__(self, learner: Predictor, metrics: Sequence[Metric], labels: LabelSpace) -> None:
        self.learner, self.metrics, self.labels = learner, metrics, labels

    def stream(self, parts: Sequence[Episode], times: Sequence[int], together: bool) -> list[list[Tensor]]:
        """The statistics of all kinds, in the order of `Retention`: of each kind one tensor a metric."""
        nothing = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(parts[0].support)))
        whole = join(parts)
        posterior: Any = self.learner(parts[0].support)
        fresh, before, untaught, alone, at_once = rows = [
            list[list[Tensor] | None]([None] * len(parts)) for _ in range(5)
        ]
        later: list[Row] = []
        width = 0 if whole.query.y.is_floating_point() else 1 + max(int(given.y.max()) for given in whole)
        come = _labels(parts[0].support, width)
        for t, part in enumerate(parts):
            if t:
                if not (_labels(part.query, width) & ~come).any():
                    before[t] = self.ask(posterior, part, come, t)
                    untaught[t] = self.ask(self.learner(nothing), part, come, t)
                posterior = posterior.update(part.support)
                come = come | _labels(part.support, width)
            fresh[t] = self.ask(posterior, part, come, t)
            alone[t] = self.ask(self.learner(part.support), part, _own(part, width), t) if t else fresh[t]
            if t in times:
                past = [self.ask(posterior, each, come, j) for j, each in enumerate(parts[:t])]
                later.append([*past, fresh[t], *[None] * (len(parts) - t - 1)])
        if together:
            known = self.learner(whole.support)
            at_once[:] = [self.ask(known, each, come, j) for j, each in enumerate(parts)]
        each_time = zip(*(_stacked(row, fresh) for row in later), strict=True)
        return [[torch.stack(every, 1) for every in each_time], *(_stacked(row, fresh) for row in rows[: 4 + together])]

    def ask(self, posterior: Any, part: Episode, come: Tensor, number: int) -> list[Tensor]:
        """Statistics of a part's queries, one a metric ``(B, K)``; the part's number is for messages."""
        prediction = answers(lambda support: posterior, part)
        if self.labels != "all":
            prediction = _among(prediction, come if self.labels == "seen" else _own(part, len(come.T)))
        rows = judged(self.metrics, prediction, part.query, self.learner, f"part {number}")
        return [row.double() for row in rows]


def _stacked(row: Row, like: Row) -> list[Tensor]:
    """Of each metric the statistics of all parts, ``(B, P, K)``; zeros where a part was not asked about."""
    first = next(each for each in like if each is not None)
    asked = [[torch.zeros_like(one) for one in first] if each is None else each for each in row]
    return [torch.stack(every, 1) for every in zip(*asked, strict=True)]


def _labels(given: Points, width: int) -> Tensor:
    """Which labels observed points have, ``(B, width)``; of real targets there are none."""
    y, mask = given.y, given.mask
    if width == 0:
        return torch.zeros(len(mask), 0, dtype=torch.bool, device=mask.device)
    mask = mask.reshape(mask.shape + (1,) * (y.dim() - mask.dim())).expand_as(y).flatten(1)
    found = torch.zeros(len(mask), width, dtype=torch.long, device=mask.device)
    return found.scatter_add(1, y.flatten(1).long(), mask.long()) > 0


def _own(part: Episode, width: int) -> Tensor:
    """The labels of a part, that it teaches or asks about."""
    return _labels(part.support, width) | _labels(part.query, width)


def _among(prediction: Distribution, labels: Tensor) -> Distribution:
    """A prediction of labels given that it is one of these, ``(B, W)``."""
    if not isinstance(prediction, torch.distributions.Categorical):
        raise TypeError(
            f"labels: expected predictions of one label a point to choose among some, got {type(prediction).__name__}; use "
            "labels='all'"
        )
    allowed = labels.new_zeros(len(labels), prediction.logits.shape[-1])
    allowed[:, : labels.shape[1]] = labels
    allowed |= ~labels.any(
        1, keepdim=True
    )  # a task without a point is not asked: its answers must be numbers all the same
    return Categorical(logits=prediction.logits.masked_fill(~allowed[:, None], -torch.inf), validate_args=False)


def check_seen(parts: Sequence[Episode], index: int) -> None:
    """Raises a ValueError where a query's label has not come by its part: among those that have it can have no probability."""
    if parts[0].query.y.is_floating_point():
        return
    width = 1 + max(int(given.y.max()) for part in parts for given in part)
    come = _labels(parts[0].support, width)
    for t, part in enumerate(parts):
        come = come | _labels(part.support, width)
        odd = _labels(part.query, width) & ~come
        if odd.any():
            task, label = odd.nonzero()[0].tolist()
            raise ValueError(
                f"labels: expected queries of labels that have come, to choose among 'seen' ones, got label {label} at "
                f"task {task} of part {t} of episode {index}, which no support has taught by then; use labels='all'"
            )


def first_answer(learner: Predictor, part: Episode, largest: int) -> Distribution:
    """What a learner says of the first part, checked before any time is spent on the others.

    Args:
        learner: see `evaluate_stream`.
        part: the first of the first stream.
        largest: of all labels that are to come.

    Raises:
        TypeError: the learner's posteriors cannot be told more.
        ValueError: its predictions have no place for the largest label.
    """
    posterior: Any = learner(part.support)
    if not callable(getattr(posterior, "update", None)):
        raise TypeError(
            "learner: expected one whose posteriors can be told further points, got answers by "
            f"{type(posterior).__name__}, without `update`; wrap it, Rehearsal(learner), or use evaluate"
        )
    query = part.query
    if not query.y.is_floating_point():
        query = query._replace(y=torch.full_like(query.y, largest))
    return answers(lambda support: posterior, part._replace(query=query))
