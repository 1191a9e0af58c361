"""Acting after few steps: what plans pay in worlds whose physics are unknown, between those of one who knows them and no steps.

    python benchmarks/accuracy/control.py                                # all, some two hours of one core
    python benchmarks/accuracy/control.py pendulum --seeds 0 1           # what begins so; several may run at once
    python benchmarks/accuracy/control.py "pendulum; MAML" --validate    # in worlds of validation; nothing is kept
    python benchmarks/accuracy/control.py --table                        # prints what is there

A learner of dynamics is trained on random steps in worlds of training and then acts, by the cross-entropy method on the mean of
its predictions, in 64 others, the same for all learners and seeds. Gap closed is (R - none) / (physics - none): R is what an
attempt pays, *none* plans with what worlds have in common, and *physics* knows the parameters. It is of sums over worlds and
training seeds, with a 95 % interval that draws worlds anew, each with all its attempts.

- pendulum: an attempt of 200 steps from below, after 50 random steps in this world; *online* knows no step before, and is told
  each of its own. *Scratch* is a network of this world's 50 steps alone, with the ALPaCA of its seed as none.
- flips: 300 steps, online; the motor turns the other way from the 150th on. What the last 100 steps pay. `Changepoints` plans
  with one function drawn anew at each step.
- limit: a pendulum at any angle that should not pass 6 rad/s, each step beyond which costs 30 more; after 10 random steps, 256
  worlds. The share of 60 steps beyond the limit, for plans on the mean and on five functions.
- cart-pole: 150 steps from below, after 50 random ones.

Settings are first tries, looked at once with `--validate`; none was searched. Finished entries are kept in results/control.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.randomness import seeded
from bayesmeta.tasks import Pendulum, Transitions
from benchmarks.accuracy.control_learners import WORLDS, attempt, below, nothing, physics, planner, scratch, trained
from benchmarks.accuracy.control_tables import table
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "control.json"
SEEDS, COUNT, LIMITED = range(5), 64, 256
HAZARD, RUNS = 0.01, 3
LIMIT, PENALTY = 6.0, 30.0
ENTRIES = (
    *("pendulum; physics", "pendulum; ALPaCA", "pendulum; MAML", "pendulum; scratch"),
    *("flips; physics", "flips; ALPaCA", "flips; Changepoints"),
    *("limit; mean", "limit; functions"),
    *("cart-pole; physics", "cart-pole; ALPaCA"),
)


def held(name: str, validate: bool, count: int) -> tuple[Tensor, bm.Points]:
    """Parameters of unseen worlds, and 50 random steps in each."""
    world, seed = WORLDS[name], 2000 if validate else 1000
    parameters = world.parameters(count, torch.Generator().manual_seed(seed))
    return parameters, Transitions(world, batch=count, shots=50, queries=1, seed=seed).in_worlds(parameters, 0).support


def first(points: bm.Points, shots: int) -> bm.Points:
    return bm.Points(points.x[:, :shots], points.y[:, :shots], points.mask[:, :shots])


def swung(name: str, who: str, seed: int, validate: bool, count: int) -> dict[str, Any]:
    """Returns of attempts from below, with and without 50 steps known, and online."""
    world = WORLDS[name]
    parameters, known = held(name, validate, count)
    seconds = 0.0
    ways: dict[str, Any] = {}
    if who == "physics":
        ways["physics"] = physics(world, parameters)
    elif who == "scratch":
        ways["50"] = scratch(world, known, seed)
    else:
        learner, seconds = trained(who, world, seed)
        prior = learner(nothing(world, count))
        ways = {"none": prior, "50": learner(known)}
        if (
            name == "pendulum" and who == "ALPaCA"
        ):  # told of each step; gradient steps on all of them each time take long
            ways["online"] = prior
    found: dict[str, Any] = {"training CPU seconds": seconds}
    for way, posterior in ways.items():
        agent = planner(world, name, posterior, learn=way == "online")
        with seeded(seed):
            paid, _ = attempt(world, agent, below(world, count), lambda _: parameters, world.steps)
        found[way] = paid.sum(1).tolist()
    return found


def flipped(who: str, seed: int, validate: bool, count: int) -> dict[str, Any]:
    """What the last 100 of 300 steps pay, and the 50 before the motor turns."""
    world = WORLDS["pendulum"]
    parameters, _ = held("pendulum", validate, count)
    reverse = parameters * torch.tensor([1.0, 1.0, 1.0, -1.0])
    ways: dict[str, Any] = {"physics": physics(world, parameters)}
    functions = None
    if who != "physics":
        learner, _ = trained("ALPaCA", world, seed)
        ways = {"none": learner(nothing(world, count)), "online": learner(nothing(world, count))}
    if who == "Changepoints":
        ways, functions = {"online": bm.Changepoints(learner, HAZARD, RUNS)(nothing(world, count))}, 1
    found = {}
    for way, posterior in ways.items():
        agent = planner(world, "pendulum", posterior, learn=way == "online", functions=functions)

        def present(step: int, agent: Any = agent, way: str = way) -> Tensor:
            if step == 149 and way == "physics":  # from the next plan on
                agent.posterior = physics(world, reverse)
            return parameters if step < 150 else reverse

        with seeded(seed):
            paid, _ = attempt(world, agent, below(world, count), present, 300)
        found[way] = paid[:, -100:].sum(1).tolist()
        found[f"{way} before"] = paid[:, 100:150].sum(1).tolist()
    return found


def limited(who: str, seed: int, validate: bool, count: int) -> dict[str, Any]:
    """The share of an attempt's steps beyond the speed limit, and what they pay with the penalties."""
    world = WORLDS["pendulum"]
    assert isinstance(world, Pendulum)
    parameters, known = held("pendulum", validate, count)
    learner, _ = trained("ALPaCA", world, seed)

    def reward(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return world.reward(observation, action, after) - PENALTY * (after[..., 2].abs() > LIMIT)

    functions = 5 if who == "functions" else None
    agent = planner(world, "pendulum", learner(first(known, 10)), functions=functions, reward=reward)
    start = world.reset(parameters, torch.Generator().manual_seed(3000))
    with seeded(seed):
        paid, seen = attempt(world, agent, start, lambda _: parameters, 60)
    beyond = (seen[..., 2].abs() > LIMIT).float()
    return {"share": beyond.mean(1).tolist(), "paid": (paid - PENALTY * beyond).sum(1).tolist()}


def measured(entry: str, seed: int, validate: bool, count: int | None = None) -> dict[str, Any]:
    name, who = entry.split("; ")
    began = time.process_time()
    if name == "flips":
        found = flipped(who, seed, validate, count or COUNT)
    elif name == "limit":
        found = limited(who, seed, validate, count or LIMITED)
    else:
        found = swung(name, who, seed, validate, count or COUNT)
    return found | {"CPU seconds": time.process_time() - began}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "which", nargs="?", default="", help="how an entry begins, such as 'pendulum; ALPaCA'; all if none"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="print the entries that are there")
    parser.add_argument("--validate", action="store_true", help="in 16 worlds of validation; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    fresh: dict[str, Any] = {}
    for seed in () if given.table else given.seeds:
        for entry in (e for e in ENTRIES if e.startswith(given.which)):
            key = f"{entry}; {seed}"
            if given.validate:
                fresh[key] = measured(entry, seed, True, 16)
                print(key, {k: round(torch.tensor(v).mean().item(), 3) for k, v in fresh[key].items()}, flush=True)
            elif key not in load(RESULTS):
                keep(RESULTS, key, measured(entry, seed, False))
    print(table(fresh if given.validate else load(RESULTS)))


if __name__ == "__main__":
    main()
