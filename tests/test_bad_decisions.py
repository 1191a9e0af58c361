"""What cannot be decided on: bad posteriors, arms, rules and plans are named, and nothing is silently wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.bandits import greedy, knowledge_gradient, look_ahead, play, thompson
from bayesmeta.planning import Bounded, Planner, plan
from bayesmeta.randomness import seeded
from bayesmeta.tasks import Bandits, ExactRules, RuleBooks, games, rule_books

NAN = float("nan")
SOURCE = Bandits([0.0, 0.0], torch.eye(2), batch=3, arms=4)
ARMS, VALUES = SOURCE.known(0)
PRIOR = SOURCE.oracle(bm.points([torch.zeros(0, 2)] * 3, [torch.zeros(0, 1)] * 3))
LEARNER = bm.ALPaCA(nn.Identity(), nn.Linear(3, 1), bm.likelihoods.Gaussian())
LABELS = bm.PrototypicalNetwork(nn.Identity(), 2)(bm.points([torch.rand(4, 2)] * 3, [[0, 1, 0, 1]] * 3, classes=2))
TWO = bm.ALPaCA(nn.Identity(), nn.Linear(2, 2), bm.likelihoods.Gaussian())(
    bm.points([torch.zeros(0, 2)] * 3, [torch.zeros(0, 2)] * 3)
)


def pull(chosen: Tensor) -> Tensor:
    return VALUES.gather(1, chosen[:, None])[:, 0]


def played(posterior: Any = PRIOR, arms: Any = ARMS, pull: Any = pull, choose: Any = thompson) -> Tensor:
    with seeded(0):
        return play(posterior, arms, pull, 3, choose)


def always(value: Any) -> Callable[..., Any]:
    return lambda *_: value


Bad = tuple[Callable[[], object], str]
# name: (what is done, what the error says)
BANDITS: dict[str, Bad] = {
    "a learner": (lambda: played(LEARNER), "posterior: expected what a learner says after a support, got ALPaCA"),
    "labels": (lambda: played(LABELS), "posterior: expected one real target"),
    "two targets": (lambda: greedy(TWO, ARMS, 1), r"posterior: expected one real target.* of \(2,\)"),
    "two targets ahead": (lambda: look_ahead(TWO, ARMS, 1), "posterior: expected one real target"),
    "no arm": (lambda: played(arms=ARMS[:, :0]), "arms: expected .* at least one arm"),
    "no pull": (lambda: played(pull=None), "pull: expected a function"),
    "NaN paid": (lambda: played(pull=lambda c: pull(c) * NAN), "pull: expected what each task's arm paid .* NaN"),
    "no choice": (lambda: played(choose="greedy"), "choose: expected a function .*, got str"),
    "an arm from behind": (lambda: played(choose=always(torch.tensor([-1, 0, 0]))), "choose: expected arms from 0 to 3"),
    "an arm that is not there": (lambda: played(choose=always(torch.tensor([4, 0, 0]))), "choose: expected arms from 0 to 3"),
    "one choice for all": (lambda: played(choose=always(torch.tensor([0]))), "choose: expected arms"),
    "negative noise": (lambda: knowledge_gradient(torch.zeros(1, 2), torch.eye(2)[None], -torch.ones(1, 2)), "variances of at least 0, got -1"),
    "negative variance": (lambda: knowledge_gradient(torch.zeros(1, 2), -torch.eye(2)[None], torch.ones(1, 2)), "variances of at least 0, got -1"),
    "NaN mean": (lambda: knowledge_gradient(torch.full((1, 2), NAN), torch.eye(2)[None], torch.ones(1, 2)), "expected finite numbers"),
    "one task without B": (lambda: knowledge_gradient(torch.zeros(2), torch.eye(2), torch.ones(2)), r"expected \(B, A\)"),
    "NaN in a prior": (lambda: Bandits([NAN], torch.eye(1)), "mean: expected finite numbers"),
    "infinity in a prior": (lambda: Bandits([0.0], [[math.inf]]), "covariance: expected a symmetric positive definite"),
    "text in a prior": (lambda: Bandits("a", torch.eye(1)), "mean: expected numbers"),
    "a length of NaN": (lambda: Bandits([0.0], torch.eye(1), length=NAN), "length: expected a whole number"),  # type: ignore[arg-type]
    "no number of an episode": (lambda: SOURCE[1.5], "index: expected an episode's number, got 1.5"),  # type: ignore[index]
    "an oracle of other features": (lambda: SOURCE.oracle(bm.points(torch.zeros(3, 3), torch.zeros(3, 1))), "support: expected 2 features and one real target"),
    "an oracle of labels": (lambda: bm.tasks.LinearGaussian().oracle(bm.points([0.0], [0], classes=2)), "support: expected one feature and one real target"),
    "an oracle of nothing": (lambda: bm.tasks.Sinusoids(noise=0.1).oracle(3), "support: expected Points"),  # type: ignore[arg-type]
    "no question": (lambda: bm.chained(PRIOR, torch.zeros(3, 0, 2), 2), "x: expected at least one question"),
}  # fmt: skip


@pytest.mark.parametrize("name", BANDITS)
def test_bad_bandits(name: str) -> None:
    done, said = BANDITS[name]
    with pytest.raises((ValueError, TypeError), match=said):
        done()


def test_arms_and_payments_may_be_arrays_lists_and_whole_numbers() -> None:
    expected = played()
    assert torch.equal(played(arms=ARMS.tolist()), expected)
    assert torch.equal(played(arms=ARMS.double().numpy(), pull=lambda c: pull(c).tolist()), expected)
    whole = [played(pull=always(torch.ones(3, dtype=dtype))) for dtype in (torch.long, torch.float)]
    assert torch.equal(*whole)


def test_rounding_below_zero_of_a_known_arm_tells_nothing() -> None:
    covariance = torch.diag(torch.tensor([1.0, 0.5, -1e-9]))[None]
    covariance[0, 2, 0] = covariance[0, 0, 2] = 1e-8
    found = knowledge_gradient(torch.zeros(1, 3), covariance, torch.zeros(1, 3))
    assert found[0, 2] == 0
    assert (found[0, :2] < 0.4).all()


RULES = rule_books()[:3]
KNOWN = F.one_hot(RULES, 5).float()
FIRST = bm.points(torch.eye(10)[:1], [1], classes=5)


def game(agent: Any, books: Any = RULES) -> Tensor:
    return games.play(agent, books, levels=1, steps=2, generator=torch.Generator().manual_seed(0))


RULE_BOOKS: dict[str, Bad] = {
    "no points": (lambda: ExactRules(3), "support: expected Points, got int"),  # type: ignore[arg-type]
    "two questions in one": (lambda: ExactRules(bm.points(torch.ones(1, 10), [1], classes=5)), r"support\.x: expected questions with a 1"),
    "asked two in one": (lambda: ExactRules(FIRST)(torch.ones(1, 1, 10)), "x: expected questions with a 1 in one place"),
    "told an answer of another game": (lambda: ExactRules(FIRST).update(bm.points(torch.eye(10)[1:2], [7], classes=8)), "points: .* answers up to 4.* up to 7"),
    "told against": (lambda: ExactRules(FIRST).update(bm.points(torch.eye(10)[1:2], [1], classes=5)), "points: expected answers that a rule book gives"),
    "books of numbers": (lambda: ExactRules(FIRST, torch.arange(3)), r"books: expected rule books.*got torch.int64 \(3,\)"),
    "no permutation": (lambda: game(None, RULES * 0), "books: expected each of 5 ways"),
    "beyond the answers": (lambda: game(None, RULES + 3), "books: expected each of 5 ways"),
    "floating books": (lambda: game(None, RULES.float()), "books: expected rule books"),
    "an agent of arrays": (lambda: game(lambda k: KNOWN.numpy()), "agent: expected finite probabilities .* got ndarray"),
    "an agent of logits": (lambda: game(lambda k: KNOWN - 1), "agent: expected probabilities from 0 to 1"),
    "an agent of counts": (lambda: game(lambda k: 7 * KNOWN), "agent: expected probabilities .* sums from 7 to 7"),
    "no generator": (lambda: games.play(None, RULES, generator=3), "generator: expected a torch.Generator, got int"),  # type: ignore[arg-type]
    "no step": (lambda: games.Level.new(3, torch.Generator()).values(KNOWN, 0), "steps: expected a whole number of at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", RULE_BOOKS)
def test_bad_rules(name: str) -> None:
    done, said = RULE_BOOKS[name]
    with pytest.raises((ValueError, TypeError), match=said):
        done()


def test_rules_are_the_callers_copy_and_whole_questions_have_whole_probabilities() -> None:
    rule_books().fill_(0)
    assert len(rule_books().unique(dim=0)) == 14_400
    numbers = torch.arange(3)
    tasks = RuleBooks(numbers, batch=4)
    before = tasks[0].query.y
    numbers.fill_(700)
    assert torch.equal(tasks[0].query.y, before)
    whole = ExactRules(bm.points(torch.eye(10).long()[:1], [1], classes=5, whole=True))
    torch.testing.assert_close(whole(torch.eye(10).long()).probs, ExactRules(FIRST)(torch.eye(10)).probs)


LIMITS, PLACE = Bounded((-1.0,), (1.0,)), torch.zeros(1, 2)
CHANGES = bm.ALPaCA(nn.Identity(), nn.Linear(3, 2), bm.likelihoods.Gaussian())(
    bm.points(torch.zeros(0, 3), torch.zeros(0, 2))
)


def near(before: Tensor, action: Tensor, after: Tensor) -> Tensor:
    return -after.square().sum(-1)


def drive(x: Tensor) -> Tensor:
    return x[..., 2:].expand(*x.shape[:-1], 2)


def planned(
    change: Any = drive, observation: Any = PLACE, reward: Any = near, actions: Any = LIMITS, **more: Any
) -> Tensor:
    return plan(
        change, observation, reward, actions, **{"horizon": 2, "candidates": 8, "elites": 2, "iterations": 1, **more}
    )


def agent(posterior: Any = CHANGES, actions: Any = LIMITS, **more: Any) -> Planner:
    return Planner(posterior, near, actions, **{"options": {"horizon": 2, "candidates": 20}, **more})


PLANS: dict[str, Bad] = {
    "one number for O": (lambda: planned(lambda x: x[..., :1]), r"change: expected changes \(S, B, C, O\)"),
    "no functions": (lambda: planned(lambda x: drive(x)[0]), r"change: expected changes .* got \(1, 8, 2\)"),
    "NaN that rewards hide": (lambda: planned(lambda x: drive(x) * NAN, reward=lambda o, a, n: a.sum(-1)), "reward: expected finite returns"),
    "NaN before": (lambda: planned(observation=PLACE * NAN), "observation: expected finite numbers"),
    "no world": (lambda: planned(observation=PLACE[:0]), r"observation: expected a tensor \(B, O\)"),
    "no actions": (lambda: planned(actions=(-1.0, 1.0)), "actions: expected Bounded or Choices, got tuple"),
    "a belief of other steps": (lambda: planned(belief=torch.zeros(2, 1, 5, 1)), r"belief: expected .* \(2, 1, 2, 1\) .* got \(2, 1, 5, 1\)"),
    "elsewhere": (lambda: planned(moved=lambda s, c: s[..., :1]), "moved: expected observations"),
    "an array for a reward": (lambda: planned(reward=lambda o, a, n: near(o, a, n).numpy()), "reward: expected a number .* got ndarray"),
    "a learner plans": (lambda: agent(LEARNER), "posterior: expected what a learner says"),
    "an unknown option": (lambda: agent(options={"horizn": 3}), "options: expected a dictionary of horizon, .* got {'horizn': 3}"),
    "no functions to plan on": (lambda: agent(functions=0), "functions: expected a whole number"),
    "told of one number": (lambda: agent().tell(PLACE, torch.zeros(1, 1), torch.zeros(1, 1)), r"after: expected a tensor \(1, 2\), got \(1, 1\)"),
    "told of NaN": (lambda: agent().tell(PLACE, torch.zeros(1, 1), PLACE * NAN), "after: expected finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_bad_plans(name: str) -> None:
    done, said = PLANS[name]
    with pytest.raises((ValueError, TypeError), match=said):
        done()


def test_whole_observations_do_not_round_the_limits_and_limits_of_arrays_compare() -> None:
    limits = Bounded(np.array([0.4]), torch.tensor([0.6]))  # type: ignore[arg-type]
    assert limits == Bounded((0.4,), (float(torch.tensor(0.6)),))
    first = limits.best(planned(observation=PLACE.long(), actions=limits))
    assert ((first >= 0.4 - 1e-6) & (first <= 0.6 + 1e-6)).all()


def test_what_a_planner_is_told_keeps_no_graph() -> None:
    planner = agent()
    planner.tell(PLACE, torch.zeros(1, 1), PLACE + 1)
    assert not planner.posterior(torch.zeros(1, 1, 3)).mean.requires_grad
