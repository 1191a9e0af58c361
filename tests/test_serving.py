"""Learners that several threads ask at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from test_contract import CASES, B, M, S, build, episode
from torch import Tensor, nn

import bayesmeta as bm

REQUESTS = 4
RANDOM = (
    "ABML",
    "PLATIPUS",
    "NP",
    "ANP",
    "VERSA",
    "LEO",
    "PACOH, variational",
    "PACOH-NN",
    "Ensemble",
    "Calibrated",
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
    learner = bm.ADKF(nn.Identity(), ScaleKernel(RBFKernel()), bm.Gaussian())
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
