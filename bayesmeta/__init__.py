"""Probabilistic meta-learning: learn from many small related tasks, answer from a handful of points with uncertainty.

``fit(learner, tasks, steps=...)`` meta-trains; ``learner(points(x, y))(x_new)`` is then p(y_new | x_new, x, y).

Here are the verbs, the core types, the methods and the wrappers; the rest is in folders named by their subject, such as
``bm.metrics.ECE``, ``bm.networks.MLP`` or ``bm.tasks.Sinusoids``.
"""

from bayesmeta import (
    distributions,
    encoders,
    evaluation,
    functional,
    likelihoods,
    metrics,
    networks,
    plots,
    posteriors,
    tasks,
    training,
    variational,
    wrappers,
)
from bayesmeta.border import check, points
from bayesmeta.data import Episode, Points, concatenate, move
from bayesmeta.evaluation import evaluate
from bayesmeta.files import load, save
from bayesmeta.learner import Learner
from bayesmeta.methods import (
    ABML,
    ADKF,
    ADKL,
    ANIL,
    BMAML,
    DKT,
    LEO,
    MAML,
    MER,
    OML,
    PACOH,
    PACOHNN,
    PLATIPUS,
    VCL,
    VERSA,
    ALPaCA,
    ConditionalNeuralProcess,
    DKTClassifier,
    ExperienceReplay,
    FirstOrderMAML,
    GeMCL,
    ImplicitMAML,
    LaMAML,
    LaplaceGP,
    LaplaceHead,
    MetaSGD,
    NeuralProcess,
    OnlineLaplace,
    PolyaGammaGP,
    PrototypicalNetwork,
    Reptile,
)
from bayesmeta.objectives import ELBO, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.report import compare
from bayesmeta.tasks import TaskSource, tasks_from_arrays, tasks_from_frame
from bayesmeta.training import fit
from bayesmeta.wrappers import Calibrated, Changepoints, Conformal, Dense, Ensemble, Rehearsal, Standardized

__version__ = "0.1.0"

__all__ = [
    "ABML",
    "ADKF",
    "ADKL",
    "ANIL",
    "BMAML",
    "DKT",
    "ELBO",
    "LEO",
    "MAML",
    "MER",
    "OML",
    "PACOH",
    "PACOHNN",
    "PLATIPUS",
    "VCL",
    "VERSA",
    "ALPaCA",
    "Calibrated",
    "Changepoints",
    "ConditionalNeuralProcess",
    "Conformal",
    "DKTClassifier",
    "Dense",
    "Ensemble",
    "Episode",
    "ExperienceReplay",
    "FirstOrderMAML",
    "GeMCL",
    "ImplicitMAML",
    "LaMAML",
    "LaplaceGP",
    "LaplaceHead",
    "Learner",
    "MetaSGD",
    "NeuralProcess",
    "OnlineLaplace",
    "Points",
    "PolyaGammaGP",
    "Posterior",
    "Predictive",
    "PrototypicalNetwork",
    "Rehearsal",
    "Reptile",
    "Standardized",
    "TaskSource",
    "check",
    "compare",
    "concatenate",
    "distributions",
    "encoders",
    "evaluate",
    "evaluation",
    "fit",
    "functional",
    "likelihoods",
    "load",
    "metrics",
    "move",
    "networks",
    "plots",
    "points",
    "posteriors",
    "save",
    "tasks",
    "tasks_from_arrays",
    "tasks_from_frame",
    "training",
    "variational",
    "wrappers",
]
