"""Whether probabilities hold: reliability, coverage, PIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.data import Episode
from bayesmeta.evaluation import Clusters, Predictor, statistics
from bayesmeta.metrics import ECE, PIT, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from bayesmeta.plots.axes import COLOURS, GREY, axes_or_new, diagonal, line_style

__all__ = ["calibration", "pit", "reliability"]


def reliability(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    bins: int = 10,
    label: str | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against confidence, with 95 % intervals by a bootstrap over tasks; the diagonal is calibration.

    Below, the share of points in each bin. Bins without points are left out.

    Args:
        learner, tasks, episodes, clusters, seed: as in `evaluate`; labels.
        bins: of confidence.
        label: for the legend, which also says the ECE.
        ax: where to draw, another learner's curve too; a new figure if None.
    """
    metrics, (rows,), shared = statistics(
        learner, tasks, episodes=episodes, metrics=[ECE(bins)], clusters=clusters, seed=seed
    )
    error = float(metrics[0].reduce(rows.sum(0)))
    ax = axes_or_new(ax)
    style = line_style(_curves(ax))
    count, confidence, _ = rows.sum(0).unflatten(0, (3, bins))
    there = (count > 0).numpy()

    def accuracy(sums: Tensor) -> Tensor:
        number, _, right = sums.unflatten(-1, (3, bins)).unbind(-2)
        return right / number  # NaN where a bin is empty

    value, low, high = (part.numpy()[there] for part in interval(accuracy, rows, shared))
    at = (confidence / count).numpy()[there]
    name = f"{label or 'ECE'}: {error:.3f}" if label is None else f"{label} (ECE {error:.3f})"
    diagonal(ax)
    ax.errorbar(
        at,
        value,
        [value - low, high - value],
        marker="o",
        markersize=4,
        capsize=2,
        label=name,
        **style,
    )
    shares = (count / count.sum()).numpy()
    ax.bar((np.arange(bins) + 0.5) / bins, 0.2 * shares / shares.max(), 0.9 / bins, color=style["color"], alpha=0.2)
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def _curves(ax: Axes) -> int:
    """How many curves with an error bar or a label are drawn already."""
    return len([handle for handle in ax.get_legend_handles_labels()[1] if handle != "calibrated"])


def calibration(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    levels: int = 20,
    label: str | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The share of targets below the predictive's quantile p against p, with its 95 % band by a bootstrap over tasks.

    Steep at the ends and flat in the middle, the learner is overconfident: too many targets lie far out. Flat at the ends and
    steep in the middle, it is underconfident. Above or below the diagonal throughout, its predictions are too high or too low.

    Args:
        learner, tasks, episodes, clusters, seed: as in `evaluate`; real targets.
        levels: how many steps p takes.
        label: for the legend.
        ax: where to draw, another learner's curve too; a new figure if None.
    """
    _, (rows,), shared = statistics(
        learner, tasks, episodes=episodes, metrics=[PIT(levels)], clusters=clusters, seed=seed
    )
    ax = axes_or_new(ax)
    style = line_style(_curves(ax))
    at = np.linspace(0, 1, levels + 1)

    def shares(sums: Tensor) -> Tensor:
        below = torch.cat([torch.zeros_like(sums[..., :1]), sums.cumsum(-1)], -1)
        return below / below[..., -1:]

    value, low, high = (part.numpy() for part in interval(shares, rows, shared))
    diagonal(ax)
    ax.fill_between(at, low, high, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(at, value, label=label or "learner", **style)
    ax.set(xlabel="quantile p of the prediction", ylabel="share of targets below", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def pit(
    learner: Predictor,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    bins: int = 10,
    label: str | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The histogram of the probability integral transform: flat if calibrated, ∪ if overconfident, ∩ if underconfident.

    The band is where 95 % of the bars of a calibrated learner lie, by the spread between tasks of this one.

    Args:
        learner, tasks, episodes, clusters, seed: as in `evaluate`; real targets.
        bins: how many bars.
        label: the title.
        ax: where to draw; a new figure if None.
    """
    _, (rows,), shared = statistics(
        learner, tasks, episodes=episodes, metrics=[PIT(bins)], clusters=clusters, seed=seed
    )
    ax = axes_or_new(ax)
    height, low, high = interval(lambda sums: bins * sums / sums.sum(-1, keepdim=True), rows, shared)
    reach = float((high - low).mean() / 2)
    ax.bar((np.arange(bins) + 0.5) / bins, height.numpy(), 0.95 / bins, color=COLOURS[0], alpha=0.7)
    ax.axhspan(1 - reach, 1 + reach, color=GREY, alpha=0.25, linewidth=0)
    ax.axhline(1, color=GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="rank of y in its prediction", ylabel="density", xlim=(0, 1), title=label or "")
    return ax
