"""A multilayer perceptron: a body of features and a linear head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from bayesmeta.recorded import Recorded

__all__ = ["MLP"]


class MLP(Recorded):
    """A multilayer perceptron ``(..., inputs)`` to ``(..., outputs)``: `features`, then a linear `head`.

    Args:
        inputs: number of input features.
        outputs: number of outputs; twice the number of targets for a heteroscedastic likelihood.
        hidden: widths of the hidden layers.
        activation: makes the nonlinearity after each hidden layer.

    Raises:
        ValueError: at a call, where the input has another number of features.

    Example:
        >>> MLP(1, 1)(torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """

    each_by_itself = True
    """It takes any leading dimensions, and treats all that stand there alike (subclasses say it anew)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (40, 40),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.inputs = inputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"x: expected one floating tensor, with which an MLP computes, got {got}; put a module before it that makes one: "
                "nn.Embedding of whole numbers, torch.cat of several inputs"
            )
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"x: expected {self.inputs} features (MLP(inputs={self.inputs})), got {x.shape[-1]}; "
                f"build the network with inputs={x.shape[-1]} or select the features"
            )
        output: Tensor = self.head(self.features(x))
        return output
