"""Boxes in a picture: a grid of cells, each of which holds a box's centre or not, and where the box's edges are if it does.

A picture's target is y ``(G, K, 5)``: of each cell 1 if a centre lies in it and 0 if not, and how far left, top, right and bottom
edge lie from the cell's middle, in cells, to the right and down; zeros where there is none. With p the probability of a centre,

    log p(y) = Σ_cells log Bernoulli(y₀ | p) + Σ_cells with a centre Σ_edges log StudentT(y_e | ν, loc_e, scale_e).

Edges, and not centre and size, are the marks, so that an interval of an edge is a quantile of one distribution, for mixtures too.
The grid is of one shot (Redmon et al. 2016, "You Only Look Once", https://arxiv.org/abs/1506.02640, section 2), with a likelihood
in the place of its loss.

Shape letters: G rows and K columns of cells, P boxes, S draws.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Categorical, MixtureSameFamily, StudentT, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from bayesmeta.distributions.family import Family, family, register
from bayesmeta.distributions.overlaps import box_overlaps, suppress
from bayesmeta.distributions.summaries import quantile
from bayesmeta.randomness import uniform

__all__ = ["BoxGrid", "box_edges", "box_overlaps", "boxes", "boxes_of", "edges", "grid_of", "suppress"]


class _Grid(constraints.Constraint):
    """Entry by entry: 0 or 1, and four finite numbers."""

    def check(self, value: Tensor) -> Tensor:
        there = value[..., :1]
        return torch.cat([(there == 0) | (there == 1), value[..., 1:].isfinite()], -1)

    def __repr__(self) -> str:
        return "grids of 0.0 or 1.0 and four edges a cell"


ENTRIES = _Grid()
"""What y may hold, entry by entry."""


class BoxGrid(TorchDistribution):
    """Boxes in a grid of cells: event ``(G, K, 5)``. Where there is no centre, the other four entries of y are 0.

    Args:
        logits: log-odds that a box's centre lies in the cell, ``(..., G, K)``.
        loc: the median of each edge if it does: left, top, right, bottom, in cells from the cell's middle, ``(..., G, K, 4)``.
        scale: of each edge's Student t, ``(..., G, K, 4)``.
        df: ν, its degrees of freedom, above 2, which broadcast against `loc`.

    Example:
        >>> d = BoxGrid(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8, 4), torch.ones(2, 8, 8, 4), torch.tensor(5.0))
        >>> d.batch_shape, d.event_shape, d.sample().shape
        (torch.Size([2]), torch.Size([8, 8, 5]), torch.Size([2, 8, 8, 5]))
    """

    arg_constraints = {  # noqa: RUF012  (as torch has it)
        "logits": constraints.independent(constraints.real, 2),
        "loc": constraints.independent(constraints.real, 3),
        "scale": constraints.independent(constraints.positive, 3),
        "df": constraints.independent(constraints.greater_than(2.0), 3),
    }
    support = constraints.independent(ENTRIES, 3)

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, df: Tensor, validate_args: bool | None = False
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self.df = df.expand_as(loc)
        super().__init__(logits.shape[:-2], torch.Size([*logits.shape[-2:], 5]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BoxGrid:
        lead = torch.Size(batch_shape)
        wider: BoxGrid = family(self).map(self, lambda p: p.expand(lead + p.shape[len(self.batch_shape) :]))
        return wider

    @property
    def edges(self) -> Distribution:
        """Of the four edges given that a centre is there: batch ``(..., G, K, 4)``."""
        return StudentT(self.df, self.loc, self.scale, validate_args=False)

    def entries(self, y: Tensor) -> Tensor:
        """What each entry of y adds to its log-density, ``(..., G, K, 5)``."""
        there = y[..., 0]
        centre = F.logsigmoid(torch.where(there > 0.5, self.logits, -self.logits))
        # In the place of edges that are not there, their medians: a finite density, whose slope is 0 times itself.
        found = there[..., None] > 0.5
        marks: Tensor = self.edges.log_prob(torch.where(found, y[..., 1:], self.loc))
        return torch.cat([centre[..., None], marks * found], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.entries(value).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """E[y]: each cell's probability of a centre, and that times each edge's mean."""
        p = self.logits.sigmoid()[..., None]
        return torch.cat([p, p * self.loc], -1)

    @property
    def variance(self) -> Tensor:
        p = self.logits.sigmoid()[..., None]
        spread = self.edges.variance + self.loc.square()
        return torch.cat([p * (1 - p), p * spread - (p * self.loc).square()], -1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (as torch has it)
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            return family(self).sample(self, shape.numel()).reshape(shape + self.batch_shape + self.event_shape)


@register(BoxGrid)
class BoxGridFamily(Family):
    """Mixtures are of whole pictures: draws stay coherent over the cells."""

    parameters = ("logits", "loc", "scale", "df")

    def log_prob(self, d: Any, y: Tensor, mask: Tensor) -> Tensor:
        """A cell whose first entry is not observed says nothing, nor do its edges."""
        known: Tensor = mask & mask[..., :1]
        return (d.entries(y) * known).sum((-3, -2, -1))

    def expects(self, d: Any) -> str:
        return repr(ENTRIES)

    def temper(self, d: Any, temperature: Tensor, centre: Tensor | None) -> Any:
        """Log-odds divided by the temperature, and the edges' scales multiplied."""
        return BoxGrid(d.logits.clamp(-80, 80) / temperature, d.loc, d.scale * temperature, d.df)

    def sample(self, d: Any, samples: int) -> Tensor:
        there = (uniform((samples, *d.logits.shape), d.logits) < d.logits.sigmoid()).to(d.loc.dtype)[..., None]
        return torch.cat([there, there * family(d.edges).sample(d.edges, samples)], -1)


