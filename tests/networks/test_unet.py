"""The U-Net's maps: their size, what they see, and learners that adapt it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesmeta as bm


def test_normalisation_is_torchs_own() -> None:
    torch.manual_seed(0)
    block = bm.networks.unet.UNetConvolution(3, 16, bm.networks.GroupNorm, nn.ReLU).double()
    x = torch.randn(2, 3, 6, 7).double()
    expected = nn.functional.group_norm(block.conv(x), 2, block.norm.weight, block.norm.bias).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 8)])
def test_maps_have_the_size_of_pictures_of_any_size(size: tuple[int, int]) -> None:
    network = bm.networks.UNet(1, 3, widths=(8, 8, 16))
    assert network(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_pictures_do_not_see_each_other() -> None:
    network = bm.networks.UNet(2, 2, widths=(8, 16)).double()
    x = torch.rand(3, 2, 8, 12).double()
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_learners_adapt_it() -> None:
    torch.manual_seed(0)
    network = bm.networks.UNet(1, 2, widths=(8, 16))
    likelihood = bm.likelihoods.Categorical(event_dims=2, classes_first=True)
    x = torch.rand(4, 1, 8, 8)
    support = bm.points(x, (x[:, 0] > 0.5).long(), classes=2, event_dims=2)
    for learner in (
        bm.MAML(network, likelihood, steps=1),
        bm.ANIL(network.features, network.head, likelihood, steps=1),
        bm.PLATIPUS(network, likelihood, steps=1),
    ):
        assert learner(support)(x, 2).event_shape == (8, 8)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected pictures \(N, 3, H, V\), got \(2, 1, 8, 8\)"):
        bm.networks.UNet()(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="channels, outputs and widths: expected at least 1 of each"):
        bm.networks.UNet(widths=())
    with pytest.raises(ValueError, match="width: expected a multiple of 8"):
        bm.networks.UNet(widths=(10, 20))
