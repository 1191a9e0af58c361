"""Learners that several threads ask at the same time."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event, Semaphore, Thread

import pyro
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from test_contract import CASES, B, M, S, build, episode
from torch import Tensor, nn

import bayesmeta as bm

REQUESTS = 4
RANDOM = (
    "ABML",
    "VCL",
    "OnlineLaplace",
    "Consolidated",
    "PLATIPUS",
    "NP",
    "ANP",
    "VERSA",
    "LEO",
    "PACOH, variational",
    "PACOH-NN",
    "Ensemble",
    "Calibrated",
    "Rehearsal",
    *(f"Dense, {name}" for name in ("ABML", "PLATIPUS", "NP", "VERSA")),
)
"""Whose answers draw from torch's global generator, which threads share: no order of their draws is the right one."""


def ask(learner: bm.Learner, support: bm.Points, x: Tensor, y: Tensor) -> Tensor:
    log_prob: Tensor = learner(support)(x).log_prob(y)
    return log_prob.detach()


def on_two_threads(learner: bm.Learner, requests: list[tuple[bm.Points, Tensor, Tensor]]) -> list[list[Tensor]]:
    """The answers of two threads that start together, each to all requests."""
    start = Barrier(2)

    def serve(_: int) -> list[Tensor]:
        torch.set_num_threads(1)
        start.wait()
        return [ask(learner, *request) for request in requests]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(serve, range(2)))


def requests_of(likelihood: str, dtype: torch.dtype) -> list[tuple[bm.Points, Tensor, Tensor]]:
    """Supports that differ from each other, and what is asked."""
    given = episode(likelihood, dtype)
    return [
        (given.support._replace(x=given.support.x * (1 + i)), given.query.x, given.query.y) for i in range(REQUESTS)
    ]


@pytest.mark.parametrize(("name", "likelihood"), CASES)
def test_threads_answer_as_one_does(name: str, likelihood: str) -> None:
    learner, requests = build(name, likelihood, torch.float32), requests_of(likelihood, torch.float32)
    serial = [ask(learner, *request) for request in requests]
    for answers in on_two_threads(learner, requests):
        for answer, expected in zip(answers, serial, strict=True):
            if name.startswith(RANDOM):
                assert answer.isfinite().all()
            else:
                assert torch.equal(answer, expected)


def test_a_kernel_in_float64_does_not_change_the_answers_type() -> None:
    """Kernels are evaluated in float64: no other thread may take that for the learner's type."""
    torch.manual_seed(0)
    learner = bm.ADKF(nn.Identity(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian())
    requests = requests_of("gaussian", torch.float32)
    serial = [ask(learner, *request) for request in requests]
    for _ in range(3):
        for answers in on_two_threads(learner, requests):
            assert all(torch.equal(answer, expected) for answer, expected in zip(answers, serial, strict=True))


def test_posteriors_answer_threads_too() -> None:
    """One posterior asked by two threads, while they draw from it."""
    given = episode("gaussian", torch.float32)
    posterior = build("MAML", "gaussian", torch.float32)(given.support)
    expected = posterior(given.query.x).mean

    def serve(_: int) -> bool:
        torch.set_num_threads(1)
        draws = posterior.draws(given.query.x, S)
        return draws.batch_shape == (S, B, M) and torch.equal(posterior(given.query.x).mean, expected)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(serve, range(8)))


@pytest.mark.parametrize("name", ["ImplicitMAML", "ABML"])
def test_forward_mode_derivatives_on_two_threads(name: str) -> None:
    """torch keeps one level of them for the whole process: two threads that take some at a time must not meet."""
    given = [episode("gaussian")] * 8
    histories = [
        bm.fit(build(name, "gaussian"), given, steps=4, slices=B, threads=threads, progress=False)  # type: ignore[arg-type]
        for threads in (1, 2)
    ]
    if name == "ImplicitMAML":  # ABML draws random numbers, in the order of its threads
        torch.testing.assert_close(histories[0].losses, histories[1].losses)
    assert len(histories[1].losses) == 4


