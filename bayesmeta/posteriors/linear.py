"""A Bayesian linear layer, in closed form."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, with_bias
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import standard_normal

__all__ = ["BayesianLinear", "linear_prior"]


class BayesianLinear(Posterior):
    """The conjugate posterior of a linear model on features, y = φ(x) W + noise, in closed form.

    Updates add to Λ and to Λ mean: exact, and of the same size after any number of points.

    The noise is N(0, σ²) and each column of W has the prior N(mean, covariance). With the prior's precision Λ₀,
    Λ = Λ₀ + ΦᵀΦ / σ² and the posterior mean is Λ⁻¹ (Λ₀ mean + Φᵀ y / σ²) (Bishop 2006, eqs. 3.50 and 3.51).
    Solved in float64 by Cholesky, so that many points with little noise stay exact.

    Args:
        mean: prior mean of the weights, ``(P, Y)`` with Y targets.
        covariance: their prior covariance, ``(P, P)``, shared by the targets.
        noise: σ, a scalar tensor.
        support: the B tasks' features, ``(B, N, P)``, or P - 1 of them, beside which a one stands for the bias; ``*Y = (Y,)``.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = ("precision", "evidence", "energy", "count", "cholesky", "mean")

    def __init__(self, mean: Tensor, covariance: Tensor, noise: Tensor, support: Points) -> None:
        super().__init__(support)
        self.noise, self.width = noise.double(), len(mean)
        prior = torch.linalg.inv(covariance.double())
        phi = self._phi(support.x) * support.mask[..., None]
        precision = prior + phi.mT @ phi / self.noise**2
        evidence = prior @ mean.double() + phi.mT @ support.y.double() / self.noise**2
        self.energy = (mean.double() * (prior @ mean.double())).sum(0) + self._energy(support)
        self.count = support.mask.sum(1)
        self._solve(precision, evidence)

    def _phi(self, x: Tensor) -> Tensor:
        """P features in float64."""
        phi = x.double()
        return with_bias(phi) if phi.shape[-1] < self.width else phi

    def _energy(self, points: Points) -> Tensor:
        """Σ y² / σ² of the observed points, ``(B, Y)``."""
        return (points.y.double() * points.mask[..., None]).square().sum(1) / self.noise**2

    def _solve(self, precision: Tensor, evidence: Tensor) -> None:
        self.precision, self.evidence = precision, evidence
        self.cholesky = torch.linalg.cholesky(precision)  # (B, P, P)
        self.mean = torch.cholesky_solve(evidence, self.cholesky)  # (B, P, Y)

    def _updated(self, points: Points) -> Posterior:
        phi = self._phi(points.x) * points.mask[..., None]
        later = self._later()
        later._solve(
            self.precision + phi.mT @ phi / self.noise**2,
            self.evidence + phi.mT @ points.y.double() / self.noise**2,
        )
        later.energy, later.count = self.energy + self._energy(points), self.count + points.mask.sum(1)
        return later

    def _misfit(self) -> tuple[Tensor, Tensor]:
        return self.count, (self.energy - (self.evidence * self.mean).sum(1)).clamp(min=0)

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        phi = self._phi(x)
        scale = (self._spread(phi, x) + self.noise**2).sqrt()
        return self._normal(phi @ self.mean, scale)

    def _mean(self, x: Any) -> Tensor:
        return _linear(x, self.mean.mT.to(x)).mT.to(self.support.y.dtype)  # without the spread, which costs most

    def _spread(self, phi: Tensor, x: Tensor) -> Tensor:
        """The variance of the function at x, of P features phi ``(B, M, P)``: ``(B, M, 1)``."""
        return torch.linalg.solve_triangular(self.cholesky, phi.mT, upper=False).square().sum(1)[..., None]

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        epistemic = self._spread(self._phi(x), x).to(self.support.y.dtype)
        epistemic = epistemic.expand(*epistemic.shape[:2], *self.mean.shape[2:])
        return (self.noise**2).to(epistemic).expand_as(epistemic), epistemic

    def _joint(self, x: Any) -> Joint:
        phi = self._phi(x)
        mean = phi @ self.mean
        reduced = torch.linalg.solve_triangular(self.cholesky, phi.mT, upper=False)
        covariance = (reduced.mT @ reduced)[:, None].expand(-1, mean.shape[-1], -1, -1)
        return Joint(mean, covariance, self.noise.expand_as(mean))

    def _functions(self, samples: int) -> Functions:
        return self._functions_on(Frozen(nn.Identity()), samples)

    def _functions_on(self, features: Frozen, samples: int) -> Functions:
        normal = standard_normal(samples, *self.mean.shape, like=self.mean).permute(1, 2, 0, 3)  # (B, P, S, Y)
        away = torch.linalg.solve_triangular(self.cholesky.mT, normal.flatten(2), upper=True)
        # Y rows by P, in the order in which features come: to turn those would copy them, and a product with few columns is slow;
        # one of three rows takes half as long again as one of four.
        rows = (self.mean[:, :, None] + away.reshape(normal.shape)).permute(0, 2, 3, 1).contiguous()  # (B, S, Y, P)
        targets = rows.shape[2]
        each, together = functional.pad(rows, (0, 0, 0, int(targets == 3))).flatten(0, 1), rows.flatten(1, 2)
        # With weights in hand nothing is solved: the features' own type will do, at half the time. Mostly it is the support's.
        in_its_type = each.to(self.support.x.dtype)

        def ask(x: Any, own: bool) -> Distribution:
            if not own:
                phi = features.over_tasks(x)
                values = _linear(phi, together.to(phi)).unflatten(1, (samples, -1))
                return self._normal(values.permute(1, 0, 3, 2), self.noise)

            def answers(phi: Tensor, block: slice) -> Tensor:  # (B S, Y, M), of some of them
                weights = in_its_type if phi.dtype == in_its_type.dtype else each.to(phi)
                return _linear(phi, weights[block])[:, :targets]

            parts = features.in_blocks(x, samples, answers)
            values = torch.cat([part.movedim(1, 0) for part in parts], 1)  # (Y, B S, M): each target's lie together
            return self._normal(values.unflatten(1, (-1, samples)).permute(2, 1, 3, 0), self.noise)

        return ask

    def _normal(self, mean: Tensor, scale: Tensor) -> Distribution:
        dtype = self.support.y.dtype
        return Normal(mean.to(dtype), scale.to(dtype).expand_as(mean), validate_args=False).to_event(1)


def _linear(phi: Tensor, rows: Tensor) -> Tensor:
    """Wᵀ φ(x) ``(B, Y, M)``, by features ``(B, M, P)`` or P - 1 of them, beside which a one stands, and Wᵀ ``(B, Y, P)``."""
    if phi.shape[-1] == rows.shape[-1]:
        return rows @ phi.mT
    return torch.baddbmm(rows[..., -1:], rows[..., :-1], phi.mT)


def linear_prior(head: nn.Linear, root: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A learned prior of a linear layer's weights, the bias last: its mean ``(F + 1, Y)``, and its root L ``(F + 1, F + 1)``.

    Args:
        head: the layer that holds the mean.
        root: what L is made of, ``(F + 1, F + 1)``: below the diagonal as it is, on it by its exponential.
        scale: the factor of L.
    """
    bias = head.bias if head.bias is not None else head.weight.new_zeros(head.out_features)
    mean = torch.cat([head.weight, bias[:, None]], 1).mT
    return mean, scale * (root.tril(-1) + root.diagonal().clamp(-9.0, 9.0).exp().diag())
