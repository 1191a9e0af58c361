"""Files that are whole or refused, and folders that one run has at a time."""

from __future__ import annotations

import copy
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.files import storage as files
from bayesmeta.posteriors import Transformed


def build(kind: str = "ABML") -> bm.Learner:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(8,))
    return (
        bm.ABML(network, bm.likelihoods.Gaussian(), steps=2)
        if kind == "ABML"
        else bm.MAML(network, bm.likelihoods.Gaussian())
    )


def same(first: bm.Learner, second: bm.Learner) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class TestFiles:
    def test_a_learner_comes_back(self, tmp_path: Path) -> None:
        trained, other = build(), build()
        bm.fit(trained, bm.tasks.Sinusoids(batch=4), steps=2, progress=False)
        bm.save(trained, tmp_path / "a")
        assert not same(trained, other)
        assert bm.load(tmp_path / "a", other) is other  # there was no support
        assert same(trained, other)
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        data = (tmp_path / "a").read_bytes()
        learner = build("MAML")
        for length in range(len(data)):
            (tmp_path / "b").write_bytes(data[:length])
            with pytest.raises(ValueError, match="expected"):
                bm.load(tmp_path / "b", learner)

    def test_every_flipped_byte_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=bm.points([0.0, 1.0], [1.0, 2.0]))
        data = (tmp_path / "a").read_bytes()
        learner, numbers = build("MAML"), np.random.default_rng(0)
        for place, flip in zip(numbers.integers(0, len(data), 500), numbers.integers(1, 256, 500), strict=True):
            changed = bytearray(data)
            changed[place] ^= flip
            (tmp_path / "b").write_bytes(changed)
            with pytest.raises(ValueError, match="expected"):
                bm.load(tmp_path / "b", learner)

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        """A file with a right checksum whose content would run a command when unpickled."""

        class Command:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        files.write(tmp_path / "a", {"kind": "learner", "state": Command()})
        with pytest.raises(ValueError, match="not safe to read"):
            bm.load(tmp_path / "a", build())
        assert not (tmp_path / "ran").exists()

    def test_another_learner_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        with pytest.raises(ValueError, match="expected a saved ABML, got a MAML"):
            bm.load(tmp_path / "a", build())
        wide = bm.MAML(bm.networks.MLP(1, 1, hidden=(9,)), bm.likelihoods.Gaussian())
        with pytest.raises(ValueError, match=r"'network.features.0.bias' of shape \[9\], got \[8\]"):
            bm.load(tmp_path / "a", wide)
        files.write(tmp_path / "b", {"kind": "checkpoint"})
        with pytest.raises(ValueError, match="expected a saved learner, got a checkpoint"):
            bm.load(tmp_path / "b", wide)
        with pytest.raises(FileNotFoundError):
            bm.load(tmp_path / "c", wide)
        with pytest.raises(ValueError, match="expected a file, got a folder"):
            bm.load(tmp_path, wide)
        with pytest.raises(FileNotFoundError, match=r"path: expected a file in a folder that exists, got .*none/c"):
            bm.save(wide, tmp_path / "none" / "c")

    def test_files_that_hold_something_else_are_refused(self, tmp_path: Path) -> None:
        files.write(tmp_path / "a", {"kind": "learner", "type": "MAML", "version": "1"})
        with pytest.raises(ValueError, match="expected a learner with its settings and state, got a file without"):
            bm.load(tmp_path / "a", build("MAML"))


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
        posterior = bm.load(tmp_path / "a", other)
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
        posterior = bm.load(tmp_path / "a", learner)
        assert posterior is not None
        before = posterior([0.5]).mean
        bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=2, progress=False)
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
                bm.load(tmp_path / "b", learner)

    def test_code_in_the_support_is_not_run(self, tmp_path: Path) -> None:
        class Command:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        bm.save(build("MAML"), tmp_path / "a", support=self.support)
        files.write(tmp_path / "b", files.read(tmp_path / "a", "learner") | {"support": (Command(), *self.support[1:])})
        with pytest.raises(ValueError, match="not safe to read"):
            bm.load(tmp_path / "b", build("MAML"))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("support", [None, support], ids=["learner", "posterior"])
    def test_another_floating_type_is_refused(self, tmp_path: Path, support: bm.Points | None) -> None:
        """It would be rounded in silence."""
        saved = build("MAML").double()
        bm.save(saved, tmp_path / "a", support=support)
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match=r"in torch.float32, as the learner has it, got torch.float64"):
            bm.load(tmp_path / "a", learner)
        assert same(learner, before)
        bm.load(tmp_path / "a", learner.double())
        assert same(learner, saved)

    def test_a_support_that_does_not_fit_leaves_the_learner_alone(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=bm.points(torch.rand(3, 2), torch.rand(3)))
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match="x: expected 1 features"):
            bm.load(tmp_path / "a", learner)
        assert same(learner, before)

    def test_weights_of_other_shapes_leave_the_learner_alone(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        content = files.read(tmp_path / "a", "learner")
        content["state"][list(content["state"])[-1]] = torch.zeros(7, 7)
        files.write(tmp_path / "b", content)
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match=r"got \[7, 7\]"):
            bm.load(tmp_path / "b", learner)
        assert same(learner, before)

    @pytest.mark.parametrize(
        "content",
        [
            {"state": None},
            {"state": [1.0]},
            {"state": {1: 2}},
            {"state": {"a": "b"}},
            {"state": {}},
            {"type": ["MAML"]},
            {"type": None, "version": {}},
            {"support": 3},
            {"support": (1, 2, 3)},
            {"support": (torch.zeros(1, 2, 1),)},
            {"support": (torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.ones(1, 3) > 0)},
            {"support": (torch.zeros(1, 2, 1), torch.full((1, 2, 1), torch.nan), torch.ones(1, 2) > 0)},
            {"support": ({"a": "b"}, torch.zeros(1, 2, 1), torch.ones(1, 2) > 0)},
        ],
        ids=repr,
    )
    def test_odd_content_with_a_right_checksum_is_refused(self, tmp_path: Path, content: dict[str, Any]) -> None:
        bm.save(build("MAML"), tmp_path / "a", support=self.support)
        files.write(tmp_path / "b", files.read(tmp_path / "a", "learner") | content)
        learner, before = moved(build("MAML"))
        with pytest.raises(ValueError, match="expected"):
            bm.load(tmp_path / "b", learner)
        assert same(learner, before)

    def test_a_weight_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        content = files.read(tmp_path / "a", "learner")
        name = "network.head.bias"
        for odd in (1.0, "text", torch.zeros(1).to_sparse(), torch.zeros(1, dtype=torch.long)):
            files.write(tmp_path / "b", content | {"state": content["state"] | {name: odd}})
            with pytest.raises(ValueError, match=f"expected '{name}'"):
                bm.load(tmp_path / "b", build("MAML"))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(self, tmp_path: Path, value: float) -> None:
        bm.save(build("MAML"), tmp_path / "a")
        before = (tmp_path / "a").read_bytes()
        broken, learner = build("MAML"), build("MAML")
        with torch.no_grad():
            broken.network.head.bias.fill_(value)
        with pytest.raises(
            ValueError, match=r"learner: expected finite weights, got NaN or infinity in 'network\.head\.bias'"
        ):
            bm.save(broken, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == before
        files.write(tmp_path / "a", files.read(tmp_path / "a", "learner") | {"state": broken.state_dict()})
        with pytest.raises(ValueError, match=r"expected finite weights, got NaN or infinity in 'network\.head\.bias'"):
            bm.load(tmp_path / "a", learner)
        assert same(learner, build("MAML"))

    def test_an_infinite_buffer_is_no_fault(self, tmp_path: Path) -> None:
        """A mask of minus infinity, or the upper bound of a kernel's hyperparameter."""
        learner, other = build("MAML"), build("MAML")
        for each in (learner, other):
            each.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))
        bm.save(learner, tmp_path / "a")
        bm.load(tmp_path / "a", other)
        learner.bounds[0] = torch.nan
        with pytest.raises(ValueError, match="in 'bounds'"):
            bm.save(learner, tmp_path / "a")

    def test_a_default_device_changes_no_file(self, tmp_path: Path) -> None:
        learner, other = moved(build("MAML"))[0], build("MAML")
        with torch.device("meta"):
            bm.save(learner, tmp_path / "a", support=self.support)
            bm.load(tmp_path / "a", other)
        assert same(learner, other)


