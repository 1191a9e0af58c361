"""Runs that survive interruption, and files that are whole or refused."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta import checkpoint
from bayesmeta.posteriors import Transformed

FILE = "checkpoint.bayesmeta"


def build(kind: str = "ABML") -> bm.Learner:
    torch.manual_seed(0)
    network = bm.MLP(1, 1, hidden=(8,))
    return bm.ABML(network, bm.Gaussian(), steps=2) if kind == "ABML" else bm.MAML(network, bm.Gaussian())


class Stopping(torch.utils.data.Dataset[bm.Episode]):
    """Sinusoids that raise a signal, or an error, while one of the episodes is drawn."""

    def __init__(self, index: int, number: signal.Signals | None) -> None:
        self.tasks, self.index, self.number = bm.Sinusoids(batch=4), index, number

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> bm.Episode:
        if index == self.index:
            if self.number is None:
                raise RuntimeError("power cut")
            signal.raise_signal(self.number)
        return self.tasks[index]


def same(first: bm.Learner, second: bm.Learner) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class TestResume:
    @pytest.mark.parametrize("number", [signal.SIGINT, None])
    def test_the_end_has_the_same_bits(self, tmp_path: Path, number: signal.Signals | None) -> None:
        """ABML draws random numbers in each step, so the generator's state counts too."""
        whole, parts = build(), build()
        expected = bm.fit(whole, bm.Sinusoids(batch=4), steps=12, progress=False)
        options: dict[str, Any] = {"steps": 12, "progress": False, "checkpoint": tmp_path, "checkpoint_every": 4}
        if number is None:
            with pytest.raises(RuntimeError, match="power cut"):
                bm.fit(parts, Stopping(6, None), **options)
            parts, wanted = build(), 4  # as after a restart of the process: the last checkpoint is at step 4
        else:
            assert bm.fit(parts, Stopping(6, number), **options).interrupted
            parts, wanted = build(), 7  # the step in hand was finished
        assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == wanted
        history = bm.fit(parts, bm.Sinusoids(batch=4), **options)
        assert not history.interrupted
        assert history.losses == expected.losses
        assert same(whole, parts)
        again = build()
        assert bm.fit(again, bm.Sinusoids(batch=4), **options).losses == expected.losses  # a finished run is only read
        assert same(whole, again)

    def test_what_happened_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        kept = f"interrupted after step 7 of 12: the same call goes on from there, with {tmp_path}"
        for options, line in (({}, "step 7 of 12: no checkpoint was asked for"), ({"checkpoint": tmp_path}, kept)):
            bm.fit(build(), Stopping(6, signal.SIGINT), steps=12, **options)
            assert line in capsys.readouterr().err
        bm.fit(build(), bm.Sinusoids(batch=4), steps=12, checkpoint=tmp_path)
        said = capsys.readouterr().err
        assert f"goes on after step 7 of 12, which {tmp_path} holds" in said
        assert "12/12" in said

    def test_sigterm_writes_and_ends_the_process(self, tmp_path: Path) -> None:
        program = f"""
import signal, torch, bayesmeta as bm
torch.manual_seed(0)
learner = bm.ABML(bm.MLP(1, 1, hidden=(8,)), bm.Gaussian(), steps=2)
tasks = bm.Sinusoids(batch=4)
class Stopping:
    def __len__(self): return len(tasks)
    def __getitem__(self, index):
        if index == 3: signal.raise_signal(signal.SIGTERM)
        return tasks[index]
bm.fit(learner, Stopping(), steps=12, progress=False, checkpoint={str(tmp_path)!r})
print("went on")
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert ended.returncode == -signal.SIGTERM
        assert "went on" not in ended.stdout
        assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == 4

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"steps": 13}, "whose steps is 3"),
            ({"seed": 1}, "whose seed is 0"),
            ({"clip": None}, "whose clip is 1.0"),
            ({"learner": "MAML"}, "whose learner is 'ABML'"),
            ({"clamp": 5.0}, "whose learner.clamp is 10.0"),
            ({"tasks": 5}, "got others, whose first episode differs"),
            ({"dtype": torch.float64}, "whose floating type of .* is 'torch.float32'"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, change: dict[str, Any], named: str) -> None:
        options: dict[str, Any] = {"steps": 3, "progress": False, "checkpoint": tmp_path}
        bm.fit(build(), bm.Sinusoids(batch=4), **options)
        change = dict(change)
        learner, tasks = build(change.pop("learner", "ABML")), bm.Sinusoids(batch=4, seed=change.pop("tasks", 0))
        if "clamp" in change:
            learner.clamp = change.pop("clamp")
        learner.to(change.pop("dtype", torch.float32))
        before = [value.clone() for value in learner.state_dict().values()]
        with pytest.raises(ValueError, match=named):
            bm.fit(learner, tasks, **options | change)
        assert all(torch.equal(a, b) for a, b in zip(before, learner.state_dict().values(), strict=True))


class TestFiles:
    def test_a_learner_comes_back(self, tmp_path: Path) -> None:
        trained, other = build(), build()
        bm.fit(trained, bm.Sinusoids(batch=4), steps=2, progress=False)
        bm.save(trained, tmp_path / "a")
        assert not same(trained, other)
        assert bm.load(other, tmp_path / "a") is None  # there was no support
        assert same(trained, other)
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        data = (tmp_path / "a").read_bytes()
        learner = build("MAML")
        for length in range(len(data)):
            (tmp_path / "b").write_bytes(data[:length])
            with pytest.raises(ValueError, match="expected"):
                bm.load(learner, tmp_path / "b")

    def test_every_flipped_byte_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=bm.points([0.0, 1.0], [1.0, 2.0]))
        data = (tmp_path / "a").read_bytes()
        learner, numbers = build("MAML"), np.random.default_rng(0)
        for place, flip in zip(numbers.integers(0, len(data), 500), numbers.integers(1, 256, 500), strict=True):
            changed = bytearray(data)
            changed[place] ^= flip
            (tmp_path / "b").write_bytes(changed)
            with pytest.raises(ValueError, match="expected"):
                bm.load(learner, tmp_path / "b")

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        """A file with a right checksum whose content would run a command when unpickled."""

        class Command:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        checkpoint.write(tmp_path / "a", {"kind": "learner", "state": Command()})
        with pytest.raises(ValueError, match="not safe to read"):
            bm.load(build(), tmp_path / "a")
        assert not (tmp_path / "ran").exists()

    def test_another_learner_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        with pytest.raises(ValueError, match="expected a saved ABML, got a MAML"):
            bm.load(build(), tmp_path / "a")
        wide = bm.MAML(bm.MLP(1, 1, hidden=(9,)), bm.Gaussian())
        with pytest.raises(ValueError, match=r"'network.features.0.bias' of shape \[9\], got \[8\]"):
            bm.load(wide, tmp_path / "a")
        checkpoint.write(tmp_path / "b", {"kind": "checkpoint"})
        with pytest.raises(ValueError, match="expected a saved learner, got a checkpoint"):
            bm.load(wide, tmp_path / "b")
        with pytest.raises(FileNotFoundError):
            bm.load(wide, tmp_path / "c")
        with pytest.raises(ValueError, match="expected a file, got a folder"):
            bm.load(wide, tmp_path)
        with pytest.raises(FileNotFoundError, match=r"path: expected a file in a folder that exists, got .*none/c"):
            bm.save(wide, tmp_path / "none" / "c")

    def test_files_that_hold_something_else_are_refused(self, tmp_path: Path) -> None:
        checkpoint.write(tmp_path / "a", {"kind": "learner", "type": "MAML", "version": "1"})
        with pytest.raises(ValueError, match="expected a learner with its state, got a file without"):
            bm.load(build("MAML"), tmp_path / "a")
        checkpoint.write(tmp_path / FILE, {"kind": "checkpoint", "settings": {}})
        with pytest.raises(ValueError, match="expected a checkpoint with its episodes and generators and"):
            bm.fit(build(), bm.Sinusoids(batch=4), steps=1, progress=False, checkpoint=tmp_path)


class Named(NamedTuple):
    a: torch.Tensor


class Joined(bm.Learner):
    """A learner whose x is a tree of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = bm.PrototypicalNetwork(torch.nn.Linear(2, 2), classes=2)

    @staticmethod
    def join(x: Any) -> torch.Tensor:
        return torch.cat([x["a"], *x["more"][0]], -1)

    def forward(self, support: bm.Points) -> bm.Posterior:
        return Transformed(self.inner(support._replace(x=self.join(support.x))), support, self.join)


