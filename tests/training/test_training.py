"""fit and evaluate: what they promise about learning, failing, stopping, memory of the past, and global state."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode
from bayesmeta.metrics import Metric


def learner(rate: float = 0.05) -> bm.MAML:
    torch.manual_seed(0)
    return bm.MAML(bm.networks.MLP(1, 1, hidden=(16,), activation=nn.Tanh), bm.likelihoods.Gaussian(), rate=rate)


TASKS = bm.tasks.LinearGaussian(batch=8)


def test_fit_learns() -> None:
    trained = learner()
    before = bm.evaluate(trained, TASKS, episodes=10)["NLL"]
    history = bm.fit(trained, TASKS, steps=150, progress=False)
    after = bm.evaluate(trained, TASKS, episodes=10)["NLL"]
    assert after.high < before.low
    assert len(history.losses) == len(history.gradient_norms) == 150
    assert history.seconds > 0
    assert not history.interrupted
    assert repr(history).startswith("History(steps=150, last_loss=")
    assert len(repr(history)) < 120


def test_fit_follows_the_sources_indices() -> None:
    class Recorder(bm.tasks.LinearGaussian):  # type: ignore[misc]
        seen: ClassVar[list[int]] = []

        def __getitem__(self, index: int) -> Episode:
            self.seen.append(index)
            return super().__getitem__(index)

    tasks = Recorder(batch=2, length=3)
    bm.fit(learner(), tasks, steps=5, progress=False)
    assert tasks.seen == [0, 0, 1, 2, 0, 1]  # the first is the check before training


def test_slices_give_the_same_gradients() -> None:
    weights = []
    for slices in (1, 2, 8):
        trained = learner().double()
        history = bm.fit(trained, TASKS, steps=3, slices=slices, progress=False)
        weights.append((history.losses, nn.utils.parameters_to_vector(trained.parameters())))
    for losses, vector in weights[1:]:
        np.testing.assert_allclose(losses, weights[0][0], rtol=1e-12)
        torch.testing.assert_close(vector, weights[0][1], rtol=1e-9, atol=1e-12)


def test_the_number_of_threads_changes_no_number() -> None:
    results = []
    intra_op = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.manual_seed(0)
        network = bm.networks.Conv4(outputs=5, width=8)
        trained = bm.MAML(network, bm.likelihoods.Categorical(), rate=0.1)
        generator = torch.Generator().manual_seed(0)
        x, y = torch.rand(6, 5, 1, 28, 28, generator=generator), torch.arange(5).repeat(6, 1)
        points = bm.Points(x, y, torch.ones(6, 5, dtype=torch.bool))
        history = bm.fit(trained, [Episode(points, points)] * 2, steps=2, slices=6, threads=threads, progress=False)  # type: ignore[arg-type]
        results.append((history.losses, nn.utils.parameters_to_vector(trained.parameters())))
        assert torch.get_num_threads() == intra_op
    for losses, vector in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-6)
        torch.testing.assert_close(vector, results[0][1])


def test_refuses_slices_that_do_not_divide_a_later_episode() -> None:
    """Else some of its tasks would be left out in silence."""
    episodes = [bm.tasks.LinearGaussian(batch=batch)[0] for batch in (8, 6)]
    with pytest.raises(ValueError, match="slices: expected a divisor of the 6 tasks in an episode, got 4"):
        bm.fit(learner(), episodes, steps=2, slices=4, progress=False)  # type: ignore[arg-type]


def test_clips_the_meta_gradient() -> None:
    trained = learner()
    start = nn.utils.parameters_to_vector(trained.parameters()).detach().clone()
    history = bm.fit(
        trained, TASKS, steps=1, optimizer=torch.optim.SGD(trained.parameters(), 1.0), clip=0.01, progress=False
    )
    moved = (nn.utils.parameters_to_vector(trained.parameters()).detach() - start).norm().item()
    assert history.gradient_norms[0] > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)


class Poisoned(bm.Learner):
    """A learner whose loss or gradient is not finite from a given step on."""

    def __init__(self, at: int, gradient_only: bool) -> None:
        super().__init__()
        self.inner = learner()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.at, self.gradient_only, self.calls = at, gradient_only, 0

    def forward(self, support: bm.Points) -> bm.Posterior:
        return self.inner(support)

    def loss(self, episode: Episode) -> Tensor:
        self.calls += 1
        loss = self.inner.loss(episode)
        if self.calls <= self.at:
            return loss
        if self.gradient_only:  # the square root of zero has an infinite slope and a finite value
            return loss + (self.scale - self.scale.detach()).sqrt()
        return loss * torch.nan


@pytest.mark.parametrize(
    ("gradient_only", "message"), [(False, "step 3: the loss is nan"), (True, "step 3.*parameter 'scale'")]
)
def test_stops_at_the_first_non_finite_number_and_leaves_the_learner(gradient_only: bool, message: str) -> None:
    poisoned = Poisoned(3, gradient_only)
    reference = Poisoned(99, gradient_only)
    bm.fit(reference, TASKS, steps=3, optimizer=torch.optim.Adam(reference.parameters()), progress=False)
    with pytest.raises(bm.training.Diverged, match=message) as error:
        bm.fit(poisoned, TASKS, steps=10, optimizer=torch.optim.Adam(poisoned.parameters()), progress=False)
    assert len(error.value.history.losses) == 3
    for ours, theirs in zip(poisoned.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_names_the_parameter_that_is_not_finite() -> None:
    broken = learner()
    broken.network.head.bias.data.fill_(torch.inf)
    with pytest.raises(
        bm.training.Diverged, match=r"step 0: parameter 'network\.head\.bias' is not finite.*Standardized"
    ):
        bm.fit(broken, TASKS, steps=1, progress=False)


class Interrupting(bm.tasks.LinearGaussian):  # type: ignore[misc]
    """Sends Ctrl-C to the process while episode 2 is read."""

    def __getitem__(self, index: int) -> Episode:
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_ctrl_c_ends_after_the_step_in_hand_and_returns_the_history() -> None:
    trained, reference = learner(), learner()
    handler = signal.getsignal(signal.SIGINT)
    optimizers = [torch.optim.Adam(model.parameters()) for model in (trained, reference)]
    history = bm.fit(trained, Interrupting(batch=8), steps=10, optimizer=optimizers[0], progress=False)
    assert history.interrupted
    assert len(history.losses) == 3
    bm.fit(reference, TASKS, steps=3, optimizer=optimizers[1], progress=False)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), reference.parameters(), strict=True))
    assert signal.getsignal(signal.SIGINT) is handler
    trained(TASKS[0].support)(TASKS[0].query.x)


def test_threads_may_share_a_learner() -> None:
    """Functional calls swap a module's parameters while they run: one thread's must not be seen by another."""
    shared = learner()
    x = torch.linspace(-1, 1, 7)
    supports = [bm.points(torch.randn(5), torch.randn(5) + 3 * k) for k in range(4)]
    expected = [shared(support)(x).mean for support in supports]

    def predict(k: int) -> bool:
        return all(torch.equal(shared(supports[k])(x).mean, expected[k]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(predict, range(4)))


def test_works_outside_the_main_thread() -> None:
    histories: list[bm.training.History] = []
    thread = threading.Thread(target=lambda: histories.append(bm.fit(learner(), TASKS, steps=2, progress=False)))
    thread.start()
    thread.join()
    assert len(histories[0].losses) == 2


def test_fit_and_evaluate_leave_random_state_and_mode_alone() -> None:
    trained = learner()
    state = torch.get_rng_state()
    bm.fit(trained, TASKS, steps=2, progress=False)
    trained.eval()
    bm.evaluate(trained, TASKS, episodes=2)
    assert torch.equal(state, torch.get_rng_state())
    assert not trained.training
    assert all(p.grad is None for p in trained.parameters())


class Modes(bm.Learner):
    """Records in which mode its parts are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.kept = learner(), nn.Dropout()
        self.seen: set[tuple[bool, bool]] = set()

    def forward(self, support: bm.Points) -> bm.Posterior:
        return self.inner(support)

    def loss(self, episode: Episode) -> Tensor:
        self.seen.add((self.training, self.kept.training))
        return self.inner.loss(episode)


