"""Few-shot translation into English: four languages that no learner has seen, 200 pairs of sentences each.

    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py train                  # all starts, each resumable
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py train "joint"          # one
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py validate "joint" rate=0.002
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py test                   # what is trained
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py table                  # prints what is there

Tatoeba, the 72 languages of 1,000 pairs in the order of their names: of each 18 the first is for validation, the tenth for the
test, and the others of even number are for training, 32. English sentences of validation and test languages are left out of
training, and those of the test out of validation. Tokens are learned of the training pairs; pairs with a sentence of more than 48
are left out everywhere, and of more than 32 where starts learn to adapt.

All starts begin with the same joint training (the first half) and then go on for as much CPU time with their own objective (the
second half). Each is asked: without adaptation; by its own adaptation to 200 pairs, if it has one; and by fine-tuning: Adam on 160
of them, stopped by the other 40. Settings were chosen on the validation languages, and temperatures are fitted there. Intervals
are of 95 %, over languages and sentences within them (a bootstrap of both). One thread. Finished figures are in
results/translation.json, and the states of training in $BAYESMETA_RUNS, or translation_runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.networks import Transformer
from bayesmeta.tasks import Tokens, TranslationTasks

RESULTS = Path(__file__).parents[1] / "results" / "translation.json"
RUNS = Path(os.environ.get("BAYESMETA_RUNS", "translation_runs"))
VOCABULARY, LONGEST, SHOTS = 2000, 48, 200
LIKELIHOOD = bm.likelihoods.Categorical(event_dims=1)


@cache
def languages() -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Pairs for training, validation and test, by language."""
    pairs = {name: both for name, both in bm.tasks.tatoeba().items() if len(both[0]) == 1000}
    names = sorted(pairs)
    parts = {"test": names[9::18], "validation": names[::18]}
    parts["training"] = [name for name in names[::2] if name not in parts["validation"]]
    known: set[str] = set()
    found = {}
    for part, mine in parts.items():
        found[part] = {name: _without(*pairs[name], known) for name in mine}
        known |= {text.casefold() for name in mine for text in pairs[name][1]}
    return found


def _without(sources: list[str], targets: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    kept = [pair for pair in zip(sources, targets, strict=True) if pair[1].casefold() not in known]
    return [one for one, _ in kept], [other for _, other in kept]


@cache
def tokens() -> Tokens:
    path = RUNS / "tokens.json"
    if not path.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        every = languages()["training"].values()
        Tokens.learned((text for both in every for part in both for text in part), VOCABULARY).save(path)
    return Tokens.load(path)


def network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(tokens().size, width=64, heads=4, layers=3, longest=64)


def training(batch: int, shots: int, queries: int) -> TranslationTasks:
    return TranslationTasks(languages()["training"], tokens(), longest=32, batch=batch, shots=shots, queries=queries)


def together(queries: int = 128, groups: int = 10) -> TranslationTasks:
    """All training pairs, of which nothing is known before: joint training, on pairs of similar length at a time."""
    every = [pair for both in languages()["training"].values() for pair in zip(*both, strict=True)]
    sizes = [max(map(len, both)) for both in zip(*map(tokens().ids, zip(*every, strict=True)), strict=True)]
    order = sorted(range(len(every)), key=sizes.__getitem__)
    order = order[: sum(size <= LONGEST for size in sizes)]
    cut = [order[k * len(order) // groups : (k + 1) * len(order) // groups] for k in range(groups)]
    pairs = {str(k): ([every[i][0] for i in mine], [every[i][1] for i in mine]) for k, mine in enumerate(cut)}
    return TranslationTasks(pairs, tokens(), longest=LONGEST + 1, batch=1, shots=0, queries=queries)


def plain(body: nn.Module) -> bm.Learner:
    """A network as it is: what it says does not depend on the support."""
    return bm.MAML(body, LIKELIHOOD, steps=0)


Start = tuple[Callable[[Transformer], bm.Learner], Callable[[], TranslationTasks], int]
STARTS: dict[str, Start] = {
    "first half": (plain, together, 1000),
    "joint": (plain, together, 600),
    "first-order MAML": (
        lambda body: bm.FirstOrderMAML(body, LIKELIHOOD, steps=3, rate=0.3),
        lambda: training(2, 32, 64),
        180,
    ),
    "ANIL": (
        lambda body: bm.ANIL(body.features, body.head, LIKELIHOOD, steps=5, rate=0.5),
        lambda: training(2, 64, 64),
        125,
    ),
    "Reptile": (
        lambda body: bm.Reptile(body, LIKELIHOOD, steps=5, rate=0.3),
        lambda: training(1, 32, 32),
        150,
    ),
}


def trained(name: str) -> tuple[bm.Learner, Transformer, float]:
    """A start's learner, its network, and how long its own part took; from the folder of runs where it is there."""
    make, tasks, steps = STARTS[name]
    body = network()
    first = name == "first half"
    if not first:
        body.load_state_dict(trained("first half")[1].state_dict())
    learner = make(body)
    learner.strategy = "loop"  # one task at a time, by torch's fused layers where there is no second derivative
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3 if first else 1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-3 if first else 1e-5)
    began = time.process_time()
    history = bm.fit(
        learner, tasks(), steps=steps, optimizer=optimizer, scheduler=scheduler, progress=False,
        checkpoint=RUNS / name.replace(" ", "_"), checkpoint_every=50, on_step=_say(name),
    )  # fmt: skip
    path = RUNS / f"{name.replace(' ', '_')}.seconds"
    if not path.exists() and not history.interrupted:
        path.write_text(str(time.process_time() - began))
    return learner, body, float(path.read_text())


def _say(name: str) -> Callable[[Any], None]:
    def say(history: Any) -> None:
        step = len(history.losses)
        if step % 50 == 0:
            print(f"{name} {step}: {sum(history.losses[-50:]) / 50:.3f}, {history.seconds:.0f} s", flush=True)

    return say


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "validate", "test", "table"])
    parser.add_argument("which", nargs="*", help="a start's name, and settings to change; all if none")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = [name for name in STARTS if name.startswith(given.which[0] if given.which else "")]
    if given.what == "train":
        for name in chosen:
            trained(name)


if __name__ == "__main__":
    main()
