"""Neural processes: a network reads the support and answers at x, with no inner loop.

Garnelo et al. 2018, "Conditional Neural Processes", https://arxiv.org/abs/1807.01613 (equations 1 to 4), and "Neural Processes",
https://arxiv.org/abs/1807.01622 (equation 9); Kim et al. 2019, "Attentive Neural Processes", https://arxiv.org/abs/1901.05761;
Nguyen & Grover 2022, "Transformer Neural Processes", https://arxiv.org/abs/2207.04179. With the encoder r(support, x) and,
for the latent one, q(z | points) = N(m, s²) from the task's encoding,

    conditional:  p(y | x, support) = likelihood(decoder([x, r(support, x)])),      loss -(1/M) Σ log p(y | x, support)
    latent:       p(y | x, z, support) = likelihood(decoder([x, r(support, x), z])),
                  loss -(1/M) {E_q(z | support, query) [log p(query | z)] - w KL(q(z | support, query) ‖ q(z | support))}.

or, for the latent one and by default, -(1/M) Σ log (1/S) Σ_s p(y | x, z_s, support) with z_s ~ q(z | support), as at test, point
by point; with `JointPredictive` all points together, -(1/M) log (1/S) Σ_s Π p(y | x, z_s, support) (Foong et al. 2020, eq. 8,
https://arxiv.org/abs/2007.01332). With a `DeepSet` these are the CNP and the NP (with a deterministic path), with `Attention`
the TNP-D and the ANP. A `relative` encoder, `RelativeAttention` (the TE-TNP) or `GridConvolution` (the ConvCNP), sees differences
of inputs alone, and the decoder then reads r(support, x) without x: a shifted task has the same answers, shifted. For classes,
`ClassPooling` encodes each class by itself, as the CNP's section 4.3 does, and here one decoder gives every class its logit, as
in Sung et al. 2018, "Learning to Compare", https://arxiv.org/abs/1711.06025.
"""

from __future__ import annotations

from typing import Any, final

import pyro
from torch import Tensor, nn

from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.distributions import apart
from bayesmeta.encoders import Encoder, TaskNetwork, check_encoder
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, check_one_label
from bayesmeta.networks import MLP
from bayesmeta.objectives import Objective, Predictive
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Encoded, Outputs, told
from bayesmeta.randomness import standard_normal
from bayesmeta.variational import VariationalLearner

__all__ = ["ConditionalNeuralProcess", "NeuralProcess"]


