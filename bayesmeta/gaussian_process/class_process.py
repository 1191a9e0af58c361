"""Gaussian processes for classes: one latent function a class, conditioned on labels for B tasks at once.

The W functions of a task, f = (f_1, ..., f_W), are independent draws of GP(0, k). An approximate inference replaces the labels'
likelihood by Gaussian factors exp(-½ fᵀ S Sᵀ f + linear terms) in the functions' values at the N support points, with J columns
for each point. Then, with the kernel K of the support, A = I + Sᵀ (I ⊗ K) S and weights α ``(N, W)``,

    E f(x) = k(x)ᵀ α,   Cov f(x) = k(x, x) I - (I ⊗ k(x))ᵀ S A⁻¹ Sᵀ (I ⊗ k(x)),

so that one Cholesky factor of A, ``(N J, N J)``, holds the posterior (Rasmussen & Williams 2006, section 3.5).
"""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.functional import Frozen
from bayesmeta.gaussian_process.functions import Paths, each
from bayesmeta.gaussian_process.kernels import check_inputs
from bayesmeta.gaussian_process.process import cholesky
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posteriors import MarginallyDrawn, normal_numbers
from bayesmeta.randomness import standard_normal

__all__ = ["ClassProcess", "Sites"]


class Sites(NamedTuple):
    """What an inference makes of the labels, C times (C chains, or 1)."""

    weights: Tensor
    """α ``(C, B, N, W)``; zeros where nothing is observed, as in the next."""
    factor: Tensor
    """S ``(C, B, N, W, J)``."""


