"""MuJoCo's Reacher with motor gears of either sign: what ten steps in a new one are worth.

    pip install "bayesmeta[control]" mujoco
    python benchmarks/accuracy/control_reacher.py            # five seeds, some minutes of one core each
    python benchmarks/accuracy/control_reacher.py --seeds 0 --worlds 8 --validate

gymnasium's Reacher-v5 (two joints, a target, 50 steps), each joint's gear times a number from 0.7 to 1.3 of either sign.
ALPaCA is trained on random steps in worlds of training; in others it plans on the mean of its predictions, knowing no step
(*none*) or ten random ones (*10*). *Oracle* plans with the ALPaCA of the same seed after 200 steps in the world, which leave its
gears in no doubt. The paired gain is 10 less none, with a 95 % interval that draws worlds anew. Settings are those of one try in
eight worlds of validation, on less training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Planner
from bayesmeta.randomness import seeded
from bayesmeta.tasks import transitions
from benchmarks.accuracy.control_tables import interval
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "control_reacher.json"
EPISODES, STEPS = 150, 2000
OPTIONS = {"horizon": 12, "candidates": 128, "iterations": 3}
OBSERVATIONS = 10  # cos and sin of both angles, the target's place, both speeds, from target to fingertip


def make_env(number: int) -> Any:
    import gymnasium

    env = gymnasium.make("Reacher-v5").unwrapped
    signs, sizes = np.random.default_rng(number).random((2, 2))
    env.model.actuator_gear[:, 0] *= np.where(signs < 0.5, -1, 1) * (0.7 + 0.6 * sizes)  # type: ignore[attr-defined]
    return env


def moved(observation: Tensor, change: Tensor) -> Tensor:
    """Angles on their circles, the target where it was, and speeds no faster than can be."""
    after = observation + change
    turned = after[..., :4].unflatten(-1, (2, 2))  # cosines, then sines
    turned = (turned / turned.norm(dim=-2, keepdim=True).clamp(min=1e-6)).flatten(-2)
    place = after[..., 8:].clamp(-0.5, 0.5)
    return torch.cat([turned, observation[..., 4:6], after[..., 6:8].clamp(-40.0, 40.0), place], -1)


def reward(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
    return -after[..., 8:].norm(dim=-1) - action.square().sum(-1)


class Read(bm.TaskSource):
    """Episodes that were drawn once, since a simulator is slow: each world's steps divided anew."""

    def __init__(self, drawn: bm.Points, batch: int = 16, seed: int = 0) -> None:
        super().__init__(seed=seed, length=1_000_000)
        self.drawn, self.batch = drawn, batch

    def draw(self, generator: torch.Generator) -> bm.Episode:
        chosen = torch.randperm(len(self.drawn.mask), generator=generator)[: self.batch]
        order = torch.randperm(self.drawn.mask.shape[1], generator=generator)
        count = int(torch.randint(0, 41, (), generator=generator))
        x, y, mask = (part[chosen][:, order] for part in self.drawn)
        support = bm.Points(x[:, : max(1, count)], y[:, : max(1, count)], mask[:, : max(1, count)] & (count > 0))
        support = support._replace(x=support.x * (count > 0), y=support.y * (count > 0))
        return bm.Episode(support, bm.Points(x[:, -50:], y[:, -50:], mask[:, -50:]))


def trained(seed: int, episodes: int, steps: int) -> bm.Learner:
    source = transitions(make_env, batch=8, shots=0, queries=100, attempt=50, seed=seed)
    tasks = Read(
        bm.Points(*(torch.cat(part) for part in zip(*(source[i].query for i in range(episodes)), strict=True)))
    )
    torch.manual_seed(seed)
    net = bm.networks.MLP(OBSERVATIONS + 2, OBSERVATIONS, hidden=(128, 128), activation=nn.Tanh)
    learner = bm.Standardized.from_tasks(bm.ALPaCA(net.features, net.head, bm.likelihoods.Gaussian(0.3)), tasks)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, clip=1.0, progress=False)
    return learner


def attempts(posterior: Any, numbers: Sequence[int], limits: Any, seed: int) -> list[float]:
    """What 50 steps pay in each world, by the environment's own reward."""
    agent = Planner(posterior, reward, limits, learn=False, moved=moved, options=OPTIONS)
    envs = [make_env(number) for number in numbers]
    seen = np.stack([env.reset(seed=5000 + i)[0] for i, env in enumerate(envs)])
    total = np.zeros(len(envs))
    with seeded(seed):
        for _ in range(50):
            actions = agent.act(torch.tensor(seen).float()).numpy()
            said = [env.step(action) for env, action in zip(envs, actions, strict=True)]
            seen, total = np.stack([part[0] for part in said]), total + [part[1] for part in said]
    return total.tolist()


def measured(seed: int, worlds: int, validate: bool, episodes: int = EPISODES, steps: int = STEPS) -> dict[str, Any]:
    learner = trained(seed, episodes, steps)
    begin = 2**30 + (100_000 if validate else 0)
    numbers = range(begin, begin + worlds)
    source = transitions(make_env, batch=worlds, shots=10, queries=200, attempt=50, seed=1000)
    known, many = source.in_worlds(numbers, 0)
    nothing = bm.Points(*(torch.zeros_like(part[:, :1]) for part in known))
    supports = {"none": nothing, "10": known, "oracle": many}
    with torch.no_grad():
        return {way: attempts(learner(part), numbers, source.actions, seed) for way, part in supports.items()}


def line(seed: str, found: dict[str, Any]) -> str:
    none, ten, oracle = (np.array(found[way]) for way in ("none", "10", "oracle"))
    gain = interval(lambda chosen: (ten - none)[chosen].mean(), len(none))
    return f"| {seed} | {none.mean():.2f} | {ten.mean():.2f} | {oracle.mean():.2f} | {gain} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=range(5))
    parser.add_argument("--worlds", type=int, default=64)
    parser.add_argument("--validate", action="store_true", help="in worlds of validation; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| seed | none | 10 steps | oracle | gain of 10 steps |\n|---|---|---|---|---|")
    for seed in given.seeds:
        if given.validate:
            print(line(str(seed), measured(seed, given.worlds, True)), flush=True)
            continue
        if str(seed) not in load(RESULTS):
            keep(RESULTS, str(seed), measured(seed, given.worlds, False))
        print(line(str(seed), load(RESULTS)[str(seed)]), flush=True)


if __name__ == "__main__":
    main()
