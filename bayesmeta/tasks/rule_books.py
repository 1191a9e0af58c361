"""Rule books of a game as tasks: what each button does and each colour means, and the exact posterior over them.

Five buttons, each with a way of its own, and five colours, each with a part of its own: `bayesmeta.tasks.games` has the game. So
a rule book is two permutations, of which there are 120 x 120, and has ten questions, one a button or a colour, with one of five
answers each.

Shape letters: B games, Q = 10 questions, W = 5 answers, K rule books.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F

from bayesmeta.answers import Functions
from bayesmeta.border import check_count, check_shapes, readable
from bayesmeta.data import Episode, Points
from bayesmeta.distributions import apart
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator as stream
from bayesmeta.tasks.source import TaskSource, shots_per_task, uniform

__all__ = ["ANSWERS", "BUTTONS", "COLOURS", "QUESTIONS", "ExactRules", "RuleBooks", "questions", "rule_books"]

BUTTONS, COLOURS, ANSWERS = 5, 5, 5
QUESTIONS = BUTTONS + COLOURS


def rule_books() -> Tensor:
    """All K = 14,400 rule books, a row each: the answers to the Q questions, ``(K, Q)``; a copy, which is the caller's own."""
    return _rule_books().clone()


@cache
def _rule_books() -> Tensor:
    each = list(permutations(range(ANSWERS)))
    return torch.tensor([ways + parts for ways, parts in product(each, each)])


def check_books(books: Any) -> None:
    """Raises a ValueError unless these are rule books ``(n, Q)``, one at least."""
    fits = isinstance(books, Tensor) and books.dtype == torch.long and books.dim() == 2 and books.shape[1] == QUESTIONS
    if not fits or not len(books):
        got = f"{books.dtype} {tuple(books.shape)}" if isinstance(books, Tensor) else type(books).__name__
        raise ValueError(
            f"books: expected rule books, a tensor of whole numbers (n, {QUESTIONS}), n >= 1, got {got}; take rows of "
            "rule_books()"
        )
    halves = books.unflatten(1, (2, ANSWERS)).sort(-1).values
    wrong = (halves != torch.arange(ANSWERS, device=books.device)).flatten(1).any(1).nonzero()
    if len(wrong):
        raise ValueError(
            f"books: expected each of {ANSWERS} ways and each of {ANSWERS} parts once, got {books[wrong[0, 0]].tolist()} in row "
            f"{int(wrong[0, 0])}; take rows of rule_books()"
        )


def questions(games: int) -> Tensor:
    """All Q questions of each game as a learner takes them, a 1 in a place of its own: ``(B, Q, Q)``; the buttons first."""
    return torch.eye(QUESTIONS).expand(games, -1, -1)


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
        known = len(_rule_books())
        self.books = torch.arange(known) if books is None else books.clone() if isinstance(books, Tensor) else books
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
        y = _rule_books()[self._numbers(generator)]
        counts = shots_per_task(self.shots, self.batch, generator)
        most = max(1, int(counts.max()))
        mask = torch.arange(most) < counts[:, None]
        chosen = uniform(self.batch, QUESTIONS, generator=generator).argsort(1)[:, :most]
        x = questions(self.batch)
        support = Points(F.one_hot(chosen, QUESTIONS).to(x) * mask[..., None], y.gather(1, chosen) * mask, mask)
        return Episode(support, Points(x, y, torch.ones_like(y, dtype=torch.bool)))

    def oracle(self, support: Points) -> ExactRules:
        """The exact posterior over the rule books that take part: no learner's mean NLL is lower."""
        return ExactRules(support, _rule_books()[self.books])


