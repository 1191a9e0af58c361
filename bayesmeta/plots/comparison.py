"""Learners beside each other: by shots, and by ranks over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmeta.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from bayesmeta.plots.axes import COLOURS, axes_or_new, line_style

__all__ = ["metric_against_shots", "ranks"]


def metric_against_shots(
    estimates: Mapping[str, Mapping[int, Estimate]], *, metric: str = "NLL", ax: Axes | None = None
) -> Axes:
    """A metric against the number of shots, with its intervals: a line a learner.

    Args:
        estimates: by learner, then by the number of shots.
        metric: the name on the axis.
        ax: where to draw; a new figure if None.

    Example:
        >>> from bayesmeta.metrics import Estimate
        >>> metric_against_shots({"MAML": {1: Estimate(2.0, 1.9, 2.1), 5: Estimate(1.0, 0.9, 1.1)}}).get_ylabel()
        'NLL'
    """
    ax = axes_or_new(ax)
    for place, (name, row) in enumerate(estimates.items()):
        shots = sorted(row)
        values = np.array([[row[n].value, row[n].low, row[n].high] for n in shots]).T
        style = line_style(place)
        ax.fill_between(shots, values[1], values[2], color=style["color"], alpha=0.18, linewidth=0)
        ax.plot(shots, values[0], marker="o", markersize=4, label=name, **style)
    shots = sorted({n for row in estimates.values() for n in row})
    if shots and min(shots) > 0:
        ax.set_xscale("log")
    ax.set_xticks(shots, [str(n) for n in shots])
    ax.minorticks_off()
    ax.set(xlabel="shots", ylabel=metric)
    ax.legend(frameon=False, fontsize=8)
    return ax


def ranks(
    values: Mapping[str, Sequence[float]],
    *,
    highlight: Sequence[str] = (),
    lower_is_better: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """The rank of each learner over data sets: the area of a dot counts data sets, the bar is the mean rank, the best on top.

    Learners with equal values share the mean of their ranks; a learner without a value (NaN) comes last.

    Args:
        values: a metric by learner, one value a data set, in the same order for all.
        highlight: learners in another colour, such as baselines.
        lower_is_better: whether the lowest value has rank 1.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: the learners have not as many values.

    Example:
        >>> ranks({"MAML": [1.0, 2.0], "DKT": [0.5, 2.5]}).get_xlabel()
        'rank'
    """
    if len({len(row) for row in values.values()}) != 1:
        raise ValueError(
            f"values: expected as many values of each learner, got {[len(row) for row in values.values()]}"
        )
    table = np.array(list(values.values()), dtype=float)
    places = average_ranks(table if lower_is_better else -table)
    order = places.mean(1).argsort()[::-1]
    ax = axes_or_new(ax, 7, 0.36 * len(values) + 1)
    names = [list(values)[i] for i in order]
    for height, i in enumerate(order):
        colour = COLOURS[1] if names[height] in highlight else COLOURS[0]
        for rank, count in zip(*np.unique(places[i], return_counts=True), strict=True):
            ax.scatter(rank, height, s=14 * count, color=colour, alpha=0.35, linewidths=0)
        ax.plot(places[i].mean(), height, "|", color=colour, markersize=16, markeredgewidth=2.5)
    ax.set_yticks(range(len(names)), names)
    for text in ax.get_yticklabels():
        text.set_color(COLOURS[1] if text.get_text() in highlight else COLOURS[0])
    ax.set(xlabel="rank", xticks=range(1, len(names) + 1))
    ax.spines["left"].set_visible(False)
    return ax


def average_ranks(table: Any) -> Any:
    """Ranks along the first axis, 1 for the lowest; equal values have the mean of the ranks that they take together."""
    table = np.asarray(table, dtype=float)
    table = np.where(np.isnan(table), np.inf, table)
    below = (table[None] < table[:, None]).sum(1)
    equal = (table[None] == table[:, None]).sum(1)
    return below + (equal + 1) / 2
