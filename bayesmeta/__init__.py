"""Probabilistic meta-learning: learn from many small related tasks, answer from a handful of points with uncertainty.

    learner = MAML(MLP(1, 1), Gaussian())
    fit(learner, tasks, steps=10_000)
    learner(points(x, y))(x_new)            # p(y_new | x_new, x, y)
"""

from bayesmeta.data import Episode, Points, check, concatenate, move, points
from bayesmeta.functional import Strategy
from bayesmeta.learner import Learner, Posterior
from bayesmeta.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    StudentT,
)
from bayesmeta.methods import ANIL, MAML, FirstOrderMAML, ImplicitMAML, MetaSGD, Reptile
from bayesmeta.metrics import ECE, NLL, RMSE, Accuracy, Coverage, Estimate, Metric
from bayesmeta.networks import MLP, BatchNorm, Conv4, GroupNorm
from bayesmeta.tasks import (
    ArrayTasks,
    GaussianProcessTasks,
    LinearGaussian,
    Longitudinal,
    Sinusoids,
    TaskSource,
    tasks_from_arrays,
    tasks_from_frame,
)
from bayesmeta.training import Diverged, History, evaluate, fit
from bayesmeta.wrappers import Standardized

__version__ = "0.1.0"
