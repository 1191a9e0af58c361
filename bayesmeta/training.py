"""Meta-training, for every learner."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.checkpoint import Checkpoint, describe, digest, generator_states
from bayesmeta.data import Episode, move
from bayesmeta.distributed import Processes
from bayesmeta.fit_checks import check_arguments, check_episode, explain, explain_data, explain_update, preflight
from bayesmeta.functional import chosen_strategy
from bayesmeta.interruption import Interruption
from bayesmeta.kernel_starts import start_kernels
from bayesmeta.learner import Learner
from bayesmeta.meta_gradient import MetaGradient
from bayesmeta.randomness import seeded

__all__ = ["Diverged", "History", "fit"]


@dataclass
class History:
    """What happened in `fit`, step by step."""

    losses: list[float] = field(default_factory=list)
    """The meta-objective of each step, before its update."""
    gradient_norms: list[float] = field(default_factory=list)
    """The norm of each step's meta-gradient, before clipping."""
    seconds: float = 0.0
    """Wall-clock time."""
    interrupted: bool = False
    """True if Ctrl-C ended the run early."""


class Diverged(FloatingPointError):
    """The loss, a gradient or an updated weight was not finite; `history` ends there.

    The learner is as it was before that step, unless the message says that an update broke it. No checkpoint is written then.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:  # else a process pool cannot hand it back
        return type(self), (str(self), self.history)


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    learner: Learner,
    tasks: Dataset[Episode],
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    clip: float | None = 1.0,
    slices: int = 1,
    threads: int = 1,
    compile: bool = False,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    fabric: Any = None,
) -> History:
    """Meta-trains a learner in place: step i descends the loss of episode ``tasks[i]``.

    Ctrl-C ends the run after the step in hand, and the history so far is returned. With a checkpoint the same call goes on from
    there, and on a CPU ends with the very bits of a run that was never interrupted. A second Ctrl-C breaks the step off, but
    neither an update nor a write. Signals that are ignored (``nohup``) stay so.

    The learner trains in training mode, but for parts that are in evaluation mode while the learner itself is not, and is left in
    evaluation mode, ready to answer. Gradients are taken within ``torch.no_grad()`` and ``torch.inference_mode()`` too.

    Lengthscales of kernels that are as gpytorch made them start from the first episode's tasks: at 1/√2 of the median distance
    between the features of two points (see `bayesmeta.kernel_starts.start_kernels`). What you have set yourself stays.

    Args:
        learner: what to train; tasks are moved to its device and floating type.
        tasks: a task source, or any map-style dataset of episodes. Beyond its length it starts over.
        steps: the number of meta-updates.
        optimizer: of the learner's parameters; Adam with rate 3e-3, decayed by a cosine to 0, if None.
        scheduler: stepped after each update.
        clip: the largest norm of the meta-gradient; None does not clip.
        slices: splits each episode's tasks into this many equal parts with a backward pass each, which bounds memory.
        threads: how many slices to work on at once, each on one thread of its own. For convolutional networks on a CPU,
            whose tasks run one after the other, ``slices=B, threads=cores`` is fastest. Random draws of a stochastic
            learner then come in no fixed order.
        compile: compiles the loss and its gradient by ``torch.compile``, once for each shape of an episode, which takes
            seconds to two minutes; small networks are then several times faster. Where it does not take the loss as one graph,
            each function that is mapped over tasks is compiled by itself, and a line says why. The run is the same but for
            rounding.
        seed: of the learner's random draws, a whole number of at least 0. They are others than those that follow
            ``torch.manual_seed(seed)``, and torch's global generator is not touched; dropout in a network draws from that one.
        progress: shows a bar with the loss and the number of tasks per second.
        checkpoint: a folder for the state of the run (learner, optimiser, scheduler, generators, history), one run each. It is
            written every `checkpoint_every` steps, at Ctrl-C, at SIGTERM, which then ends the process, and at the end; whole or
            not at all. A call with a folder that holds a run of the same settings resumes it. Compared are the arguments here;
            numbers, texts and names of functions of learner, optimiser and scheduler, but not what training moves, such as a rate
            with a schedule; which parameters are trained; the first episode, and the last one trained on. More steps may be asked
            for where the schedule does not depend on them. While a run lasts, its folder is locked; the file ``lock`` stays.
        checkpoint_every: the number of steps between two writes, which are what a power cut can cost.
        fabric: a ``lightning_fabric.Fabric``, whose devices share each episode's tasks, and whose device and precision the
            learner is taken to. The run is then that of one process with all tasks, but for the order of sums, and for random
            draws: each process has its own. The first one shows the bar and writes the checkpoint. It is launched if need be.
            Before the first step all processes compare their settings and the first episode.

    Raises:
        ValueError: the first episode does not fit the learner, or an argument is out of range; the checkpoint is damaged, of a
            run with other settings, or in use by another; the fabric's processes differ; before any update. Also where a later
            episode has other tasks in its support than in its query, or a query without a point.
        NotImplementedError: ``torch.compile`` takes no part of this learner's loss; before any update.
        ConnectionError: another process of the fabric has ended; the message says how to go on.
        TimeoutError: another process of the fabric is slower than its timeout.
        KeyboardInterrupt: at a second Ctrl-C, while a gradient is taken; the learner is as it was before that step.
        Diverged: a loss, a gradient or an updated weight is NaN or infinite; the message names step and parameter, or the data.

    Warns:
        UserWarning: under a kernel no two points of the first tasks are correlated, so that it would learn nothing.

    Example:
        >>> learner = MAML(MLP(1, 1), Gaussian())
        >>> history = fit(learner, Sinusoids(), steps=2, progress=False)
        >>> len(history.losses)
        2
    """
    processes = Processes(fabric)
    check_arguments(
        learner,
        tasks,
        steps=steps,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        slices=slices,
        threads=threads,
        compile=compile,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    processes.compare(describe(learner))
    processes.place(learner)
    length = len(tasks)  # type: ignore[arg-type]
    with seeded(seed):
        first = tasks[0]
        preflight(learner, first, slices, threads, processes)
    settings = {"clip": clip, "slices": slices, "threads": threads, "seed": seed, "tasks": length, "compile": compile}
    settings["processes"] = processes.count
    if optimizer is None:
        settings["steps"] = steps  # which another schedule may not depend on
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    settings |= describe(learner, optimizer, scheduler)
    plan = {"steps": steps, "checkpoint": checkpoint is not None, "checkpoint_every": checkpoint_every}
    processes.compare({**settings, **plan, "the first episode": digest(first)})
    disk = (
        Checkpoint(checkpoint, learner, optimizer, scheduler, settings, digest(first))
        if checkpoint is not None
        else None
    )

    def say(line: str) -> None:
        if progress and processes.rank == 0:
            tqdm.write(line, file=sys.stderr)

    say(_explain_strategy(learner, slices))
    if compile:
        say(
            "compile: the first step takes until all is compiled, seconds to minutes; the bar's rate is wrong until then"
        )
    with (
        seeded(seed, processes.rank),
        Interruption(signal.SIGINT, *([signal.SIGTERM] if disk else [])) as interruption,
        _begun(disk, processes, tasks, steps) as history,
        _training(learner),
        tqdm(total=steps, disable=not progress or processes.rank > 0, unit="step") as bar,
    ):
        began = time.perf_counter() - history.seconds
        bar.initial = bar.n = len(history.losses)  # which took none of this call's time
        if history.losses:
            say(f"goes on after step {bar.n} of {steps}, which {checkpoint} holds")
        else:
            start_kernels(learner, first)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        meta_gradient = MetaGradient(
            learner, parameters, slices, threads, autocast=processes.autocast, say=say, compile=compile
        )
        try:
            for step in range(len(history.losses), steps):
                interruption.breakable = True
                index = step % length
                episode = tasks[index]
                check_episode(learner, episode, index)
                optimizer.zero_grad(set_to_none=True)
                try:
                    loss, gradient = meta_gradient(move(processes.share(episode), learner))
                except (ValueError, IndexError, RuntimeError) as error:
                    if broken := explain_data(episode, index):
                        raise Diverged(f"step {step}: {broken}", history) from error
                    error.add_note(f"at step {step}, in episode {index}; the learner is as it was before this step")
                    raise
                loss, gradient, history.interrupted = processes.mean(
                    loss, gradient, bool(interruption), meta_gradient.parameters
                )
                interruption.breakable = False
                for parameter, slope in zip(meta_gradient.parameters, gradient, strict=True):
                    parameter.grad = slope
                norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf")).item()
                if not (torch.isfinite(loss) and norm < float("inf")):
                    raise Diverged(explain(learner, loss, step, episode, index), history)
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                history.losses.append(loss.item())
                history.gradient_norms.append(norm)
                history.seconds = time.perf_counter() - began
                rate = (step + 1) * len(episode.query.mask) / history.seconds
                bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {rate:.0f} tasks/s", refresh=False)
                bar.update()
                if history.interrupted or (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                    if broken := explain_update(learner, step):
                        raise Diverged(broken, history)
                    if disk:
                        _write(disk, processes, episode, history)
                if history.interrupted:
                    kept = (
                        f"the same call goes on from there, with {checkpoint}"
                        if disk
                        else "no checkpoint was asked for"
                    )
                    say(f"interrupted after step {step + 1} of {steps}: {kept}")
                    break
        except KeyboardInterrupt as error:  # the second, while a gradient was taken
            kept = f" {checkpoint} holds the run as it was last written." if disk else ""
            raise KeyboardInterrupt(
                f"step {len(history.losses)} was broken off, and the learner is as it was before it.{kept}"
            ) from error
        finally:
            optimizer.zero_grad(set_to_none=True)
            meta_gradient.close()
    return history


@contextmanager
def _begun(disk: Checkpoint | None, processes: Processes, tasks: Dataset[Episode], steps: int) -> Iterator[History]:
    """The history of a run whose folder is held meanwhile, at the same step in all processes: a new one is empty."""
    history = History()
    with ExitStack() as held:
        reached = -1  # then the others do not wait for this process
        try:
            if disk and processes.rank == 0:
                held.enter_context(disk.alone())
            if disk and (saved := disk.resume(tasks, processes.rank)):
                history = History(saved["losses"], saved["gradient_norms"], saved["seconds"])
            if len(history.losses) > steps:
                raise ValueError(
                    f"steps: expected at least the {len(history.losses)} that the run of the checkpoint has made, got {steps}; "
                    "ask for more, or use another folder"
                )
            reached = len(history.losses)
        finally:
            processes.agree(reached)
        yield history


@contextmanager
def _training(learner: Learner) -> Iterator[None]:
    """Training mode within, but for parts in evaluation mode of a learner in training mode; then ready to answer."""
    if not learner.training:
        learner.train()
    try:
        yield
    finally:
        learner.eval()


def _write(disk: Checkpoint, processes: Processes, episode: Episode, history: History) -> None:
    generators = {name: processes.gather(state) for name, state in generator_states().items()}
    if processes.rank == 0:
        progress = {"losses": history.losses, "gradient_norms": history.gradient_norms, "seconds": history.seconds}
        disk.write(generators, episode, **progress)
    processes.agree(len(history.losses))


def _explain_strategy(learner: Learner, slices: int) -> str:
    """How tasks are mapped, and why, in a line."""
    asked = {part.strategy for part in learner.modules() if isinstance(part, Learner)} - {"auto"}
    if asked:
        return f"tasks are mapped by {' and '.join(sorted(asked))}, as learner.strategy says"
    name, why = chosen_strategy(learner)
    other = "loop" if name == "vmap" else "vmap"
    more = (
        "; slices=B, threads=cores has a task a core at a time, which is faster"
        if name == "loop" and slices == 1
        else ""
    )
    return f'tasks are mapped by {name}, since {why}; learner.strategy = "{other}" overrides{more}'
