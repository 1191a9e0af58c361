"""Few-shot text: intents and relations that no learner has seen, named, with a probability, or said to be none of these.

    BAYESMETA_DATA=... python benchmarks/accuracy/text.py                          # everything that is not there yet
    BAYESMETA_DATA=... python benchmarks/accuracy/text.py "CLINC150, 5-way 5-shot" "class Gaussians"    # what begins so
    BAYESMETA_DATA=... python benchmarks/accuracy/text.py --validate "CLINC150, 5-way 1-shot" "MAML" rate=0.1
    BAYESMETA_DATA=... python benchmarks/accuracy/text.py --table                  # prints what is there

CLINC150 and BANKING77 by the five public splits of their classes; learners train on a split's training classes and are asked
about its test classes: 200 tasks a split, 5 queries a class, of all of the pack's utterances. Intervals draw tasks and classes
anew, of all five splits together. Inputs are 384 numbers a text (all-MiniLM-L6-v2, frozen), or the texts alone. None of these: of
30 queries 5, one in six, are of other classes, in training as in the test; the same learners are then asked where it is 25 of 50,
and where the 5 are of the pack's utterances that are out of scope.
FewRel: training on 11 relations of Wikipedia, tests on three other domains.

Baselines have what can be fitted afterwards: a temperature, and with none of these a constant logit of that label, both by the
NLL on tasks of the training classes. One thread. Settings were chosen by `--validate`, on the validation classes of the first two
splits. Finished runs are kept in results/text.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import bayesmeta as bm
from bayesmeta.evaluation.evaluate import statistics
from bayesmeta.metrics import (
    AURC,
    ECE,
    NLL,
    Accuracy,
    Estimate,
    Inside,
    Metric,
    Outside,
    OutsideAUPR,
    OutsideAUROC,
    OutsideRecall,
    estimates,
)
from bayesmeta.tasks import ClassTasks
from bayesmeta.tasks.text import ClassSplit, LabelledTexts
from benchmarks.accuracy.text_baselines import BASELINES, baseline
from benchmarks.accuracy.text_learners import LEARNERS, Given, trained
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "text.json"
SPLITS, EPISODES, BATCH, QUERIES = 5, 50, 4, 5
METRICS = [Accuracy(), NLL(), ECE(), AURC()]
NONE = [OutsideAUROC(), OutsideAUPR(), Inside(Accuracy()), Outside(Accuracy()), OutsideRecall(0.95), NLL(), ECE()]


class Protocol(NamedTuple):
    """What is asked."""

    data: str
    ways: int
    shots: int
    outside: int = 0
    domain: str = ""


PROTOCOLS = {
    "CLINC150, 5-way 5-shot": Protocol("clinc150", 5, 5),
    "CLINC150, 5-way 1-shot": Protocol("clinc150", 5, 1),
    "CLINC150, 20-way 5-shot": Protocol("clinc150", 20, 5),
    "BANKING77, 5-way 5-shot": Protocol("banking77", 5, 5),
    "BANKING77, 5-way 1-shot": Protocol("banking77", 5, 1),
    "CLINC150 or none, 5-shot": Protocol("clinc150", 5, 5, outside=5),
    "CLINC150 or none, 1-shot": Protocol("clinc150", 5, 1, outside=5),
    "FewRel, nyt, 5-way 5-shot": Protocol("fewrel", 5, 5, domain="nyt"),
    "FewRel, pubmed, 5-way 5-shot": Protocol("fewrel", 5, 5, domain="pubmed"),
    "FewRel, semeval, 5-way 5-shot": Protocol("fewrel", 5, 5, domain="semeval"),
}


@cache
def texts(name: str) -> LabelledTexts:
    read: LabelledTexts = getattr(bm.tasks, name)()
    return read


class OutOfScope(torch.utils.data.Dataset[bm.Episode]):
    """Tasks whose queries outside are of no class at all: CLINC150's utterances that are out of scope."""

    def __init__(self, tasks: ClassTasks, rows: torch.Tensor, count: int) -> None:
        self.tasks, self.rows, self.count = tasks, rows, count
        self.clusters = tasks.clusters

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> bm.Episode:
        support, query = self.tasks[index]
        drawn = (
            torch.rand(BATCH, len(self.rows), generator=torch.Generator().manual_seed(index)).topk(self.count).indices
        )
        y = torch.full(drawn.shape, self.tasks.ways)
        strange = bm.Points(self.tasks.x[self.rows[drawn]], y, torch.ones_like(y, dtype=torch.bool))
        return bm.Episode(support, bm.concatenate(query, strange))


def splits(protocol: Protocol) -> list[ClassSplit]:
    """Of labels; relations of Wikipedia are 11 to train and 5 to validate, drawn anew for each."""
    given = texts(protocol.data)
    if given.splits:
        return given.splits
    known, asked = (
        sorted({label for label, part in zip(given.labels, given.parts, strict=True) if part == domain})
        for domain in ("wiki", protocol.domain)
    )
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(known).tolist()
        found.append(ClassSplit(order[:11], order[11:], asked))
    return found