def moved(learner: bm.Learner) -> tuple[bm.Learner, bm.Learner]:
    """The learner with other weights than it was built with, and a copy of it."""
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    return learner, copy.deepcopy(learner)


class TestPosteriors:
    """What `load` gives for a file with a support; the answers of every learner are in test_contract.py."""

    support = bm.points([0.0, 1.0], [1.0, 2.0])

    def test_inputs_may_be_a_tree(self, tmp_path: Path) -> None:
        learner, other = Joined(), Joined()
        x = {"a": torch.rand(1, 3, 1), "more": [(torch.rand(1, 3, 1),)]}
        support = bm.Points(x, torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool))
        bm.save(learner, tmp_path / "a", support=support)
        posterior = bm.load(other, tmp_path / "a")
        assert posterior is not None
        assert same(learner, other)
        assert torch.equal(posterior(x).logits, learner(support)(x).logits)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"support\.x: expected tensors in dicts, lists and tuples, got Named"):
            bm.save(learner, tmp_path / "b", support=support._replace(x={"a": Named(x["a"])}))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="support: expected Points, got list"):
            bm.save(learner, tmp_path / "b", support=[1.0])  # type: ignore[arg-type]
        assert not (tmp_path / "b").exists()

    def test_it_stays_where_the_learner_goes_on(self, tmp_path: Path) -> None:
        learner = build("MAML")
        bm.save(learner, tmp_path / "a", support=self.support)
        posterior = bm.load(learner, tmp_path / "a")
        assert posterior is not None
        before = posterior([0.5]).mean
        bm.fit(learner, bm.Sinusoids(batch=4), steps=2, progress=False)
        assert torch.equal(posterior([0.5]).mean, before)

    def test_of_a_view_only_the_support_is_kept(self, tmp_path: Path) -> None:
        everything = torch.rand(1, 100_000, 1, requires_grad=True)
        given = bm.Points(everything[:, :2], everything[:, :2], torch.ones(1, 2, dtype=torch.bool))
        bm.save(build("MAML"), tmp_path / "a", support=given)
        assert (tmp_path / "a").stat().st_size < 20_000

    def test_truncations_are_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=self.support)
        data, learner = (tmp_path / "a").read_bytes(), build("MAML")
        for length in range(0, len(data), 7):
            (tmp_path / "b").write_bytes(data[:length])
            with pytest.raises(ValueError, match="expected"):
                bm.load(learner, tmp_path / "b")

    def test_code_in_the_support_is_not_run(self, tmp_path: Path) -> None:
        class Command:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        bm.save(build("MAML"), tmp_path / "a", support=self.support)
        checkpoint.write(
            tmp_path / "b", checkpoint.read(tmp_path / "a", "learner") | {"support": (Command(), *self.support[1:])}
        )
        with pytest.raises(ValueError, match="not safe to read"):
            bm.load(build("MAML"), tmp_path / "b")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("support", [None, support], ids=["learner", "posterior"])
    def test_another_floating_type_is_refused(self, tmp_path: Path, support: bm.Points | None) -> None:
        """It would be rounded in silence."""
        saved = build("MAML").double()
        bm.save(saved, tmp_path / "a", support=support)
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match=r"in torch.float32, as the learner has it, got torch.float64"):
            bm.load(learner, tmp_path / "a")
        assert same(learner, before)
        bm.load(learner.double(), tmp_path / "a")
        assert same(learner, saved)

    def test_a_support_that_does_not_fit_leaves_the_learner_alone(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=bm.points(torch.rand(3, 2), torch.rand(3)))
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match="x: expected 1 features"):
            bm.load(learner, tmp_path / "a")
        assert same(learner, before)

    def test_weights_of_other_shapes_leave_the_learner_alone(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        content = checkpoint.read(tmp_path / "a", "learner")
        content["state"][list(content["state"])[-1]] = torch.zeros(7, 7)
        checkpoint.write(tmp_path / "b", content)
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match=r"got \[7, 7\]"):
            bm.load(learner, tmp_path / "b")
        assert same(learner, before)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at ten moments, half of them while a checkpoint is written; at most one interval is lost each time."""
    program = """
