"""Learners side by side on the same streams: what they know at the end, what they lost on the way, and the course of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesmeta import plots
from bayesmeta.evaluation import Predictor, Retention, evaluate_stream
from bayesmeta.evaluation.asking import LabelSpace
from bayesmeta.evaluation.streaming import Streams
from bayesmeta.files import check_target
from bayesmeta.metrics import Estimate, Metric
from bayesmeta.plots.axes import figure
from bayesmeta.report.compare import check_learners, settings_of, with_page
from bayesmeta.report.page import Comparison, Row
from bayesmeta.report.pictures import plain_name, svg

__all__ = ["compare_streams"]


def compare_streams(
    learners: Mapping[str, Predictor],
    streams: Streams,
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    at: Sequence[int] | None = None,
    labels: LabelSpace = "all",
    seed: int = 0,
    page: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Tells learners the parts of the same streams, and asks all of them about all parts so far.

    Of each metric there are the figure at the end, that of `Retention.forgetting` and that of `Retention.interference`; pictures
    are of every metric over time and, of each learner and in the same colours, of the first metric after each part about each
    part.

    Args:
        learners: by name, as they are: trained, or oracles. `evaluate_stream` says which can be told further points.
        streams, episodes, metrics, at, labels: as in `evaluate_stream`.
        seed: of random predictions; torch's global generator is not touched.
        page: where to write an HTML page with table and pictures, as in `compare`; needs matplotlib.
        progress: shows bars.

    Returns:
        A tidy table with one row a learner and figure, which can be saved as a page later too.

    Raises:
        ValueError: there is no learner, the streams do not fit one, or the page is no file.
        TypeError: learners are no dictionary, or cannot be told further points.
        OSError: the page cannot be written there.
        ImportError: there is to be a page, and no matplotlib.

    Example:
        >>> tasks = ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, ways=4, shots=5, queries=5)
        >>> learners = {"prototypes": PrototypicalNetwork(nn.Linear(2, 2), classes=4)}
        >>> found = compare_streams(learners, ClassStreams(tasks), episodes=2, progress=False)
        >>> found.metrics[:3]
        ['NLL', 'NLL forgotten', 'NLL lost to other parts']
    """
    check_learners(learners)
    if page is not None:
        check_target(page, "page")
        figure(1, 1)
    rows: list[Row] = []
    seconds: dict[str, dict[str, float]] = {}
    kept: dict[str, Retention] = {}
    for name, learner in learners.items():
        began = time.perf_counter()
        try:
            kept[name] = evaluate_stream(
                learner,
                streams,
                episodes=episodes,
                metrics=metrics,
                at=at,
                labels=labels,
                together=False,
                seed=seed,
                progress=progress,
            )
        except (ValueError, TypeError, NotImplementedError) as error:
            error.add_note(f"of {name!r} among the learners")
            raise
        rows += _rows(name, kept[name])
        seconds[name] = {"evaluation": time.perf_counter() - began}
    settings = {"streams": repr(streams), "episodes": episodes, "labels": labels, "seed": seed, **settings_of(learners)}
    comparison = Comparison(rows, seconds, settings, {})
    return comparison if page is None else with_page(comparison, page, lambda: _pictures(kept))


def _rows(name: str, kept: Retention) -> list[Row]:
    def row(title: str, found: Estimate, better: str) -> Row:
        return Row(name, title, *found, better=better)

    final, forgetting, interference = kept.final, kept.forgetting, kept.interference
    return [
        each
        for metric in kept.metrics
        for each in (
            row(metric.name, final[metric.name], metric.better),
            row(f"{metric.name} forgotten", forgetting[metric.name], "lower"),
            row(f"{metric.name} lost to other parts", interference[metric.name], "lower"),
        )
    ]


def _pictures(kept: Mapping[str, Retention]) -> dict[str, str]:
    figures = {}
    first = next(iter(kept.values())).metrics
    for metric in first:
        title = f"{metric.name} of all parts so far; thin, of the part that has just come"
        figures[title] = figure(4.8, 3.8)
        ax = figures[title].subplots()
        for name, each in kept.items():
            plots.retention(each, metric.name, label=plain_name(name), ax=ax)
    meshes: list[Any] = []
    for name, each in kept.items():
        title = f"{name}: {first[0].name} after each part about each part"
        figures[title] = figure(4.8, 3.8)
        meshes += plots.retention_matrix(each, first[0].name, ax=figures[title].subplots()).collections
    ends = [end for mesh in meshes for end in mesh.get_clim()]
    for mesh in meshes:  # a colour is the same figure of all learners
        mesh.set_clim(min(ends), max(ends))
    return {title: svg(drawn) for title, drawn in figures.items()}
