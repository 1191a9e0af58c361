"""Meta policy gradients against finite differences of the exact expected return, on a process small enough to enumerate.

A policy θ is adapted by a step of policy gradient and judged by what it then pays. Two objectives are in use:

    drawn:     J(θ) = E_{τ₁ τ₂ ~ p(τ | θ)} V(θ + α ĝ(τ₁, τ₂; θ)),  of the episodes that are drawn to adapt from,
    expected:  J(θ) = V(θ + α ∇V(θ)),                               of as many as one likes,

with V(θ) = E_{τ ~ p(τ | θ)} R(τ) and ĝ the mean of R(τ) ∇ log p(τ | θ). Estimators are judged by their expectation, which is a
sum over all episodes here, so that what is left is bias. Right are E-MAML for the first (Al-Shedivat et al. 2018,
https://arxiv.org/abs/1710.03641; Stadie et al. 2018, https://arxiv.org/abs/1803.01118), and DiCE for the second (Foerster et al.
2018, https://arxiv.org/abs/1802.05098). MAML (Finn et al. 2017, https://arxiv.org/abs/1703.03400) leaves out that θ decides which
episodes are drawn; to first order it also leaves out that θ decides how they are weighed. Its surrogate log π · R has the right
gradient and the wrong second derivative, and that of ProMP, "low variance curvature" (Rothfuss et al. 2019,
https://arxiv.org/abs/1810.06784), trades some of that for less variance.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

STATES, ACTIONS, HORIZON, RATE = 3, 2, 2, 0.7
SPACES = [range(ACTIONS), *[range(STATES), range(ACTIONS)] * (HORIZON - 1)]
PATHS = torch.tensor([[0, *rest] for rest in product(*SPACES)]).unflatten(1, (HORIZON, 2))  # (L, H, 2): state, action
PAIRS = torch.cartesian_prod(*[torch.arange(len(PATHS))] * 2)

DRAW = torch.Generator().manual_seed(0)
MOVES = torch.randn(STATES, ACTIONS, STATES, generator=DRAW, dtype=torch.float64).softmax(-1)
PAYS = torch.randn(STATES, ACTIONS, generator=DRAW, dtype=torch.float64)
THETA = 0.5 * torch.randn(STATES, ACTIONS, generator=DRAW, dtype=torch.float64)

REWARDS = PAYS[PATHS[..., 0], PATHS[..., 1]]  # (L, H)
RETURNS = REWARDS.sum(1)
LUCK = (
    MOVES[PATHS[:, :-1, 0], PATHS[:, :-1, 1], PATHS[:, 1:, 0]].log().sum(1)
)  # log p of the states, which θ does not move


def logs(theta: Tensor) -> Tensor:
    """log π of each action of each path, ``(L, H)``."""
    return theta.log_softmax(1)[PATHS[..., 0], PATHS[..., 1]]


def chances(theta: Tensor) -> Tensor:
    """p(τ | θ) of each path, ``(L,)``."""
    return (logs(theta).sum(1) + LUCK).exp()


def value(theta: Tensor) -> Tensor:
    """V(θ)."""
    return chances(theta) @ RETURNS


def adapted(theta: Tensor, pair: Tensor) -> Tensor:
    """θ after a step on two paths."""
    return theta + RATE * grad(lambda at: (RETURNS * logs(at).sum(1))[pair].mean())(theta)


def drawn(theta: Tensor) -> Tensor:
    both = chances(theta)[PAIRS].prod(1)
    return both @ vmap(lambda pair: value(adapted(theta, pair)))(PAIRS)


def expected(theta: Tensor) -> Tensor:
    return value(theta + RATE * grad(value)(theta))


def differences(objective: Callable[[Tensor], Tensor], size: float = 1e-3) -> Tensor:
    """The gradient by differences of fourth order."""
    found = torch.zeros_like(THETA)
    for place in product(range(STATES), range(ACTIONS)):
        step = torch.zeros_like(THETA)
        step[place] = size
        near = objective(THETA + step) - objective(THETA - step)
        far = objective(THETA + 2 * step) - objective(THETA - 2 * step)
        found[place] = (8 * near - far) / (12 * size)
    return found


def test_all_paths_are_there() -> None:
    assert torch.allclose(chances(THETA).sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-14)
    ahead = torch.zeros(STATES, dtype=torch.float64)
    for _ in range(HORIZON):  # the same value by dynamic programming
        ahead = (THETA.softmax(1) * (PAYS + MOVES @ ahead)).sum(1)
    torch.testing.assert_close(value(THETA), ahead[0], rtol=0, atol=1e-14)


def estimate(*, sampling: bool, second_order: bool = True) -> Tensor:
    """The mean of what one draws: τ₁ and τ₂ under θ, a path τ' under the adapted policy, and the gradient of

    R(τ') (log p(τ' | θ'(θ)) + log p(τ₁ | θ) + log p(τ₂ | θ)),

    each with the weight with which it is drawn, which no gradient goes through.
    """
    theta = THETA.clone().requires_grad_()
    later = vmap(lambda pair: adapted(theta, pair))(PAIRS)
    if not second_order:
        later = theta + (later - theta).detach()
    both = chances(theta)[PAIRS].prod(1).detach()
    after = vmap(chances)(later).detach()  # (pairs, L)
    surrogate = vmap(logs)(later).sum(2)
    if sampling:
        surrogate = surrogate + logs(theta).sum(1)[PAIRS].sum(1)[:, None]
    found: Tensor = torch.autograd.grad((both[:, None] * after * RETURNS * surrogate).sum(), theta)[0]
    return found


def wrong(found: Tensor, exact: Tensor) -> float:
    """The relative error."""
    return ((found - exact).norm() / exact.norm()).item()


def test_the_gradient_with_the_sampling_term_is_that_of_what_is_drawn() -> None:
    exact = differences(drawn)
    torch.testing.assert_close(grad(drawn)(THETA), exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(estimate(sampling=True), exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [{"sampling": False}, {"sampling": False, "second_order": False}])
def test_without_it_or_to_first_order_it_is_another(options: dict[str, bool]) -> None:
    assert wrong(estimate(**options), differences(drawn)) > 0.1


def log_times_return(theta: Tensor) -> Tensor:
    """MAML's: Σ_t log π · R."""
    return chances(theta).detach() @ (RETURNS * logs(theta).sum(1))


def dice(theta: Tensor) -> Tensor:
    """Each reward times the chance of all actions until it, over what that chance was when they were drawn."""
    until = logs(theta).cumsum(1)
    return chances(theta).detach() @ (REWARDS * (until - until.detach()).exp()).sum(1)


def low_variance_curvature(theta: Tensor) -> Tensor:
    """ProMP's: Σ_t (π / π drawn) times the rewards from there on."""
    left = REWARDS.flip(1).cumsum(1).flip(1)
    each = logs(theta)
    return chances(theta).detach() @ (left * (each - each.detach()).exp()).sum(1)


def through(surrogate: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the value after a step along a surrogate's gradient."""
    theta = THETA.clone().requires_grad_()
    (step,) = torch.autograd.grad(surrogate(theta), theta, create_graph=True)
    torch.testing.assert_close(step, grad(value)(THETA), rtol=0, atol=1e-12)  # all have the right first derivative
    found: Tensor = torch.autograd.grad(value(theta + RATE * step), theta)[0]
    return found


def test_dice_has_the_right_second_derivative() -> None:
    exact = differences(expected)
    torch.testing.assert_close(grad(expected)(THETA), exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(through(dice), exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("surrogate", "least"), [(log_times_return, 0.1), (low_variance_curvature, 0.01)])
def test_other_surrogates_have_not(surrogate: Callable[[Tensor], Tensor], least: float) -> None:
    assert wrong(through(surrogate), differences(expected)) > least


def test_to_first_order_the_expected_one_is_wrong_too() -> None:
    step = RATE * grad(value)(THETA)
    assert wrong(grad(value)(THETA + step), differences(expected)) > 0.03
