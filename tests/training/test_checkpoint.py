"""Runs that survive interruption, and go on only as what they were."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bayesmeta as bm
from bayesmeta.training import checkpoint

FILE = "checkpoint.bayesmeta"


def build(kind: str = "ABML") -> bm.Learner:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(8,))
    return (
        bm.ABML(network, bm.likelihoods.Gaussian(), steps=2)
        if kind == "ABML"
        else bm.MAML(network, bm.likelihoods.Gaussian())
    )


class Stopping(torch.utils.data.Dataset[bm.Episode]):
    """Sinusoids that raise a signal, or an error, while one of the episodes is drawn."""

    def __init__(self, index: int, number: signal.Signals | None) -> None:
        self.tasks, self.index, self.number = bm.tasks.Sinusoids(batch=4), index, number

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> bm.Episode:
        if index == self.index:
            if self.number is None:
                raise RuntimeError("power cut")
            signal.raise_signal(self.number)
        return self.tasks[index]


def nothing(module: torch.nn.Module, *values: Any) -> None:
    """A hook that changes nothing."""


def same(first: bm.Learner, second: bm.Learner) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class TestResume:
    @pytest.mark.parametrize("number", [signal.SIGINT, None])
    def test_the_end_has_the_same_bits(self, tmp_path: Path, number: signal.Signals | None) -> None:
        """ABML draws random numbers in each step, so the generator's state counts too."""
        whole, parts = build(), build()
        expected = bm.fit(whole, bm.tasks.Sinusoids(batch=4), steps=12, progress=False)
        options: dict[str, Any] = {"steps": 12, "progress": False, "checkpoint": tmp_path, "checkpoint_every": 4}
        if number is None:
            with pytest.raises(RuntimeError, match="power cut"):
                bm.fit(parts, Stopping(6, None), **options)
            parts, wanted = build(), 4  # as after a restart of the process: the last checkpoint is at step 4
        else:
            assert bm.fit(parts, Stopping(6, number), **options).interrupted
            parts, wanted = build(), 7  # the step in hand was finished
        assert len(checkpoint.read(tmp_path / FILE, "checkpoint")["losses"]) == wanted
        history = bm.fit(parts, bm.tasks.Sinusoids(batch=4), **options)
        assert not history.interrupted
        assert history.losses == expected.losses
        assert same(whole, parts)
        again = build()
        assert (
            bm.fit(again, bm.tasks.Sinusoids(batch=4), **options).losses == expected.losses
        )  # a finished run is only read
        assert same(whole, again)

    def test_what_happened_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        kept = f"interrupted after step 7 of 12: the same call goes on from there, with {tmp_path}"
        for options, line in (({}, "step 7 of 12: no checkpoint was asked for"), ({"checkpoint": tmp_path}, kept)):
            bm.fit(build(), Stopping(6, signal.SIGINT), steps=12, **options)
            assert line in capsys.readouterr().err
        bm.fit(build(), bm.tasks.Sinusoids(batch=4), steps=12, checkpoint=tmp_path)
        said = capsys.readouterr().err
        assert f"goes on after step 7 of 12, which {tmp_path} holds" in said
        assert "12/12" in said

    def test_sigterm_writes_and_ends_the_process(self, tmp_path: Path) -> None:
        program = f"""
import signal, torch, bayesmeta as bm
torch.manual_seed(0)
learner = bm.ABML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=2)
tasks = bm.tasks.Sinusoids(batch=4)
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
            ({"objective": bm.Predictive(draws=4)}, "whose learner.objective.draws is 8"),
            ({"objective": bm.ELBO(draws=8)}, "whose learner.objective.kind is 'Predictive'"),
            ({"tasks": 5}, "got others, whose first episode differs"),
            ({"dtype": torch.float64}, "whose floating type of .* is 'torch.float32'"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, change: dict[str, Any], named: str) -> None:
        options: dict[str, Any] = {"steps": 3, "progress": False, "checkpoint": tmp_path}
        bm.fit(build(), bm.tasks.Sinusoids(batch=4), **options)
        change = dict(change)
        learner, tasks = build(change.pop("learner", "ABML")), bm.tasks.Sinusoids(batch=4, seed=change.pop("tasks", 0))
        for name in {"clamp", "objective"} & change.keys():
            setattr(learner, name, change.pop(name))
        learner.to(change.pop("dtype", torch.float32))
        before = [value.clone() for value in learner.state_dict().values()]
        with pytest.raises(ValueError, match=named):
            bm.fit(learner, tasks, **options | change)
        assert all(torch.equal(a, b) for a, b in zip(before, learner.state_dict().values(), strict=True))

    def test_files_of_something_else_are_refused(self, tmp_path: Path) -> None:
        checkpoint.write(tmp_path / FILE, {"kind": "checkpoint", "settings": {}})
        with pytest.raises(ValueError, match="expected a checkpoint with its best and episodes and generators and"):
            bm.fit(build(), bm.tasks.Sinusoids(batch=4), steps=1, progress=False, checkpoint=tmp_path)

    @pytest.mark.parametrize("name", ["settings", "moved", "episodes", "states", "generators", "losses", "seconds"])
    def test_odd_content_with_a_right_checksum_is_refused(self, tmp_path: Path, name: str) -> None:
        options: dict[str, Any] = {"steps": 3, "progress": False, "checkpoint": tmp_path}
        bm.fit(build(), bm.tasks.Sinusoids(batch=4), **options)
        content = checkpoint.read(tmp_path / FILE, "checkpoint")
        for odd in (None, {}, {"learner": 1}):
            checkpoint.write(tmp_path / FILE, content | {name: odd})
            learner = build()
            with pytest.raises(ValueError, match="expected"):
                bm.fit(learner, bm.tasks.Sinusoids(batch=4), **options)
            assert same(learner, build()) or name == "generators"


class Edited(torch.utils.data.Dataset[bm.Episode]):
    """Sinusoids of which some episodes are others."""

    def __init__(self, *changed: int) -> None:
        self.tasks, self.others, self.changed = (
            bm.tasks.Sinusoids(batch=4),
            bm.tasks.Sinusoids(batch=4, seed=9),
            changed,
        )

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> bm.Episode:
        return (self.others if index in self.changed else self.tasks)[index]


class TestSettings:
    """Of optimiser, scheduler, frozen parameters and tasks: those of a run in a folder go on, others are refused."""

    @staticmethod
    def run(
        folder: Path | None, tasks: Any = None, steps: int = 8, **change: Any
    ) -> tuple[bm.Learner, bm.training.History]:
        learner = build("MAML")
        change = {"lr": 0.01, "second": 0.02, "momentum": 0.5, "size": 3, "frozen": False, "groups": 2, **change}
        learner.network.features[0].weight.requires_grad_(not change["frozen"])
        parts = ((learner.network, 0.01), (learner.likelihood, change["second"]))[: change["groups"]]
        described = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]
        optimizer = torch.optim.SGD(described, lr=change["lr"], momentum=change["momentum"])
        schedule = change.get("schedule", lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, change["size"]))
        history = bm.fit(
            learner,
            tasks or bm.tasks.Sinusoids(batch=4),
            steps=steps,
            optimizer=optimizer,
            scheduler=schedule(optimizer) if schedule else None,
            progress=False,
            checkpoint=folder,
            checkpoint_every=2,
        )
        return learner, history

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"second": 0.5}, r"optimizer\.param_groups\[1\]\.initial_lr is 0\.02, got 0\.5"),
            ({"momentum": 0.9}, r"optimizer\.param_groups\[0\]\.momentum is 0\.5, got 0\.9"),
            ({"groups": 1}, r"optimizer\.param_groups\[1\]"),
            ({"size": 1000}, r"scheduler\.step_size is 3, got 1000"),
            ({"schedule": None}, r"scheduler is 'StepLR', got 'NoneType'"),
            ({"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)}, r"'StepLR', got 'ExponentialLR'"),
            ({"frozen": True}, r"requires_grad of network\.features\.0\.weight is True, got False"),
            ({"tasks": Edited(0)}, "whose first episode differs"),
            ({"tasks": Edited(5)}, "whose episode 5, the last that it trained on, differs"),
        ],
    )
    def test_others_are_refused(self, tmp_path: Path, change: dict[str, Any], named: str) -> None:
        with pytest.raises(RuntimeError, match="power cut"):
            self.run(tmp_path, Stopping(7, None))
        with pytest.raises(ValueError, match=f"checkpoint: expected.*{named}"):
            self.run(tmp_path, **change)

    @pytest.mark.parametrize(
        "schedule",
        [
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 8),  # moves the momentum too
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5]),
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
            lambda o: torch.optim.lr_scheduler.SequentialLR(
                o,
                [torch.optim.lr_scheduler.LinearLR(o, 0.1), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
                milestones=[3],
            ),
            None,
        ],
    )
    def test_the_same_go_on_whatever_the_schedule(self, tmp_path: Path, schedule: Any) -> None:
        whole, expected = self.run(None, schedule=schedule)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="power cut"):
                self.run(tmp_path, Stopping(7, None), schedule=schedule)
        parts, history = self.run(tmp_path, schedule=schedule)
        assert history.losses == expected.losses
        assert same(whole, parts)

    def test_the_very_optimizer_of_an_interrupted_run_goes_on(self, tmp_path: Path) -> None:
        """As in a notebook, whose cell is run again: its rate is where the schedule left it."""
        learner = build("MAML")
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        options: dict[str, Any] = {"steps": 8, "optimizer": optimizer, "scheduler": schedule, "progress": False}
        for tasks in (Stopping(3, signal.SIGINT), Stopping(6, signal.SIGINT), bm.tasks.Sinusoids(batch=4)):
            history = bm.fit(learner, tasks, checkpoint=tmp_path, **options)
        assert len(history.losses) == 8
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**8)

    @pytest.mark.parametrize("place", ["network.features", "network.head", ""])
    @pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
    def test_hooks_are_settings(self, tmp_path: Path, place: str, register: str) -> None:
        def hooked() -> bm.Learner:
            learner = build("MAML")
            getattr(learner.get_submodule(place), register)(nothing)
            return learner

        options: dict[str, Any] = {"steps": 6, "progress": False, "checkpoint": tmp_path}
        assert bm.fit(hooked(), Stopping(2, signal.SIGINT), **options).interrupted
        with pytest.raises(
            ValueError, match=r"checkpoint: expected .* whose hooks of learner.* is \['nothing'\], got None"
        ):
            bm.fit(build("MAML"), bm.tasks.Sinusoids(batch=4), **options)
        assert len(bm.fit(hooked(), bm.tasks.Sinusoids(batch=4), **options).losses) == 6

    def test_parts_in_evaluation_mode_stay_so_or_are_missed(self, tmp_path: Path) -> None:
        def dropping(frozen: bool) -> bm.Learner:
            torch.manual_seed(0)
            layers = torch.nn.Linear(1, 8), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(8, 1)
            learner = bm.Reptile(torch.nn.Sequential(*layers), bm.likelihoods.Gaussian(), steps=2)
            learner.network[1].train(not frozen)
            return learner

        tasks = bm.tasks.Sinusoids(batch=4)
        options: dict[str, Any] = {"steps": 6, "progress": False}
        whole, free = dropping(True), dropping(False)
        expected = bm.fit(whole, tasks, **options).losses
        assert bm.fit(free, tasks, **options).losses != expected
        options["checkpoint"] = tmp_path
        parts = dropping(True)
        assert bm.fit(parts, Stopping(2, signal.SIGINT), **options).interrupted
        assert not any(part.training for part in parts.modules())
        with pytest.raises(ValueError, match=r"whose parts in evaluation mode is \['network\.1'\], got None"):
            bm.fit(dropping(False), tasks, **options)
        assert bm.fit(parts, Stopping(4, signal.SIGINT), **options).interrupted  # as in a notebook
        assert bm.fit(dropping(True), tasks, **options).losses == expected
        finished = dropping(True)
        bm.fit(finished, tasks, **options)
        assert same(whole, finished)

    def test_more_steps_are_as_if_asked_at_once_where_the_schedule_does_not_depend_on_them(
        self, tmp_path: Path
    ) -> None:
        whole, expected = self.run(None, steps=9)
        self.run(tmp_path, steps=5)
        parts, history = self.run(tmp_path, steps=9)
        assert history.losses == expected.losses
        assert same(whole, parts)
        with pytest.raises(
            ValueError, match="steps: expected at least the 9 that the run of the checkpoint has made, got 5"
        ):
            self.run(tmp_path, steps=5)

    def test_more_steps_of_the_default_schedule_come_with_a_recipe(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"progress": False, "checkpoint": tmp_path}
        bm.fit(build(), bm.tasks.Sinusoids(batch=4), steps=3, **options)
        with pytest.raises(ValueError, match=r"whose steps is 3, got 4; .*repeat the call with the old steps"):
            bm.fit(build(), bm.tasks.Sinusoids(batch=4), steps=4, **options)


class TestFolder:
    def test_a_second_run_is_refused_and_the_first_goes_on(self, tmp_path: Path) -> None:
        """Whether it has other settings or the same: each would overwrite the other's checkpoints."""
        said: list[str] = []

        class Meeting(Stopping):
            def __getitem__(self, index: int) -> bm.Episode:
                if index == 2:
                    for kind in ("ABML", "MAML"):
                        with pytest.raises(ValueError, match=f"no other run uses, got {tmp_path}") as error:
                            bm.fit(build(kind), self.tasks, steps=4, progress=False, checkpoint=tmp_path)
                        said.append(str(error.value))
                return super().__getitem__(index)

        learner = build()
        bm.fit(learner, Meeting(-1, None), steps=4, progress=False, checkpoint=tmp_path)
        assert len(said) == 2
        again = build()
        bm.fit(again, bm.tasks.Sinusoids(batch=4), steps=4, progress=False, checkpoint=tmp_path)
        assert same(learner, again)

    def test_a_file_that_cannot_be_written_is_refused_before_training(self, tmp_path: Path) -> None:
        (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
        learner = build()
        with pytest.raises(ValueError, match=r"checkpoint: expected a file, got .*a link to"):
            bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=2, progress=False, checkpoint=tmp_path)
        assert same(learner, build())

    @pytest.mark.parametrize("folder", ["a", "a/b"])
    def test_a_file_where_the_folder_would_be_is_refused_before_training(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / "a").touch()
        learner = build()
        with pytest.raises(ValueError, match=r"checkpoint: expected a folder, got .*a"):
            bm.fit(learner, bm.tasks.Sinusoids(batch=4), steps=2, progress=False, checkpoint=tmp_path / folder)
        assert same(learner, build())


