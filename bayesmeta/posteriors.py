"""Posteriors that learners and oracles share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from bayesmeta.answers import Joint
from bayesmeta.data import Points, check_count, seen
from bayesmeta.distributions import apart, mixture, select, uncertainty
from bayesmeta.functional import (
    Frozen,
    Gradient,
    Params,
    Strategy,
    adaptable,
    descend,
    second_order,
    with_bias,
)
from bayesmeta.learner import Functions, Posterior, refuse_update, repeated
from bayesmeta.likelihoods import Likelihood, check_likelihood, support_error
from bayesmeta.networks import BatchNorm, check_network, check_padding
from bayesmeta.randomness import generator, standard_normal

__all__ = [
    "BayesianLinear",
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
]


class PointEstimate(Posterior):
    """One set of adapted weights a task; the predictive's spread is the likelihood's alone.

    Args:
        network: maps inputs ``(N, *X)`` to outputs ``(N, *O)``.
        likelihood: maps outputs to distributions.
        weights: the adapted parameters by name, each ``(B, ...)``; the others are the network's own.
        support: what was learned from.
        learn: moves one task's weights to where its further points lead, for updates; None if there are none.
    """

    _of_tasks = ("weights",)

    def __init__(
        self,
        network: Frozen,
        likelihood: Likelihood,
        weights: Params,
        support: Points,
        learn: Callable[[Points, Params], Params] | None = None,
    ) -> None:
        super().__init__(support, samples=1)
        self.network = network
        self.weights = weights
        self.likelihood = Frozen(likelihood)
        self.learn = learn

    def _updated(self, points: Points) -> Posterior:
        if self.learn is None:
            return super()._updated(points)
        check_padding(self.network.module, seen(points), "points")
        later = self._later()
        later.weights = self.network.map(self.learn, points, self.weights)
        return later

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        distribution: Distribution = self.likelihood(self.network.over_tasks(x, self.weights))
        return distribution

    def _functions(self, samples: int) -> Functions:
        return repeated(self._predictive, samples)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric = uncertainty(self._predictive(x))
        return aleatoric, torch.zeros_like(aleatoric)


def check_inner_loop(network: nn.Module, likelihood: Likelihood, steps: int, rate: float) -> None:
    """Raises an error where a learner of the MAML family is built around something else than it needs."""
    check_network(network)
    check_likelihood(likelihood)
    adaptable(network)
    check_count("steps", steps, least=0)
    if not isinstance(rate, (int, float)) or not 0 <= rate < float("inf"):
        raise ValueError(f"rate: expected a finite inner step size, at least 0, got {rate!r}; e.g. 0.01")


def adapt(
    network: nn.Module,
    likelihood: Likelihood,
    support: Points,
    *,
    steps: int,
    rates: float | Params,
    gradient: Gradient = second_order,
    strategy: Strategy = "auto",
) -> PointEstimate:
    """K gradient steps from the network's weights on each task's support error: the inner loop of the MAML family.

    The result is differentiable with respect to the network's parameters and the rates, as far as `gradient` is. Its update takes
    as many steps again, on the new points alone.
    """
    frozen = Frozen(network, strategy)
    start = frozen.weights

    def learn(points: Points, weights: Params) -> Params:
        return descend(support_error(frozen, likelihood, points), weights, steps, rates, gradient)

    weights = frozen.map(lambda support: learn(support, start), support)
    return PointEstimate(frozen, likelihood, weights, support, learn)


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
        mean, covariance, noise = self.inner._joint(self._inward(x))
        if self.outputs is None:
            return Joint(mean, covariance, noise)
        moved = self.outputs(Normal(mean, torch.ones_like(mean), validate_args=False).to_event(1))
        scale = moved.stddev  # (B, M, Y)
        each = scale.mT
        return Joint(moved.mean, covariance * each[..., :, None] * each[..., None, :], noise * scale)

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

    def further(points: Points) -> Points:
        check_pointwise(features.module)
        return points._replace(x=features.over_tasks(points.x))

    return Transformed(inner, support, features.over_tasks, further=further)


def check_pointwise(network: nn.Module) -> None:
    """Raises a NotImplementedError if what a network says of a point depends on the points beside it."""
    if any(isinstance(module, (BatchNorm, nn.modules.batchnorm._BatchNorm)) for module in network.modules()):
        refuse_update("one with batch normalisation, to which the old points would look otherwise beside the new ones")


class Particles(Posterior):
    """A posterior over functions by weighted particles: K functions, each with a weight in each task.

    Args:
        predict: from what is known of the tasks and x ``(B, M, *X)`` to the particles' predictions, batch ``(K, B, M)``.
        known: of the tasks, a tree of tensors ``(B, ...)``: the particles.
        log_weights: ``(B, K)``, not necessarily normalised.
        support: what was learned from.
    """

    _of_tasks = ("known", "log_weights")

    def __init__(
        self, predict: Callable[[Any, Any], Distribution], known: Any, log_weights: Tensor, support: Points
    ) -> None:
        super().__init__(support)
        self.predict, self.known = predict, known
        self.log_weights = log_weights

    def _particles(self, x: Any) -> Distribution:
        return self.predict(self.known, x)

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(self._particles(x), self.log_weights.mT[..., None])

    def _functions(self, samples: int) -> Functions:
        weights = self.log_weights.softmax(1)
        chosen = torch.multinomial(weights, samples, replacement=True, generator=generator(weights.device)).mT  # (S, B)
        return lambda x, own: select(self._particles(x), chosen, own=own)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        particles = self._particles(x)
        each, log_weights = uncertainty(particles), self.log_weights.mT
        weights = log_weights.softmax(0)[..., None].reshape(*log_weights.shape, *[1] * (each.dim() - 2))
        aleatoric = (weights * each).sum(0)
        total = uncertainty(mixture(particles, log_weights[..., None]))
        return aleatoric, (total - aleatoric).clamp(min=0)


Outputs: TypeAlias = Callable[[Any, bool], Tensor]
"""The network outputs ``(S, B, M, *O)`` of S functions, at inputs in the form of `bayesmeta.learner.Functions`."""


class Sampled(Posterior):
    """A posterior over functions from which one can draw: the predictive is the mixture of S draws.

    Args:
        draw: makes S functions, from what is known of the tasks and S. For B tasks at once to equal B one by one, its noise is
            shared over the tasks.
        known: of the tasks, a tree of tensors ``(B, ...)``.
        likelihood: maps outputs to distributions.
        support: what was learned from.
        samples: S, how many draws a prediction averages unless the call says; 1 for a posterior whose draws are all equal.
    """

    _of_tasks = ("known",)

    def __init__(
        self,
        draw: Callable[[Any, int], Outputs],
        known: Any,
        likelihood: Likelihood,
        support: Points,
        samples: int = 64,
    ) -> None:
        super().__init__(support, samples)
        self.draw, self.known = draw, known
        self.likelihood = Frozen(likelihood)

    def _functions(self, samples: int) -> Functions:
        outputs = self.draw(self.known, samples)
        return lambda x, own: self.likelihood(outputs(x, own))


def networks(network: Frozen, weights: Tensor) -> Outputs:
    """A network with S draws of each task's weights, ``(S, B, P)``, as S functions."""

    def outputs(x: Any, own: bool) -> Tensor:
        if not own:
            return network.over_tasks(x, weights)
        each = tree_map(lambda leaf: apart(leaf, len(weights)).flatten(0, 1), x)  # as many tasks of M points
        return network.over_tasks(each, weights.flatten(0, 1)).unflatten(0, weights.shape[:2])

    return outputs


