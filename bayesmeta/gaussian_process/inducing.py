"""A Gaussian process of many points by way of a few of them: time linear in their number, and memory too."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.gaussian_process.kernels import check_inputs, covariance
from bayesmeta.gaussian_process.process import cholesky
from bayesmeta.posteriors import BayesianLinear

__all__ = ["InducingProcess"]


class InducingProcess(BayesianLinear):
    """A Gaussian process of mean zero that knows its support through its values at m of the support's inputs, u.

    With K_uu = R Rᵀ and the features φ(x) = R⁻¹ k(u, x), targets are y = φ(x)ᵀ w + ε with w ~ N(0, I): a Bayesian linear layer,
    in O(N m²). What the features leave of the prior's variance, k(x, x) - |φ(x)|², is doubt that no point removes, and so part of
    predictions: the "deterministic training conditional" (Quiñonero-Candela & Rasmussen 2005, section 5). With all inputs in u it
    is the exact posterior; drawn functions have the doubt that is left as noise of each answer.

    The inputs u are chosen one by one, each where the variance that those before it leave is largest: a pivoted Cholesky
    factorisation (Fine & Scheinberg 2001, https://www.jmlr.org/papers/v2/fine01a.html).

    Args:
        kernel: a gpytorch kernel on inputs ``(B, N, D)``.
        noise: σ, a scalar tensor.
        support: the B tasks' points, ``*X = (D,)``.
        count: m, at most N.
    """

    _of_tasks: ClassVar[tuple[str, ...]] = (*BayesianLinear._of_tasks, "chosen", "root")

    def __init__(self, kernel: Kernel, noise: Tensor, support: Points, count: int) -> None:
        check_inputs(support.x)
        self.kernel = covariance(kernel)
        x = support.x.double()
        places = self._pivots(x.detach(), support.mask, count)
        self.chosen = x.take_along_dim(places[..., None], 1)  # (B, m, D)
        self.root = cholesky(self.kernel(self.chosen, self.chosen), type(kernel).__name__)
        super().__init__(x.new_zeros(count, support.y.shape[2]), torch.eye(count).to(x), noise, support)

    @torch.no_grad()
    def _pivots(self, x: Tensor, mask: Tensor, count: int) -> Tensor:
        """The places of u in the support, ``(B, m)``."""
        left = self.kernel(x, x, True) * mask
        rows, places = (
            x.new_zeros(len(x), count, x.shape[1]),
            torch.empty(len(x), count, dtype=torch.long).to(mask.device),
        )
        for i in range(count):
            at = places[:, i : i + 1] = left.argmax(1, keepdim=True)
            column = self.kernel(x.take_along_dim(at[..., None], 1), x)
            known = rows[:, :i]
            column = column - known.take_along_dim(at[..., None], 2).mT @ known
            rows[:, i] = column[:, 0] / left.take_along_dim(at, 1).clamp(min=1e-12).sqrt()
            left = (left - rows[:, i].square()).clamp(min=0).scatter(1, at, 0.0)
        return places

    def _phi(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.root, self.kernel(self.chosen, x.double()), upper=False).mT

    def _left(self, phi: Tensor, x: Tensor) -> Tensor:
        """The prior's variance that φ leaves, ``(B, M, 1)``."""
        inputs = x.double()
        return (self.kernel(inputs, inputs, True) - phi.square().sum(-1)).clamp(min=0)[..., None]

    def _spread(self, phi: Tensor, x: Tensor) -> Tensor:
        return super()._spread(phi, x) + self._left(phi, x)

    def _mean(self, x: Any) -> Tensor:
        return super()._mean(self._phi(x))

    def _joint(self, x: Any) -> Joint:
        mean, known, noise = super()._joint(x)
        phi, inputs = self._phi(x), x.double()
        return Joint(mean, known + (self.kernel(inputs, inputs) - phi @ phi.mT)[:, None], noise)

    def _functions(self, samples: int) -> Functions:
        linear = super()._functions(samples)

        def ask(x: Any, own: bool) -> Distribution:
            phi = self._phi(x)
            left = self._left(phi, x)
            mean = linear(phi, own).mean
            scale = ((apart(left, samples) if own else left) + self.noise**2).sqrt()
            return self._normal(mean, scale)

        return ask
