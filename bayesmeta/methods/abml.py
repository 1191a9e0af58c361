"""Amortized Bayesian meta-learning: a Gaussian prior over weights, and each task's posterior by a few gradient steps.

Ravi & Beatson 2019, "Amortized Bayesian Meta-Learning", https://openreview.net/forum?id=rkgpy3C5tX. With a prior
p(φ | θ) = N(μ_p, σ_p²) over a network's weights and q(φ; λ) = N(μ, σ²), λ = (μ, log σ), a task's posterior is reached from a
learned start λ₀ in K steps down the support's variational objective (algorithm 1),

    (N / σ_in²) E_q(φ;λ) [error(φ; support)] + w KL(q(φ; λ) ‖ p(φ | θ)),

with the error per point and w the weight of the KL. The paper takes gradient steps with one rate. Here they are divided by a
diagonal estimate of the curvature, which does not change where they lead, so that learned rates α_k serve any N and any prior;
and by Price's theorem the slope in σ² is half the expected curvature of the error, here its Gauss-Newton diagonal H at λ₀,
since the slope from few draws is mostly noise:

    μ     ← μ - α_k (N / σ_in² E_q[∇error] + w (μ - μ_p) / σ_p²) / (N / σ_in² + w / σ_p²),
    log σ ← log σ + α'_k (1 - σ² P),     P = (N / σ_in² H + w / σ_p²) / w.

Further points are told to a task's q as new data to a prior: q takes the places of p and of λ₀, and the same K steps lead on
(variational continual learning, Nguyen, Li, Bui & Turner 2018, https://arxiv.org/abs/1710.10628, eq. 4, with a learned prior).

``objective=ELBO()`` descends the paper's bound over all a task's points D, with a weight w' of its own for the KL,

    -(1/|D|) { E_q [log p(D | φ)] - w' KL(q ‖ p) + log p(θ) / T },    p(θ) = Gamma(1/σ_p²; a, b) (section 4),

for T tasks; ``Predictive()`` (the default, which trains better) the query's -log (1/S) Σ_s p(y | x, φ_s), φ_s ~ q.
"""

from __future__ import annotations

import math
from typing import Any, final

import pyro
import torch
from pyro.distributions import Gamma
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points, concatenate, observed
from bayesmeta.encoders import Encoder, check_encoder
from bayesmeta.functional import Frozen, adaptable, clamped, ravel
from bayesmeta.likelihoods import Likelihood, check_one_label, support_error
from bayesmeta.networks import check_network
from bayesmeta.objectives import Objective, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import GaussianWeights, Weights
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import VariationalLearner

__all__ = ["ABML"]

_FLOOR, _CAP = -9.0, 0.0
"""Bounds of every log σ: below the one draws equal the mean, above the other the network's outputs are noise."""


