"""Learners around learners."""

from bayesmeta.wrappers.calibrated import Calibrated, Tempered
from bayesmeta.wrappers.changepoints import Changepoints
from bayesmeta.wrappers.conformal import Conformal
from bayesmeta.wrappers.consolidated import Consolidated
from bayesmeta.wrappers.consolidated_vi import ConsolidatedVI
from bayesmeta.wrappers.dense import Dense
from bayesmeta.wrappers.ensemble import Ensemble
from bayesmeta.wrappers.own_scale import OwnScale
from bayesmeta.wrappers.rehearsal import Rehearsal
from bayesmeta.wrappers.standardized import Standardized
from bayesmeta.wrappers.warped import Warped

__all__ = [
    "Calibrated",
    "Changepoints",
    "Conformal",
    "Consolidated",
    "ConsolidatedVI",
    "Dense",
    "Ensemble",
    "OwnScale",
    "Rehearsal",
    "Standardized",
    "Tempered",
    "Warped",
]
