"""Pictures of predictions, calibration and comparisons. Needs matplotlib."""

from bayesmeta.plots.boxes import boxes
from bayesmeta.plots.comparison import metric_against_shots, ranks
from bayesmeta.plots.diagrams import calibration, pit, reliability
from bayesmeta.plots.masks import masks
from bayesmeta.plots.predictive import bands
from bayesmeta.plots.streams import retention, retention_matrix

__all__ = [
    "bands",
    "boxes",
    "calibration",
    "masks",
    "metric_against_shots",
    "pit",
    "ranks",
    "reliability",
    "retention",
    "retention_matrix",
]
