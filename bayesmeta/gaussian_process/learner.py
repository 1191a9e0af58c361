"""What learners of a Gaussian-process kernel share: the kernel, its mean, and their priors in the objective."""

from __future__ import annotations

from abc import ABC

from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from torch import Tensor

from bayesmeta.data import Episode
from bayesmeta.gaussian_process.kernels import check_kernel, check_mean, log_prior
from bayesmeta.likelihoods import Likelihood
from bayesmeta.objectives import Objective
from bayesmeta.variational import VariationalLearner

__all__ = ["KernelLearner"]


class KernelLearner(VariationalLearner, ABC):
    """A learner of a kernel θ, and of a mean, that all tasks share.

    Priors that they were built with, ``RBFKernel(lengthscale_prior=...)``, enter as in gpytorch's own objective
    (`ExactMarginalLogLikelihood`), the mean of which over the tasks is descended: a task of n observed points has

        -(1/n) [log p(y | x, θ) + log p(θ)]      or      -(1/n) [Σ log p(y | x, support, θ) + log p(θ)].

    A prior so counts once a task, whatever their number. The posterior mode of θ given T tasks counts it once in all: for that,
    give it T times the variance (a `NormalPrior` or `LogNormalPrior` √T times the scale).

    A subclass implements `evidence` and `model` with `log_prior` in both.
    """

    def __init__(self, kernel: Kernel, mean: Mean | None, likelihood: Likelihood, *, objective: Objective) -> None:
        super().__init__(likelihood, objective=objective)
        check_kernel(kernel)
        check_mean(mean)
        self.kernel = kernel
        self.mean = mean

    def log_prior(self) -> Tensor:
        """log p(θ), a scalar: 0 without priors."""
        total = log_prior(self.kernel) + log_prior(self.mean)
        return total.to(next(self.parameters()))

    def _predictive_loss(self, episode: Episode) -> Tensor:
        count = episode.query.mask.sum(1).clamp(min=1)
        return super()._predictive_loss(episode) - (self.log_prior() / count).mean()
