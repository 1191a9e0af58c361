"""Conv4 against the ordinary network of torch's own layers, in values and in second-order meta-gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import bayesmeta as bm

ORDINARY: dict[type, Callable[[int], nn.Module]] = {
    bm.networks.BatchNorm: lambda width: nn.BatchNorm2d(width, track_running_stats=False),
    bm.networks.GroupNorm: lambda width: nn.GroupNorm(width // 8, width),
}


def pair(norm: type, channels: int = 1, size: int = 28, width: int = 16) -> tuple[nn.Module, bm.networks.Conv4]:
    """The ordinary network and ours with the same weights, norm weights of both signs among them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for c in (channels, width, width, width):
        layers += [nn.Conv2d(c, width, 3, padding=1, bias=False), ORDINARY[norm](width), nn.ReLU(), nn.MaxPool2d(2)]
    ordinary = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size // 16) ** 2, 5)).double()
    ours = bm.networks.Conv4(channels, 5, width=width, image_size=size, norm=norm).double()
    with torch.no_grad():
        for parameter in ordinary.parameters():
            if parameter.dim() == 1:
                parameter.normal_()
        for a, b in zip(ours.parameters(), ordinary.parameters(), strict=True):
            a.copy_(b)
    return ordinary, ours


def images(tasks: int, points: int, channels: int = 1, size: int = 28) -> tuple[Tensor, Tensor]:
    x = torch.randn(tasks, points, channels, size, size, dtype=torch.float64)
    return x, torch.randint(5, (tasks, points))


def meta_loss(network: nn.Module, support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor], mapped: bool) -> Tensor:
    params = dict(network.named_parameters())

    def task(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(network, params, (x,)), y)

        slope = grad(loss)(params, sx, sy)
        return loss({name: value - 0.4 * slope[name] for name, value in params.items()}, qx, qy)

    if mapped:
        return vmap(task)(*support, *query).mean()
    return torch.stack([task(*one) for one in zip(*support, *query, strict=True)]).mean()


@pytest.mark.parametrize("norm", ORDINARY)
@pytest.mark.parametrize(("channels", "size", "width"), [(1, 28, 16), (3, 33, 8)])
def test_values_and_meta_gradients_are_those_of_the_ordinary_network(
    norm: type, channels: int, size: int, width: int
) -> None:
    ordinary, ours = pair(norm, channels, size, width)
    support, query = images(2, 5, channels, size), images(2, 7, channels, size)
    torch.testing.assert_close(ours(query[0][0]), ordinary(query[0][0]), rtol=0, atol=1e-10)
    gradients = [
        torch.autograd.grad(meta_loss(network, support, query, mapped), list(network.parameters()))
        for network, mapped in ((ordinary, False), (ours, False), (ours, True))
    ]
    for expected, looped, mapped in zip(*gradients, strict=True):
        torch.testing.assert_close(looped, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", ORDINARY)
def test_images_in_pieces_are_as_good_as_together_and_have_gradients(
    norm: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bm.networks.conv4, "PIECE", 3 * 16 * 28 * 28)  # three images of the first block's map
    ordinary, ours = pair(norm)
    x = torch.randn(7, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    expected, found = (
        torch.autograd.grad(network(x).square().sum(), x, create_graph=True)[0] for network in (ordinary, ours)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    expected, found = (torch.autograd.grad(first.square().sum(), x)[0] for first in (expected, found))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("norm", ORDINARY)
def test_float32_is_as_accurate_as_the_ordinary_network_on_drawings(norm: type) -> None:
    """Nearly white paper: constant patches, ties in the pool, a mean far above the deviation."""
    ordinary, ours = pair(norm)
    x = (torch.rand(20, 1, 28, 28, dtype=torch.float64) > 0.08).double()
    exact = ordinary(x)
    error = (ours.float()(x.float()) - exact).abs().max()
    theirs = (ordinary.float()(x.float()) - exact).abs().max()
    assert error < 10 * theirs
    assert error < 1e-3


@pytest.mark.parametrize("norm", ORDINARY)
@pytest.mark.parametrize("mean", [0.9, 1000.0])
def test_under_autocast_it_is_as_accurate_as_the_ordinary_network(norm: type, mean: float) -> None:
    """Of bright images, whose variance is a difference of large numbers; bfloat16 has three digits."""
    ordinary, ours = pair(norm, 3, 84)
    x = mean + 0.1 * torch.randn(5, 3, 84, 84, dtype=torch.float64)
    errors = []
    for network in (ordinary, ours):
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.float()(x.float())
        errors.append((rounded - exact).norm() / exact.norm())
    assert errors[1] < 3 * errors[0]


def test_a_single_image_and_its_dtype() -> None:
    for norm in ORDINARY:
        assert pair(norm)[1](torch.rand(1, 1, 28, 28, dtype=torch.float64)).shape == (1, 5)


def test_features_and_head_make_the_network() -> None:
    mlp = bm.networks.MLP(2, 3, hidden=(4, 5))
    x = torch.randn(7, 2)
    torch.testing.assert_close(mlp.head(mlp.features(x)), mlp(x))
    assert mlp.features(x).shape == (7, 5)
    assert bm.networks.MLP(2, 3, hidden=())(x).shape == (7, 3)
