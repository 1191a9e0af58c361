"""What learners of Gaussian processes for classes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyro
import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.functional import Frozen
from bayesmeta.gaussian_process.class_process import ClassProcess, Sites, _kron
from bayesmeta.gaussian_process.kernels import check_inputs, covariance
from bayesmeta.gaussian_process.learner import KernelLearner
from bayesmeta.gaussian_process.process import JointNormal, cholesky
from bayesmeta.likelihoods import Likelihood
from bayesmeta.networks import check_network
from bayesmeta.objectives import Objective
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed

__all__ = ["GPClassifier", "check_classes", "signs"]


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
