"""Sawtooth waves with a frequency, a phase and a direction a task: functions with jumps that repeat."""

from __future__ import annotations

import math
from numbers import Real
from typing import Unpack, final

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Particles
from bayesmeta.tasks.source import EpisodeOptions, SyntheticTasks, check_told, uniform

__all__ = ["Sawtooth"]

_MOST = 10_000_000
"""Quadrature nodes of a task."""


@final
class Sawtooth(SyntheticTasks):
    """y = (f x + φ) mod 1 + ε with f uniform in `frequencies`, of either sign, φ uniform in [0, 1) and ε ~ N(0, noise²).

    The wave of Gordon et al. 2020, "Convolutional Conditional Neural Processes", https://arxiv.org/abs/1910.13556, without their
    truncation of its Fourier series: it jumps.

    Args:
        frequencies: bounds of the size of f, above 0.
        noise: σ of the targets.
        options: batch, shots, queries, support_range (-2, 2), query_range, seed, length: see `SyntheticTasks`.

    Raises:
        ValueError: the bounds are not in order, or not above 0.

    Example:
        >>> tasks = Sawtooth(batch=2)
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([2, 15])
    """

    def __init__(
        self, *, frequencies: tuple[float, float] = (3.0, 5.0), noise: float = 0.05, **options: Unpack[EpisodeOptions]
    ) -> None:
        options.setdefault("support_range", (-2.0, 2.0))
        super().__init__(inputs=1, noise=noise, **options)
        pair = isinstance(frequencies, (tuple, list)) and len(frequencies) == 2
        low, high = frequencies if pair and all(isinstance(bound, Real) for bound in frequencies) else (0.0, 0.0)
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"frequencies: expected bounds (low, high) with 0 < low < high < inf, got {frequencies}; e.g. (3, 5)"
            )
        self.frequencies = frequencies

    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        low, high = self.frequencies
        size, sign, phase = (uniform(self.batch, 1, 1, generator=generator) for _ in range(3))
        frequency = (2 * (sign < 0.5).to(x) - 1) * (low + (high - low) * size)
        return (frequency * x + phase) % 1

    def oracle(self, support: Points) -> Posterior:
        """The exact posterior over (f, φ), by quadrature in float64 with nodes that together hold all but 1e-9 of the weight.

        Nodes are of f and of the phase at the middle of the support, where the two are nearly independent, three to a deviation
        of what is known. Since the wave jumps, log p is off by up to 0.06 near jumps, by some 0.002 on average.

        Raises:
            ValueError: the noise is so small that it would take millions of nodes.
        """
        check_told(support, 1)
        x, y, mask = support.x[..., 0].double(), support.y[..., 0].double(), support.mask
        middle = (x * mask).sum(1) / mask.sum(1).clamp(min=1)
        x = (x - middle[:, None]) * mask
        known, weights = zip(*(self._nodes(*task) for task in zip(x, y, mask, middle, strict=True)), strict=True)
        kept = max(len(w) for w in weights)
        frequencies, phases = (torch.stack([_filled(part[n], kept, 0.0) for part in known]) for n in range(2))
        log_weights = torch.stack([_filled(w, kept, -torch.inf) for w in weights])

        def functions(known: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Distribution:
            frequency, phase, middle = known
            waves = (frequency[:, None] * (x.double() - middle[:, None, None]) + phase[:, None]) % 1  # (B, M, K)
            mean = waves.movedim(-1, 0)[..., None].to(support.y.dtype)
            return Normal(mean, torch.full_like(mean, self.noise), validate_args=False).to_event(1)

        return Particles(functions, (frequencies, phases, middle), log_weights.to(support.y.dtype), support)

    def _nodes(self, x: Tensor, y: Tensor, mask: Tensor, middle: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """One task's frequencies and phases, and their log weights, each ``(K)``; x is seen from the middle."""
        x, y, (low, high) = x[mask], y[mask], self.frequencies
        farthest = max(abs(end - float(middle)) for end in (*self.support_range, *(self.query_range or ())))
        finest = 3 / self.noise if self.noise else math.inf
        phases, frequencies = finest * max(len(x), 1) ** 0.5, finest * (high - low) * max(farthest, float(x.norm()))
        if not 2 * phases * frequencies < _MOST:
            raise ValueError(
                f"noise: expected more for the oracle, which takes at most {_MOST:,} nodes, got {self.noise} with {len(x)} "
                "points; raise noise, or take fewer shots, a narrower range or narrower frequencies"
            )
        phase, step = (_midpoints(math.ceil(count), x) for count in (phases, frequencies))
        frequency = low + (high - low) * step
        frequency = torch.cat([-frequency, frequency])
        misfit = x.new_zeros(len(frequency), len(phase))
        for place, target in zip(x, y, strict=True):
            misfit += (target - (frequency[:, None] * place + phase) % 1).square()
        ranked = (-0.5 * misfit / self.noise**2).flatten().log_softmax(0).sort(descending=True)
        kept = int((ranked.values.exp().cumsum(0) < 1 - 1e-9).sum()) + 1
        chosen = ranked.indices[:kept]
        return (frequency[chosen // len(phase)], phase[chosen % len(phase)]), ranked.values[:kept]


def _midpoints(count: int, like: Tensor) -> Tensor:
    """Of equal parts of [0, 1]."""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


def _filled(values: Tensor, count: int, rest: float) -> Tensor:
    return torch.cat([values, values.new_full((count - len(values),), rest)])