@final
class ABML(VariationalLearner):
    """A factorised Gaussian over all weights a task, by K steps from a learned start.

    Prior scales, the start's scales, and a rate for every weight and step are learned. Predictions are random: both inference
    and the draws use torch's global generator.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are μ_p and the start of μ.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        encoder: if given, the amortised form: the task's encoding modulates the start, by a gain, a shift and a change of
            log σ for each of the network's units.
        steps: K, the number of inner steps.
        rate: the initial inner step size of μ, by step and weight.
        scale_rate: the initial inner step size of log σ; 0.5 would be Newton's step.
        prior_scale: the initial σ_p, the prior's standard deviation of every weight.
        scale: the initial σ from which every task's inner steps start.
        inner_noise: σ_in, how little a point is trusted; with the likelihood's noise the steps lead to the exact factorised
            posterior.
        inner_draws: the number of draws of φ that an inner gradient averages; even, as they come in pairs of opposite noise.
        clamp: the largest size of any entry of an inner gradient: what exceeds it is cut.
        inner_kl_weight: w, what the KL to the prior counts in the inner steps. To weigh it alike in training, give
            ``objective=ELBO(kl_weight=w)`` too.
        hyperprior: the shape a and rate b of the Gamma over the prior's precisions, and the number of tasks T that share it;
            only the ELBO has it.
        objective: what training descends, `Predictive` or an `ELBO`.

    Raises:
        ValueError: an argument is out of range, or the network keeps running statistics.

    Example:
        >>> learner = ABML(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        encoder: Encoder | None = None,
        steps: int = 5,
        rate: float = 0.1,
        scale_rate: float = 0.3,
        prior_scale: float = 0.135,
        scale: float = 0.018,
        inner_noise: float = 0.1,
        inner_draws: int = 2,
        clamp: float = 10.0,
        inner_kl_weight: float = 1.0,
        hyperprior: tuple[float, float, float] = (1.0, 0.01, 1000.0),
        objective: Objective = Predictive(draws=8),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_network(network)
        check_count("steps", steps)
        for name, value in (("rate", rate), ("scale_rate", scale_rate), ("inner_noise", inner_noise), ("clamp", clamp)):
            check_positive(name, value)
        check_positive("prior_scale", prior_scale, math.exp(_FLOOR), math.exp(_CAP))
        check_positive("scale", scale, math.exp(_FLOOR), math.exp(_CAP))
        check_positive("inner_kl_weight", inner_kl_weight, most=1e6)
        check_count("inner_draws", inner_draws, least=2)
        if inner_draws % 2:
            raise ValueError(f"inner_draws: expected an even number, as draws come in pairs, got {inner_draws}")
        if encoder is not None:
            check_one_label(likelihood, "an encoder")
        for name, value in zip(("shape", "rate", "tasks"), hyperprior, strict=True):
            check_positive(f"hyperprior's {name}", value)
        self.network = network
        flat = ravel(adaptable(network)).detach()
        self.prior_log_scale = nn.Parameter(torch.full_like(flat, prior_scale).log())
        self.start_log_scale = nn.Parameter(torch.full_like(flat, scale).log())
        self.rates = nn.Parameter(flat.new_tensor([rate, scale_rate])[:, None].repeat(steps, 1, len(flat)))
        self.modulation = None if encoder is None else _Modulation(network, encoder)
        self.inner_noise = inner_noise
        self.inner_draws = inner_draws
        self.clamp = clamp
        self.inner_kl_weight = inner_kl_weight
        self.hyperprior = hyperprior

    def prior(self) -> tuple[Tensor, Tensor]:
        """μ_p and log σ_p, each ``(P,)``."""
        return ravel(adaptable(self.network, len(self.prior_log_scale))), self.prior_log_scale.clamp(_FLOOR, _CAP)

    def infer(self, support: Points) -> tuple[Tensor, Tensor]:
        """μ and log σ of each task's q, each ``(B, P)``, after the inner steps. Uses torch's global generator."""
        return self._infer(_Steps(self), support)

    def _infer(self, steps: _Steps, support: Points) -> Weights:
        tasks = len(support.mask)
        prior = Weights(*(part.expand(tasks, -1) for part in self.prior()))
        start = Weights(prior.mean, self.start_log_scale.expand(tasks, -1))
        if self.modulation is not None:
            start = self.modulation(start, support)
        start = start._replace(log_scale=start.log_scale.clamp(_FLOOR, _CAP))
        return steps(support, start, prior)

    def forward(self, support: Points) -> Posterior:
        steps = _Steps(self)
        return _WeightPosterior(self._infer(steps, support), steps, support)

    def observed(self, episode: Episode) -> Points:
        return concatenate(*episode)

    def model(self, episode: Episode) -> None:
        points = self.observed(episode)
        mean, log_scale = self.prior()
        shape, rate, tasks = self.hyperprior
        # Of tensors: with numbers a Gamma would take the precisions to float32, and off the device.
        gamma = Gamma(log_scale.new_tensor(shape), log_scale.new_tensor(rate), validate_args=False)
        hyperprior = gamma.log_prob((-2 * log_scale).exp()).sum() / tasks
        with pyro.plate("tasks", len(points.mask), dim=-1):
            pyro.factor("hyperprior", hyperprior.expand(len(points.mask)))
            weights = self.latent("weights", mean, log_scale.exp())
            self.observe(Frozen(self.network, self.strategy).over_tasks(points.x, weights), points)

    def guide(self, episode: Episode) -> None:
        mean, log_scale = self.infer(episode.support)
        with pyro.plate("tasks", len(mean), dim=-1):
            self.latent("weights", mean, log_scale.exp(), shared=True)


class _Steps:
    """The inner loop, of a learner as it is now: later updates do not move it."""

    def __init__(self, learner: ABML) -> None:
        self.network = Frozen(learner.network, learner.strategy)
        self.likelihood, self._likelihood = Frozen(learner.likelihood), learner.likelihood  # an error has no parameters
        self.rates = learner.rates.clone()
        self.inner_noise, self.inner_draws = learner.inner_noise, learner.inner_draws
        self.clamp, self.kl_weight = learner.clamp, learner.inner_kl_weight

    def __call__(self, points: Points, start: Weights, prior: Weights) -> Weights:
        """K steps on each task's points, from a start, under a prior. Uses torch's global generator."""
        rates, network, likelihood = self.rates, self.network, self._likelihood
        half = standard_normal(len(rates), self.inner_draws // 2, start.mean.shape[1], like=start.mean)
        noise = torch.cat([half, -half], 1)

        def inner_loop(points: Points, start: Weights, prior: Weights) -> Weights:
            error = support_error(network, likelihood, points)
            prior_precision = self.kl_weight * (-2 * prior.log_scale).exp()
            count = observed(points, lead=1).sum() / self.inner_noise**2
            mean, log_scale = start
            precision = (count * self._curvature(mean, points) + prior_precision) / self.kl_weight

            for k in range(len(rates)):
                scale = log_scale.exp()

                def expected_error(q: dict[str, Tensor], scale: Tensor = scale, k: int = k) -> Tensor:
                    errors: Tensor = network.map(error, q["mean"] + scale * noise[k])
                    return errors.mean()

                slope = clamped(self.clamp)(expected_error)({"mean": mean})["mean"]
                pull = (mean - prior.mean) * prior_precision
                mean = mean - rates[k, 0] * (count * slope + pull) / (count + prior_precision)
                widening = 1 - (scale.square() * precision).clamp(max=self.clamp)
                log_scale = (log_scale + rates[k, 1] * widening).clamp(_FLOOR, _CAP)
            return Weights(mean, log_scale)

        found: Weights = network.map(inner_loop, points, start, prior)
        return found

    def _curvature(self, weights: Tensor, points: Points) -> Tensor:
        """One task's H, ``(P,)``: the diagonal of the Gauss-Newton matrix of the error, its mean over the observed targets."""

        def of_point(x: Any, y: Tensor, mask: Tensor) -> Tensor:
            def outputs(weights: Tensor) -> Tensor:
                result: Tensor = self.network(tree_map(lambda leaf: leaf[None], x), weights=weights)[0]
                return result

            def error(outputs: Tensor) -> Tensor:
                return (self._likelihood.error(outputs[None], y[None])[0] * mask).sum()

            value, jacobian = outputs(weights), torch.func.jacrev(outputs)(weights)  # (*O, P)
            # Reverse twice, as forward mode is not for several threads.
            hessian = torch.func.jacrev(torch.func.grad(error))(value).reshape(value.numel(), -1)
            jacobian = jacobian.flatten(0, -2)
            diagonal: Tensor = (jacobian * (hessian @ jacobian)).sum(0)
            return diagonal

        each: Tensor = self.network.map(of_point, points.x, points.y, points.mask)
        return each.sum(0) / observed(points, lead=1).sum().clamp(min=1)


