"""Acting on what was learned: a plan is the sequence of actions that pays most under a posterior's functions.

The cross-entropy method (Rubinstein & Kroese 2004, *The Cross-Entropy Method*), as model-based control uses it (Chua, Calandra,
McAllister & Levine 2018, https://arxiv.org/abs/1805.12114, section 5): draw candidates, follow each one through the model, refit
the distribution that they are drawn from to those of the highest return, and so on; the mean of the last elites is the plan.

Shape letters: B worlds, O numbers of an observation, A of an action, H steps ahead, C candidates, S functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import standard_normal, uniform

__all__ = ["Bounded", "Choices", "Planner", "Reward", "plan"]

Reward: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a step pays ``(...)``: of the observation before ``(..., O)``, the action ``(..., A)`` and the observation after."""


@dataclass(frozen=True)
class Bounded:
    """Actions of A numbers, each between limits of its own.

    Args:
        low: the least, ``(A,)``.
        high: the largest, ``(A,)``.

    Raises:
        ValueError: the limits are not finite, not equally many, or not in order.

    Example:
        >>> Bounded((-2.0,), (2.0,)).size
        1
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            ordered = all(-math.inf < a < b < math.inf for a, b in zip(self.low, self.high, strict=True))
        except (TypeError, ValueError):
            ordered = False
        if not ordered or not len(self.low):
            raise ValueError(
                f"low and high: expected limits of each number of an action, low < high, got {self.low} and {self.high}; e.g. "
                "Bounded((-1.0,), (1.0,))"
            )

    @property
    def size(self) -> int:
        """A."""
        return len(self.low)

    def begin(self, worlds: int, horizon: int, like: Tensor) -> Tensor:
        """Before anything is known: mean and deviation ``(2, B, H, A)``, of the whole range."""
        low, high = (like.new_tensor(limit) for limit in (self.low, self.high))
        return torch.stack([(low + high) / 2, (high - low) / 2])[:, None, None].expand(2, worlds, horizon, -1)

    def draw(self, belief: Tensor, candidates: int) -> Tensor:
        """Actions from a normal, cut off at the limits: ``(B, C, H, A)``."""
        mean, deviation = belief[:, :, None]
        shape = (mean.shape[0], candidates, *mean.shape[2:])
        return self.within(mean + deviation * standard_normal(*shape, like=mean))

    def within(self, actions: Tensor) -> Tensor:
        """The nearest actions that are allowed."""
        return actions.maximum(actions.new_tensor(self.low)).minimum(actions.new_tensor(self.high))

    def fit(self, elites: Tensor) -> Tensor:
        """The belief after elites ``(B, E, H, A)``."""
        return torch.stack([elites.mean(1), elites.std(1, correction=0)])

    def best(self, belief: Tensor) -> Tensor:
        """The actions in the middle of the belief, ``(B, H, A)``."""
        return belief[0]

    def later(self, belief: Tensor, steps: int = 1) -> Tensor:
        """The belief about a step later, at first as about the last step, and as wide as at the beginning."""
        start = self.begin(belief.shape[1], belief.shape[2], belief)
        return torch.stack([torch.cat([belief[0, :, steps:], start[0, :, -steps:]], 1), start[1]])


@dataclass(frozen=True)
class Choices:
    """One of A actions, which is a vector with a 1 in its place and zeros beside it.

    Args:
        size: A, at least 2.

    Raises:
        ValueError: there are fewer than two.

    Example:
        >>> Choices(3).begin(1, 1, torch.zeros(()))
        tensor([[[0.3333, 0.3333, 0.3333]]])
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size, least=2)

    def begin(self, worlds: int, horizon: int, like: Tensor) -> Tensor:
        """Before anything is known: probabilities ``(B, H, A)``, all the same."""
        return torch.full((worlds, horizon, self.size), 1 / self.size, dtype=like.dtype, device=like.device)

    def draw(self, belief: Tensor, candidates: int) -> Tensor:
        """Actions ``(B, C, H, A)``."""
        worlds, horizon, _ = belief.shape
        level = uniform((worlds, candidates, horizon, 1), belief)
        chosen = (level > belief.cumsum(-1)[:, None]).sum(-1).clamp(max=self.size - 1)
        return torch.nn.functional.one_hot(chosen, self.size).to(belief.dtype)

    def within(self, actions: Tensor) -> Tensor:
        """The nearest actions that are allowed."""
        return torch.nn.functional.one_hot(actions.argmax(-1), self.size).to(actions.dtype)

    def fit(self, elites: Tensor) -> Tensor:
        """The belief after elites ``(B, E, H, A)``; an action that none took keeps a little."""
        return 0.95 * elites.mean(1) + 0.05 / self.size

    def best(self, belief: Tensor) -> Tensor:
        """The likeliest actions, ``(B, H, A)``."""
        return self.within(belief)

    def later(self, belief: Tensor, steps: int = 1) -> Tensor:
        """The belief about a step later: half of what it was, half of what it was at the beginning."""
        start = self.begin(len(belief), belief.shape[1], belief)
        return torch.cat([(belief[:, steps:] + start[:, steps:]) / 2, start[:, -steps:]], 1)


