"""Learners as Pyro models and guides."""

from bayesmeta.variational.hyper_posterior import Bound, HyperPosterior, HyperPosteriorLearner
from bayesmeta.variational.learner import VariationalLearner, registered

__all__ = ["Bound", "HyperPosterior", "HyperPosteriorLearner", "VariationalLearner", "registered"]