import os, sys, torch, bayesmeta as bm
from bayesmeta import checkpoint
torch.set_num_threads(1)
folder, seed = sys.argv[1], int(sys.argv[2])
kill = int(torch.randint(3, 12, (), generator=torch.Generator().manual_seed(seed)))
tasks, write, seen = bm.Sinusoids(batch=4), checkpoint.write, []

class Deadly(type(tasks)):
    def __getitem__(self, index):
        seen.append(index)
        if seed % 2 and len(seen) == kill:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)

def halfway(path, content):
    if seed and not seed % 2 and len(seen) >= kill:
        path.with_name(f"{path.name}.{os.getpid()}.new").write_bytes(b"bayesmeta file 1")  # half a file, then the end
        os.kill(os.getpid(), 9)
    write(path, content)

checkpoint.write = halfway
torch.manual_seed(0)
learner = bm.ABML(bm.MLP(1, 1, hidden=(8,)), bm.Gaussian(), steps=1)
bm.fit(learner, Deadly(batch=4), steps=40, progress=False, checkpoint=folder, checkpoint_every=3)
print(sum(float(p.double().sum()) for p in learner.parameters()).hex())
"""

    def run(folder: str, seed: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(tmp_path / folder), str(seed)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    expected = run("whole", 0).stdout
    steps = [0]
    for seed in range(1, 11):
        if run("parts", seed).returncode != -signal.SIGKILL:
            break
        path = tmp_path / "parts" / FILE
        steps.append(len(checkpoint.read(path, "checkpoint")["losses"]) if path.exists() else 0)
    assert len(steps) > 5
    assert steps == sorted(steps)
    assert expected
    assert run("parts", 0).stdout == expected
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [FILE]  # nor are halves of files left