def test_fit_leaves_a_learner_that_is_ready_to_answer() -> None:
    """It trains in training mode whatever it finds, but for parts that the user keeps in evaluation mode."""
    fresh, served, frozen, diverged = Modes(), Modes().eval(), Modes(), Modes()
    frozen.kept.eval()
    for trained, modes in ((fresh, (True, True)), (served, (True, True)), (frozen, (True, False))):
        bm.fit(trained, TASKS, steps=1, progress=False)
        assert trained.seen == {modes}
        assert not any(part.training for part in trained.modules())
    diverged.inner.likelihood.log_scale.data.fill_(torch.inf)
    with pytest.raises(bm.training.Diverged):
        bm.fit(diverged, TASKS, steps=1, progress=False)
    assert not diverged.training


def test_a_default_device_changes_no_bit() -> None:
    class Line(bm.Learner):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.ones(1))

        def forward(self, support: bm.Points) -> Any:
            return lambda x: torch.distributions.Independent(
                torch.distributions.Normal(self.slope * x, self.slope.exp(), validate_args=False), 1
            )

    results = []
    for device in ("cpu", "meta"):
        lines, given = [Line(), Line()], [TASKS[index] for index in range(3)]
        with torch.device(device):
            for line, threads in zip(lines, (1, 2), strict=True):
                bm.fit(line, given, steps=3, slices=4, threads=threads, progress=False)  # type: ignore[arg-type]
        results.append([line.slope.item() for line in lines])
    assert results[0] == results[1]


