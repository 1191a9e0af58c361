"""Evaluation of learners, oracles and baselines on the same tasks."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.border import check
from bayesmeta.border.checks import check_episodes, check_is_episode
from bayesmeta.data import Episode, Points, move, seen
from bayesmeta.distributions import kind, undefined
from bayesmeta.evaluation.units import Clusters, Units
from bayesmeta.likelihoods import check_targets
from bayesmeta.metrics import Estimate, Metric, default_metrics, estimates
from bayesmeta.networks import check_padding
from bayesmeta.randomness import seeded

__all__ = [
    "Predictor",
    "answers",
    "check_defined",
    "evaluate",
    "evaluating",
    "judged",
    "predict",
    "reading",
    "statistics",
]

Predictor: TypeAlias = Callable[[Points], Callable[[Any], Distribution]]
"""A learner, an oracle, or any function from a support to a function from x to a predictive distribution."""


def evaluate(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    clusters: Clusters | None = None,
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
        clusters: which unit to draw anew, where tasks are not independent but share people, days or classes: a function from an
            episode's index to whole numbers ``(B,)``, the unit of each task, or ``(B, W)``, the W units of each. Intervals then
            say what *other* people, days or classes would give; few units give wide intervals, and one none. The source's own
            if None: tasks (``tasks.members``), or for `ImageTasks` classes (``tasks.clusters``).
        seed: of random predictions; torch's global generator is not touched.
        progress: shows a bar.

    Returns:
        A dictionary from a metric's name to its `Estimate`.

    Raises:
        ValueError: an episode is broken or does not fit the learner, a prediction or a metric of it is NaN, or clusters have
            another shape.
        TypeError: a metric cannot judge predictions of this kind, or clusters are no function.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> list(evaluate(tasks.oracle, tasks, episodes=1))
        ['NLL', 'RMSE', '90% coverage']

        Ten people were measured on two days each, one task a day:

        >>> days = tasks_from_arrays(torch.rand(100), torch.rand(100), torch.arange(100) // 5, shots=2)
        >>> people = torch.arange(20) // 2
        >>> learner = MAML(MLP(1, 1), Gaussian())
        >>> found = evaluate(learner, days, episodes=1, clusters=lambda index: people[days.members(index)])
    """
    return estimates(
        *statistics(learner, tasks, episodes=episodes, metrics=metrics, clusters=clusters, seed=seed, progress=progress)
    )


