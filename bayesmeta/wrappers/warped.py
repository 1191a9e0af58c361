"""A learner of targets on another scale, such as the logarithmic, with exact densities in the user's units."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.answers import Joint, refuse_gaussian
from bayesmeta.border import readable
from bayesmeta.data import Episode, Points
from bayesmeta.distributions import Unwarped
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed
from bayesmeta.warps import Warp
from bayesmeta.wrappers.standardized import Standardized

__all__ = ["Warped"]


@final
class Warped(Learner):
    """A learner that sees real targets on another scale, and answers in the user's units: predictions are `Unwarped`.

    Incomes, concentrations and reaction times vary by factors: on a logarithmic scale their noise is alike, and no prediction is
    below 0. Snelson, Rasmussen & Ghahramani 2004, https://papers.nips.cc/paper/2481-warped-gaussian-processes, with a given warp.
    ``Warped.from_tasks(learner, warp, tasks)`` standardises the learner too, on the warped scale.

    Predictions, updates and functions are as exact as those of the learner within. `decompose` gives variances in the user's
    units, by draws of functions. Training descends the inner learner's objective on the warped episodes: a likelihood there
    differs from one in the user's units, which `evaluate` reports, by a constant. `Calibrated`, `Ensemble` (also beside learners
    that are not warped) and `Rehearsal` go around it; `Standardized` and `OwnScale` go within.

    Args:
        learner: of real targets.
        warp: one of `bayesmeta.warps`, e.g. ``warps.Log(top=1000.0)``.

    Raises:
        TypeError: the learner is none, or warped already, or the warp is none.
        ValueError: the learner's likelihood is discrete. At a call, and in training, a target is outside the warp's bounds.

    Example:
        >>> learner = Warped(ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()), bm.warps.Log())
        >>> prediction = learner(points([1.0, 2.0], [20.0, 40.0]))([3.0])
        >>> quantile(prediction, 0.05) > 0
        tensor([[[True]]])
    """

    def __init__(self, learner: Learner, warp: Warp) -> None:
        super().__init__()
        if not isinstance(learner, Learner) or any(isinstance(part, Warped) for part in learner.modules()):
            raise TypeError(
                f"learner: expected a learner that is not warped yet, got {type(learner).__name__}; e.g. ALPaCA(...)"
            )
        if not isinstance(warp, Warp):
            raise TypeError(f"warp: expected one of bayesmeta.warps, got {warp!r}; e.g. warps.Log()")
        for part in learner.modules():
            if isinstance(part, Likelihood) and part.discrete:
                raise ValueError(
                    f"learner: expected a likelihood of real targets, got {part}, whose targets have no other scale; leave out "
                    "the warp, or use Gaussian()"
                )
        self.learner = learner
        self.warp = warp

    @classmethod
    def from_tasks(cls, learner: Learner, warp: Warp, tasks: Dataset[Episode], *, episodes: int = 20) -> Warped:
        """Warps a learner that is standardised on the warped scale, see `Standardized.from_tasks`.

        Args:
            learner: the learner to wrap.
            warp: one of `bayesmeta.warps`.
            tasks: the meta-training tasks, in the user's units.
            episodes: how many of their episodes to read; all, where there are fewer.

        Raises:
            ValueError: a target is outside the warp's bounds; and as `Standardized.from_tasks`.

        Example:
            >>> tasks = tasks_from_arrays([0.0, 1.0, 2.0, 3.0], [1.0, 20.0, 3.0, 400.0], ["a", "a", "b", "b"], shots=1)
            >>> learner = Warped.from_tasks(ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()), bm.warps.Log(), tasks)
            >>> learner.learner.y_loc
            tensor([2.5215])
        """
        return cls(Standardized.from_tasks(learner, _Seen(tasks, warp), episodes=episodes), warp)

    def forward(self, support: Points) -> Posterior:
        return _Unwarping(self.learner(_warped(support, self.warp, "support")), support, self.warp)

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(_seen(episode, self.warp))


class _Unwarping(Transformed):
    """A posterior on the warped scale, seen in the user's units."""

    def __init__(self, inner: Posterior, support: Points, warp: Warp) -> None:
        self.warp = warp
        super().__init__(
            inner,
            support,
            lambda x: x,
            lambda predictive: Unwarped(predictive, warp),
            lambda points: _warped(points, warp, "points"),
        )

    def _admit(self, points: Points) -> None:
        _check_inside(points, self.warp, "points")
        super()._admit(points)

    def _mean(self, x: Any) -> Tensor:
        return Posterior._mean(self, x)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        """By draws, which show no infinity: where the variance has none, neither do its parts."""
        endless = self._predictive(x).variance.isinf()
        drawn: Any = self._functions(samples)(x, False)
        means, variances = drawn.moments()
        aleatoric, epistemic = variances.mean(0), means.var(0, correction=0)
        return aleatoric.masked_fill(endless, torch.inf), epistemic.masked_fill(endless, torch.inf)

    def _joint(self, x: Any) -> Joint:
        refuse_gaussian(self, "joint", "posterior", "draw from it, posterior.functions(S)")

    def _joints(self, x: Any) -> Joint:
        return self._joint(x)

    def _misfit(self) -> tuple[Tensor, Tensor]:
        refuse_gaussian(
            self, "learner", "learner", "warp the learner with its own scale, Warped(OwnScale(learner), warp)"
        )


@final
class _Seen(Dataset[Episode]):
    """Tasks on the warped scale."""

    def __init__(self, tasks: Dataset[Episode], warp: Warp) -> None:
        self.tasks, self.warp = tasks, warp

    def __len__(self) -> int:
        return len(self.tasks)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Episode:
        return _seen(self.tasks[index], self.warp)


def _seen(episode: Episode, warp: Warp) -> Episode:
    return Episode(_warped(episode.support, warp, "support"), _warped(episode.query, warp, "query"))


def _entries(given: Points) -> Tensor:
    """Which entries of y are observed."""
    return given.mask.reshape(given.mask.shape + (1,) * (given.y.dim() - given.mask.dim())).expand_as(given.y)


def _warped(given: Points, warp: Warp, name: str) -> Points:
    _check_inside(given, warp, name)
    there = _entries(given)
    safe = torch.where(there, given.y, warp.inverse(torch.zeros_like(given.y)))
    return given._replace(y=torch.where(there, warp(safe), 0.0))


def _check_inside(given: Points, warp: Warp, name: str) -> None:
    """Raises a ValueError where targets are labels, or an observed one is outside the warp's bounds."""
    if not given.y.is_floating_point():
        raise ValueError(
            f"{name}.y: expected floating targets, as a warp needs, got labels, {given.y.dtype}; leave out the warp"
        )
    if not readable(given.y):
        return
    bad = ~warp.inside(given.y) & _entries(given)
    if bad.any():
        task, point, *_ = place = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}.y: expected {warp.expects} for {warp}, got {given.y[place].item():g} at task {task}, point {point}"
        )
