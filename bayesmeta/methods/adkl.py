"""Adaptive deep kernel learning: a kernel that each task's support shapes, through a task encoder.

Tossou, Dura, Laviolette, Marchand & Lacoste 2019, "Adaptive Deep Kernel Learning", https://arxiv.org/abs/1905.12131
(section 3). With the encoding r(support) and a network u that reads it beside x,

    f ~ GP(m, k(u(x, r), u(x', r))),   y = f(x) + ε,   ε ~ N(0, σ²).

``objective=Predictive()`` (the default) descends -(1/M) Σ log p(y | x, support) over the query; ``ELBO()`` the marginal
likelihood of all of a task's points, -(1/|D|) log p(y_D | x_D), with the encoding of the support.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

import pyro
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from torch import Tensor, nn

from bayesmeta.answers import refuse_update
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.encoders import Encoder, TaskNetwork, check_encoder
from bayesmeta.functional import Frozen
from bayesmeta.gaussian_process import GaussianProcess, KernelLearner
from bayesmeta.likelihoods import Gaussian, check_gaussian
from bayesmeta.objectives import Objective, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed

__all__ = ["ADKL"]


@final
class ADKL(KernelLearner):
    """A Gaussian process on features that depend on the task. For real targets.

    Predictions are deterministic, in closed form; several targets are independent given the kernel.

    Args:
        encoder: the task encoder, which reads the support; it may be shared with other learners.
        network: maps inputs beside the task's encoding, ``encoder.inputs + encoder.size`` features, to those that the kernel
            sees.
        kernel: any gpytorch kernel on these features; `fit` starts its lengthscales if they are gpytorch's own.
        likelihood: the noise of the targets, a `Gaussian` with one σ.
        mean: a gpytorch mean on these features, or None for zero.
        objective: what training descends, `Predictive` or an `ELBO`, here the marginal likelihood.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, or a network keeps running statistics.

    Example:
        >>> learner = ADKL(DeepSet(1, 1), MLP(1 + 64, 40), RBFKernel(), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    likelihood: Gaussian

    def __init__(
        self,
        encoder: Encoder,
        network: nn.Module,
        kernel: Kernel,
        likelihood: Gaussian,
        *,
        mean: Mean | None = None,
        objective: Objective = Predictive(),
    ) -> None:
        super().__init__(kernel, mean, likelihood, objective=objective)
        check_gaussian(likelihood)
        check_encoder(encoder, classwise=False)
        self.features = TaskNetwork(encoder, network)

    def _embedding(self, support: Points) -> Callable[[Any], Tensor]:
        """The kernel's features of a task as a function of x, with the learner's present parameters."""
        return partial(Frozen(self.features), support)

    def _process(self, given: Points, embed: Callable[[Any], Tensor]) -> GaussianProcess:
        return GaussianProcess(self.kernel, self.mean, self.likelihood.scale, given._replace(x=embed(given.x)))

    def forward(self, support: Points) -> Posterior:
        features = Frozen(self.features)
        return _OnTask(self._process(support, partial(features, support)), support, features)

    def observed(self, episode: Episode) -> Points:
        return concatenate(*episode)

    def evidence(self, episode: Episode) -> Tensor:
        process = self._process(self.observed(episode), self._embedding(episode.support))
        return process.log_marginal_likelihood() + self.log_prior()

    def model(self, episode: Episode) -> None:
        process = self._process(self.observed(episode), self._embedding(episode.support))
        with pyro.plate("tasks", len(episode.query.mask), dim=-1):
            process.observe("y")
            pyro.factor("prior", self.log_prior())

    def guide(self, episode: Episode) -> None:
        """Empty: the function is integrated out."""


class _OnTask(Transformed):
    """A process on features that read the task's support beside x."""

    def __init__(self, inner: Posterior, support: Points, features: Frozen) -> None:
        super().__init__(inner, support, features, further=_refuse)

    def _inward(self, x: Any) -> Any:
        features: Callable[..., Any] = self.inputs
        return features(self.support, x)


def _refuse(points: Points) -> Points:
    refuse_update("one whose features depend on the whole support")