def plan(
    change: Callable[[Tensor], Tensor],
    observation: Tensor,
    reward: Reward,
    actions: Bounded | Choices,
    *,
    horizon: int = 20,
    candidates: int = 128,
    elites: int = 16,
    iterations: int = 3,
    belief: Tensor | None = None,
    moved: Callable[[Tensor, Tensor], Tensor] = torch.add,
) -> Tensor:
    """The belief about the best next H actions in each world, by the cross-entropy method. All worlds at once.

    Its `actions.best` is the plan. A candidate's return is the mean over the model's functions. Draws from torch's global
    generator.

    Args:
        change: how observations change, ``(S, B, C, O)``, of observations with actions ``(S, B, C, O + A)``.
        observation: where the worlds are, ``(B, O)``; ``(S, B, O)`` where functions begin at places of their own.
        reward: what a step pays.
        actions: what may be done.
        horizon: H.
        candidates: C, sequences that are tried in each iteration.
        elites: how many of them the next belief is fitted to.
        iterations: how often.
        belief: what to begin from, such as the last step's by `actions.later`; the whole range if None.
        moved: an observation after a change: their sum, or what stays where it must, such as a cosine and a sine on the circle.

    Raises:
        ValueError: a count is out of range, or a return is not finite.
    """
    for name, value in (
        ("horizon", horizon),
        ("candidates", candidates),
        ("elites", elites),
        ("iterations", iterations),
    ):
        check_count(name, value)
    if elites > candidates:
        raise ValueError(f"elites: expected at most the {candidates} candidates, got {elites}")
    worlds: int = observation.shape[-2]
    belief = actions.begin(worlds, horizon, observation) if belief is None else belief
    rows = torch.arange(worlds, device=observation.device)[:, None]
    for _ in range(iterations):
        drawn = actions.draw(belief, candidates)
        paid = _returns(change, observation, drawn, reward, moved)
        if not isinstance(paid, Tensor) or paid.shape != drawn.shape[:2]:
            raise ValueError(
                f"reward: expected a number for each step (...), of observations (..., O), got returns "
                f"{tuple(paid.shape) if isinstance(paid, Tensor) else paid} in place of {tuple(drawn.shape[:2])}; sum over O"
            )
        if not paid.isfinite().all():
            raise ValueError(
                "reward: expected finite returns, got one that is not; a model that is followed far from its data may run away: "
                "plan fewer steps ahead, or give `moved` limits"
            )
        belief = actions.fit(drawn[rows, paid.topk(elites, 1).indices])
    return belief


