"""What a comparison found: a table in text, and a page to show to others."""

from __future__ import annotations

import base64
import html
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayesmeta.files import write_atomically
from bayesmeta.metrics import Estimate

__all__ = ["Comparison", "Row"]


@dataclass(frozen=True)
class Row:
    """One learner and metric."""

    learner: str
    metric: str
    value: float
    low: float
    """Of the 95 % interval over tasks; NaN, as `high`, of a single one."""
    high: float
    better: str
    """``"lower"`` or ``"higher"`` values are better, or those ``"near 0.9"``; empty where none is by itself, as of sharpness."""


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
    differences: list[Row] = field(default_factory=list)
    """One a metric and learner: its figure minus that of the learner that `compare` was told to compare with."""

    def __str__(self) -> str:
        if not self.differences:
            return _table(self.rows)
        title = f"difference {self.settings['differences']}"
        return f"{_table(self.rows)}\n\n{_table(self.differences, title)}"

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


def _table(rows: list[Row], title: str = "") -> str:
    names, metrics = (list(dict.fromkeys(getattr(row, part) for row in rows)) for part in ("learner", "metric"))
    cells = {(row.learner, row.metric): str(Estimate(row.value, row.low, row.high)) for row in rows}
    width = max(map(len, [title, *names])) + 2
    columns = [max(len(m), *(len(cells[n, m]) for n in names)) + 2 for m in metrics]
    lines = [f"{title:<{width}}" + "".join(f"{m:>{c}}" for m, c in zip(metrics, columns, strict=True))]
    for name in names:
        row = "".join(f"{cells[name, m]:>{c}}" for m, c in zip(metrics, columns, strict=True))
        lines.append(f"{name:<{width}}{row}")
    return "\n".join(lines)


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
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1.25rem; }
figure { margin: 0; max-width: 32rem; }
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
            ends = "" if math.isnan(row.low) else f"<small>{row.low:.3f} to {row.high:.3f}</small>"
            cells += f"<td{mark}>{row.value:.3f}{ends}</td>"
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
they share (clusters), and a single task has none; shaded is the best value of a column,
and every one whose interval holds it.</p>
<div class="wide"><table>
<thead><tr><th>learner</th>{head}<th>training</th><th>evaluation</th></tr></thead>
<tbody>
{body}</tbody>
</table></div>
{_differences(comparison)}<h2>Pictures</h2>
<div class="pictures">
{pictures}</div>
<h2>Settings</h2>
<dl>{settings}<dt>versions</dt><dd>{_text(versions)}</dd></dl>
<h2>Learners</h2>
{learners}
</body>
</html>
"""


def _differences(comparison: Comparison) -> str:
    """A table of differences, shaded where the interval leaves out zero on the better side."""
    if not comparison.differences:
        return ""
    rows = {(row.learner, row.metric): row for row in comparison.differences}
    names, metrics = (list(dict.fromkeys(keys)) for keys in zip(*rows, strict=True))
    body = ""
    for name in names:
        cells = ""
        for metric in metrics:
            row = rows[name, metric]
            mark = ' class="best"' if (row.high < 0 if row.better == "lower" else row.low > 0) else ""
            ends = "" if math.isnan(row.low) else f"<small>{row.low:+.3f} to {row.high:+.3f}</small>"
            cells += f"<td{mark}>{row.value:+.3f}{ends}</td>"
        body += f"<tr><td>{_text(name)}</td>{cells}</tr>\n"
    return f"""<h2>Differences {_text(comparison.settings["differences"])}</h2>
<p class="about">Task by task, so that what makes a task hard for both cancels; shaded is what is better by its interval.</p>
<div class="wide"><table>
<thead><tr><th>learner</th>{"".join(f"<th>{_text(m)}</th>" for m in metrics)}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
"""


def _is_best(row: Row, column: list[Row]) -> bool:
    """Whether the best value of the column is the row's, or inside its interval."""
    values = [other.value for other in column if not math.isnan(other.value)]
    if not row.better:
        return False
    if not values or row.better.startswith("near"):
        return bool(values) and row.low <= float(row.better.split()[1]) <= row.high
    best = min(values) if row.better == "lower" else max(values)
    return row.value == best or row.low <= best <= row.high


def _text(value: Any) -> str:
    return html.escape(str(value))
