"""From network outputs to distributions of targets, and the parameter-free errors that inner loops descend."""

from bayesmeta.likelihoods.base import (
    Likelihood,
    check_event,
    check_labels,
    check_likelihood,
    check_one_label,
    check_support,
    check_targets,
    log_likelihood,
    mean_error,
    nll,
    support_error,
)
from bayesmeta.likelihoods.boxes import Boxes
from bayesmeta.likelihoods.classes import Bernoulli, Categorical, OneVsEach, at_once
from bayesmeta.likelihoods.counts import NegativeBinomial, Poisson
from bayesmeta.likelihoods.real import (
    Gaussian,
    HeteroscedasticGaussian,
    StudentT,
    check_gaussian,
    standard_deviation,
)

__all__ = [
    "Bernoulli",
    "Boxes",
    "Categorical",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "NegativeBinomial",
    "OneVsEach",
    "Poisson",
    "StudentT",
    "at_once",
    "check_event",
    "check_gaussian",
    "check_labels",
    "check_likelihood",
    "check_one_label",
    "check_support",
    "check_targets",
    "log_likelihood",
    "mean_error",
    "nll",
    "standard_deviation",
    "support_error",
]
