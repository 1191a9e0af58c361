"""Steps in a user's own environments, those of gymnasium or alike, as a task source.

Nothing is imported here: an environment is whatever has the interface of `gymnasium.Env`, https://gymnasium.farama.org/api/env/.

Shape letters: B worlds, O numbers of an observation, A of an action, N and M steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, final

import torch
from torch import Tensor

from bayesmeta.actions import Bounded, Choices
from bayesmeta.border import as_tensor, check_count
from bayesmeta.data import Episode, Points
from bayesmeta.randomness import seeded
from bayesmeta.tasks.acting import Actor, acted, frozen_actor
from bayesmeta.tasks.source import TaskSource, shots_per_task

__all__ = ["EnvironmentTransitions", "transitions"]


@final
class EnvironmentTransitions(TaskSource):
    """Steps of an actor in environments of one's own: x is an observation with an action, y how it changes.

    The support is the first steps in a world, in the order of time; the query is of other attempts in it. An attempt that ends,
    by either of an environment's two words for it, begins anew. Actions of a ``Discrete`` space are one of n, a vector with a 1
    in its place (`Choices`); others are numbers within limits (`Bounded`). ``tasks.actions`` says which, for a `Planner`.

    Args:
        make_env: makes the environment of a world, given its number from 0 to 2³¹ - 1: all that differs between worlds must
            follow from that number. One is stepped at a time, and closed.
        actor: what is done at observations ``(1, O)``; any action, each as likely, if None. A network is copied, so that episodes
            depend on the arguments, the seed and the number of the episode alone.
        batch: B, worlds in an episode.
        shots: steps of the support, or a range from which each world's number is drawn.
        queries: M, steps that are asked about.
        attempt: after how many steps an attempt of the query begins anew, at the latest.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Attributes:
        observations: O.
        actions: what may be done, `Bounded` or `Choices`.

    Raises:
        TypeError: `make_env` or the actor cannot be called.
        ValueError: an observation or action is no vector of numbers, or an action has no finite limits; the actor is a `Learner`.
            At an episode: an action is beyond its limits, a reward or observation not finite, or of another shape.

    Example:
        >>> def make_env(number):  # of another mass in each world
        ...     env = gymnasium.make("Pendulum-v1")
        ...     env.unwrapped.m = 0.7 + 0.6 * random.Random(number).random()
        ...     return env
        >>> tasks = transitions(make_env, batch=4, shots=10, queries=20)  # doctest: +SKIP
        >>> tasks[0].support.x.shape  # doctest: +SKIP
        torch.Size([4, 10, 4])
    """

    title = "transitions"

    def __init__(
        self,
        make_env: Callable[[int], Any],
        *,
        actor: Actor | None = None,
        batch: int = 16,
        shots: int | tuple[int, int] = (0, 50),
        queries: int = 50,
        attempt: int = 25,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        if not callable(make_env):
            raise TypeError(
                f"make_env: expected a function from a world's number to its environment, got {type(make_env).__name__}; "
                "e.g. lambda number: MyEnv(mass=masses[number % 100])"
            )
        for name, value in (("batch", batch), ("queries", queries), ("attempt", attempt)):
            check_count(name, value)
        shots_per_task(shots, 1, torch.Generator())
        self.make_env, self.actor = make_env, frozen_actor(actor)
        self.batch, self.shots, self.queries, self.attempt = batch, shots, queries, attempt
        with self._made(0) as env:
            self.observations, (self.actions, self._start) = _size(env), _actions(env)

    @contextmanager
    def _made(self, number: int) -> Iterator[Any]:
        """A world's environment, which is closed whatever happens; each has the first one's spaces."""
        env = self.make_env(number)
        if isinstance(env, type):
            _refuse("make_env", "an environment", f"the class {env.__name__}")
        size = _size(env)
        try:
            found = (size, _actions(env))
            known = (
                getattr(self, "observations", None),
                (getattr(self, "actions", None), getattr(self, "_start", None)),
            )
            if known[0] is not None and found != known:
                _refuse("make_env", f"an environment like that of world 0, {known}", f"{found} in world {number}")
            yield env
        finally:
            env.close()

    def draw(self, generator: torch.Generator) -> Episode:
        return self._of([_number(generator) for _ in range(self.batch)], generator)

    def in_worlds(self, numbers: Sequence[int], index: int) -> Episode:
        """An episode in worlds of one's own, by their numbers: its random numbers are those of the episode of this index.

        Raises:
            ValueError: there is no world.
        """
        numbers = as_tensor(numbers, "numbers").flatten().tolist()
        if not numbers:
            raise ValueError(
                "numbers: expected those of one world at least, got none; give make_env's argument of each"
            )
        for number in numbers:
            check_count("numbers", number, least=0)
        return self._seeded(index, lambda generator: self._of(numbers, generator))

    @torch.no_grad()
    def _of(self, numbers: Sequence[int], generator: torch.Generator) -> Episode:
        counts = shots_per_task(self.shots, len(numbers), generator)
        most = max(1, int(counts.max()))
        mask = torch.arange(most) < counts[:, None]
        both = []
        for number in numbers:
            with seeded(generator.initial_seed(), number), self._made(number) as env:  # what an actor draws by itself
                walks = ((most, most), (self.queries, self.attempt))
                both.append([part for walk in walks for part in self._walk(env, *walk, generator)])
        x, y, asked, answered = (torch.stack(part) for part in zip(*both, strict=True))
        support = Points(x * mask[..., None], y * mask[..., None], mask)
        return Episode(support, Points(asked, answered, torch.ones(asked.shape[:2], dtype=torch.bool)))

    def _walk(self, env: Any, steps: int, attempt: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Steps in one world: ``(N, O + A)`` and ``(N, O)``."""
        x, y, taken = [], [], attempt
        for _ in range(steps):
            if taken == attempt:
                began, taken = env.reset(seed=_number(generator)), 0
                if not isinstance(began, tuple) or len(began) != 2:
                    _refuse("make_env", "reset to return (observation, info)", type(began).__name__)
                observation = self._observed(began[0])
            action = acted(self.actor, self.actions, observation[None], generator)[0]
            after, ended = self._step(env, action)
            x.append(torch.cat([observation, action]))
            y.append(after - observation)
            observation, taken = after, attempt if ended else taken + 1
        return torch.stack(x), torch.stack(y)

    def _step(self, env: Any, action: Tensor) -> tuple[Tensor, bool]:
        said = env.step(self._spelled(action))
        if not isinstance(said, tuple) or len(said) != 5:
            got = f"{len(said)} values" if isinstance(said, tuple) else type(said).__name__
            _refuse("make_env", "step to return (observation, reward, terminated, truncated, info)", got)
        after, reward, terminated, truncated, _ = said
        try:
            finite = math.isfinite(float(reward))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(
                f"reward: expected a finite number at every step, got {reward}; look at the environment's step"
            )
        try:
            ended = bool(terminated) or bool(truncated)
        except (TypeError, ValueError):
            _refuse("make_env", "step to say whether it ended, true or false, twice", f"{terminated} and {truncated}")
        return self._observed(after), ended

    def _spelled(self, action: Tensor) -> Any:
        """An action as the environment takes it."""
        allowed = torch.equal(self.actions.within(action), action)
        if isinstance(self.actions, Choices):
            if not allowed:
                raise ValueError(
                    f"actor: expected one of {self.actions.size} actions, a 1 in its place and zeros beside it, got "
                    f"{action.tolist()}; use one_hot(choice, {self.actions.size}).float()"
                )
            return self._start + int(action.argmax())
        if not allowed:
            raise ValueError(
                f"actor: expected actions between {self.actions.low} and {self.actions.high}, got {tuple(action.tolist())}; "
                "clamp them, or rescale what the network says"
            )
        return action.numpy().copy()  # which an environment may write to

    def _observed(self, observation: Any) -> Tensor:
        if isinstance(observation, dict):
            _refuse("observation", "a vector of numbers", f"a dictionary of {list(observation)}")
        found = (
            as_tensor(observation, "observation").detach().to(torch.float32, copy=True)
        )  # the environment's may change
        if found.shape != (self.observations,) or not found.isfinite().all():
            said = f"shape {tuple(found.shape)}" if found.shape != (self.observations,) else "NaN or infinity"
            raise ValueError(
                f"observation: expected finite numbers of shape ({self.observations},), as observation_space says, got {said}; "
                "look at the environment's reset and step"
            )
        return found


