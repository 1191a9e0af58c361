"""Learners side by side on the same tasks."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta.border import check_count
from bayesmeta.data import Episode
from bayesmeta.distributions import Kind, has_classes, is_known, kind
from bayesmeta.evaluation import Clusters, Predictor, Units, check_metrics, predict, reading, statistics
from bayesmeta.files import check_target
from bayesmeta.learner import Learner
from bayesmeta.metrics import (
    CRPS,
    ECE,
    MCE,
    NLL,
    RMSE,
    Accuracy,
    Brier,
    ClasswiseECE,
    Coverage,
    ErrorAUROC,
    Metric,
    QuantileCalibrationError,
    Sharpness,
    difference,
    estimates,
)
from bayesmeta.plots.axes import figure
from bayesmeta.report.page import Comparison, Row
from bayesmeta.report.pictures import pictures
from bayesmeta.training import fit

__all__ = ["compare"]


def compare(
    learners: Mapping[str, Predictor],
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    clusters: Clusters | None = None,
    against: str | None = None,
    train: Dataset[Episode] | None = None,
    steps: int = 1000,
    seed: int = 0,
    page: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Evaluates learners on the same episodes, after meta-training them if asked to.

    Args:
        learners: by name; learners, oracles, or any functions from a support to a function from x to predictions.
        tasks: test tasks.
        episodes: how many of their episodes to read.
        metrics: NLL, RMSE, CRPS, 90 % coverage, quantile calibration error and sharpness, or for classes NLL, accuracy, Brier
            score, ECE, MCE, class-wise ECE and error AUROC, if None.
        clusters: which unit to draw anew in the intervals, as in `evaluate`.
        against: the name of the learner that the others are compared with, task by task: `Comparison.differences` then holds each
            figure minus its, with an interval. Distances from perfection, such as the ECE, have none.
        train: meta-training tasks, on which every learner that has something to train is trained by `fit`, in place; if None,
            learners are taken as they are.
        steps: of `fit`.
        seed: of training and evaluation; torch's global generator is not touched.
        page: where to write an HTML page with table and pictures; needs matplotlib. Whether it can be written is looked at first;
            if it cannot be written all the same, the table is returned, and stderr says why.
        progress: shows bars.

    Returns:
        A tidy table with one row a learner and metric, which can be saved as a page later too.

    Raises:
        ValueError: there is no learner, or none of that name; some give densities and others probabilities; the tasks do not fit
            one, or the page is no file.
        OSError: the page cannot be written there.
        ImportError: there is to be a page, and no matplotlib.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> found = compare({"oracle": tasks.oracle}, tasks, episodes=1, progress=False)
        >>> [row.metric for row in found.rows][:2]
        ['NLL', 'RMSE']
    """
    check_learners(learners)
    check_count("episodes", episodes)
    if against is not None and against not in list(learners):
        raise ValueError(f"against: expected one of {', '.join(map(repr, learners))}, got {against!r}; name a learner")
    if page is not None:  # before hours of training, not after
        check_target(page, "page")
        figure(1, 1)
    metrics = check_metrics(metrics)
    first = tasks[0]
    Units(tasks, clusters).of(0, len(first.query.mask))
    if not metrics:
        name, learner = next(iter(learners.items()))
        metrics = _metrics_for(learner, tasks, seed)
    if len(learners) > 1:
        _check_kinds(learners, tasks, metrics, seed)
    rows: list[Row] = []
    seconds: dict[str, dict[str, float]] = {}
    sums: dict[str, list[Tensor]] = {}
    for name, learner in learners.items():
        seconds[name] = {}
        if train is not None and isinstance(learner, Learner) and any(p.requires_grad for p in learner.parameters()):
            history = fit(learner, train, steps=steps, seed=seed, progress=progress)
            seconds[name]["training"] = history.seconds
        began = time.perf_counter()
        try:
            chosen, statistic, shared = statistics(
                learner, tasks, episodes=episodes, metrics=metrics, clusters=clusters, seed=seed, progress=progress
            )
        except (ValueError, TypeError) as error:
            error.add_note(f"of {name!r} among the learners")
            raise
        sums[name], found = statistic, estimates(chosen, statistic, shared)
        seconds[name]["evaluation"] = time.perf_counter() - began
        rows += [Row(name, metric.name, *found[metric.name], better=metric.better) for metric in chosen]
    differences = [
        Row(name, metric.name, *difference(metric, mine, theirs, shared), better=metric.better)
        for name, statistic in sums.items()
        if against is not None and name != against
        for metric, mine, theirs in zip(metrics, statistic, sums[against], strict=True)
        if metric.better in ("lower", "higher") and metric.gaps(mine.double().sum(0)) is None
    ]
    settings = {
        "test tasks": repr(tasks),
        "episodes": episodes,
        "training tasks": "none: as they came" if train is None else f"{train!r}, {steps} steps",
        "seed": seed,
        **({} if against is None else {"differences": f"from {against}"}),
        **settings_of(learners),
    }
    comparison = Comparison(rows, seconds, settings, {}, differences)
    if page is None:
        return comparison
    return with_page(comparison, page, lambda: pictures(learners, tasks, first, episodes, rows, clusters, seed))


