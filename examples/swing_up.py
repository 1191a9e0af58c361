"""Fifty steps with an unknown pendulum: then a learner that has known others swings it up.

A Bayesian last layer on learned features is meta-trained on steps of other pendulums: of other mass, length and friction, and
with motors that turn either way. Then it watches fifty steps of new ones, moved at random, and plans with what it has made of
them, beside the same plans without these steps, and those of one who knows the physics.

    python examples/swing_up.py  # a minute or so on one core: prints a table, saves swing_up.png

The picture: one pendulum at every eighth step, from left to right: with nothing known of it it stays below, after fifty steps
it stands upright, as with its physics known.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Planner
from bayesmeta.tasks import Pendulum, Transitions

STEPS, WORLDS, SEED = 600, 6, 0
OPTIONS = {"horizon": 25, "candidates": 128, "iterations": 3}
WORLD = Pendulum()


def trained(steps: int) -> bm.Learner:
    """How an observation changes, given it and an action: four numbers in, three out."""
    tasks = Transitions(WORLD, batch=16, shots=(0, 60), queries=50)
    torch.manual_seed(SEED)
    network = bm.networks.MLP(4, 3, hidden=(64, 64), activation=nn.Tanh)
    dynamics = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian(0.3))
    learner = bm.Standardized.from_tasks(dynamics, tasks)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer)
    return learner


class Physics:
    """One who knows each pendulum: in the place of a posterior."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters[:, None]

    def __call__(self, x: Tensor) -> torch.distributions.Distribution:
        after = WORLD.step(x[..., :3], x[..., 3:], self.parameters)
        return torch.distributions.Normal(after - x[..., :3], 1.0)


def attempt(act: Callable[[Tensor], Tensor], parameters: Tensor) -> tuple[Tensor, Tensor]:
    """What an attempt from below pays ``(B,)``, and where it goes: cos θ, sin θ and θ̇, ``(B, 200, 3)``."""
    observation = torch.tensor([[-1.0, 0.0, 0.0]]).repeat(len(parameters), 1)
    paid, seen = torch.zeros(len(parameters)), []
    for _ in range(WORLD.steps):
        action = act(observation)
        after = WORLD.step(observation, action, parameters)
        paid += WORLD.reward(observation, action, after)
        seen.append(observation)
        observation = after
    return paid, torch.stack(seen, 1)


def film(ways: dict[str, Tensor]) -> Figure:
    """The first pendulum at every eighth step, from left to right in time."""
    figure, panes = plt.subplots(len(ways), 1, figsize=(11, 0.95 * len(ways)), layout="constrained")
    for (name, seen), pane in zip(ways.items(), panes, strict=True):
        for i, (cosine, sine, _) in enumerate(seen[0, ::8].tolist()):
            pane.plot([2.4 * i, 2.4 * i + sine], [0, cosine], color="#0072B2", linewidth=2, solid_capstyle="round")
            pane.plot(2.4 * i + sine, cosine, "o", color="#D55E00", markersize=5)
            pane.plot(2.4 * i, 0, ".", color="#777777", markersize=3)
        pane.set(aspect="equal", xlim=(-1.2, 59), ylim=(-1.25, 1.25))
        pane.set_title(name, fontsize=10, loc="left")
        pane.axis("off")
    return figure


def main(steps: int = STEPS, worlds: int = WORLDS, path: str = "swing_up.png") -> dict[str, float]:
    """Prints and returns the mean of what attempts pay: 0 is the most."""
    learner = trained(steps)
    parameters = WORLD.parameters(worlds, torch.Generator().manual_seed(100))
    experience = Transitions(WORLD, batch=worlds, shots=50, queries=1).in_worlds(parameters, index=0).support
    nothing = experience._replace(mask=torch.zeros_like(experience.mask))
    posteriors = {
        "what all pendulums have in common": learner(nothing),
        "after fifty steps with this one": learner(experience),
        "who knows its physics": Physics(parameters),
    }
    found, ways = {}, {}
    for name, posterior in posteriors.items():
        torch.manual_seed(SEED)
        planner = Planner(posterior, WORLD.reward, WORLD.actions, moved=WORLD.moved, options=OPTIONS)  # type: ignore[arg-type]
        paid, ways[name] = attempt(planner.act, parameters)
        found[name] = paid.mean().item()
        print(f"{name:36s} {found[name]:8.0f}")
    film(ways).savefig(path, dpi=90)
    return found


if __name__ == "__main__":
    main()
