"""Several processes give the numbers of one, and outlive each other.

Run as a program, this file is one of the processes.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import test_contract as contract
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor
from torch.utils._pytree import tree_map

import bayesmeta as bm
from bayesmeta.files import alone
from bayesmeta.training import checkpoint
from bayesmeta.training.gradient import MetaGradient
from bayesmeta.training.processes import Processes

STEPS, FILE = 8, "checkpoint.bayesmeta"
DIFFERENT = {
    "rate": r"optimizer\.param_groups\[0\]\.lr 0\.1 in process 0 and 0\.2 in process 1; build",
    "steps": "steps 3 in process 0 and 4 in process 1",
    "seed": "seed 0 in process 0 and 1 in process 1",
    "data": "the first episode '.*' in process 0",
    "batch": "the first episode '.*' in process 0",
    "frozen": r"requires_grad of network\.head\.bias True in process 0 and False in process 1",
}
CASES = {case.id: case.values for case in contract.CASES}


def build(kind: str) -> bm.Learner:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(8,))
    return (
        bm.ABML(network, bm.likelihoods.Gaussian(), steps=2)
        if kind == "ABML"
        else bm.MAML(network, bm.likelihoods.Gaussian())
    ).double()


def run(kind: str, fabric: Fabric | None, tasks: Any = None, **options: Any) -> list[Tensor]:
    """The weights at the end of a run, and its losses."""
    learner = build(kind)
    tasks = tasks or bm.tasks.Sinusoids(batch=4)
    history = bm.fit(learner, tasks, steps=STEPS, fabric=fabric, progress=False, checkpoint_every=2, **options)
    return [*learner.state_dict().values(), torch.tensor(history.losses, dtype=torch.float64)]


def gradient(name: str, likelihood: str, fabric: Fabric | None = None) -> tuple[Tensor, Tensor]:
    """The loss and meta-gradient of four tasks with gaps, from the same draws whatever the number of processes."""
    processes, learner = Processes(fabric), contract.build(name, likelihood)
    with torch.no_grad():
        for value in learner.state_dict().values():
            value.add_(processes.rank)  # which the first process's weights replace
    processes.place(learner)
    episode = tree_map(lambda leaf: torch.cat([leaf, leaf[:1]]), contract.episode(likelihood))
    episode.support.mask[1, -1] = episode.query.mask[2, 0] = False
    meta_gradient = MetaGradient(learner, list(learner.parameters()), slices=1, threads=1)
    torch.manual_seed(3)
    loss, slopes, _ = processes.mean(*meta_gradient(processes.share(episode)), False, meta_gradient.parameters)
    return loss, torch.cat([slope.flatten() for slope in slopes if slope is not None])


def refusal(kind: str, fabric: Fabric, tasks: Any = None, **options: Any) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        run(kind, fabric, tasks, **options)
    return str(error.value)


def apart(field: str, rank: int) -> str:
    """What the processes say where one thing of their runs differs."""
    learner = build("MAML")
    if field == "frozen":
        learner.network.head.bias.requires_grad_(not rank)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1 + 0.1 * rank * (field == "rate"))
    options: dict[str, Any] = {"steps": 3 + rank * (field == "steps"), "seed": rank * (field == "seed")}
    tasks = bm.tasks.Sinusoids(batch=4 + 2 * rank * (field == "batch"), seed=rank * (field == "data"))
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    with pytest.raises(ValueError, match="fabric: expected the same run in all processes") as error:
        bm.fit(learner, tasks, optimizer=optimizer, fabric=fabric, progress=False, **options)
    return str(error.value)


class Sided(bm.Learner):
    """A learner that uses one parameter only for tasks of positive targets, and another for none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("MAML")
        self.some = torch.nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))
        self.never = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, support: bm.Points) -> bm.Posterior:
        return self.inner(support)

    def loss(self, episode: bm.Episode) -> Tensor:
        loss = self.inner.loss(episode)
        return loss + self.some.square().sum() if bool(episode.query.y.max() > 0) else loss


def validated(fabric: Fabric | None) -> tuple[list[Tensor], dict[int, float], int]:
    """The weights and the NLLs of a run with validation tasks, and how often this process called back."""
    learner, calls = build("ABML"), []
    validation = bm.tasks.Sinusoids(batch=4, seed=1, length=2)
    options: dict[str, Any] = {"validation": validation, "validate_every": 3, "on_step": calls.append}
    history = bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=STEPS, fabric=fabric, progress=False, **options)
    return [*learner.state_dict().values()], history.validation, len(calls)


