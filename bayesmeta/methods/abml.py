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

``objective="elbo"`` descends the paper's bound over all a task's points D,

    -(1/|D|) { E_q [log p(D | φ)] - w KL(q ‖ p) + log p(θ) / T },    p(θ) = Gamma(1/σ_p²; a, b) (section 4),

for T tasks; ``objective="predictive"`` (the default, which trains better) the query's -log (1/S) Σ_s p(y | x, φ_s), φ_s ~ q.
"""

from __future__ import annotations

import math
from typing import Any, final

import pyro
import torch
from pyro.distributions import Gamma
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points, check_count, check_positive, concatenate, observed, seen
from bayesmeta.encoders import Encoder, check_encoder
from bayesmeta.functional import Frozen, Params, adaptable, clamped, ravel
from bayesmeta.learner import Posterior
from bayesmeta.likelihoods import Likelihood, check_one_label, support_error
from bayesmeta.networks import check_network, check_padding
from bayesmeta.posteriors import Outputs, Sampled, networks
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import Objective, VariationalLearner

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
        likelihood: from outputs to p(y | x).
        encoder: if given, the amortised form: the task's encoding modulates the start, by a gain, a shift and a change of
            log σ for each of the network's units.
        steps: K, the number of inner steps.
        rate: the initial inner step size of μ, by step and weight.
        scale_rate: that of log σ; 0.5 is Newton's.
        prior_scale: the initial σ_p.
        scale: the initial σ of the start.
        inner_noise: σ_in, how little a point is trusted; with the likelihood's noise the steps lead to the exact factorised
            posterior.
        inner_draws: of φ for each inner gradient, an even number: they come in pairs of opposite noise.
        clamp: bound of each entry of an inner gradient.
        hyperprior: a, b and T of the Gamma over the prior's precisions; only with ``objective="elbo"``.
        objective: see `VariationalLearner`, as are the next two.
        draws: S.
        kl_weight: w, in the inner objective and in the ELBO.

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
        hyperprior: tuple[float, float, float] = (1.0, 0.01, 1000.0),
        objective: Objective = "predictive",
        draws: int = 8,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__(likelihood, objective=objective, draws=draws, kl_weight=kl_weight)
        check_network(network)
        check_count("steps", steps)
        check_positive("rate", rate)
        check_positive("scale_rate", scale_rate)
        check_positive("prior_scale", prior_scale, math.exp(_FLOOR), math.exp(_CAP))
        check_positive("scale", scale, math.exp(_FLOOR), math.exp(_CAP))
        check_positive("inner_noise", inner_noise)
        check_positive("clamp", clamp)
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
        self.hyperprior = hyperprior

    def prior(self) -> tuple[Tensor, Tensor]:
        """μ_p and log σ_p, each ``(P,)``."""
        return ravel(adaptable(self.network, len(self.prior_log_scale))), self.prior_log_scale.clamp(_FLOOR, _CAP)

    def infer(self, support: Points) -> tuple[Tensor, Tensor]:
        """μ and log σ of each task's q, each ``(B, P)``, after the inner steps. Uses torch's global generator."""
        check_padding(self.network, seen(support), "support")
        prior_mean, prior_log_scale = self.prior()
        tasks = len(support.mask)
        start = {
            "mean": prior_mean.expand(tasks, -1),
            "log_scale": self.start_log_scale.expand(tasks, -1),
        }
        if self.modulation is not None:
            start = self.modulation(start, support)
        start["log_scale"] = start["log_scale"].clamp(_FLOOR, _CAP)
        rates = self.rates.clone()
        half = standard_normal(len(rates), self.inner_draws // 2, len(prior_mean), like=prior_mean)
        noise = torch.cat([half, -half], 1)
        network = Frozen(self.network, self.strategy)
        prior_precision = self.kl_weight * (-2 * prior_log_scale).exp()

        def inner_loop(support: Points, q: Params) -> Params:
            error = support_error(network, self.likelihood, support)
            count = observed(support, lead=1).sum() / self.inner_noise**2
            mean, log_scale = q["mean"], q["log_scale"]
            precision = (count * self._curvature(network, mean, support) + prior_precision) / self.kl_weight

            for k in range(len(rates)):
                scale = log_scale.exp()

                def expected_error(q: Params, scale: Tensor = scale, k: int = k) -> Tensor:
                    errors: Tensor = network.map(error, q["mean"] + scale * noise[k])
                    return errors.mean()

                slope = clamped(self.clamp)(expected_error)({"mean": mean})["mean"]
                pull = (mean - prior_mean) * prior_precision
                mean = mean - rates[k, 0] * (count * slope + pull) / (count + prior_precision)
                widening = 1 - (scale.square() * precision).clamp(max=self.clamp)
                log_scale = (log_scale + rates[k, 1] * widening).clamp(_FLOOR, _CAP)
            return {"mean": mean, "log_scale": log_scale}

        q = network.map(inner_loop, support, start)
        return q["mean"], q["log_scale"]

    def _curvature(self, network: Frozen, weights: Tensor, support: Points) -> Tensor:
        """One task's H, ``(P,)``: the diagonal of the Gauss-Newton matrix of the error, its mean over the support's targets."""

        def of_point(x: Any, y: Tensor, mask: Tensor) -> Tensor:
            def outputs(weights: Tensor) -> Tensor:
                result: Tensor = network(tree_map(lambda leaf: leaf[None], x), weights=weights)[0]
                return result

            def error(outputs: Tensor) -> Tensor:
                return (self.likelihood.error(outputs[None], y[None])[0] * mask).sum()

            value, jacobian = outputs(weights), torch.func.jacrev(outputs)(weights)  # (*O, P)
            # Reverse twice, as forward mode is not for several threads.
            hessian = torch.func.jacrev(torch.func.grad(error))(value).reshape(value.numel(), -1)
            jacobian = jacobian.flatten(0, -2)
            diagonal: Tensor = (jacobian * (hessian @ jacobian)).sum(0)
            return diagonal

        each: Tensor = network.map(of_point, support.x, support.y, support.mask)
        return each.sum(0) / observed(support, lead=1).sum().clamp(min=1)

    def forward(self, support: Points) -> Posterior:
        (mean, log_scale), network = self.infer(support), Frozen(self.network, self.strategy)

        def draw(samples: int) -> Outputs:
            noise = standard_normal(samples, 1, mean.shape[1], like=mean)
            return networks(network, mean + log_scale.exp() * noise)

        return Sampled(draw, self.likelihood, support)

    def observed(self, episode: Episode) -> Points:
        points = concatenate(*episode)
        check_padding(self.network, seen(points), "support and query")
        return points

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

    def forward(self, start: Params, support: Points) -> Params:
        gain, shift, wider = self.head(self.encoder(support)).unflatten(1, (3, -1))[:, :, self.unit].unbind(1)
        mean = start["mean"] * (1 + gain) + shift
        return {"mean": mean, "log_scale": start["log_scale"] + wider}
