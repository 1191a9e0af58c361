"""Few-shot slot filling on SNIPS: five sentences of an intent that no learner has seen.

    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py                        # all learners, each intent held out in turn
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py "ANIL"                 # one
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py --validate "ANIL" rate=0.01
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py --table                # prints what is there

Each intent is the test once; the next one in the order of names is for validation (settings, temperature), and the other five
are for training: first together, by the names of their slots, then as tasks. A task is 5 sentences, judged on 20 others; of
each intent 30 tasks. Slots that training knows keep their numbers, others have random ones; those that the five sentences do
not show are asked about and count. Logistic regression is over all labels, by LBFGS, on the learned features of the same
training intents, its penalty and temperature chosen on the validation intent. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, ExactMatch, SequenceECE, SpanF1, TokenF1, bootstrap
from bayesmeta.networks.transformer import TransformerBlock
from bayesmeta.tasks import SlotTasks
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "slots.json"
NEW, WIDTH, TASKS = 14, 64, 30
METRICS = [TokenF1(), SpanF1(), NLL(), ECE(), ExactMatch(), SequenceECE()]


class Words(nn.Module):
    """Features of each word in its sentence: ``(N, T, 12)`` whole numbers of `spelled` to ``(N, T, 256)``.

    64 of the sentence around it by attention, and 64 each of the word itself and of the words before and after it.
    """

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.pieces = nn.Embedding(2048, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(80, WIDTH))
        self.near = nn.Linear(3 * WIDTH, WIDTH)
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, 4) for _ in range(layers))
        self.last = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.pieces.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        there = (x > 0).any(-1)
        word = self.pieces(x).sum(-2) / 3 * there[..., None]
        none = torch.zeros_like(word[..., :1, :])
        near = torch.cat([word, torch.cat([none, word[..., :-1, :]], -2), torch.cat([word[..., 1:, :], none], -2)], -1)
        h = self.near(near) + self.places[: x.shape[-2]]
        itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        sees = (there[..., None, :] | itself)[..., None, :, :]
        for block in self.blocks:
            h = block(h, sees)
        return torch.cat([self.last(h), near], -1)


class OfPicture(nn.Module):
    """The same of sentences as pictures of one row, ``(N, 12, 1, T)`` to ``(N, 256, 1, T)``, as `Dense` has them."""

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.words(x.squeeze(-2).mT.long()).mT[..., None, :]
        return features


def as_pictures(given: bm.Points) -> bm.Points:
    x = given.x.movedim(-1, -2)[..., None, :].float()
    return bm.Points(x, given.y[..., None, :], given.mask[..., None, :])


class Pictures(bm.tasks.TaskSource):
    """A source's sentences as pictures of one row."""

    def __init__(self, tasks: SlotTasks) -> None:
        super().__init__(seed=tasks.seed, length=tasks.length)
        self.tasks = tasks

    def draw(self, generator: torch.Generator) -> bm.Episode:
        episode = self.tasks.draw(generator)
        return bm.Episode(*map(as_pictures, episode))


def anil(labels: int, adapting: int = 10, inner: float = 0.3) -> bm.Learner:
    return bm.ANIL(
        Words(), nn.Linear(4 * WIDTH, labels), bm.likelihoods.Categorical(event_dims=1), steps=adapting, rate=inner
    )


def prototypes(labels: int) -> bm.Learner:
    return bm.Dense(OfPicture(Words()), bm.PrototypicalNetwork(nn.Identity(), classes=labels))


Make = Callable[..., bm.Learner]
LEARNERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "ANIL": (anil, {"first": 500, "steps": 200, "rate": 0.001, "adapting": 20, "inner": 0.3}),
    "prototypes": (prototypes, {"first": 500, "steps": 300, "rate": 0.001}),
}


@cache
def sentences() -> dict[str, Any]:
    return bm.tasks.snips()


def source(number: int, intents: Sequence[str], **settings: Any) -> SlotTasks:
    known = sorted({slot for one in split(number)[0] for _, slots in sentences()[one] for slot in slots if slot})
    return SlotTasks(
        {one: sentences()[one] for one in intents},
        bm.tasks.spelled,
        known=known,
        labels=1 + len(known) + NEW,
        **settings,
    )


def split(number: int) -> tuple[list[str], str, str]:
    """Intents for training, and those for validation and test."""
    names = sorted(sentences())
    test, validation = names[number], names[(number + 1) % len(names)]
    return [name for name in names if name not in (test, validation)], validation, test


def trained(name: str, number: int, **changed: Any) -> tuple[bm.Learner, float]:
    make, given = LEARNERS[name]
    settings = {**given, **changed}
    torch.manual_seed(number)
    intents = split(number)[0]
    joint, tasks = source(number, intents, shots=1, queries=40), source(number, intents, hidden=0.5, queries=15)
    own = {key: value for key, value in settings.items() if key not in ("first", "steps", "rate")}
    learner = make(tasks.labels, **own)
    began = time.process_time()
    words = learner.features.words if isinstance(learner, bm.Dense) else learner.features
    start = anil(tasks.labels, adapting=0)
    start.features = words
    fitted(start, joint, settings["first"], 0.003)  # all training intents at once, by the slots' names
    if isinstance(learner, bm.ANIL):
        learner.head.load_state_dict(start.head.state_dict())
    fitted(learner, Pictures(tasks) if isinstance(learner, bm.Dense) else tasks, settings["steps"], settings["rate"])
    return learner, time.process_time() - began


def fitted(learner: bm.Learner, tasks: Any, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, progress=False)


