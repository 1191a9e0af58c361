"""The grid's network: its cells, what they see, and learners that adapt it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesmeta as bm


@pytest.mark.parametrize("stride", [1, 2])
def test_normalisation_is_torchs_own(stride: int) -> None:
    torch.manual_seed(0)
    block = bm.networks.cells.CellConvolution(3, 16, stride, bm.networks.GroupNorm).double()
    x = torch.randn(2, 3, 6, 8).double()
    expected = nn.functional.group_norm(block.conv(x), 2, block.norm.weight, block.norm.bias).relu()
    assert expected.shape == (2, 16, 6 // stride, 8 // stride)
    torch.testing.assert_close(block(x), expected)


def test_each_width_halves_the_picture() -> None:
    for widths in ((8,), (8, 16), (8, 8, 16)):
        network = bm.networks.Cells(1, 9, widths=widths)
        assert network(torch.rand(2, 1, 32, 48)).shape == (2, 32 // 2 ** len(widths), 48 // 2 ** len(widths), 9)


def test_pictures_do_not_see_each_other() -> None:
    network = bm.networks.Cells(2, 9, widths=(8, 16)).double()
    x = torch.rand(3, 2, 8, 12).double()
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_learners_adapt_it() -> None:
    torch.manual_seed(0)
    network, likelihood = bm.networks.Cells(1, 9, widths=(8, 16)), bm.likelihoods.Boxes()
    x = torch.rand(4, 1, 8, 12)
    support = bm.points(x, torch.zeros(4, 2, 3, 5))
    for learner in (
        bm.MAML(network, likelihood, steps=1),
        bm.ANIL(network.features, network.head, likelihood, steps=1),
        bm.PLATIPUS(network, likelihood, steps=1),
    ):
        prediction = learner(support)(x, 2)
        assert prediction.event_shape == (2, 3, 5)
        parts = learner(support).decompose(x, 3)
        assert parts.total.shape == (1, 4, 2, 3, 5)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected pictures \(N, 3, H, V\), got \(2, 1, 8, 8\)"):
        bm.networks.Cells()(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="channels, outputs and widths: expected at least 1 of each"):
        bm.networks.Cells(widths=())
    with pytest.raises(ValueError, match="width: expected a multiple of 8"):
        bm.networks.Cells(widths=(10, 20))