class ExactRules(Posterior):
    """What answers say of the others, by enumeration: those rule books remain, each as likely, that give all of them.

    Args:
        support: answers to questions ``(B, N, Q)`` that have a 1 in one place.
        books: the rule books that there are, ``(K, Q)``, each as likely; None for all 14,400.

    Raises:
        ValueError: no rule book gives such answers, or questions and answers are others than those of `RuleBooks`.

    Example:
        >>> east = points(torch.eye(10)[:1], [1], classes=5)  # of the first button
        >>> ExactRules(east)(torch.eye(10)[1:2]).probs
        tensor([[[0.2500, 0.0000, 0.2500, 0.2500, 0.2500]]])
    """

    _of_tasks = ("remain",)

    def __init__(self, support: Points, books: Tensor | None = None) -> None:
        check_shapes(support, "support")
        if books is not None:
            check_books(books)
        super().__init__(support)
        self.books = (_rule_books() if books is None else books.clone()).to(support.mask.device)
        self.given = F.one_hot(self.books, ANSWERS).flatten(1).float()  # a 1 where a book gives the answer, (K, Q W)
        everything = torch.ones(len(support.mask), len(self.books), dtype=torch.bool, device=support.mask.device)
        self.remain = self._fitting(everything, support, "support")
        """Which rule books give all answers, ``(B, K)``."""

    def _fitting(self, remain: Tensor, points: Points, name: str) -> Tensor:
        x, y = points.x, points.y
        if not isinstance(x, Tensor) or x.shape[2:] != (QUESTIONS,) or y.is_floating_point() or y.dim() != 2:
            raise ValueError(
                f"{name}: expected questions (B, N, {QUESTIONS}) and answers that are labels (B, N), got "
                f"{tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__} and {y.dtype} {tuple(y.shape)}; take them from "
                "RuleBooks"
            )
        if not ((y >= 0) & (y < ANSWERS)).all():
            raise ValueError(
                f"{name}: expected questions (B, N, {QUESTIONS}) and answers up to {ANSWERS - 1}, got {tuple(x.shape)} and "
                f"answers from {y.min().item()} up to {y.max().item()}; take them from RuleBooks"
            )
        _check_questions(x, points.mask, f"{name}.x")
        told = points.mask.new_zeros(len(remain), self.given.shape[1], dtype=torch.float32)
        told.scatter_add_(1, points.x.argmax(-1) * ANSWERS + points.y, points.mask.float())
        remain = remain & (told @ self.given.T == told.sum(1, keepdim=True))
        if not remain.any(1).all():
            raise ValueError(
                f"{name}: expected answers that a rule book gives, got two buttons or colours with one answer, two answers to "
                "one, or those of a book that does not take part; take them from one game"
            )
        return remain

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.remain = self._fitting(self.remain, points, "points")
        return later

    def _predictive(self, x: Tensor, samples: int | None = None) -> Categorical:
        counts = self.remain.float() @ self.given
        p = (counts / self.remain.sum(1, keepdim=True)).unflatten(1, (QUESTIONS, ANSWERS)).to(_floating(x))
        return Categorical(logits=_asked(p, x).log(), validate_args=False)

    def _functions(self, samples: int) -> Functions:
        weights = self.remain.float()
        drawn = torch.multinomial(weights, samples, replacement=True, generator=stream(weights.device)).T  # (S, B)
        books = F.one_hot(self.books[drawn], ANSWERS)

        def ask(x: Tensor, own: bool) -> Categorical:
            each = apart(x, samples) if own else x
            return Categorical(logits=_asked(books.to(_floating(x)), each).log(), validate_args=False)

        return ask


def _floating(x: Tensor) -> torch.dtype:
    """The type of probabilities at x, whose 0 and 1 may be whole numbers."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _check_questions(x: Tensor, mask: Tensor | None, name: str) -> None:
    """Raises a ValueError where an observed question ``(..., Q)`` has no 1 in just one place."""
    if not readable(x):
        return
    wrong = (x.sort(-1).values != x.new_tensor([0] * (QUESTIONS - 1) + [1])).any(-1)
    wrong = wrong if mask is None else wrong & mask
    if wrong.any():
        raise ValueError(
            f"{name}: expected questions with a 1 in one place and zeros beside it, got {x[wrong][0].tolist()}; take them from "
            "RuleBooks"
        )


def _asked(answers: Tensor, x: Tensor) -> Tensor:
    """Of all questions' answers ``(..., Q, W)`` those at x ``(..., M, Q)``."""
    _check_questions(x, None, "x")
    asked = x.argmax(-1)[..., None].expand(*answers.shape[:-2], -1, answers.shape[-1])
    return answers.gather(-2, asked)
