"""A game whose rules change from game to game: what its buttons do and its colours mean is to be found out by playing.

A board of 5 x 5 squares, on which who leaves at one edge comes in at the other. Five buttons: each leads one step north, east,
south or west, or stays, and which does what differs from game to game. Two squares each of five colours: to step on one of a
colour opens the chests, as a key does, on one of another opens a chest: it pays 1 if there was a key, which is then used up. A
third hurts, and costs 1, a fourth bars the way, and one is nothing. A rule book is a permutation of the ways and one of the parts:
120 x 120 of them. It holds for a game of several levels, each with a board of its own.

So there are ten questions, one a button or a colour, with one of five answers each; a step answers one or two of them. To a learner
they are a task (`RuleBooks`), `ExactRules` is the exact posterior by enumeration, and `play` acts as if a guess at the rules were
right, by dynamic programming over the whole board.

Shape letters: B games, Q = 10 questions, W = 5 answers, K rule books.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import permutations, product
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F

from bayesmeta.answers import Functions
from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.distributions import apart
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator as stream
from bayesmeta.tasks.source import TaskSource, shots_per_task, uniform

__all__ = ["Agent", "ExactRules", "Level", "RuleBooks", "play", "questions", "rule_books"]

SIDE, BUTTONS, COLOURS, ANSWERS, COPIES = 5, 5, 5, 5, 2
QUESTIONS = BUTTONS + COLOURS
NORTH, EAST, SOUTH, WEST, STAYS = range(5)
OPENS, PAYS, HURTS, BARS, NOTHING = range(5)
SOONER = 0.99
"""What the same is worth a step later: so that of two ways to it the shorter is taken."""


@cache
def rule_books() -> Tensor:
    """All K = 14,400 rule books, a row each: the answers to the Q questions, ``(K, Q)``."""
    each = list(permutations(range(ANSWERS)))
    return torch.tensor([ways + parts for ways, parts in product(each, each)])


def questions(games: int) -> Tensor:
    """All Q questions of each game as a learner takes them, a 1 in a place of its own: ``(B, Q, Q)``; the buttons first."""
    return torch.eye(QUESTIONS).expand(games, -1, -1)


@cache
def _landing() -> Tensor:
    """The square that each way leads to from each: ``(25, 4)``."""
    row, column = torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE
    north, south, east, west = (row - 1) % SIDE, (row + 1) % SIDE, (column + 1) % SIDE, (column - 1) % SIDE
    return torch.stack([north * SIDE + column, row * SIDE + east, south * SIDE + column, row * SIDE + west], -1)


@final
class RuleBooks(TaskSource):
    """Rule books as tasks: of some questions the answers are known, and all are asked.

    Args:
        books: the numbers of the rule books that take part, rows of `rule_books`; None for all.
        batch: B, rule books in an episode.
        shots: how many of the questions are answered, each at most once, or a range from which each task's number is drawn.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: a number is of no rule book, there is none, or there are more shots than questions.

    Example:
        >>> tasks = RuleBooks(batch=4, shots=3)
        >>> tasks[0].support.y.shape, tasks[0].query.x.shape
        (torch.Size([4, 3]), torch.Size([4, 10, 10]))
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).log_prob(tasks[0].query.y).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        books: Tensor | None = None,
        *,
        batch: int = 64,
        shots: int | tuple[int, int] = (0, QUESTIONS),
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        check_count("batch", batch)
        shots_per_task(shots, 1, torch.Generator())
        if (most := max(shots) if isinstance(shots, (tuple, list)) else shots) > QUESTIONS:
            raise ValueError(f"shots: expected at most the {QUESTIONS} questions that there are, got {most}")
        known = len(rule_books())
        self.books = torch.arange(known) if books is None else books
        if (
            not isinstance(self.books, Tensor)
            or self.books.dtype != torch.long
            or self.books.dim() != 1
            or not self.books.numel()
            or not ((self.books >= 0) & (self.books < known)).all()
        ):
            raise ValueError(
                f"books: expected a tensor (n,) of whole numbers from 0 to {known - 1}, at least one, got {books}; e.g. "
                "torch.arange(500)"
            )
        self.batch, self.shots = batch, shots

    def _numbers(self, generator: torch.Generator) -> Tensor:
        return self.books[torch.randint(len(self.books), (self.batch,), generator=generator)]

    def members(self, index: int) -> Tensor:
        return self._seeded(index, self._numbers)

    def draw(self, generator: torch.Generator) -> Episode:
        y = rule_books()[self._numbers(generator)]
        counts = shots_per_task(self.shots, self.batch, generator)
        most = max(1, int(counts.max()))
        mask = torch.arange(most) < counts[:, None]
        chosen = uniform(self.batch, QUESTIONS, generator=generator).argsort(1)[:, :most]
        x = questions(self.batch)
        support = Points(F.one_hot(chosen, QUESTIONS).to(x) * mask[..., None], y.gather(1, chosen) * mask, mask)
        return Episode(support, Points(x, y, torch.ones_like(y, dtype=torch.bool)))

    def oracle(self, support: Points) -> ExactRules:
        """The exact posterior over the rule books that take part: no learner's mean NLL is lower."""
        return ExactRules(support, rule_books()[self.books])


