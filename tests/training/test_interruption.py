"""Signals while `fit` runs: whose they are, and what a second Ctrl-C may break."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.training import checkpoint

FILE = "checkpoint.bayesmeta"
TASKS = bm.tasks.Sinusoids(batch=2)


class Signalled(bm.Learner):
    """A learner that calls a function in step `at`, while its gradient is taken."""

    def __init__(self, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = bm.MAML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian())
        self._at, self._act, self._calls = at, act, 0

    def forward(self, support: bm.Points) -> bm.Posterior:
        return self.inner(support)

    def loss(self, episode: bm.Episode) -> Tensor:
        if self._calls == self._at:
            self._act()
        self._calls += 1
        return self.inner.loss(episode)


def ctrl_c(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def same(first: bm.Learner, second: bm.Learner) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.fixture(params=["SIGINT", "SIGTERM"])
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    number = signal.Signals[request.param]
    before = signal.signal(number, signal.SIG_IGN)
    yield number
    signal.signal(number, before)


def test_an_ignored_signal_stays_ignored(ignored: signal.Signals, tmp_path: Path) -> None:
    """As under nohup, or in a script's background."""
    learner = Signalled(2, lambda: signal.raise_signal(ignored))
    history = bm.fit(learner, TASKS, steps=5, progress=False, checkpoint=tmp_path)
    assert len(history.losses) == 5
    assert not history.interrupted
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_a_handler_that_python_does_not_know_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: None)
        patched.setattr(signal, "signal", lambda *arguments: installed.append(arguments))
        history = bm.fit(Signalled(), TASKS, steps=3, progress=False, checkpoint=tmp_path)
    assert len(history.losses) == 3
    assert not installed


def test_handlers_of_the_user_come_back_after_an_error() -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    try:
        with pytest.raises(ZeroDivisionError):
            bm.fit(Signalled(1, lambda: 1 // 0), TASKS, steps=3, progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_breaks_off_a_gradient(tmp_path: Path) -> None:
    """The learner is that of whole steps, the checkpoint the last one, and both are said."""
    learner, reference = Signalled(3, lambda: ctrl_c(2)), Signalled()
    options: dict[str, Any] = {"progress": False, "checkpoint_every": 2}
    optimizers = [torch.optim.Adam(each.parameters()) for each in (learner, reference)]
    with pytest.raises(
        KeyboardInterrupt, match=f"step 3 was broken off, .* before it. {tmp_path} holds the run as it was"
    ):
        bm.fit(learner, TASKS, steps=9, optimizer=optimizers[0], checkpoint=tmp_path, **options)
    bm.fit(reference, TASKS, steps=3, optimizer=optimizers[1], **options)
    assert same(learner, reference)
    assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == 2
    assert not learner.training


def test_a_second_ctrl_c_breaks_off_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.write

    def slow(path: Path, content: Any) -> None:
        ctrl_c(2)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", slow)
    history = bm.fit(Signalled(3, ctrl_c), TASKS, steps=9, progress=False, checkpoint=tmp_path)
    assert history.interrupted
    assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == len(history.losses) == 4


def test_a_second_ctrl_c_breaks_off_no_update() -> None:
    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            ctrl_c(2)
            super().step()

    learner, reference = Signalled(0, ctrl_c), Signalled()
    history = bm.fit(learner, TASKS, steps=9, optimizer=Slow(learner.parameters(), lr=0.01), progress=False)
    assert history.interrupted
    assert len(history.losses) == 1
    bm.fit(reference, TASKS, steps=1, optimizer=torch.optim.SGD(reference.parameters(), lr=0.01), progress=False)
    assert same(learner, reference)
