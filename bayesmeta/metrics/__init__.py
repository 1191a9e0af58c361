"""Metrics, each a per-task statistic that adds up and a reduction of the sum, with intervals by a bootstrap over tasks."""

from __future__ import annotations

from torch.distributions import Distribution

from bayesmeta.distributions import has_classes
from bayesmeta.metrics.calibration import ECE, MCE, AdaptiveECE, Brier, ClasswiseECE
from bayesmeta.metrics.classification import AURC, Accuracy, ErrorAUROC, OutsideAUROC
from bayesmeta.metrics.intervals import bootstrap, estimates, interval
from bayesmeta.metrics.metric import NLL, Estimate, Metric, summary
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
    "AURC",
    "CRPS",
    "ECE",
    "MCE",
    "NLL",
    "PIT",
    "RMSE",
    "Accuracy",
    "AdaptiveECE",
    "Brier",
    "ClasswiseECE",
    "Coverage",
    "Dice",
    "Edges",
    "EnergyScore",
    "ErrorAUROC",
    "Estimate",
    "ExactMatch",
    "IoU",
    "Metric",
    "OutsideAUROC",
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
    return [NLL(), RMSE(), Coverage(0.9)]
