"""Labels by regression: one process of signs a class, and which is the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.distributions import uncertainty
from bayesmeta.gaussian_process.classifier import check_classes, signs
from bayesmeta.gaussian_process.process import GaussianProcess
from bayesmeta.likelihoods import Categorical, at_once
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import normal_numbers

__all__ = ["OneVsRest", "largest"]


class OneVsRest(Posterior):
    """Classes by W regressions of ±1: the class is the one whose noisy regression is the largest.

    p(y = c | x) = P(f_c(x) + ε_c > f_c'(x) + ε_c' for all c' ≠ c), the f's variance and the noise's in it; deterministic.

    Args:
        process: the Gaussian process of W targets.
    """

    _of_tasks = ("process",)

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__(process.support)
        self.process = process

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return _largest(self.process._predictive(x))

    def _updated(self, points: Points) -> Posterior:
        classes = self.process.y.shape[-1]
        check_classes(points, classes)
        later = self._later()
        later.process = self.process._updated(points._replace(y=signs(points.y, classes, self.support.y.dtype)))
        return later

    def _functions(self, samples: int) -> Functions:
        process = self.process._functions(samples)
        return lambda x, own: _largest(process(x, own))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        mean, variance = self.process._function(x.double())
        numbers = normal_numbers(samples, mean.shape[-1]).to(mean)[:, None, None]
        aleatoric = uncertainty(largest(mean + variance.sqrt() * numbers, self.process.noise)).mean(0)
        aleatoric = aleatoric.to(self.support.y.dtype)
        return aleatoric, (uncertainty(self._predictive(x)) - aleatoric).clamp(min=0)


def _largest(normal: Any) -> Distribution:
    return largest(normal.mean, normal.stddev[..., :1])


def largest(mean: Tensor, scale: Tensor) -> Distribution:
    """Which of W independent normals is the largest, means ``(..., W)`` and one scale ``(..., 1)``: a Categorical.

    ∫ N(z; 0, 1) Π_{c' ≠ c} Φ(z + (m_c - m_c') / s) dz by 32 Gauss-Hermite nodes.

    Example:
        >>> largest(torch.tensor([1.0, 0.0]), torch.tensor([0.5**0.5])).probs[0]  # Φ(1)
        tensor(0.8413)
    """
    nodes, weights = (torch.as_tensor(part).to(mean) for part in np.polynomial.hermite_e.hermegauss(32))

    def log_probability(some: Tensor) -> Tensor:
        distance = (some[..., :, None] - mean[..., None, :]) / scale[..., None]  # (..., some of W, W)
        log_below = torch.special.log_ndtr(nodes + distance[..., None])  # (..., some of W, W, nodes)
        others = log_below.sum(-2) - torch.special.log_ndtr(nodes)
        return (others + weights.log()).logsumexp(-1)

    return Categorical()(
        torch.cat([log_probability(some) for some in mean.split(at_once(mean.numel() * len(nodes)), -1)], -1)
    )