def answers(number: int, learner: Any, intent: str, tasks: int, seed: int) -> list[tuple[Any, bm.Points]]:
    """Predictions of a learner's tasks of an intent, of events ``(T,)``, and what is right."""
    found = []
    for index in range(tasks):
        episode = source_of(number, intent, seed)[index]
        with torch.no_grad():
            if isinstance(learner, bm.Dense):
                said = learner(as_pictures(episode.support))(as_pictures(episode.query).x)
                logits = bm.distributions.marginals(said).logits.squeeze(-3)
            elif isinstance(learner, bm.Learner):
                logits = bm.distributions.marginals(learner(episode.support)(episode.query.x)).logits
            else:
                logits = learner(episode)
        found.append((bm.likelihoods.Categorical(event_dims=1)(logits.float()), episode.query))
    return found


@cache
def source_of(number: int, intent: str, seed: int) -> SlotTasks:
    return source(number, [intent], batch=1, queries=20, seed=seed)


def regression(features: Callable[[Tensor], Tensor], labels: int, penalty: float) -> Callable[[bm.Episode], Tensor]:
    """Multinomial logistic regression over all labels, without a learned prior, by Newton's method in LBFGS."""

    def ask(episode: bm.Episode) -> Tensor:
        x, y, mask = features(episode.support.x[0]), episode.support.y[0], episode.support.mask[0]
        x, y = torch.cat([x[mask], torch.ones(int(mask.sum()), 1)], 1).detach(), y[mask]
        weights = torch.zeros(x.shape[1], labels, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(x @ weights, y, reduction="sum") + penalty / 2 * weights.square().sum()
            loss.backward()
            return float(loss.detach())

        with torch.enable_grad():
            optimizer.step(closure)
        asked = features(episode.query.x[0])
        return (torch.cat([asked, torch.ones_like(asked[..., :1])], -1) @ weights.detach())[None]

    return ask


def best_temperature(found: list[tuple[Any, bm.Points]]) -> float:
    grid = torch.linspace(-1.5, 1.5, 31).exp()
    losses = torch.stack([torch.tensor(figure(NLL(), found, float(one))) for one in grid])
    return float(grid[losses.argmin()])


def statistics(metric: Any, found: list[tuple[Any, bm.Points]], temperature: float = 1.0) -> Tensor:
    heat = torch.tensor(temperature)
    return torch.cat([metric.statistic(bm.distributions.temper(said, heat), given) for said, given in found])


def figure(metric: Any, found: list[tuple[Any, bm.Points]], temperature: float = 1.0) -> float:
    return float(metric.reduce(statistics(metric, found, temperature).sum(0)))


def measured(name: str, number: int) -> dict[str, Any]:
    """Figures on the test intent of a learner, and of logistic regression on the features of the learner's words."""
    learner, seconds = trained(name, number)
    _, validation, test = split(number)
    words = learner.features.words if isinstance(learner, bm.Dense) else learner.features
    labels = source_of(number, test, 1000).labels
    penalties = {one: regression(words, labels, one) for one in (0.3, 1.0, 3.0)}
    checked = {one: answers(number, ask, validation, 10, 2000) for one, ask in penalties.items()}
    best = min(penalties, key=lambda one: figure(NLL(), checked[one], best_temperature(checked[one])))
    rows = {}
    for who, asked, known in (
        (name, learner, answers(number, learner, validation, 10, 2000)),
        (f"logistic regression on the features of {name}", penalties[best], checked[best]),
    ):
        temperature = best_temperature(known)
        found = answers(number, asked, test, TASKS, 1000)
        rows[who] = {
            **{m.name: list(bootstrap(m, statistics(m, found, temperature))) for m in METRICS},
            "NLL without recalibration": figure(NLL(), found),
            "ECE without recalibration": figure(ECE(), found),
            "temperature": temperature,
        }
    return {"test": test, "CPU seconds of training": seconds, "penalty": best, "rows": rows}


def table(results: dict[str, Any]) -> str:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in results.values():
        for who, row in run["rows"].items():
            found.setdefault(who, {})[run["test"]] = row
    names = [m.name for m in METRICS]
    lines = ["| mean over intents held out | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for who, runs in found.items():
        means = [statistics_of([row[name][0] for row in runs.values()]) for name in names]
        lines.append(f"| {who} ({len(runs)}) | {' | '.join(means)} |")
    for who, runs in found.items():
        each = ", ".join(
            f"{test} {row['token F1'][0]:.3f} (NLL {row['NLL'][0]:.3f})" for test, row in sorted(runs.items())
        )
        lines.append(f"{who}, token F1: {each}")
    return "\n".join(lines)


def statistics_of(values: list[float]) -> str:
    """The mean over intents, and the 95 % interval of Student's t, where there are several."""
    each = torch.tensor(values).double()
    if len(each) < 2:
        return f"{each.mean():.3f}"
    quantile = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45}[len(each)]
    return f"{each.mean():.3f} ± {quantile * each.std() / len(each) ** 0.5:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="how a learner's name begins, and settings to change; all if none")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation intents; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    changed = {
        key: float(value) if "." in value else int(value) for key, value in (p.split("=") for p in given.which[1:])
    }
    for name in () if given.table else LEARNERS:
        if not name.startswith(given.which[0] if given.which else ""):
            continue
        for number in range(7):
            if given.validate:
                learner, seconds = trained(name, number, **changed)
                found = answers(number, learner, split(number)[1], 10, 2000)
                print(
                    name, changed, f"{seconds:.0f} s", {m.name: round(figure(m, found), 3) for m in METRICS}, flush=True
                )
            elif f"{name}; {number}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {number}", measured(name, number))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
