"""Sinusoids with an amplitude and a phase a task: the field's first regression benchmark."""

from __future__ import annotations

import math
from typing import Unpack, final

import numpy as np
import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.data import Points
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Particles
from bayesmeta.tasks.source import EpisodeOptions, SyntheticTasks, check_told, uniform

__all__ = ["Sinusoids"]

_PHASES, _AMPLITUDES = 1024, 24
"""Quadrature nodes. Five points with σ = 0.1 and amplitude 5 leave the phase a deviation of about 0.01, three to
four nodes wide; Gauss-Legendre converges exponentially from there."""


@final
class Sinusoids(SyntheticTasks):
    """y = A sin(x - φ) + ε with A uniform in `amplitudes` and φ uniform in `phases`.

    The defaults are the protocol of Finn et al. 2017 (no noise; they draw 10 queries). That of
    Patacchiola et al. 2020 (DKT) is ``Sinusoids(noise=0.1)``, out of range with ``query_range=(-5.0, 10.0)``.

    Args:
        amplitudes: bounds of A.
        phases: bounds of φ, in radians.
        noise: σ of the targets; above 0 where the oracle is asked.
        options: batch, shots, queries, support_range (-5, 5), query_range, seed, length: see `SyntheticTasks`.

    Example:
        >>> tasks = Sinusoids(noise=0.1, batch=2)
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([2, 15])
    """

    def __init__(
        self,
        *,
        amplitudes: tuple[float, float] = (0.1, 5.0),
        phases: tuple[float, float] = (0.0, math.pi),
        noise: float = 0.0,
        **options: Unpack[EpisodeOptions],
    ) -> None:
        options.setdefault("support_range", (-5.0, 5.0))
        super().__init__(inputs=1, noise=noise, **options)
        self.amplitudes = amplitudes
        self.phases = phases

    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        amplitude, phase = (
            low + (high - low) * uniform(self.batch, 1, 1, generator=generator)
            for low, high in (self.amplitudes, self.phases)
        )
        return amplitude * torch.sin(x - phase)

    def oracle(self, support: Points) -> Posterior:
        """The exact posterior over (A, φ), by quadrature in float64.

        Gauss-Legendre in φ, and for each φ in A, whose posterior is then a truncated Gaussian. Nodes that together
        hold less than 1e-12 of a task's weight are dropped.

        Raises:
            ValueError: the source is noise-free, so that the posterior is degenerate.
        """
        if self.noise == 0:
            raise ValueError(
                "noise: expected a source with noise > 0 for its oracle, got 0; build Sinusoids(noise=0.1)"
            )
        low, high = self.amplitudes
        if not low < high:
            raise ValueError(
                f"amplitudes: expected bounds (low, high) with low < high for the oracle, got {self.amplitudes}; "
                f"for one amplitude, e.g. ({low}, {low + 1e-3})"
            )
        check_told(support, 1)
        steepest = max(abs(low), abs(high)) * max(1, int(support.mask.sum(1).max())) ** 0.5
        if self.noise < 0.25 * steepest * abs(self.phases[1] - self.phases[0]) / _PHASES:
            raise ValueError(
                f"noise: expected more for the oracle, whose quadrature has {_PHASES} nodes, got {self.noise}, which narrows "
                "the phase to less than the nodes' distance; raise noise, or narrow amplitudes, phases or shots"
            )
        phase, phase_weight = _legendre(_PHASES, support.y)
        phase = self.phases[0] + (self.phases[1] - self.phases[0]) * phase
        node, node_weight = _legendre(_AMPLITUDES, support.y)

        x, y = support.x.double(), support.y.double()
        wave = torch.sin(x - phase) * support.mask[..., None]  # (B, N, F) at F phases; masked targets are zeros
        # Given φ the likelihood is Gaussian in A, with this mode and information:
        information = wave.square().sum(1).clamp(min=1e-12)  # (B, F)
        mode = (wave * y).sum(1) / information
        misfit = (y - wave * mode.clamp(low, high)[:, None]).square().sum(1) / self.noise**2
        kept = _enough(misfit < misfit.amin(1, keepdim=True) + 100)  # exp(-50) of the best phase
        chosen = misfit.argsort(1)[:, :kept]  # (B, F')
        phase, phase_weight = phase[chosen], phase_weight[chosen]
        wave = wave.gather(2, chosen[:, None].expand(-1, wave.shape[1], -1))
        # Integrate over A where it is not negligible within the prior.
        mode, reach = mode.gather(1, chosen), 8 * self.noise / information.gather(1, chosen).sqrt()
        start, end = (mode - reach).clamp(low, high), (mode + reach).clamp(low, high)
        amplitude = start[..., None] + (end - start)[..., None] * node  # (B, F', A)
        residual = y[..., None] - wave[..., None] * amplitude[:, None]  # (B, N, F', A)
        log_weights = -0.5 * residual.square().sum(1) / self.noise**2
        log_weights = log_weights + ((end - start) * phase_weight).log()[..., None] + node_weight.log()

        log_weights = log_weights.flatten(1).log_softmax(1)  # (B, K)
        ranked = log_weights.sort(1, descending=True)
        kept = _enough(ranked.values.exp().cumsum(1) < 1 - 1e-12) + 1
        chosen = ranked.indices[:, :kept]
        amplitude = amplitude.flatten(1).gather(1, chosen)
        phases = phase.repeat_interleave(_AMPLITUDES, 1).gather(1, chosen)

        def functions(known: tuple[Tensor, Tensor], x: Tensor) -> Distribution:
            amplitude, phases = known
            waves = amplitude[:, None] * torch.sin(x.double() - phases[:, None])  # (B, M, K)
            mean = waves.movedim(-1, 0)[..., None].to(support.y.dtype)
            return Normal(mean, torch.full_like(mean, self.noise), validate_args=False).to_event(1)

        return Particles(functions, (amplitude, phases), ranked.values[:, :kept].to(support.y.dtype), support)


def _enough(needed: Tensor) -> int:
    """How many columns the neediest task needs."""
    return int(needed.sum(1).max())


def _legendre(nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1], in float64."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((node + 1) / 2).to(like.device), torch.from_numpy(weight / 2).to(like.device)
