"""Pictures of uncertainty and calibration. Each function draws into `ax`, or a new figure, and returns the Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.data import Episode
from bayesmeta.distributions import has_classes, marginals, quantile
from bayesmeta.evaluation import Clusters, Predictor, statistics
from bayesmeta.learner import Posterior
from bayesmeta.metrics import ECE, PIT, Estimate, interval
from bayesmeta.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_calibration",
    "plot_metric_against_shots",
    "plot_pit",
    "plot_predictive",
    "plot_ranks",
    "plot_reliability",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe & Ito's, which colour-blind readers tell apart; beyond seven they start again with another line."""
_LINES = ("-", "--", ":", "-.")
_GREY = "#777777"


def _axes(ax: Axes | None, width: float = 4.6, height: float = 3.6) -> Axes:
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def figure(width: float, height: float) -> Any:
    """A figure that no window shows, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _style(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": _LINES[place // len(COLOURS) % len(_LINES)]}


def plot_predictive(
    posterior: Posterior,
    x: Any,
    *,
    task: int = 0,
    target: int = 0,
    level: float = 0.9,
    draws: int = 10,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """A task's prediction over one input: the interval of y, the part of it that is doubt about the function, and draws.

    The outer band is the central interval of y at the given level, the inner one mean ± z epistemic standard deviations, z of
    that level for a normal; lines are the means of single functions drawn. Points are the support's.

    Args:
        posterior: of real targets, with a single input feature.
        x: inputs ``(M,)`` or ``(B, M, 1)``.
        task, target: which of the B tasks and of the entries of y.
        level: of the interval.
        draws: how many functions.
        seed: of the random draws; torch's global generator is not touched.
        ax: where to draw; a new figure if None.

    Example:
        >>> posterior = MAML(MLP(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
        >>> plot_predictive(posterior, torch.linspace(0, 1, 20)).get_xlabel()
        'x'
    """
    ax = _axes(ax)
    inputs = posterior._inputs(x)
    if not isinstance(inputs, Tensor) or inputs.shape[2:] != (1,):
        raise ValueError(
            f"x: expected one input feature (M,) or (B, M, 1), got shape {tuple(getattr(inputs, 'shape', ()))}"
        )
    with torch.no_grad(), seeded(seed):
        predictive = posterior(inputs)
        if has_classes(predictive):
            raise TypeError("posterior: expected one of real targets, got classes; use plot_reliability")
        single = marginals(predictive)
        low, high = (quantile(single, 0.5 + side * level / 2)[task, :, target].cpu() for side in (-1, 1))
        epistemic = posterior.decompose(inputs).epistemic
        mean, doubt = predictive.mean[task, :, target].cpu(), epistemic[task, :, target].sqrt().cpu()
        functions = posterior.draws(inputs, draws).mean[:, task, :, target].cpu() if draws else None
    order = inputs[task, :, 0].cpu().argsort()
    at = inputs[task, :, 0].cpu()[order]
    z = float(torch.special.ndtri(torch.tensor(0.5 + level / 2)))
    percent = f"{100 * level:g} %"
    ax.fill_between(at, low[order], high[order], color=COLOURS[0], alpha=0.18, linewidth=0, label=f"{percent} of y")
    if doubt.max() > 0:
        inner = (mean - z * doubt)[order], (mean + z * doubt)[order]
        ax.fill_between(at, *inner, color=COLOURS[0], alpha=0.3, linewidth=0, label=f"{percent} of the function")
    for row in functions if functions is not None else ():
        ax.plot(at, row[order], color=COLOURS[0], linewidth=0.6, alpha=0.5)
    ax.plot(at, mean[order], color=COLOURS[0], linewidth=1.8, label="mean")
    support = posterior.support
    seen = support.mask[task].cpu()
    known = support.x[task, :, 0].cpu()[seen], support.y[task].flatten(1)[:, target].cpu()[seen]
    ax.plot(*known, "o", color="black", markersize=5, label="known", zorder=3)
    ax.set(xlabel="x", ylabel="y")
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_reliability(
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
    ax = _axes(ax)
    style = _style(_curves(ax))
    count, confidence, _ = rows.sum(0).unflatten(0, (3, bins))
    there = (count > 0).numpy()

    def accuracy(sums: Tensor) -> Tensor:
        number, _, right = sums.unflatten(-1, (3, bins)).unbind(-2)
        return right / number  # NaN where a bin is empty

    value, low, high = (part.numpy()[there] for part in interval(accuracy, rows, shared))
    at = (confidence / count).numpy()[there]
    name = f"{label or 'ECE'}: {error:.3f}" if label is None else f"{label} (ECE {error:.3f})"
    _diagonal(ax)
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


def _diagonal(ax: Axes) -> None:
    if "calibrated" not in ax.get_legend_handles_labels()[1]:
        ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="calibrated", zorder=0)


def plot_calibration(
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
    ax = _axes(ax)
    style = _style(_curves(ax))
    at = np.linspace(0, 1, levels + 1)

    def shares(sums: Tensor) -> Tensor:
        below = torch.cat([torch.zeros_like(sums[..., :1]), sums.cumsum(-1)], -1)
        return below / below[..., -1:]

    value, low, high = (part.numpy() for part in interval(shares, rows, shared))
    _diagonal(ax)
    ax.fill_between(at, low, high, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(at, value, label=label or "learner", **style)
    ax.set(xlabel="quantile p of the prediction", ylabel="share of targets below", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def plot_pit(
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
    ax = _axes(ax)
    height, low, high = interval(lambda sums: bins * sums / sums.sum(-1, keepdim=True), rows, shared)
    reach = float((high - low).mean() / 2)
    ax.bar((np.arange(bins) + 0.5) / bins, height.numpy(), 0.95 / bins, color=COLOURS[0], alpha=0.7)
    ax.axhspan(1 - reach, 1 + reach, color=_GREY, alpha=0.25, linewidth=0)
    ax.axhline(1, color=_GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="rank of y in its prediction", ylabel="density", xlim=(0, 1), title=label or "")
    return ax


def plot_metric_against_shots(
    estimates: Mapping[str, Mapping[int, Estimate]], *, metric: str = "NLL", ax: Axes | None = None
) -> Axes:
    """A metric against the number of shots, with its intervals: a line a learner.

    Args:
        estimates: by learner, then by the number of shots.
        metric: the name on the axis.
        ax: where to draw; a new figure if None.

    Example:
        >>> from bayesmeta import Estimate
        >>> plot_metric_against_shots({"MAML": {1: Estimate(2.0, 1.9, 2.1), 5: Estimate(1.0, 0.9, 1.1)}}).get_ylabel()
        'NLL'
    """
    ax = _axes(ax)
    for place, (name, row) in enumerate(estimates.items()):
        shots = sorted(row)
        values = np.array([[row[n].value, row[n].low, row[n].high] for n in shots]).T
        style = _style(place)
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


def plot_ranks(
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
        >>> plot_ranks({"MAML": [1.0, 2.0], "DKT": [0.5, 2.5]}).get_xlabel()
        'rank'
    """
    if len({len(row) for row in values.values()}) != 1:
        raise ValueError(
            f"values: expected as many values of each learner, got {[len(row) for row in values.values()]}"
        )
    table = np.array(list(values.values()), dtype=float)
    places = average_ranks(table if lower_is_better else -table)
    order = places.mean(1).argsort()[::-1]
    ax = _axes(ax, 7, 0.36 * len(values) + 1)
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
