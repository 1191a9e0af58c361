"""Games whose rules change from game to game: who finds out what buttons do and colours mean, and plays by it.

    python benchmarks/accuracy/games.py                          # all, resumed where it was
    python benchmarks/accuracy/games.py "TNP" --seeds 0 1        # one entry a player and seed: processes may share them
    python benchmarks/accuracy/games.py "MAML" --validate        # on validation rule books; nothing is kept
    python benchmarks/accuracy/games.py --table                  # prints what is there

64 games of five levels, eight steps each, under rule books that no learner has seen: 64 of the 14,400, 64 others to choose
settings by, and the rest to train on. Training seeds are also those of the boards, on which all players of a seed play. Learners
play by answers to all ten questions that are drawn one by one, each fed back (`chained`, Thompson's sampling), and by the mean of
their predictions, as if it were right. Exact players draw from, or average over, the rule books that remain. *None* is the same
player by draws, who sees nothing; the oracle knows the rules. The share of the gap closed is (R - none) / (oracle - none).

NLL is of the answers to all ten questions after eight were answered, less the exact posterior's, in nats an answer. Intervals
resample games, of which each counts with its mean over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.encoders import Attention, DeepSet
from bayesmeta.likelihoods import Categorical, nll
from bayesmeta.networks import MLP
from bayesmeta.randomness import seeded
from bayesmeta.tasks.games import Agent, play
from bayesmeta.tasks.rule_books import ExactRules, RuleBooks, questions, rule_books
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "games.json"
SEEDS, GAMES, LEVELS, ASKED = 5, 64, 5, 8


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of the rule books to train on, to choose settings by, and to test."""
    order = torch.randperm(len(rule_books()), generator=torch.Generator().manual_seed(0))
    return order[2 * GAMES :], order[GAMES : 2 * GAMES], order[:GAMES]


def tnp() -> bm.Learner:
    return bm.ConditionalNeuralProcess(Attention(10, 5), MLP(10 + 64, 5, hidden=(64,)), Categorical())


def cnp() -> bm.Learner:
    encoder, decoder = DeepSet(10, 5, 128, hidden=(128,)), MLP(10 + 128, 5, hidden=(128, 128))
    return bm.ConditionalNeuralProcess(encoder, decoder, Categorical())


def maml() -> bm.Learner:
    return bm.MAML(MLP(10, 5, hidden=(128,), activation=nn.Tanh), Categorical(), steps=5, rate=3.0)


def anil() -> bm.Learner:
    network = MLP(10, 5, hidden=(128,), activation=nn.Tanh)
    return bm.ANIL(network.features, network.head, Categorical(), steps=5, rate=3.0)


def versa() -> bm.Learner:
    return bm.VERSA(DeepSet(10, 5, 128, hidden=(128,)), 5, Categorical())


LEARNERS: dict[str, tuple[Callable[[], bm.Learner], int, float]] = {
    "TNP": (tnp, 1500, 2e-3),
    "CNP": (cnp, 6000, 3e-3),
    "MAML": (maml, 4000, 1e-2),
    "ANIL": (anil, 4000, 1e-2),
    "VERSA": (versa, 4000, 3e-3),
}
"""What builds it, how many steps it is trained, and the rate of Adam."""
OTHERS = ("exact", "random", "oracle")


def trained(name: str, books: Tensor, seed: int) -> bm.Learner:
    torch.manual_seed(seed)
    build, steps, rate = LEARNERS[name]
    learner = build()
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    tasks = RuleBooks(books, seed=seed)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, seed=seed, progress=False)
    return learner


def thompson(learner: Callable[[bm.Points], bm.Posterior]) -> Agent:
    """Answers drawn one by one from a learner that adapts again to each, as a guess."""
    return lambda known: F.one_hot(bm.chained(learner(known), questions(len(known.mask)), 1).y[0], 5).float()


def average(learner: Callable[[bm.Points], bm.Posterior]) -> Agent:
    """What a learner's predictions are in the mean, as if every step were drawn anew from it."""
    return lambda known: learner(known)(questions(len(known.mask))).probs  # type: ignore[attr-defined]


def without(agent: Agent) -> Agent:
    """The same player, who sees nothing."""
    return lambda known: agent(known._replace(mask=torch.zeros_like(known.mask)))


