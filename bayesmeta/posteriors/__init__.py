"""What a support taught: the posteriors that methods share."""

from bayesmeta.posteriors.encoded import Encoded, told
from bayesmeta.posteriors.linear import BayesianLinear
from bayesmeta.posteriors.particles import Particles
from bayesmeta.posteriors.point_estimate import PointEstimate, adapt, check_inner_loop
from bayesmeta.posteriors.sampled import Outputs, Sampled, heads, networks
from bayesmeta.posteriors.transformed import Transformed, check_pointwise, on_features

__all__ = [
    "BayesianLinear",
    "Encoded",
    "Outputs",
    "Particles",
    "PointEstimate",
    "Sampled",
    "Transformed",
    "adapt",
    "check_inner_loop",
    "check_pointwise",
    "heads",
    "networks",
    "on_features",
    "told",
]