class ExactRules(Posterior):
    """What answers say of the others, by enumeration: those rule books remain, each as likely, that give all of them.

    Args:
        support: answers to questions ``(B, N, Q)`` that have a 1 in one place.
        books: the rule books that there are, ``(K, Q)``, each as likely; None for all 14,400.

    Raises:
        ValueError: no rule book gives such answers.

    Example:
        >>> east = points(torch.eye(10)[:1], [1], classes=5)  # of the first button
        >>> ExactRules(east)(torch.eye(10)[1:2]).probs
        tensor([[[0.2500, 0.0000, 0.2500, 0.2500, 0.2500]]])
    """

    _of_tasks = ("remain",)

    def __init__(self, support: Points, books: Tensor | None = None) -> None:
        super().__init__(support)
        self.books = (rule_books() if books is None else books).to(support.mask.device)
        everything = torch.ones(len(support.mask), len(self.books), dtype=torch.bool, device=support.mask.device)
        self.remain = self._fitting(everything, support)
        """Which rule books give all answers, ``(B, K)``."""

    def _fitting(self, remain: Tensor, points: Points) -> Tensor:
        for asked, y, there in zip(points.x.argmax(-1).T, points.y.T, points.mask.T, strict=True):
            remain = remain & ((self.books.T[asked] == y[:, None]) | ~there[:, None])
        if not remain.any(1).all():
            raise ValueError("support: expected answers that a rule book gives, got two buttons or colours with one answer")
        return remain

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.remain = self._fitting(self.remain, points)
        return later

    def _predictive(self, x: Tensor, samples: int | None = None) -> Categorical:
        weights = self.remain.to(x)
        given = F.one_hot(self.books, ANSWERS).to(x).flatten(1)
        p = (weights / weights.sum(1, keepdim=True) @ given).unflatten(1, (QUESTIONS, ANSWERS))
        return Categorical(logits=_asked(p, x).log(), validate_args=False)

    def _functions(self, samples: int) -> Functions:
        weights = self.remain.float()
        drawn = torch.multinomial(weights, samples, replacement=True, generator=stream(weights.device)).T  # (S, B)
        books = F.one_hot(self.books[drawn], ANSWERS)

        def ask(x: Tensor, own: bool) -> Categorical:
            each = apart(Categorical(logits=x, validate_args=False), samples).logits if own else x  # type: ignore[attr-defined]
            return Categorical(logits=_asked(books.to(x), each).log(), validate_args=False)

        return ask


def _asked(answers: Tensor, x: Tensor) -> Tensor:
    """Of all questions' answers ``(..., Q, W)`` those at x ``(..., M, Q)``."""
    asked = x.argmax(-1)[..., None].expand(*answers.shape[:-2], -1, answers.shape[-1])
    return answers.gather(-2, asked)


