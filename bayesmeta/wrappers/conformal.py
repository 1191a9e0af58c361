"""Conformal regions: sets that hold the truth as often as promised, on tasks like the calibration tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.border import check_probability
from bayesmeta.data import Episode, Points, seen
from bayesmeta.distributions import class_probabilities, has_classes, has_labels, marginals, uniform
from bayesmeta.evaluation import Clusters, Units, answers, reading
from bayesmeta.learner import Learner
from bayesmeta.metrics import NLL, Estimate, bootstrap
from bayesmeta.metrics.classification import each_label
from bayesmeta.posterior import Posterior
from bayesmeta.recorded import Recorded
from bayesmeta.wrappers.calibrated import _check_learner

__all__ = ["Conformal"]


@final
class Conformal(Recorded):
    """Regions that hold the target with a given probability, whatever the learner and however badly calibrated.

    Split conformal prediction over tasks: if calibration tasks and a new one are exchangeable, a point of the new task is in its
    region with probability of at least `level`, over tasks and points, whatever the dependence within a task (Lee, Barber &
    Willett 2023, https://arxiv.org/abs/2306.06342, HCP). The guarantee is marginal: it averages over tasks, easy and hard. It
    weighs tasks alike, however many points they have: the mean over tasks of the share of points inside. Of the K calibration
    tasks themselves the region therefore holds the share level (K + 1) / K, rounded up to what their points can give; the excess
    is the price of a task that is not known yet.

    - Real targets: an interval, mean ± q standard deviations, q from the scores |y - mean| / standard deviation; for several
      targets a box around all, q from the largest.
    - Classes: a set, by adaptive randomised scores (Romano, Sesia & Candès 2020, https://arxiv.org/abs/2006.02544): classes in
      the order of probability until their sum reaches q, the last of them by a coin. Random, by torch's global generator;
      it may be empty where the level is below the accuracy.

    A task that several episodes hold (``tasks.members``) counts as one, however often they do.

    Where tasks differ in size and it is measurements that matter, ``over="points"`` gives regions that hold that share of all
    points, so that long tasks weigh more: the expected number of a new task's points inside is at least `level` times that of its
    points, if it has no more than the longest of the calibration tasks. Of a task in several episodes that is the mean number.

    ``Conformal.from_tasks(learner, tasks, level=0.9)`` computes the threshold, which is saved with the learner.

    Args:
        learner: the learner to calibrate, trained already.
        threshold: q, the largest score of a target inside its region.
        over: what the coverage is a mean over: ``"tasks"``, which weigh alike, or ``"points"``.

    Raises:
        TypeError: the learner is no learner.
        ValueError: the threshold is no number, or `over` something else.

    Example:
        >>> learner = MAML(MLP(1, 1), Gaussian(scale=0.5))
        >>> low, high = Conformal(learner, 1.5)(points([0.0, 1.0], [0.0, 1.0])).interval([0.5])
        >>> high - low  # 2 q standard deviations
        tensor([[[1.5000]]], grad_fn=...)
    """

    def __init__(self, learner: Learner, threshold: float, *, over: Literal["tasks", "points"] = "tasks") -> None:
        super().__init__()
        _check_learner(learner)
        _check_over(over)
        self.learner = learner
        self.threshold = _number(threshold)
        self.over = over

    @classmethod
    def from_tasks(
        cls,
        learner: Learner,
        tasks: Dataset[Episode],
        *,
        level: float = 0.9,
        over: Literal["tasks", "points"] = "tasks",
        episodes: int = 20,
        seed: int = 0,
    ) -> Conformal:
        """The regions that hold a share of the targets, by calibration tasks.

        Args:
            learner: the learner to calibrate, trained already.
            tasks: calibration tasks, exchangeable with those to come: not those of training, and with as many shots.
            level: the coverage, 0.9 for 90 %.
            over: what the coverage is a mean over.
            episodes: how many of their episodes to read.
            seed: of random predictions and coins during calibration; torch's global generator is not touched.

        Raises:
            ValueError: there are too few tasks for the level (it takes 9 for 90 %, and for ``over="points"`` 9 times the points
                of the longest), or not so many episodes.

        Example:
            >>> tasks = Sinusoids(noise=0.1)
            >>> conformal = Conformal.from_tasks(MAML(MLP(1, 1), Gaussian()), tasks, episodes=2)
            >>> low, high = conformal(tasks[5].support).interval(tasks[5].query.x)
            >>> low.shape
            torch.Size([25, 15, 1])
        """
        check_probability("level", level)
        _check_learner(learner)
        _check_over(over)
        read = [visit for visits in _visits(learner, tasks, episodes, seed) for visit in visits]
        return cls(learner, _threshold(read, float(level), over), over=over)

    def __call__(self, support: Points) -> ConformalPosterior:
        """The regions of the support's B tasks."""
        regions: ConformalPosterior = super().__call__(support)
        return regions

    def forward(self, support: Points) -> ConformalPosterior:
        return ConformalPosterior(self.learner(support), self.threshold)

    def get_extra_state(self) -> dict[str, Any]:
        """The threshold, which is part of what a file holds of the weights."""
        return {"threshold": self.threshold, "over": self.over}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.threshold, self.over = float(state["threshold"]), state["over"]

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:.4g}, over={self.over!r}"

    def coverage(
        self, tasks: Dataset[Episode], *, episodes: int, clusters: Clusters | None = None, seed: int = 0
    ) -> Estimate:
        """The share of targets in their regions: what is promised, the mean over tasks, or over points if that was asked for.

        Args:
            tasks: test tasks, not those of calibration, nor those of training.
            episodes: how many of their episodes to read.
            clusters: which unit to draw anew in the interval, as in `evaluate`; the share itself weighs tasks as it does without.
            seed: of random predictions and coins.
        """
        units = Units(tasks, clusters)
        episodic = _visits(self.learner, tasks, episodes, seed)
        for index, visits in enumerate(episodic):
            units.read(index, len(visits))
        read = [visit for visits in episodic for visit in visits]
        rows = [
            weight * torch.tensor([float((visit.scores <= self.threshold).sum()), len(visit.scores)]).double()
            for visit, weight in zip(read, _weights(read, self.over), strict=True)
        ]
        (pooled,), shared = units.pooled([torch.stack(rows)])
        return bootstrap(NLL(), pooled, shared)  # a weighted mean, as the NLL is


def _check_over(over: str) -> None:
    if over not in ("tasks", "points"):
        raise ValueError(f'over: expected "tasks" or "points", got {over!r}')


def _number(threshold: float) -> float:
    try:
        found = math.nan if isinstance(threshold, (str, bytes)) else float(threshold)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if math.isnan(found):
        got = "NaN" if isinstance(threshold, float) else repr(threshold)
        raise ValueError(f"threshold: expected a number, got {got}; Conformal.from_tasks(learner, tasks) computes it")
    return found


class _Visit(NamedTuple):
    """A task in one episode."""

    task: Any
    """Its name, the same in every episode that holds it."""
    scores: Tensor
    """Of its observed points there, float64 on the CPU."""


def _weights(visits: Sequence[_Visit], over: str) -> list[float]:
    """What each point of a visit counts."""
    points, times = Counter[Any](), Counter(visit.task for visit in visits)
    for visit in visits:
        points[visit.task] += len(visit.scores)
    return [1 / (points if over == "tasks" else times)[visit.task] for visit in visits]


def _threshold(visits: Sequence[_Visit], level: float, over: str) -> float:
    """The conformal quantile of the scores of each task's points."""
    weights = [torch.full_like(v.scores, w) for v, w in zip(visits, _weights(visits, over), strict=True)]
    tasks: dict[Any, float] = {}
    for visit, row in zip(visits, weights, strict=True):
        tasks[visit.task] = tasks.get(visit.task, 0.0) + float(row.sum())
    # A task that is not known yet, all of whose points may lie outside, counts as the heaviest of those known.
    whole = sum(tasks.values()) + max(tasks.values())
    scores, weight = torch.cat([visit.scores for visit in visits]), torch.cat(weights)
    order = scores.argsort()
    reached = weight[order].cumsum(0) >= (level - 1e-12) * whole
    if not reached.any():
        least = math.ceil(level / (1 - level) - 1e-9)
        times = "" if over == "tasks" else ", or that many times the points of the longest,"
        raise ValueError(
            f"tasks: expected at least {least} calibration tasks{times} for a level of {level}, got {len(tasks)}; "
            "raise episodes or lower the level"
        )
    return float(scores[order][reached.nonzero()[0, 0]])


class ConformalPosterior:
    """The regions for B tasks: `interval` for real targets, `classes` for labels."""

    def __init__(self, posterior: Posterior, threshold: float) -> None:
        self.posterior = posterior
        self.threshold = threshold

    def interval(self, x: Any) -> tuple[Tensor, Tensor]:
        """The lower and the upper end at x, each ``(B, M, *Y)``."""
        predictive = self.posterior(x)
        if has_classes(predictive):
            raise TypeError("interval: expected a learner of real targets, got one of classes; use classes(x)")
        reach = self.threshold * predictive.stddev
        return predictive.mean - reach, predictive.mean + reach

    def classes(self, x: Any) -> Tensor:
        """Which classes are in the set at x, ``(B, M, *Y, W)`` bool. The coins are torch's global generator's."""
        predictive = self.posterior(x)
        if not has_classes(predictive):
            raise TypeError("classes: expected a learner of classes, got one of real targets; use interval(x)")
        return _class_scores(predictive) <= self.threshold


def _class_scores(predictive: Any) -> Tensor:
    """Of each class ``(..., W)``: -log of one less the mass of all more probable classes and of a uniform share of its own.

    In logarithms, since classes that all round to a probability of zero still have an order.
    """
    if has_labels(predictive):
        single: Any = marginals(predictive)
        log_p = single.logits.double().log_softmax(-1)
    else:
        log_p = class_probabilities(predictive).double().clamp(min=1e-300).log().squeeze(-2)  # a Bernoulli's one entry
    ordered, order = log_p.sort(-1, descending=True)
    coin = uniform(log_p.shape[:-1], log_p)[..., None]
    left = ordered.flip(-1).logcumsumexp(-1).flip(-1)  # of each class and all less probable ones
    after = torch.cat([left[..., 1:], torch.full_like(left[..., :1], -math.inf)], -1)
    scores = -torch.logaddexp(after, ordered + torch.log1p(-coin))
    return torch.empty_like(scores).scatter(-1, order, scores)


def _visits(learner: Learner, tasks: Dataset[Episode], episodes: int, seed: int) -> list[list[_Visit]]:
    """The tasks of each episode, with the scores of their observed points."""
    found = []
    with reading(learner, tasks, episodes=episodes, seed=seed) as read:
        for index, episode in read:
            predictive: Any = answers(learner, episode)
            y, mask = episode.query.y, seen(episode.query)
            if has_labels(predictive):
                single, given = each_label(predictive, episode.query)
                mask = given.mask
                scores = _class_scores(single).gather(-1, given.y[..., None]).squeeze(-1)
            elif has_classes(predictive):
                scores = _class_scores(predictive).gather(-1, y.long()).squeeze(-1)
            else:
                scores = (y - predictive.mean).abs() / predictive.stddev
                if episode.query.mask.dim() > 2:
                    scores = scores * episode.query.mask
                scores = scores.flatten(2).amax(-1)
                if (scores.isnan() & mask).any():
                    raise ValueError(
                        "learner: expected predictions with standard deviations above 0, by which errors are divided, got 0 in "
                        f"episode {index}; let it give a smallest one"
                    )
            members = tasks.members(index) if hasattr(tasks, "members") else None
            names = [(index, b) for b in range(len(scores))] if members is None else members.tolist()
            rows = zip(names, scores.double().cpu(), mask.cpu(), strict=True)
            found.append([_Visit(name, row[there]) for name, row, there in rows])
    return found
