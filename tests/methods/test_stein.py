"""The direction of Stein variational gradient descent against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from bayesmeta.functional import stein_direction

DOUBLE = torch.float64


def test_direction_is_the_kernel_sum_with_its_own_gradient() -> None:
    """By automatic differentiation of the kernel itself, with the bandwidth held."""
    torch.manual_seed(0)
    particles, scores = torch.randn(2, 4, 3, dtype=DOUBLE)
    pairs = [(particles[i] - particles[j]).square().sum() for i in range(4) for j in range(4) if i != j]
    bandwidth = torch.stack(pairs).sort().values[6] / math.log(4)
    for i in range(4):
        expected = torch.zeros(3, dtype=DOUBLE)
        for j in range(4):
            at = particles[j].clone().requires_grad_()
            kernel = torch.exp(-(at - particles[i]).square().sum() / bandwidth)
            expected += kernel.detach() * scores[j] + torch.autograd.grad(kernel, at)[0]
        torch.testing.assert_close(stein_direction(particles, scores)[i], expected / 4)


def test_particles_find_a_gaussian() -> None:
    """Fifty particles in one dimension: SVGD's moments are near the target's, with the bias of few particles."""
    torch.manual_seed(0)
    particles = torch.randn(50, 1, dtype=DOUBLE)
    for _ in range(2000):
        particles = particles + 0.1 * stein_direction(particles, -(particles - 2.0) / 0.25)
    assert abs(particles.mean().item() - 2.0) < 0.01
    assert abs(particles.std().item() - 0.5) < 0.05


def test_particles_that_coincide_stay_finite() -> None:
    particles = torch.ones(3, 2, requires_grad=True)
    direction = stein_direction(particles, torch.ones(3, 2))
    torch.testing.assert_close(direction, torch.ones(3, 2))
    direction.sum().backward()
    assert particles.grad is not None
    assert particles.grad.isfinite().all()


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("far", [0.01, 1.0, 1000.0])
def test_float32_is_enough_where_one_particle_is_far_from_the_rest(spread: float, far: float) -> None:
    torch.manual_seed(0)
    particles, scores = spread * torch.randn(5, 1000) + 1, torch.randn(5, 1000)
    particles[-1] += far * torch.randn(1000)
    exact = stein_direction(particles.double(), scores.double())
    assert (stein_direction(particles, scores) - exact).norm() < 1e-3 * exact.norm()
