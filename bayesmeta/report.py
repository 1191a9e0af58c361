"""Learners side by side on the same tasks: a tidy table, and a page to show to others."""

from __future__ import annotations

import base64
import html
import io
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bayesmeta import plots
from bayesmeta.data import Episode, Points, check_count
from bayesmeta.distributions import has_classes
from bayesmeta.evaluation import Clusters, Predictor, evaluating, predict, reading, statistics
from bayesmeta.files import check_target, write_atomically
from bayesmeta.learner import Learner, Posterior
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
    estimates,
)
from bayesmeta.randomness import seeded
from bayesmeta.training import fit

__all__ = ["Comparison", "Row", "compare"]


@dataclass(frozen=True)
class Row:
    """One learner and metric."""

    learner: str
    metric: str
    value: float
    low: float
    """Of the 95 % interval over tasks."""
    high: float
    better: str
    """``"lower"`` or ``"higher"`` values are better, or those ``"near 0.9"``."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. ``str`` of it is a table in plain text; ``pandas.DataFrame(comparison.rows)`` a tidy frame."""

    rows: list[Row]
    """One a learner and metric."""
    seconds: dict[str, dict[str, float]]
    """By learner: ``"training"`` (if any) and ``"evaluation"``, in seconds."""
    settings: dict[str, Any]
    """Tasks, episodes, seed, versions, machine."""
    pictures: dict[str, str]
    """SVG by title, empty without matplotlib."""

    def __str__(self) -> str:
        names, metrics = self.learners, self.metrics
        cells = {(row.learner, row.metric): f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in self.rows}
        width = max(map(len, names)) + 2
        columns = [max(len(m), *(len(cells[n, m]) for n in names)) + 2 for m in metrics]
        lines = [" " * width + "".join(f"{m:>{c}}" for m, c in zip(metrics, columns, strict=True))]
        for name in names:
            row = "".join(f"{cells[name, m]:>{c}}" for m, c in zip(metrics, columns, strict=True))
            lines.append(f"{name:<{width}}{row}")
        return "\n".join(lines)

    @property
    def learners(self) -> list[str]:
        """The learners' names, in order."""
        return list(dict.fromkeys(row.learner for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """The metrics' names, in order."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def save(self, path: str | Path) -> Path:
        """Writes one self-contained HTML page: table, pictures, settings, versions and times. No script, no other file.

        The page is written whole or not at all: where that fails, the old one stays.

        Raises:
            OSError, ValueError: the page cannot be written there.
        """
        target = Path(path)
        write_atomically(target, _page(self).encode())
        return target


def compare(
    learners: Mapping[str, Predictor],
    tasks: Dataset[Episode],
    *,
    episodes: int,
    metrics: Sequence[Metric] | None = None,
    clusters: Clusters | None = None,
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
        train: meta-training tasks, on which every learner is trained by `fit`, in place; if None, learners are taken as they are.
        steps: of `fit`.
        seed: of training and evaluation; torch's global generator is not touched.
        page: where to write an HTML page with table and pictures; needs matplotlib. Whether it can be written is looked at first;
            if it cannot be written all the same, the table is returned, and stderr says why.
        progress: shows bars.

    Returns:
        A tidy table with one row a learner and metric, which can be saved as a page later too.

    Raises:
        ValueError: there is no learner, the tasks do not fit one, or the page is no file.
        OSError: the page cannot be written there.
        ImportError: there is to be a page, and no matplotlib.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> found = compare({"oracle": tasks.oracle}, tasks, episodes=1, progress=False)
        >>> [row.metric for row in found.rows][:2]
        ['NLL', 'RMSE']
    """
    if not learners:
        raise ValueError('learners: expected at least one by name, got none; e.g. {"MAML": MAML(...)}')
    check_count("episodes", episodes)
    if page is not None:  # before hours of training, not after
        check_target(page, "page")
        plots.figure(1, 1)
    first = tasks[0]
    if metrics is None:
        name, learner = next(iter(learners.items()))
        metrics = _metrics_for(learner, tasks, seed)
    rows: list[Row] = []
    seconds: dict[str, dict[str, float]] = {}
    for name, learner in learners.items():
        seconds[name] = {}
        if train is not None and isinstance(learner, Learner):
            history = fit(learner, train, steps=steps, seed=seed, progress=progress)
            seconds[name]["training"] = history.seconds
        began = time.perf_counter()
        chosen, statistic, shared = statistics(
            learner, tasks, episodes=episodes, metrics=metrics, clusters=clusters, seed=seed, progress=progress
        )
        found = estimates(chosen, statistic, shared)
        seconds[name]["evaluation"] = time.perf_counter() - began
        rows += [Row(name, metric.name, *found[metric.name], better=_better(metric)) for metric in chosen]
    settings = {
        "test tasks": repr(tasks),
        "episodes": episodes,
        "training tasks": "none: as they came" if train is None else f"{train!r}, {steps} steps",
        "seed": seed,
        "learners": {name: repr(learner) for name, learner in learners.items()},
        "versions": _versions(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    comparison = Comparison(rows, seconds, settings, {})
    if page is not None:
        try:
            comparison.pictures.update(_pictures(learners, tasks, first, episodes, rows, clusters, seed))
            comparison.save(page)
        except Exception as error:  # a picture or a full disk must not cost what was trained and measured
            tqdm.write(
                f"page: expected to write {page}, got {type(error).__name__}: {error}; the table is returned, and "
                "its save(path) writes the page elsewhere",
                file=sys.stderr,
            )
    return comparison


def _metrics_for(learner: Predictor, tasks: Dataset[Episode], seed: int) -> list[Metric]:
    with reading(learner, tasks, episodes=1, seed=seed) as read:
        prediction = predict(learner, next(read)[1])
    if has_classes(prediction):
        return [NLL(), Accuracy(), Brier(), ECE(), MCE(), ClasswiseECE(), ErrorAUROC()]
    return [NLL(), RMSE(), CRPS(), Coverage(0.9), QuantileCalibrationError(), Sharpness()]


def _better(metric: Metric) -> str:
    if isinstance(metric, Coverage):
        return f"near {metric.level:g}"
    return "higher" if isinstance(metric, (Accuracy, ErrorAUROC)) or metric.name == "Brier resolution" else "lower"


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("bayesmeta", "torch", "pyro-ppl", "gpytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source"
    return found


def _pictures(
    learners: Mapping[str, Predictor],
    tasks: Dataset[Episode],
    first: Episode,
    episodes: int,
    rows: list[Row],
    clusters: Clusters | None,
    seed: int,
) -> dict[str, str]:
    figures: dict[str, Any] = {}

    def pane(title: str) -> Any:
        figures[title] = plots.figure(4.8, 3.8)
        return figures[title].subplots()

    classes = any(row.metric in ("ECE", "Accuracy") for row in rows) or not first.query.y.is_floating_point()
    ax = pane("Reliability" if classes else "Calibration")
    for name, learner in learners.items():
        shown: Any = {"episodes": episodes, "label": _plain(name), "clusters": clusters, "seed": seed, "ax": ax}
        if classes:
            plots.plot_reliability(learner, tasks, bins=ECE().bins, **shown)  # whose ECE is the table's
        else:
            plots.plot_calibration(learner, tasks, **shown)
    metric = "NLL" if any(row.metric == "NLL" for row in rows) else rows[0].metric
    ax = pane(f"{metric} with 95 % intervals")
    ours = [row for row in rows if row.metric == metric][::-1]
    for height, row in enumerate(ours):
        ax.plot([row.low, row.high], [height, height], color=plots.COLOURS[0])
        ax.plot(row.value, height, "o", color=plots.COLOURS[0])
    ax.set_yticks(range(len(ours)), [_plain(row.learner) for row in ours])
    better = ours[0].better if ours[0].better.startswith("near") else f"{ours[0].better} is better"
    ax.set_xlabel(f"nats a point; {better}" if metric == "NLL" else better)
    ax.spines[["top", "right"]].set_visible(False)
    single = isinstance(first.support.x, Tensor) and first.support.x.shape[2:] == (1,) and not classes
    if single and first.query.y.shape[2:] == (1,):
        _first_tasks(learners, first, seed, pane)
    return {title: _svg(figure) for title, figure in figures.items()}


def _first_tasks(learners: Mapping[str, Predictor], first: Episode, seed: int, pane: Callable[[str], Any]) -> None:
    """The first task as each learner sees it, on the same axes, with what was asked for."""
    support, query = (Points(*(leaf[:1] for leaf in part)) for part in first)
    seen = torch.cat([part.x[part.mask][:, 0] for part in (support, query)])
    at = torch.linspace(float(seen.min()), float(seen.max()), 120)
    panes = []
    for name, learner in learners.items():
        module = learner if isinstance(learner, Learner) else None
        with evaluating(module), torch.no_grad(), seeded(seed):
            posterior: Any = learner(support)
            if not isinstance(posterior, Posterior):  # a function of the user's, without draws
                continue
            ax = plots.plot_predictive(posterior, at[None, :, None], seed=seed, ax=pane(f"{name}: the first task"))
        ax.plot(query.x[query.mask][:, 0], query.y[query.mask][:, 0], "x", color=plots.COLOURS[1], label="asked for")
        ax.legend(frameon=False, fontsize=8)
        panes.append(ax)
    ends = [end for ax in panes for end in ax.get_ylim()]
    for ax in panes:
        ax.set_ylim(min(ends), max(ends))


def _plain(name: str) -> str:
    """A name as matplotlib shows it: $ begins no formula, and _ hides it from no legend."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 80rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2.25rem; }
p.about { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
thead th { max-width: 6.5rem; vertical-align: bottom; line-height: 1.3; } td { white-space: nowrap; line-height: 1.3; }
th:first-child, td:first-child { text-align: left; white-space: normal; max-width: 14rem; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #1a1a1a; font-weight: 600; } thead small { display: block; color: #777; font-weight: 400; }
td small { display: block; color: #777; font-weight: 400; }
td.best { background: #e6f1f8; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem; } figure { margin: 0; flex: 1 1 24rem; max-width: 32rem; }
figure img { width: 100%; height: auto; } figcaption { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f6f6f6; padding: .75rem; overflow-x: auto; font-size: 12px; }
"""


def _page(comparison: Comparison) -> str:
    names, metrics = comparison.learners, comparison.metrics
    rows = {(row.learner, row.metric): row for row in comparison.rows}
    head = "".join(f"<th>{_text(m)}<small>{_text(rows[names[0], m].better)}</small></th>" for m in metrics)
    body = ""
    for name in names:
        cells = ""
        for metric in metrics:
            row = rows[name, metric]
            mark = ' class="best"' if _is_best(row, [rows[n, metric] for n in names]) else ""
            cells += f"<td{mark}>{row.value:.3f}<small>{row.low:.3f} to {row.high:.3f}</small></td>"
        times = comparison.seconds[name]
        spent = f"{times['training']:.1f} s" if "training" in times else "–"
        body += f"<tr><td>{_text(name)}</td>{cells}<td>{spent}</td><td>{times['evaluation']:.1f} s</td></tr>\n"
    pictures = "".join(
        f'<figure><figcaption>{_text(title)}</figcaption><img alt="{_text(title)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"></figure>\n'
        for title, svg in comparison.pictures.items()
    )
    settings = "".join(
        f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>"
        for key, value in comparison.settings.items()
        if not isinstance(value, dict)
    )
    versions = ", ".join(f"{key} {value}" for key, value in comparison.settings["versions"].items())
    learners = "".join(
        f"<details><summary>{_text(name)}</summary><pre>{_text(text)}</pre></details>"
        for name, text in comparison.settings["learners"].items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Learners compared</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Learners compared</h1>
<p class="about">The same test tasks for all. 95 % intervals are bootstraps over tasks, or over the units that
they share (clusters); shaded is the best value of a column,
and every one whose interval holds it.</p>
<div class="wide"><table>
<thead><tr><th>learner</th>{head}<th>training</th><th>evaluation</th></tr></thead>
<tbody>
{body}</tbody>
</table></div>
<h2>Pictures</h2>
<div class="pictures">
{pictures}</div>
<h2>Settings</h2>
<dl>{settings}<dt>versions</dt><dd>{_text(versions)}</dd></dl>
<h2>Learners</h2>
{learners}
</body>
</html>
"""


def _is_best(row: Row, column: list[Row]) -> bool:
    """Whether the best value of the column is the row's, or inside its interval."""
    values = [other.value for other in column if not math.isnan(other.value)]
    if not values or row.better.startswith("near"):
        return bool(values) and row.low <= float(row.better.split()[1]) <= row.high
    best = min(values) if row.better == "lower" else max(values)
    return row.value == best or row.low <= best <= row.high


def _text(value: Any) -> str:
    return html.escape(str(value))
