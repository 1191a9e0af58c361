"""Metrics, each a per-task statistic that adds up and a reduction of the sum, with intervals by a bootstrap over tasks."""

from __future__ import annotations

from torch.distributions import Distribution

from bayesmeta.distributions import has_classes
from bayesmeta.distributions.boxes import has_boxes
from bayesmeta.metrics.calibration import ECE, MCE, AdaptiveECE, Brier, ClasswiseECE
from bayesmeta.metrics.classification import AUPR, AURC, AUROC, Accuracy, ErrorAUROC, OutsideAUROC
from bayesmeta.metrics.detection import (
    COCO_OVERLAPS,
    AveragePrecision,
    Centres,
    DetectionECE,
    EdgeCoverage,
    EdgeWidth,
)
from bayesmeta.metrics.intervals import bootstrap, difference, estimates, interval
from bayesmeta.metrics.matching import Detections, detections
from bayesmeta.metrics.metric import NLL, Estimate, Metric, summary
from bayesmeta.metrics.outside import Inside, Outside, OutsideAUPR, OutsideRecall
from bayesmeta.metrics.ranking import aupr, auroc, risk_coverage
from bayesmeta.metrics.regression import (
    CRPS,
    PIT,
    RMSE,
    Coverage,
    EnergyScore,
    QuantileCalibrationError,
    Sharpness,
    Width,
    ranks,
)
from bayesmeta.metrics.segmentation import Dice, Edges, IoU, best_mask
from bayesmeta.metrics.sequences import ExactMatch, Perplexity, SequenceECE, SpanF1, TokenF1

__all__ = [
    "AUPR",
    "AURC",
    "AUROC",
    "COCO_OVERLAPS",
    "CRPS",
    "ECE",
    "MCE",
    "NLL",
    "PIT",
    "RMSE",
    "Accuracy",
    "AdaptiveECE",
    "AveragePrecision",
    "Brier",
    "Centres",
    "ClasswiseECE",
    "Coverage",
    "DetectionECE",
    "Detections",
    "Dice",
    "EdgeCoverage",
    "EdgeWidth",
    "Edges",
    "EnergyScore",
    "ErrorAUROC",
    "Estimate",
    "ExactMatch",
    "Inside",
    "IoU",
    "Metric",
    "Outside",
    "OutsideAUPR",
    "OutsideAUROC",
    "OutsideRecall",
    "Perplexity",
    "QuantileCalibrationError",
    "SequenceECE",
    "Sharpness",
    "SpanF1",
    "TokenF1",
    "Width",
    "aupr",
    "auroc",
    "best_mask",
    "bootstrap",
    "default_metrics",
    "detections",
    "difference",
    "estimates",
    "interval",
    "ranks",
    "risk_coverage",
    "summary",
]


def default_metrics(distribution: Distribution) -> list[Metric]:
    """What `evaluate` reports for predictions of this type."""
    if has_classes(distribution):
        return [NLL(), Accuracy(), ECE()]
    if has_boxes(distribution):
        return [NLL(), AveragePrecision(), EdgeCoverage()]
    return [NLL(), RMSE(), Coverage(0.9)]
