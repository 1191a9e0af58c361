"""The posterior of a task whose scale is unknown: a Gaussian one, and what is known of its scale."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Normal, StudentT
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Scaled"]


class Scaled(Posterior):
    """A Gaussian posterior N(m, s² V), of which s² is unknown: Student's t.

    With 1 / s² ~ Gamma(ν/2, ν/2) before, Gamma((ν + N)/2, (ν + q)/2) after N points at the squared Mahalanobis distance q.

    Args:
        inner: the posterior where s² = 1.
        df: ν, a scalar tensor.
        support: the B tasks' points.
    """

    _of_tasks = ("inner",)

    def __init__(self, inner: Posterior, df: Tensor, support: Points) -> None:
        super().__init__(support)
        self.inner, self.df = inner, df
        inner._misfit()  # fails early

    def _known(self) -> tuple[Tensor, Tensor]:
        """ν + N and (ν + q), each ``(B, 1, Y)``."""
        count, squared = self.inner._misfit()
        return (self.df + count[:, None, None]).expand(-1, 1, squared.shape[-1]), self.df + squared[:, None]

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        normal = self.inner._predictive(x, samples)
        df, mass = (part.to(normal.mean) for part in self._known())
        return _student(df, normal.mean, normal.stddev * (mass / df).sqrt())

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric, epistemic = self.inner._decompose(x, samples)
        df, mass = self._known()
        expected = (mass / (df - 2)).to(aleatoric)  # of s²
        return aleatoric * expected, epistemic * expected

    def _functions(self, samples: int) -> Functions:
        inner = self.inner._functions(samples)
        df, mass = self._known()
        shape = (df.detach() / 2).expand(samples, *df.shape)
        scale = (mass / 2 / torch._standard_gamma(shape, generator=generator(df.device))).sqrt()  # (S, B, 1, Y)

        def ask(x: Any, own: bool) -> Distribution:
            mean, drawn = self.inner._predictive(x).mean, inner(x, own)
            mean, factor = (apart(mean, samples) if own else mean), scale.to(mean)
            base: Any = drawn
            return _normal(mean + factor * (drawn.mean - mean), factor * base.stddev)

        return ask

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.inner = self.inner._updated(points)
        return later


def _student(df: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
    return StudentT(df.expand_as(loc), loc, scale, validate_args=False).to_event(1)


def _normal(loc: Tensor, scale: Tensor) -> Distribution:
    return Normal(loc, scale, validate_args=False).to_event(1)
