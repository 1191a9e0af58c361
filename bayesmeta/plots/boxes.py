"""Pictures with the boxes that are found in them, how sure each is, and where its edges may lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_count, check_probability
from bayesmeta.data import Points, seen
from bayesmeta.distributions import boxes_of, quantile
from bayesmeta.distributions.boxes import boxes as every_box
from bayesmeta.distributions.boxes import edges
from bayesmeta.distributions.family import family
from bayesmeta.metrics import detections
from bayesmeta.metrics.matching import true_cells
from bayesmeta.plots.axes import COLOURS, figure
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["boxes"]

TRUE, FOUND, SHADE = COLOURS[5], COLOURS[1], 0.3


def boxes(
    posterior: Posterior,
    query: Points,
    *,
    task: int = 0,
    pictures: int = 4,
    least: float = 0.3,
    level: float = 0.9,
    seed: int = 0,
) -> Figure:
    """Pictures with their true boxes, those that are found, with their scores, and the intervals of their edges.

    Of boxes that overlap a surer one by more than half of their joint area none is shown. A band runs around each: between the
    ends of the central interval of each edge, given that a centre is in the box's cell. A wide one says that the edge is in
    doubt, whatever the score.

    Args:
        posterior: of boxes, by the likelihood `Boxes`.
        query: pictures and the grids of their true boxes, such as ``tasks[0].query``.
        task: which of the B tasks.
        pictures: how many, at most, of those that are observed.
        least: the least score of a box that is shown.
        level: of the intervals.
        seed: of random predictions; torch's global generator is not touched.

    Raises:
        ValueError: no pictures of one or three channels, or none that is observed.
        TypeError: predictions are not of boxes.

    Example:
        >>> learner = MAML(Cells(channels=1, widths=(8, 8)), Boxes(), steps=1)
        >>> given = points(torch.rand(2, 1, 16, 24), torch.zeros(2, 4, 6, 5))
        >>> len(boxes(learner(given), given).axes)
        2
    """
    check_count("pictures", pictures)
    check_count("task", task, least=0)
    check_probability("least", least)
    check_probability("level", level)
    x = query.x
    if not isinstance(x, Tensor) or x.dim() != 5 or x.shape[2] not in (1, 3):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"query.x: expected pictures (B, M, C, H, V) of 1 or 3 channels, got {got}; plot others yourself"
        )
    if task >= len(x):
        raise ValueError(f"task: expected 0 to {len(x) - 1}, as there are {len(x)} tasks, got {task}")
    with torch.no_grad(), seeded(seed):
        prediction = posterior(x)
    judged, (there, _), size = detections(prediction, query), true_cells(prediction, query), (x.shape[3], x.shape[4])
    shown = judged.kept & (judged.scores >= least)
    found, cells = every_box(prediction, size)[0], query.y.shape[2:4]
    chosen = seen(query)[task].nonzero()[:pictures, 0].tolist()
    if not chosen:
        raise ValueError(f"query: expected a picture of task {task} that is observed, got none; choose another task")
    columns = min(len(chosen), 4)
    rows, width = -(-len(chosen) // columns), min(4.2, 10.4 / columns)
    drawn: Any = figure(width * columns, 0.5 + 1.02 * width * size[0] / size[1] * rows)
    axes = drawn.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, place in zip(axes, chosen, strict=False):
        image = x[task, place].movedim(0, -1).clamp(0, 1).cpu().numpy()
        axis.imshow(
            image if image.shape[-1] == 3 else image[..., 0],
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(0, size[1], size[0], 0),
        )
        here = shown[task, place].reshape(cells)
        bands = _intervals(prediction, (task, place), here, level, size)
        found_here, scores = found[task, place][here.flatten()], judged.scores[task, place][here.flatten()]
        for box, band, score in zip(found_here.tolist(), bands, scores.tolist(), strict=True):
            _band(axis, *band)
            _frame(axis, box, FOUND)
            _score(axis, box, score, size)
        for box in boxes_of(query.y[task, place] * there[task, place, ..., None], size).tolist():
            _frame(axis, box, TRUE, linestyle="--")
        axis.set(xlim=(0, size[1]), ylim=(size[0], 0))
    _legend(drawn, level)
    return drawn


def _intervals(
    prediction: Distribution, at: tuple[int, int], cells: Tensor, level: float, size: tuple[int, int]
) -> Tensor:
    """The ends of the edges' intervals in pixels ``(n, 2, 4)``, of the n cells ``(G, K)`` of one picture."""
    every = edges(prediction)
    marks = quantile(family(every).map(every, lambda p: p[at][cells]), [0.5 - level / 2, 0.5 + level / 2])
    grids = marks.new_zeros(2, *cells.shape, 5)
    grids[:, cells] = torch.cat([torch.ones_like(marks[..., :1]), marks], -1)
    return torch.stack([boxes_of(grid, size) for grid in grids], 1)


def _frame(axis: Axes, box: list[float], colour: str, **style: Any) -> None:
    """A rectangle, with a thin dark line around it that keeps it visible on any ground."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = box
    halo = [withStroke(linewidth=2.4, foreground="black", alpha=0.5)]
    axis.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=colour,
            linewidth=1.3,
            path_effects=halo,
            **style,
        )
    )


def _band(axis: Axes, low: list[float], high: list[float]) -> None:
    """What lies between the outermost and the innermost rectangle that edges within their intervals make."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    outer, inner = [*low[:2], *high[2:]], [*high[:2], *low[2:]]
    corners = _corners(outer)
    if inner[0] < inner[2] and inner[1] < inner[3]:
        corners = [*corners, *_corners(inner)[::-1]]  # the other way round: a hole
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * (len(corners) // 5)
    axis.add_patch(PathPatch(Path(corners, codes), facecolor=FOUND, alpha=SHADE, linewidth=0))


def _corners(box: list[float]) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _score(axis: Axes, box: list[float], score: float, size: tuple[int, int]) -> None:
    """The score above the box, or within it where there is no room above."""
    inside = box[1] < 0.08 * size[0]
    axis.annotate(
        f"{score:.2f}",
        (box[0], box[1]),
        xytext=(0.5, -1 if inside else 1),
        textcoords="offset points",
        va="top" if inside else "bottom",
        fontsize=7,
        color="white",
        annotation_clip=True,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": FOUND, "edgecolor": "none"},
    )


def _legend(drawn: Figure, level: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=TRUE, linestyle="--", label="true"),
        Line2D([], [], color=FOUND, label="found, and how surely"),
        Patch(facecolor=FOUND, alpha=SHADE, label=f"where each edge is, with {100 * level:g} %"),
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