@final
class ConditionalNeuralProcess(Learner):
    """Answers at each x by itself, from the encoding of the support: fast, and without functions to draw.

    All of its uncertainty is the likelihood's, so use one whose spread depends on x: `HeteroscedasticGaussian`.

    Args:
        encoder: the task encoder: `DeepSet` for the CNP, `Attention` for the TNP-D, `RelativeAttention` and `GridConvolution` for
            tasks that may lie elsewhere; `ClassPooling` for classes.
        decoder: a network from ``encoder.inputs + encoder.size`` features to outputs, from ``encoder.size`` beside the two
            relative encoders; beside `ClassPooling`, to one class's logit.
        likelihood: makes the distribution p(y | x) of the network's outputs.

    Example:
        >>> learner = ConditionalNeuralProcess(DeepSet(1, 1), MLP(1 + 64, 2), HeteroscedasticGaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(self, encoder: Encoder, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        check_one_label(likelihood, "a neural process")
        _check_decoder(encoder, decoder)
        self.path = TaskNetwork(encoder, decoder)
        self.likelihood = likelihood

    def forward(self, support: Points) -> Posterior:
        path = Frozen(self.path)

        def draw(known: Any, inferred: None, samples: int) -> Outputs:
            def outputs(x: Any, own: bool) -> Tensor:
                found: Tensor = path(known, x)
                return apart(found, samples) if own else found.expand(samples, *found.shape)

            return outputs

        def tell(points: Points) -> Tensor:
            known: Tensor = path.run(_told, points)
            return known

        known = self.path.encoder.knows(support)
        return Encoded(known, lambda known: None, tell, draw, self.likelihood, support, samples=1)


@final
class NeuralProcess(VariationalLearner):
    """A neural process with a latent z a task: its draws are functions, coherent over x.

    Predictions are random: draws of z use torch's global generator.

    Args:
        encoder: the task encoder: `DeepSet` for the NP, `Attention` for the ANP, or as for the conditional one; `ClassPooling`
            for classes.
        decoder: a network from ``encoder.inputs + encoder.size + latent`` features to outputs, without the inputs beside relative
            encoders; beside `ClassPooling`, to one class's logit.
        likelihood: makes the distribution p(y | x) of the network's outputs; of a spread that depends on x, as in the papers:
            `HeteroscedasticGaussian`.
        latent: the number of entries of z; beside `ClassPooling`, of each class's.
        objective: what training descends, `Predictive`, `JointPredictive`, or an `ELBO`, whose `kl_weight` is w.

    Example:
        >>> learner = NeuralProcess(Attention(1, 1), MLP(1 + 64 + 16, 2), HeteroscedasticGaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        latent: int = 16,
        objective: Objective = Predictive(draws=8),
    ) -> None:
        super().__init__(likelihood, objective=objective)
        check_one_label(likelihood, "a neural process")
        check_count("latent", latent)
        _check_decoder(encoder, decoder, latent)
        self.path = TaskNetwork(encoder, decoder)
        self.latent_size = latent
        self.to_latent = nn.Linear(encoder.size, 2 * latent)

    def infer(self, points: Points | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z | points), each ``(B, Z)``, where Z is `latent`, or W times that for a classwise encoder.

        From points, or from what the encoder `knows` of them.
        """
        return _latent(self.to_latent(self.path.encoder(points)))

    def _shape(self, z: Tensor) -> Tensor:
        """z ``(..., Z)`` as the path takes it."""
        return z.unflatten(-1, (-1, self.latent_size)) if self.path.encoder.classwise else z

    def forward(self, support: Points) -> Posterior:
        path, to_latent = Frozen(self.path), Frozen(self.to_latent)

        def draw(known: Any, inferred: tuple[Tensor, Tensor], samples: int) -> Outputs:
            mean, scale = inferred
            z = self._shape(mean + scale * standard_normal(samples, 1, mean.shape[1], like=mean))
            return lambda x, own: path(known, x, z, own)

        def infer(known: Any) -> tuple[Tensor, Tensor]:
            return _latent(to_latent(path.run(_encoded, known)))

        def tell(points: Points) -> Tensor:
            known: Tensor = path.run(_told, points)
            return known

        known = self.path.encoder.knows(support)
        return Encoded(known, infer, tell, draw, self.likelihood, support, inferred=self.infer(known))

    def model(self, episode: Episode) -> None:
        support, query = episode
        with pyro.plate("tasks", len(query.mask), dim=-1):
            z = self.latent("z", *self.infer(support))
            self.observe(self.path(support, query.x, self._shape(z)), query)

    def guide(self, episode: Episode) -> None:
        with pyro.plate("tasks", len(episode.query.mask), dim=-1):
            self.latent("z", *self.infer(concatenate(*episode)), shared=True)


def _latent(outputs: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = outputs.chunk(2, -1)
    return mean.flatten(1), 0.01 + 0.99 * raw.flatten(1).sigmoid()


def _encoded(path: TaskNetwork, known: Tensor) -> Tensor:
    return path.encoder(known)


def _told(path: TaskNetwork, points: Points) -> Any:
    return told(path.encoder, points)


def _check_decoder(encoder: Encoder, decoder: nn.Module, latent: int = 0) -> None:
    """Raises an error where a decoder does not fit the encoder; of other modules than MLPs and linear layers a call will tell."""
    check_encoder(encoder, classwise=True)
    if not isinstance(decoder, nn.Module):
        raise TypeError(
            f"decoder: expected a network such as MLP(1 + 64, 2), got {type(decoder).__name__}; make it one"
        )
    last = decoder.head if isinstance(decoder, MLP) else decoder
    if not isinstance(last, nn.Linear):
        return
    inputs = decoder.inputs if isinstance(decoder, MLP) else last.in_features
    shown = 0 if encoder.relative else encoder.inputs
    if inputs != shown + encoder.size + latent:
        raise ValueError(
            f"decoder: expected {shown + encoder.size + latent} inputs, {shown} features (the encoder's inputs, none of a "
            f"relative one) + {encoder.size} (its size) + {latent} (latent), got {inputs}; build it with as many"
        )
    if encoder.classwise and last.out_features != 1:
        raise ValueError(
            f"decoder: expected one output, a class's logit, beside {type(encoder).__name__}, which encodes each class by "
            f"itself, got {last.out_features}; build it with outputs=1"
        )
