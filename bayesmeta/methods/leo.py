"""Latent embedding optimisation: inner gradient steps on a code from which the head's weights are decoded.

Rusu et al. 2019, "Meta-Learning with Latent Embedding Optimization", https://arxiv.org/abs/1807.05960 (algorithm 1 and
equation 6). With features h and the error L of a head ψ on the support,

    z ~ q(z | support) = N(m, s²) from the relation encoder, p(z) = N(0, I);   ψ = m_d(z) + s_d(z) ε, ε ~ N(0, I),
    z' = z - α ∇_z L(ψ(z)), repeated K times;   ψ' = ψ(z') - α_ψ ∇L(ψ(z')), repeated K_ψ times,
    minimise -(1/M) {log p(query | ψ') - w KL(q(z | support) ‖ p(z))} + γ ‖stopgrad(z') - z‖².

For classes z has a row for each, and so has the head. The paper's dropout and its penalties of the decoder are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import pyro
import torch
from torch import Tensor, nn

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points
from bayesmeta.encoders import Encoder, HeadDecoder, check_encoder
from bayesmeta.functional import Frozen, Params, clamped, descend, with_bias
from bayesmeta.likelihoods import Likelihood, check_one_label, mean_error
from bayesmeta.objectives import ELBO, Objective
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Outputs, Sampled, heads
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import VariationalLearner

__all__ = ["LEO"]


@final
class LEO(VariationalLearner):
    """Adapts the head's weights through a low-dimensional code, on features that all tasks share.

    The head's features are the encoder's. The rates α and α_ψ are learned. Predictions are random: draws use torch's global
    generator.

    Args:
        encoder: the task encoder, ``Relation(..., classes=True)`` for classes, ``Relation(...)`` for regression, or any other.
        outputs: the number of outputs of the head: W for classes, the number of targets, or twice that for a heteroscedastic
            likelihood.
        likelihood: makes the distribution p(y | x) of the network's outputs. Its `error` is L.
        latent: the size of z, for each class.
        steps: K, the number of inner steps of the code z.
        rate: the initial α, the step size of z.
        head_steps: K_ψ, the number of inner steps of the head's weights ("fine-tuning" in the paper).
        head_rate: the initial α_ψ, the step size of the head's weights.
        penalty: γ, what the distance of z from the code that its steps lead to costs: it makes the encoder do their work.
        clamp: the largest size of any entry of an inner gradient: what exceeds it is cut.
        objective: what training descends, an `ELBO`, whose `kl_weight` is w (the paper's β is w / M), or `Predictive`.

    Raises:
        ValueError: the encoder is classwise and has not as many classes as outputs.

    Example:
        >>> network = MLP(1, 1)
        >>> learner = LEO(Relation(40, 1, features=network.features), outputs=1, likelihood=Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        encoder: Encoder,
        outputs: int,
        likelihood: Likelihood,
        *,
        latent: int = 16,
        steps: int = 5,
        rate: float = 0.1,
        head_steps: int = 5,
        head_rate: float = 0.02,
        penalty: float = 1e-3,
        clamp: float = 10.0,
        objective: Objective = ELBO(draws=4),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_encoder(encoder, classwise=True)
        check_one_label(likelihood, "LEO")
        check_count("latent", latent)
        check_count("steps", steps)
        check_count("head_steps", head_steps, least=0)
        check_positive("rate", rate)
        check_positive("head_rate", head_rate)
        check_positive("clamp", clamp)
        if not 0 <= penalty < math.inf:
            raise ValueError(f"penalty: expected a finite number of at least 0, got {penalty}; e.g. 1e-3")
        self.encoder = encoder
        self.to_code = nn.Linear(encoder.size, 2 * latent)
        self.to_head = HeadDecoder(encoder, outputs, size=latent)
        self.steps = steps
        self.head_steps = head_steps
        self.rate = nn.Parameter(torch.tensor(rate))
        self.head_rate = nn.Parameter(torch.tensor(head_rate))
        self.penalty = penalty
        self.clamp = clamp

    def infer(self, support: Points) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z | support), each ``(B, latent)``, or ``(B, W * latent)`` for classes."""
        mean, raw = self.to_code(self.encoder(support)).chunk(2, -1)
        return mean.flatten(1), (raw - 2.0).clamp(-9.0, 1.0).exp().flatten(1)

    def _embedded(self, support: Points) -> Points:
        """The support with features, and a one, in the place of x."""
        return support._replace(x=with_bias(self.encoder.embed(support.x)))

    def _inner_loop(self) -> Callable[[Tensor, Tensor, Points], tuple[Tensor, Tensor]]:
        """The inner steps, with the learner's present parameters, from z ``(..., B, L)``, ε ``(..., B, P)`` and embedded points.

        They give the head's weights ``(..., B, *O, inputs + 1)`` and the code z' ``(..., B, L)``.
        """
        decoder = Frozen(self.to_head, self.strategy)
        rates = {"z": self.rate.clone(), "head": self.head_rate.clone()}
        steps, head_steps, gradient = self.steps, self.head_steps, clamped(self.clamp)

        def of_task(z: Tensor, noise: Tensor, points: Points) -> Any:
            if z.dim() == 2:
                return decoder.map(lambda z, noise: of_task(z, noise, points), z, noise)

            def decode(params: Params) -> Tensor:
                code = params["z"]
                code = code.unflatten(0, (self.to_head.shape[0], -1)) if self.to_head.classwise else code
                mean, scale = decoder(code)
                return mean + scale * noise.reshape(mean.shape)

            mean = mean_error(points, points.x)

            def error(head: Tensor) -> Tensor:
                return mean(self.likelihood.error(points.x @ head.mT, points.y))

            code = descend(lambda params: error(decode(params)), {"z": z}, steps, rates, gradient)
            head = {"head": decode(code)}
            head = descend(lambda params: error(params["head"]), head, head_steps, rates, gradient)
            return head["head"], code["z"]

        def run(z: Tensor, noise: Tensor, embedded: Points) -> tuple[Tensor, Tensor]:
            head, code = decoder.map(of_task, z.movedim(-2, 0), noise.movedim(-2, 0), embedded)
            return head.movedim(0, -3), code.movedim(0, -2)

        return run

    def forward(self, support: Points) -> Posterior:
        mean, scale = self.infer(support)
        embed, inner_loop = Frozen(self.encoder.features, self.strategy).over_tasks, self._inner_loop()
        size = math.prod(self.to_head.shape)

        def draw(known: tuple[Tensor, Tensor, Points], samples: int) -> Outputs:
            mean, scale, embedded = known
            noise = standard_normal(samples, 1, mean.shape[1] + size, like=mean).expand(-1, len(mean), -1)
            head, _ = inner_loop(mean + scale * noise[..., :-size], noise[..., -size:], embedded)
            return heads(embed, head)

        return Sampled(draw, (mean, scale, self._embedded(support)), self.likelihood, support)

    def model(self, episode: Episode) -> None:
        support, query = episode
        size = (self.encoder.targets if self.encoder.classwise else 1) * self.to_code.out_features // 2
        zeros = self.rate.new_zeros(len(query.mask), size + math.prod(self.to_head.shape))
        with pyro.plate("tasks", len(query.mask), dim=-1):
            z = self.latent("z", zeros[:, :size], torch.ones_like(zeros[:, :size]))
            noise = self.latent("noise", zeros[:, size:], torch.ones_like(zeros[:, size:]))
            head, code = self._inner_loop()(z, noise, self._embedded(support))
            distance = (code.detach() - z).square().sum(-1)
            pyro.factor("penalty", -self.penalty * query.mask.sum(1) * distance)
            self.observe(with_bias(self.encoder.embed(query.x)) @ head.mT, query)

    def guide(self, episode: Episode) -> None:
        mean, scale = self.infer(episode.support)
        zeros = mean.new_zeros(len(mean), math.prod(self.to_head.shape))
        with pyro.plate("tasks", len(mean), dim=-1):
            self.latent("z", mean, scale, shared=True)
            self.latent("noise", zeros, torch.ones_like(zeros), shared=True)