def test_weights_that_an_update_broke_never_replace_a_checkpoint(tmp_path: Path) -> None:
    """They may show only in the next step's loss, after the last good weights are overwritten."""

    class Breaking(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 4:
                self.param_groups[0]["params"][0].data.fill_(torch.inf)

    for checkpoint_every, steps in ((2, 9), (99, 4)):  # at a write, and at the end
        learner, folder = build("MAML"), tmp_path / str(steps)
        options: dict[str, Any] = {"optimizer": Breaking(learner.parameters(), lr=0.01), "progress": False}
        with pytest.raises(
            bm.training.Diverged, match=r"step 3: its update made parameter '.*' NaN or infinite"
        ) as error:
            bm.fit(
                learner,
                bm.tasks.Sinusoids(batch=4),
                steps=steps,
                checkpoint=folder,
                checkpoint_every=checkpoint_every,
                **options,
            )
        assert len(error.value.history.losses) == 4
        if checkpoint_every == 2:
            assert len(checkpoint.read(folder / FILE, "checkpoint")["losses"]) == 2


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at ten moments, half of them while a checkpoint is written; at most one interval is lost each time."""
    program = """
import os, sys, torch, bayesmeta as bm
from bayesmeta.training import checkpoint
torch.set_num_threads(1)
folder, seed = sys.argv[1], int(sys.argv[2])
kill = int(torch.randint(3, 12, (), generator=torch.Generator().manual_seed(seed)))
tasks, write, seen = bm.tasks.Sinusoids(batch=4), checkpoint.write, []

class Deadly(type(tasks)):
    def __getitem__(self, index):
        seen.append(index)
        if seed % 2 and len(seen) == kill:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)

def halfway(path, content):
    if seed and not seed % 2 and len(seen) >= kill:
        os.fsync = lambda descriptor: os.kill(os.getpid(), 9)  # before the file has its name
    write(path, content)

checkpoint.write = halfway
torch.manual_seed(0)
learner = bm.ABML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=1)
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
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {FILE, "lock"}  # nor are halves of files left
