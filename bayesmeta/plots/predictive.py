"""Bands and functions of predictions in one dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.border import check_probability
from bayesmeta.distributions import has_classes, marginals, quantile
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from bayesmeta.plots.axes import COLOURS, axes_or_new

__all__ = ["bands"]


def bands(
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
        >>> bands(posterior, torch.linspace(0, 1, 20)).get_xlabel()
        'x'
    """
    check_probability("level", level)
    ax = axes_or_new(ax)
    inputs = posterior._inputs(x)
    if not isinstance(inputs, Tensor) or inputs.shape[2:] != (1,):
        raise ValueError(
            f"x: expected one input feature (M,) or (B, M, 1), got shape {tuple(getattr(inputs, 'shape', ()))}"
        )
    with torch.no_grad(), seeded(seed):
        predictive = posterior(inputs)
        if has_classes(predictive):
            raise TypeError("posterior: expected one of real targets, got classes; use reliability")
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
    if seen.dim() > 1:  # of entries
        seen = seen.flatten(1)[:, target]
    known = support.x[task, :, 0].cpu()[seen], support.y[task].flatten(1)[:, target].cpu()[seen]
    ax.plot(*known, "o", color="black", markersize=5, label="known", zorder=3)
    ax.set(xlabel="x", ylabel="y")
    ax.legend(frameon=False, fontsize=8)
    return ax
