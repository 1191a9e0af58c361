"""Linear functions with a Gaussian prior: the source on which every Bayesian learner has a closed form to meet."""

from __future__ import annotations

from typing import Unpack, final

import torch
from torch import Tensor

from bayesmeta.data import Points
from bayesmeta.functional import with_bias
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import BayesianLinear
from bayesmeta.tasks.source import EpisodeOptions, SyntheticTasks, check_told, normal

__all__ = ["LinearGaussian"]


@final
class LinearGaussian(SyntheticTasks):
    """y = w·x + b + ε with w, b ~ N(0, weight_scale²) and ε ~ N(0, noise²).

    Args:
        inputs: D, the number of input features.
        weight_scale: prior standard deviation of every slope and of the intercept.
        noise: σ of the targets, above 0.
        options: batch, shots, queries, support_range, query_range, seed, length: see `SyntheticTasks`.

    Example:
        >>> tasks = LinearGaussian(inputs=2)
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([25, 15])
    """

    def __init__(
        self,
        *,
        inputs: int = 1,
        weight_scale: float = 1.0,
        noise: float = 0.1,
        **options: Unpack[EpisodeOptions],
    ) -> None:
        super().__init__(inputs=inputs, noise=noise, **options)
        if noise <= 0 or weight_scale <= 0:
            raise ValueError(
                f"noise and weight_scale: expected positive numbers, got {noise} and {weight_scale}; "
                "without noise the exact posterior is degenerate"
            )
        self.weight_scale = weight_scale

    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        weights = self.weight_scale * normal(self.batch, self.inputs + 1, 1, generator=generator)
        return with_bias(x) @ weights

    def oracle(self, support: Points) -> Posterior:
        check_told(support, self.inputs)
        y = support.y
        mean = y.new_zeros(self.inputs + 1, 1)
        covariance = self.weight_scale**2 * torch.eye(self.inputs + 1, dtype=torch.float64, device=y.device)
        noise = torch.tensor(self.noise, dtype=torch.float64, device=y.device)
        return BayesianLinear(mean, covariance, noise, support)
