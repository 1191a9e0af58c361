"""Saves, copies, loads, fits and forks while eight threads ask the same learners: what does anyone see of the others?

    python benchmarks/robustness/threads.py              # some minutes
    python benchmarks/robustness/threads.py --share 0.02 # a smoke test

Eight threads ask a MAML on a Conv4 and a DKT, over and over, for new tasks, while the main thread

- saves each learner, deep-copies it and loads it back from its file: each file's and each copy's tensors must be the learner's
  own, bit by bit, and so must the learner's after all of it;
- trains another MAML, whose network the threads ask too: each fit must end with the weights of the same fit alone;
- forks: the child must answer and train;
- evaluates a learner whose answers are random, while threads draw functions from it: all draws must differ.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.files import storage as files
from benchmarks.cost.serving import build
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "threads.json"
THREADS = 8


@contextmanager
def asked(request: Callable[[], object]) -> Iterator[list[int]]:
    """Threads that repeat a request, and how often each has been answered."""
    answered, ending = [0] * THREADS, threading.Event()
    failures: list[BaseException] = []

    def serve(place: int) -> None:
        torch.set_num_threads(1)
        try:
            while not ending.is_set():
                request()
                answered[place] += 1
        except BaseException as error:
            failures.append(error)
            raise

    workers = [threading.Thread(target=serve, args=(place,)) for place in range(THREADS)]
    for worker in workers:
        worker.start()
    try:
        yield answered
    finally:
        ending.set()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def files_and_copies(count: int) -> dict[str, Any]:
    learners = [build("MAML, Conv4"), build("DKT, MLP")]
    truth = [copy.deepcopy(learner.state_dict()) for learner, _ in learners]
    turns = iter(range(10**9))

    def request() -> None:
        learner, requests = learners[next(turns) % 2]
        support, x = requests[next(turns) % len(requests)]
        with torch.no_grad():
            learner(support)(x)

    wrong = {"files": 0, "copies": 0, "learners": 0}
    with tempfile.TemporaryDirectory() as folder, asked(request) as answered:
        for place in range(count):
            (learner, _), expected = learners[place % 2], truth[place % 2]
            path = Path(folder) / f"{place % 2}"
            bm.save(learner, path)
            wrong["files"] += not same(files.read(path, "learner")["state"], expected)
            wrong["copies"] += not same(copy.deepcopy(learner).state_dict(), expected)
            bm.load(path, learner)
            wrong["learners"] += not same(learner.state_dict(), expected)
    return {
        "saves, copies and loads": count,
        **{f"wrong {name}": number for name, number in wrong.items()},
        "answers": sum(answered),
    }


def fits(count: int) -> dict[str, Any]:
    tasks = bm.tasks.Sinusoids(batch=4)

    def network() -> bm.networks.MLP:
        torch.manual_seed(0)
        return bm.networks.MLP(1, 1)

    def trained(shared: nn.Module) -> dict[str, Tensor]:
        learner = bm.MAML(shared, bm.likelihoods.Gaussian(), steps=2, rate=0.05)
        history = bm.fit(learner, tasks, steps=5, progress=False)
        assert len(history.losses) == 5
        return learner.state_dict()

    expected, episode, wrong = trained(network()), tasks[0], 0
    current = [network()]

    def request() -> None:
        learner = bm.MAML(current[0], bm.likelihoods.Gaussian(), steps=2, rate=0.05)
        with torch.no_grad():
            learner(episode.support)(episode.query.x)

    with asked(request) as answered:
        for _ in range(count):
            current[0] = network()
            wrong += not same(trained(current[0]), expected)
    return {"fits": count, "that trained otherwise than alone": wrong, "answers": sum(answered)}


def forks(count: int) -> dict[str, Any]:
    learner, requests = build("MAML, Conv4")
    vae = bm.ABML(
        bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=1, objective=bm.ELBO(draws=8)
    )  # whose loss is a Pyro program
    tasks = bm.tasks.Sinusoids(batch=2)
    support, x = requests[0]

    def request() -> None:
        vae.loss(tasks[0])
        with torch.no_grad():
            learner(support)(x)

    hung = failed = 0
    request()  # torch imports parts of itself on first use, and a fork while a thread imports is Python's own trap
    torch.set_num_threads(1)  # a child has none of the threads that an operation would wait for
    with asked(request):
        for _ in range(count):
            child = os.fork()
            if child == 0:
                try:
                    with torch.no_grad():
                        learner(support)(x)
                    vae.loss(tasks[0]).backward()
                    os._exit(0)
                finally:
                    os._exit(1)
            ended, began = 0, time.monotonic()
            while not ended and time.monotonic() - began < 30:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.01)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                hung += 1
            elif status:
                failed += 1
    return {"forks": count, "children that hung": hung, "children that failed": failed}


def draws(count: int) -> dict[str, Any]:
    tasks = bm.tasks.Sinusoids(batch=2, noise=0.1)
    learner = bm.PLATIPUS(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=1)
    posterior = learner(tasks[0].support)
    found: list[Tensor] = []

    def request() -> None:
        with torch.no_grad():
            found.append(posterior.draws([[[0.5]], [[0.5]]], 1).mean.flatten())

    with asked(request):
        for seed in range(count):
            bm.evaluate(learner, tasks, episodes=2, seed=0)
            bm.fit(
                bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), tasks, steps=2, seed=seed % 2, progress=False
            )
    distinct = len({tuple(row.tolist()) for row in found})
    return {
        "draws": len(found),
        "that were drawn before": len(found) - distinct,
        "evaluations and fits meanwhile": 2 * count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for part, full in ((files_and_copies, 1000), (fits, 100), (forks, 50), (draws, 100)):
        result = part(max(1, round(full * arguments.share)))
        print(part.__name__, result, flush=True)
        keep(arguments.results, f"{part.__name__}; {arguments.share:g}", result)


if __name__ == "__main__":
    main()