class ClassProcess(MarginallyDrawn):
    """The posterior of W latent functions under Gaussian sites; with C of them, their equal mixture.

    Predictions average the likelihood over f(x): deterministic, by 128 fixed quasi-random numbers in all, unless the call
    says how many.

    Args:
        kernel: the kernel as a function, see `bayesmeta.gaussian_process.process.covariance`.
        likelihood: makes p(y | f) of the functions' values ``(..., W)``.
        sites: what the labels taught.
        support: the B tasks' points, ``*X = (D,)``.
        name: the kernel's name, for errors.
    """

    _of_tasks = ("x", "mask", "sites", "cholesky")

    def __init__(self, kernel: Any, likelihood: Likelihood, sites: Sites, support: Points, name: str) -> None:
        super().__init__(support, samples=128)
        check_inputs(support.x)
        self.kernel, self.name = kernel, name
        self.likelihood = Frozen(likelihood)
        self.sites = sites
        self.x, self.mask = support.x.double().clone(), support.mask.clone()
        self.cholesky = precision_factor(self._cross(self.x) * self.mask[:, None], sites.factor, name)

    def _chosen(self, tasks: Tensor) -> Self:
        return super(ClassProcess, self._turned())._chosen(tasks)._turned()

    def _turned(self) -> Self:
        """With the tasks before the chains, and back."""
        turned = copy(self)
        turned.sites = Sites(*(part.transpose(0, 1) for part in self.sites))
        turned.cholesky = self.cholesky.transpose(0, 1)
        return turned

    def function(self, x: Any) -> tuple[Tensor, Tensor]:
        """Mean ``(C, B, M, W)`` and covariance ``(C, B, M, W, W)`` of the W functions at each of the points x, float64."""
        return self._function(self._inputs(x).double())

    def _function(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cross = self._cross(x)
        mean = cross.mT @ self.sites.weights
        reduced = self._reduced(cross)
        prior = self.kernel(x, x, True)[..., None, None] * torch.eye(mean.shape[-1], dtype=x.dtype, device=x.device)
        return mean, prior - torch.einsum("cbjmv,cbjmw->cbmvw", reduced, reduced)

    def joint_function(self, x: Any) -> tuple[Tensor, Tensor]:
        """Mean ``(C, B, M W)`` and covariance ``(C, B, M W, M W)`` of the functions at all the points, float64."""
        inputs = self._inputs(x).double()
        cross = self._cross(inputs)
        mean, reduced = cross.mT @ self.sites.weights, self._reduced(cross).flatten(-2)
        return mean.flatten(-2), _kron(self.kernel(inputs, inputs), mean.shape[-1]) - reduced.mT @ reduced

    def _cross(self, x: Tensor) -> Tensor:
        return self.kernel(self.x, x) * self.mask[..., None]  # (B, N, M)

    def _reduced(self, cross: Tensor) -> Tensor:
        """L⁻¹ Sᵀ (I ⊗ K*), ``(C, B, N J, M, W)``."""
        factor = self.sites.factor
        columns = torch.einsum("cbnwj,bnm->cbnjmw", factor, cross).flatten(2, 3)
        solved = torch.linalg.solve_triangular(self.cholesky, columns.flatten(-2), upper=False)
        return solved.unflatten(-1, columns.shape[-2:])

    def _likelihood(self, values: Tensor) -> Distribution:
        distribution: Distribution = self.likelihood(values.to(self.support.x.dtype))
        return distribution

    def _marginal_draws(self, x: Any, samples: int) -> Distribution:
        """Fixed draws of f at each point by itself: batch ``(S, B, M)``, S a multiple of C."""
        mean, spread = self._function(x.double())
        chains, ways = len(mean), mean.shape[-1]
        numbers = normal_numbers(-(-samples // chains) * chains, ways).to(mean).unflatten(0, (-1, chains))
        # Far above the rounding of a positive semi-definite difference, far below what moves a probability.
        jitter = 1e-9 * self.kernel(x.double(), x.double(), True)[..., None, None] * torch.eye(ways).to(mean)
        root = torch.linalg.cholesky_ex(spread + jitter).L
        values = mean + torch.einsum("cbmvw,scw->scbmv", root, numbers)
        return self._likelihood(values.flatten(0, 1))

    def _functions(self, samples: int) -> Functions:
        # Matheron's rule: functions of the prior, and their correction by what the sites say of them.
        factor, weights = self.sites.factor, self.sites.weights
        chains, ways = len(weights), weights.shape[-1]
        rounds = -(-samples // chains)
        paths = Paths(each(self.kernel), self.name)

        def prior(x: Tensor) -> Tensor:
            variance = each(lambda x: self.kernel(x, x, True))(x.detach()).detach()
            normal = standard_normal(rounds * chains, *x.shape[-3:-1], ways, like=x)
            return paths(x, variance, normal)  # (rounds C, B, M, W)

        values = prior(self.x).unflatten(0, (rounds, chains))
        seen = torch.einsum("cbnwj,scbnw->cbnjs", factor, values).flatten(2, 3)
        seen_by_draw = seen + standard_normal(*seen.shape, like=seen)
        solved = torch.cholesky_solve(seen_by_draw, self.cholesky).unflatten(2, factor.shape[2::2])
        correction = (weights - torch.einsum("cbnwj,cbnjs->scbnw", factor, solved)).flatten(0, 1)

        def ask(x: Any, own: bool) -> Distribution:
            inputs = x.double()
            towards = self._cross(inputs).mT  # (B, M, N)
            if own:  # where chains are more than functions, the last function stands for those that nobody asks
                given = torch.arange(rounds * chains, device=inputs.device).clamp(max=samples - 1)
                inputs, towards = (apart(part, samples)[given] for part in (inputs, towards))
            return self._likelihood((prior(inputs) + towards @ correction)[:samples])

        return ask


def precision_factor(kernel: Tensor, factor: Tensor, name: str) -> Tensor:
    """The Cholesky factor of A = I + Sᵀ (I ⊗ K) S, ``(C, B, N J, N J)``, for K ``(B, N, N)`` and S ``(C, B, N, W, J)``."""
    gram = torch.einsum("cbnwj,cbmwl,bnm->cbnjml", factor, factor, kernel)
    size = gram.shape[2] * gram.shape[3]
    gram = gram.reshape(*gram.shape[:2], size, size)
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
    return cholesky((identity + gram).flatten(0, 1), name).unflatten(0, gram.shape[:2])


def _kron(kernel: Tensor, ways: int) -> Tensor:
    """K ⊗ I ``(B, N W, N W)``, the points outermost."""
    batch, rows, columns = kernel.shape
    identity = torch.eye(ways, dtype=kernel.dtype, device=kernel.device)
    return torch.einsum("bnm,vw->bnvmw", kernel, identity).reshape(batch, rows * ways, columns * ways)