def edges(distribution: Distribution) -> Distribution:
    """Of a cell's four edges given that a box's centre is there, in cells from its middle: batch ``(..., G, K, 4)``.

    Of a mixture it is the mixture of its components' edges, each weighted by its probability of the centre.

    Args:
        distribution: a `BoxGrid`, or a mixture of some, batch ``(...)``.

    Raises:
        TypeError: another distribution.
    """
    if isinstance(distribution, BoxGrid):
        return distribution.edges
    check_boxes(distribution)
    mixed: Any = distribution
    parts, log_weights = mixed.component_distribution, mixed.mixture_distribution.logits  # (..., S)
    last = len(distribution.batch_shape)
    weights = log_weights.log_softmax(-1)[..., None, None] + F.logsigmoid(parts.logits)  # (..., S, G, K)
    weights = weights.movedim(last, -1)[..., None, :].expand(*weights.movedim(last, -1).shape[:-1], 4, -1)
    moved = (getattr(parts, name).movedim(last, -1) for name in ("df", "loc", "scale"))
    return MixtureSameFamily(
        Categorical(logits=weights, validate_args=False), StudentT(*moved, validate_args=False), validate_args=False
    )


def boxes(distribution: Distribution, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A box for each cell, left, top, right, bottom in pixels ``(..., G K, 4)``, and its score ``(..., G K)``.

    The score is the probability that a centre is in the cell; the edges are the means given that it is, within the picture.

    Args:
        distribution: a `BoxGrid`, or a mixture of some, batch ``(...)``.
        size: rows and columns of the picture, in pixels.

    Raises:
        TypeError: another distribution.

    Example:
        >>> loc = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand(2, 2, 4)
        >>> d = BoxGrid(torch.zeros(2, 2), loc, torch.ones(2, 2, 4), torch.tensor(5.0))
        >>> boxes(d, (16, 32))[0][1]  # of the second cell
        tensor([16.,  0., 32.,  8.])
    """
    check_boxes(distribution)
    found = _pixels(edges(distribution).mean, size)
    score = distribution.mean[..., 0]
    height, width = size
    return found.clamp(min=0).minimum(found.new_tensor([width, height, width, height])), score.flatten(-2)


def box_edges(distribution: Distribution, size: tuple[int, int], p: float | list[float]) -> Tensor:
    """The pixel that each edge stays below with probability p, given a centre in the cell: ``(..., G K, 4)``, without a gradient.

    Args:
        distribution: a `BoxGrid`, or a mixture of some, batch ``(...)``.
        size: rows and columns of the picture, in pixels.
        p: a probability, or L of them, whose edges then lead: ``(L, ..., G K, 4)``.

    Raises:
        TypeError: another distribution.
        ValueError: a probability is not strictly between 0 and 1.
    """
    return _pixels(quantile(edges(distribution), p), size)


def has_boxes(distribution: Any) -> bool:
    """Whether it is a `BoxGrid`, or a mixture of some."""
    return isinstance(family(distribution).leaf(distribution), BoxGrid)


def check_boxes(distribution: Any) -> None:
    if not has_boxes(distribution):
        raise TypeError(
            f"distribution: expected boxes, a BoxGrid or a mixture of some, got {type(distribution).__name__}; use the "
            "likelihood Boxes"
        )


def _middles(like: Tensor, cells: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The middles of cells in pixels, ``(G, K, 4)``, and their sizes, ``(4,)``, once for each edge."""
    steps = [length / count for length, count in zip(size, cells, strict=True)]
    down, right = ((torch.arange(n, device=like.device) + 0.5).to(like) * s for n, s in zip(cells, steps, strict=True))
    down, right = torch.meshgrid(down, right, indexing="ij")
    return torch.stack([right, down, right, down], -1), like.new_tensor([steps[1], steps[0]] * 2)


def _pixels(marks: Tensor, size: tuple[int, int]) -> Tensor:
    """Edges in cells ``(..., G, K, 4)`` as pixels ``(..., G K, 4)``."""
    middles, steps = _middles(marks, (marks.shape[-3], marks.shape[-2]), size)
    return (middles + marks * steps).flatten(-3, -2)


def grid_of(given: Any, cells: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """One picture's boxes ``(P, 4)`` in pixels as a grid ``(G, K, 5)``, and which of them found a place in it, ``(P,)`` bool.

    Of boxes whose centres lie in one cell the largest stays: a finer grid holds them all.

    Args:
        given: left, top, right and bottom of each box, as a tensor, an array or a list.
        cells: G and K.
        size: rows and columns of the picture, in pixels.

    Raises:
        ValueError: boxes of another shape, or one whose left or top is not below its right or bottom, or whose centre is outside.

    Example:
        >>> y, kept = grid_of(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (2, 4), (16, 32))
        >>> y[0, 0]
        tensor([ 1.0000, -0.5000, -0.5000,  0.5000,  0.5000])
    """
    rows, columns = cells
    given = _checked(given, size)
    middles, steps = _middles(given, cells, size)
    across, down = ((given[:, :2] + given[:, 2:]) / 2 / steps[:2]).long().unbind(1)
    place = down.clamp(max=rows - 1) * columns + across.clamp(max=columns - 1)
    order = (given[:, 2:] - given[:, :2]).prod(1).argsort(descending=True, stable=True).tolist()
    largest: dict[int, int] = {}
    for number, cell in zip(order, place[order].tolist(), strict=True):
        largest.setdefault(cell, number)
    stay = torch.tensor([*largest.values()], dtype=torch.long, device=given.device)
    found = (given[stay] - middles.flatten(0, 1)[place[stay]]) / steps
    y = given.new_zeros(rows * columns, 5)
    y[place[stay]] = torch.cat([torch.ones_like(found[:, :1]), found], 1)
    kept = torch.zeros(len(given), dtype=torch.bool, device=given.device)
    kept[stay] = True
    return y.unflatten(0, cells), kept


def _checked(given: Any, size: tuple[int, int]) -> Tensor:
    """One picture's boxes as a floating tensor ``(P, 4)``."""
    given = torch.as_tensor(given)
    given = given if given.is_floating_point() else given.to(torch.get_default_dtype())
    if given.shape == (0,):  # an empty list
        given = given.reshape(0, 4)
    if given.dim() != 2 or given.shape[1] != 4:
        raise ValueError(
            f"given: expected one picture's boxes (P, 4), got {(*given.shape,)}; give one picture at a time"
        )
    twice = given[:, :2] + given[:, 2:]  # the centre; cells have no other place
    right = (given[:, :2] < given[:, 2:]) & (twice >= 0) & (twice <= 2 * given.new_tensor(size[::-1]))
    if not right.all():
        raise ValueError(
            f"given: expected left < right, top < bottom and centres within {size[1]} x {size[0]} pixels, got "
            f"{given[~right.all(1)][0].tolist()}; give corners, not width and height, in pixels of this size"
        )
    return given


def boxes_of(y: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes ``(P, 4)`` of one picture's grid ``(G, K, 5)``, in pixels of a picture of `size` rows and columns."""
    return _pixels(y[..., 1:], size)[y[..., 0].flatten() > 0.5]
