"""How good the predictions are, and whether inference is right."""

from bayesmeta.evaluation.diagnostics import Uniformity, pit, sbc, to_arviz
from bayesmeta.evaluation.evaluate import (
    Predictor,
    answers,
    check_metrics,
    evaluate,
    evaluating,
    predict,
    reading,
    statistics,
)
from bayesmeta.evaluation.retention import Retention
from bayesmeta.evaluation.streaming import evaluate_stream
from bayesmeta.evaluation.units import Clusters, Units

__all__ = [
    "Clusters",
    "Predictor",
    "Retention",
    "Uniformity",
    "Units",
    "answers",
    "check_metrics",
    "evaluate",
    "evaluate_stream",
    "evaluating",
    "pit",
    "predict",
    "reading",
    "sbc",
    "statistics",
    "to_arviz",
]
