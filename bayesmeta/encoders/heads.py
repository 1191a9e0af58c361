"""What encodings become: a linear head's weights, or an input of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.encoders.base import Encoder, check_encoder
from bayesmeta.networks import MLP, check_network

__all__ = ["HeadDecoder", "TaskNetwork"]


@final
class HeadDecoder(nn.Module):
    """From a task's encoding to a Gaussian over the weights of its linear head: mean and scale, ``(..., *O, inputs + 1)``.

    The last weight of each output is its bias. From a classwise encoding ``(..., W, R)`` each class's row is decoded by itself.

    Args:
        encoder: whose encodings it reads; the head's features are the encoder's.
        outputs: the number of the head's outputs, *O.
        size: of the encodings, where it is not the encoder's.
        hidden: widths of hidden layers.

    Raises:
        ValueError: the encoder is classwise and has not as many classes as outputs.
    """

    def __init__(self, encoder: Encoder, outputs: int, *, size: int | None = None, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        if encoder.classwise and encoder.targets != outputs:
            raise ValueError(
                f"outputs: expected {encoder.targets}, as many as the encoder has classes, got {outputs}; "
                "build the encoder and the learner with the same W"
            )
        check_count("outputs", outputs)
        self.classwise = encoder.classwise
        self.shape = (outputs, encoder.inputs + 1)
        rows = 1 if encoder.classwise else outputs
        self.weights = MLP(size or encoder.size, 2 * rows * (encoder.inputs + 1), hidden=hidden)

    def forward(self, encoding: Tensor) -> tuple[Tensor, Tensor]:
        leading = encoding.shape[: -2 if self.classwise else -1]
        mean, raw = self.weights(encoding).reshape(*leading, *self.shape, 2).unbind(-1)
        return mean, (raw - 4.0).clamp(-9.0, 0.0).exp()  # starts narrow, as the weights' scales of other methods do


@final
class TaskNetwork(nn.Module):
    """A network that reads the task beside x: the features of x, the encoding of the support there, and a latent if given.

    With a `relative` encoder it does not read x, and sees of it what the encoding says.

    With an encoder that encodes each class by itself, the network is asked once for each class, with that class's encoding
    and latent, and answers with the class's logit: so it does not depend on how classes are numbered.

    Args:
        encoder: of the support.
        network: from ``encoder.inputs + encoder.size`` features, of a relative encoder ``encoder.size``, and the latent's
            entries, to outputs; to one of them, the logit, for a classwise encoder.

    Example:
        >>> network = TaskNetwork(DeepSet(1, 1), MLP(1 + 64, 2))
        >>> network(points([0.0, 1.0], [0.0, 1.0]), torch.zeros(1, 5, 1)).shape
        torch.Size([1, 5, 2])
    """

    def __init__(self, encoder: Encoder, network: nn.Module) -> None:
        super().__init__()
        check_encoder(encoder, classwise=True)
        check_network(network)
        self.encoder = encoder
        self.network = network

    def forward(self, support: Points | Tensor, x: Any, z: Tensor | None = None, own: bool = False) -> Tensor:
        """From x ``(B, M, *X)`` and z ``(..., B, Z)``, or ``(..., B, W, Z)`` for a classwise encoder, to ``(..., B, M, *O)``.

        With `own`, z is ``(S, B, ...)`` and x ``(B, S M, *X)``: M points for each latent in turn. In the place of a support it
        takes what the encoder `knows` of it.
        """
        embedded = self.encoder.embed(x)
        told = self.encoder.tell(support, embedded)  # (B, M, R) or (B, M, W, R)
        if self.encoder.classwise:
            embedded = embedded[:, :, None].expand(*told.shape[:-1], -1)
        if not self.encoder.relative:
            told = torch.cat([embedded, told], -1)
        if z is not None:
            told = apart(told, len(z)) if own else told
            z = z.unsqueeze(-3 if self.encoder.classwise else -2)
            batch = torch.broadcast_shapes(z.shape[:-1], told.shape[:-1])
            told = torch.cat([told.expand(*batch, -1), z.expand(*batch, -1)], -1)
        outputs: Tensor = self.network(told)
        if not self.encoder.classwise:
            return outputs
        if outputs.shape[-1] != 1:
            raise ValueError(
                f"network: expected one output, a class's logit, beside {type(self.encoder).__name__}, which encodes each class "
                f"by itself, got {outputs.shape[-1]}; build it with outputs=1"
            )
        return outputs.squeeze(-1)
