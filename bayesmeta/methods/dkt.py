"""Deep kernel transfer: a Gaussian process whose kernel, on learned features, all tasks share.

Patacchiola, Turner, Crowley, O'Boyle & Storkey 2020, "Bayesian Meta-Learning for the Few-Shot Setting via Deep Kernels",
https://arxiv.org/abs/1910.05199 (equations 4 to 6). With features h and a kernel k,

    f ~ GP(m, k(h(x), h(x'))),   y = f(x) + ε,   ε ~ N(0, σ²),
    minimise over h, k, m and σ the mean over tasks of -(1/|D|) log p(y_D | x_D),

the marginal likelihood of all of a task's points D, support and query. As a Pyro model f is integrated out, so that the guide is
empty and the ELBO is exact. ``objective=Predictive()`` descends -(1/M) Σ log p(y | x, support) over the query instead.

Classes are W regressions of ±1, one against the rest, which share the kernel (section 4.2). The paper compares sigmoids of their
means; here the class is the largest of the W noisy regressions, so that their variance counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import pyro
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from torch import Tensor, nn

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.functional import Frozen
from bayesmeta.gaussian_process import GaussianProcess, InducingProcess, KernelLearner, OneVsRest, check_classes, signs
from bayesmeta.likelihoods import Gaussian, check_gaussian
from bayesmeta.networks import check_network
from bayesmeta.objectives import ELBO, Objective, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import on_features

__all__ = ["DKT", "DKTClassifier"]


class _DeepKernel(KernelLearner, ABC):
    """A Gaussian process on learned features, observed with Gaussian noise in closed form."""

    likelihood: Gaussian

    def __init__(
        self, features: nn.Module, kernel: Kernel, likelihood: Gaussian, mean: Mean | None, objective: Objective
    ) -> None:
        super().__init__(kernel, mean, likelihood, objective=objective)
        check_network(features, "features")
        check_gaussian(likelihood)
        self.features = features

    @abstractmethod
    def _targets(self, given: Points) -> Tensor:
        """What the process is to explain, ``(B, N, Y)``."""

    def _process(self, given: Points) -> GaussianProcess:
        """The process that is conditioned on the given points, in the space of features."""
        embed = Frozen(self.features, self.strategy).over_tasks
        embedded = given._replace(x=embed(given.x), y=self._targets(given))
        return GaussianProcess(self.kernel, self.mean, self.likelihood.scale, embedded)

    def observed(self, episode: Episode) -> Points:
        return concatenate(*episode)

    def evidence(self, episode: Episode) -> Tensor:
        return self._process(self.observed(episode)).log_marginal_likelihood() + self.log_prior()

    def model(self, episode: Episode) -> None:
        points = self.observed(episode)
        process = self._process(points)
        with pyro.plate("tasks", len(points.mask), dim=-1):
            process.observe("y")
            pyro.factor("prior", self.log_prior())

    def guide(self, episode: Episode) -> None:
        """Empty: the function is integrated out."""


@final
class DKT(_DeepKernel):
    """A Gaussian process on learned features, its kernel shared by all tasks. For real targets.

    Predictions are deterministic, in closed form; several targets are independent given the kernel.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``; ``nn.Identity()`` for the kernel alone.
        kernel: any gpytorch kernel on features; `fit` starts its lengthscales if they are gpytorch's own. gpytorch's
            `CosineKernel` is positive definite on one feature only; the cosine kernel of the paper is a `LinearKernel` on
            features of unit norm.
        likelihood: the noise of the targets, a `Gaussian` with one σ.
        mean: a gpytorch mean on features, or None for zero.
        objective: what training descends, an `ELBO`, here the marginal likelihood, or `Predictive`.
        inducing: m, for supports of more points than that: predictions know them by way of m of them (`InducingProcess`), in time
            and memory linear in their number, and say so where that leaves doubt. All are used if None. An attribute, which may
            be set after training.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, the features keep running statistics, or there is a mean beside
            `inducing`.

    Example:
        >>> learner = DKT(MLP(1, 1).features, RBFKernel(), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        features: nn.Module,
        kernel: Kernel,
        likelihood: Gaussian,
        *,
        mean: Mean | None = None,
        objective: Objective = ELBO(),
        inducing: int | None = None,
    ) -> None:
        super().__init__(features, kernel, likelihood, mean, objective)
        self.inducing = inducing
        self._is_large(0)

    def _targets(self, given: Points) -> Tensor:
        return given.y

    def forward(self, support: Points) -> Posterior:
        features = Frozen(self.features, self.strategy)
        if not self._is_large(support.mask.shape[1]):
            return on_features(self._process(support), support, features)
        embedded = support._replace(x=features.over_tasks(support.x))
        inner = InducingProcess(self.kernel, self.likelihood.scale, embedded, self.inducing)  # type: ignore[arg-type]
        return on_features(inner, support, features)

    def _is_large(self, count: int) -> bool:
        """Whether a support of so many points is known by way of a few."""
        if self.inducing is None:
            return False
        check_count("inducing", self.inducing)
        if self.mean is not None:
            raise ValueError(
                f"mean: expected None beside inducing points, got {type(self.mean).__name__}; Standardized centres targets"
            )
        return count > self.inducing


@final
class DKTClassifier(_DeepKernel):
    """W one-vs-rest Gaussian processes on learned features, their kernel shared by all classes and tasks. For labels.

    p(y = c | x) is the probability that the noisy regression of class c is the largest: deterministic, in closed form up to a
    quadrature in one dimension.

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``.
        kernel: any gpytorch kernel on features; `fit` starts its lengthscales if they are gpytorch's own.
        classes: W, the number of classes of a task; an attribute, which may be set to another number for other tasks.
        mean: a gpytorch mean on features, shared by the classes, or None for zero.
        noise: the initial σ of the regressions.
        objective: what training descends, `Predictive`, or an `ELBO`, here the marginal likelihood of the ±1 of all of a task's
            points, the paper's, which says little about calibration.

    Raises:
        ValueError: a label is not below `classes`, or the features keep running statistics.

    Example:
        >>> learner = DKTClassifier(MLP(1, 1).features, RBFKernel(), classes=2)
        >>> learner(points([-1.0, 1.0], [0, 1], classes=2))([0.5]).probs.shape
        torch.Size([1, 1, 2])
    """

    def __init__(
        self,
        features: nn.Module,
        kernel: Kernel,
        *,
        classes: int,
        mean: Mean | None = None,
        noise: float = 0.3,
        objective: Objective = Predictive(),
    ) -> None:
        super().__init__(features, kernel, Gaussian(noise), mean, objective)
        check_count("classes", classes, least=2)
        self.classes = classes

    def _targets(self, given: Points) -> Tensor:
        check_classes(given, self.classes)
        return signs(given.y, self.classes, self.likelihood.scale.dtype)

    def forward(self, support: Points) -> Posterior:
        return on_features(OneVsRest(self._process(support)), support, Frozen(self.features, self.strategy))
