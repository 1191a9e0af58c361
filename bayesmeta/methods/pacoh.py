"""PACOH: a distribution over Gaussian-process priors, learned from few tasks without overfitting them.

Rothfuss, Fortuin, Josifoski & Krause 2021, "PACOH: Bayes-Optimal Meta-Learning with PAC-Guarantees",
https://arxiv.org/abs/2002.05551. A prior P_θ is a mean network m, features h, a kernel k and the noise,

    f ~ GP(m_θ(x), k_θ(h_θ(x), h_θ(x'))),   y = f(x) + ε,   ε ~ N(0, σ_θ²),

whose log evidence ln Z(S, P_θ) is the log marginal likelihood of a task. The hyper-posterior over θ minimises the PAC-Bayes
bound of `bayesmeta.variational.hyper_posterior.HyperPosteriorLearner`, and the prediction is the mixture over its K priors,

    p(y | x, S) = (1/K) Σ_k p(y | x, S, P_{θ_k}).
"""

from __future__ import annotations

from typing import Any, Self, final

import torch
from gpytorch.kernels import Kernel
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Points
from bayesmeta.distributions import apart, mixture, select
from bayesmeta.functional import Frozen, Params, adaptable, unravel
from bayesmeta.gaussian_process import GaussianProcess, check_kernel, priors
from bayesmeta.likelihoods import Gaussian, check_gaussian, standard_deviation
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import check_pointwise
from bayesmeta.randomness import generator
from bayesmeta.variational import HyperPosterior, HyperPosteriorLearner

__all__ = ["PACOH"]


