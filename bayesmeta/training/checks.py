"""What `fit` checks: its arguments, its first episode, each later one, and why a number is not finite."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map

from bayesmeta.border import check
from bayesmeta.border.checks import check_episodes, check_is_episode, check_shapes
from bayesmeta.data import Episode, concatenate, move, seen
from bayesmeta.evaluation import predict
from bayesmeta.learner import Learner, check_entries
from bayesmeta.likelihoods import check_targets
from bayesmeta.networks import check_padding, has_batch_norm
from bayesmeta.training.processes import Processes

__all__ = ["check_arguments", "check_episode", "explain", "explain_data", "explain_update", "preflight"]

_REMEDY = "Lower the optimizer's or the inner rate, standardise the data (Standardized), or clip harder (clip=0.1)"


def check_arguments(
    learner: Learner,
    tasks: Mapping[str, Any],
    optimizer: Optimizer | None,
    scheduler: LRScheduler | None,
    *,
    clip: float | None,
    compile: bool,
    on_step: Any,
    **whole: int,
) -> None:
    """Raises a ValueError or TypeError for arguments of `fit` that are out of range or do not belong together.

    Args:
        learner, optimizer, scheduler, clip, compile, on_step: as in `fit`.
        tasks: the arguments that are tasks, by name.
        whole: the arguments that are whole numbers, by name.
    """
    for name, value in whole.items():
        if not hasattr(value, "__index__") or isinstance(value, (bool, Tensor)):
            raise ValueError(f"{name}: expected a whole number, got {value!r}; e.g. {name}=1")
    if whole["steps"] < 1:
        raise ValueError(f"steps: expected at least 1 meta-update, got {whole['steps']}")
    if whole["seed"] < 0:
        raise ValueError(f"seed: expected a whole number of at least 0, got {whole['seed']}; e.g. seed=0")
    for name, unit in (("checkpoint_every", "step"), ("validate_every", "step"), ("patience", "look")):
        if whole[name] < 1:
            raise ValueError(f"{name}: expected at least 1 {unit}, got {whole[name]}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a positive norm, or None for no clipping, got {clip}")
    if not isinstance(compile, bool):
        raise ValueError(f"compile: expected True or False, got {compile!r}")
    if compile and whole["threads"] > 1:
        raise ValueError(
            f"threads: expected 1 with compile=True, which torch allows one thread only, got {whole['threads']}"
        )
    if not (on_step is None or callable(on_step)):
        raise TypeError(f"on_step: expected a function of the history, got {on_step!r}; e.g. lambda history: ...")
    if not isinstance(learner, Learner):
        raise TypeError(
            f"learner: expected a learner, got {learner if isinstance(learner, type) else type(learner).__name__}; "
            "e.g. MAML(MLP(1, 1), Gaussian())"
        )
    for name, given in tasks.items():
        check_episodes(given, name)
        if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
            raise TypeError(
                f"{name}: expected a task source or a map-style dataset of episodes, got {type(given).__name__}; "
                "pass the data set itself rather than a loader, or a list of episodes"
            )
        if len(given) == 0:
            raise ValueError(f"{name}: expected at least one episode, got none")
    _check_parameters(learner)
    _check_optimizer(learner, optimizer, scheduler)


def _check_parameters(learner: Learner) -> None:
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError("learner: expected parameters to train, got none that require a gradient; unfreeze some")
    made = [name for name, p in learner.named_parameters() if p.is_inference()]
    if made:
        raise ValueError(
            f"learner: expected parameters that can be trained, got {made[0]!r}, made within torch.inference_mode(); build the "
            "learner outside"
        )


def _check_optimizer(learner: Learner, optimizer: Optimizer | None, scheduler: LRScheduler | None) -> None:
    if optimizer is None:
        if scheduler is not None:
            raise ValueError(
                "optimizer: expected the scheduler's optimizer beside a scheduler, got None; pass both or neither"
            )
        return
    if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
        got = optimizer if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(
            f"optimizer: expected an optimizer, got {got}; e.g. torch.optim.Adam(learner.parameters(), lr=1e-3)"
        )
    if needed := _needed(optimizer):
        raise ValueError(
            f"optimizer: expected one whose step() takes a gradient, got {type(optimizer).__name__}, whose step needs "
            f"{needed[0]!r} to evaluate one objective many times, where each step of fit has an episode of its own; use "
            "torch.optim.Adam or SGD, or write a loop around learner.loss(episode) on one fixed episode"
        )
    mine = {id(p) for p in learner.parameters() if p.requires_grad}
    if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: expected one that holds parameters of the learner, got one of other tensors, which would train "
            "nothing; build it from learner.parameters(), after any copy of the learner"
        )
    if scheduler is None:
        return
    if isinstance(scheduler, type) or not hasattr(scheduler, "optimizer"):
        raise TypeError(
            f"scheduler: expected one of torch.optim.lr_scheduler, got {scheduler!r}; build it from optimizer"
        )
    if needed := _needed(scheduler):
        raise ValueError(
            f"scheduler: expected one that depends on the number of steps alone, got {type(scheduler).__name__}, whose step "
            f"needs {needed[0]!r}; use e.g. CosineAnnealingLR(optimizer, steps), or call fit several times with the same "
            "optimizer, each with a part of the tasks (torch.utils.data.Subset), and "
            'scheduler.step(evaluate(learner, validation, episodes=...)["NLL"].value) in between'
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            "scheduler: expected the scheduler of the given optimizer, got another's; build it from optimizer"
        )


def _needed(stepping: Any) -> list[str]:
    """What ``stepping.step`` cannot be called without."""
    parameters = list(inspect.signature(type(stepping).step).parameters.values())[
        1:
    ]  # of the class: schedulers wrap the other
    usual = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is inspect.Parameter.empty and each.kind not in usual]


def preflight(learner: Learner, episode: Episode, slices: int, threads: int, processes: Processes) -> None:
    """Raises a ValueError, early and clear, if the first episode is broken or does not fit the learner."""
    check_is_episode(episode, 0)
    check(episode, like=learner)
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
    _check_lengths(learner, episode)
    with torch.no_grad():
        prediction = predict(learner, one)
    episode = move(episode, learner)
    for name, part in zip(Episode._fields, episode, strict=True):
        check_entries(learner, part, name)
        check_targets(prediction, part)


def check_episode(learner: nn.Module, episode: Episode, index: int, first: Episode) -> None:
    """The part of `preflight` that is cheap enough for every step: shapes, and whether each task has something to learn from.

    Raises:
        ValueError: an episode is no episode, its support and query differ in tasks, a query is wholly masked, its targets are of
            another kind than those of the first, or tasks are of unequal length beside batch normalisation.
    """
    try:
        if not isinstance(episode, Episode):
            raise ValueError(f"expected an Episode, got {type(episode).__name__}; build it from Points")
        check_shapes(episode.support, "support")
        check_shapes(episode.query, "query")
        for name, part, like in zip(Episode._fields, episode, first, strict=True):
            _check_kind(name, part.y, like.y)
        tasks, asked = len(episode.support.mask), seen(episode.query).any(1)
        if tasks != len(asked):
            raise ValueError(
                f"expected as many tasks in support and query, got {tasks} and {len(asked)}; build both from the same tasks in "
                "the same order"
            )
        if not asked.all():
            raise ValueError(
                f"query: expected at least one point a task, got none in task {int(asked.int().argmin())}; leave out the task or "
                "give it fewer support points"
            )
        _check_lengths(learner, episode)
    except ValueError as error:
        raise ValueError(f"episode {index}: {error}") from None


def _check_kind(name: str, y: Tensor, first: Tensor) -> None:
    """Raises a ValueError where targets are labels, or of other dimensions, and those that fit the learner are not."""
    if y.is_floating_point() == first.is_floating_point() and y.dim() == first.dim():
        return
    wanted, got = (
        f"{'numbers' if of.is_floating_point() else 'labels'} of {of.dim() - 2} dimensions a point" for of in (first, y)
    )
    raise ValueError(
        f"{name}.y: expected {wanted}, as in the first episode, got {got}, {y.dtype} {tuple(y.shape)}; build the points of all "
        "episodes alike, by points(x, y) for numbers and points(x, y, classes=W) for labels"
    )


def _check_lengths(learner: nn.Module, episode: Episode) -> None:
    """Raises a ValueError if padding would enter the statistics of a batch normalisation, of all points together too."""
    if has_batch_norm(learner):
        for name, part in zip(Episode._fields, episode, strict=True):
            check_padding(learner, seen(part), name)
        check_padding(learner, seen(concatenate(*episode)), "support and query")


def explain_data(episode: Episode, index: int) -> str | None:
    """What is wrong with an episode's values, if anything is."""
    try:
        check(episode)
    except ValueError as error:
        return f"the data of episode {index} are at fault: {error}; the learner is as it was before this step"
    return None


def explain(learner: nn.Module, loss: Tensor, step: int, episode: Episode, index: int) -> str:
    """Why the loss or its gradient is not finite: the data, the weights before the step, or the step itself."""
    if broken := explain_data(episode, index):
        return f"step {step}: {broken}"
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
    return f"step {step}: {what}; the learner is as it was before this step. {_REMEDY}"


def explain_update(learner: nn.Module, step: int) -> str | None:
    """Which parameter a step's update has broken; None if all are finite."""
    bad = next((name for name, p in learner.named_parameters() if not torch.isfinite(p).all()), None)
    return f"step {step}: its update made parameter {bad!r} NaN or infinite. {_REMEDY}" if bad is not None else None