def _returns(
    change: Callable[[Tensor], Tensor], observation: Tensor, drawn: Tensor, reward: Reward, moved: Any
) -> Tensor:
    """What sequences of actions ``(B, C, H, A)`` pay, ``(B, C)``, as a mean over functions."""
    state = observation[..., None, :]  # (B, 1, O), or (S, B, 1, O)
    state = (state if state.dim() == 4 else state[None]).expand(-1, -1, drawn.shape[1], -1)
    total = drawn.new_zeros(())
    for step in drawn.unbind(2):
        taken = step.expand(*state.shape[:-1], -1)
        before, by = state, change(torch.cat([state, taken], -1))
        if by.dim() == 4 and len(by) != len(state):
            state, taken = (part.expand(len(by), *part.shape[1:]) for part in (state, taken))
            before = state
        state = moved(state, by)
        total = total + reward(before, taken, state)
    return total.mean(0)


@dataclass
class Planner:
    """An agent in B worlds at once, which plans under a posterior and tells it of each step.

    Args:
        posterior: of how observations change, y ``(B, N, O)``, given observations with actions, x ``(B, N, O + A)``. None of the
            worlds need have been seen: `learner(points([], []))` knows what all have in common.
        reward: what a step pays.
        actions: what may be done.
        functions: S, over how many of the posterior's functions a candidate's return is averaged; None to plan on the mean of
            predictions, as if it were right.
        learn: whether `tell` updates the posterior.
        moved: an observation after a change, see `plan`.
        options: of `plan`: horizon, candidates, elites, iterations.

    Example:
        >>> world = Pendulum()
        >>> learner = ALPaCA(nn.Identity(), nn.Linear(4, 3), Gaussian())
        >>> planner = Planner(learner(points(torch.zeros(0, 4), torch.zeros(0, 3))), world.reward, world.actions)
        >>> action = planner.act(torch.tensor([[1.0, 0.0, 0.0]]))
        >>> planner.tell(torch.tensor([[1.0, 0.0, 0.0]]), action, torch.tensor([[1.0, 0.0, 0.1]]))
    """

    posterior: Posterior
    reward: Reward
    actions: Bounded | Choices
    functions: int | None = None
    learn: bool = True
    moved: Callable[[Tensor, Tensor], Tensor] = torch.add
    options: dict[str, int] = field(default_factory=dict)
    belief: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """The first action of the plan from here, ``(B, A)``; observations are ``(B, O)``."""
        if not isinstance(observation, Tensor) or observation.dim() != 2:
            got = tuple(observation.shape) if isinstance(observation, Tensor) else type(observation).__name__
            raise ValueError(f"observation: expected a tensor (B, O), got {got}; give each world a row")
        start = None if self.belief is None else self.actions.later(self.belief)
        self.belief = plan(
            self._model(), observation, self.reward, self.actions, belief=start, moved=self.moved, **self.options
        )
        return self.actions.best(self.belief)[:, 0]

    def _model(self) -> Callable[[Tensor], Tensor]:
        if self.functions is None:
            posterior = self.posterior
            if isinstance(posterior, Posterior):  # its mean alone, without the spread, which may cost most
                return lambda x: posterior._mean(posterior._inputs(x[0]))[None]
            return lambda x: posterior(x[0]).mean[None]
        drawn, count = self.posterior.functions(self.functions), self.functions
        return lambda x: drawn(x.expand(count, *x.shape[1:])).mean

    def tell(self, observation: Tensor, action: Tensor, after: Tensor, change: Tensor | None = None) -> None:
        """What a step in each world led to: ``(B, O)``, ``(B, A)`` and ``(B, O)``.

        Args:
            observation: before the step.
            action: what was done.
            after: after it.
            change: what the posterior is told, where it is not the difference of the two.
        """
        if self.learn:
            x = torch.cat([observation, action], -1)[:, None]
            y = (after - observation if change is None else change)[:, None]
            self.posterior = self.posterior.update(Points(x, y, torch.ones_like(y[..., 0], dtype=torch.bool)))
