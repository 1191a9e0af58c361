"""A craft whose motors may be wired the wrong way round: adapt a policy by trying, or a model, and plan with it.

It floats on a plane and is to come to the middle in ten steps. Each of its two motors pushes along one axis, harder or softer,
and in some crafts backwards. Two ways to learn from other crafts how to learn of a new one:

- MAML for policies (Finn et al. 2017), with the sampling term (Al-Shedivat et al. 2018; Rothfuss et al. 2019): a policy from
  which a single step of policy gradient, on twenty attempts with the new craft, leads to one that pays most.
- A Bayesian last layer of how crafts move (`ALPaCA`), told of some steps at random, and plans under it (`Planner`).

    python examples/policies.py  # a quarter of a minute on one core: prints a table, saves policies.png

The picture: what an attempt pays in 64 new crafts, a dot each, and the mean: it rises from the policy before it adapts to that
after, to the models after two and ten steps, which is near who knows the craft.
"""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.planning import Bounded, Planner
from bayesmeta.tasks import Transitions, World

UPDATES, STEPS, WORLDS, SEED = 300, 300, 64, 0
BATCH = 200  # worlds of an update of the policy: the sampling term is noisy
ATTEMPTS, SPREAD = 20, 0.5  # attempts to adapt from, and the deviation of what a policy does


