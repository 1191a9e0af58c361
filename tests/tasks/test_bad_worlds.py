"""Worlds, environments and actors that are none: named, and kept from changing what is recorded."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Bounded, Planner
from bayesmeta.tasks import Pendulum, Transitions, World, transitions

LEARNER = bm.ALPaCA(nn.Identity(), nn.Linear(3, 1), bm.likelihoods.Gaussian())
FEW = {"batch": 2, "shots": 2, "queries": 2}


def changed(**parts: Any) -> World:
    own = {
        "observations": 3,
        "actions": Bounded((-2.0,), (2.0,)),
        "parameters": Pendulum.parameters,
        "reset": Pendulum.reset,
    }
    own |= {"step": Pendulum.step, "reward": Pendulum.reward}
    made: World = type("Changed", (World,), {**own, **parts})()
    return made


def steps(world: World | None = None, actor: Any = None, **options: Any) -> Transitions:
    return Transitions(world or Pendulum(), actor, **{**FEW, **options})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"actions": None}, "actions: expected Bounded or Choices, got NoneType"),
        ({"observations": 7}, r"world: expected a reset to finite observations \(2, 7\), got another shape, \(2, 3\)"),
        ({"parameters": lambda s, w, g: torch.ones(w + 1, 4)}, r"world: expected parameters \(2, P\), a tensor, got \(3, 4\)"),
        ({"parameters": lambda s, w, g: np.ones((w, 4))}, "world: expected parameters .* got ndarray"),
        ({"reset": lambda s, p, g: (torch.zeros(2, 3), {})}, "world: expected a reset to finite observations .* got tuple"),
        ({"reset": lambda s, p, g: torch.full((2, 3), float("nan")), "step": lambda s, o, a, p: torch.zeros(2, 3)}, "a reset .* NaN"),
        ({"step": lambda s, o, a, p: (o, 0.0, False)}, "world: expected a step to finite observations .* got tuple"),
    ],
)  # fmt: skip
def test_worlds_that_lead_elsewhere_are_named(parts: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        steps(changed(**parts))[0]


def test_what_a_world_or_an_actor_writes_to_is_not_what_is_recorded() -> None:
    world = changed(step=lambda s, o, a, p: o.add_(1.0))
    torch.testing.assert_close(steps(world)[0].query.y, torch.ones(2, 2, 3))
    found = steps(actor=lambda o, _: o.zero_()[:, :1])[0].query.x[:, 0, :2]
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))  # a cosine and a sine


class Holder:
    def __init__(self) -> None:
        self.learner = LEARNER

    def __call__(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        return self.learner.head(observation)


def by_name(observation: Tensor, generator: torch.Generator) -> Tensor:
    return LEARNER.head(observation)


def by_default(observation: Tensor, generator: torch.Generator, learner: bm.Learner = LEARNER) -> Tensor:
    return learner.head(observation)  # type: ignore[operator]


def of_learner(learner: bm.Learner, observation: Tensor, generator: torch.Generator) -> Tensor:
    return learner.head(observation)  # type: ignore[operator]


@pytest.mark.parametrize("actor", [Holder(), Holder().__call__, by_name, by_default, partial(of_learner, LEARNER)])
def test_an_actor_that_holds_a_learner_in_training_is_named(actor: Any) -> None:
    with pytest.raises(ValueError, match="actor: expected what acts, got the learner ALPaCA"):
        steps(actor=actor)


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 1)

    def act(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        found: Tensor = self.network(observation)
        return found


def test_a_networks_method_is_that_of_a_copy_and_other_arguments_are_named() -> None:
    policy = Policy()
    tasks = steps(actor=policy.act)
    before = tasks[0].support.x
    with torch.no_grad():
        policy.network.weight.add_(1.0)
    assert torch.equal(tasks[0].support.x, before)
    with pytest.raises(TypeError, match=r"actor: expected a function .* got Linear, which takes others"):
        steps(actor=nn.Linear(3, 1))


def test_an_actor_that_plans_depends_on_the_episodes_seed_alone() -> None:
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(4, 3), bm.likelihoods.Gaussian())
    posterior = learner(bm.points([torch.zeros(0, 4)] * 2, [torch.zeros(0, 3)] * 2))
    world = Pendulum()

    def planning(observation: Tensor, generator: torch.Generator) -> Tensor:
        options = {"horizon": 2, "candidates": 20}
        return Planner(posterior, world.reward, world.actions, 2, options=options).act(observation)

    tasks = steps(actor=planning)
    assert torch.equal(tasks[0].query.x, tasks[0].query.x)
    assert not torch.equal(tasks[0].query.x[..., 3], tasks[1].query.x[..., 3])


def box(size: int, limit: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(shape=(size,), low=np.full(size, -limit), high=np.full(size, limit))


class Still:
    observation_space, action_space = box(2), box(1, 0.1)
    said: Any = (np.zeros(2), 0.0, False, False, {})
    closed = 0

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        return self.said

    def close(self) -> None:
        type(self).closed += 1


def still(**parts: Any) -> Any:
    return type("Other", (Still,), parts)


def ones(like: int) -> Any:
    return lambda observation, generator: torch.full((1, like), 0.5)


@pytest.mark.parametrize(
    ("make_env", "options", "said"),
    [
        (lambda number: Still, {}, "make_env: expected an environment, got the class Still"),
        (lambda number: Still(number) if number == 0 else 3, {}, "make_env: expected an environment with observation_space, got int"),
        (lambda number: (still(action_space=box(1)) if number else Still)(number), {}, "make_env: expected an environment like that of world 0"),
        (still(said=(np.zeros(2), 0.0, np.array([True, False]), False, {})), {}, "make_env: expected step to say whether it ended"),
        (still(said=(np.array([1j, 0]), 0.0, False, False, {})), {}, "observation: expected numbers.* got complex128"),
        (still(said=("ab", 0.0, False, False, {})), {}, "observation: expected numbers"),
        (still(action_space=SimpleNamespace(n=3, shape=())), {"actor": ones(3)}, "actor: expected one of 3 actions, a 1 in its place"),
    ],
)  # fmt: skip
def test_environments_that_are_none_are_named(make_env: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        transitions(make_env, **FEW, **options)[0]


@pytest.mark.parametrize("numbers", [[1.5], [-1], ["a"]])
def test_numbers_of_worlds_are_whole(numbers: Any) -> None:
    with pytest.raises(ValueError, match="numbers: expected"):
        transitions(Still, **FEW).in_worlds(numbers, 0)  # type: ignore[arg-type]


def test_environments_are_closed_after_an_error_and_limits_hold_in_the_observations_type() -> None:
    kind = still(closed=0, said=(np.zeros(2), float("nan"), False, False, {}))
    with pytest.raises(ValueError, match="reward"):
        transitions(kind, **FEW)[0]  # type: ignore[arg-type]
    assert kind.closed == 2  # the first look, and the world
    tasks = transitions(Still, actor=lambda o, _: torch.full((1, 1), 0.1).double(), **FEW)  # type: ignore[arg-type]
    assert tasks[0].query.x.dtype == torch.float32
