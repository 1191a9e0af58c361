"""Operations on distributions, each by its family: one file a family, and one place where a family is registered.

Predictions are distributions of torch or Pyro. What the library must be able to do with them (mix draws, find quantiles, change
units, ...) depends on the family; `register` tells it of another one.
"""

from bayesmeta.distributions import (  # noqa: F401  (each registers its family)
    bernoulli,
    categorical,
    compound,
    negative_binomial,
    normal,
    poisson,
    student_t,
)
from bayesmeta.distributions.blend import Blend, blend, choose
from bayesmeta.distributions.boxes import BoxGrid, box_edges, boxes_of, grid_of
from bayesmeta.distributions.family import Family, Kind, register
from bayesmeta.distributions.operations import (
    affine,
    apart,
    centre,
    has_classes,
    has_labels,
    is_known,
    kind,
    log_prob,
    marginals,
    mixture,
    sample,
    select,
    stack,
    temper,
)
from bayesmeta.distributions.overlaps import box_overlaps, suppress
from bayesmeta.distributions.summaries import cdf, class_probabilities, crps, expects, quantile, uncertainty, undefined
from bayesmeta.distributions.warped import Unwarped
from bayesmeta.randomness import uniform

__all__ = [
    "Blend",
    "BoxGrid",
    "Family",
    "Kind",
    "Unwarped",
    "affine",
    "apart",
    "blend",
    "box_edges",
    "box_overlaps",
    "boxes_of",
    "cdf",
    "centre",
    "choose",
    "class_probabilities",
    "crps",
    "expects",
    "grid_of",
    "has_classes",
    "has_labels",
    "is_known",
    "kind",
    "log_prob",
    "marginals",
    "mixture",
    "quantile",
    "register",
    "sample",
    "select",
    "stack",
    "suppress",
    "temper",
    "uncertainty",
    "undefined",
    "uniform",
]
