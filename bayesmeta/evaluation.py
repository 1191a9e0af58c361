"""Evaluation of learners, oracles and baselines on the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.data import Episode, Points, check, move
from bayesmeta.likelihoods import check_targets
from bayesmeta.metrics import Estimate, Metric, default_metrics, estimates
from bayesmeta.networks import check_padding

__all__ = ["Predictor", "evaluate", "evaluating", "predict", "seeded", "statistics"]

Predictor: TypeAlias = Callable[[Points], Callable[[Any], Distribution]]
"""A learner, an oracle, or any function from a support to a function from x to a predictive distribution."""


def evaluate(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Estimate]:
    """Metrics of a learner's predictions over the first episodes of a task source, with 95 % intervals over tasks.

    Args:
        learner: a learner, an oracle, or any function from a support to a function from x to predictions.
        tasks: a task source, or any map-style dataset of episodes.
        episodes: how many of its episodes to read. Where they hold the same tasks again (``tasks.members``), a task
            counts once in the bootstrap however often its points were divided.
        metrics: what to report; NLL, RMSE and 90 % coverage, or for classes NLL, accuracy and ECE, if None.
        seed: of torch's global generator during evaluation, of which random predictives draw; it is left as it was.
        progress: shows a bar.

    Returns:
        A dictionary from a metric's name to its `Estimate`.

    Raises:
        ValueError: an episode is broken or does not fit the learner.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> list(evaluate(tasks.oracle, tasks, episodes=1))
        ['NLL', 'RMSE', '90% coverage']
    """
    chosen, rows = statistics(learner, tasks, episodes=episodes, metrics=metrics, seed=seed, progress=progress)
    return estimates(chosen, rows)


def statistics(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[list[Metric], list[Tensor]]:
    """The metrics, and of each its statistic of every task, ``(T, K)``: what `evaluate` reduces and plots draw.

    Args:
        learner, tasks, episodes, metrics, seed, progress: as in `evaluate`.
    """
    if not 1 <= episodes <= len(tasks):  # type: ignore[arg-type]
        raise ValueError(f"episodes: expected 1 to {len(tasks)} (the source's length), got {episodes}")  # type: ignore[arg-type]
    module = learner if isinstance(learner, nn.Module) else None
    rows: dict[str, list[Tensor]] = {}
    members: list[Tensor | None] = []
    metrics = _metrics(metrics)
    with evaluating(module), seeded(module, seed), torch.no_grad():
        for index in tqdm(range(episodes), disable=not progress, unit="episode"):
            episode = tasks[index]
            check(episode, like=module)
            if module is not None:
                check_padding(module, episode.query.mask, "query")
                episode = move(episode, module)
            prediction = predict(learner, episode)
            metrics = metrics or default_metrics(prediction)
            for metric in metrics:
                rows.setdefault(metric.name, []).append(metric.statistic(prediction, episode.query).cpu())
            members.append(tasks.members(index) if hasattr(tasks, "members") else None)
    chosen = metrics or []
    return chosen, [_by_task(rows[metric.name], members) for metric in chosen]


def _metrics(metrics: Sequence[Metric] | None) -> list[Metric] | None:
    if metrics is None:
        return None
    given: list[Metric] = [metrics] if isinstance(metrics, Metric) else list(metrics)
    names = [metric.name if isinstance(metric, Metric) else repr(metric) for metric in given]
    if len(set(names)) < len(names) or not all(isinstance(metric, Metric) for metric in given):
        raise ValueError(
            f"metrics: expected metrics such as RMSE() of different names, got {names}; evaluate them apart"
        )
    return given


def _by_task(rows: Sequence[Tensor], members: Sequence[Tensor | None]) -> Tensor:
    """One row a task, (T, K): statistics of a task that several episodes hold add up."""
    known = [ids for ids in members if ids is not None]
    every = torch.cat(list(rows))
    if len(known) < len(members):
        return every
    ids, place = torch.cat(known).unique(return_inverse=True)
    return every.new_zeros(len(ids), every.shape[1]).index_add(0, place, every)


def predict(learner: Predictor, episode: Episode) -> Distribution:
    """The predictive at the query, with errors of shape explained and the targets checked against it."""
    try:
        prediction = learner(episode.support)(episode.query.x)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # a RuntimeError too, but no matter of shapes
        raise
    except (RuntimeError, IndexError) as error:
        shapes = {
            f"{part}.{field}": tuple(getattr(getattr(episode, part), field).shape)
            for part in ("support", "query")
            for field in ("x", "y")
            if isinstance(getattr(getattr(episode, part), field), Tensor)
        }
        raise ValueError(
            f"learner and tasks: expected tasks that fit the learner's network, got an error for tasks of shapes {shapes}: "
            f"{error}. Compare the network's inputs and outputs with the last dimensions of x and y, and labels with its outputs"
        ) from error
    if not isinstance(prediction, Distribution):
        raise ValueError(
            f"learner: expected predictions that are distributions, got {type(prediction).__name__}; return e.g. "
            "Independent(Normal(mean, scale), 1) with mean of shape (B, M, 1)"
        )
    check_targets(prediction, episode.query)
    return prediction


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """The module in evaluation mode within, and each of its parts as it was afterwards: some may be frozen on purpose."""
    modes = [(part, part.training) for part in module.modules()] if module is not None else []
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def seeded(module: nn.Module | None, seed: int) -> Iterator[None]:
    """torch's global generators seeded within, and as they were afterwards."""
    devices = {p.device for p in module.parameters()} if module is not None else set()
    with torch.random.fork_rng([d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        yield
