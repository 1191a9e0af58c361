"""Ten arms that tell of each other: what learners miss of exact Bayes in nats, and what that costs who plays under them.

    python benchmarks/accuracy/bandits.py                  # all, five seeds each; about an hour of one core
    python benchmarks/accuracy/bandits.py ALPaCA --seeds 0
    python benchmarks/accuracy/bandits.py --table          # prints what is there

An arm has six features, of which what it pays is linear with weights N(m, S) that differ from task to task, and a noise of 0.5;
m and S are drawn once, by seed 0, and learners never see them (`bayesmeta.tasks.Bandits`). A learner is meta-trained on pulls of
random arms of other tasks, 0 to 30. The NLL is of 2,000 new tasks at 0 to 30 random pulls, less that of exact Bayes. Then 500 new
bandits with ten arms are played for 50 pulls under each learner, whose posterior is told of every one: regret is the sum of what
the best arm pays on average less what the pulled ones do. All plays meet the same bandits, and the same noise at the same pull.
Intervals are over bandits, 95 %, paired where a difference is shown.

Ways to play: Thompson's, greedy, looking ahead (`bayesmeta.bandits`), and "each arm by itself", the best of what is drawn from
predictions of the arms one by one, as is usual for learners without functions to draw. MAML has no doubt about the function,
nor do the conditional processes: Thompson's way is then the greedy one.
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

import bayesmeta as bm
from bayesmeta.bandits import Choice, greedy, look_ahead, play, thompson
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "bandits.json"
FEATURES, NOISE, BANDITS, PULLS, SEEDS = 6, 0.5, 500, 50, 5
SHOTS = (0, 2, 5, 10, 20, 30)
EXACT = "exact Bayes"


def source(**options: Any) -> bm.tasks.Bandits:
    """The family of bandits, whose m and S are the same in training and test."""
    generator = torch.Generator().manual_seed(0)
    mean = 0.5 * torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    root = torch.randn(FEATURES, FEATURES, generator=generator, dtype=torch.float64) / FEATURES**0.5
    covariance = root @ root.mT + 0.05 * torch.eye(FEATURES)
    return bm.tasks.Bandits(mean, (covariance + covariance.mT) / 2, noise=NOISE, **options)


def neural_process(encoder: bm.encoders.Encoder, latent: int = 16) -> bm.Learner:
    decoder = bm.networks.MLP(FEATURES + encoder.size + latent, 2, hidden=(64, 64), activation=nn.Tanh)
    likelihood = bm.likelihoods.HeteroscedasticGaussian()
    if latent:
        return bm.NeuralProcess(encoder, decoder, likelihood, latent=latent)
    return bm.ConditionalNeuralProcess(encoder, decoder, likelihood)


def maml() -> bm.Learner:
    network = bm.networks.MLP(FEATURES, 1, hidden=(40, 40), activation=nn.Tanh)
    return bm.MAML(network, bm.likelihoods.Gaussian(), steps=5, rate=0.05)


# The learner, the meta-updates that it gets, and their rate.
LEARNERS: dict[str, tuple[Callable[[], bm.Learner], int, float]] = {
    "ALPaCA": (lambda: bm.ALPaCA(nn.Identity(), nn.Linear(FEATURES, 1), bm.likelihoods.Gaussian()), 3000, 0.01),
    "ALPaCA on a network": (
        lambda: bm.ALPaCA(
            bm.networks.MLP(FEATURES, 1, hidden=(40, 40), activation=nn.Tanh).features,
            nn.Linear(40, 1),
            bm.likelihoods.Gaussian(),
        ),
        6000,
        3e-3,
    ),
    "NP": (lambda: neural_process(bm.encoders.DeepSet(FEATURES, 1)), 6000, 1e-3),
    "CNP": (lambda: neural_process(bm.encoders.DeepSet(FEATURES, 1), latent=0), 6000, 1e-3),
    "TNP": (lambda: neural_process(bm.encoders.Attention(FEATURES, 1), latent=0), 6000, 1e-3),
    "MAML": (maml, 6000, 3e-3),
}


@torch.no_grad()
def each_arm(posterior: bm.Posterior, arms: Tensor, left: int) -> Tensor:
    """The best of one draw from each arm's prediction."""
    return posterior(arms).sample()[..., 0].argmax(1)


