"""Gaussian processes over tasks: kernels, exact and approximate posteriors."""

from bayesmeta.gaussian_process.class_process import Sites
from bayesmeta.gaussian_process.classifier import GPClassifier, check_classes, signs
from bayesmeta.gaussian_process.inducing import InducingProcess
from bayesmeta.gaussian_process.kernels import check_kernel, covariance, log_prior, priors
from bayesmeta.gaussian_process.learner import KernelLearner
from bayesmeta.gaussian_process.one_vs_rest import OneVsRest
from bayesmeta.gaussian_process.process import GaussianProcess, cholesky, noisy
from bayesmeta.gaussian_process.starts import start_kernels

__all__ = [
    "GPClassifier",
    "GaussianProcess",
    "InducingProcess",
    "KernelLearner",
    "OneVsRest",
    "Sites",
    "check_classes",
    "check_kernel",
    "cholesky",
    "covariance",
    "log_prior",
    "noisy",
    "priors",
    "signs",
    "start_kernels",
]
