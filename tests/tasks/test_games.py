"""Games: rules, boards and plans against a plain simulator, the exact player against Bayes by hand."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.randomness import seeded
from bayesmeta.tasks import ExactRules, RuleBooks, rule_books
from bayesmeta.tasks.games import Level, play
from bayesmeta.tasks.rule_books import questions

STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))
State = tuple[int, int, bool]
"""Row, column, and whether there is a key."""


def books(games: int, seed: int = 0) -> Tensor:
    return rule_books()[torch.randint(len(rule_books()), (games,), generator=torch.Generator().manual_seed(seed))]


def certain(given: Tensor) -> Tensor:
    return F.one_hot(given, 5).float()


def pressed(colours: list[list[int]], state: State, book: list[int], button: int) -> tuple[State, float, set[int]]:
    """One game by hand: where a button leads, what it pays, and what it answers."""
    row, column, key = state
    down, right = STEPS[book[button]]
    to = ((row + down) % 5, (column + right) % 5)
    colour = colours[to[0]][to[1]]
    if book[button] == 4:
        return state, 0.0, {button}
    if colour == 5:
        return (*to, key), 0.0, {button}
    part = ("opens", "pays", "hurts", "bars", "nothing")[book[5 + colour]]
    asked = {button, 5 + colour}
    if part == "bars":
        return state, 0.0, asked
    paid = -1.0 if part == "hurts" else 1.0 if part == "pays" and key else 0.0
    return (*to, part == "opens" or (key and part != "pays")), paid, asked


def test_a_rule_book_is_a_way_for_each_button_and_a_part_for_each_colour() -> None:
    found = rule_books()
    assert found.shape == (14_400, 10)
    assert len(found.unique(dim=0)) == 14_400
    for half in (found[:, :5], found[:, 5:]):
        assert torch.equal(half.sort(1).values, torch.arange(5).expand(14_400, 5))


def test_games_go_as_one_by_hand() -> None:
    games, generator = 40, torch.Generator().manual_seed(0)
    rules, level = books(games), Level.new(games, generator)
    states: list[State] = [(p // 5, p % 5, False) for p in level.place.tolist()]
    boards = level.colours.unflatten(1, (5, 5)).tolist()
    for _ in range(60):
        button = torch.randint(5, (games,), generator=generator)
        level, paid, seen = level.press(rules, button)
        for b in range(games):
            states[b], expected, asked = pressed(boards[b], states[b], rules[b].tolist(), int(button[b]))
            assert (level.place[b].item(), level.key[b].item()) == (5 * states[b][0] + states[b][1], states[b][2])
            assert paid[b].item() == expected
            assert set(seen[b].nonzero().flatten().tolist()) == asked


def test_boards_have_two_squares_of_each_colour_and_begin_beside_them() -> None:
    level = Level.new(50, torch.Generator().manual_seed(0))
    assert all(((level.colours == colour).sum(1) == 2).all() for colour in range(5))
    assert (level.colours.gather(1, level.place[:, None]) == 5).all()
    assert len(level.place.unique()) > 15
    assert not level.key.any()


def test_values_are_the_best_of_all_sequences() -> None:
    # Of a known rule book every sequence of four buttons is tried; a step later the same is worth 1 % less.
    games = 6
    rules, level = books(games, 1), Level.new(games, torch.Generator().manual_seed(3))
    level = level._replace(key=torch.tensor([True, False] * 3))
    found = level.values(certain(rules), 4)
    boards = level.colours.unflatten(1, (5, 5)).tolist()
    for b in range(games):
        best = [float("-inf")] * 5
        for sequence in product(range(5), repeat=4):
            state: State = (int(level.place[b]) // 5, int(level.place[b]) % 5, bool(level.key[b]))
            total = 0.0
            for step, button in enumerate(sequence):
                state, paid, _ = pressed(boards[b], state, rules[b].tolist(), button)
                total += 0.99 ** (step + 1) * paid
            best[sequence[0]] = max(best[sequence[0]], total)
        torch.testing.assert_close(found[b], torch.tensor(best))
    assert found.abs().sum() > 1


def test_values_under_doubt_are_expectations() -> None:
    # Two ways for each button and two parts for each colour: the value by recursion over what may happen, each time anew.
    first, second = books(2, 5), books(2, 6)
    answers = 0.3 * certain(first) + 0.7 * certain(second)
    level = Level.new(2, torch.Generator().manual_seed(1))
    found = level.values(answers, 3)
    for b in range(2):
        board, given = level.colours[b].unflatten(0, (5, 5)).tolist(), answers[b].tolist()

        @cache
        def worth(state: State, steps: int, board: Any = board, given: Any = given) -> float:
            return max(of(state, button, steps, board, given) for button in range(5)) if steps else 0.0

        def of(state: State, button: int, steps: int, board: Any, given: Any) -> float:
            total = 0.0
            for way in range(5):
                down, right = STEPS[way]
                colour = board[(state[0] + down) % 5][(state[1] + right) % 5]
                for part in range(5):
                    p = given[button][way] * (given[5 + colour][part] if colour < 5 else part == 4)
                    if p:
                        book = [way] * 5 + [part] * 5
                        after, paid, _ = pressed(board, state, book, button)
                        total += p * 0.99 * (paid + worth(after, steps - 1))
            return total

        begin: State = (int(level.place[b]) // 5, int(level.place[b]) % 5, False)
        torch.testing.assert_close(found[b], torch.tensor([of(begin, a, 3, board, given) for a in range(5)]))


def test_the_exact_posterior_is_bayes_by_hand() -> None:
    tasks = RuleBooks(batch=12, shots=(0, 7), seed=3)
    support, query = tasks[0]
    found = ExactRules(support)(query.x).probs
    told = ExactRules(support._replace(mask=torch.zeros_like(support.mask))).update(support)(query.x).probs
    torch.testing.assert_close(told, found)
    for b in range(12):
        known = {
            int(x.argmax()): int(y)
            for x, y, there in zip(support.x[b], support.y[b], support.mask[b], strict=True)
            if there
        }
        counts, remain = torch.zeros(10, 5), 0
        ways = [p for p in permutations(range(5)) if all(p[q] == y for q, y in known.items() if q < 5)]
        parts = [p for p in permutations(range(5)) if all(p[q - 5] == y for q, y in known.items() if q >= 5)]
        for book in product(ways, parts):
            counts[range(10), book[0] + book[1]] += 1
            remain += 1
        torch.testing.assert_close(found[b], counts / remain)


def test_draws_of_the_exact_posterior_are_whole_rule_books_that_remain() -> None:
    tasks = RuleBooks(batch=3, shots=4, seed=1)
    support, query = tasks[0]
    with seeded(0):
        drawn = ExactRules(support).functions(4000)
        found = drawn(query.x).probs
        own = drawn(query.x.expand(4000, -1, -1, -1)).probs
    torch.testing.assert_close(own, found)
    y = found.argmax(-1)
    for half in (y[..., :5], y[..., 5:]):
        assert (half.sort(-1).values == torch.arange(5)).all()
    assert (y.gather(-1, support.x.argmax(-1).expand(4000, -1, -1)) == support.y).all()
    torch.testing.assert_close(
        found.mean(0), ExactRules(support)(query.x).probs, atol=0.04, rtol=0.0
    )  # five deviations


def test_episodes_depend_on_arguments_seed_and_number() -> None:
    tasks = RuleBooks(torch.arange(100, 200), batch=7, shots=(0, 10), seed=5)
    for first, second in zip(tasks[9], RuleBooks(torch.arange(100, 200), batch=7, seed=5)[9], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(tasks[9].query.y, tasks[10].query.y)
    assert torch.equal(rule_books()[tasks.members(9)], tasks[9].query.y)
    assert ((tasks.members(9) >= 100) & (tasks.members(9) < 200)).all()
    support, query = tasks[9]
    asked = support.x.argmax(-1)
    assert (query.y.gather(1, asked) == support.y)[support.mask].all()
    assert (support.x.sum(1) <= 1).all(), "a question is answered once at most"


def test_who_knows_more_plays_better() -> None:
    # A hundred games; the differences are many of standard errors.
    rules, every = books(100, 7), questions(100)

    def paid(agent: Any) -> Tensor:
        with seeded(0):
            return play(agent, rules, levels=3, generator=torch.Generator().manual_seed(2)).mean(0)

    oracle = paid(lambda known: certain(rules))
    draws = paid(lambda known: ExactRules(known).functions(1)(every).probs[0])
    mean = paid(lambda known: ExactRules(known)(every).probs)
    chance = paid(None)
    assert torch.equal(oracle, paid(lambda known: certain(rules)))
    assert oracle[2] - 0.3 < draws[2] <= oracle[2] + 0.05
    assert draws[0] + 1 < draws[2]
    assert mean[2] + 1 < draws[2]
    assert chance[2] + 0.3 < mean[2]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="books: expected a tensor"):
        RuleBooks(torch.tensor([14_400]))
    with pytest.raises(ValueError, match="books: expected a tensor"):
        RuleBooks(torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="shots: expected at most the 10 questions"):
        RuleBooks(shots=(0, 11))
    with pytest.raises(ValueError, match="batch"):
        RuleBooks(batch=0)
    with pytest.raises(ValueError, match="expected answers that a rule book gives"):
        ExactRules(bm.points(torch.eye(10)[:2], [3, 3], classes=5))
    with pytest.raises(ValueError, match="expected questions"):
        ExactRules(bm.points(torch.eye(9)[:2], [3, 1], classes=5))
    with pytest.raises(ValueError, match="answers from 3 up to 5"):
        ExactRules(bm.points(torch.eye(10)[:2], [3, 5], classes=6))
    generator = torch.Generator()
    with pytest.raises(ValueError, match="books: expected rule books"):
        play(None, torch.zeros(3, 9, dtype=torch.long), generator=generator)
    with pytest.raises(ValueError, match="levels"):
        play(None, books(2), levels=0, generator=generator)
    with pytest.raises(ValueError, match="agent: expected finite probabilities"):
        play(lambda known: torch.zeros(2, 10), books(2), generator=generator)