def sided(fabric: Fabric | None, slices: int) -> list[Tensor]:
    """The weights after steps on two tasks of negative and two of positive targets, under a decay that moves zeros too."""
    learner = Sided()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(1, 6, 1).expand(4, 6, 1)
    y = torch.tensor([-1.0, -2.0, 1.0, 2.0], dtype=torch.float64)[:, None, None].expand(4, 6, 1)
    part = bm.Points(x, y, torch.ones(4, 6, dtype=torch.bool))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.01, weight_decay=0.1)
    tasks: Any = [bm.Episode(part, part)]
    bm.fit(learner, tasks, steps=3, optimizer=optimizer, slices=slices, fabric=fabric, progress=False)
    return [value.detach() for value in learner.state_dict().values()]


def held(fabric: Fabric, folder: Path) -> str:
    """What the processes say where another run holds the folder."""
    folder.mkdir(exist_ok=True)
    with alone(folder) if fabric.global_rank == 0 else nullcontext():
        fabric.barrier()
        return refusal("MAML", fabric, checkpoint=folder)


def late(fabric: Fabric) -> str:
    """What a process says of another that takes too long; it is the end of their connection."""
    processes = Processes(fabric)
    processes.agree(0)
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    if fabric.global_rank == 1:
        time.sleep(4)
    with pytest.raises((TimeoutError, ConnectionError)) as error:
        processes.agree(1)
    return f"{type(error.value).__name__}: {error.value}"


class Dying(torch.utils.data.Dataset[bm.Episode]):
    """Sinusoids whose episode 5 sends a signal to one of the processes."""

    def __init__(self, rank: int, number: signal.Signals) -> None:
        self.tasks, self.rank, self.number = bm.tasks.Sinusoids(batch=4), rank, number

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> bm.Episode:
        if index == 5 and int(os.environ["LOCAL_RANK"]) == self.rank:
            os.kill(os.getpid(), self.number)
        return self.tasks[index]


def left() -> None:
    """Fails the process whose threads of torch.distributed still run when the interpreter shuts down: some of them abort."""
    if torch.distributed.is_initialized():
        os._exit(3)


