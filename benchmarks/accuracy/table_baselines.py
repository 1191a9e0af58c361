"""All baselines of a table, by name: each is built from training tasks and maps a support to a function from x to predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import bayesmeta as bm
from bayesmeta.evaluation import Predictor
from benchmarks.accuracy.baselines import BASELINES, Array, LastValue, MixedEffects

__all__ = ["ALONE", "TABLE_BASELINES"]


class RandomSlopes(MixedEffects):
    """A mixed model of a line alone: x as fixed effect, a random intercept and slopes."""

    def _fixed(self, x: Array) -> Array:
        return np.column_stack([np.ones(len(x)), x])


class TaskLine(LastValue):
    """The line of least squares through the known values, of the least norm where they do not tell it."""

    def centre(self, x: Array, y: Array) -> Callable[[Array], Array]:
        def columns(x: Array) -> Array:
            return np.column_stack([np.ones(len(x)), x])

        weights = np.linalg.lstsq(columns(x), y, rcond=None)[0]
        return lambda asked: columns(asked) @ weights


TABLE_BASELINES: dict[str, Callable[[bm.tasks.ArrayTasks], Predictor]] = {
    **BASELINES,
    "random slopes": RandomSlopes,
    "line per task": TaskLine,
    "boosting": bm.baselines.Boosting.from_tasks,
    "last value, t": bm.baselines.LastValue.from_tasks,
    "mean, t": bm.baselines.Mean.from_tasks,
}

ALONE = ("GP per task", "last value", "mean", "line per task", "last value, t", "mean, t")
"""Those that look at each task by itself."""