def given(protocol: Protocol, split: ClassSplit) -> Given:
    data = texts(protocol.data)
    return Given(data, split.train, protocol.ways, protocol.shots, QUERIES, protocol.outside)


def pooled(
    made: Sequence[Any], protocol: Protocol, asked: str, outside: int, episodes: int, scope: str = ""
) -> dict[str, Estimate]:
    """Figures over the tasks of all splits, each with its learner and its inputs.

    What is outside is of other classes, or of a part of the pack, its scope.
    """
    metrics: list[Metric] = NONE if outside else METRICS
    strange = torch.tensor([i for i, part in enumerate(texts(protocol.data).parts) if part == scope])
    rows: list[list[torch.Tensor]] = []
    shared = []
    names = {label: i for i, label in enumerate(sorted({*texts(protocol.data).labels}))}
    for (predictor, x), split in zip(made, splits(protocol), strict=False):
        source = ClassTasks(
            x, texts(protocol.data).labels, subset=getattr(split, asked), ways=protocol.ways, shots=protocol.shots,
            queries=QUERIES, outside=0 if scope else outside, batch=BATCH, whole=True, seed=1000,
        )  # fmt: skip
        tasks = OutOfScope(source, strange, outside) if scope else source
        _, found, units = statistics(predictor, tasks, episodes=episodes, metrics=metrics)
        rows.append(found)
        assert units is not None
        shared.append(torch.tensor([names[str(name)] for name in source.names])[units])
    return estimates(metrics, [torch.cat(parts) for parts in zip(*rows, strict=True)], torch.cat(shared))


def made(name: str, protocol: Protocol, count: int, **changed: Any) -> tuple[list[Any], float]:
    """Of each split a predictor and the inputs that it takes; and the CPU seconds of training one."""
    found, began = [], time.process_time()
    for k, split in enumerate(splits(protocol)[:count]):
        make = baseline if name in BASELINES else trained
        found.append(make(name, given(protocol, split), k, **changed))
    return found, (time.process_time() - began) / count


def measured(name: str, protocol: Protocol) -> dict[str, Any]:
    predictors, seconds = made(name, protocol, SPLITS)
    row: dict[str, Any] = {"training CPU seconds": seconds, "torch": torch.__version__}
    began = time.process_time()
    row["test"] = dict(pooled(predictors, protocol, "test", protocol.outside, EPISODES))
    row["testing CPU seconds"] = time.process_time() - began
    if protocol.outside:
        many = protocol.ways * QUERIES
        row["test, one in two"] = dict(pooled(predictors, protocol, "test", many, EPISODES))
        row["test, out of scope"] = dict(pooled(predictors, protocol, "test", protocol.outside, EPISODES, "oos_test"))
    return row


def possible(name: str, protocol: Protocol) -> bool:
    """Whether there are such inputs, and the learner has a label for none."""
    kind = LEARNERS.get(name) or BASELINES[name]
    if protocol.outside and not kind.none:
        return False
    return protocol.data != "fewrel" or kind.inputs != "embeddings"


def table(results: dict[str, Any]) -> str:
    lines = []
    for asked, protocol in PROTOCOLS.items():
        metrics = NONE if protocol.outside else METRICS
        for test in ("test", "test, one in two", "test, out of scope") if protocol.outside else ("test",):
            lines += [
                f"| {asked}{test[4:]} | {' | '.join(metric.name for metric in metrics)} | training |",
                "|---" * (len(metrics) + 2) + "|",
            ]
            for name in (*LEARNERS, *BASELINES):
                if run := results.get(f"{asked}; {name}"):
                    cells = [str(Estimate(*run[test][metric.name])) for metric in metrics]
                    lines.append(f"| {name} | {' | '.join(cells)} | {run['training CPU seconds']:.0f} s |")
            lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="how the protocol begins, how the learner begins, settings to change")
    parser.add_argument("--table", action="store_true", help="print the runs that are there")
    parser.add_argument("--validate", action="store_true", help="on validation classes of two splits; nothing is kept")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    begins = [part for part in asked.which if "=" not in part] + ["", ""]
    changed = {key: float(value) for key, value in (part.split("=") for part in asked.which if "=" in part)}
    for what, protocol in PROTOCOLS.items():
        for name in (*LEARNERS, *BASELINES):
            wanted = what.startswith(begins[0]) and name.startswith(begins[1]) and possible(name, protocol)
            if asked.table or not wanted:
                continue
            if asked.validate:
                predictors, seconds = made(name, protocol, 2, **changed)
                row = pooled(predictors, protocol, "validation", protocol.outside, 50)
                print(
                    what, name, changed, f"{seconds:.0f} s", {key: str(each) for key, each in row.items()}, flush=True
                )
            elif f"{what}; {name}" not in load(RESULTS):
                keep(RESULTS, f"{what}; {name}", measured(name, protocol))
                print(f"{what}; {name}", flush=True)
    if not asked.validate:
        print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
