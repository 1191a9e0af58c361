"""Worlds: their physics, and transitions as a task source."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Bounded, Choices
from bayesmeta.tasks import CartPole, Pendulum, Transitions, World

WORLDS = [Pendulum(), CartPole()]
each = pytest.mark.parametrize("world", WORLDS, ids=lambda world: type(world).__name__)


def test_a_pendulum_of_ones_steps_as_the_published_equations_say() -> None:
    # One step of gymnasium's Pendulum-v1 by hand, from θ = 0.3, θ̇ = -0.7 and u = 1.1.
    angle, speed, torque = 0.3, -0.7, 1.1
    speed = speed + (3 * 10 / 2 * math.sin(angle) + 3 * torque) * 0.05
    angle_after = angle + speed * 0.05
    found = Pendulum().step(
        torch.tensor([math.cos(angle), math.sin(angle), -0.7]),
        torch.tensor([torque]),
        torch.tensor([1.0, 1.0, 0.0, 1.0]),
    )
    torch.testing.assert_close(found, torch.tensor([math.cos(angle_after), math.sin(angle_after), speed]))
    paid = Pendulum().reward(torch.tensor([math.cos(angle), math.sin(angle), -0.7]), torch.tensor([torque]), found)
    assert paid.item() == pytest.approx(-(0.3**2 + 0.1 * 0.7**2 + 0.001 * 1.1**2), rel=1e-5)


def test_a_pole_that_is_let_go_keeps_its_energy() -> None:
    # Without a force, but for the damped cart: energy falls, in steps short against the swing, by no more than the damping takes.
    world, parameters = CartPole(), torch.tensor([1.0, 0.2, 0.5, 10.0], dtype=torch.float64)
    state = torch.tensor([0.0, 0.0, math.cos(2.5), math.sin(2.5), 0.0], dtype=torch.float64)

    def energy(s: Tensor) -> float:
        _, v, c, _, w = s.tolist()
        m, l = 0.2, 0.5  # noqa: E741
        return 0.6 * v * v + m * v * w * l * c + 0.5 * m * l * l * w * w * 4 / 3 + m * 9.8 * l * c

    before = energy(state)
    for _ in range(10):
        state = world.step(state, torch.zeros(1, dtype=torch.float64), parameters)
    assert energy(state) == pytest.approx(before, abs=0.08)


@each
def test_worlds_take_any_leading_dimensions(world: World) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = world.parameters(6, generator)
    start, action = world.reset(parameters, generator), torch.rand(6, 1)
    flat = world.step(start, action, parameters)
    lead = world.step(*(part.unflatten(0, (2, 3)) for part in (start, action, parameters)))
    torch.testing.assert_close(lead.flatten(0, 1), flat)
    torch.testing.assert_close(world.moved(start, flat - start), flat, atol=1e-5, rtol=1e-5)


@each
def test_both_signs_of_the_gain_occur_and_actions_beyond_the_limits_count_as_the_limit(world: World) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = world.parameters(200, generator)
    assert 60 < (parameters[:, 3] > 0).sum() < 140
    start = world.reset(parameters, generator)
    limit = world.actions.high[0]  # type: ignore[union-attr]
    far, near = (world.step(start, torch.full((200, 1), a), parameters) for a in (50.0, limit))
    torch.testing.assert_close(far, near)


def test_episodes_are_steps_in_time_order() -> None:
    world = Pendulum()
    tasks = Transitions(world, batch=3, shots=6, queries=10, attempt=5)
    support, query = tasks[4]
    for x, y, breaks in ((support.x, support.y, [6]), (query.x, query.y, [5, 10])):
        ends = x[..., :3] + y
        for t in range(x.shape[1] - 1):
            if t + 1 not in breaks:
                torch.testing.assert_close(ends[:, t], x[:, t + 1, :3])
    torch.testing.assert_close(tasks[4].support.x, support.x)
    assert not torch.equal(tasks[5].support.x, support.x)


def test_an_actor_is_a_frozen_copy() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, observation: Tensor, generator: torch.Generator) -> Tensor:
            found: Tensor = self.network(observation)
            return found

    tasks = Transitions(Pendulum(), Policy(), batch=2, shots=4, queries=4)
    before = tasks[0].support.x
    with torch.no_grad():
        network.weight.add_(1.0)
    torch.testing.assert_close(tasks[0].support.x, before)


def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="world: expected a World"):
        Transitions(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="actor: expected what acts, got the learner ALPaCA"):
        Transitions(Pendulum(), bm.ALPaCA(nn.Identity(), nn.Linear(4, 3), bm.likelihoods.Gaussian()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"actor: expected finite actions \(16, 1\), got \(16,\)"):
        Transitions(Pendulum(), lambda observation, _: observation[:, 0])[0]
    with pytest.raises(ValueError, match="actor: expected finite actions"):
        Transitions(Pendulum(), lambda observation, _: observation[:, :1] / 0)[0]
    with pytest.raises(ValueError, match="shots"):
        Transitions(Pendulum(), shots=(5, 2))
    with pytest.raises(ValueError, match="noise: expected"):
        Transitions(Pendulum(), noise=-1.0)
    with pytest.raises(ValueError, match="low and high: expected limits"):
        Bounded((1.0,), (0.0,))
    with pytest.raises(ValueError, match="size"):
        Choices(1)

    class Broken(World):
        observations, actions = 3, Bounded((-1.0,), (1.0,))
        parameters, reset = Pendulum.parameters, Pendulum.reset

        def step(self, observation: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
            return observation[:, :2]

        def reward(self, observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
            return after[..., 0]

    with pytest.raises(ValueError, match="world: expected a step to finite observations"):
        Transitions(Broken())[0]


def test_parameters_of_another_kind_are_named() -> None:
    tasks = Transitions(Pendulum(), shots=3, queries=2)
    for odd in (torch.ones(3, 2), torch.ones(4), torch.ones(0, 4), [[1.0] * 4]):
        with pytest.raises(ValueError, match=r"parameters: expected a tensor \(B, 4\), got"):
            tasks.in_worlds(odd, 0)  # type: ignore[arg-type]