WAYS: dict[str, Choice] = {
    "Thompson": thompson,
    "each arm by itself": each_arm,
    "greedy": greedy,
    "looking ahead": look_ahead,
}


def likelihoods(answer: Callable[[bm.Points], bm.Posterior]) -> dict[str, float]:
    """The mean NLL after so many random pulls."""
    found = {}
    for shots in SHOTS:
        test = source(batch=500, shots=shots, seed=1)
        found[str(shots)] = bm.evaluate(answer, test, episodes=4, metrics=[bm.metrics.NLL()])["NLL"].value
    return found


def regrets(prior: bm.Posterior, choose: Choice) -> list[float]:
    """What each bandit's play missed in all."""
    arms, values = source(batch=BANDITS, seed=2).known(0)
    noise = NOISE * torch.randn(PULLS, BANDITS, generator=torch.Generator().manual_seed(3))
    paid = iter(noise)

    def pull(chosen: Tensor) -> Tensor:
        return values.gather(1, chosen[:, None])[:, 0] + next(paid)

    torch.manual_seed(4)
    missed: Tensor = values.amax(1, keepdim=True) - values.gather(1, play(prior, arms, pull, PULLS, choose))
    return missed.sum(1).tolist()


def nothing() -> bm.Points:
    return bm.points([torch.zeros(0, FEATURES)] * BANDITS, [torch.zeros(0, 1)] * BANDITS)


def measured(name: str, seed: int, steps: float = 1.0) -> dict[str, Any]:
    if name == EXACT:
        answer, seconds = source().oracle, 0.0
    else:
        torch.manual_seed(seed)
        build, updates, rate = LEARNERS[name]
        learner, count = build(), max(1, round(updates * steps))
        began = time.process_time()
        optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
        bm.fit(
            learner, source(shots=(0, 30), seed=100 + seed), steps=count, optimizer=optimizer, scheduler=scheduler,
            seed=seed, progress=False,
        )  # fmt: skip
        seconds = time.process_time() - began
        answer = learner if name.startswith("ALPaCA") or name in ("NP", "CNP") else bm.Rehearsal(learner)
    prior = answer(nothing())
    ways = {way: regrets(prior, choose) for way, choose in WAYS.items()}
    if name == EXACT:
        ways["chance"] = regrets(prior, lambda posterior, arms, left: torch.randint(arms.shape[1], arms.shape[:1]))
    return {"NLL": likelihoods(answer), "regret": ways, "training CPU seconds": seconds}


def interval(values: np.ndarray) -> str:
    """Of bandits' numbers, by a normal approximation: there are hundreds."""
    half = 1.96 * values.std() / len(values) ** 0.5
    return f"{values.mean():.2f} [{values.mean() - half:.2f}, {values.mean() + half:.2f}]"


def table(results: dict[str, Any]) -> str:
    """Regrets as means over seeds, with intervals over bandits; NLL less that of exact Bayes, of the worst seed."""
    lines = [f"| | {' | '.join(WAYS)} | Thompson less exact Thompson | NLL, worst of seeds |", "|---" * 7 + "|"]
    exact = results[f"{EXACT}; 0"]
    for name in (EXACT, *LEARNERS):
        runs = [results[key] for seed in range(SEEDS) if (key := f"{name}; {seed}") in results]
        if runs:
            mean = {way: np.mean([run["regret"][way] for run in runs], 0) for way in WAYS}
            gap = max(np.mean([run["NLL"][n] - exact["NLL"][n] for n in exact["NLL"]]) for run in runs)
            cells = [interval(mean[way]) for way in WAYS]
            cells += [interval(mean["Thompson"] - np.array(exact["regret"]["Thompson"])), f"{gap:.4f}"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"chance: {interval(np.array(exact['regret']['chance']))}"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(LEARNERS), help="which learners")
    parser.add_argument("--seeds", nargs="*", type=int, default=range(SEEDS))
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not given.table:
        for name, seed in ((EXACT, 0), *((name, seed) for name in given.names for seed in given.seeds)):
            if f"{name}; {seed}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {seed}", measured(name, seed))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
