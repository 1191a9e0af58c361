"""The pictures of a comparison."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta import plots
from bayesmeta.data import Episode, Points
from bayesmeta.evaluation import Clusters, Predictor, evaluating
from bayesmeta.learner import Learner
from bayesmeta.metrics import (
    ECE,
)
from bayesmeta.plots.axes import COLOURS, figure
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded
from bayesmeta.report.page import Row

__all__ = []


def pictures(
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
        figures[title] = figure(4.8, 3.8)
        return figures[title].subplots()

    classes = any(row.metric in ("ECE", "Accuracy") for row in rows) or not first.query.y.is_floating_point()
    ax = pane("Reliability" if classes else "Calibration")
    for name, learner in learners.items():
        shown: Any = {"episodes": episodes, "label": plain_name(name), "clusters": clusters, "seed": seed, "ax": ax}
        if classes:
            plots.reliability(learner, tasks, bins=ECE().bins, **shown)  # whose ECE is the table's
        else:
            plots.calibration(learner, tasks, **shown)
    metric = "NLL" if any(row.metric == "NLL" for row in rows) else rows[0].metric
    ax = pane(f"{metric} with 95 % intervals")
    ours = [row for row in rows if row.metric == metric][::-1]
    for height, row in enumerate(ours):
        ax.plot([row.low, row.high], [height, height], color=COLOURS[0])
        ax.plot(row.value, height, "o", color=COLOURS[0])
    ax.set_yticks(range(len(ours)), [plain_name(row.learner) for row in ours])
    better = f"{ours[0].better} is better" if ours[0].better in ("lower", "higher") else ours[0].better
    ax.set_xlabel(f"nats a point; {better}" if metric == "NLL" else better)
    ax.spines[["top", "right"]].set_visible(False)
    single = isinstance(first.support.x, Tensor) and first.support.x.shape[2:] == (1,) and not classes
    if single and first.query.y.shape[2:] == (1,):
        _first_tasks(learners, first, seed, pane)
    return {title: svg(figure) for title, figure in figures.items()}


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
            ax = plots.bands(posterior, at[None, :, None], seed=seed, ax=pane(f"{name}: the first task"))
        ax.plot(query.x[query.mask][:, 0], query.y[query.mask][:, 0], "x", color=COLOURS[1], label="asked for")
        ax.legend(frameon=False, fontsize=8)
        panes.append(ax)
    ends = [end for ax in panes for end in ax.get_ylim()]
    for ax in panes:
        ax.set_ylim(min(ends), max(ends))


def plain_name(name: str) -> str:
    """A name as matplotlib shows it: $ begins no formula, and _ hides it from no legend."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
