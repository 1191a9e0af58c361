"""A user's own environments as tasks: against their physics by hand, with environments of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Bounded, Choices, Planner
from bayesmeta.tasks import transitions


def box(size: int, limit: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(shape=(size,), low=np.full(size, -limit), high=np.full(size, limit))


class Line:
    """A point pushed by a motor of either sign: place and speed, in one array that it goes on writing to."""

    observation_space, action_space = box(2, np.inf), box(1)

    def __init__(self, number: int) -> None:
        self.gain = 1.0 if number % 2 else -1.0
        self.state = np.zeros(2)
        self.closed = False

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        self.state[:] = np.random.default_rng(seed).normal(size=2)
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert not self.closed
        push = self.push(action)
        action *= 0  # as an environment may
        self.state += [0.1 * self.state[1], 0.5 * self.gain * push]
        return self.state, -(self.state[0] ** 2), abs(self.state[1]) > 3, False, {}

    def push(self, action: Any) -> float:
        return float(action[0])

    def close(self) -> None:
        self.closed = True


def test_steps_follow_the_physics_of_their_world() -> None:
    tasks = transitions(Line, batch=3, shots=6, queries=30, attempt=10)
    episode = tasks.in_worlds([1, 2, 3], 5)
    for points in episode:
        _, speed, action = points.x.unbind(-1)
        gains = torch.tensor([1.0, -1.0, 1.0])[:, None]
        torch.testing.assert_close(points.y, torch.stack([0.1 * speed, 0.5 * gains * action], -1), atol=1e-6, rtol=1e-6)
        assert action.abs().max() <= 1
        assert action.std() > 0.3
    assert (tasks.observations, tasks.actions) == (2, Bounded((-1.0,), (1.0,)))
    # In time order: each begins where the last ended, but for a new attempt after ten steps or an end.
    ends = episode.query.x[..., :2] + episode.query.y
    follows = torch.isclose(ends[:, :-1], episode.query.x[:, 1:, :2], atol=1e-6).all(-1)
    for world in range(3):
        taken = 0
        for step in range(29):
            taken += 1
            over = taken == 10 or bool(ends[world, step, 1].abs() > 3)
            assert follows[world, step] == (not over)
            taken = 0 if over else taken


def test_an_episode_depends_on_the_seed_and_its_number_alone() -> None:
    tasks = transitions(Line, batch=4, shots=(0, 5), queries=7, seed=3)
    first = tasks[2]
    _ = tasks[0]
    again = transitions(Line, batch=4, shots=(0, 5), queries=7, seed=3)[2]
    for one, other in zip((*first.support, *first.query), (*again.support, *again.query), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.query.x, tasks[3].query.x)
    assert not torch.equal(first.query.x, transitions(Line, batch=4, shots=(0, 5), queries=7, seed=4)[2].query.x)
    signs = (tasks[i].query.y[..., 1] * tasks[i].query.x[..., 2] > 0 for i in range(10))
    assert 8 < sum(int(one[:, 0].sum()) for one in signs) < 32  # of 40, each as likely: p < 1e-4 outside


def test_choices_reach_the_environment_as_numbers() -> None:
    class Buttons(Line):
        action_space = SimpleNamespace(n=3, shape=(), start=-1)

        def push(self, action: Any) -> float:
            assert action in (-1, 0, 1)
            return float(action)

        def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            self.state = self.state + np.array([0.0, self.gain * self.push(action)])
            return self.state, 0.0, False, False, {}

    tasks = transitions(Buttons, batch=2, shots=3, queries=60)
    assert tasks.actions == Choices(3)
    query = tasks.in_worlds([1, 3], 0).query
    chosen = query.x[..., 2:]
    assert (chosen.sum(-1) == 1).all()
    assert (chosen.sum(1) > 5).all()
    torch.testing.assert_close(query.y[..., 1], chosen @ torch.tensor([-1.0, 0.0, 1.0]), atol=1e-5, rtol=1e-5)


def test_an_actor_is_asked_and_frozen() -> None:
    network = nn.Linear(2, 1)

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, observation: Tensor, generator: torch.Generator) -> Tensor:
            return torch.tanh(self.network(observation))

    tasks = transitions(Line, actor=Policy(), batch=1, shots=4, queries=4)
    before = tasks[0].support.x
    with torch.no_grad():
        torch.testing.assert_close(before[..., 2:], torch.tanh(network(before[..., :2])))
        network.weight.add_(1.0)
    assert torch.equal(tasks[0].support.x, before)


def test_a_learner_of_steps_plans_in_the_environment() -> None:
    # Exactly linear in features that are known: four steps tell the sign of the motor, and the plan reaches 1 in each world.
    tasks = transitions(Line, batch=8, shots=4, queries=10)
    torch.manual_seed(0)
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(3, 2), bm.likelihoods.Gaussian(0.05))
    numbers = [1, 2]
    planner = Planner(
        learner(tasks.in_worlds(numbers, 0).support),
        lambda before, action, after: -(after[..., 0] - 1).square() - 0.1 * after[..., 1].square(),
        tasks.actions,
        learn=False,
        options={"horizon": 12},
    )
    envs = [Line(number) for number in numbers]
    seen = torch.tensor(np.stack([env.reset(seed=0)[0].copy() for env in envs])).float()
    with bm.randomness.seeded(0):
        for _ in range(40):
            actions = planner.act(seen).numpy()
            steps = [env.step(action)[0].copy() for env, action in zip(envs, actions, strict=True)]
            seen = torch.tensor(np.stack(steps)).float()
    assert ((seen[:, 0] - 1).abs() < 0.2).all()


class Dict:
    spaces = {"place": box(1), "speed": box(1)}  # noqa: RUF012


def changed(**attributes: Any) -> Any:
    return type("Changed", (Line,), attributes)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            changed(observation_space=Dict()),
            r"observation: expected a vector.* got a Dict of \['place', 'speed'\]; wrap",
        ),
        (changed(action_space=Dict()), r"action: expected a vector.* got a Dict of \['place', 'speed'\]"),
        (changed(observation_space=SimpleNamespace(shape=(8, 8, 3), low=0)), r"observation: .* of shape \(8, 8, 3\)"),
        (changed(observation_space=SimpleNamespace(n=5, shape=())), "observation: expected a vector"),
        (changed(action_space=SimpleNamespace(n=5, shape=(5,))), "action: expected a vector"),
        (changed(action_space=box(1, np.inf)), "action: expected finite limits"),
    ],
)
def test_spaces_that_are_no_vectors_are_named(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transitions(env)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ((np.zeros(2), float("nan"), False, False, {}), "reward: expected a finite number at every step, got nan"),
        ((np.zeros(2), None, False, False, {}), "reward: expected a finite number at every step, got None"),
        (
            (np.zeros(3), 0.0, False, False, {}),
            r"observation: expected finite numbers of shape \(2,\).* got shape \(3,\)",
        ),
        ((np.array([0.0, np.inf]), 0.0, False, False, {}), "observation: expected finite .* got NaN or infinity"),
        (({"place": 0.0}, 0.0, False, False, {}), r"observation: expected a vector .* a dictionary of \['place'\]"),
        ((np.zeros(2), 0.0, False, {}), "make_env: expected step to return .* got 4 values"),
    ],
)
def test_steps_that_lead_elsewhere_are_named(said: Any, message: str) -> None:
    tasks = transitions(changed(step=lambda self, action: said), batch=1, shots=2, queries=2)
    with pytest.raises(ValueError, match=message):
        tasks[0]


def test_other_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="make_env: expected a function"):
        transitions("Pendulum-v1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="make_env: expected an environment with observation_space, got int"):
        transitions(lambda number: number)
    with pytest.raises(ValueError, match="make_env: expected reset to return"):
        transitions(changed(reset=lambda self, seed: np.zeros(2)))[0]
    with pytest.raises(ValueError, match=r"actor: expected actions between \(-1.0,\) and \(1.0,\), got \(2.0,\)"):
        transitions(Line, actor=lambda observation, _: torch.full((1, 1), 2.0))[0]
    with pytest.raises(ValueError, match="shots"):
        transitions(Line, shots=(5, 2))
    with pytest.raises(ValueError, match="numbers: expected those of one world"):
        transitions(Line).in_worlds([], 0)
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(3, 2), bm.likelihoods.Gaussian())

    def around(observation: Tensor, generator: torch.Generator) -> Tensor:
        return learner.head(observation)

    for actor in (learner, learner.forward, around):
        with pytest.raises(ValueError, match="actor: expected what acts, got the learner ALPaCA"):
            transitions(Line, actor=actor)  # type: ignore[arg-type]


def test_gymnasium_itself() -> None:
    gymnasium = pytest.importorskip("gymnasium")

    def make_env(number: int) -> Any:
        env = gymnasium.make("Pendulum-v1")
        env.unwrapped.m = 0.5 + number / 2
        return env

    tasks = transitions(make_env, batch=2, shots=3, queries=5)
    x, y, _ = tasks.in_worlds([1, 2], 0).query
    parameters = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.5, 1.0, 0.0, 1.0]])[:, None].expand(-1, 5, -1)
    after = bm.tasks.Pendulum().step(x[..., :3], x[..., 3:], parameters)
    torch.testing.assert_close(x[..., :3] + y, after, atol=1e-5, rtol=1e-5)
    choices = transitions(lambda number: gymnasium.make("CartPole-v1"), batch=1, shots=3, queries=5)
    assert choices.actions == Choices(2)
    assert choices[0].query.x.shape == (1, 5, 6)