class Slow(nn.Linear):
    """A layer in which another thread than the main one waits, when told to."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.inside, self.go = Event(), Event()

    def forward(self, x: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            self.inside.set()
            self.go.wait(20)
        return super().forward(x)

    def __deepcopy__(self, memo: dict[int, object]) -> Slow:  # events do not copy
        made = Slow()
        made.load_state_dict(self.state_dict())
        return made


@contextmanager
def asked_meanwhile(learner: bm.Learner, network: Slow) -> Iterator[None]:
    """A thread that is in the middle of an answer, its task's weights far from the learner's."""
    thread = Thread(target=lambda: learner(bm.points([1.0, 2.0], [30.0, 60.0]))([1.0]))
    thread.start()
    network.inside.wait()
    try:
        yield
    finally:
        network.go.set()
        thread.join()


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_files_copies_and_training_have_the_learners_own_weights_while_it_is_asked(
    strategy: bm.functional.Strategy, tmp_path: Path
) -> None:
    network = Slow()
    learner = bm.MAML(network, bm.likelihoods.Gaussian(), steps=1, rate=0.5)
    learner.strategy = strategy
    own = {name: value.clone() for name, value in learner.state_dict().items()}
    other = copy.deepcopy(learner)
    tasks = bm.tasks.Sinusoids(batch=2)
    with asked_meanwhile(learner, network):
        bm.save(learner, tmp_path / "a")
        copied = copy.deepcopy(learner)
        assert all(value.equal(own[name]) for name, value in learner.state_dict().items())
        assert dict(learner.named_parameters())["network.weight"] is network.weight
        history = bm.fit(learner, tasks, steps=2, progress=False)
    fresh = copy.deepcopy(other)
    bm.load(tmp_path / "a", fresh)
    for found in (copied, fresh):
        assert all(value.equal(own[name]) for name, value in found.state_dict().items())
    assert history.losses == bm.fit(other, tasks, steps=2, progress=False).losses
    assert all(value.equal(learner.state_dict()[name]) for name, value in other.state_dict().items())


def test_draws_of_two_requests_differ_while_another_thread_evaluates() -> None:
    tasks = bm.tasks.Sinusoids(noise=0.1, batch=2)
    network = bm.networks.MLP(1, 1)
    posterior = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian())(bm.points([0.0], [0.0]))
    inside, go = Semaphore(0), Semaphore(0)

    def oracle(support: bm.Points) -> bm.Posterior:
        inside.release()
        go.acquire()
        return tasks.oracle(support)

    thread = Thread(target=lambda: [bm.evaluate(oracle, tasks, episodes=1) for _ in range(2)])
    thread.start()
    draws = []
    for _ in range(2):
        inside.acquire()
        draws.append(posterior.draws([1.0], 3).mean)
        go.release()
    thread.join()
    assert not draws[0].equal(draws[1])


def test_what_takes_a_seed_leaves_torchs_generator_alone() -> None:
    tasks, before = bm.tasks.Sinusoids(noise=0.1, batch=2), torch.get_rng_state()
    learner = bm.Ensemble(
        [bm.ABML(bm.networks.MLP(1, 1, hidden=(4,)), bm.likelihoods.Gaussian(), steps=1) for _ in range(2)]
    )
    torch.set_rng_state(before)
    bm.fit(learner, tasks, steps=2, progress=False)
    found = [bm.evaluate(learner, tasks, episodes=2, seed=seed)["NLL"].value for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    bm.Calibrated.from_tasks(learner, tasks, episodes=1)
    bm.Conformal.from_tasks(learner, tasks, episodes=5)
    bm.compare({"ours": learner}, tasks, episodes=1, progress=False)
    bm.evaluation.sbc(learner, tasks, episodes=1)
    assert torch.get_rng_state().equal(before)


@contextmanager
def within_a_pyro_program() -> Iterator[None]:
    """A thread that is in the middle of one: it holds the lock, and its handlers are on Pyro's stack."""
    inside, go = Event(), Event()

    def work() -> None:
        with bm.variational.learner._PYRO, pyro.plate("tasks", 2, dim=-1):  # as in every model
            inside.set()
            go.wait(20)

    thread = Thread(target=work)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        go.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_answers_and_trains_while_a_thread_was_asked() -> None:
    network = Slow()
    learner = bm.MAML(network, bm.likelihoods.Gaussian())
    pyros = bm.ABML(bm.networks.MLP(1, 1, hidden=(4,)), bm.likelihoods.Gaussian(), steps=1, objective=bm.ELBO())
    episode, support = bm.tasks.Sinusoids(batch=2)[0], bm.points([1.0], [1.0])
    expected = pyros.loss(episode).isfinite()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # operations in the child would wait for the others
    try:
        with asked_meanwhile(learner, network), within_a_pyro_program():
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                answered = bool(learner(support)([1.0]).mean.isfinite())
                os._exit(0 if answered and bool(pyros.loss(episode).isfinite()) else 1)
            _, status = os.waitpid(child, 0)
    finally:
        torch.set_num_threads(threads)
    assert expected
    assert status == 0
