"""What a support taught: the posteriors that methods share."""

from bayesmeta.posteriors.encoded import Encoded, told
from bayesmeta.posteriors.gaussian_weights import GaussianWeights, LearnedInParts, Weights
from bayesmeta.posteriors.linear import BayesianLinear, linear_prior
from bayesmeta.posteriors.marginal import MarginallyDrawn, normal_numbers
from bayesmeta.posteriors.minibatches import Minibatches
from bayesmeta.posteriors.particles import Particles
from bayesmeta.posteriors.point_estimate import PointEstimate, adapt, check_inner_loop
from bayesmeta.posteriors.runs import Runs
from bayesmeta.posteriors.sampled import Outputs, Sampled, heads, networks
from bayesmeta.posteriors.transformed import Transformed, check_pointwise, on_features

__all__ = [
    "BayesianLinear",
    "Encoded",
    "GaussianWeights",
    "LearnedInParts",
    "MarginallyDrawn",
    "Minibatches",
    "Outputs",
    "Particles",
    "PointEstimate",
    "Runs",
    "Sampled",
    "Transformed",
    "Weights",
    "adapt",
    "check_inner_loop",
    "check_pointwise",
    "heads",
    "linear_prior",
    "networks",
    "normal_numbers",
    "on_features",
    "told",
]
