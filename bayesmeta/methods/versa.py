"""VERSA: the weights of a task's head, amortised: one pass of a network, no inner loop.

Gordon, Bronskill, Bauer, Nowozin & Turner 2019, "Meta-Learning Probabilistic Inference for Prediction",
https://arxiv.org/abs/1805.09921 (equations 3 to 5). With features h and the head ψ, a row of weights and a bias for each output,

    q(ψ | support) = N(m(support), s(support)²),      y ~ p(y | ψ h(x)),
    minimise the mean over tasks of -(1/M) Σ log (1/S) Σ_s p(y | ψ_s h(x)),   ψ_s ~ q(ψ | support).

For classification the row of a class is amortised from the points of that class alone (the paper's section 3).
"""

from __future__ import annotations

from typing import Any, final

import pyro
from torch import Tensor

from bayesmeta.data import Episode, Points
from bayesmeta.encoders import Encoder, HeadDecoder, check_encoder
from bayesmeta.functional import Frozen, with_bias
from bayesmeta.likelihoods import Likelihood, check_one_label
from bayesmeta.objectives import Objective, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Encoded, Outputs, heads, told
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import VariationalLearner

__all__ = ["VERSA"]


@final
class VERSA(VariationalLearner):
    """A Gaussian over the head's weights, read from the support by an encoder, on features that all tasks share.

    The head's features are the encoder's. Predictions are random: draws use torch's global generator.

    Args:
        encoder: the task encoder: `ClassPooling` for classes, which amortises each class's row by itself; `DeepSet` or
            `Attention` for regression.
        outputs: the number of outputs of the head: W for classes, the number of targets, or twice that for a heteroscedastic
            likelihood.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        objective: what training descends, `Predictive` or an `ELBO`. In the Pyro model the head has the distribution that it has
            in the guide, so that the KL is zero, and the ELBO is the mean of log p in the place of the log of the mean.

    Raises:
        ValueError: the encoder is classwise and has not as many classes as outputs.

    Example:
        >>> network = MLP(1, 1)
        >>> learner = VERSA(DeepSet(40, 1, features=network.features), outputs=1, likelihood=Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        encoder: Encoder,
        outputs: int,
        likelihood: Likelihood,
        *,
        objective: Objective = Predictive(draws=8),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_encoder(encoder, classwise=True)
        check_one_label(likelihood, "VERSA")
        self.encoder = encoder
        self.to_head = HeadDecoder(encoder, outputs, hidden=(encoder.size,))

    def infer(self, support: Points | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of the head's weights, each ``(B, P)`` with P = outputs * (inputs + 1).

        From points, or from what the encoder `knows` of them.
        """
        mean, scale = self.to_head(self.encoder(support))
        return mean.flatten(1), scale.flatten(1)

    def _outputs(self, weights: Tensor, embedded: Tensor) -> Tensor:
        """Weights ``(..., B, P)`` and features ``(B, M, inputs)`` to outputs ``(..., B, M, *O)``."""
        return with_bias(embedded) @ weights.unflatten(-1, self.to_head.shape).mT

    def forward(self, support: Points) -> Posterior:
        embed, shape = Frozen(self.encoder.features, self.strategy).over_tasks, self.to_head.shape
        encoder, to_head = Frozen(self.encoder, self.strategy), Frozen(self.to_head, self.strategy)

        def infer(known: Any) -> tuple[Tensor, Tensor]:
            mean, scale = to_head(encoder(known))
            return mean.flatten(1), scale.flatten(1)

        def draw(known: Any, inferred: tuple[Tensor, Tensor], samples: int) -> Outputs:
            mean, scale = inferred
            weights = mean + scale * standard_normal(samples, 1, mean.shape[1], like=mean)
            return heads(embed, weights.unflatten(-1, shape))

        def tell(points: Points) -> Tensor:
            known: Tensor = encoder.run(told, points)
            return known

        known = self.encoder.knows(support)
        return Encoded(known, infer, tell, draw, self.likelihood, support, inferred=self.infer(known))

    def model(self, episode: Episode) -> None:
        support, query = episode
        with pyro.plate("tasks", len(query.mask), dim=-1):
            weights = self.latent("head", *self.infer(support))
            self.observe(self._outputs(weights, self.encoder.embed(query.x)), query)

    def guide(self, episode: Episode) -> None:
        with pyro.plate("tasks", len(episode.query.mask), dim=-1):
            self.latent("head", *self.infer(episode.support), shared=True)