@final
class PACOH(HyperPosteriorLearner):
    """K Gaussian-process priors that few tasks leave possible. For real targets, and for 5 to 50 tasks above all.

    Predictions are in closed form; with ``"variational"`` they average random draws of θ (torch's global generator).

    Args:
        features: any module from inputs ``(N, *X)`` to features ``(N, F)``; ``nn.Identity()`` for the kernel alone.
        kernel: any gpytorch kernel on features, without priors; `fit` starts its lengthscales if they are gpytorch's own.
        likelihood: the noise of the targets, a `Gaussian` with one σ.
        tasks: n, the number of meta-training tasks: the fewer, the nearer the priors stay to the hyper-prior.
        mean: a network from inputs ``(N, *X)`` to the prior mean ``(N, Y)``, or None for zero.
        hyper_posterior: the form of Q: one prior (``"map"``), a diagonal Gaussian over priors (``"variational"``), or particles
            that are held apart (``"svgd"``).
        particles: K, the number of priors: particles of ``"svgd"``, or draws of an update and a prediction of ``"variational"``.
        hyper_scale: the standard deviation of the hyper-prior, around 0 for networks and around the given values for the
            kernel's raw parameters and log σ; where `fit` starts a lengthscale, its centre goes along.

    Raises:
        ValueError: the likelihood is not a Gaussian with one σ, the kernel has priors, a network keeps running statistics, or a
            number is out of range.

    Example:
        >>> learner = PACOH(MLP(1, 1).features, RBFKernel(), Gaussian(), tasks=20, mean=MLP(1, 1))
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    likelihood: Gaussian

    def __init__(
        self,
        features: nn.Module,
        kernel: Kernel,
        likelihood: Gaussian,
        *,
        tasks: int,
        mean: nn.Module | None = None,
        hyper_posterior: HyperPosterior = "svgd",
        particles: int = 5,
        hyper_scale: float = 0.5,
    ) -> None:
        check_gaussian(likelihood)
        check_kernel(kernel)
        if named_priors := priors(kernel):
            raise ValueError(
                f"kernel: expected one without priors, as the hyper-prior is the prior of all of its parameters, got "
                f"{named_priors[0][0]}; leave it out and choose the parameter's value and hyper_scale, or use DKT"
            )
        parts: dict[str, nn.Module] = {"features": features, "kernel": kernel, "likelihood": likelihood}
        if mean is not None:
            parts["mean"] = mean
        for network in (features, mean or nn.Identity()):
            check_network(network)
        super().__init__(
            nn.ModuleDict(parts),
            ("features", "mean"),
            likelihood,
            tasks=tasks,
            hyper_posterior=hyper_posterior,
            particles=particles,
            hyper_scale=hyper_scale,
        )

    def log_evidence(self, theta: Tensor, points: Points) -> Tensor:
        return _Processes(self, theta, points).process.log_marginal_likelihood().unflatten(0, (len(theta), -1))

    def forward(self, support: Points) -> Posterior:
        return _Processes(self, self.theta(), support)


class _Processes(Posterior):
    """K Gaussian processes for each of B tasks, as one process of K·B tasks, and their equal mixture."""

    _of_tasks = ("process",)
    _drawn = ("weights",)

    def __init__(self, learner: PACOH, theta: Tensor, support: Points) -> None:
        super().__init__(support)
        parts: nn.ModuleDict = learner.prior  # type: ignore[assignment]
        self.count = len(theta)
        self.networks = {name: Frozen(parts[name], learner.strategy) for name in ("features", "mean") if name in parts}
        tasks, like = len(support.mask), adaptable(parts)
        values = unravel(theta, like)
        self.weights = {name: _below(name, values) for name in self.networks}
        kernel: Any = parts["kernel"]
        own = {name: value.repeat_interleave(tasks, 0) for name, value in _below("kernel", values).items()}
        noise = standard_deviation(values.get("likelihood.log_scale", learner.likelihood.log_scale)).expand(self.count)
        noise = noise.repeat_interleave(tasks, 0)
        self.process = GaussianProcess(kernel, None, noise, self._seen(support), own)

    def _seen(self, points: Points) -> Points:
        """Points as the K·B processes see them."""
        embedded, mean = self._embed(points.x)
        y = points.y.expand(self.count, *points.y.shape).flatten(0, 1)
        return Points(embedded, y - mean, points.mask.repeat(self.count, 1))

    def _chosen(self, tasks: Tensor) -> Self:
        chosen = super()._chosen(tasks)  # which knows nothing of the K
        start = len(self.support.mask) * torch.arange(self.count, device=tasks.device)[:, None]
        chosen.process = self.process._chosen((start + tasks).flatten())
        return chosen

    def _updated(self, points: Points) -> Posterior:
        for network in self.networks.values():
            check_pointwise(network.module)
        later = self._later()
        later.process = self.process._updated(self._seen(points))
        return later

    def _embed(self, x: Any) -> tuple[Tensor, Tensor]:
        """Features and prior mean at x, each with K·B tasks."""
        features = self._each("features", x)
        return features, self._each("mean", x) if "mean" in self.networks else features.new_zeros(())

    def _each(self, name: str, x: Any) -> Tensor:
        network, weights = self.networks[name], self.weights[name]
        if not weights:
            same = network.over_tasks(x)
            return same.expand(self.count, *same.shape).flatten(0, 1)
        shape = tree_leaves(x)[0].shape[:2]
        flat = tree_map(lambda leaf: leaf.flatten(0, 1), x)  # all tasks share a prior's network
        each: Tensor = network.map(lambda weights: network(flat, weights=weights), weights)
        return each.unflatten(1, shape).flatten(0, 1)

    def _normal(self, mean: Tensor, variance: Tensor) -> Distribution:
        """K functions' distributions, batch ``(..., K, B, M)``."""
        return Normal(mean, variance.sqrt(), validate_args=False).to_event(1)

    def _moments(self, x: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, noise and epistemic variance of each process, ``(K, B, M, Y)``."""
        embedded, mean = self._embed(x)
        inner = self.process._predictive(embedded).mean + mean
        aleatoric, epistemic = self.process._decompose(embedded, 1)
        return tuple(part.unflatten(0, (self.count, -1)) for part in (inner, aleatoric, epistemic))

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        mean, aleatoric, epistemic = self._moments(x)
        return mixture(self._normal(mean, aleatoric + epistemic))

    def _joints(self, x: Any) -> Joint:
        embedded, mean = self._embed(x)
        inner, covariance, noise = self.process._joint(embedded)
        parts = (inner + mean, covariance, noise)
        return Joint(*(part.unflatten(0, (self.count, -1)) for part in parts))

    def _functions(self, samples: int) -> Functions:
        processes = self.process._functions(samples)
        mask = self.support.mask
        chosen = torch.randint(
            self.count, (1, samples * len(mask)), device=mask.device, generator=generator(mask.device)
        )

        def ask(x: Any, own: bool) -> Distribution:
            embedded, mean = self._embed(x)
            drawn = processes(embedded, own)  # (S, K B, M)
            centre = drawn.mean + (apart(mean, samples) if own and mean.dim() else mean)
            functions, spread = (
                part.unflatten(1, (self.count, -1)).movedim(1, 0).flatten(1, 2) for part in (centre, drawn.variance)
            )  # (K, S B, M, Y)
            picked = select(self._normal(functions, spread), chosen)
            return self._normal(*(part[0].unflatten(0, (samples, -1)) for part in (picked.mean, picked.variance)))

        return ask

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        mean, aleatoric, epistemic = self._moments(x)
        return aleatoric.mean(0), epistemic.mean(0) + mean.var(0, correction=0)


def _below(part: str, values: Params) -> Params:
    """The values below one part of the prior, by the part's own names."""
    return {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}
