"""Few-shot translation into English: four languages that no learner has seen, 200 pairs of sentences each.

    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py train                  # all starts, each resumable
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py train "joint"          # one
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py validate "joint" rate=0.002
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py test                   # what is trained
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py table                  # prints what is there
    BAYESMETA_DATA=... python benchmarks/accuracy/translation.py train --device cuda    # where there is one; test too

Tatoeba, the 72 languages of 1,000 pairs in the order of their names: of each 18 the first is for validation, the tenth for the
test, and the other 64 are for training. English sentences of validation and test languages are left out of
training, and those of the test out of validation. Tokens are learned of the training pairs; pairs with a sentence of more than 48
are left out everywhere, and of more than 32 where starts learn to adapt.

All starts begin with the same joint training (the first half) and then go on for as much CPU time with their own objective.
Each is asked: without adaptation; after gradient steps on all 200 pairs (10 of rate 0.1 on all weights; ANIL's on its head),
which is how they learned to adapt; and by fine-tuning: Adam on 160 pairs, stopped by the other 40. Settings were chosen on the
validation languages, and temperatures are fitted there. Intervals are of 95 %, over languages and sentences within them (a
bootstrap of both). One thread. Finished figures are in results/translation.json, and the states of training in $BAYESMETA_RUNS,
or translation_runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import bayesmeta as bm
from bayesmeta.data import observed
from bayesmeta.distributions import log_prob, temper
from bayesmeta.functional import Frozen
from bayesmeta.likelihoods import nll
from bayesmeta.metrics import ECE, Accuracy, ExactMatch, SequenceECE
from bayesmeta.networks import Transformer
from bayesmeta.posteriors import PointEstimate
from bayesmeta.tasks import ArrayTasks, Tokens, TranslationTasks
from benchmarks.accuracy.translation_tables import compared, interval, table
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "translation.json"
RUNS = Path(os.environ.get("BAYESMETA_RUNS", "translation_runs"))
VOCABULARY, LONGEST, SHOTS = 2000, 48, 200
LIKELIHOOD = bm.likelihoods.Categorical(event_dims=1)
DEVICE = torch.device("cpu")  # or what --device says


@cache
def languages() -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Pairs for training, validation and test, by language."""
    pairs = {name: both for name, both in bm.tasks.tatoeba().items() if len(both[0]) == 1000}
    names = sorted(pairs)
    parts = {"test": names[9::18], "validation": names[::18]}
    parts["training"] = [name for name in names if name not in parts["validation"] + parts["test"]]
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
    return Transformer(tokens().size, width=64, heads=4, layers=3, longest=64).to(DEVICE)


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


Start = tuple[Callable[[Transformer], bm.Learner], Callable[[], TranslationTasks], int, float]
STARTS: dict[str, Start] = {  # how each learns: learner, tasks, steps, and the rate that they begin with
    "first half": (plain, together, 3000, 3e-3),
    "joint": (plain, together, 3000, 1e-3),
    "first-order MAML": (
        lambda body: bm.FirstOrderMAML(body, LIKELIHOOD, steps=3, rate=0.1),
        lambda: training(2, 32, 64),
        800,
        1e-3,
    ),
    "ANIL": (
        lambda body: bm.ANIL(body.features, body.head, LIKELIHOOD, steps=5, rate=0.5),
        lambda: training(2, 64, 64),
        460,
        1e-3,
    ),
    "Reptile": (
        lambda body: bm.Reptile(body, LIKELIHOOD, steps=5, rate=0.1),
        lambda: training(1, 32, 32),
        590,
        1e-4,
    ),
}


def trained(name: str) -> tuple[bm.Learner, Transformer, float]:
    """A start's learner, its network, and how long its own part took; from the folder of runs where it is there."""
    make, tasks, steps, rate = STARTS[name]
    body = network()
    first = name == "first half"
    done = RUNS / f"{name.replace(' ', '_')}.pt"
    if done.exists():
        found = torch.load(done, map_location=DEVICE)
        body.load_state_dict(found["weights"])
        return make(body).to(DEVICE), body, found["seconds"]
    if not first:
        body.load_state_dict(trained("first half")[1].state_dict())
    learner = make(body).to(DEVICE)
    learner.strategy = "loop"  # one task at a time, by torch's fused layers where there is no second derivative
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-3 if first else 1e-5)
    began = time.process_time()
    history = bm.fit(
        learner, tasks(), steps=steps, optimizer=optimizer, scheduler=scheduler, progress=False,
        checkpoint=RUNS / name.replace(" ", "_"), checkpoint_every=50, on_step=_say(name),
    )  # fmt: skip
    seconds = time.process_time() - began
    if not history.interrupted:
        torch.save({"weights": body.state_dict(), "seconds": seconds, "device": str(DEVICE)}, done)
    return learner, body, seconds


def _say(name: str) -> Callable[[Any], None]:
    def say(history: Any) -> None:
        step = len(history.losses)
        if step % 50 == 0:
            print(f"{name} {step}: {sum(history.losses[-50:]) / 50:.3f}, {history.seconds:.0f} s", flush=True)

    return say