class TestWriting:
    def test_a_link_in_the_folder_is_not_followed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even one that is planted under the very name that the half-written file will have."""
        (tmp_path / "victim").write_text("precious")
        monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
        planted = tmp_path / f".bayesmeta-{'0' * 16}.new"
        planted.symlink_to(tmp_path / "victim")
        with pytest.raises(FileExistsError):
            files.write_atomically(tmp_path / "a", b"new")
        assert (tmp_path / "victim").read_text() == "precious"
        assert planted.is_symlink()  # nor is what another put there removed
        assert not (tmp_path / "a").exists()

    def test_a_link_in_the_place_of_the_file_is_refused(self, tmp_path: Path) -> None:
        """Neither is what it points to overwritten, nor does a file that others read by it grow old in silence."""
        (tmp_path / "victim").write_text("precious")
        for target in ("victim", "nowhere"):
            link = tmp_path / f"to {target}"
            link.symlink_to(tmp_path / target)
            with pytest.raises(
                ValueError, match=f"path: expected a file, got .*to {target}, a link to .*{target}; name the file"
            ):
                bm.save(build("MAML"), link)
            assert link.is_symlink()
        assert (tmp_path / "victim").read_text() == "precious"

    def test_what_is_no_file_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        for name, what in (("pipe", "a device or pipe"), ("folder", "a folder")):
            with pytest.raises(ValueError, match=f"page: expected a file, got .*{name}, which is {what}; name a file"):
                files.check_target(tmp_path / name, "page")
        with pytest.raises(FileNotFoundError, match="page: expected a file in a folder that exists"):
            files.check_target(tmp_path / "none" / "page", "page")
        files.check_target(tmp_path / "new", "page")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
    def test_what_may_not_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("old")
        (tmp_path / "kept").chmod(0o444)
        with pytest.raises(PermissionError, match="path: expected a file that may be written"):
            files.write_atomically(tmp_path / "kept", b"new")

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
    def test_the_mode_of_a_file_is_kept(self, tmp_path: Path, mode: int) -> None:
        umask = os.umask(0o022)
        try:
            files.write_atomically(tmp_path / "a", b"old")
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
            (tmp_path / "a").chmod(mode)
            files.write_atomically(tmp_path / "a", b"new")
        finally:
            os.umask(umask)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        assert (tmp_path / "a").read_bytes() == b"new"

    def test_threads_write_the_same_file(self, tmp_path: Path) -> None:
        contents = [bytes([k]) * 100_000 for k in range(4)]
        errors: list[OSError] = []

        def many(content: bytes) -> None:
            try:
                for _ in range(20):
                    files.write_atomically(tmp_path / "a", content)
            except OSError as error:
                errors.append(error)

        threads = [threading.Thread(target=many, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert (tmp_path / "a").read_bytes() in contents
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        files.write_atomically(tmp_path / "a", b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.write_atomically(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


class TestAlone:
    @staticmethod
    def taken(folder: Path) -> bool:
        try:
            with files.alone(folder):
                return False
        except ValueError as error:
            return f"checkpoint: expected a folder that no other run uses, got {folder}" in str(error)

    def test_one_at_a_time_in_a_process(self, tmp_path: Path) -> None:
        with files.alone(tmp_path):
            assert self.taken(tmp_path)
            (tmp_path / "other").mkdir()
            assert not self.taken(tmp_path / "other")
        assert not self.taken(tmp_path)

    def test_death_gives_the_folder_back(self, tmp_path: Path) -> None:
        program = f"""
