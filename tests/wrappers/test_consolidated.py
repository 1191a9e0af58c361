"""Meta-training on families in turn: the penalty against its definition, and that it holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points


def family(slope: float, seed: int, episodes: int = 30) -> list[Episode]:
    """Lines near y = slope x, three tasks an episode."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int, slopes: Tensor) -> Points:
        x = torch.randn(3, count, 1, generator=generator)
        y = slopes[:, None, None] * x + 0.1 * torch.randn(3, count, 1, generator=generator)
        return Points(x, y, torch.ones(3, count, dtype=torch.bool))

    each = (slope + 0.3 * torch.randn(3, generator=generator) for _ in range(episodes))
    return [Episode(drawn(2, slopes), drawn(5, slopes)) for slopes in each]


def learner(weight: float = 1.0) -> bm.Consolidated:
    torch.manual_seed(0)
    return bm.Consolidated(bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian(), rate=0.1), weight)


def test_before_the_first_family_is_consolidated_the_loss_is_the_learners_own() -> None:
    made, (episode,) = learner(), family(1.0, 0, episodes=1)
    assert torch.equal(made.loss(episode), made.learner.loss(episode))


def test_the_precision_is_the_mean_square_of_each_tasks_gradient_and_adds_up() -> None:
    made, first, second = learner(), family(1.0, 0, episodes=2), family(-1.0, 1, episodes=1)
    expected = torch.zeros(3)
    for episodes in (first, second):
        rows = []
        for episode in episodes:
            for b in range(3):
                task = Episode(*(Points(*(leaf[b : b + 1] for leaf in part)) for part in episode))
                slopes = torch.autograd.grad(made.learner.loss(task), list(made.parameters()))
                rows.append(5 * torch.cat([slope.reshape(-1) for slope in slopes]).square())
        expected = expected + torch.stack(rows).mean(0)
        made.consolidate(episodes, episodes=len(episodes))  # type: ignore[arg-type]
        torch.testing.assert_close(made.precision, expected)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1)
    torch.testing.assert_close(made._parameters_in_a_row() - made.anchor, torch.full((3,), 0.1))
    penalty = made.loss(second[0]) - made.learner.loss(second[0])
    torch.testing.assert_close(penalty, 0.5 * (expected * 0.01).sum(), rtol=1e-3, atol=1e-5)


def test_for_lines_it_is_bayes_rule_of_both_families() -> None:
    """Of a quadratic loss whose curvature the gradients tell, the minimum lies between the families' as precisions say."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.zeros(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.slope

    torch.manual_seed(0)
    likelihood = bm.likelihoods.Gaussian(scale=1.0)
    for parameter in likelihood.parameters():
        parameter.requires_grad_(False)
    made = bm.Consolidated(bm.MAML(Line(), likelihood, steps=0))
    generator = torch.Generator().manual_seed(0)

    def drawn(slope: float) -> list[Episode]:
        x = torch.randn(400, 5, 1, generator=generator)
        given = Points(x, slope * x + torch.randn(400, 5, 1, generator=generator), torch.ones(400, 5, dtype=torch.bool))
        return [Episode(given, given)]

    def trained(episodes: list[Episode]) -> float:
        optimizer = torch.optim.LBFGS([made.learner.network.slope], max_iter=50)  # type: ignore[attr-defined]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = made.loss(episodes[0])
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        return made.learner.network.slope.item()  # type: ignore[attr-defined,no-any-return]

    first, second = drawn(1.0), drawn(3.0)
    assert abs(trained(first) - 1.0) < 0.1
    made.consolidate(first, episodes=1)  # type: ignore[arg-type]
    torch.testing.assert_close(made.precision[0], torch.tensor(1.0), rtol=0.15, atol=0)  # E [x²] / noise² a target
    assert abs(trained(second) - 2.0) < 0.15  # halfway, as both had as many tasks


def test_it_forgets_less_than_plain_further_training() -> None:
    first, second = family(2.0, 0), family(-2.0, 1)
    lost = {}
    for weight in (1e-9, 10.0):
        made = learner(weight)
        for tasks in (first, second):
            bm.fit(made, tasks, steps=100, optimizer=torch.optim.Adam(made.parameters(), 0.03), progress=False)  # type: ignore[arg-type]
            if tasks is first:
                made.consolidate(first, episodes=10)  # type: ignore[arg-type]
                before = bm.evaluate(made, first, episodes=10, progress=False)["NLL"].value  # type: ignore[arg-type]
        lost[weight] = bm.evaluate(made, first, episodes=10, progress=False)["NLL"].value - before  # type: ignore[arg-type]
    assert lost[10.0] < 0.5 * lost[1e-9]


def test_what_is_frozen_is_not_held_and_global_randomness_is_not_touched() -> None:
    made = learner()
    made.learner.likelihood.requires_grad_(False)  # type: ignore[union-attr,operator]
    before = torch.get_rng_state()
    made.consolidate(family(1.0, 0), episodes=2)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert (made.precision > 0).tolist() == [True, True, False]


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="learner: expected a learner such as MAML"):
        bm.Consolidated(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight: expected a number above 0, got 0"):
        learner(0)
    with pytest.raises(ValueError, match="episodes: expected 1 to 3"):
        learner().consolidate(family(1.0, 0, episodes=3), episodes=4)  # type: ignore[arg-type]
    made = learner()
    with torch.no_grad():
        made.learner.network.weight.fill_(1e30)  # type: ignore[union-attr,operator]
    with pytest.raises(
        ValueError, match="tasks: expected finite gradients of the loss, got others at task 0 of episode 0"
    ):
        made.consolidate(family(1.0, 0), episodes=1)  # type: ignore[arg-type]
    assert not made.precision.any()


def test_a_weight_that_is_not_finite_and_a_learner_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected a finite number, got inf"):
        learner(weight=float("inf"))
    with pytest.raises(ValueError, match=r"learner: expected one with parameters, .* got PrototypicalNetwork"):
        bm.Consolidated(bm.PrototypicalNetwork(nn.Identity(), classes=3))