def heads(features: Callable[[Any], Tensor], weights: Tensor) -> Outputs:
    """Linear heads on features, with S draws of each task's weights and biases, ``(S, B, *O, F + 1)``, as S functions.

    Args:
        features: maps inputs ``(B, M, *X)`` to features ``(B, M, F)``.
        weights: of each draw's head; the last weight of each output is its bias.
    """

    def outputs(x: Any, own: bool) -> Tensor:
        embedded = with_bias(features(x))
        return (apart(embedded, len(weights)) if own else embedded) @ weights.mT

    return outputs


class BayesianLinear(Posterior):
    """The conjugate posterior of a linear model on features, y = φ(x) W + noise, in closed form.

    Updates add to Λ and to Λ mean: exact, and of the same size after any number of points.

    The noise is N(0, σ²) and each column of W has the prior N(mean, covariance). With the prior's precision Λ₀,
    Λ = Λ₀ + ΦᵀΦ / σ² and the posterior mean is Λ⁻¹ (Λ₀ mean + Φᵀ y / σ²) (Bishop 2006, eqs. 3.50 and 3.51).
    Solved in float64 by Cholesky, so that many points with little noise stay exact.

    Args:
        features: maps inputs ``(B, N, *X)`` to features ``(B, N, P)``.
        mean: prior mean of the weights, ``(P, Y)`` with Y targets.
        covariance: their prior covariance, ``(P, P)``, shared by the targets.
        noise: σ, a scalar tensor.
        support: the B tasks' points; ``*Y = (Y,)``.
    """

    _of_tasks = ("precision", "evidence", "cholesky", "mean")

    def __init__(
        self, features: Callable[[Any], Tensor], mean: Tensor, covariance: Tensor, noise: Tensor, support: Points
    ) -> None:
        super().__init__(support)
        self.features = features
        self.noise = noise.double()
        phi = features(support.x).double() * support.mask[..., None]
        prior = torch.linalg.inv(covariance.double())
        precision = prior + phi.mT @ phi / self.noise**2
        evidence = prior @ mean.double() + phi.mT @ support.y.double() / self.noise**2
        self._solve(precision, evidence)

    def _solve(self, precision: Tensor, evidence: Tensor) -> None:
        self.precision, self.evidence = precision, evidence
        self.cholesky = torch.linalg.cholesky(precision)  # (B, P, P)
        self.mean = torch.cholesky_solve(evidence, self.cholesky)  # (B, P, Y)

    def _updated(self, points: Points) -> Posterior:
        phi = self.features(points.x).double() * points.mask[..., None]
        later = self._later()
        later._solve(
            self.precision + phi.mT @ phi / self.noise**2,
            self.evidence + phi.mT @ points.y.double() / self.noise**2,
        )
        return later

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        phi = self.features(x).double()
        scale = (self._spread(phi) + self.noise**2).sqrt()
        return self._normal(phi @ self.mean, scale)

    def _spread(self, phi: Tensor) -> Tensor:
        """The variance of the function at features ``(B, M, P)``: ``(B, M, 1)``."""
        return torch.linalg.solve_triangular(self.cholesky, phi.mT, upper=False).square().sum(1)[..., None]

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        epistemic = self._spread(self.features(x).double()).to(self.support.y.dtype)
        epistemic = epistemic.expand(*epistemic.shape[:2], *self.mean.shape[2:])
        return (self.noise**2).to(epistemic).expand_as(epistemic), epistemic

    def _joint(self, x: Any) -> Joint:
        phi = self.features(x).double()
        mean = phi @ self.mean
        reduced = torch.linalg.solve_triangular(self.cholesky, phi.mT, upper=False)
        covariance = (reduced.mT @ reduced)[:, None].expand(-1, mean.shape[-1], -1, -1)
        return Joint(mean, covariance, self.noise.expand_as(mean))

    def _functions(self, samples: int) -> Functions:
        normal = standard_normal(samples, *self.mean.shape, like=self.mean)
        weights = self.mean + torch.linalg.solve_triangular(self.cholesky.mT, normal, upper=True)  # (S, B, P, Y)

        def ask(x: Any, own: bool) -> Distribution:
            phi = self.features(x).double()
            return self._normal((apart(phi, samples) if own else phi) @ weights, self.noise)

        return ask

    def _normal(self, mean: Tensor, scale: Tensor) -> Distribution:
        dtype = self.support.y.dtype
        return Normal(mean.to(dtype), scale.expand_as(mean).to(dtype), validate_args=False).to_event(1)