class Level(NamedTuple):
    """Where B games are on their boards."""

    colours: Tensor
    """Of each square, ``(B, 25)``, row by row; 5 has none."""
    place: Tensor
    """The player's square, ``(B,)``."""
    key: Tensor
    """Whether there is a key, ``(B,)``."""

    @classmethod
    def new(cls, games: int, generator: torch.Generator) -> Level:
        """A board with two squares of each colour, the player on one without, no key."""
        order = uniform(games, SIDE**2, generator=generator).argsort(1)
        coloured = torch.full((games, SIDE**2), COLOURS)
        coloured.scatter_(1, order[:, : COLOURS * COPIES], (torch.arange(COLOURS * COPIES) % COLOURS).expand(games, -1))
        return cls(coloured, order[:, -1], torch.zeros(games, dtype=torch.bool))

    def press(self, books: Tensor, button: Tensor) -> tuple[Level, Tensor, Tensor]:
        """What pressing a button ``(B,)`` leads to under rule books ``(B, Q)``.

        Returns the level after it, what it pays ``(B,)``, and which of the questions it answers, ``(B, Q)``.
        """
        way = books.gather(1, button[:, None])[:, 0]
        to = torch.where(way == STAYS, self.place, _landing()[self.place, way.clamp(max=3)])
        colour = self.colours.gather(1, to[:, None])[:, 0]
        touched = (way != STAYS) & (colour < COLOURS)
        asked = BUTTONS + colour.clamp(max=COLOURS - 1)
        part = torch.where(touched, books.gather(1, asked[:, None])[:, 0], NOTHING)
        paid = ((part == PAYS) & self.key).float() - (part == HURTS).float()
        seen = F.one_hot(button, QUESTIONS).bool() | (F.one_hot(asked, QUESTIONS).bool() & touched[:, None])
        key = (self.key | (part == OPENS)) & (part != PAYS)
        return Level(self.colours, torch.where(part == BARS, self.place, to), key), paid, seen

    def values(self, answers: Tensor, steps: int) -> Tensor:
        """What each button is worth, ``(B, 5)``, with so many steps to go, for one who then plays best: dynamic programming.

        Args:
            answers: the probability of each answer to each question, ``(B, Q, W)``, every time anew. With a rule book's own
                answers, of probability 1, this is the best that can be had under it.
            steps: how many, at least 1.
        """
        ways, parts = answers[:, :BUTTONS], answers[:, BUTTONS:]
        blank = F.one_hot(torch.tensor([NOTHING]), ANSWERS).to(answers).expand(len(answers), -1, -1)
        squares = torch.cat([parts, blank], 1).gather(1, self.colours[..., None].expand(-1, -1, ANSWERS))
        opens, pays, hurts, bars, nothing = squares[:, None].unbind(-1)  # (B, 1, 25) each
        owned = torch.arange(2).to(answers)[:, None]  # without a key and with it
        best = answers.new_zeros(len(answers), 2, SIDE**2)
        for _ in range(steps):
            without, holding = best[:, :1], best[:, 1:]
            entered = opens * holding + pays * (owned + without) + hurts * (best - 1) + nothing * best
            to = _landing()
            moved = entered[..., to] + bars[..., to] * best[..., None]
            led = torch.cat([moved, best[..., None]], -1)  # (B, 2, 25, W), by ways
            worth = SOONER * torch.einsum("bksw,baw->bksa", led, ways)
            best = worth.amax(-1)
        rows = torch.arange(len(answers))
        return worth[rows, self.key.long(), self.place]


Agent: TypeAlias = Callable[[Points], Tensor]
"""A guess at the rules, as probabilities ``(B, Q, W)`` of the answers, given those seen: all questions, the mask says which."""


def play(
    agent: Agent | None, books: Tensor, *, levels: int = 5, steps: int = 8, generator: torch.Generator
) -> Tensor:
    """What each level of B games pays, ``(B, levels)``, to one who plays best by a guess at the rules.

    The agent guesses at the beginning of a level, and whenever something new was seen. The true rules' answers as a guess are
    the best play, a posterior's mean is certainty-equivalent play, and a draw from it, made of 0 and 1, is Thompson's.

    Args:
        agent: makes the guess; None presses buttons at random.
        books: the true rules, ``(B, Q)``, rows of `rule_books`.
        levels: how many there are in a game.
        steps: of a level.
        generator: of the boards, and of buttons at random: the same for two agents to play on the same boards.

    Raises:
        ValueError: rules or guesses have another shape, or a count is not at least 1.

    Example:
        >>> books = rule_books()[:3]
        >>> knowing = lambda known: torch.nn.functional.one_hot(books, 5).float()
        >>> play(knowing, books, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 5])
    """
    check_count("levels", levels)
    check_count("steps", steps)
    if not isinstance(books, Tensor) or books.dim() != 2 or books.shape[1] != QUESTIONS or not len(books):
        got = tuple(books.shape) if isinstance(books, Tensor) else type(books).__name__
        raise ValueError(f"books: expected rule books (B, {QUESTIONS}), got {got}; take rows of rule_books()")
    known = torch.zeros_like(books, dtype=torch.bool)
    paid = torch.zeros(len(books), levels)
    for number in range(levels):
        level = Level.new(len(books), generator)
        chance = torch.randint(BUTTONS, (steps, len(books)), generator=generator)
        news = torch.ones(len(books), dtype=torch.bool)
        guess = torch.zeros(len(books), QUESTIONS, ANSWERS)
        for step in range(steps):
            button = chance[step]
            if agent is not None:
                if news.any():
                    made = agent(Points(questions(len(books)), books * known, known))
                    if made.shape != guess.shape or not made.isfinite().all():
                        raise ValueError(
                            f"agent: expected finite probabilities {tuple(guess.shape)}, got {tuple(made.shape)}; give one "
                            "of each answer to each question"
                        )
                    guess = torch.where(news[:, None, None], made.to(guess), guess)
                button = level.values(guess, steps - step).argmax(1)
            level, reward, seen = level.press(books, button)
            paid[:, number] += reward
            news = (seen & ~known).any(1)
            known = known | seen
    return paid
