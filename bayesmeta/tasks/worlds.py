"""Worlds whose physics differ from task to task, and the transitions of an actor in them as a task source.

Shape letters: B worlds, O numbers of an observation, A of an action, P of a world's parameters, N and M steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from bayesmeta.actions import Bounded, Choices, check_actions
from bayesmeta.border import check_count, check_not_negative
from bayesmeta.data import Episode, Points
from bayesmeta.randomness import seeded
from bayesmeta.tasks.acting import Actor, acted, frozen_actor
from bayesmeta.tasks.source import TaskSource, normal, shots_per_task, uniform

__all__ = ["CartPole", "Pendulum", "Transitions", "World"]


class World(ABC):
    """What happens when one acts: observations are the whole state, and what a step pays is known.

    A new world implements `parameters`, `reset`, `step` and `reward`, for any leading dimensions.

    Attributes:
        observations: O.
        actions: what may be done, `Bounded` or `Choices`.
        steps: how long an attempt takes.
    """

    observations: ClassVar[int]
    actions: ClassVar[Bounded | Choices]
    steps: ClassVar[int] = 200

    @abstractmethod
    def parameters(self, worlds: int, generator: torch.Generator) -> Tensor:
        """What differs between worlds, of B new ones: ``(B, P)``."""

    @abstractmethod
    def reset(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Where an attempt begins, ``(B, O)``."""

    @abstractmethod
    def step(self, observation: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
        """The observation after an action: ``(..., O)``, of ``(..., O)``, ``(..., A)`` and ``(..., P)``."""

    @abstractmethod
    def reward(self, observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """What the step pays, ``(...)``."""

    def moved(self, observation: Tensor, change: Tensor) -> Tensor:
        """The observation after a change that a model says, which may lie a little beside what can be."""
        return observation + change


def _wrapped(angle: Tensor) -> Tensor:
    """The same angle between -π and π."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


@final
class Pendulum(World):
    """A pendulum that is to be swung up and held, by a motor too weak to lift it at once.

    θ̈ = 3 g / (2 l) sin θ + 3 k u / (m l²) - c θ̇ in steps of 0.05 s, with θ = 0 upright, g = 10 and at most 8 rad/s, as
    gymnasium's `Pendulum-v1` has it with k = m = l = 1 and c = 0. Mass m, length l, friction c and the motor's gain k, of either
    sign, differ between worlds. Observations are cos θ, sin θ and θ̇; a step pays -(θ² + 0.1 θ̇² + 0.001 u²).

    Example:
        >>> world, generator = Pendulum(), torch.Generator().manual_seed(0)
        >>> parameters = world.parameters(3, generator)
        >>> world.step(world.reset(parameters, generator), torch.zeros(3, 1), parameters).shape
        torch.Size([3, 3])
    """

    observations = 3
    actions = Bounded((-2.0,), (2.0,))

    def parameters(self, worlds: int, generator: torch.Generator) -> Tensor:
        """Mass and length from 0.7 to 1.3, friction from 0 to 0.3, a gain from 0.7 to 1.3 of either sign: ``(B, 4)``."""
        mass, length, friction, gain, sign = uniform(5, worlds, generator=generator)
        return torch.stack(
            [0.7 + 0.6 * mass, 0.7 + 0.6 * length, 0.3 * friction, (0.7 + 0.6 * gain) * (sign - 0.5).sign()], -1
        )

    def reset(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """At any angle, with at most 1 rad/s."""
        angle, speed = 2 * uniform(2, len(parameters), generator=generator) - 1
        return torch.stack([(math.pi * angle).cos(), (math.pi * angle).sin(), speed], -1).to(parameters)

    def step(self, observation: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
        cosine, sine, speed = observation.unbind(-1)
        mass, length, friction, gain = parameters.unbind(-1)
        force = gain * self.actions.within(action)[..., 0]
        pull = 15 / length * sine + 3 * force / (mass * length.square()) - friction * speed
        speed = (speed + 0.05 * pull).clamp(-8.0, 8.0)
        angle = torch.atan2(sine, cosine) + 0.05 * speed
        return torch.stack([angle.cos(), angle.sin(), speed], -1)

    def reward(self, observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        cosine, sine, speed = observation.unbind(-1)
        angle = torch.atan2(sine, cosine)
        return -angle.square().add(speed.square(), alpha=0.1).add(action[..., 0].square(), alpha=0.001)

    def moved(self, observation: Tensor, change: Tensor) -> Tensor:
        """On the circle again, and no faster than can be."""
        cosine, sine, speed = (observation + change).unbind(-1)
        radius = (cosine.square() + sine.square()).sqrt().clamp(min=1e-6)
        return torch.stack([cosine / radius, sine / radius, speed.clamp(-8.0, 8.0)]).movedim(
            0, -1
        )  # parts stay contiguous


@final
class CartPole(World):
    """A pole on a cart, hanging down, that is to be swung up and held over the middle of a track.

    The frictionless equations of Barto, Sutton & Anderson 1983 with a damped cart, in steps of 0.04 s; g = 9.8. Masses of cart
    and pole, the pole's half length and the motor's gain, of either sign, differ between worlds. Observations are the place
    and speed of the cart, cos θ, sin θ and θ̇, with θ = 0 upright. A step pays the height of the pole's tip less 0.1 times the
    squared place.

    Example:
        >>> world, generator = CartPole(), torch.Generator().manual_seed(0)
        >>> world.reset(world.parameters(3, generator), generator).shape
        torch.Size([3, 5])
    """

    observations = 5
    actions = Bounded((-1.0,), (1.0,))
    steps = 150

    def parameters(self, worlds: int, generator: torch.Generator) -> Tensor:
        """Cart 0.7 to 1.3, pole 0.1 to 0.4, half length 0.3 to 0.6, gain 8 to 12 of either sign: ``(B, 4)``."""
        cart, pole, half, gain, sign = uniform(5, worlds, generator=generator)
        return torch.stack(
            [0.7 + 0.6 * cart, 0.1 + 0.3 * pole, 0.3 + 0.3 * half, (8 + 4 * gain) * (sign - 0.5).sign()], -1
        )

    def reset(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Near the middle, hanging nearly at rest."""
        place, speed, angle, spin = 0.1 * normal(4, len(parameters), generator=generator)
        return torch.stack([place, speed, (math.pi + angle).cos(), (math.pi + angle).sin(), spin], -1).to(parameters)

    def step(self, observation: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
        place, speed, cosine, sine, spin = observation.unbind(-1)
        cart, pole, half, gain = parameters.unbind(-1)
        force = gain * self.actions.within(action)[..., 0] - 0.5 * speed
        total = cart + pole
        inner = (force + pole * half * spin.square() * sine) / total
        turn = (9.8 * sine - cosine * inner) / (half * (4 / 3 - pole * cosine.square() / total))
        push = inner - pole * half * turn * cosine / total
        speed, spin = (speed + 0.04 * push).clamp(-10, 10), (spin + 0.04 * turn).clamp(-15, 15)
        place, angle = (place + 0.04 * speed).clamp(-5, 5), torch.atan2(sine, cosine) + 0.04 * spin
        return torch.stack([place, speed, angle.cos(), angle.sin(), spin], -1)

    def reward(self, observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after[..., 2] - 0.1 * after[..., 0].square() - 0.01 * action.square().sum(-1)

    def moved(self, observation: Tensor, change: Tensor) -> Tensor:
        """On the circle again, and within what can be."""
        place, speed, cosine, sine, spin = (observation + change).unbind(-1)
        radius = (cosine.square() + sine.square()).sqrt().clamp(min=1e-6)
        held = [place.clamp(-5, 5), speed.clamp(-10, 10), cosine / radius, sine / radius, spin.clamp(-15, 15)]
        return torch.stack(held).movedim(0, -1)


@final
class Transitions(TaskSource):
    """Steps of an actor in worlds with parameters of their own: x is an observation with an action, y how it changes.

    The support is the first steps of one attempt, in the order of time; the query is of other attempts in the same world.

    Args:
        world: where it happens.
        actor: what is done; any action, each as likely, if None. A network is copied, so that episodes depend on the arguments,
            the seed and the number of the episode alone.
        batch: B, worlds in an episode.
        shots: steps of the support, or a range from which each world's number is drawn.
        queries: M, steps that are asked about.
        attempt: after how many steps an attempt of the query begins anew.
        noise: the standard deviation of the measured changes.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        TypeError: the world is no `World`, or the actor cannot be called.
        ValueError: the actor is or holds a `Learner`; actions, parameters or observations have another shape or are not finite.

    Example:
        >>> tasks = Transitions(Pendulum(), batch=4, shots=50, queries=100)
        >>> tasks[0].support.x.shape, tasks[0].query.y.shape
        (torch.Size([4, 50, 4]), torch.Size([4, 100, 3]))
    """

    def __init__(
        self,
        world: World,
        actor: Actor | None = None,
        *,
        batch: int = 16,
        shots: int | tuple[int, int] = (0, 50),
        queries: int = 50,
        attempt: int = 25,
        noise: float = 0.0,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        if not isinstance(world, World):
            raise TypeError(f"world: expected a World such as Pendulum(), got {type(world).__name__}")
        actor = frozen_actor(actor)
        for name, value in (("batch", batch), ("queries", queries), ("attempt", attempt)):
            check_count(name, value)
        check_not_negative("noise", noise)
        check_actions(getattr(world, "actions", None))
        check_count("observations", getattr(world, "observations", 0))
        shots_per_task(shots, 1, torch.Generator())
        self.world = world
        self.actor = actor
        self.batch, self.shots, self.queries, self.attempt, self.noise = batch, shots, queries, attempt, noise

    def draw(self, generator: torch.Generator) -> Episode:
        parameters = self.world.parameters(self.batch, generator)
        if not isinstance(parameters, Tensor) or parameters.dim() != 2 or len(parameters) != self.batch:
            got = tuple(parameters.shape) if isinstance(parameters, Tensor) else type(parameters).__name__
            raise ValueError(
                f"world: expected parameters ({self.batch}, P), a tensor, got {got}; give each world a row"
            )
        return self._of(parameters, generator)

    def in_worlds(self, parameters: Tensor, index: int) -> Episode:
        """An episode in worlds of one's own, ``(B, P)``: its random numbers are those of the episode of this index.

        Raises:
            ValueError: parameters are not ``(B, P)`` of this kind of world, of one world at least.
        """
        size = self.world.parameters(1, torch.Generator()).shape[1]
        if not isinstance(parameters, Tensor) or parameters.shape[1:] != (size,) or not len(parameters):
            got = getattr(parameters, "shape", type(parameters).__name__)
            raise ValueError(f"parameters: expected a tensor (B, {size}), got {got}; as world.parameters gives them")
        return self._seeded(index, lambda generator: self._of(parameters, generator))

    @torch.no_grad()
    def _of(self, parameters: Tensor, generator: torch.Generator) -> Episode:
        counts = shots_per_task(self.shots, len(parameters), generator)
        most = max(1, int(counts.max()))
        mask = torch.arange(most) < counts[:, None]
        with seeded(generator.initial_seed()):  # what an actor draws by itself, such as a planner
            x, y = self._walk(parameters, most, most, generator)
            support = Points(x * mask[..., None], y * mask[..., None], mask)
            x, y = self._walk(parameters, self.queries, self.attempt, generator)
        return Episode(support, Points(x, y, torch.ones(x.shape[:2], dtype=torch.bool)))

    def _observed(self, found: Any, what: str, worlds: int) -> Tensor:
        """What a world's reset or step led to, if it is finite observations ``(B, O)``."""
        shape = (worlds, self.world.observations)
        if not isinstance(found, Tensor) or found.shape != shape or not found.isfinite().all():
            got = f"another shape, {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            got = f"NaN or infinity in {shape}" if isinstance(found, Tensor) and found.shape == shape else got
            raise ValueError(
                f"world: expected a {what} to finite observations {shape}, got {got}; see {type(self.world).__name__}.{what} and "
                "its number of observations"
            )
        return found if found.is_floating_point() else found.float()

    def _walk(self, parameters: Tensor, steps: int, attempt: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = [], []
        for step in range(steps):
            if step % attempt == 0:
                observation = self._observed(self.world.reset(parameters, generator), "reset", len(parameters))
            action = self.world.actions.within(acted(self.actor, self.world.actions, observation, generator))
            after = self.world.step(observation.clone(), action, parameters)  # which may write to it
            after = self._observed(after, "step", len(parameters))
            x.append(torch.cat([observation, action], -1))
            y.append(after - observation)
            observation = after
        changes = torch.stack(y, 1)
        return torch.stack(x, 1), changes + self.noise * normal(*changes.shape, generator=generator)
