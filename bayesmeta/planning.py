"""Acting on what was learned: a plan is the sequence of actions that pays most under a posterior's functions.

The cross-entropy method (Rubinstein & Kroese 2004, *The Cross-Entropy Method*), as model-based control uses it (Chua, Calandra,
McAllister & Levine 2018, https://arxiv.org/abs/1805.12114, section 5): draw candidates, follow each one through the model, refit
the distribution that they are drawn from to those of the highest return, and so on; the mean of the last elites is the plan.

Shape letters: B worlds, O numbers of an observation, A of an action, H steps ahead, C candidates, S functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.actions import Bounded, Choices, check_actions
from bayesmeta.border import check_count, check_function
from bayesmeta.data import Points
from bayesmeta.learner import Learner, check_posterior
from bayesmeta.posterior import Posterior

__all__ = ["Bounded", "Choices", "Planner", "Reward", "plan"]

Reward: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a step pays ``(...)``: of the observation before ``(..., O)``, the action ``(..., A)`` and the observation after."""


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
        TypeError: the model, the reward or `moved` is no function, or actions are neither `Bounded` nor `Choices`.
        ValueError: a count is out of range, or observations, changes, rewards or the belief have another shape or are not
            finite.
    """
    check_actions(actions)
    check_function("change", change, "from (S, B, C, O + A) to changes (S, B, C, O)")
    check_function("reward", reward, "(observation, action, after) -> what it pays")
    check_function("moved", moved, "(observation, change) -> observation")
    observation = _observed(observation, (2, 3))
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
    start = actions.begin(worlds, horizon, observation)
    belief = start if belief is None else belief
    if not isinstance(belief, Tensor) or belief.shape != start.shape or not belief.isfinite().all():
        got = tuple(belief.shape) if isinstance(belief, Tensor) else type(belief).__name__
        raise ValueError(
            f"belief: expected finite numbers {tuple(start.shape)} for {worlds} worlds and {horizon} steps, got {got}; give what "
            "a plan for as many steps returned, or None"
        )
    # As much as was free once, and twice that, glibc keeps from then on; new pages at each step would cost more than the step.
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")
    rows = torch.arange(worlds, device=observation.device)[:, None]
    for _ in range(iterations):
        drawn = actions.draw(belief, candidates)
        paid, reached = _returns(change, observation, drawn, reward, moved)
        if not paid.isfinite().all() or reached.isnan().any():
            raise ValueError(
                "reward: expected finite returns, got NaN or infinity, or NaN in observations; a model that is followed far "
                "from its data may run away: plan fewer steps ahead, or give `moved` limits"
            )
        belief = actions.fit(drawn[rows, paid.topk(elites, 1).indices])
    return belief


def _returns(
    change: Callable[[Tensor], Tensor], observation: Tensor, drawn: Tensor, reward: Reward, moved: Any
) -> tuple[Tensor, Tensor]:
    """What sequences of actions ``(B, C, H, A)`` pay, ``(B, C)``, as a mean over functions, and where they lead."""
    state = observation[..., None, :]  # (B, 1, O), or (S, B, 1, O)
    state = (state if state.dim() == 4 else state[None]).expand(-1, -1, drawn.shape[1], -1)
    total = drawn.new_zeros(())
    for step in drawn.movedim(2, 0).contiguous():
        taken = step.expand(*state.shape[:-1], -1)
        before, by = state, change(_beside(state, taken))
        many = isinstance(by, Tensor) and by.dim() == 4 and (len(by) == len(state) or len(state) == 1)
        if not many or by.shape[1:] != state.shape[1:]:
            raise ValueError(
                f"change: expected changes (S, B, C, O), {tuple(state.shape)} or of more functions, got "
                f"{tuple(by.shape) if isinstance(by, Tensor) else type(by).__name__}; give a posterior whose y (B, N, O) says "
                "how observations change"
            )
        if len(by) != len(state):
            state, taken = (part.expand(len(by), *part.shape[1:]) for part in (state, taken))
            before = state
        state = moved(state, by)
        if not isinstance(state, Tensor) or state.shape != before.shape:
            got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise ValueError(f"moved: expected observations {tuple(before.shape)}, got {got}; see World.moved")
        pays = reward(before, taken, state)
        if not isinstance(pays, Tensor) or pays.shape != state.shape[:-1]:
            raise ValueError(
                f"reward: expected a number for each step (...), of observations (..., O), got "
                f"{tuple(pays.shape) if isinstance(pays, Tensor) else type(pays).__name__} in place of "
                f"{tuple(state.shape[:-1])}; sum over O, and return a tensor"
            )
        total = total + pays
    return total.mean(0), state


def _beside(observation: Tensor, action: Tensor) -> Tensor:
    """Observations with actions ``(S, B, C, O + A)``. Each number's values lie together, which is how a CPU computes fastest."""
    columns = [part.permute(3, 1, 0, 2) for part in (observation, action)]
    return torch.cat(columns).permute(2, 1, 3, 0)


