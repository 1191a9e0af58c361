"""Plans: against the best ones where these are known."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.planning import Bounded, Choices, Planner, plan
from bayesmeta.posteriors import BayesianLinear, Transformed
from bayesmeta.randomness import seeded


def drive(x: Tensor) -> Tensor:
    """A point on a line with a speed, pushed: observations (place, speed), one action."""
    return torch.stack([x[..., 1], 0.5 * x[..., 2]], -1)


def near(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
    return -((after[..., 0] - 1).square() + 0.1 * action.square().sum(-1))


def value(actions: Tensor, start: Tensor) -> Tensor:
    state, total = start, torch.zeros(())
    for action in actions.unbind(-2):
        after = state + drive(torch.cat([state, action], -1)[None])[0]
        total, state = total + near(state, action, after), after
    return total


def test_a_plan_comes_near_the_quadratic_optimum() -> None:
    # The best actions by gradient descent on the same return, which is concave.
    start = torch.tensor([[0.0, 0.0], [2.0, -0.3]])
    best = torch.zeros(2, 6, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        lost = -value(best, start).sum()
        lost.backward()  # type: ignore[no-untyped-call]
        return lost

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with seeded(0):
        belief = plan(drive, start, near, Bounded((-3.0,), (3.0,)), horizon=6, candidates=500, elites=30, iterations=12)
    found = Bounded((-3.0,), (3.0,)).best(belief)
    lost = value(best, start) - value(found, start)
    assert (lost < 0.01).all()
    assert (lost > -1e-4).all()


def test_choices_are_the_best_of_all_sequences() -> None:
    def walk(x: Tensor) -> Tensor:  # three actions: left, stay, right
        return x[..., 3:4] - x[..., 1:2]

    def reward(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return -(after[..., 0] - 2.3).abs() - 0.2 * action[..., 2]

    start, actions = torch.tensor([[0.0], [5.0]]), Choices(3)
    with seeded(1):
        chosen = actions.best(plan(walk, start, reward, actions, horizon=4, candidates=300, elites=20, iterations=8))

    def paid(sequence: Tensor, place: float) -> float:
        total = 0.0
        for action in sequence:
            place += float(action[2] - action[0])
            total += -abs(place - 2.3) - 0.2 * float(action[2])
        return total

    for world, place in enumerate((0.0, 5.0)):
        best = max(paid(torch.eye(3)[list(sequence)], place) for sequence in product(range(3), repeat=4))
        assert paid(chosen[world], place) == pytest.approx(best, abs=1e-5)


def test_worlds_of_a_batch_are_planned_each_for_itself() -> None:
    start, limits = torch.tensor([[0.0, 0.0], [2.0, -0.3]]), Bounded((-3.0,), (3.0,))
    with seeded(0):
        together = limits.best(plan(drive, start, near, limits, horizon=5, candidates=400, iterations=10))
    for world in range(2):
        with seeded(1):
            alone = limits.best(
                plan(drive, start[world : world + 1], near, limits, horizon=5, candidates=400, iterations=10)
            )
        assert (
            value(together[world : world + 1], start[world : world + 1]) - value(alone, start[world : world + 1])
        ).abs() < 0.02


def test_functions_that_disagree_make_a_cautious_plan() -> None:
    # Two functions: the push works one way in one, and the other way in the other. Who plans on one of them pushes; who plans on
    # both at once stays, as each gain is the other's loss and a push costs.
    def both(x: Tensor) -> Tensor:
        signs = torch.tensor([1.0, -1.0])[:, None, None]
        return signs[..., None] * x[..., 1:]

    def reward(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after[..., 0] - 0.01 * action.square().sum(-1) - 0.5 * after[..., 0].square()

    limits, start = Bounded((-1.0,), (1.0,)), torch.zeros(1, 1)
    with seeded(0):
        sure = limits.best(plan(lambda x: both(x)[:1], start, reward, limits, horizon=1, candidates=300, iterations=8))
        unsure = limits.best(plan(both, start, reward, limits, horizon=1, candidates=300, iterations=8))
    assert sure.item() > 0.9
    assert abs(unsure.item()) < 0.05


@pytest.mark.parametrize("functions", [None, 8])
def test_a_planner_learns_which_way_its_motor_turns(functions: int | None) -> None:
    # Change = w u with w of either sign, N(0, 1): three steps tell which. Then it stays at the goal.
    torch.manual_seed(0)
    slopes = torch.tensor([[1.0], [-1.0], [0.7]])
    nothing = bm.points([torch.zeros(0, 2)] * 3, [torch.zeros(0, 1)] * 3)
    of_actions = nothing._replace(x=nothing.x[..., 1:])
    linear = BayesianLinear(torch.zeros(1, 1), torch.eye(1), torch.tensor(0.05), of_actions)
    posterior = Transformed(linear, nothing, lambda x: x[..., 1:])

    def reward(observation: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return -(after[..., 0] - 1).square() + 0 * observation[..., 0]

    planner = Planner(posterior, reward, Bounded((-0.5,), (0.5,)), functions, options={"horizon": 4, "iterations": 4})
    place = torch.zeros(3, 1)
    with seeded(0):
        for _ in range(8):
            action = planner.act(place)
            after = place + slopes * action + 0.05 * torch.randn(3, 1)
            planner.tell(place, action, after)
            place = after
    assert ((place - 1).abs() < 0.25).all()


def test_learners_plan_and_bad_input_is_named() -> None:
    learner = bm.MAML(bm.networks.MLP(3, 2), bm.likelihoods.Gaussian())
    planner = Planner(learner(bm.points(torch.rand(5, 3), torch.rand(5, 2))), near, Bounded((-1.0,), (1.0,)))
    assert planner.act(torch.zeros(1, 2)).shape == (1, 1)
    with pytest.raises(ValueError, match="elites: expected at most the 10 candidates, got 16"):
        plan(drive, torch.zeros(1, 2), near, Bounded((-1.0,), (1.0,)), candidates=10)
    with pytest.raises(ValueError, match="reward: expected finite returns"):
        plan(drive, torch.zeros(1, 2), lambda o, a, n: n[..., 0] / 0 * 0, Bounded((-1.0,), (1.0,)))
    with pytest.raises(ValueError, match="horizon"):
        plan(drive, torch.zeros(1, 2), near, Bounded((-1.0,), (1.0,)), horizon=0)


@pytest.mark.parametrize(
    "limits", [(-2.0, 2.0), (("a",), ("b",)), ((1.0,), (2.0, 3.0)), ((), ()), ((float("nan"),), (1.0,))]
)
def test_limits_that_are_none_are_named(limits: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="low and high: expected limits of each number of an action"):
        Bounded(*limits)


def test_observations_and_rewards_of_other_shapes_are_named() -> None:
    learner, limits = bm.MAML(bm.networks.MLP(3, 2), bm.likelihoods.Gaussian()), Bounded((-1.0,), (1.0,))
    posterior = learner(bm.points(torch.rand(5, 3), torch.rand(5, 2)))
    odd: Any
    for odd in (torch.zeros(2), [[0.0, 0.0]]):
        with pytest.raises(ValueError, match=r"observation: expected a tensor \(B, O\)"):
            Planner(posterior, near, limits).act(odd)
    for pays in (lambda o, a, n: n, lambda o, a, n: n[..., :1], lambda o, a, n: 1.0):
        with pytest.raises(ValueError, match="reward: expected a number for each step"):
            plan(drive, torch.zeros(1, 2), pays, limits)


def test_the_mean_that_is_planned_on_is_the_predictions() -> None:
    # Linear posteriors leave out the spread; all others, and those around them, answer by the prediction itself.
    network = bm.networks.MLP(3, 2, hidden=(8,))
    line = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian(0.3))
    scaling = {"x_loc": 0.5, "x_scale": 2.0, "y_loc": [1.0, -3.0], "y_scale": [0.5, 4.0]}
    support, x = bm.points([torch.rand(5, 3)] * 2, [torch.rand(5, 2)] * 2), torch.rand(2, 7, 3)
    for learner in (line, bm.MAML(network, bm.likelihoods.Gaussian()), bm.Changepoints(line, 0.1)):
        for around in (learner, bm.Standardized(learner, **scaling)):
            posterior = around(support)
            torch.testing.assert_close(posterior._mean(x), posterior(x).mean)
