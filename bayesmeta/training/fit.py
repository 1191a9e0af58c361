"""Meta-training, for every learner."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.data import Episode
from bayesmeta.files import describe, digest, generator_states
from bayesmeta.gaussian_process import start_kernels
from bayesmeta.learner import Learner
from bayesmeta.randomness import seeded
from bayesmeta.training.checkpoint import Checkpoint
from bayesmeta.training.checks import check_arguments, explain_update, preflight
from bayesmeta.training.gradient import MetaGradient, explain_strategy
from bayesmeta.training.interruption import Interruption
from bayesmeta.training.processes import Processes
from bayesmeta.training.starts import start_classes
from bayesmeta.training.step import Diverged, History, Update
from bayesmeta.training.validation import Validation

__all__ = ["Diverged", "History", "fit"]


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
    validation: Dataset[Episode] | None = None,
    validate_every: int = 100,
    patience: int = 10,
    on_step: Callable[[History], object] | None = None,
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
    between the features of two points (see `bayesmeta.gaussian_process.starts.start_kernels`). What you have set yourself stays.
    The scales of `PrototypicalNetwork(scaled=True)` and `GeMCL(isotropic=True)` start there too (`bayesmeta.training.starts`).

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
        validation: tasks that the learner does not train on, by which the best of its states is chosen: the one whose predictions
            of the queries have the lowest NLL, whatever the training objective is. It is the learner's in the end. The first 20
            episodes are read (all of fewer), the same each time, before the first step, every `validate_every` steps, and after
            the last. No bit of training depends on them, but where it ends.
        validate_every: the number of steps between two looks at the validation tasks.
        patience: the number of looks without a new lowest NLL after which the run ends.
        on_step: called after each step with the history so far, for a logger, say: ``history.losses[-1]`` is the loss of step
            ``len(history.losses)``. What it draws at random changes nothing. An error that it raises ends the run.
        checkpoint: a folder for the state of the run (learner, optimiser, scheduler, generators, history, the best state), one
            run each. It is written every `checkpoint_every` steps, at Ctrl-C, at SIGTERM, which then ends the process, and at the
            end; whole or not at all. A call with a folder that holds a run of the same settings resumes it. Compared are the
            arguments here; numbers, texts and names of functions of learner, optimiser and scheduler, but not what training
            moves, such as a rate with a schedule; which parameters are trained; the first episode, the last one trained on, and
            the first for validation. More steps may be asked for where the schedule does not depend on them, and more patience.
            While a run lasts, its folder is locked; the file ``lock`` stays.
        checkpoint_every: the number of steps between two writes, which are what a power cut can cost.
        fabric: a ``lightning_fabric.Fabric``, whose devices share each episode's tasks, and whose device and precision the
            learner is taken to. The run is then that of one process with all tasks, but for the order of sums, and for random
            draws: each process has its own. The first one shows the bar, writes the checkpoint and calls `on_step`. It is
            launched if need be. Before the first step all processes compare their settings and the first episode.

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
        >>> history = fit(learner, Sinusoids(), steps=2, validation=Sinusoids(seed=1), progress=False)
        >>> list(history.validation)  # after how many steps
        [0, 2]
    """
    processes = Processes(fabric)
    sources = {"tasks": tasks} | ({} if validation is None else {"validation": validation})
    fixed = {"slices": slices, "threads": threads, "seed": seed}  # where a run goes on
    free = {"steps": steps, "patience": patience, "checkpoint_every": checkpoint_every}  # but the same in all processes
    whole = {**fixed, **free, "validate_every": validate_every}
    check_arguments(learner, sources, optimizer, scheduler, clip=clip, compile=compile, on_step=on_step, **whole)
    processes.compare(describe(learner))
    processes.place(learner)
    with seeded(seed):
        first, length = tasks[0], len(tasks)  # type: ignore[arg-type]
        preflight(learner, first, slices, threads, processes)
    looks = Validation(learner, validation, validate_every, patience, seed)
    settings = {"clip": clip, **fixed, "tasks": length, "compile": compile, "processes": processes.count}
    if optimizer is None:
        settings["steps"] = steps  # which another schedule may not depend on
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    settings |= looks.settings() | describe(learner, optimizer, scheduler)
    processes.compare({**settings, **free, "checkpoint": bool(checkpoint), "the first episode": digest(first)})
    disk = Checkpoint(checkpoint, learner, optimizer, scheduler, settings, digest(first)) if checkpoint else None
    shown = progress and processes.rank == 0
    say: Callable[[str], object] = partial(tqdm.write, file=sys.stderr) if shown else lambda line: None
    say(explain_strategy(learner, slices))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with (
        seeded(seed, processes.rank),
        Interruption(signal.SIGINT, *([signal.SIGTERM] if disk else [])) as interruption,
        _begun(disk, processes, tasks, steps, looks) as history,
        _training(learner, optimizer),
        closing(
            MetaGradient(learner, parameters, slices, threads, autocast=processes.autocast, say=say, compile=compile)
        ) as meta_gradient,
        tqdm(total=steps, initial=len(history.losses), disable=not shown, unit="step") as bar,
    ):
        began = time.perf_counter() - history.seconds
        if history.losses:
            say(f"goes on after step {len(history.losses)} of {steps}, which {checkpoint} holds")
        else:
            start_kernels(learner, first)
            start_classes(learner, first)
            looks.look(0, processes)
        update = Update(learner, optimizer, scheduler, clip, processes, interruption, meta_gradient, history, first)
        while not (ended := _ended(history, steps, looks)):
            interruption.breakable = True
            index = len(history.losses) % length
            episode = tasks[index]
            update(episode, index)
            step = len(history.losses)
            history.seconds = time.perf_counter() - began
            rate = step * len(episode.query.mask) / history.seconds
            bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {rate:.0f} tasks/s", refresh=False)
            bar.update()
            if step % validate_every == 0 or step == steps:
                looks.look(step, processes)
            if step % checkpoint_every == 0 or _ended(history, steps, looks):
                if broken := explain_update(learner, step - 1):
                    raise Diverged(broken, history)
                if disk:
                    _write(disk, processes, episode, history, looks)
            if on_step is not None and processes.rank == 0:
                with seeded(seed, step):
                    on_step(history)
        looks.restore()
        if said := _explain_end(history, checkpoint):
            say(f"{ended} after step {len(history.losses)} of {steps}: {said}")
    return history


