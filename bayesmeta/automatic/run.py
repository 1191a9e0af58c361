"""The training of all members on all folds at once, and what is seen of it on the tasks held out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesmeta.automatic.copies import Copies
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import MEMBERS
from bayesmeta.data import Episode, Points
from bayesmeta.files import check_target, digest, read, write
from bayesmeta.functional import Params
from bayesmeta.gaussian_process import start_kernels
from bayesmeta.learner import Learner

__all__ = ["Run"]

_LOOKS = 16
"""How often held-out tasks are asked."""


class Run:
    """Members in training: of each U K copies, for each scale of the target one without each fold.

    After each look at the held-out tasks, a member's copies of a scale are kept where their NLL is the lowest so far: so each has
    the number of steps that was best, for all folds together, on tasks that it did not learn from.

    Args:
        folds: the tasks.
        names: of the members.
        steps: how many there are.

    Attributes:
        sums: of each member and scale at its best look, the NLL of each task's held-out points, ``(members, U, T)``, in nats of
            the user's units.
        counts: how many these points are, ``(T,)``.
        best: after how many steps that was, ``(members, U)``.
        curve: the NLL a point by look, ``(looks, members, U)``.
    """

    def __init__(self, folds: Folds, names: Sequence[str], steps: int) -> None:
        self.folds, self.names, self.steps = folds, list(names), steps
        self.every = max(1, steps // _LOOKS)
        scales, copies = len(folds.units), len(folds.taught)
        first = Episode(*(Points(*(leaf[0] for leaf in part)) for part in folds.teaching(0)))
        inputs = first.query.x.shape[-1]
        self.copies: list[Copies] = []
        self.optimizers: list[torch.optim.Adam] = []
        for place, name in enumerate(self.names):
            member = MEMBERS[name]
            with torch.random.fork_rng([]):
                torch.manual_seed(1000 * folds.seed + place)
                learners = [member.build(inputs, folds.targets) for _ in range(copies)]
            for learner in learners:
                start_kernels(learner, first)
            made = Copies(learners * scales)
            self.copies.append(made)
            self.optimizers.append(_optimizer(made.state, member.rate))
        self.asked = folds.asking()
        tasks = len(folds.points.mask)
        self.counts = self._by_task(self.asked.plain.query.mask.sum(-1)[None].double())[0]
        self.sums = torch.zeros(len(self.names), scales, tasks, dtype=torch.float64)
        self.best = torch.zeros(len(self.names), scales, dtype=torch.long)
        self.curve: list[Tensor] = []
        self.kept: list[Params] = [{name: value.detach().clone() for name, value in c.state.items()} for c in self.copies]
        self.step = 0

    def train(self, *, progress: bool, checkpoint: str | os.PathLike[str] | None = None) -> None:
        """All steps, or those that are left of the run in a folder."""
        disk = None if checkpoint is None else _Disk(checkpoint, self)
        with tqdm(total=self.steps, initial=self.step, disable=not progress, unit="step") as bar:
            while True:
                if self.step % self.every == 0 or self.step == self.steps:
                    if len(self.curve) <= -(-self.step // self.every):
                        self._look()
                        if disk:
                            disk.write(self)
                    bar.set_postfix_str(f"held out {float(self.curve[-1].min()):.3f}", refresh=False)
                if self.step == self.steps:
                    return
                self._advance()
                bar.update()

    def learner(self, member: int, scale: int, fold: int) -> Learner:
        """One copy at its best look, in standard units."""
        return self.copies[member].learner(scale * len(self.folds.held) + fold, self.kept[member])

    def _advance(self) -> None:
        episode = self.folds.teaching(self.step)
        fading = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for copies, optimizer in zip(self.copies, self.optimizers, strict=True):
            optimizer.zero_grad()
            copies.nll(episode).mean(1).sum().backward()
            _clip(list(copies.state.values()))
            for group in optimizer.param_groups:
                group["lr"] = group["first"] * fading
            optimizer.step()
        self.step += 1

    @torch.no_grad()
    def _look(self) -> None:
        asked, count = self.asked, len(self.folds.held)
        found = []
        for copies in self.copies:
            each = copies.nll(asked.standard).double() * asked.standard.query.mask.sum(-1)
            found.append(self._by_task(each.unflatten(0, (-1, count)) + asked.volumes))
        sums = torch.stack(found)
        curve = (sums.sum(-1) / self.counts.sum()).nan_to_num(math.inf)
        better = curve < torch.stack([*self.curve, torch.full_like(curve, math.inf)]).amin(0)
        self.curve.append(curve)
        self.sums[better], self.best[better] = sums[better], self.step
        for kept, copies, new in zip(self.kept, self.copies, better, strict=True):
            for name, value in copies.state.items():
                kept[name] = torch.where(_like(new.repeat_interleave(count), value), value.detach(), kept[name])

    def _by_task(self, values: Tensor) -> Tensor:
        """Values of held-out tasks ``(U, K, V)``, summed over divisions: ``(U, T)``."""
        tasks, real = self.asked.tasks, self.asked.real
        total = torch.zeros(len(values), len(self.folds.points.mask), dtype=torch.float64)
        return total.index_add(1, tasks[real], values[:, real])


class _Disk:
    """Where a run is, in a folder: written at each look."""

    def __init__(self, folder: str | os.PathLike[str], run: Run) -> None:
        self.path = Path(folder) / "autofit.bayesmeta"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_target(self.path, "checkpoint")
        tasks = run.folds.tasks
        self.settings = {
            "tasks": digest(Episode(tasks.points, tasks.points)),
            "shots": str(tasks.shots),
            "queries": str(tasks.queries),
            "ordered": tasks.ordered,
            "seed": run.folds.seed,
            "folds": len(run.folds.held),
            "members": list(run.names),
            "scales": [str(unit.warp) for unit in run.folds.units],
            "steps": run.steps,
        }
        if self.path.exists():
            self._resume(run)

    def write(self, run: Run) -> None:
        write(
            self.path,
            {
                "kind": "run of autofit",
                "settings": self.settings,
                "step": run.step,
                "states": [{name: value.detach() for name, value in copies.state.items()} for copies in run.copies],
                "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
                "found": {"sums": run.sums, "best": run.best, "curve": torch.stack(run.curve)},
                "kept": run.kept,
            },
        )

    def _resume(self, run: Run) -> None:
        content = read(self.path, "run of autofit", "settings", "step", "states", "optimizers", "found", "kept")
        for name, value in self.settings.items():
            if content["settings"].get(name) != value:
                raise ValueError(
                    f"checkpoint: expected the run of {self.path.parent} to go on, whose {name} is "
                    f"{content['settings'].get(name)!r}, got {value!r}; use the same data and settings, or another folder"
                )
        with torch.no_grad():
            for copies, state in zip(run.copies, content["states"], strict=True):
                for name, value in copies.state.items():
                    value.copy_(state[name])
        for optimizer, state in zip(run.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        run.step, run.kept = content["step"], content["kept"]
        run.sums, run.best = content["found"]["sums"], content["found"]["best"]
        run.curve = list(content["found"]["curve"])


_FASTER = 4.0
"""How much faster noise, kernels and degrees of freedom learn than the weights of networks, of which there are far more."""


def _optimizer(state: Params, rate: float) -> torch.optim.Adam:
    single = {name for name in state if "raw_" in name or name.rpartition(".")[2] in ("log_scale", "log_df")}
    groups: list[dict[str, Any]] = [
        {"params": [value for name, value in state.items() if (name in single) == alone], "first": rate * factor}
        for alone, factor in ((False, 1.0), (True, _FASTER))
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], rate, foreach=True)


def _clip(parameters: Sequence[Tensor]) -> None:
    """Each copy's gradient to a norm of at most 1; to zero where it is not finite, so that the others go on."""
    slopes = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([slope.reshape(len(slope), -1).square().sum(1) for slope in slopes]).sum(0)
    factor = torch.where(squares.isfinite(), squares.sqrt().clamp(min=1.0).reciprocal(), 0.0)
    for slope in slopes:
        slope.copy_(torch.where(_like(factor > 0, slope), slope * _like(factor, slope), 0.0))


def _like(each: Tensor, value: Tensor) -> Tensor:
    """A number a copy ``(C,)`` for values ``(C, ...)``."""
    return each.reshape(-1, *[1] * (value.dim() - 1))