transitions = EnvironmentTransitions
"""`EnvironmentTransitions`, by the name of what they are."""


def _number(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator))


def _refuse(name: str, expected: str, got: str) -> NoReturn:
    remedies = {
        "observation": "wrap the environment, gymnasium.wrappers.FlattenObservation(env)",
        "action": "wrap the environment so that an action is one vector, or one of n",
        "make_env": "give an environment with the interface of gymnasium.Env",
    }
    raise ValueError(f"{name}: expected {expected}, got {got}; {remedies[name]}")


def _spelled_out(space: Any) -> str:
    """A space's kind, and what is in it by name."""
    inside = getattr(space, "spaces", None)
    return f"a {type(space).__name__}" + (
        f" of {list(inside)}" if inside else f" of shape {getattr(space, 'shape', None)}"
    )


def _size(env: Any) -> int:
    """O."""
    for name in ("observation_space", "action_space", "reset", "step", "close"):
        if not hasattr(env, name):
            _refuse("make_env", f"an environment with {name}", type(env).__name__)
    space = env.observation_space
    shape = getattr(space, "shape", None)
    if not hasattr(space, "low") or shape is None or len(shape) != 1 or not shape[0]:
        _refuse("observation", "a vector of numbers, a Box of one dimension", _spelled_out(space))
    return int(shape[0])


def _actions(env: Any) -> tuple[Bounded | Choices, int]:
    """What may be done, and the number of the first choice."""
    space = env.action_space
    shape = getattr(space, "shape", None)
    if hasattr(space, "n") and not shape:
        return Choices(int(space.n)), int(getattr(space, "start", 0))
    if not hasattr(space, "low") or shape is None or len(shape) != 1:
        _refuse("action", "a vector of numbers, a Box of one dimension, or one of n, a Discrete", _spelled_out(space))
    low, high = (tuple(map(float, limit)) for limit in (space.low, space.high))
    if not all(map(math.isfinite, low + high)):
        raise ValueError(
            f"action: expected finite limits, got {low} to {high}; wrap the environment, gymnasium.wrappers.RescaleAction"
        )
    return Bounded(low, high), 0
