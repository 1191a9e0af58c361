"""What pictures share: axes, colours, lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["COLOURS"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe & Ito's, which colour-blind readers tell apart; beyond seven they start again with another line."""
LINES = ("-", "--", ":", "-.")
GREY = "#777777"


def axes_or_new(ax: Axes | None, width: float = 4.6, height: float = 3.6) -> Axes:
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def figure(width: float, height: float) -> Any:
    """A figure that no window shows, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def line_style(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": LINES[place // len(COLOURS) % len(LINES)]}


def diagonal(ax: Axes) -> None:
    if "calibrated" not in ax.get_legend_handles_labels()[1]:
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="calibrated", zorder=0)
