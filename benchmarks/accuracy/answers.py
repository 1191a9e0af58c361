"""Answers in articles that no learner has seen: XQuAD's sentences and spans, by article, language and type of question.

    BAYESMETA_DATA=... python benchmarks/accuracy/answers.py                  # everything that is not there yet
    BAYESMETA_DATA=... python benchmarks/accuracy/answers.py spans "joint"     # what begins so
    BAYESMETA_DATA=... python benchmarks/accuracy/answers.py --validate spans
    BAYESMETA_DATA=... python benchmarks/accuracy/answers.py --table          # prints what is there

The 48 articles are in six parts, in the order of their names: each is the test once, the next one is for validation
(temperature), and the other four are for training. Tasks are articles, and 5 questions of each are its support. By language:
trained in six languages, tested in five others, on articles of the test part. By type: a task is a type of question in a part,
one type is not trained on, and asked about. The joint learner is the same network without adaptation. Baselines have no
probabilities: the sentence that shares most rare words with the question, and the window of words that does, without its own
words. Intervals are over articles (and languages). One thread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import bayesmeta as bm
from bayesmeta.metrics import AURC, ECE, NLL, Accuracy, bootstrap
from bayesmeta.networks import MLP, Choice
from bayesmeta.tasks import ArrayTasks, Candidates, tasks_from_arrays
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "answers.json"
PARTS, SHOTS = 6, 5
KNOWN, OTHER = ["de", "en", "es", "ru", "tr", "zh"], ["ar", "el", "hi", "ro", "vi"]
KINDS = ["who", "when", "where", "how many"]
LIKELIHOOD = bm.likelihoods.Categorical()
METRICS = [Accuracy(), NLL(), ECE(), AURC()]


@cache
def candidates(what: str) -> Candidates:
    if what == "spans":
        return bm.tasks.span_choices(bm.tasks.xquad())
    languages = [*KNOWN, *OTHER] if what == "languages" else ["en"]
    return bm.tasks.sentence_choices(bm.tasks.xquad(languages=languages))


def network(what: str) -> Choice:
    numbers = candidates(what).x.shape[-1] - 1
    return Choice(MLP(numbers, 1, hidden=(32,) if what == "spans" else (16,)))


LEARNERS: dict[str, Callable[[str], bm.Learner]] = {
    "joint": lambda what: bm.MAML(network(what), LIKELIHOOD, steps=0),
    "MAML": lambda what: bm.MAML(network(what), LIKELIHOOD, steps=3, rate=0.05),
    "Reptile": lambda what: bm.Reptile(network(what), LIKELIHOOD, steps=3, rate=0.05),
}


def parts() -> list[list[str]]:
    names = sorted({one.article for one in bm.tasks.xquad()})
    return [names[k::PARTS] for k in range(PARTS)]


def source(what: str, chosen: Callable[[Any], bool], **settings: Any) -> ArrayTasks:
    """Tasks of the chosen questions: an article in a language, or a type of question in a part, where there are enough."""
    given = candidates(what)
    part = {name: k for k, mine in enumerate(parts()) for name in mine}
    names = [
        f"{one.kind} {part[one.article]}" if what == "kinds" else f"{one.article} {one.language}"
        for one in given.questions
    ]
    rows = [k for k, one in enumerate(given.questions) if chosen(one)]
    count = Counter(names[k] for k in rows)
    rows = [k for k in rows if count[names[k]] > SHOTS]
    return tasks_from_arrays(
        given.x[rows], given.y[rows], [names[k] for k in rows], classes=given.x.shape[1], shots=SHOTS, **settings
    )


def measured(name: str, what: str, steps: int = 600, validate: bool = False) -> dict[str, Any]:
    """Of all six parts, each of them the test once; of types of question each held out too.

    To validate, the validation part is asked, with the temperature of the part after it, which then trains nothing either.
    """
    known, asked_in = (KNOWN, OTHER) if what == "languages" else (["en"], ["en"])
    rows, members, temperatures, began = [], [], [], time.process_time()
    for number in range(PARTS):
        test, validation = parts()[number], parts()[(number + 1) % PARTS]
        if validate:
            test, validation = validation, parts()[(number + 2) % PARTS]
        held = KINDS[number % len(KINDS)] if what == "kinds" else None
        torch.manual_seed(number)
        learner: Any = LEARNERS[name](what)

        def trains(
            one: Any, out: Sequence[str] = (*parts()[number], *test, *validation), held: str | None = held
        ) -> bool:
            return one.article not in out and one.language in known and one.kind != held

        def checks(one: Any, at: Sequence[str] = validation, held: str | None = held) -> bool:
            return one.article in at and one.language in known and one.kind != held

        def asks(one: Any, at: Sequence[str] = test, held: str | None = held) -> bool:
            return one.article in at and one.language in asked_in and held in (None, one.kind)

        optimizer = torch.optim.Adam(learner.parameters(), lr=0.005, weight_decay=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        bm.fit(
            learner, source(what, trains, batch=4, queries=12, seed=number),
            steps=steps, optimizer=optimizer, scheduler=scheduler, progress=False,
        )  # fmt: skip
        learner = bm.Calibrated.from_tasks(learner, source(what, checks), episodes=3)
        temperatures.append(learner.temperature.item())
        asked = source(what, asks)
        for index in range(5):  # five divisions of each task into support and query
            episode = asked[index]
            with torch.no_grad():
                said = learner(episode.support)(episode.query.x)
            rows.append([metric.statistic(said, episode.query) for metric in METRICS])
            members.append(1000 * number + asked.members(index))
    pooled = [torch.cat(column) for column in zip(*rows, strict=True)]
    figures = {
        metric.name: list(bootstrap(metric, column, torch.cat(members)[:, None]))
        for metric, column in zip(METRICS, pooled, strict=True)
    }
    return {**figures, "temperatures": temperatures, "CPU seconds": time.process_time() - began}


def overlap(what: str) -> float:
    """Accuracy of the candidate that agrees most with the question; of spans the window that does, without its own words."""
    given = candidates(what)
    there = given.x[..., -1] > 0
    score = given.x[..., 3] - 10 * given.x[..., 0] if what == "spans" else given.x[..., 0]
    if what == "languages":
        there = there & torch.tensor([[one.language in OTHER] for one in given.questions])
    right = score.masked_fill(~there, -1e9).argmax(1) == given.y
    return float(right[there.any(1)].double().mean())


def table(results: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(metric.name for metric in METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for key, row in results.items():
        cells = [f"{row[m.name][0]:.3f} [{row[m.name][1]:.3f}, {row[m.name][2]:.3f}]" for m in METRICS if m.name in row]
        lines.append(f"| {key} | {' | '.join(cells) if cells else '{:.3f}'.format(row['Accuracy alone'])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "which", nargs="*", help="sentences, languages, kinds or spans, and how a learner begins; all if none"
    )
    parser.add_argument("--validate", action="store_true", help="on validation parts; nothing is kept")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    begins = [*given.which, "", ""]
    for what in ("sentences", "languages", "kinds", "spans"):
        if given.table or not what.startswith(begins[0]):
            continue
        steps = 300 if what == "spans" else 600
        for name in LEARNERS:
            if not name.startswith(begins[1]):
                continue
            if given.validate:
                row = measured(name, what, steps, validate=True)
                print(what, name, {m.name: row[m.name] for m in METRICS}, row["temperatures"], flush=True)
            elif f"{what}; {name}" not in load(RESULTS):
                keep(RESULTS, f"{what}; {name}", measured(name, what, steps))
                print(table({f"{what}; {name}": load(RESULTS)[f"{what}; {name}"]}), flush=True)
        if not given.validate:
            keep(RESULTS, f"{what}; overlap", {"Accuracy alone": overlap(what)})
    if not given.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
