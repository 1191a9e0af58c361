"""What baselines share: rows of training tasks, a spread fitted to residuals, and a posterior that keeps points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, final

import torch
from pyro.distributions import StudentT
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import Dataset

from bayesmeta.answers import Functions, repeated
from bayesmeta.border import check, check_amounts, check_count
from bayesmeta.border.checks import check_episodes, check_is_episode
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.posterior import Posterior
from bayesmeta.recorded import Setting

__all__ = ["Asked", "Kept", "Spread", "asked", "check_plain", "need", "parts_of"]


def need(name: str) -> Any:
    """A package of the extra `baselines`, imported when it is used."""
    try:
        with warnings.catch_warnings():  # some set filters when they are imported
            return import_module(name)
    except ImportError as error:
        raise ImportError(
            f'baselines: expected the package {name.partition(".")[0]}, got none; pip install "bayesmeta[baselines]"'
        ) from error


def check_plain(given: Points, name: str, feature: int = 0) -> None:
    """Raises a ValueError unless points have plain features, that one among them, and one real target, all of it observed."""
    x, y = given.x, given.y
    plain = isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point()
    if not plain or y.shape[2:] != (1,) or not y.is_floating_point() or given.mask.dim() > 2:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name}: expected features x (B, N, D) and one real target, y (B, N, 1), for a baseline, got x {got} and y "
            f"{y.dtype} {tuple(y.shape)}; give each target a baseline of its own"
        )
    if feature >= x.shape[2]:
        raise ValueError(f"feature: expected the place of one of {x.shape[2]} features of x, from 0 on, got {feature}")


def parts_of(tasks: Dataset[Episode], episodes: int, feature: int = 0) -> list[tuple[Episode, Tensor]]:
    """The first episodes of training tasks, in float64, each with numbers of its tasks ``(B,)``, the same whenever they return.

    Raises:
        ValueError: there are fewer than two tasks, targets are yes or no, or there are points that a baseline does not take.
    """
    check_count("episodes", episodes)
    check_episodes(tasks)
    if not isinstance(tasks, (Dataset, Sequence)):
        raise TypeError(
            f"tasks: expected a task source or a list of episodes, got {type(tasks).__name__}; "
            "tasks_from_frame(frame, task=..., x=..., y=...) makes one"
        )
    found, new = [], 0
    for index in range(min(episodes, len(tasks))):  # type: ignore[arg-type]
        episode = tasks[index]
        check_is_episode(episode, index)
        for part, name in zip(episode, ("support", "query"), strict=True):
            check(part, f"tasks: {name}")
            check_plain(part, f"tasks: {name}", feature)
        members = getattr(tasks, "members", lambda index: None)(index)
        if members is None:
            members = torch.arange(new, new + len(episode.support.mask))
        new += len(members)
        double = Episode(*(Points(part.x.double(), part.y.double(), part.mask) for part in episode))
        found.append((double, torch.as_tensor(members).cpu()))
    if len(torch.cat([members for _, members in found]).unique()) < 2:
        raise ValueError("tasks: expected at least two training tasks, got one; a baseline learns how tasks differ")
    check_amounts(torch.cat([part.y[part.mask][:, 0].cpu() for episode, _ in found for part in episode]), "tasks: y")
    return found


class Asked(NamedTuple):
    """The queries of training tasks, one a row, and what a baseline says of each from its task's support."""

    found: Tensor
    """``(rows, F)``."""
    y: Tensor
    """``(rows,)``."""
    known: Tensor
    """How many points the support has, at least 1, ``(rows,)``."""
    task: Tensor
    """Of which task, ``(rows,)``."""


def asked(parts: list[tuple[Episode, Tensor]], say: Callable[[Points, Tensor], Tensor]) -> Asked:
    """The rows of training episodes.

    Args:
        parts: from `parts_of`.
        say: from a support and inputs ``(B, M, D)`` to numbers ``(B, M, F)``.

    Raises:
        ValueError: no support has a point.
    """
    rows = []
    for (support, query), members in parts:
        known = support.mask.sum(1)
        there = query.mask & (known > 0)[:, None]
        found = say(support, query.x)
        each = known[:, None].expand_as(there), members.to(there.device)[:, None].expand_as(there)
        rows.append((found[there], query.y[there][:, 0], *(values[there] for values in each)))
    joined = Asked(*(torch.cat(column).cpu() for column in zip(*rows, strict=True)))
    if not len(joined.y):
        raise ValueError("tasks: expected supports with points, got none with any; raise shots, for example to (1, 5)")
    return joined


@final
@dataclass(frozen=True)
class Spread(Setting):
    """How far targets are from a baseline's answers: Student's t, whose scale is a power of one more than the points known.

    Args:
        mean: of all training targets, the answer where no point is known.
        deviation: their standard deviation, which then is that of the answer.
        scale: of t, at no known point by the power law.
        power: the scale at n points is ``scale * (1 + n) ** power``.
        df: the degrees of freedom, above 2.
    """

    mean: float
    deviation: float
    scale: float
    power: float
    df: float

    @classmethod
    def fitted(cls, residuals: Tensor, known: Tensor, y: Tensor) -> Spread:
        """By maximum likelihood on residuals ``(n,)`` of answers from so many known points, ``(n,)``, to targets ``(n,)``."""
        unit = residuals.square().mean().sqrt().clamp(min=1e-6 * float(y.std(correction=0)) or 1e-12)
        log_known = known.double().log1p()
        start = torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
        varies = float(log_known.std(correction=0) > 0)
        optimizer = torch.optim.LBFGS([start], max_iter=100, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            optimizer.zero_grad()
            level, power, freedom = start.clamp(-12.0, 12.0)
            scale = (level + varies * power * (log_known - log_known.mean())).exp()
            law = StudentT(2.1 + freedom.clamp(max=6.0).exp(), 0.0, scale, validate_args=False)
            loss: Tensor = -law.log_prob(residuals / unit).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(objective)
        level, power, freedom = start.detach().clamp(-12.0, 12.0).tolist()
        power *= varies
        scale = float(unit) * float(torch.tensor(level - power * float(log_known.mean())).exp())
        deviation = float(y.std(correction=0)) or float(unit)
        return cls(float(y.mean()), deviation, scale, power, 2.1 + float(torch.tensor(min(freedom, 6.0)).exp()))

    def around(self, answers: Tensor, known: Tensor) -> Distribution:
        """The prediction around answers ``(B, M)`` from so many known points ``(B,)``: batch ``(B, M)``, event ``(1,)``."""
        none = (known == 0)[:, None]
        scale = self.scale * (1 + known.to(answers))[:, None] ** self.power
        first = self.deviation * (1 - 2 / self.df) ** 0.5
        loc = torch.where(none, self.mean, answers)[..., None]
        scale = torch.where(none, first, scale)[..., None].expand_as(loc)
        return StudentT(torch.full_like(loc, self.df), loc, scale, validate_args=False).to_event(1)


class Kept(Posterior):
    """A baseline's answers from the points that it was told: one function a task, without doubt about it.

    Args:
        say: from known points and inputs ``(B, M, D)`` to the predictions, batch ``(B, M)``.
        known: all points that were told.
        support: the points that it was made from.
    """

    _of_tasks = ("known",)

    def __init__(self, say: Callable[[Points, Tensor], Distribution], known: Points, support: Points) -> None:
        super().__init__(support)
        self.say, self.known = say, known

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return self.say(self.known, x)

    def _functions(self, samples: int) -> Functions:
        return repeated(self._predictive, samples)

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.known = concatenate(self.known, points)
        return later