class _WeightPosterior(GaussianWeights):
    """A Gaussian over each task's weights, which is the prior of further points."""

    def __init__(self, weights: Weights, steps: _Steps, support: Points) -> None:
        super().__init__(weights, steps.network, steps.likelihood, support)
        self.steps = steps

    def _learn(self, points: Points) -> None:
        self.weights = self.steps(points, start=self.weights, prior=self.weights)


class _Modulation(nn.Module):
    """Changes a start by the task's encoding: a gain and a shift of the mean and a change of log σ for every unit."""

    unit: Tensor

    def __init__(self, network: nn.Module, encoder: Encoder) -> None:
        super().__init__()
        check_encoder(encoder, classwise=False)
        self.encoder = encoder
        units: list[Tensor] = []
        total = 0
        for parameter in adaptable(network).values():
            rows = len(parameter) if parameter.dim() > 0 else 1
            units.append((total + torch.arange(rows)).repeat_interleave(parameter.numel() // rows))
            total += rows
        self.register_buffer("unit", torch.cat(units), persistent=False)
        self.head = nn.Linear(encoder.size, 3 * total)
        with torch.no_grad():  # a start near the unmodulated one
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, start: Weights, support: Points) -> Weights:
        gain, shift, wider = self.head(self.encoder(support)).unflatten(1, (3, -1))[:, :, self.unit].unbind(1)
        return Weights(start.mean * (1 + gain) + shift, start.log_scale + wider)
