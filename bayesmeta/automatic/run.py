"""The training of all members on all folds at once, and what is seen of it on the tasks held out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesmeta.automatic.copies import Copies
from bayesmeta.automatic.folds import Folds
from bayesmeta.automatic.members import MEMBERS
from bayesmeta.data import Episode, Points
from bayesmeta.files import check_target, digest, read, write
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
        inputs, dtype = first.query.x.shape[-1], first.query.y.dtype
        self.copies: list[Copies] = []
        for place, name in enumerate(self.names):
            build = partial(_built, name, inputs, folds.targets, dtype)
            with torch.random.fork_rng([]):
                torch.manual_seed(1000 * folds.seed + place)
                learners = [build() for _ in range(copies)]
            for learner in learners:
                start_kernels(learner, first)
            self.copies.append(Copies(learners * scales, build))
        self.slopes = [Slopes(copies.weights) for copies in self.copies]
        self.asked = folds.asking()
        tasks = len(folds.tasks.points.mask)
        self.counts = self._by_task(self.asked.plain.query.mask.sum(-1)[None].double())[0]
        self.sums = torch.zeros(len(self.names), scales, tasks, dtype=torch.float64)
        self.best = torch.zeros(len(self.names), scales, dtype=torch.long)
        self.curve: list[Tensor] = []
        self.kept = [copies.weights.detach().clone() for copies in self.copies]
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
        self.step += 1
        for name, copies, slopes in zip(self.names, self.copies, self.slopes, strict=True):
            (slope,) = torch.autograd.grad(copies.nll(episode).mean(1).sum(), copies.weights)
            rate = MEMBERS[name].rate * fading * torch.where(copies.single, _FASTER, 1.0)
            with torch.no_grad():
                copies.weights -= rate * slopes.step(slope, self.step)

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
        for kept, copies, new in zip(self.kept, self.copies, better.repeat_interleave(count, 1), strict=True):
            kept[new] = copies.weights.detach()[new]

    def _by_task(self, values: Tensor) -> Tensor:
        """Values of held-out tasks ``(U, K, V)``, summed over divisions: ``(U, T)``."""
        tasks, real = self.asked.tasks, self.asked.real
        total = torch.zeros(len(values), len(self.folds.tasks.points.mask), dtype=torch.float64)
        return total.index_add(1, tasks[real], values[:, real])


def _built(name: str, inputs: int, targets: int, dtype: torch.dtype) -> Learner:
    """A member in the floating type of the tasks."""
    return MEMBERS[name].build(inputs, targets).to(dtype)


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
            "horizon": digest(tasks.reach),
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
                "weights": [copies.weights.detach() for copies in run.copies],
                "slopes": [(slopes.mean, slopes.square) for slopes in run.slopes],
                "kept": run.kept,
                "sums": run.sums,
                "best": run.best,
                "curve": torch.stack(run.curve),
            },
        )

    def _resume(self, run: Run) -> None:
        content = read(
            self.path, "run of autofit", "settings", "step", "weights", "slopes", "kept", "sums", "best", "curve"
        )
        for name, value in self.settings.items():
            if content["settings"].get(name) != value:
                raise ValueError(
                    f"checkpoint: expected the run of {self.path.parent} to go on, whose {name} is "
                    f"{content['settings'].get(name)!r}, got {value!r}; use the same data and settings, or another folder"
                )
        for copies, slopes, weights, (mean, square) in zip(
            run.copies, run.slopes, content["weights"], content["slopes"], strict=True
        ):
            copies.weights.data.copy_(weights)
            slopes.mean, slopes.square = mean, square
        run.step, run.kept, run.sums, run.best = (content[name] for name in ("step", "kept", "sums", "best"))
        run.curve = list(content["curve"])


_FASTER = 2.0
"""How much faster noise, kernels and degrees of freedom learn than the weights of networks, of which there are far more."""


class Slopes:
    """Adam's averages of the gradient and of its square, of each copy by itself (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980).

    Args:
        weights: of the copies, ``(C, P)``.
    """

    def __init__(self, weights: Tensor) -> None:
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)

    def step(self, slope: Tensor, count: int) -> Tensor:
        """The direction of step `count`, from 1 on: each copy's gradient, cut to a norm of 1, and 0 where it is not finite.

        So a copy that has gone astray leaves the others as they are.
        """
        norm = slope.norm(dim=1, keepdim=True)
        slope = torch.where(norm.isfinite(), slope / norm.clamp(min=1.0), 0.0)
        self.mean = self.mean.lerp(slope, 0.1)
        self.square = self.square.lerp(slope.square(), 0.001)
        return self.mean / (1 - 0.9**count) / ((self.square / (1 - 0.999**count)).sqrt() + 1e-8)