class Craft(World):
    observations, actions, steps = 2, Bounded((-1.0, -1.0), (1.0, 1.0)), 10

    def parameters(self, worlds: int, generator: torch.Generator) -> Tensor:
        strength, sign = torch.rand(2, worlds, 2, generator=generator)
        return (0.5 + strength) * (sign - 0.5).sign()

    def reset(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(parameters.shape, generator=generator)

    def step(self, observation: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
        return observation + 0.4 * parameters * self.actions.within(action)

    def reward(self, observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return -after.square().sum(-1)


WORLD = Craft()


def log_policy(theta: Tensor, seen: Tensor, done: Tensor) -> Tensor:
    """log π ``(H, B, N)`` of actions: normal around a line in the observation, of the weights ``(B, 2, 3)``."""
    mean = torch.cat([seen, torch.ones_like(seen[..., :1])], -1) @ theta.mT
    return torch.distributions.Normal(mean, SPREAD).log_prob(done).sum(-1)


@torch.no_grad()
def attempts(theta: Tensor, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What was seen, done ``(H, B, N, 2)`` and paid ``(H, B, N)`` in N attempts in each world."""
    each = parameters[:, None].expand(-1, ATTEMPTS, -1)
    observation, steps = WORLD.reset(each, generator), []
    for _ in range(WORLD.steps):
        mean = torch.cat([observation, torch.ones_like(observation[..., :1])], -1) @ theta.mT
        action = mean + SPREAD * torch.randn(mean.shape, generator=generator)
        after = WORLD.step(observation, action, each)
        steps.append((observation, action, WORLD.reward(observation, action, after)))
        observation = after
    seen, done, paid = (torch.stack(parts) for parts in zip(*steps, strict=True))
    return seen, done, paid


def score(theta: Tensor, episode: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What has the policy gradient of each world ``(B,)``, without bias: an attempt is compared with the others there."""
    seen, done, paid = episode
    later = paid.flip(0).cumsum(0).flip(0)
    better = (later - later.mean(2, keepdim=True)) * ATTEMPTS / (ATTEMPTS - 1)
    return (log_policy(theta, seen, done) * better).sum(0).mean(1)


def adapted(theta: Tensor, rate: Tensor, episode: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The policy of each world after a step of policy gradient."""
    (step,) = torch.autograd.grad(score(theta, episode).sum(), theta, create_graph=True)
    return theta + rate * step


def policies(updates: int) -> tuple[Tensor, Tensor]:
    """The policy to start from, and the rate of each of its weights."""
    generator = torch.Generator().manual_seed(SEED)
    start, log_rate = torch.zeros(2, 3, requires_grad=True), torch.full((2, 3), -5.0, requires_grad=True)
    optimizer = torch.optim.Adam([start, log_rate], lr=0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        parameters = WORLD.parameters(BATCH, generator)
        each = start.expand(BATCH, 2, 3)
        before = attempts(each, parameters, generator)
        own = adapted(each, log_rate.exp(), before)
        after = attempts(own.detach(), parameters, generator)
        paid = after[2].sum(0).mean(1)  # (B,)
        sampling = (paid - paid.mean()) * BATCH / (BATCH - 1) * log_policy(each, *before[:2]).sum((0, 2))
        optimizer.zero_grad()
        (-(score(own, after) + sampling).mean()).backward()
        nn.utils.clip_grad_norm_([start, log_rate], 10.0)
        optimizer.step()
        scheduler.step()
    return start.detach(), log_rate.detach().exp()


def dynamics(steps: int) -> bm.Learner:
    """How a craft moves, given where it is and what is done."""
    tasks = Transitions(WORLD, batch=16, shots=(0, 40), queries=50, attempt=WORLD.steps)
    torch.manual_seed(SEED)
    network = bm.networks.MLP(4, 2, hidden=(64, 64), activation=nn.Tanh)
    learner = bm.Standardized.from_tasks(bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian(0.3)), tasks)
    bm.fit(learner, tasks, steps=steps, optimizer=torch.optim.Adam(learner.parameters(), lr=3e-3))
    return learner


class Physics:
    """One who knows each craft: in the place of a posterior."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters[:, None]

    def __call__(self, x: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(WORLD.step(x[..., :2], x[..., 2:], self.parameters) - x[..., :2], 1.0)


def planned(posterior: object, parameters: Tensor) -> Tensor:
    """What an attempt pays that is planned at each step ``(B,)``."""
    torch.manual_seed(SEED)
    planner = Planner(posterior, WORLD.reward, WORLD.actions, options={"horizon": 5, "candidates": 64, "elites": 8})  # type: ignore[arg-type]
    observation, paid = WORLD.reset(parameters, torch.Generator().manual_seed(1)), torch.zeros(len(parameters))
    for _ in range(WORLD.steps):
        action = planner.act(observation)
        after = WORLD.step(observation, action, parameters)
        paid += WORLD.reward(observation, action, after)
        observation = after
    return paid


def followed(theta: Tensor, parameters: Tensor) -> Tensor:
    """What an attempt pays in which a policy does what it thinks best ``(B,)``, from the same places."""
    observation, paid = WORLD.reset(parameters, torch.Generator().manual_seed(1)), torch.zeros(len(parameters))
    for _ in range(WORLD.steps):
        action = (theta @ torch.cat([observation, torch.ones_like(observation[:, :1])], -1)[..., None])[..., 0]
        after = WORLD.step(observation, action, parameters)
        paid += WORLD.reward(observation, action, after)
        observation = after
    return paid


def main(updates: int = UPDATES, steps: int = STEPS, worlds: int = WORLDS) -> dict[str, Tensor]:
    """Prints and returns what an attempt pays in each new craft ``(B,)``: 0 is the most."""
    parameters = WORLD.parameters(worlds, torch.Generator().manual_seed(100))
    start, rate = policies(updates)
    each = start.expand(worlds, 2, 3).clone().requires_grad_()
    episode = attempts(each, parameters, torch.Generator().manual_seed(101))
    found = {
        "the policy, not adapted": followed(each.detach(), parameters),
        "the policy after 200 steps": followed(adapted(each, rate, episode).detach(), parameters),
    }
    learner = dynamics(steps)
    for shots in (2, 10):
        experience = Transitions(WORLD, batch=worlds, shots=shots, queries=1).in_worlds(parameters, index=0).support
        found[f"the model after {shots} steps"] = planned(learner(experience), parameters)
    found["who knows the craft"] = planned(Physics(parameters), parameters)
    for name, paid in found.items():
        half = 1.96 * paid.std() / worlds**0.5
        print(f"{name:30s}{paid.mean():8.2f} [{paid.mean() - half:.2f}, {paid.mean() + half:.2f}]")
    figure, pane = plt.subplots(figsize=(7, 3), layout="constrained")
    for height, paid in enumerate(reversed(found.values())):
        pane.scatter(paid, height + 0.3 * torch.rand(worlds) - 0.15, s=8, color="#56b4e9", linewidths=0)
        pane.plot(paid.mean(), height, "|", color="#d55e00", markersize=22, markeredgewidth=3)
    pane.set_yticks(range(len(found)), reversed(found))
    pane.set(xlabel="what an attempt pays", xscale="symlog", xlim=(None, 0))
    figure.savefig("policies.png", dpi=110)
    return found


if __name__ == "__main__":
    main()
