"""A game whose rules change from game to game: what its buttons do and its colours mean is to be found out by playing.

On a board of 5 x 5 squares, who leaves at one edge comes in at the other. Five buttons: each leads one step north, east, south
or west, or stays, and which does what differs from game to game. Two squares each of five colours: to step on the first is to
take a key; on the second a key is used up and pays 1, and without one nothing happens; the third hurts, and costs 1; the fourth
bars the way, and one is nothing. Which colour plays which part differs too. So a rule book is a permutation of the ways and one
of the parts, of which there are 120 x 120. It holds for a game of several levels, each with a board of its own.

There are ten questions then, one a button or a colour, with one of five answers each; a step answers one or two of them. To a
learner they are a task (`RuleBooks`), `ExactRules` is the exact posterior by enumeration, and `play` acts as if a guess at the
rules were right, by dynamic programming over the whole board.

Shape letters: B games, Q = 10 questions, W = 5 answers, K rule books.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from bayesmeta.border import check_count, check_function
from bayesmeta.data import Points
from bayesmeta.tasks.rule_books import ANSWERS, BUTTONS, COLOURS, QUESTIONS, check_books, questions
from bayesmeta.tasks.source import uniform

__all__ = ["Agent", "Level", "play"]

SIDE, COPIES = 5, 2
NORTH, EAST, SOUTH, WEST, STAYS = range(5)
OPENS, PAYS, HURTS, BARS, NOTHING = range(5)
SOONER = 0.99
"""What the same is worth a step later: so that of two ways to it the shorter is taken."""


@cache
def _landing() -> Tensor:
    """The square that each way leads to from each: ``(25, 4)``."""
    row, column = torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE
    north, south, east, west = (row - 1) % SIDE, (row + 1) % SIDE, (column + 1) % SIDE, (column - 1) % SIDE
    return torch.stack([north * SIDE + column, row * SIDE + east, south * SIDE + column, row * SIDE + west], -1)


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
        check_count("steps", steps)
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


def _check_guess(made: Any, shape: torch.Size) -> None:
    """Raises a ValueError unless a guess is made of probabilities ``(B, Q, W)``, which sum to 1."""
    if not isinstance(made, Tensor) or made.shape != shape or not made.isfinite().all():
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"agent: expected finite probabilities {tuple(shape)}, got {got}; give one of each answer to each question, a tensor"
        )
    sums = made.sum(-1)
    if (made < 0).any() or ((sums - 1).abs() > 1e-3).any():
        raise ValueError(
            f"agent: expected probabilities from 0 to 1 whose sum over answers is 1, got numbers from {made.min().item():.3g} "
            f"with sums from {sums.min().item():.3g} to {sums.max().item():.3g}; normalise them, e.g. logits.softmax(-1)"
        )


def play(agent: Agent | None, books: Tensor, *, levels: int = 5, steps: int = 8, generator: torch.Generator) -> Tensor:
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
        TypeError: the agent cannot be called, or there is no generator.
        ValueError: rules are no rule books, guesses have another shape or are no probabilities, or a count is not at least 1.

    Example:
        >>> books = rule_books()[:3]
        >>> knowing = lambda known: torch.nn.functional.one_hot(books, 5).float()
        >>> play(knowing, books, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 5])
    """
    check_count("levels", levels)
    check_count("steps", steps)
    check_books(books)
    if agent is not None:
        check_function("agent", agent, "from points to probabilities (B, Q, W)")
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, got {type(generator).__name__}; e.g. torch.Generator().manual_seed(0)"
        )
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
                    made = agent(Points(questions(len(books)), books * known, known.clone()))
                    _check_guess(made, guess.shape)
                    guess = torch.where(news[:, None, None], made.to(guess), guess)
                button = level.values(guess, steps - step).argmax(1)
            level, reward, seen = level.press(books, button)
            paid[:, number] += reward
            news = (seen & ~known).any(1)
            known = known | seen
    return paid
