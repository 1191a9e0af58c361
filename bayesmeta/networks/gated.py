"""Features that another network lets through, or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bayesmeta.recorded import Recorded

__all__ = ["Gated"]


class Gated(Recorded):
    """Features times the sigmoid of a gate, f(x) ∘ σ(h(x)): the neuromodulation of ANML, for `OML` and any other learner.

    Beaulieu et al. 2020, "Learning to Continually Learn", https://arxiv.org/abs/2002.09571.

    Args:
        features: any module from ``(N, *X)`` to features ``(N, F)``.
        gate: any module from the same inputs to ``(N, F)``.

    Raises:
        ValueError: at a call, where the gate has not as many outputs as there are features.

    Example:
        >>> Gated(nn.Linear(2, 8), MLP(2, 8))(torch.zeros(5, 2)).shape
        torch.Size([5, 8])
    """

    def __init__(self, features: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.features, self.gate = features, gate

    def forward(self, x: Any) -> Tensor:
        features, gate = self.features(x), self.gate(x)
        if features.shape != gate.shape:
            raise ValueError(
                f"gate: expected as many outputs as there are features, {tuple(features.shape[1:])} a point, got "
                f"{tuple(gate.shape[1:])}; let it end in a layer of so many"
            )
        gated: Tensor = features * gate.sigmoid()
        return gated
