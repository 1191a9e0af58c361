"""Streams of a sinusoid whose amplitude and phase drift."""

from __future__ import annotations

import math
from typing import final

import torch
from gpytorch.kernels import CosineKernel, Kernel, MaternKernel, ScaleKernel
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.gaussian_process import GaussianProcess
from bayesmeta.posterior import Posterior
from bayesmeta.tasks.source import check_told, normal, uniform
from bayesmeta.tasks.streams import StreamSource

__all__ = ["DriftingSinusoids"]


@final
class DriftingSinusoids(StreamSource):
    """y = a(t) sin(u) + b(t) cos(u) + ε, whose weights a and b drift from part to part; x = (u, t) says when.

    Weights are N(0, scale²) at any time, and their correlation falls by the factor ρ = exp(-1 / memory) with each part:
    a(t + 1) = ρ a(t) + √(1 - ρ²) scale ξ. As x says the time, the past is a question with an answer of its own, and a learner
    that forgets loses it.

    As weights are Gaussian, the function is a Gaussian process of (u, t) with covariance scale² cos(u - u') ρ^|t - t'|: the exact
    answer, of a Kalman filter about the next part and of a smoother about those before, is the `oracle`.

    Args:
        scale: the standard deviation of a and of b.
        memory: after how many parts the correlation has fallen to 1/e, above 0.
        noise: σ of the targets, above 0.
        steps: P, the number of parts; time is 0 in the first and 1 in the last.
        batch: B, streams in an episode.
        shots: points a part.
        queries: points asked about each part.
        support_range: u is uniform in this interval.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: a number that must be positive is not, or fewer than two parts.

    Example:
        >>> streams = DriftingSinusoids(steps=3, batch=2)
        >>> first, second, third = streams.parts(0)
        >>> third.support.x[0, 0, 1]
        tensor(1.)
        >>> streams.oracle(first.support).update(second.support)(third.query.x).batch_shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        memory: float = 10.0,
        noise: float = 0.1,
        steps: int = 20,
        batch: int = 25,
        shots: int = 5,
        queries: int = 5,
        support_range: tuple[float, float] = (-5.0, 5.0),
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        for name, value in (("scale", scale), ("memory", memory), ("noise", noise)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        check_count("steps", steps, least=2)
        for name, value in (("batch", batch), ("shots", shots), ("queries", queries)):
            check_count(name, value)
        self.scale, self.memory, self.noise = scale, memory, noise
        self.steps, self.batch, self.shots, self.queries = steps, batch, shots, queries
        self.support_range = support_range

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        stay = math.exp(-1 / self.memory)
        weights = self.scale * normal(self.batch, 2, 1, generator=generator)
        parts = []
        for t in range(self.steps):
            parts.append(Episode(*(self._points(count, t, weights, generator) for count in (self.shots, self.queries))))
            drift = self.scale * normal(self.batch, 2, 1, generator=generator)
            weights = stay * weights + (1 - stay**2) ** 0.5 * drift
        return parts

    def _points(self, count: int, t: int, weights: Tensor, generator: torch.Generator) -> Points:
        low, high = self.support_range
        u = low + (high - low) * uniform(self.batch, count, 1, generator=generator)
        y = torch.cat([u.sin(), u.cos()], -1) @ weights + self.noise * normal(self.batch, count, 1, generator=generator)
        x = torch.cat([u, torch.full_like(u, t / (self.steps - 1))], -1)
        return Points(x, y, torch.ones(self.batch, count, dtype=torch.bool))

    def oracle(self, support: Points) -> Posterior:
        """The exact posterior: no learner's mean NLL can be lower, about any part. It grows with the points that it is told."""
        check_told(support, 2)
        noise = torch.tensor(self.noise, dtype=torch.float64, device=support.y.device)
        return GaussianProcess(self._kernel().to(support.y.device), None, noise, support)

    def _kernel(self) -> Kernel:
        wave, memory = CosineKernel(active_dims=(0,)).double(), MaternKernel(nu=0.5, active_dims=(1,)).double()
        kernel = ScaleKernel(wave * memory).double()
        wave.period_length, kernel.outputscale = math.pi, self.scale**2
        memory.lengthscale = self.memory / (self.steps - 1)
        return kernel.requires_grad_(False)