def statistics(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[list[Metric], list[Tensor], Tensor | None]:
    """What `evaluate` reduces and plots draw.

    Args:
        learner, tasks, episodes, metrics, clusters, seed, progress: as in `evaluate`.

    Returns:
        The metrics; of each its statistics of every task or cluster, ``(T, K)``; and the units of each task, ``(T, W)``, where
        tasks have several.
    """
    rows: list[list[Tensor]] = []
    units = Units(tasks, clusters)
    metrics = check_metrics(metrics)
    with reading(learner, tasks, episodes=episodes, seed=seed, progress=progress) as read:
        for index, episode in read:
            prediction = answers(learner, episode)
            metrics = metrics or default_metrics(prediction)
            rows.append(judged(metrics, prediction, episode.query, learner, f"episode {index}"))
            units.read(index, len(episode.query.mask))
    return metrics or [], *units.pooled([torch.cat(each) for each in zip(*rows, strict=True)])


def judged(
    metrics: Sequence[Metric], prediction: Distribution, given: Points, learner: Predictor, where: str
) -> list[Tensor]:
    """Each metric's statistic of predictions, ``(B, K)``.

    Raises:
        ValueError: a metric has no number for a task: one such would make the whole figure NaN.
    """
    rows = [metric.statistic(prediction, given).cpu() for metric in metrics]
    if rows and torch.cat(rows, 1).isnan().any():
        metric, row = next(pair for pair in zip(metrics, rows, strict=True) if pair[1].isnan().any())
        name, task = getattr(learner, "__qualname__", type(learner).__name__), int(row.isnan().nonzero()[0, 0])
        why = (
            "it gives standard deviations of 0, for which there is no density; let it give a smallest one, or judge it by RMSE"
            if _without_spread(prediction)
            else "look for infinite or very large predictions, or leave the metric out"
        )
        raise ValueError(
            f"learner: expected predictions of which {metric.name} is a number, got NaN for {name} at task {task} of "
            f"{where}; {why}"
        )
    return rows


def _without_spread(prediction: Distribution) -> bool:
    """Whether a prediction of real numbers is certain of one."""
    return kind(prediction) == "real" and bool((prediction.variance == 0).any())


@contextmanager
def reading(
    learner: Any, tasks: Dataset[Episode], *, episodes: int, seed: int, progress: bool = False
) -> Iterator[Iterator[tuple[int, Episode]]]:
    """The first episodes of a task source, each with its index, checked and where the learner is, to be judged within.

    Within it a learner is in evaluation mode, no gradients are kept, and random numbers come from the seed.

    Raises:
        ValueError: there are not so many episodes, one is broken, or tasks and learner are of tables whose columns differ.
    """
    check_episodes(tasks)
    whole = isinstance(episodes, Integral) and not isinstance(episodes, bool)
    if not whole or not 1 <= episodes <= len(tasks):  # type: ignore[arg-type]
        raise ValueError(f"episodes: expected 1 to {len(tasks)} (the source's length), got {episodes!r}")  # type: ignore[arg-type]
    module = learner if isinstance(learner, nn.Module) else None
    mine: Any = getattr(learner, "columns", None)
    theirs = getattr(tasks, "columns", None)
    if hasattr(mine, "check_same") and theirs is not None:  # both of a table
        mine.check_same(theirs)

    def each() -> Iterator[tuple[int, Episode]]:
        for index in tqdm(range(episodes), disable=not progress, unit="episode"):
            episode = tasks[index]
            check_is_episode(episode, index)
            check(episode, like=module)
            if module is not None:
                check_padding(module, seen(episode.query), "query")
                episode = move(episode, module)
            yield index, episode

    with evaluating(module), seeded(seed), torch.no_grad():
        yield each()


def check_metrics(metrics: Sequence[Metric] | None) -> list[Metric] | None:
    """A user's metrics as a list, checked.

    Raises:
        ValueError: something is no metric, or two have one name.
    """
    if metrics is None:
        return None
    given: list[Metric] = [metrics] if isinstance(metrics, Metric) else list(metrics)
    names = [metric.name if isinstance(metric, Metric) else repr(metric) for metric in given]
    if len(set(names)) < len(names) or not all(isinstance(metric, Metric) for metric in given):
        raise ValueError(
            f"metrics: expected metrics such as RMSE() of different names, got {names}; evaluate them apart"
        )
    return given


def predict(learner: Predictor, episode: Episode) -> Distribution:
    """The predictive at the query, with errors of shape explained and the targets checked against it."""
    try:
        prediction = learner(episode.support)(episode.query.x)
    except (RuntimeError, IndexError) as error:
        if not _may_be_of_shapes(error):
            raise
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
    if prediction.batch_shape != episode.query.mask.shape[:2]:  # which would broadcast
        raise ValueError(
            f"learner: expected a prediction for each of {tuple(episode.query.mask.shape[:2])} tasks and points, got a batch of "
            f"{tuple(prediction.batch_shape)}; predict (B, M, *O) for x of (B, M, *X)"
        )
    check_targets(prediction, episode.query)
    return prediction


def answers(learner: Predictor, episode: Episode) -> Distribution:
    """The predictive at the query, which must be a distribution at all points that are asked for (see `check_defined`)."""
    prediction = predict(learner, episode)
    check_defined(prediction, episode.query)
    return prediction


def check_defined(distribution: Distribution, given: Points) -> None:
    """Raises a ValueError if a prediction of an observed point, batch ``(..., B, M)``, is NaN or infinite."""
    there = seen(given)
    bad = undefined(distribution) & there
    if bad.any():
        task, point = bad.nonzero()[0, -2:].tolist()
        raise ValueError(
            f"learner: expected predictions that are numbers, got NaN or infinity at task {task}, point {point}, and in "
            f"{int(bad.sum())} of {int(there.expand(bad.shape).sum())} predictions of the episode; look for NaN in the "
            "learner's parameters (training may have diverged) or for inputs far larger than those of training"
        )


_TENSOR_CODE = {"torch", "gpytorch", "linear_operator", "pyro"}


def _may_be_of_shapes(error: Exception) -> bool:
    """Whether torch says that tensors do not fit: no failed decomposition, no lack of memory, nothing that a network raises."""
    if type(error) not in (RuntimeError, IndexError) or "alloc" in str(error):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    raised = (
        trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    )  # and not from within an operation
    return not raised or trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _TENSOR_CODE


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
