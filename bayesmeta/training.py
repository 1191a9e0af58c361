"""Meta-training, for every learner."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.checkpoint import Checkpoint
from bayesmeta.data import Episode, check, move
from bayesmeta.distributed import Processes
from bayesmeta.evaluation import predict, seeded
from bayesmeta.functional import chosen_strategy
from bayesmeta.kernel_starts import start_kernels
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import check_targets
from bayesmeta.meta_gradient import MetaGradient
from bayesmeta.networks import check_padding

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
    """The loss or a gradient was not finite. The learner is as it was before that step; `history` ends there too."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:  # else a process pool cannot hand it back
        return type(self), (str(self), self.history)


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
    there, and on a CPU ends with the very bits of a run that was never interrupted.

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
        seed: of torch's global generator during training; the generator itself is left as it was.
        progress: shows a bar with the loss and the number of tasks per second.
        checkpoint: a folder for the state of the run (learner, optimiser, scheduler, generators, history), one run each. It is
            written every `checkpoint_every` steps, at Ctrl-C, at SIGTERM, which then ends the process, and at the end; whole or
            not at all. A call with a folder that holds a run of the same settings resumes it.
        checkpoint_every: the number of steps between two writes, which are what a power cut can cost.
        fabric: a ``lightning_fabric.Fabric``, whose devices share each episode's tasks, and whose device and precision the
            learner is taken to. The run is then that of one process with all tasks, but for the order of sums, and for random
            draws: each process has its own. The first one shows the bar and writes the checkpoint. It is launched if need be.

    Raises:
        ValueError: the first episode does not fit the learner, or an argument is out of range; the checkpoint is damaged, or of a
            run with other settings; before any update.
        NotImplementedError: ``torch.compile`` takes no part of this learner's loss; before any update.
        ConnectionError: another process of the fabric has ended; the message says how to go on.
        Diverged: a loss or gradient is NaN or infinite; the message names step and parameter.

    Warns:
        UserWarning: under a kernel no two points of the first tasks are correlated, so that it would learn nothing.

    Example:
        >>> learner = MAML(MLP(1, 1), Gaussian())
        >>> history = fit(learner, Sinusoids(), steps=2, progress=False)
        >>> len(history.losses)
        2
    """
    processes = Processes(fabric)
    _check_arguments(learner, tasks, steps, optimizer, scheduler, clip, slices, threads, seed, checkpoint_every)
    if not isinstance(compile, bool):
        raise ValueError(f"compile: expected True or False, got {compile!r}")
    if compile and threads > 1:
        raise ValueError(f"threads: expected 1 with compile=True, which torch allows one thread only, got {threads}")
    processes.place(learner)
    with seeded(learner, seed):
        _preflight(learner, first := tasks[0], slices, threads, processes)
        start_kernels(learner, first)
    length = len(tasks)  # type: ignore[arg-type]
    if optimizer is None:
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def say(line: str) -> None:
        if progress and processes.rank == 0:
            tqdm.write(line, file=sys.stderr)

    meta_gradient = MetaGradient(
        learner, parameters, slices, threads, autocast=processes.autocast, say=say, compile=compile
    )
    settings = {"steps": steps, "clip": clip, "slices": slices, "threads": threads, "seed": seed, "tasks": length}
    settings |= {"compile": compile, "processes": processes.count}
    disk = Checkpoint(checkpoint, learner, optimizer, scheduler, settings, tasks[0]) if checkpoint is not None else None

    say(_explain_strategy(learner, slices))
    if compile:
        say(
            "compile: the first step takes until all is compiled, seconds to minutes; the bar's rate is wrong until then"
        )
    history = History()
    learner.train()
    with (
        seeded(learner, processes.stream(seed)),
        _interruptible(signal.SIGINT, *([signal.SIGTERM] if disk else [])) as interrupted,
        tqdm(total=steps, disable=not progress or processes.rank > 0, unit="step") as bar,
    ):
        try:
            if disk and (saved := disk.resume(processes.rank)):
                history = History(saved["losses"], saved["gradient_norms"], saved["seconds"])
                bar.initial = bar.n = len(history.losses)  # which took none of this call's time
                say(f"goes on after step {bar.n} of {steps}, which {checkpoint} holds")
            processes.agree(len(history.losses))
            began = time.perf_counter() - history.seconds
            for step in range(len(history.losses), steps):
                episode = move(processes.share(tasks[step % length]), learner)
                optimizer.zero_grad(set_to_none=True)
                loss, gradient = meta_gradient(episode)
                loss, gradient, history.interrupted = processes.mean(loss, gradient, interrupted())
                for parameter, slope in zip(meta_gradient.parameters, gradient, strict=True):
                    parameter.grad = slope
                norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf")).item()
                if not (torch.isfinite(loss) and norm < float("inf")):
                    raise Diverged(_explain(learner, loss, step), history)
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                history.losses.append(loss.item())
                history.gradient_norms.append(norm)
                history.seconds = time.perf_counter() - began
                rate = (step + 1) * processes.count * len(episode.query.mask) / history.seconds
                bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {rate:.0f} tasks/s", refresh=False)
                bar.update()
                if disk and (history.interrupted or (step + 1) % checkpoint_every == 0 or step + 1 == steps):
                    generators = processes.generators()
                    if processes.rank == 0:
                        disk.write(
                            generators,
                            losses=history.losses,
                            gradient_norms=history.gradient_norms,
                            seconds=history.seconds,
                        )
                    processes.agree(step + 1)
                if history.interrupted:
                    kept = (
                        f"the same call goes on from there, with {checkpoint}"
                        if disk
                        else "no checkpoint was asked for"
                    )
                    say(f"interrupted after step {step + 1} of {steps}: {kept}")
                    break
        except KeyboardInterrupt:  # only where signals are not ours to handle: not in the main thread
            history.interrupted = True
        finally:
            optimizer.zero_grad(set_to_none=True)
            meta_gradient.close()
    return history


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


def _explain(learner: nn.Module, loss: Tensor, step: int) -> str:
    named = [(name, p) for name, p in learner.named_parameters() if p.grad is not None]
    bad_weight = next((name for name, p in learner.named_parameters() if not torch.isfinite(p).all()), None)
    bad = next((name for name, p in named if not torch.isfinite(p.grad).all()), None)  # type: ignore[arg-type]
    if bad_weight is not None:
        what = f"parameter {bad_weight!r} is not finite: the update before this step broke it"
    elif not torch.isfinite(loss):
        what = f"the loss is {loss.item()} though all parameters are finite"
    elif bad is not None:
        what = f"the loss is {loss.item():.4g} but the gradient of parameter {bad!r} is not finite"
    else:
        largest = max(named, key=lambda pair: float(pair[1].grad.abs().max()))[0]  # type: ignore[union-attr]
        what = f"the loss is {loss.item():.4g} and the norm of its gradient overflows, most in parameter {largest!r}"
    return (
        f"step {step}: {what}; the learner is as it was before this step. Lower the optimizer's or the inner rate, "
        "standardise the data (Standardized), or clip harder (clip=0.1)"
    )


def _check_arguments(
    learner: Learner,
    tasks: Dataset[Episode],
    steps: int,
    optimizer: Optimizer | None,
    scheduler: LRScheduler | None,
    clip: float | None,
    slices: int,
    threads: int,
    seed: int,
    checkpoint_every: int,
) -> None:
    if steps < 1:
        raise ValueError(f"steps: expected at least 1 meta-update, got {steps}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a positive norm, or None for no clipping, got {clip}")
    if optimizer is None and scheduler is not None:
        raise ValueError(
            "optimizer: expected the scheduler's optimizer beside a scheduler, got None; pass both or neither"
        )
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every: expected at least 1 step, got {checkpoint_every}")
    for name, value in (("steps", steps), ("slices", slices), ("threads", threads), ("seed", seed)):
        if not hasattr(value, "__index__") or isinstance(value, bool):
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
    if not isinstance(learner, Learner):
        raise TypeError(
            f"learner: expected a learner, got {learner if isinstance(learner, type) else type(learner).__name__}; "
            "e.g. MAML(MLP(1, 1), Gaussian())"
        )
    if not (hasattr(tasks, "__getitem__") and hasattr(tasks, "__len__")):
        raise TypeError(
            f"tasks: expected a task source or a map-style dataset of episodes, got {type(tasks).__name__}; "
            "pass the data set itself rather than a loader, or a list of episodes"
        )
    if len(tasks) == 0:
        raise ValueError("tasks: expected at least one episode, got none")
    mine = {id(p) for p in learner.parameters() if p.requires_grad}
    if not mine:
        raise ValueError("learner: expected parameters to train, got none that require a gradient; unfreeze some")
    if optimizer is not None and not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: expected one that holds parameters of the learner, got one of other tensors, which would train "
            "nothing; build it from learner.parameters(), after any copy of the learner"
        )
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(
            "scheduler: expected the scheduler of the given optimizer, got another's; build it from optimizer"
        )


def _preflight(learner: Learner, episode: Episode, slices: int, threads: int, processes: Processes) -> None:
    """Fails early and clearly if the first episode is broken or does not fit the learner."""
    check(episode)
    batch = len(processes.share(episode).query.mask)
    if slices < 1 or batch % slices:
        divisors = [k for k in range(1, batch + 1) if batch % k == 0]
        raise ValueError(
            f"slices: expected a divisor of the {batch} tasks in an episode, got {slices}; one of {divisors}"
        )
    if not 1 <= threads <= slices:
        raise ValueError(
            f"threads: expected 1 to {slices}, the slices that they share, got {threads}; e.g. slices={batch} gives each task "
            "a slice"
        )
    one: Episode = move(tree_map(lambda leaf: leaf[:1], episode), learner)
    check_padding(learner, episode.query.mask, "query")
    with torch.no_grad():
        prediction = predict(learner, one)
    episode = move(episode, learner)
    for part in episode:
        check_targets(prediction, part)


@contextmanager
def _interruptible(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Turns the first signal into a flag, read between steps; a second Ctrl-C interrupts at once.

    A signal that asks the process to end does so afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if signal.SIGINT in seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    before = {one: signal.signal(one, note) for one in signals}
    try:
        yield lambda: bool(seen)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if signal.SIGTERM in seen:
            signal.raise_signal(signal.SIGTERM)
