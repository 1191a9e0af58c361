"""What a support taught: the posteriors that methods share."""

from bayesmeta.posteriors.class_moments import ClassMoments, class_moments, met, starting
from bayesmeta.posteriors.encoded import Encoded, told
from bayesmeta.posteriors.gaussian_weights import GaussianWeights, LearnedInParts, Weights
from bayesmeta.posteriors.linear import BayesianLinear, linear_prior
from bayesmeta.posteriors.marginal import MarginallyDrawn, normal_numbers
from bayesmeta.posteriors.minibatches import Minibatches
from bayesmeta.posteriors.particles import Particles
from bayesmeta.posteriors.point_estimate import PointEstimate, adapt, check_inner_loop
from bayesmeta.posteriors.replayed import (
    Memory,
    Replay,
    Step,
    check_replay,
    in_turn,
    joined,
    observed_first,
    recall,
    remember,
    replayed,
)
from bayesmeta.posteriors.runs import Runs
from bayesmeta.posteriors.sampled import Outputs, Sampled, heads, networks
from bayesmeta.posteriors.scaled import Scaled
from bayesmeta.posteriors.transformed import Transformed, check_pointwise, on_features

__all__ = [
    "BayesianLinear",
    "ClassMoments",
    "Encoded",
    "GaussianWeights",
    "LearnedInParts",
    "MarginallyDrawn",
    "Memory",
    "Minibatches",
    "Outputs",
    "Particles",
    "PointEstimate",
    "Replay",
    "Runs",
    "Sampled",
    "Scaled",
    "Step",
    "Transformed",
    "Weights",
    "adapt",
    "check_inner_loop",
    "check_pointwise",
    "check_replay",
    "class_moments",
    "heads",
    "in_turn",
    "joined",
    "linear_prior",
    "met",
    "networks",
    "normal_numbers",
    "observed_first",
    "on_features",
    "recall",
    "remember",
    "replayed",
    "starting",
    "told",
]
