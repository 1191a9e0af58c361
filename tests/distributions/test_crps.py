"""The CRPS of mixtures of normals against sums over all pairs of components, which are exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from bayesmeta.distributions import crps, mixture


def drawn(components: int, spread: float, unlike: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Log weights, means and standard deviations ``(K, 20)`` and targets ``(20,)``."""
    numbers = torch.Generator().manual_seed(components)
    noise = torch.randn(4, components, 20, generator=numbers, dtype=torch.float64)
    return tuple(part.to(dtype) for part in (noise[0], spread * noise[1], (unlike * noise[2]).exp(), 2 * noise[3, 0]))


def by_pairs(log_weights: Tensor, loc: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    """Σ w_i E|Y_i - y| - ½ Σ w_i w_j E|Y_i - Y_j|, of normals."""

    def distance(mean: Tensor, scale: Tensor) -> Tensor:
        z = mean / scale
        return scale * (math.sqrt(2 / math.pi) * (-z.square() / 2).exp() + z * torch.erf(z / math.sqrt(2)))

    w = log_weights.softmax(0)
    pairs = distance(loc[:, None] - loc, (scale[:, None].square() + scale.square()).sqrt())
    return (w * distance(y - loc, scale)).sum(0) - (w[:, None] * w * pairs).sum((0, 1)) / 2


@pytest.mark.parametrize("components", [8, 64, 150])
@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("unlike", [0.0, 0.4])
def test_nodes_are_as_good_as_pairs(components: int, spread: float, unlike: float) -> None:
    """Few nodes, and where components lie far apart pairs, or of more than 128 as many nodes as resolve them."""
    log_weights, loc, scale, y = drawn(components, spread, unlike)
    found = crps(mixture(Normal(loc, scale), log_weights), y)
    torch.testing.assert_close(found, by_pairs(log_weights, loc, scale, y), rtol=1e-6, atol=1e-6)


def test_single_precision_far_from_zero() -> None:
    log_weights, loc, scale, y = drawn(64, 0.5, 0.2, torch.float32)
    found = crps(mixture(Normal(loc + 64, scale), log_weights), y + 64)
    torch.testing.assert_close(found, crps(mixture(Normal(loc, scale), log_weights), y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("narrow", [1e-2, 1e-9])
def test_a_needle_among_wide_components(narrow: float) -> None:
    log_weights, loc, scale, y = drawn(64, 1.0, 0.1)
    scale[0] = narrow
    found = crps(mixture(Normal(loc, scale), log_weights), y)
    torch.testing.assert_close(found, by_pairs(log_weights, loc, scale, y), rtol=1e-6, atol=1e-6)


def test_gradients_of_nodes_are_those_of_pairs() -> None:
    given = [part.requires_grad_() for part in drawn(64, 0.5, 0.2)]
    slopes = [
        torch.autograd.grad(score(*given).sum(), given)
        for score in (lambda w, m, s, y: crps(mixture(Normal(m, s), w), y), by_pairs)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_no_point_at_all() -> None:
    none = torch.zeros(64, 0)
    assert crps(mixture(Normal(none, none + 1)), none[0]).shape == (0,)


def test_what_is_no_number_stays_none() -> None:
    log_weights, loc, scale, y = drawn(64, 0.5, 0.2)
    loc[3, 5] = torch.nan
    found = crps(mixture(Normal(loc, scale, validate_args=False), log_weights), y)
    assert found.isnan().nonzero().tolist() == [[5]]
