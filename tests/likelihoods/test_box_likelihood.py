"""`Boxes`: its errors against torch's losses, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.likelihoods import Boxes, check_support, check_targets


def targets(*batch: int) -> torch.Tensor:
    there = torch.randint(2, (*batch, 2, 3, 1)).double()
    return torch.cat([there, there * torch.randn(*batch, 2, 3, 4).double()], -1)


def test_the_error_is_a_cross_entropy_and_hubers_loss_where_there_is_a_box() -> None:
    torch.manual_seed(0)
    outputs, y = 3 * torch.randn(4, 2, 3, 9).double(), targets(4)
    centre = F.binary_cross_entropy_with_logits(outputs[..., 0], y[..., 0], reduction="none")
    marks = F.huber_loss(outputs[..., 1:5], y[..., 1:], reduction="none") * y[..., :1]
    torch.testing.assert_close(Boxes().error(outputs, y), torch.cat([centre[..., None], marks], -1))
    other = outputs.clone()
    other[..., 5:] = 7.0  # scales are no part of it
    torch.testing.assert_close(Boxes().error(other, y), Boxes().error(outputs, y))
    assert Boxes().error(torch.full((1, 2, 3, 9), 200.0), torch.zeros(1, 2, 3, 5)).isfinite().all()


def test_outputs_are_log_odds_medians_and_scales() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(4, 2, 3, 9).double()
    d = Boxes(df=4.0)(outputs)
    assert torch.equal(d.logits, outputs[..., 0])
    assert torch.equal(d.loc, outputs[..., 1:5])
    torch.testing.assert_close(d.scale, F.softplus(outputs[..., 5:]) + 0.01)
    torch.testing.assert_close(d.df.double(), torch.full_like(d.loc, 4.0))
    assert repr(Boxes()) == "Boxes(df=5)"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="df: expected a number above 2, got 2"):
        Boxes(df=2)
    with pytest.raises(ValueError, match=r"outputs: expected nine for each cell, \(..., G, K, 9\), got \(4, 2, 3, 5\)"):
        Boxes()(torch.zeros(4, 2, 3, 5))
    with pytest.raises(ValueError, match=r"y: expected targets of event shape \(2, 3, 5\)"):
        Boxes().error(torch.zeros(4, 2, 3, 9), torch.zeros(4, 3, 2, 5))
    y = targets(1, 4)
    y[0, 2, 1, 0, 0] = 0.5
    given = bm.points(torch.zeros(4, 1), y[0])
    with pytest.raises(ValueError, match=r"y: expected targets .*, got .* at task 0, point 2"):
        check_support(Boxes(), given)
    with pytest.raises(
        ValueError, match=r"y: expected grids of 0.0 or 1.0 and four edges a cell, got .* at task 0, point 2"
    ):
        check_targets(Boxes()(torch.zeros(1, 4, 2, 3, 9)), given)
