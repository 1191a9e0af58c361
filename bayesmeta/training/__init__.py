"""Meta-training: `fit`, and what it stands on."""

from bayesmeta.training.fit import Diverged, History, fit

__all__ = ["Diverged", "History", "fit"]
