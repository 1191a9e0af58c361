"""Networks with a body of features and a linear head, and the choice of normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["MLP", "check_stateless"]


class MLP(nn.Module):
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
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(before, after), activation()]
        self.inputs = inputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"x: expected {self.inputs} features (MLP(inputs={self.inputs})), got {x.shape[-1]}; "
                f"build the network with inputs={x.shape[-1]} or select the features"
            )
        output: Tensor = self.head(self.features(x))
        return output


def check_stateless(network: nn.Module) -> None:
    """Raises a ValueError if the network keeps running statistics, which adaptation per task cannot update."""
    for name, module in network.named_modules():
        if getattr(module, "track_running_stats", False):
            raise ValueError(
                f"network: expected no running statistics, got {type(module).__name__} at {name!r}; use group or layer "
                "normalisation, or track_running_stats=False (transductive: predictions then depend on the other queries)"
            )
