"""Runs that survive interruption, and files that are whole or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta import checkpoint

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
        assert len(checkpoint.read(tmp_path / FILE)["losses"]) == wanted
        history = bm.fit(parts, bm.Sinusoids(batch=4), **options)
        assert not history.interrupted
        assert history.losses == expected.losses
        assert same(whole, parts)
        again = build()
        assert bm.fit(again, bm.Sinusoids(batch=4), **options).losses == expected.losses  # a finished run is only read
        assert same(whole, again)

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
        assert len(checkpoint.read(tmp_path / FILE)["losses"]) == 4

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"steps": 13}, "whose steps is 3"),
            ({"seed": 1}, "whose seed is 0"),
            ({"clip": None}, "whose clip is 1.0"),
            ({"learner": "MAML"}, "whose learner is 'ABML'"),
            ({"clamp": 5.0}, "whose learner.clamp is 10.0"),
            ({"tasks": 5}, "whose first episode is"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, change: dict[str, Any], named: str) -> None:
        options: dict[str, Any] = {"steps": 3, "progress": False, "checkpoint": tmp_path}
        bm.fit(build(), bm.Sinusoids(batch=4), **options)
        change = dict(change)
        learner, tasks = build(change.pop("learner", "ABML")), bm.Sinusoids(batch=4, seed=change.pop("tasks", 0))
        if "clamp" in change:
            learner.clamp = change.pop("clamp")
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
        bm.load(other, tmp_path / "a")
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
        bm.save(build("MAML"), tmp_path / "a")
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