def work(job: str, folder: Path) -> None:
    """What each of two processes does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background would hand on that it is ignored
    atexit.register(left)  # before fit's own, so it is called after that
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    if job == "numbers":
        results: dict[str, Any] = {name: gradient(*case, fabric) for name, case in CASES.items()}
        results |= {kind: run(kind, fabric, checkpoint=folder / kind) for kind in ("MAML", "ABML")}
        run("ABML", fabric, Dying(1, signal.SIGINT), checkpoint=folder / "interrupted")
        results["interrupted"] = checkpoint.read(folder / "interrupted" / FILE, "checkpoint")["losses"]
        results["resumed"] = run("ABML", fabric, checkpoint=folder / "interrupted")
        even, odd = (bm.tasks.Sinusoids(batch=batch)[0] for batch in (4, 3))
        results["odd"] = [refusal("MAML", fabric, tasks) for tasks in ([odd], [even, odd])]
        results["apart"] = refusal("ABML", fabric, checkpoint=folder / ["ABML", "elsewhere"][fabric.global_rank])
        results["differ"] = {field: apart(field, fabric.global_rank) for field in DIFFERENT}
        results["sided"] = sided(fabric, 1)
        results["validated"] = validated(fabric)
        results["held"] = held(fabric, folder / "held")
        results["late"] = late(fabric)
        torch.save(results, folder / f"numbers {fabric.global_rank}")
    elif job == "resumed":
        torch.save(run("ABML", fabric, checkpoint=folder), folder / f"resumed {fabric.global_rank}")
    else:
        run("ABML", fabric, Dying(int(job), signal.SIGKILL), checkpoint=folder)


def two(job: str, folder: Path, ends_first: int = 0) -> list[tuple[int, str]]:
    """Both processes' return codes and last words. Gloo itself would wait for half an hour."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, job, str(folder)],
            env={**os.environ, **shared, "PYTHONPATH": os.pathsep.join(sys.path), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = {}
    try:
        for rank in (ends_first, 1 - ends_first):
            words = processes[rank].communicate(timeout=20 if ended else 200)[1]
            ended[rank] = processes[rank].returncode, words
    finally:
        for process in processes:
            process.kill()
    return [ended[rank] for rank in range(2)]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("numbers")
    ended = two("numbers", folder)
    assert [code for code, _ in ended] == [0, 0], ended
    return [torch.load(folder / f"numbers {rank}") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_meta_gradient_of_one(numbers: list[dict[str, Any]], case: str) -> None:
    loss, expected = gradient(*CASES[case])
    for results in numbers:
        assert (results[case][1] - expected).norm() <= 1e-6 * expected.norm()
        torch.testing.assert_close(results[case][0], loss)


def test_two_processes_train_as_one(numbers: list[dict[str, Any]]) -> None:
    """And a run that one process's Ctrl-C ended goes on to the same bits, whose draws each process has of its own."""
    torch.testing.assert_close(numbers[0]["MAML"], run("MAML", None))
    for kind in ("MAML", "ABML"):
        assert equal(numbers[0][kind], numbers[1][kind])
    for results in numbers:
        assert len(results["interrupted"]) == 6
        assert equal(results["resumed"], results["ABML"])


def test_refuses_tasks_that_the_processes_do_not_divide(numbers: list[dict[str, Any]]) -> None:
    """In a later episode too: else some of its tasks would be left out in silence."""
    expected = "fabric: expected a number of processes that divides the 3 tasks in an episode, got 2; e.g. batch=4"
    assert [results["odd"] for results in numbers] == [[expected, expected]] * 2


def test_refuses_folders_that_not_all_processes_see(numbers: list[dict[str, Any]]) -> None:
    """Else they would average gradients of different steps."""
    for results in numbers:
        assert "expected one folder that all processes see, got runs at the steps [8, 0]" in results["apart"]


@pytest.mark.parametrize("field", DIFFERENT)
def test_refuses_processes_whose_runs_differ(numbers: list[dict[str, Any]], field: str) -> None:
    """Else they end with different weights, or one waits for steps that the other does not take."""
    expected = f"fabric: expected the same run in all processes, got {DIFFERENT[field]}"
    for results in numbers:
        assert re.match(expected, results["differ"][field]), results["differ"][field]


def test_a_parameter_that_one_process_uses_alone(numbers: list[dict[str, Any]]) -> None:
    """Is zero in the other's gradient; one that none uses has no gradient, and is not decayed."""
    expected = sided(None, 2)
    for results in numbers:
        torch.testing.assert_close(results["sided"], expected)
    assert torch.equal(numbers[0]["sided"][1], torch.ones(2, dtype=torch.float64))


def test_processes_keep_the_same_best_state(numbers: list[dict[str, Any]]) -> None:
    """Before the first step the NLL is that of one process; the first one alone calls back."""
    (first, seen, calls), (second, same, none) = (results["validated"] for results in numbers)
    assert equal(first, second)
    assert seen == same
    assert list(seen) == [0, 3, 6, 8]
    assert seen[0] == validated(None)[1][0]
    assert (calls, none) == (STEPS, 0)


def test_no_process_waits_for_one_that_cannot_begin(numbers: list[dict[str, Any]]) -> None:
    assert "checkpoint: expected a folder that no other run uses" in numbers[0]["held"]
    assert "checkpoint: expected all processes to begin, got an error in process 0" in numbers[1]["held"]


def test_a_slow_process_is_not_called_dead(numbers: list[dict[str, Any]]) -> None:
    """But the one that waited is, by the slow one: it has ended their connection."""
    slow, ended = (results["late"] for results in numbers)
    assert slow.startswith(
        "TimeoutError: fabric: process 0 waited for another of the 2 for longer than the fabric allows"
    )
    assert "Fabric(strategy=DDPStrategy(timeout=timedelta(hours=2))" in slow
    assert ended.startswith("ConnectionError: fabric: another of the 2 processes has ended, so process 1 stops too")


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_outlives_another_and_the_run_goes_on(
    numbers: list[dict[str, Any]], tmp_path: Path, rank: int
) -> None:
    ended = two(str(rank), tmp_path, ends_first=rank)
    assert ended[rank][0] == -signal.SIGKILL
    code, words = ended[1 - rank]
    assert code == 1
    assert f"ConnectionError: fabric: another of the 2 processes has ended, so process {1 - rank} stops too" in words
    assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == 4
    assert [code for code, _ in two("resumed", tmp_path)] == [0, 0]
    for process, results in enumerate(numbers):
        assert equal(torch.load(tmp_path / f"resumed {process}"), results["ABML"])


def test_a_fabric_of_one_process_changes_no_bit() -> None:
    assert equal(run("ABML", Fabric(accelerator="cpu", devices=1)), run("ABML", None))


def test_refuses_what_is_no_fabric_and_what_would_need_scaling() -> None:
    for wrong, named in (("ddp", "str"), (Fabric, "the class Fabric")):
        with pytest.raises(TypeError, match=f"fabric: expected a lightning_fabric.Fabric, got {named}"):
            bm.fit(build("MAML"), bm.tasks.Sinusoids(), steps=1, fabric=wrong)
    half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="without gradient scaling, got '16-mixed'; use 'bf16-mixed'"):
        bm.fit(build("MAML"), bm.tasks.Sinusoids(), steps=1, fabric=Fabric(accelerator="cpu", devices=1, plugins=half))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]])
def test_the_example_runs(tmp_path: Path, launcher: list[str]) -> None:
    example = Path(__file__).parents[2] / "examples" / "distributed.py"
    command = [sys.executable, *launcher, str(example), "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("| 0/20 [") == 1  # a bar
    assert ended.stdout.count("RMSE") == 1
    assert "Warning" not in ended.stderr
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    assert left == {Path("distributed_run") / FILE, Path("distributed.png")}


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