def _observed(observation: Any, dimensions: Sequence[int], name: str = "observation") -> Tensor:
    """Observations as floating numbers, of at least one world."""
    form = " or ".join("(B, O)" if n == 2 else "(S, B, O)" for n in dimensions)
    got = str(tuple(observation.shape)) if isinstance(observation, Tensor) else type(observation).__name__
    if not isinstance(observation, Tensor) or observation.dim() not in dimensions or not observation.numel():
        raise ValueError(f"{name}: expected a tensor {form}, got {got}; give each world a row")
    if not observation.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in {got}; end the attempt before")
    return observation if observation.is_floating_point() else observation.to(torch.get_default_dtype())


def _check_shape(part: Any, name: str, shape: tuple[int, ...]) -> None:
    if not isinstance(part, Tensor) or part.shape != shape:
        got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
        raise ValueError(f"{name}: expected a tensor {shape}, got {got}; give each world a row")


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

    Raises:
        TypeError: the posterior is a learner, or something is no function or no actions.
        ValueError: an option is none of `plan`, or a number of functions is not at least 1.

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

    def __post_init__(self) -> None:
        if isinstance(self.posterior, Learner) or not callable(self.posterior):
            check_posterior(self.posterior)
        check_actions(self.actions)
        check_function("reward", self.reward, "(observation, action, after) -> what it pays")
        if self.functions is not None:
            check_count("functions", self.functions)
        known = ("horizon", "candidates", "elites", "iterations")
        if not isinstance(self.options, dict) or not set(self.options) <= set(known):
            raise ValueError(
                f"options: expected a dictionary of {', '.join(known)}, got {self.options!r}; leave out others"
            )

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """The first action of the plan from here, ``(B, A)``; observations are ``(B, O)``."""
        observation = _observed(observation, (2,))
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

    @torch.no_grad()
    def tell(self, observation: Tensor, action: Tensor, after: Tensor, change: Tensor | None = None) -> None:
        """What a step in each world led to: ``(B, O)``, ``(B, A)`` and ``(B, O)``.

        Args:
            observation: before the step.
            action: what was done.
            after: after it.
            change: what the posterior is told, where it is not the difference of the two.

        Raises:
            ValueError: the shapes are others, or a number is not finite.
        """
        if self.learn:
            observation, after = _observed(observation, (2,)), _observed(after, (2,), "after")
            _check_shape(after, "after", tuple(observation.shape))
            _check_shape(action, "action", (len(observation), self.actions.size))
            told = after - observation if change is None else change
            _check_shape(told, "change", tuple(observation.shape))
            x = torch.cat([observation, action], -1)[:, None]
            y = told[:, None]
            self.posterior = self.posterior.update(Points(x, y, torch.ones_like(y[..., 0], dtype=torch.bool)))
