"""A Gaussian over what tasks share, against Bayes' rule and by hand."""

from __future__ import annotations

from typing import final

import pytest
import torch
from test_contract import build, episode
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import bayesmeta as bm
from bayesmeta import Episode, Learner, Points, Posterior
from bayesmeta.randomness import seeded


@final
class Quadratic(Learner):
    """Whose tasks' loss is ½ λ (w - a)², λ and a told by the first two points' targets."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start)

    def forward(self, support: Points) -> Posterior:
        raise NotImplementedError

    def loss(self, episode: Episode) -> Tensor:
        precision, place = episode.query.y[0, :2].unbind(0)
        return 0.5 * (precision * (self.w - place).square()).sum()


def family(precision: list[float], place: list[float]) -> list[Episode]:
    y = torch.tensor([[precision, place]], dtype=torch.float64)
    given = Points(torch.zeros(1, 2, 1, dtype=torch.float64), y, torch.ones(1, 2, dtype=torch.bool))
    return [Episode(given, given)]


def test_two_families_lead_to_the_posterior_of_both_by_bayes_rule() -> None:
    """Of quadratic losses q is exact: precisions add up, and means are weighed by them. Noise of the draws alone is left."""
    start = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    learner = bm.ConsolidatedVI(Quadratic(start.clone()).double(), targets=20, scale=0.1, prior_scale=0.5).double()
    precision, mean = torch.full_like(start, 4.0), start
    for lam, place in (([1.0, 0.1, 3.0], [0.5, 0.5, -1.0]), ([0.2, 2.0, 0.1], [-1.0, 1.0, 2.0])):
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.03)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6000)
        (given,) = family(lam, place)
        with seeded(0):
            for _ in range(6000):
                optimizer.zero_grad()
                learner.loss(given).backward()
                optimizer.step()
                scheduler.step()
        learner.consolidate()
        added = 20 * torch.tensor(lam, dtype=torch.float64)
        mean = (precision * mean + added * torch.tensor(place, dtype=torch.float64)) / (precision + added)
        precision = precision + added
        torch.testing.assert_close(learner.anchor_log_scale.exp(), precision.rsqrt(), rtol=0.03, atol=0)
        assert ((learner.anchor - mean).abs() < 0.1 * precision.rsqrt()).all()


def test_the_loss_is_that_of_a_draw_and_the_divergence_by_targets() -> None:
    learner, given = build("Consolidated, variational", "gaussian"), episode("gaussian")
    assert isinstance(learner, bm.ConsolidatedVI)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.01)
        learner.anchor_log_scale.add_(torch.linspace(-1.0, 0.0, len(learner.anchor)))
    expected = kl_divergence(
        Normal(torch.cat([p.reshape(-1) for p in learner.learner.parameters()]), learner.log_scale.exp()),
        Normal(learner.anchor, learner.anchor_log_scale.exp()),
    ).sum()
    torch.testing.assert_close(learner.divergence(), expected)
    with seeded(3):
        noise = bm.randomness.standard_normal(len(learner.anchor), like=learner.anchor)
    with seeded(3):
        found = learner.loss(given)
    first, other = 0, build("Consolidated, variational", "gaussian").learner  # type: ignore[union-attr]
    with torch.no_grad():
        for (_, own), parameter in zip(learner.learner.named_parameters(), other.parameters(), strict=True):  # type: ignore[union-attr]
            part = slice(first, first := first + own.numel())
            parameter.copy_(own + (learner.log_scale.exp() * noise)[part].view_as(own))
    torch.testing.assert_close(found, other.loss(given) + expected / 50)


def test_what_is_frozen_is_no_part_of_the_gaussian() -> None:
    inner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    inner.network.features.requires_grad_(False)
    learner = bm.ConsolidatedVI(inner, targets=5)
    assert len(learner.anchor) == sum(p.numel() for p in inner.parameters() if p.requires_grad)
    before = [p.clone() for p in inner.network.features.parameters()]
    bm.fit(learner, bm.tasks.Sinusoids(), steps=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, inner.network.features.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": 0}, "targets: expected"),
        ({"targets": 5, "scale": 0.0}, "scale: expected"),
        ({"targets": 5, "prior_scale": float("inf")}, "prior_scale: expected"),
    ],
)
def test_bad_input(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bm.ConsolidatedVI(bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian()), **arguments)  # type: ignore[arg-type]


def test_other_things_than_learners_with_weights_are_refused() -> None:
    with pytest.raises(TypeError, match="learner: expected a learner"):
        bm.ConsolidatedVI(nn.Linear(1, 1), targets=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learner: expected parameters to train"):
        bm.ConsolidatedVI(bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian()).requires_grad_(False), targets=5)