def test_threads_go_on_in_the_callers_context() -> None:
    """A generator that is set for a context is that of all threads of `fit` within."""
    context: ContextVar[int] = ContextVar("context", default=0)
    seen: set[int] = set()

    class Asking(Modes):
        def loss(self, episode: Episode) -> Tensor:
            seen.add(context.get())
            return super().loss(episode)

    token = context.set(7)
    try:
        bm.fit(Asking(), TASKS, steps=2, slices=8, threads=2, progress=False)
    finally:
        context.reset(token)
    assert seen == {7}


def test_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    bm.fit(learner(), TASKS, steps=2)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss" in shown
    assert "tasks/s" in shown


@pytest.mark.parametrize("batch", [None, 3])
def test_evaluate_counts_a_task_once(batch: int | None) -> None:
    """Dividing the same tasks again must not narrow the interval as new tasks would."""

    class Count(Metric):
        def statistic(self, distribution: torch.distributions.Distribution, given: bm.Points) -> Tensor:
            return torch.ones(len(given.mask), 1)

        def reduce(self, sums: Tensor) -> Tensor:
            return sums[..., 0]

    tasks = bm.tasks_from_arrays(np.arange(20.0), np.arange(20.0), np.arange(20) // 4, shots=2, batch=batch)
    if batch is None:
        estimate = bm.evaluate(learner(), tasks, episodes=3, metrics=[Count()])["Count"]
        assert estimate == (15.0, 15.0, 15.0)  # 5 rows of 3, in every resample
    one, many = (bm.evaluate(learner(), tasks, episodes=n)["NLL"] for n in (5, 100))
    assert many.high - many.low > 0.3 * (one.high - one.low)


@pytest.mark.parametrize(
    ("network", "strategy", "line"),
    [
        (
            bm.networks.MLP(1, 1),
            "auto",
            'mapped by vmap, since it has no convolutions; learner.strategy = "loop" overrides',
        ),
        (bm.networks.Conv4(width=8), "auto", "mapped by loop, since a CPU has no fast convolution"),
        (bm.networks.Conv4(width=8), "vmap", "mapped by vmap, as learner.strategy says"),
    ],
)
def test_fit_says_how_tasks_are_mapped(
    network: nn.Module, strategy: bm.functional.Strategy, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = isinstance(network, bm.networks.Conv4)
    inner = bm.MAML(network, bm.likelihoods.Categorical() if images else bm.likelihoods.Gaussian())
    inner.strategy = strategy
    generator = torch.Generator().manual_seed(0)
    tasks: list[Episode] = [bm.tasks.Sinusoids(batch=2)[0]]
    if images:
        part = bm.Points(
            torch.rand(2, 5, 1, 28, 28, generator=generator), torch.arange(5).repeat(2, 1), torch.ones(2, 5) > 0
        )
        tasks = [Episode(part, part)]
    bm.fit(inner, tasks, steps=1)  # type: ignore[arg-type]
    assert line in capsys.readouterr().err


class Transposed(nn.Linear):
    """Whose weight has a gradient of other strides than its own."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.einsum("oi,...i->...o", self.weight, input) + self.bias


def test_fused_optimisers_move_the_right_weights_whatever_the_layout_of_a_gradient() -> None:
    """They read the memory of a gradient in the order of the parameter's: runs must be those of the plain optimiser."""
    runs = []
    for fused in (False, True):
        torch.manual_seed(0)
        features = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), Transposed(8, 4), nn.Tanh())
        learner = bm.ALPaCA(features, nn.Linear(4, 1), bm.likelihoods.Gaussian())
        weight = features[2].weight
        slope = torch.autograd.grad(features(torch.ones(3, 1)).sum(), weight)[0]
        assert slope.stride() != weight.stride()
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.1, fused=fused)
        bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=3, optimizer=optimizer, progress=False)
        runs.append(learner.state_dict())
    torch.testing.assert_close(runs[1], runs[0])
