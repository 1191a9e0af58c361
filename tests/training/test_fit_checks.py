"""What `fit` refuses, before any update or at the episode that is at fault; and what it does not blame on the rate."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel
from tests_support import Blobs
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.randomness import Stream

SCHEDULERS = torch.optim.lr_scheduler


def build() -> bm.MAML:
    torch.manual_seed(0)
    return bm.MAML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian())


def episodes(number: int = 4) -> list[bm.Episode]:
    return [bm.tasks.Sinusoids(batch=4)[index] for index in range(number)]


def fit(learner: bm.Learner, tasks: Any = None, **options: Any) -> bm.training.History:
    return bm.fit(learner, tasks or episodes(), **{"steps": 4, "progress": False, **options})


def weights(learner: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(learner.parameters()).detach().clone()


OPTIONS: dict[str, tuple[Callable[[bm.Learner], dict[str, Any]], str]] = {
    "L-BFGS": (
        lambda it: {"optimizer": torch.optim.LBFGS(it.parameters())},
        "optimizer: expected one whose step() takes a gradient, got LBFGS, whose step needs 'closure'",
    ),
    "an optimizer class": (
        lambda it: {"optimizer": torch.optim.Adam},
        "optimizer: expected an optimizer, got <class 'torch.optim.adam.Adam'>",
    ),
    "seed of 1.5": (lambda it: {"seed": 1.5}, "seed: expected a whole number, got 1.5"),
    "seed of -1": (lambda it: {"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    "seed of None": (lambda it: {"seed": None}, "seed: expected a whole number, got None"),
    "steps of a text": (lambda it: {"steps": "100"}, "steps: expected a whole number, got '100'"),
    "checkpoint_every of 1.5": (
        lambda it: {"checkpoint_every": 1.5},
        "checkpoint_every: expected a whole number, got 1.5",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_refuses_arguments_before_any_update(name: str) -> None:
    options, message = OPTIONS[name]
    learner = build()
    before = weights(learner)
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fit(learner, **options(learner))
    assert torch.equal(weights(learner), before)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            SCHEDULERS.ReduceLROnPlateau,
            "scheduler: expected one that depends on the number of steps alone, got ReduceLROnPlateau",
        ),
        (lambda optimizer: SCHEDULERS.StepLR, "scheduler: expected one of torch.optim.lr_scheduler, got <class"),
        (
            lambda optimizer: SCHEDULERS.StepLR(torch.optim.Adam([torch.zeros(1)]), 1),
            "scheduler: expected the scheduler of the given optimizer, got another's",
        ),
    ],
)
def test_refuses_schedulers_before_any_update(schedule: Callable[[Any], Any], message: str) -> None:
    learner = build()
    before = weights(learner)
    optimizer = torch.optim.Adam(learner.parameters())
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fit(learner, optimizer=optimizer, scheduler=schedule(optimizer))
    assert torch.equal(weights(learner), before)


def test_closures_are_asked_for_behind_a_scheduler_too() -> None:
    """Schedulers wrap the optimiser's own step."""
    learner = build()
    optimizer = torch.optim.LBFGS(learner.parameters())
    with pytest.raises(ValueError, match="got LBFGS"):
        fit(learner, optimizer=optimizer, scheduler=SCHEDULERS.StepLR(optimizer, 1))
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
    assert len(fit(learner, optimizer=optimizer, scheduler=SCHEDULERS.StepLR(optimizer, 1)).losses) == 4


def test_seeds_are_whole_numbers_of_any_size() -> None:
    seeds = [(seed, rank) for seed in (0, 1, 2**32, 2**32 + 1, 2**64, np.int64(7)) for rank in range(3)]
    drawn = {Stream(*seed).on(torch.device("cpu")).initial_seed() for seed in seeds}
    assert len(drawn) == 18
    assert len(fit(build(), seed=2**64).losses) == 4


def test_the_stream_is_not_that_of_the_initial_weights() -> None:
    """`torch.manual_seed(0)` and ``fit(seed=0)`` are what most programs say."""
    drawn: list[Tensor] = []

    class Drawing(bm.Learner):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build()

        def forward(self, support: bm.Points) -> bm.Posterior:
            return self.inner(support)

        def loss(self, episode: bm.Episode) -> Tensor:
            drawn.append(torch.randn(5))
            return self.inner.loss(episode)

    for _ in range(2):
        fit(Drawing(), steps=1, seed=0)
    torch.manual_seed(0)
    first = torch.randn(5)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], first)


