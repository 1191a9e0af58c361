"""What one would use for small tasks without meta-learning, as learners: to be shown beside others by `compare`."""

from bayesmeta.baselines.boosting import Boosting
from bayesmeta.baselines.mixed_effects import MixedEffects
from bayesmeta.baselines.values import LastValue, Mean

__all__ = ["Boosting", "LastValue", "Mean", "MixedEffects"]
