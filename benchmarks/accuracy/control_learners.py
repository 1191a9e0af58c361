"""What is trained and who acts in benchmarks/accuracy/control.py: learners of dynamics, networks from scratch, physics."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

import bayesmeta as bm
from bayesmeta.planning import Planner
from bayesmeta.tasks import CartPole, Pendulum, Transitions, World

WORLDS: dict[str, World] = {"pendulum": Pendulum(), "cart-pole": CartPole()}
STEPS = {"ALPaCA": 2000, "MAML": 3000}
PLANNING = {
    "pendulum": {"horizon": 25, "candidates": 128, "iterations": 3},
    "cart-pole": {"horizon": 30, "candidates": 128, "iterations": 4},
}


def network(world: World, hidden: tuple[int, ...]) -> bm.networks.MLP:
    inputs = world.observations + world.actions.size
    return bm.networks.MLP(inputs, world.observations, hidden=hidden, activation=nn.Tanh)


def alpaca(world: World) -> bm.Learner:
    net = network(world, (64, 64) if world.observations > 3 else (32, 32))
    return bm.ALPaCA(net.features, net.head, bm.likelihoods.Gaussian(0.3))


def maml(world: World) -> bm.Learner:
    return bm.MAML(network(world, (64, 64)), bm.likelihoods.Gaussian(0.3), steps=5, rate=0.05)


LEARNERS: dict[str, Callable[[World], bm.Learner]] = {"ALPaCA": alpaca, "MAML": maml}


def trained(name: str, world: World, seed: int, steps: int | None = None) -> tuple[bm.Learner, float]:
    """A learner of how observations change, from random steps in worlds of training, and the CPU seconds that it took."""
    torch.manual_seed(seed)
    tasks = Transitions(world, batch=16, shots=(0, 60), queries=50, seed=seed)
    began, steps = time.process_time(), STEPS[name] if steps is None else steps
    learner = bm.Standardized.from_tasks(LEARNERS[name](world), tasks)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, clip=1.0, progress=False)
    return learner, time.process_time() - began


class Answers:
    """A function of observations with actions ``(B, M, O + A)`` in the place of a posterior, which is sure of itself."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change = change

    def __call__(self, x: Tensor) -> Distribution:
        return Normal(self.change(x), 1.0, validate_args=False)


def physics(world: World, parameters: Tensor) -> Answers:
    """One who knows the worlds' parameters ``(B, P)``."""

    def change(x: Tensor) -> Tensor:
        observation, action = x.split([world.observations, world.actions.size], -1)
        return world.step(observation, action, parameters[:, None].expand(-1, x.shape[1], -1)) - observation

    return Answers(change)


def scratch(world: World, known: bm.Points, seed: int, steps: int = 2000) -> Answers:
    """A network for each world, of ALPaCA's size, that learns from this world's steps alone: all by Adam at once."""
    torch.manual_seed(seed)
    x_loc, x_scale = known.x.mean(1, keepdim=True), known.x.std(1, keepdim=True).clamp(min=1e-3)
    y_loc, y_scale = known.y.mean(1, keepdim=True), known.y.std(1, keepdim=True).clamp(min=1e-3)
    layers = [part for part in network(world, (64, 64)).modules() if isinstance(part, nn.Linear)]
    parts = [[part.weight.mT.repeat(len(known.x), 1, 1), part.bias.repeat(len(known.x), 1, 1)] for part in layers]
    weights = [[leaf.detach().requires_grad_() for leaf in part] for part in parts]

    def change(x: Tensor) -> Tensor:
        x = (x - x_loc) / x_scale
        for weight, bias in weights[:-1]:
            x = torch.tanh(torch.baddbmm(bias, x, weight))
        return y_loc + y_scale * torch.baddbmm(weights[-1][1], x, weights[-1][0])

    optimizer = torch.optim.AdamW([leaf for part in weights for leaf in part], lr=3e-3, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        ((change(known.x) - known.y) / y_scale).square().mean((1, 2)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Answers(change)


def nothing(world: World, worlds: int) -> bm.Points:
    """The support of those who have seen no step."""
    x = torch.zeros(worlds, 1, world.observations + world.actions.size)
    return bm.Points(x, torch.zeros(worlds, 1, world.observations), torch.zeros(worlds, 1, dtype=torch.bool))


def planner(
    world: World,
    name: str,
    posterior: object,
    *,
    learn: bool = False,
    functions: int | None = None,
    reward: Callable[..., Tensor] | None = None,
) -> Planner:
    return Planner(
        posterior,  # type: ignore[arg-type]
        reward or world.reward,
        world.actions,
        functions,
        learn=learn,
        moved=world.moved,
        options=PLANNING[name],
    )


def attempt(
    world: World, agent: Planner, start: Tensor, parameters: Callable[[int], Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    """What each step pays, ``(B, steps)``, and where it leads, ``(B, steps, O)``; `parameters` are those of the step."""
    observation, paid, seen = start, [], []
    for step in range(steps):
        action = agent.act(observation)
        after = world.step(observation, action, parameters(step))
        with torch.no_grad():
            agent.tell(observation, action, after)
        paid.append(world.reward(observation, action, after))
        seen.append(after)
        observation = after
    return torch.stack(paid, 1), torch.stack(seen, 1)


def below(world: World, worlds: int) -> Tensor:
    """At rest, hanging down."""
    rest = [-1.0, 0.0, 0.0] if isinstance(world, Pendulum) else [0.0, 0.0, -1.0, 0.0, 0.0]
    return torch.tensor(rest).repeat(worlds, 1)