@torch.no_grad()
def gap(learner: Callable[[bm.Points], bm.Posterior], books: Tensor) -> list[float]:
    """NLL less the exact posterior's, after each number of questions from none to nine, of 1,024 choices of questions each."""
    found = []
    for shots in range(10):
        tasks = RuleBooks(books, shots=shots, length=16)
        each = [nll(learner(given)(query.x), query) - nll(ExactRules(given)(query.x), query) for given, query in tasks]
        found.append(float(torch.cat(each).mean()))
    return found


def measured(name: str, training: Tensor, test: Tensor, seed: int) -> dict[str, Any]:
    books = rule_books()[test]

    def paid(agent: Agent | None, levels: int = LEVELS) -> list[list[float]]:
        with seeded(seed):
            return play(agent, books, levels=levels, generator=torch.Generator().manual_seed(seed)).tolist()

    if name == "random":
        return {"draws": paid(None)}
    if name == "oracle":
        return {"draws": paid(lambda known: F.one_hot(books, 5).float())}
    began = time.process_time()
    learner = ExactRules if name == "exact" else bm.Rehearsal(trained(name, training, seed)).eval()
    seconds = time.process_time() - began
    draws = thompson(learner)
    run = {
        "draws": paid(draws),
        "mean": paid(average(learner)),
        "none": paid(without(draws)),
        "NLL": gap(learner, test),
    }
    return run if name == "exact" else {**run, "training CPU seconds": seconds}


def shares(results: dict[str, Any], name: str, way: str, seeds: list[int]) -> np.ndarray[Any, Any]:
    """The share of the gap closed at each level and over all, ``(1 + D, levels + 1)``: of all games, then of D draws of them."""

    def of(player: str, which: str) -> np.ndarray[Any, Any]:
        each = np.array([results[f"{player}; {seed}"][which] for seed in seeds]).mean(0)  # (games, levels)
        return np.concatenate([each, each.mean(1, keepdims=True)], 1)

    none = of("exact" if name in ("random", "oracle") else name, "none")
    rows = np.concatenate([np.arange(GAMES)[None], np.random.default_rng(0).integers(GAMES, size=(2000, GAMES))])
    top, bottom = (part[rows].mean(1) for part in (of(name, way) - none, of("oracle", "draws") - none))
    return top / bottom


def interval(values: np.ndarray[Any, Any]) -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.3f} [{low:.3f}, {high:.3f}]"


def table(results: dict[str, Any]) -> str:
    levels = " | ".join(f"level {n + 1}" for n in range(LEVELS))
    lines = [f"| | seeds | {levels} | all levels | of exact, level 5 | of exact, all |", "|---" * (LEVELS + 5) + "|"]
    for name in ("exact", *LEARNERS, "random"):
        seeds = [n for n in range(SEEDS) if all(f"{player}; {n}" in results for player in (name, "exact", "oracle"))]
        for way in ("draws", "mean")[: 1 if name == "random" else 2] if seeds else ():
            found, exact = shares(results, name, way, seeds), shares(results, "exact", "draws", seeds)
            cells = [interval(found[:, n]) for n in range(LEVELS + 1)]
            cells += [interval(found[:, n] / exact[:, n]) for n in (LEVELS - 1, LEVELS)]
            lines.append(f"| {name}, {way} | {len(seeds)} | {' | '.join(cells)} |")
    lines += ["", "| NLL less the exact one's after | 0 | 2 | 4 | 6 | 8 | 9 | training |", "|---" * 8 + "|"]
    for name in LEARNERS:
        runs = [results[key] for seed in range(SEEDS) if (key := f"{name}; {seed}") in results]
        if runs:
            nats = np.array([run["NLL"] for run in runs]).mean(0)
            seconds = max(run["training CPU seconds"] for run in runs)
            lines.append(f"| {name} | {' | '.join(f'{nats[n]:.3f}' for n in (0, 2, 4, 6, 8, 9))} | {seconds:.0f} s |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="players; all if none")
    parser.add_argument("--seeds", nargs="*", type=int, default=range(SEEDS))
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation rule books; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    training, validation, test = parts()
    for name in () if given.table else given.which or (*OTHERS, *LEARNERS):
        for seed in given.seeds:
            if given.validate:
                run = measured(name, training, validation, seed)
                levels = {
                    way: np.array(run[way]).mean(0).round(2).tolist() for way in ("draws", "mean", "none") if way in run
                }
                print(
                    name,
                    seed,
                    levels,
                    np.round(run.get("NLL", []), 3),
                    run.get("training CPU seconds"),
                )
            elif f"{name}; {seed}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {seed}", measured(name, training, test, seed))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