def changed(part: str, **fields: Any) -> list[bm.Episode]:
    """Four episodes, the third of which is at fault."""
    given = episodes()
    given[2] = given[2]._replace(**{part: getattr(given[2], part)._replace(**fields)})
    return given


def cut(part: str, tasks: int) -> list[bm.Episode]:
    points = getattr(episodes()[2], part)
    return changed(part, x=points.x[:tasks], y=points.y[:tasks], mask=points.mask[:tasks])


NOBODY = episodes()[2].query.mask.clone()
NOBODY[1] = False


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (changed("query", mask=NOBODY), "query: expected at least one point a task, got none in task 1"),
        (cut("query", 2), "expected as many tasks in support and query, got 4 and 2"),
        (cut("support", 2), "expected as many tasks in support and query, got 2 and 4"),
        (changed("support", y=torch.zeros(4, 3, 1)), "support.y: expected shape (B, N, ...) = (4, 5, ...)"),
        (changed("query", mask=NOBODY.float()), "query.mask: expected a bool tensor (B, N)"),
        *(
            (
                changed(part, y=y),
                f"{part}.y: expected numbers of 1 dimensions a point, as in the first episode, got {got}",
            )
            for part, points in (("support", 5), ("query", 15))
            for y, got in (
                (torch.zeros(4, points, 1).long(), "labels of 1 dimensions a point, torch.int64"),
                (torch.zeros(4, points).long(), "labels of 0 dimensions a point, torch.int64"),
                (torch.zeros(4, points), "numbers of 0 dimensions a point, torch.float32"),
            )
        ),
    ],
)
@pytest.mark.parametrize("slices", [1, 2])
def test_a_later_episode_at_fault_is_named(tasks: list[bm.Episode], message: str, slices: int) -> None:
    """The learner is as after the steps before it. Slices would cut what is too long in silence."""
    learner, reference = build(), build()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in (learner, reference)]
    with pytest.raises(ValueError, match=re.escape(f"episode 2: {message}")):
        fit(learner, tasks, optimizer=optimizers[0], slices=slices)
    fit(reference, steps=2, optimizer=optimizers[1], slices=slices)
    assert torch.equal(weights(learner), weights(reference))


@pytest.mark.parametrize("part", ["support", "query"])
@pytest.mark.parametrize("index", [0, 2])
def test_numbers_are_no_labels_nor_labels_numbers_in_any_episode(part: str, index: int) -> None:
    classes = bm.PrototypicalNetwork(nn.Linear(2, 2), classes=3)
    dkt = bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian())
    for learner, source in ((classes, Blobs()), (dkt, bm.tasks.Sinusoids(batch=4))):
        given = [source[i] for i in range(4)]
        points = getattr(given[index], part)
        other = points.y.abs().long() if points.y.is_floating_point() else points.y.float()
        given[index] = given[index]._replace(**{part: points._replace(y=other)})
        with pytest.raises(ValueError, match=r"y: expected .*labels.*build the points|support.y: expected labels of 0"):
            fit(learner, given)
        if part == "query":
            with pytest.raises(ValueError, match=r"y: expected .*build the points with points\(x, y"):
                bm.evaluate(learner, given, episodes=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["support", "query"])
@pytest.mark.parametrize("field", ["x", "y"])
def test_data_that_are_not_finite_are_not_blamed_on_the_rate(part: str, field: str) -> None:
    values = getattr(getattr(episodes()[2], part), field).clone()
    values[1, 3] = torch.nan
    message = f"step 2: the data of episode 2 are at fault: {part}.{field}: expected finite numbers, got NaN or infinity at task "
    with pytest.raises(bm.training.Diverged, match=re.escape(message + "1, point 3")) as error:
        fit(build(), changed(part, **{field: values}))
    assert "rate" not in str(error.value)
    assert len(error.value.history.losses) == 2


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_off(off: Callable[[], Any]) -> None:
    learner, other, reference = build(), build(), build()
    with off():
        given = episodes()
        history = fit(learner, given)
        threaded = fit(other, given, slices=4, threads=2)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (off is torch.inference_mode)
    expected = fit(reference)
    assert history.losses == expected.losses
    np.testing.assert_allclose(threaded.losses, expected.losses, rtol=1e-5)
    assert torch.equal(weights(learner), weights(reference))
    assert not any(p.is_inference() for p in learner.parameters())


def test_parameters_that_can_have_no_gradient_are_refused() -> None:
    with torch.inference_mode():
        learner = build()
        with pytest.raises(
            ValueError, match=r"learner: expected parameters that can be trained, got 'network.*build the learner"
        ):
            fit(learner)
