"""What every learner costs: meta-updates, adaptation, prediction, serving, evaluation, drawing tasks; and how cost grows.

    python benchmarks/speed.py            # measures what is not yet there, six to eight minutes on two idle cores
    python benchmarks/speed.py MLP/MAML   # only the blocks whose names begin so
    python benchmarks/speed.py --table    # writes the tables into docs/performance.md, and docs/growth_of_cost.png

Regression on 25 sinusoids of 10 + 10 points with an MLP 40-40, 5 inner steps and 4 draws; classification of 25 tasks of 5-way
2-shot points in the plane with the features of such an MLP; and Conv4 of 32 channels on 4 tasks of 5-way 1-shot drawings with 5
queries a class, by the learners of omniglot.py. Needs BAYESMETA_DATA for Omniglot.

Times are medians over rounds in which all works of a block, and a product of two 1,000 x 1,000 matrices, take turns. The product
says how fast the machine was just then: a share of the roofline is an update's rate of floating-point operations (those of
matrix products and convolutions) over the product's. Each block goes to results/speed.json as it is done, so that a run that was
stopped goes on where it was; delete the file to measure anew.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import meta_step
import torch
from speed_clock import interleaved, operations, update
from speed_growth import AXES, MEMORY, dkt_parts, growth, memory, picture
from speed_learners import CONV4, LEARNERS, Size, convolutional, small
from speed_tables import sections
from store import keep, load

import bayesmeta as bm

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results" / "speed.json", HERE.parent / "docs"


def costs(learner: bm.Learner, tasks: Any, *, all_works: bool) -> dict[str, float]:
    """Milliseconds of what one does with a learner, and the operations of a meta-update."""
    episode = tasks[0]
    one = bm.Points(*(leaf[:1] for leaf in episode.support))
    step = update(learner, episode)
    quiet = torch.no_grad()
    posterior = quiet(learner)(episode.support)
    works: dict[str, Callable[[], object]] = {
        "meta-update": step,
        "adaptation": quiet(lambda: learner(episode.support)),
        "one task served": quiet(lambda: learner(one)(episode.query.x[:1])),
    }
    if all_works:
        works["prediction"] = quiet(lambda: posterior(episode.query.x))
        works["evaluation"] = lambda: bm.evaluate(learner, tasks, episodes=1)
    return {**interleaved(works), **operations(step)}


def drawing(source: Any) -> dict[str, float]:
    """Milliseconds to draw an episode."""
    return interleaved({"episode": lambda: [source[index] for index in range(20)]})


SOURCES: dict[str, Callable[[], Any]] = {
    "Sinusoids": lambda: bm.Sinusoids(batch=25, shots=10, queries=10, noise=0.1),
    "Longitudinal": lambda: bm.Longitudinal("dietox", batch=25, shots=(1, 5)),
    "Omniglot": lambda: bm.Omniglot(ways=5, shots=1, queries=5, batch=4),
}


def papers_task() -> dict[str, float]:
    """One task of the papers' Omniglot, MAML on Conv4-64: floating-point operations, parameters, calls if vmapped."""
    learner, _, episode, _ = meta_step.conv4(torch.float32)
    learner.strategy = "vmap"
    one = bm.Episode(*(bm.Points(*(leaf[:1] for leaf in part)) for part in episode))
    return {**operations(update(learner, one)), "parameters": sum(p.numel() for p in learner.parameters())}


def blocks() -> dict[str, Callable[[], Any]]:
    """From a key of the results to what measures it."""
    found: dict[str, Callable[[], Any]] = {}
    for name in LEARNERS:
        found[f"MLP/{name}"] = lambda name=name: costs(*small(name, Size()), all_works=True)
    for name in CONV4:
        found[f"Conv4/{name.split('; ')[0]}"] = lambda name=name: costs(*convolutional(name), all_works=False)
    for name, source in SOURCES.items():
        found[f"drawing/{name}"] = lambda source=source: drawing(source())
    for axis, (_, _, names) in AXES.items():
        for name in names:
            found[f"{axis}/{name}"] = lambda axis=axis, name=name: growth(axis, name)
    found["DKT/parts"] = dkt_parts
    found["papers/task"] = papers_task
    for tasks, slices in MEMORY:
        found[f"memory/{tasks} tasks, {slices} slices"] = lambda tasks=tasks, slices=slices: memory(tasks, slices)
    return found


def measure(only: Sequence[str], threads: int) -> None:
    machine = {"threads": threads, "torch": torch.__version__}
    kept = load(RESULTS).get("machine/", machine)
    if kept != machine:
        raise SystemExit(f"{RESULTS} was measured with {kept}, this is {machine}: delete it first")
    keep(RESULTS, "machine/", machine)
    for name, block in blocks().items():
        if name.startswith(tuple(only)) and name not in load(RESULTS):
            began = time.perf_counter()
            keep(RESULTS, name, block())
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)


def write(results: dict[str, Any], page: Path) -> None:
    """Puts each section that was measured between its two marks; what stands between the others stays."""
    text = page.read_text()
    for name, section in sections(results).items():
        first, last = f"<!-- speed.py: {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(first)
        text = f"{before}{first}\n\n{section}\n\n{last}{rest.split(last)[1]}"
    page.write_text(text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", default=[""], help="how the names of the blocks to measure begin")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--table", action="store_true", help="write docs/performance.md from what is there")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if not given.table:
        if "BAYESMETA_DATA" not in os.environ:
            raise SystemExit("BAYESMETA_DATA: expected the folder that holds omniglot, got nothing; set it first")
        measure(given.only, given.threads)
    results = load(RESULTS)
    if given.table:
        write(results, DOCS / "performance.md")
        picture(results, DOCS / "growth_of_cost.png")
    print("\n\n".join(sections(results).values()))


if __name__ == "__main__":
    main()
