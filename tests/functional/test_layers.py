"""Second-order meta-gradients through torch's layers: mapped by vmap, by a loop, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta import Episode, Points


class Rows(nn.Module):
    """A layer of rows ``(N, 6)`` between two linear ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 6), layer, nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))


class Pictures(nn.Module):
    """A layer of maps ``(N, 4, 3, 3)`` after a convolution of rows read as pictures."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.conv, self.layer, self.last = nn.Linear(3, 9), nn.Conv2d(1, 4, 2), layer, nn.LazyLinear(1)
        self(torch.zeros(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.conv(self.first(x).unflatten(1, (1, 3, 3)))).flatten(1))


class Sequence(nn.Module):
    """A layer that reads each row as a sequence of three."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(1, 6), layer, nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.first(x[..., None]))
        return self.last((out[0] if isinstance(out, tuple) else out)[:, -1])


class Attends(nn.Module):
    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(6, 2, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.weights)[0]


class OwnAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return F.scaled_dot_product_attention(x, x.tanh(), x, attn_mask=mask)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: lambda layer=layer: Rows(layer())  # type: ignore[misc]
        for name, layer in {
            "GELU": nn.GELU,
            "SiLU": nn.SiLU,
            "softmax": lambda: nn.Softmax(-1),
            "PReLU": nn.PReLU,
            "layer norm": lambda: nn.LayerNorm(6),
            "layer norm, no affine": lambda: nn.LayerNorm(6, elementwise_affine=False),
            "RMS norm": lambda: nn.RMSNorm(6),
            "group norm": lambda: nn.GroupNorm(2, 6),
            "batch norm": lambda: nn.BatchNorm1d(6, track_running_stats=False),
            "bilinear": lambda: nn.Sequential(nn.Linear(6, 12), nn.GLU()),
        }.items()
    },
    **{
        name: lambda layer=layer: Pictures(layer())  # type: ignore[misc]
        for name, layer in {
            "pool": lambda: nn.MaxPool2d(2),
            "adaptive pool": lambda: nn.AdaptiveAvgPool2d(1),
            "group norm of maps": lambda: nn.GroupNorm(2, 4),
            "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
            "batch norm of maps": lambda: nn.BatchNorm2d(4, track_running_stats=False),
            "layer norm of maps": lambda: nn.LayerNorm([4, 2, 2]),
            "transposed convolution": lambda: nn.ConvTranspose2d(4, 2, 2),
        }.items()
    },
    "LSTM": lambda: Sequence(nn.LSTM(6, 6, batch_first=True)),
    "GRU": lambda: Sequence(nn.GRU(6, 6, batch_first=True)),
    "RNN": lambda: Sequence(nn.RNN(6, 6, batch_first=True)),
    "attention": lambda: Sequence(Attends()),
    "attention with weights": lambda: Sequence(Attends(weights=True)),
    "own attention": lambda: Sequence(OwnAttention()),
    "transformer": lambda: Sequence(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)),
}
RECURRENT = ("LSTM", "GRU", "RNN")
TASKS = 2


def episode() -> Episode:
    generator = torch.Generator().manual_seed(0)

    def draw(points: int) -> Points:
        x, y = (torch.randn(TASKS, points, d, generator=generator, dtype=torch.float64) for d in (3, 1))
        return Points(x, y, torch.ones(TASKS, points, dtype=torch.bool))

    return Episode(draw(4), draw(5))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_meta_gradient_is_that_of_finite_differences(name: str, training: bool) -> None:
    torch.manual_seed(0)
    learner = bm.MAML(LAYERS[name](), bm.likelihoods.Gaussian(), steps=2, rate=0.1).double().train(training)
    given, parameters = episode(), list(learner.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]

    def moved(by: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(by * direction)
            value = learner.loss(given).item()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(by * direction)
        return value

    step = 1e-5
    expected = (moved(step) - moved(-step)) / (2 * step)
    for strategy in ("auto",) if name in RECURRENT else ("vmap", "loop"):
        learner.strategy = strategy  # type: ignore[assignment]
        slopes = torch.autograd.grad(learner.loss(given), parameters)
        found = sum((slope * direction).sum().item() for slope, direction in zip(slopes, directions, strict=True))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), strategy