def _ended(history: History, steps: int, looks: Validation) -> str:
    """Why a run ends here, in a word; none if it goes on."""
    if history.interrupted:
        return "interrupted"
    if len(history.losses) == steps:
        return "ended"
    return "stopped" if looks.over() else ""


def _explain_end(history: History, checkpoint: str | os.PathLike[str] | None) -> str:
    """What there is of a run that ended."""
    parts = []
    if history.interrupted:
        parts.append(
            f"the same call goes on from there, with {checkpoint}"
            if checkpoint is not None
            else "no checkpoint was asked for"
        )
    if history.best is not None:
        parts.append(
            f"the learner is as after step {history.best}, with the lowest validation NLL, "
            f"{history.validation[history.best]:.3f}"
        )
    return "; ".join(parts)


@contextmanager
def _begun(
    disk: Checkpoint | None, processes: Processes, tasks: Dataset[Episode], steps: int, looks: Validation
) -> Iterator[History]:
    """The history of a run whose folder is held meanwhile, at the same step in all processes: a new one is empty."""
    history = History()
    with ExitStack() as held:
        reached = -1  # then the others do not wait for this process
        try:
            if disk and processes.rank == 0:
                held.enter_context(disk.alone())
            if disk and (saved := disk.resume(tasks, processes.rank)):
                history = History(saved["losses"], saved["gradient_norms"], saved["seconds"])
                looks.seen, looks.best = saved["validation"], saved["best"]
            history.validation = looks.seen
            if len(history.losses) > steps:
                raise ValueError(
                    f"steps: expected at least the {len(history.losses)} that the run of the checkpoint has made, got {steps}; "
                    "ask for more, or use another folder"
                )
            reached = len(history.losses)
        finally:
            processes.agree(reached)
        try:
            yield history
        except KeyboardInterrupt as error:  # the second, while a gradient was taken
            kept = f" {disk.path.parent} holds the run as it was last written." if disk else ""
            raise KeyboardInterrupt(
                f"step {len(history.losses)} was broken off, and the learner is as it was before it.{kept}"
            ) from error


@contextmanager
def _training(learner: Learner, optimizer: Optimizer) -> Iterator[None]:
    """Training mode within, but for parts in evaluation mode of a learner in training mode; then ready to answer."""
    if not learner.training:
        learner.train()
    try:
        yield
    finally:
        optimizer.zero_grad(set_to_none=True)
        learner.eval()


def _write(disk: Checkpoint, processes: Processes, episode: Episode, history: History, looks: Validation) -> None:
    generators = {name: processes.gather(state) for name, state in generator_states().items()}
    if processes.rank == 0:
        progress = {"losses": history.losses, "gradient_norms": history.gradient_norms, "seconds": history.seconds}
        disk.write(generators, episode, **progress, validation=looks.seen, best=looks.best)
    processes.agree(len(history.losses))