class FineTuned(bm.Learner):
    """A network that is trained on each task's support by Adam, of which a fifth tells when to stop: the usual way."""

    masks_entries = True

    def __init__(self, body: nn.Module, rate: float = 0.0003, steps: int = 80) -> None:
        super().__init__()
        self.body, self.likelihood, self.rate, self.steps = body, LIKELIHOOD, rate, steps

    def forward(self, support: bm.Points) -> bm.Posterior:
        weights = []
        for task in range(len(support.mask)):
            held = support.y.shape[1] // 5
            train, stop = (
                ArrayTasks(bm.Points(*tree_map(partial(_rows, task, part), tuple(support))), [""], shots=0, **settings)
                for part, settings in ((slice(held, None), {"queries": 32}), (slice(held), {"length": 1}))
            )
            learner = plain(deepcopy(self.body))
            learner.strategy = "loop"
            bm.fit(
                learner, train, steps=self.steps, optimizer=torch.optim.Adam(learner.parameters(), lr=self.rate),
                validation=stop, validate_every=10, patience=2, progress=False,
            )  # fmt: skip
            weights.append(dict(learner.network.named_parameters()))
        stacked = {name: torch.stack([one[name].detach() for one in weights]) for name in weights[0]}
        return PointEstimate(Frozen(self.body), LIKELIHOOD, stacked, support)


def _rows(task: int, rows: slice, leaf: Tensor) -> Tensor:
    return leaf[task : task + 1, rows].cpu()  # where sources draw; training takes what it draws to the network


def ways(name: str) -> dict[str, bm.Learner]:
    """How a start is asked."""
    if name == "from scratch":
        return {"fine-tuned": FineTuned(network(), rate=0.003, steps=100)}
    learner, body, _ = trained(name)
    steps: Any = bm.FirstOrderMAML(body, LIKELIHOOD, rate=0.1) if name == "joint" else learner
    if not isinstance(steps, bm.ANIL):
        steps.steps = 10
    return {"unadapted": plain(body), "gradient steps": steps, "fine-tuned": FineTuned(body)}


def asked(part: str, queries: int) -> TranslationTasks:
    return TranslationTasks(
        languages()[part], tokens(), longest=LONGEST, batch=None, shots=SHOTS, queries=queries, seed=1000
    )


def measured(name: str, way: str, learner: bm.Learner, part: str = "test") -> dict[str, Any]:
    """Figures of a start, and in the folder of runs the NLL and the number of tokens of each sentence."""
    learner.strategy = "loop"
    began = time.process_time()
    calibrated = bm.Calibrated.from_tasks(learner, asked("validation", 100), episodes=1)
    episode = bm.move(asked(part, 250)[0], learner)
    with torch.no_grad():
        posterior = learner(episode.support)
        prediction = posterior(episode.query.x)
        tempered = temper(prediction, calibrated.temperature)
        scores = torch.stack([-log_prob(tempered, episode.query.y, episode.query.mask), observed(episode.query)]).cpu()
        raw = nll(prediction, episode.query)
        figures = {m.name: _value(m, tempered, episode.query) for m in (ECE(), Accuracy(), ExactMatch(), SequenceECE())}
        plain_ece = _value(ECE(), prediction, episode.query)
        written, right = translations(posterior, episode)
    torch.save(scores, RUNS / f"{name}; {way}; {part}.pt")
    return {
        "token NLL": interval(scores),
        "token NLL by language": dict(zip(languages()[part], (scores[0].sum(1) / scores[1].sum(1)).tolist(), strict=True)),
        "token NLL without recalibration": raw.mean().item(),
        "temperature": calibrated.temperature.item(),
        "token ECE without recalibration": plain_ece,
        **figures,
        "chrF": sacrebleu.corpus_chrf(written, [right]).score,
        "BLEU": sacrebleu.corpus_bleu(written, [right]).score,
        "examples": list(zip(written[::12], right[::12], strict=True)),
        "CPU seconds": time.process_time() - began,
    }  # fmt: skip


def _value(metric: bm.metrics.Metric, prediction: Any, given: bm.Points) -> float:
    return float(metric.reduce(metric.statistic(prediction, given).sum(0)))


def translations(posterior: bm.Posterior, episode: bm.Episode, count: int = 25) -> tuple[list[str], list[str]]:
    """Greedy translations of some sentences of each language, and the right ones."""
    found = bm.generate(posterior, episode.query.x["source"][:, :count], longest=30).tokens[:, :, 0]
    return tokens().decode(found.flatten(0, 1).cpu()), tokens().decode(episode.query.y[:, :count].flatten(0, 1).cpu())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "validate", "test", "table"])
    parser.add_argument("which", nargs="*", help="a start's name, and settings to change; all if none")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    global DEVICE
    DEVICE = torch.device(given.device)
    names = list(STARTS) if given.what == "train" else ["from scratch", *(one for one in STARTS if one != "first half")]
    chosen = [name for name in names if name.startswith(given.which[0] if given.which else "")]
    if given.what == "train":
        for name in chosen:
            trained(name)
    if given.what == "validate":
        changed = {key: float(value) for key, value in (pair.split("=") for pair in given.which[1:])}
        episode = bm.move(asked("validation", 100)[0], network())
        for name in chosen:
            for way, learner in ways(name).items():
                for setting, value in changed.items():
                    setattr(learner, setting, int(value) if value >= 1 else value)
                learner.strategy = "loop"
                with torch.no_grad():
                    found = nll(learner(episode.support)(episode.query.x), episode.query)
                print(name, way, changed, f"{found.mean():.3f}", [f"{one:.3f}" for one in found], flush=True)
    if given.what == "test":
        for name in chosen:
            for way, learner in ways(name).items():
                if f"{name}; {way}" not in load(RESULTS) and way.startswith(" ".join(given.which[1:])):
                    keep(RESULTS, f"{name}; {way}", measured(name, way, learner))
                    print(name, way, load(RESULTS)[f"{name}; {way}"], flush=True)
        keep(RESULTS, "compared", compared(RUNS))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
