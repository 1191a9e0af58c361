"""Learners side by side on the same tasks: a tidy table, and a page to show to others."""

from __future__ import annotations

import base64
import html
import io
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta import plots
from bayesmeta.data import Episode, check_count
from bayesmeta.evaluation import Clusters, Predictor, predict, statistics
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
        names = list(dict.fromkeys(row.learner for row in self.rows))
        metrics = list(dict.fromkeys(row.metric for row in self.rows))
        cells = {(row.learner, row.metric): f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in self.rows}
        width = max(map(len, names)) + 2
        columns = [max(len(m), *(len(cells[n, m]) for n in names)) + 2 for m in metrics]
        lines = [" " * width + "".join(f"{m:>{c}}" for m, c in zip(metrics, columns, strict=True))]
        for name in names:
            row = "".join(f"{cells[name, m]:>{c}}" for m, c in zip(metrics, columns, strict=True))
            lines.append(f"{name:<{width}}{row}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Writes one self-contained HTML page: table, pictures, settings, versions and times. No script, no other file."""
        target = Path(path)
        target.write_text(_page(self), encoding="utf-8")
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
        page: where to write an HTML page with table and pictures; needs matplotlib.
        progress: shows bars.

    Returns:
        A tidy table with one row a learner and metric, which can be saved as a page later too.

    Raises:
        ValueError: there is no learner, or the tasks do not fit one.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> found = compare({"oracle": tasks.oracle}, tasks, episodes=1, progress=False)
        >>> [row.metric for row in found.rows][:2]
        ['NLL', 'RMSE']
    """
    if not learners:
        raise ValueError('learners: expected at least one by name, got none; e.g. {"MAML": MAML(...)}')
    check_count("episodes", episodes)
    first = tasks[0]
    if metrics is None:
        name, learner = next(iter(learners.items()))
        metrics = _metrics_for(learner, first, seed)
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
    pictures = _pictures(learners, tasks, first, episodes, rows, seed) if page is not None else {}
    comparison = Comparison(rows, seconds, settings, pictures)
    if page is not None:
        comparison.save(page)
    return comparison


def _metrics_for(learner: Predictor, episode: Episode, seed: int) -> list[Metric]:
    module = learner if isinstance(learner, Learner) else None
    with seeded(seed), torch.no_grad():
        prediction = predict(learner, episode)
    if prediction.support is not None and prediction.support.is_discrete:
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
    seed: int,
) -> dict[str, str]:
    figures: dict[str, Any] = {}

    def pane(title: str) -> Any:
        figures[title] = plots.figure(4.8, 3.8)
        return figures[title].subplots()

    classes = not first.query.y.is_floating_point() or any(row.metric in ("ECE", "accuracy") for row in rows)
    ax = pane("Reliability" if classes else "Calibration")
    for name, learner in learners.items():
        draw = plots.plot_reliability if classes else plots.plot_calibration
        draw(learner, tasks, episodes=episodes, label=name, seed=seed, ax=ax)
    ax = pane("NLL with 95 % intervals")
    ours = [row for row in rows if row.metric == "NLL"][::-1]
    for height, row in enumerate(ours):
        ax.plot([row.low, row.high], [height, height], color=plots.COLOURS[0])
        ax.plot(row.value, height, "o", color=plots.COLOURS[0])
    ax.set_yticks(range(len(ours)), [row.learner for row in ours])
    ax.set_xlabel("nats a point; lower is better")
    ax.spines[["top", "right"]].set_visible(False)
    single = isinstance(first.support.x, Tensor) and first.support.x.shape[2:] == (1,) and not classes
    for name, learner in learners.items() if single else ():
        module = learner if isinstance(learner, Learner) else None
        inputs = torch.cat(
            [first.support.x[:1, :, 0][first.support.mask[:1]], first.query.x[:1, :, 0][first.query.mask[:1]]]
        )
        at = torch.linspace(float(inputs.min()), float(inputs.max()), 120)
        with torch.no_grad(), seeded(seed):
            posterior: Any = learner(type(first.support)(*(leaf[:1] for leaf in first.support)))
            if hasattr(posterior, "draws"):
                plots.plot_predictive(posterior, at[None, :, None], seed=seed, ax=pane(f"{name}: the first task"))
    return {title: _svg(figure) for title, figure in figures.items()}


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2.25rem; }
p.about { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
thead th { max-width: 8rem; vertical-align: bottom; line-height: 1.3; } td { white-space: nowrap; line-height: 1.3; }
th:first-child, td:first-child { text-align: left; }
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
    names = list(dict.fromkeys(row.learner for row in comparison.rows))
    metrics = list(dict.fromkeys(row.metric for row in comparison.rows))
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
<p class="about">The same test tasks for all. 95 % intervals are bootstraps over tasks; shaded is the best value of a column,
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