import pathlib, time
from bayesmeta import files
with files.alone(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(100)
"""
        holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert self.taken(tmp_path)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
        assert not self.taken(tmp_path)

    def test_a_worker_that_lives_on_does_not_keep_it(self, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        with files.alone(tmp_path):
            if (child := os.fork()) == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent closes its end
                os._exit(0)
        os.close(reading)
        try:
            assert not self.taken(tmp_path)
        finally:
            os.close(writing)
            os.waitpid(child, 0)

    def test_only_halves_of_files_are_removed(self, tmp_path: Path) -> None:
        half = tmp_path / f".bayesmeta-{'0a' * 8}.new"
        others = [tmp_path / name for name in ("checkpoint.bayesmeta.17.new", ".bayesmeta-notes.new", "b.new")]
        for path in (half, *others):
            path.write_bytes(b"bayesmeta file 1")
        with files.alone(tmp_path):
            pass
        assert not half.exists()
        assert all(path.exists() for path in others)

    def test_without_locks_it_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And nothing is removed, as it may be another's."""

        def unsupported(descriptor: int) -> None:
            raise OSError(38, "Function not implemented")

        half = tmp_path / f".bayesmeta-{'0a' * 8}.new"
        half.write_bytes(b"bayesmeta file 1")
        monkeypatch.setattr(files, "_lock", unsupported)
        with pytest.warns(UserWarning, match="has no locks .*give each run a folder of its own"), files.alone(tmp_path):
            assert half.exists()
