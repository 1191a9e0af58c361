"""Few-shot slot filling on SNIPS: five sentences of an intent that no learner has seen.

    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py                        # all learners, each intent held out in turn
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py "ANIL"                 # one
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py --validate "ANIL" steps=400
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py "told more" --intents 3   # one of them
    BAYESMETA_DATA=... python benchmarks/accuracy/slots.py --table                # prints what is there

Each intent is the test once; the next one in the order of names is for validation (settings, temperature), and the other five
are for training: first together, by the names of their slots, then as tasks. A task is 5 sentences, judged on 20 others; of
each intent 30 tasks. Slots that training knows keep their numbers, others have random ones; those that the five sentences do
not show are asked about and count. Logistic regression is over all labels, by LBFGS, on the learned features of the same
training intents, its penalty and temperature chosen on the validation intent. One thread.

Learners that are told more are asked the same: their words have vectors that were learned from sentences without labels, they
learn from worn words, and they read the names of the intent's slots in the support. Logistic regression has the same of theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, ExactMatch, SequenceECE, SpanF1, TokenF1, bootstrap
from bayesmeta.tasks import SlotTasks
from benchmarks.accuracy.slots_learners import LEARNERS, as_pictures, body, source, split, trained
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "slots.json"
TASKS = 30
METRICS = [TokenF1(), SpanF1(), NLL(), ECE(), ExactMatch(), SequenceECE()]


def answers(number: int, learner: Any, told: bool, intent: str, tasks: int, seed: int) -> list[tuple[Any, bm.Points]]:
    """Predictions of a learner's tasks of an intent, of events ``(T,)``, and what is right."""
    found = []
    for index in range(tasks):
        episode = source_of(number, intent, told, seed)[index]
        with torch.no_grad():
            if isinstance(learner, bm.Dense):
                said = learner(as_pictures(episode.support))(as_pictures(episode.query).x)
                logits = bm.distributions.class_probabilities(said).squeeze(-3).clamp(min=1e-30).log()
            elif isinstance(learner, bm.Learner):
                said = learner(episode.support)(episode.query.x)
                logits = bm.distributions.class_probabilities(said).clamp(min=1e-30).log()
            else:
                logits = learner(episode)
        found.append((bm.likelihoods.Categorical(event_dims=1)(logits.float()), episode.query))
    return found


@cache
def source_of(number: int, intent: str, told: bool, seed: int) -> SlotTasks:
    return source(number, [intent], told, batch=1, queries=20, seed=seed, named=told)


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
    told, words = LEARNERS[name].told, body(learner)
    labels = source_of(number, test, told, 1000).labels
    penalties = {one: regression(words, labels, one) for one in (0.3, 1.0, 3.0)}
    checked = {one: answers(number, ask, told, validation, 10, 2000) for one, ask in penalties.items()}
    best = min(penalties, key=lambda one: figure(NLL(), checked[one], best_temperature(checked[one])))
    rows = {}
    for who, asked, known in (
        (name, learner, answers(number, learner, told, validation, 10, 2000)),
        (f"logistic regression on the features of {name}", penalties[best], checked[best]),
    ):
        temperature = best_temperature(known)
        found = answers(number, asked, told, test, TASKS, 1000)
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
    parser.add_argument(
        "--intents", type=int, nargs="*", default=range(7), help="which to hold out, 0 to 6; all if none"
    )
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation intents; nothing is kept")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    changed = {key: int(value) for key, value in (p.split("=") for p in given.which[1:])}
    for name in () if given.table else LEARNERS:
        if not name.startswith(given.which[0] if given.which else ""):
            continue
        for number in given.intents:
            if given.validate:
                learner, seconds = trained(name, number, **changed)
                found = answers(number, learner, LEARNERS[name].told, split(number)[1], 10, 2000)
                print(
                    name, changed, f"{seconds:.0f} s", {m.name: round(figure(m, found), 3) for m in METRICS}, flush=True
                )
            elif f"{name}; {number}" not in load(RESULTS):
                keep(RESULTS, f"{name}; {number}", measured(name, number))
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
