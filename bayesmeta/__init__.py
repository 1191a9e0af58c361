"""Probabilistic meta-learning: learn from many small related tasks, answer from a handful of points with uncertainty.

``fit(learner, tasks, steps=...)`` meta-trains; ``learner(points(x, y))(x_new)`` is then p(y_new | x_new, x, y).
"""

from bayesmeta.data import Episode, Points, check, concatenate, move, points
from bayesmeta.distributions import quantile
from bayesmeta.encoders import Attention, ClassPooling, DeepSet, Encoder, Relation
from bayesmeta.evaluation import evaluate
from bayesmeta.functional import Strategy
from bayesmeta.hyper_posterior import Bound, HyperPosterior
from bayesmeta.learner import Learner, Posterior, decompose
from bayesmeta.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    OneVsEach,
    StudentT,
)
from bayesmeta.methods import (
    ABML,
    ADKF,
    ADKL,
    ANIL,
    BMAML,
    DKT,
    LEO,
    MAML,
    PACOH,
    PACOHNN,
    PLATIPUS,
    VERSA,
    ALPaCA,
    ConditionalNeuralProcess,
    DKTClassifier,
    FirstOrderMAML,
    ImplicitMAML,
    LaplaceGP,
    MetaSGD,
    NeuralProcess,
    PolyaGammaGP,
    Reptile,
)
from bayesmeta.metrics import CRPS, ECE, NLL, RMSE, Accuracy, Coverage, Estimate, Metric, summary
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
from bayesmeta.training import Diverged, History, fit
from bayesmeta.variational import VariationalLearner, registered
from bayesmeta.wrappers import Ensemble, Standardized

__version__ = "0.1.0"

__all__ = [
    "ABML",
    "ADKF",
    "ADKL",
    "ANIL",
    "BMAML",
    "CRPS",
    "DKT",
    "ECE",
    "LEO",
    "MAML",
    "MLP",
    "NLL",
    "PACOH",
    "PACOHNN",
    "PLATIPUS",
    "RMSE",
    "VERSA",
    "ALPaCA",
    "Accuracy",
    "ArrayTasks",
    "Attention",
    "BatchNorm",
    "Bernoulli",
    "Bound",
    "Categorical",
    "ClassPooling",
    "ConditionalNeuralProcess",
    "Conv4",
    "Coverage",
    "DKTClassifier",
    "DeepSet",
    "Diverged",
    "Encoder",
    "Ensemble",
    "Episode",
    "Estimate",
    "FirstOrderMAML",
    "Gaussian",
    "GaussianProcessTasks",
    "GroupNorm",
    "HeteroscedasticGaussian",
    "History",
    "HyperPosterior",
    "ImplicitMAML",
    "LaplaceGP",
    "Learner",
    "Likelihood",
    "LinearGaussian",
    "Longitudinal",
    "MetaSGD",
    "Metric",
    "NeuralProcess",
    "OneVsEach",
    "Points",
    "PolyaGammaGP",
    "Posterior",
    "Relation",
    "Reptile",
    "Sinusoids",
    "Standardized",
    "Strategy",
    "StudentT",
    "TaskSource",
    "VariationalLearner",
    "check",
    "concatenate",
    "decompose",
    "evaluate",
    "fit",
    "move",
    "points",
    "quantile",
    "registered",
    "summary",
    "tasks_from_arrays",
    "tasks_from_frame",
]
