"""What a learner keeps of streams, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesmeta.evaluation import Retention

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from bayesmeta.plots.axes import axes_or_new, line_style

__all__ = ["retention", "retention_matrix"]


def retention(kept: Retention, metric: str = "Accuracy", *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """A metric of the queries of all parts so far against the number of parts, with its 95 % band.

    The thin line is of each part when it had just come: what the learner loses with time is between the two. Where they go down
    together, new parts are harder to learn, or there are more labels to choose among.

    Args:
        kept: what `evaluate_stream` found.
        metric: its name.
        label: for the legend.
        ax: where to draw, another learner's curve too; a new figure if None.

    Raises:
        ValueError: the metric was not measured.

    Example:
        >>> tasks = ClassTasks(torch.rand(60, 2), torch.arange(60) % 6, ways=4, shots=5, queries=5)
        >>> learner = PrototypicalNetwork(nn.Linear(2, 2), classes=4)
        >>> kept = evaluate_stream(learner, ClassStreams(tasks), episodes=2, progress=False)
        >>> retention(kept).get_xlabel()
        'parts so far'
    """
    fresh = kept.at_first(metric)
    ax = axes_or_new(ax)
    style = line_style(len(ax.get_legend_handles_labels()[1]))
    at = np.array(kept.times) + 1
    value, low, high = np.array(kept.so_far(metric)).T
    ax.fill_between(at, low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.plot(np.arange(len(fresh)) + 1, fresh, color=style["color"], linewidth=0.7, alpha=0.6, zorder=1)
    ax.plot(at, value, marker="o" if len(at) < 30 else None, markersize=4, label=label or "all parts so far", **style)
    ax.set(xlabel="parts so far", ylabel=metric)
    if ax.get_xscale() == "linear":  # there are no half parts
        ax.locator_params(axis="x", integer=True)
    ax.legend(frameon=False, fontsize=8)
    return ax


def retention_matrix(
    kept: Retention, metric: str = "Accuracy", *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """A metric after each part (down) of the queries of each part (across), as colours; what was to come is left white.

    What is forgotten darkens from a column's top to its bottom. Dark is worse, whether that is high or low.

    Args:
        kept: what `evaluate_stream` found.
        metric: its name.
        label: the title.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: the metric was not measured.
    """
    values = kept.matrix(metric).numpy()
    better = {found.name: found.better for found in kept.metrics}[metric]
    ax = axes_or_new(ax)
    parts = values.shape[1]
    edges = np.array([0, *(time + 1 for time in kept.times)]) + 0.5  # the row of a time reaches back to the one before
    mesh = ax.pcolormesh(
        np.arange(parts + 1) + 0.5,
        edges,
        np.ma.masked_invalid(values),
        cmap="viridis" if better == "higher" else "viridis_r",
    )
    ax.invert_yaxis()
    ax.set(xlabel="about part", ylabel="after part", title=label or "")
    ax.locator_params(integer=True)
    ax.figure.colorbar(mesh, ax=ax, label=metric)
    return ax
