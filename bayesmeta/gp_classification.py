"""Gaussian processes for classes: one latent function a class, conditioned on labels for B tasks at once.

The W functions of a task, f = (f_1, ..., f_W), are independent draws of GP(0, k). An approximate inference replaces the labels'
likelihood by Gaussian factors exp(-½ fᵀ S Sᵀ f + linear terms) in the functions' values at the N support points, with J columns
for each point. Then, with the kernel K of the support, A = I + Sᵀ (I ⊗ K) S and weights α ``(N, W)``,

    E f(x) = k(x)ᵀ α,   Cov f(x) = k(x, x) I - (I ⊗ k(x))ᵀ S A⁻¹ Sᵀ (I ⊗ k(x)),

so that one Cholesky factor of A, ``(N J, N J)``, holds the posterior (Rasmussen & Williams 2006, section 3.5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import pyro
import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.quasirandom import SobolEngine

from bayesmeta.data import Episode, Points, check_count, concatenate
from bayesmeta.distributions import apart, mixture, uncertainty
from bayesmeta.functional import Frozen
from bayesmeta.gaussian_process import GaussianProcess, JointNormal, cholesky
from bayesmeta.gp_draws import Paths, each
from bayesmeta.kernel_learner import KernelLearner
from bayesmeta.kernels import check_inputs, covariance
from bayesmeta.learner import Functions, Posterior
from bayesmeta.likelihoods import Categorical, Likelihood, at_once
from bayesmeta.networks import check_network
from bayesmeta.objectives import Objective
from bayesmeta.posteriors import Transformed
from bayesmeta.randomness import standard_normal

__all__ = ["ClassProcess", "GPClassifier", "OneVsRest", "Sites", "check_classes", "largest", "normal_numbers", "signs"]


class Sites(NamedTuple):
    """What an inference makes of the labels, C times (C chains, or 1)."""

    weights: Tensor
    """α ``(C, B, N, W)``; zeros where nothing is observed, as in the next."""
    factor: Tensor
    """S ``(C, B, N, W, J)``."""


class ClassProcess(Posterior):
    """The posterior of W latent functions under Gaussian sites; with C of them, their equal mixture.

    Predictions average the likelihood over f(x): deterministic, by 128 fixed quasi-random numbers in all, unless the call
    says how many.

    Args:
        kernel: the kernel as a function, see `bayesmeta.gaussian_process.covariance`.
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

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(self._marginal_draws(x, samples or self._samples))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        draws = self._marginal_draws(x, samples)
        aleatoric = uncertainty(draws).mean(0)
        return aleatoric, (uncertainty(mixture(draws)) - aleatoric).clamp(min=0)

    def _functions(self, samples: int) -> Functions:
        # Matheron's rule: functions of the prior, and their correction by what the sites say of them.
        factor, weights = self.sites.factor, self.sites.weights
        chains, ways = len(weights), weights.shape[-1]
        rounds = -(-samples // chains)
        paths = Paths(each(self.kernel), self.name)

        def prior(x: Tensor) -> Tensor:
            variance = each(lambda x: self.kernel(x, x, True))(x.detach()).detach()
            normal = standard_normal(rounds * chains, *x.shape[-3:-1], ways, like=x)
            return paths(x, variance.amax(-1), normal)  # (rounds C, B, M, W)

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


def normal_numbers(count: int, dimensions: int) -> Tensor:
    """Normal numbers ``(S, W)`` that fill the space evenly: the same at each call."""
    uniform = SobolEngine(dimensions, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))


class OneVsRest(Posterior):
    """Classes by W regressions of ±1: the class is the one whose noisy regression is the largest.

    p(y = c | x) = P(f_c(x) + ε_c > f_c'(x) + ε_c' for all c' ≠ c), the f's variance and the noise's in it; deterministic.

    Args:
        process: the Gaussian process of W targets.
    """

    _of_tasks = ("process",)

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__(process.support)
        self.process = process

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return _largest(self.process._predictive(x))

    def _updated(self, points: Points) -> Posterior:
        classes = self.process.y.shape[-1]
        check_classes(points, classes)
        later = self._later()
        later.process = self.process._updated(points._replace(y=signs(points.y, classes, self.support.y.dtype)))
        return later

    def _functions(self, samples: int) -> Functions:
        process = self.process._functions(samples)
        return lambda x, own: _largest(process(x, own))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        mean, variance = self.process._function(x.double())
        numbers = normal_numbers(samples, mean.shape[-1]).to(mean)[:, None, None]
        aleatoric = uncertainty(largest(mean + variance.sqrt() * numbers, self.process.noise)).mean(0)
        aleatoric = aleatoric.to(self.support.y.dtype)
        return aleatoric, (uncertainty(self._predictive(x)) - aleatoric).clamp(min=0)


def _largest(normal: Any) -> Distribution:
    return largest(normal.mean, normal.stddev[..., :1])


def largest(mean: Tensor, scale: Tensor) -> Distribution:
    """Which of W independent normals is the largest, means ``(..., W)`` and one scale ``(..., 1)``: a Categorical.

    ∫ N(z; 0, 1) Π_{c' ≠ c} Φ(z + (m_c - m_c') / s) dz by 32 Gauss-Hermite nodes.

    Example:
        >>> largest(torch.tensor([1.0, 0.0]), torch.tensor([0.5**0.5])).probs[0]  # Φ(1)
        tensor(0.8413)
    """
    nodes, weights = (torch.as_tensor(part).to(mean) for part in np.polynomial.hermite_e.hermegauss(32))

    def log_probability(some: Tensor) -> Tensor:
        distance = (some[..., :, None] - mean[..., None, :]) / scale[..., None]  # (..., some of W, W)
        log_below = torch.special.log_ndtr(nodes + distance[..., None])  # (..., some of W, W, nodes)
        others = log_below.sum(-2) - torch.special.log_ndtr(nodes)
        return (others + weights.log()).logsumexp(-1)

    return Categorical()(
        torch.cat([log_probability(some) for some in mean.split(at_once(mean.numel() * len(nodes)), -1)], -1)
    )


