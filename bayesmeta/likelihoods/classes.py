"""Labels, and yes or no."""

from __future__ import annotations

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from bayesmeta.border import check_count
from bayesmeta.likelihoods.base import Likelihood, check_event, check_labels

__all__ = ["Bernoulli", "Categorical", "OneVsEach", "at_once"]


class Categorical(Likelihood):
    """Labels 0 to W - 1 with the outputs as logits: one a point, or an event of them, such as a sequence or a picture.

    ``*Y`` has `event_dims` dimensions and ``*O = (*Y, W)``, or with `classes_first` ``(W, *Y)``. Given the network's outputs the
    labels of an event are independent. Losses and metrics are of a label: means over all that are observed.

    Args:
        event_dims: the number of dimensions of one point's labels: 0 for one label, 1 for a sequence of tokens or tags, 2 for the
            pixels of a picture. How long they are may differ from episode to episode.
        classes_first: whether outputs have the classes before the event, as the channels of convolutions stand.

    Raises:
        ValueError: `event_dims` is not a whole number from 0 on.

    Example:
        >>> Categorical()(torch.zeros(4, 5)).probs[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
        >>> Categorical(event_dims=2, classes_first=True)(torch.zeros(4, 5, 28, 28)).event_shape
        torch.Size([28, 28])
    """

    discrete = True

    def __init__(self, event_dims: int = 0, *, classes_first: bool = False) -> None:
        super().__init__()
        check_count("event_dims", event_dims, least=0)
        if not isinstance(classes_first, bool):
            raise ValueError(
                f"classes_first: expected True or False, got {classes_first!r}; True where channels are classes"
            )
        self.event_dims = event_dims
        self.classes_first = classes_first

    def extra_repr(self) -> str:
        first = ", classes_first=True" if self.classes_first else ""
        return f"event_dims={self.event_dims}{first}" if self.event_dims else ""

    def _logits(self, outputs: Tensor) -> Tensor:
        """The outputs ``(..., *Y, W)``."""
        return outputs.movedim(-1 - self.event_dims, -1) if self.classes_first and self.event_dims else outputs

    def forward(self, outputs: Tensor) -> Distribution:
        single = dist.Categorical(logits=self._logits(outputs), validate_args=False)
        return single.to_event(self.event_dims) if self.event_dims else single

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_labels(y)
        log_probabilities = self._logits(outputs).log_softmax(-1)
        if self.event_dims:
            check_event(log_probabilities.shape[-1 - self.event_dims : -1], y.shape[-self.event_dims :])
        return -log_probabilities.gather(-1, y[..., None]).squeeze(-1)


def at_once(numbers: int) -> int:
    """How many classes to compare with all others at a time, if one takes so many numbers: some 100 MB of them."""
    return max(1, 2**24 // max(1, numbers))


class OneVsEach(Likelihood):
    """Labels 0 to W - 1, p(y) ∝ Π_{c ≠ y} σ(output_y - output_c). ``*O = (W,)``, ``*Y = ()``.

    The one-vs-each bound on the softmax (Titsias 2016, https://arxiv.org/abs/1609.07410), normalised. It compares every two
    classes, W² numbers a prediction: for hundreds of classes use `Categorical`.

    Example:
        >>> OneVsEach()(torch.zeros(4, 5)).probs[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    discrete = True

    def forward(self, outputs: Tensor) -> Distribution:
        pieces = outputs.split(at_once(outputs.numel()), -1)
        logits = [F.logsigmoid(some[..., :, None] - outputs[..., None, :]).sum(-1) for some in pieces]
        return dist.Categorical(logits=torch.cat(logits, -1), validate_args=False)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_labels(y)
        return -self(outputs).log_prob(y)


class Bernoulli(Likelihood):
    """Yes-or-no targets, 0.0 or 1.0, with the outputs as logits. ``*O = *Y = (outputs,)``.

    Example:
        >>> Bernoulli()(torch.zeros(4, 1)).mean[0]
        tensor([0.5000])
    """

    discrete = True
    support = constraints.boolean

    def forward(self, outputs: Tensor) -> Distribution:
        return dist.Bernoulli(logits=outputs, validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_event(outputs.shape[-1:], y.shape[outputs.dim() - 1 :])
        return F.binary_cross_entropy_with_logits(outputs, y, reduction="none")
