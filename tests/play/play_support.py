"""Playgrounds that run while a test does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import bayesmeta as bm
from bayesmeta.play.server import Playground


@contextmanager
def running(learners: dict[str, bm.Learner], **options: bool) -> Iterator[Playground]:
    playground = Playground(**options)
    playground.learners = {name: (f"note of {name}", learner.eval()) for name, learner in learners.items()}
    serving = threading.Thread(target=playground.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield playground
    finally:
        playground.shutdown()
        serving.join()
        playground.server_close()


def maml() -> bm.Learner:
    return bm.MAML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian())