def signs(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels ``(B, N)`` as W targets of ±1, ``(B, N, W)``."""
    return torch.where(y[..., None] == torch.arange(classes, device=y.device), 1.0, -1.0).to(dtype)


def check_classes(support: Points, classes: int) -> None:
    """Raises a ValueError where labels are no whole numbers below the number of classes."""
    y = support.y
    if y.is_floating_point() or y.dim() != 2:
        raise ValueError(
            f"y: expected integer labels (B, N), got {y.dtype} of shape {tuple(y.shape)}; "
            "build the points with points(x, y, classes=W)"
        )
    lowest, highest = (int(value) for value in y.masked_fill(~support.mask, 0).aminmax())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"y: expected labels 0 to {classes - 1}, got {lowest if lowest < 0 else highest}; number the labels from 0, and "
            "build the learner with as many classes, or set learner.classes"
        )


_LARGEST = 2**34
"""Bytes of a task's matrices of all points and classes, for all tasks at once."""


def check_size(tasks: int, count: int, classes: int) -> None:
    """Raises a ValueError where the W functions' joint covariance at N points is out of reach of memory and of patience."""
    size = 8 * tasks * (count * classes) ** 2
    if size > _LARGEST:
        raise ValueError(
            f"classes: expected matrices of all points and classes of at most {_LARGEST / 2**30:.0f} GiB, got {tasks} tasks of "
            f"{count} points in {classes} classes, {size / 2**30:,.0f} GiB; use DKTClassifier, whose matrices do not grow with "
            "the classes, or fewer classes, points or tasks at a time"
        )


class GPClassifier(KernelLearner, ABC):
    """Latent functions of a learned kernel with a likelihood of classes: a method adds `sites`, `evidence` and `log_likelihood`.

    The Pyro model draws the functions' values f, ``(N W,)`` a task, at the task's points, and observes the labels; the guide
    is the Gaussian that the method's inference finds.
    """

    def __init__(
        self, features: nn.Module, kernel: Kernel, likelihood: Likelihood, *, classes: int, objective: Objective
    ) -> None:
        super().__init__(kernel, None, likelihood, objective=objective)
        check_network(features, "features")
        check_count("classes", classes, least=2)
        self.features = features
        self.classes = classes

    @abstractmethod
    def sites(self, kernel: Tensor, points: Points) -> Sites:
        """What the labels say, given K ``(B, N, N)`` of the points, zero where nothing is observed."""

    @abstractmethod
    def log_likelihood(self, values: Tensor, points: Points) -> Tensor:
        """log p(y | f) of each task, ``(..., B)``, for f ``(..., B, N, W)``."""

    def observed(self, episode: Episode) -> Points:
        return concatenate(*episode)

    def _embedded(self, points: Points) -> Points:
        check_classes(points, self.classes)
        return points._replace(x=Frozen(self.features, self.strategy).over_tasks(points.x))

    def _gram(self, points: Points) -> Tensor:
        """K of embedded points, ``(B, N, N)``, zero where nothing is observed."""
        check_inputs(points.x)
        check_size(len(points.mask), points.mask.shape[1], self.classes)
        x = points.x.double()
        return covariance(self.kernel)(x, x) * points.mask[:, :, None] * points.mask[:, None, :]

    def _process(self, points: Points) -> ClassProcess:
        sites = self.sites(self._gram(points), points)
        return ClassProcess(covariance(self.kernel), self.likelihood, sites, points, type(self.kernel).__name__)

    def forward(self, support: Points) -> Posterior:
        embed = Frozen(self.features, self.strategy).over_tasks
        return Transformed(self._process(self._embedded(support)), support, embed)

    def model(self, episode: Episode) -> None:
        points = self._embedded(self.observed(episode))
        name = type(self.kernel).__name__
        identity = torch.eye(points.mask.shape[1]).to(points.x.device)
        root = cholesky(torch.where(_pairs(points.mask), self._gram(points), identity.double()), name)
        normal: Any = JointNormal
        with pyro.plate("tasks", len(points.mask), dim=-1):
            zeros = root.new_zeros(root.shape[0], root.shape[1] * self.classes)
            values = pyro.sample("f", normal(zeros, scale_tril=_kron(root, self.classes), validate_args=False))
            pyro.factor("y", self.log_likelihood(values.unflatten(-1, (-1, self.classes)), points))
            pyro.factor("prior", self.log_prior())

    def guide(self, episode: Episode) -> None:
        points = self._embedded(self.observed(episode))
        mean, spread = (part[0] for part in self._process(points).joint_function(points.x))
        observed = points.mask.repeat_interleave(self.classes, 1)
        identity = torch.eye(observed.shape[1]).to(spread)
        root = cholesky(torch.where(_pairs(observed), spread, identity), type(self.kernel).__name__)
        normal: Any = JointNormal
        with pyro.plate("tasks", len(points.mask), dim=-1):
            pyro.sample("f", normal(mean * observed, scale_tril=root, validate_args=False))


def _pairs(mask: Tensor) -> Tensor:
    return mask[:, :, None] & mask[:, None, :]