def check_learners(learners: Any) -> None:
    """Raises an error if these are no learners by name."""
    if not isinstance(learners, Mapping):
        raise TypeError(
            f'learners: expected a dictionary of learners by name, got {type(learners).__name__}; e.g. {{"MAML": learner}}'
        )
    if not learners:
        raise ValueError('learners: expected at least one by name, got none; e.g. {"MAML": MAML(...)}')


def settings_of(learners: Mapping[str, Predictor]) -> dict[str, Any]:
    """What every page says of how it was made."""
    return {
        "learners": {name: repr(learner) for name, learner in learners.items()},
        "versions": _versions(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def with_page(comparison: Comparison, page: str | Path, draw: Callable[[], dict[str, str]]) -> Comparison:
    """The comparison with its pictures, and its page written; a picture or a full disk must not cost what was measured."""
    try:
        comparison.pictures.update(draw())
        comparison.save(page)
    except Exception as error:
        tqdm.write(
            f"page: expected to write {page}, got {type(error).__name__}: {error}; the table is returned, and "
            "its save(path) writes the page elsewhere",
            file=sys.stderr,
        )
    return comparison


def _metrics_for(learner: Predictor, tasks: Dataset[Episode], seed: int) -> list[Metric]:
    with reading(learner, tasks, episodes=1, seed=seed) as read:
        _, episode = next(read)
        prediction = predict(learner, episode)
        if has_classes(prediction):
            return [NLL(), Accuracy(), Brier(), ECE(), MCE(), ClasswiseECE(), ErrorAUROC()]
        try:
            CRPS().statistic(prediction, episode.query)
        except TypeError:  # a user's own family
            return [NLL(), RMSE(), Coverage(0.9), QuantileCalibrationError(), Sharpness()]
        return [NLL(), RMSE(), CRPS(), Coverage(0.9), QuantileCalibrationError(), Sharpness()]


def _check_kinds(
    learners: Mapping[str, Predictor], tasks: Dataset[Episode], metrics: Sequence[Metric], seed: int
) -> None:
    """Raises a ValueError where a score would be of a density here and of a probability there, which have no common unit."""
    found: dict[bool, tuple[str, Kind]] = {}
    for name, learner in learners.items():
        try:
            with reading(learner, tasks, episodes=1, seed=seed) as read:
                prediction = predict(learner, next(read)[1])
        except (ValueError, TypeError) as error:
            error.add_note(f"of {name!r} among the learners")
            raise
        if is_known(prediction):
            of = kind(prediction)
            found.setdefault(of == "real", (name, of))
    if len(found) < 2:
        return
    (densities, _), (probabilities, of) = found[True], found[False]
    if of == "counts" and not any(isinstance(metric, NLL) for metric in metrics):
        return  # both are numbers, and have errors and intervals in one unit
    remedy = ", or leave out NLL, as in metrics=[RMSE(), Coverage(0.9)]" if of == "counts" else ""
    raise ValueError(
        f"learners: expected predictions of one kind, got densities of real numbers from {densities!r} and probabilities of {of} "
        f"from {probabilities!r}, whose scores have no common unit; compare them apart{remedy}"
    )


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("bayesmeta", "torch", "pyro-ppl", "gpytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source"
    return found
