"""A posterior whose inputs and answers are mapped, such as one on features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.answers import Functions, Joint, refuse_update
from bayesmeta.data import Points
from bayesmeta.functional import Frozen
from bayesmeta.networks import BatchNorm
from bayesmeta.posterior import Posterior

__all__ = ["Transformed", "check_pointwise", "on_features"]


class Transformed(Posterior):
    """Another posterior seen through a map of its inputs and a map of its predictions.

    Args:
        inner: the posterior that is asked.
        support: the support as the user gave it, before the maps.
        inputs: maps x ``(B, M, *X)`` to the inner posterior's inputs.
        outputs: maps the inner posterior's distributions of real targets to the user's; None leaves them.
        further: maps further points to the inner posterior's, for updates; by the map of inputs if None.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = ("inner",)

    def __init__(
        self,
        inner: Posterior,
        support: Points,
        inputs: Callable[[Any], Any],
        outputs: Callable[[Distribution], Distribution] | None = None,
        further: Callable[[Points], Points] | None = None,
    ) -> None:
        self.inner = inner
        super().__init__(support)
        self.inputs = inputs
        self.outputs = outputs
        self.further = further

    def _inward(self, x: Any) -> Any:
        return self.inputs(x)

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return self._mapped(self.inner._predictive(self._inward(x), samples))

    def _mean(self, x: Any) -> Tensor:
        mean = self.inner._mean(self._inward(x))
        return mean if self.outputs is None else self.outputs(Normal(mean, 1.0, validate_args=False)).mean

    def _functions(self, samples: int) -> Functions:
        inner = self.inner._functions(samples)
        return lambda x, own: self._mapped(inner(self._inward(x), own))

    def _updated(self, points: Points) -> Posterior:
        seen = points._replace(x=self._inward(points.x)) if self.further is None else self.further(points)
        later = self._later()
        later.inner = self.inner._updated(seen)
        return later

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric, epistemic = self.inner._decompose(self._inward(x), samples)
        return self._variance(aleatoric), self._variance(epistemic)

    def _joint(self, x: Any) -> Joint:
        return self._moved(self.inner._joint(self._inward(x)))

    def _joints(self, x: Any) -> Joint:
        return self._moved(self.inner._joints(self._inward(x)))

    def _moved(self, joint: Joint) -> Joint:
        """What the map of the outputs makes of one normal, or of several with a leading K."""
        mean, covariance, noise = joint
        if self.outputs is None:
            return joint
        moved = self.outputs(Normal(mean, torch.ones_like(mean), validate_args=False).to_event(1))
        scale = moved.stddev  # (..., B, M, Y)
        each = scale.mT
        return Joint(moved.mean, covariance * each[..., :, None] * each[..., None, :], noise * scale)

    def _misfit(self) -> tuple[Tensor, Tensor]:
        return self.inner._misfit()

    def _mapped(self, distribution: Distribution) -> Distribution:
        return distribution if self.outputs is None else self.outputs(distribution)

    def _variance(self, variance: Tensor) -> Tensor:
        """A variance as the map of the outputs changes it; entropies, of classes, it does not meet."""
        if self.outputs is None:
            return variance
        normal = Normal(torch.zeros_like(variance), variance.sqrt(), validate_args=False)
        return self.outputs(normal.to_event(1)).variance


def on_features(inner: Posterior, support: Points, features: Frozen) -> Transformed:
    """A posterior on features that all tasks share, seen from the inputs. Its updates need features of each point by itself."""
    return _OnFeatures(inner, support, features)


class _OnFeatures(Transformed):
    def __init__(self, inner: Posterior, support: Points, features: Frozen) -> None:
        super().__init__(inner, support, features.over_tasks, further=self._told)
        self.features = features

    def _told(self, points: Points) -> Points:
        check_pointwise(self.features.module)
        return points._replace(x=self.features.over_tasks(points.x))

    def _functions(self, samples: int) -> Functions:
        return self.inner._functions_on(self.features, samples)


def check_pointwise(network: nn.Module) -> None:
    """Raises a NotImplementedError if what a network says of a point depends on the points beside it."""
    if any(isinstance(module, (BatchNorm, nn.modules.batchnorm._BatchNorm)) for module in network.modules()):
        refuse_update("one with batch normalisation, to which the old points would look otherwise beside the new ones")
