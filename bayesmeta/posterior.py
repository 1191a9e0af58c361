"""`Posterior`: what supports taught. ``learner(support)(x)`` is p(y | x, support)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.answers import Decomposition, Functions, Joint, refuse_copies, refuse_gaussian, refuse_update
from bayesmeta.border import as_tensor, asked_of, check, check_count, check_form, convert, readable
from bayesmeta.border.checks import ADAPTING, check_further, check_whole
from bayesmeta.border.explained import explained
from bayesmeta.data import Points
from bayesmeta.distributions import mixture, uncertainty
from bayesmeta.functional import Frozen
from bayesmeta.likelihoods import check_support

__all__ = ["Posterior"]


class Posterior(ABC):
    """What B tasks' supports taught: a value that later updates of the learner do not move.

    ``posterior(x)`` is the predictive distribution of y at x, batch ``(B, M)`` and event ``*Y``. ``posterior.functions(S)`` are S
    functions, to be asked again and again, each time with the batch ``(S, B, M)``; ``posterior.draws(x, S)`` asks them once.

    x is ``(B, M, *X)``; for a single task ``(M, *X)`` will do, and for one feature ``(M,)``. It may be an array, a tensor or
    a list, and is taken to the support's device and floating type.

    A new posterior implements `_functions`, and `_predictive` where it has a closed form; the mixture of S draws serves otherwise
    and is then random: it uses torch's global generator.

    Args:
        support: what was learned from.
        samples: S, how many draws a prediction averages unless the call says another number.
    """

    _of_tasks: ClassVar[tuple[str, ...] | None] = None
    """The attributes that hold what was learned of each task, beside `support`: trees of tensors ``(B, ...)`` and of posteriors.
    All others are the same for all tasks. `expand` and `save` need to know; None where it is not said."""
    _drawn: ClassVar[tuple[str, ...]] = ()
    """The attributes that are the same for all tasks, but were drawn at random from the learner: trees of tensors, for `save`."""
    _entries: ClassVar[bool] = False
    """Whether updates leave out single entries of a target, by a mask of the shape of y."""

    def __init__(self, support: Points, samples: int = 64) -> None:
        self.support = support
        self._samples = samples

    def __call__(self, x: Any, samples: int | None = None) -> Distribution:
        """The predictive distribution at x: batch ``(B, M)``, event ``*Y``.

        Args:
            x: inputs.
            samples: S, how many draws it averages where there is no closed form; the learner's own number, such as 64, if None.

        Raises:
            ValueError: fewer than one draw, or inputs that do not fit.

        Example:
            >>> posterior = ABML(MLP(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> posterior([0.5], samples=500).mean.shape
            torch.Size([1, 1, 1])
        """
        if samples is not None:
            check_count("samples", samples)
        return self._predictive(self._inputs(x), samples)

    def functions(self, samples: int) -> Callable[[Any], Distribution]:
        """S functions of the posterior, drawn once: asked twice, each gives the answers that it gave before.

        They take x as a prediction does, ``(B, M, *X)``, or ``(S, B, M, *X)``: inputs of its own for each function. Answers are
        p(y | x, f), batch ``(S, B, M)`` and event ``*Y``, and differentiable by x. Later updates of the learner do not move them.

        A Gaussian process is drawn as far as it is asked: the values at new inputs given all its own earlier ones, by random
        numbers of the moment. So each question costs time and memory in proportion to the square of the number of all points
        asked so far (to each function, where inputs are its own), one thread at a time may ask, and the slope of an answer is the
        one that is expected of the function given all its answers so far. All other functions are drawn when they are made, and
        cost the same at each question.

        Args:
            samples: S, the number of functions; from torch's global generator.

        Raises:
            ValueError: fewer than one function, or at a question the inputs fit neither form.

        Example:
            >>> posterior = DKT(nn.Identity(), RBFKernel(), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> functions = posterior.functions(3)
            >>> ahead = functions(torch.rand(3, 1, 10, 1))  # each function at 10 inputs of its own
            >>> torch.allclose(functions([0.5]).mean, functions([0.5]).mean, atol=1e-4), ahead.batch_shape
            (True, torch.Size([3, 1, 10]))
        """
        check_count("samples", samples)
        drawn = self._functions(samples)
        return lambda x: drawn(*self._questions(x, samples))

    def draws(self, x: Any, samples: int) -> Distribution:
        """One question to `functions`, of x as they take it: batch ``(S, B, M)``, event ``*Y``. From torch's global generator."""
        return self.functions(samples)(x)

    @abstractmethod
    def _functions(self, samples: int) -> Functions:
        """S functions, of inputs that are checked already."""

    def _functions_on(self, features: Frozen, samples: int) -> Functions:
        """S functions of features of the inputs, which `features` maps to the posterior's own."""
        inner = self._functions(samples)
        return lambda x, own: inner(features.over_tasks(x), own)

    def decompose(self, x: Any, samples: int = 256) -> Decomposition:
        """The uncertainty at x in two parts: total = aleatoric + epistemic.

        Aleatoric is what would remain if the task were known: the noise. Epistemic is what more support points would remove.
        For real targets they are variances, by the law of total variance: E[Var(y | f)] + Var(E[y | f]). For classes they are
        entropies in nats: the mean entropy, and the mutual information of y and f (Depeweg et al. 2018,
        https://arxiv.org/abs/1710.07283). In closed form where the posterior has one, else from draws of f.

        Args:
            x: inputs, as for a prediction.
            samples: S, the number of draws where there is no closed form; from torch's global generator.

        Raises:
            ValueError: fewer than one draw, or inputs that do not fit.

        Example:
            >>> posterior = MAML(MLP(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> posterior.decompose([0.5]).epistemic  # one set of weights a task: no doubt about the function
            tensor([[[0.]]])
        """
        check_count("samples", samples)
        aleatoric, epistemic = self._decompose(self._inputs(x), samples)
        return Decomposition(aleatoric + epistemic, aleatoric, epistemic)

    def joint(self, x: Any) -> Joint:
        """The function's values at x as one normal: their mean, their covariance over x, and the noise's deviation.

        Where functions are Gaussian: `ALPaCA`, `DKT`, `ADKL`, `ADKF`, the exact answers of `LinearGaussian` and
        `GaussianProcessTasks`, and these standardised, calibrated or rehearsed. In the user's units.

        Raises:
            NotImplementedError: the functions are not Gaussian.

        Example:
            >>> posterior = DKT(nn.Identity(), RBFKernel(), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> posterior.joint([0.3, 0.5, 0.7]).covariance.shape
            torch.Size([1, 1, 3, 3])
        """
        return self._joint(self._inputs(x))

    def _joint(self, x: Any) -> Joint:
        refuse_gaussian(self, "joint", "posterior", "draw from it, posterior.functions(S)")

    def _joints(self, x: Any) -> Joint:
        """The K normals whose mixture in equal parts the function's values are: each of the three with a leading K."""
        return Joint(*(part[None] for part in self._joint(x)))

    def _misfit(self) -> tuple[Tensor, Tensor]:
        """Each task's number of points ``(B,)``, and their squared Mahalanobis distance to the prior's mean ``(B, Y)``."""
        refuse_gaussian(self, "learner", "learner", "likelihoods.StudentT() is for others")

    def update(self, points: Points) -> Posterior:
        """The posterior after further points of the same B tasks. This one stays as it is.

        - Exact in any order and division, and of a size that does not grow: `ALPaCA`, `PrototypicalNetwork`, `GeMCL`, and neural
          processes and `VERSA` with an encoder that pools (`DeepSet`, `ClassPooling`).
        - Exact in any order too, of a size that grows with the points, by a block of the Cholesky factor: Gaussian processes with
          Gaussian noise (`DKT`, `DKTClassifier`, `PACOH`), with `DKT(inducing=m)` by a new choice of the m points.
        - Exact in the order in which points come, in multiples of the learner's `points`, of a size that does not grow: ordered
          passes of gradient steps (`OML`, `LaMAML`, `MER`, `ExperienceReplay`).
        - The posterior becomes the prior: `ABML`, `VCL`, `OnlineLaplace`. Sequential, and of constant size but for a coreset.
        - By as many further gradient steps as the learner takes, on the new points alone, from where the old ones led: the MAML
          family (`MAML`, `FirstOrderMAML`, `MetaSGD`, `ANIL`, `Reptile`). It is the baseline that forgets.
        - Through wrappers. An `Ensemble` keeps its weights, a temperature its value; `Changepoints` allows for a change.
        - All others refuse: `Rehearsal` keeps the points and adapts again.

        Exact means: as if all points had been known at once. The result is differentiable as the posterior itself, and keeps no
        points: its `support` is one unobserved row of zeros, which says shapes, types and device.

        Args:
            points: ``(B, M, *X)`` and so on, of as many tasks and with the event shapes of the support; a task without a new
                point has none observed.

        Raises:
            NotImplementedError: further points cannot be told to a posterior of this kind.
            ValueError: the points differ from the support in tasks or event shapes, or in the kind of targets; or a value is not
                finite, or no label.

        Example:
            >>> posterior = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
            torch.Size([1, 1, 1])
        """
        check_further(points, like := self.support)
        y = points.y
        if y.is_floating_point() and y.dtype != like.y.dtype and readable(y):
            y = torch.stack(convert(y, like.y.dtype, "points.y"))
        further = Points(self._inputs(points.x), y.to(like.y), points.mask.to(like.mask.device))
        if readable(further.mask):
            check(further, "points")
        self._admit(further)
        with explained(further, "points"):
            return self._updated(further)

    def _admit(self, points: Points) -> None:
        """Raises a ValueError where this posterior, or one within it, cannot be told such points."""
        if isinstance(likelihood := getattr(self, "likelihood", None), Frozen) and readable(points.mask):
            check_support(likelihood.module, points, "points")
        held = [getattr(self, name) for name in self._of_tasks or ()]
        within = [part for part in tree_leaves(held) if isinstance(part, Posterior)]
        for part in within:
            part._admit(points)
        if not within and not self._entries and type(self)._updated is not Posterior._updated:
            check_whole(points, "points", f"a {type(self).__name__}", also=ADAPTING)

    def _updated(self, points: Points) -> Posterior:
        """The posterior after further points, which are checked already."""
        refuse_update(f"{type(self).__name__}, which would need the old ones too")

    def expand(self, copies: int) -> Self:
        """Copies of each task, which `update` can tell different things: a posterior of B S tasks.

        Those of task b are the tasks b S to b S + S - 1, so that ``x.repeat_interleave(S, 0)`` asks each the same. The copies'
        tensors are differentiable as the posterior's.

        Args:
            copies: S, of each task.

        Raises:
            NotImplementedError: the posterior does not say what it holds of each task.
            ValueError: fewer than one copy.

        Example:
            >>> posterior = ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
            >>> both = posterior.expand(2)
            >>> both.update(points([[2.0], [2.0]], [[0.0], [5.0]]))([[[1.0]], [[1.0]]]).mean.flatten().diff() > 0
            tensor([True])
        """
        check_count("copies", copies)
        tasks = torch.arange(len(self.support.mask), device=self.support.mask.device)
        return self._chosen(tasks.repeat_interleave(copies))

    def _chosen(self, tasks: Tensor) -> Self:
        """The posterior of some of the tasks by their numbers, each as often as it is named."""
        if self._of_tasks is None:
            refuse_copies(self)

        def pick(held: Any) -> Any:
            if isinstance(held, Posterior):
                return held._chosen(tasks)
            return held[tasks] if isinstance(held, Tensor) else held

        chosen = copy(self)
        for name in ("support", *self._of_tasks):
            setattr(chosen, name, tree_map(pick, getattr(self, name)))
        return chosen

    def _later(self) -> Self:
        """A copy that keeps no points, to be told further ones."""
        later = copy(self)
        later.support = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(self.support)))
        return later

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(self._functions(samples or self._samples)(x, False))

    def _mean(self, x: Any) -> Tensor:
        return self._predictive(x).mean

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        """The aleatoric and the epistemic part at x, each ``(B, M, *Y)``."""
        draws = self._functions(samples)(x, False)
        aleatoric = uncertainty(draws).mean(0)
        if draws.support.is_discrete:  # type: ignore[union-attr]
            return aleatoric, (uncertainty(mixture(draws)) - aleatoric).clamp(min=0)
        return aleatoric, draws.mean.var(0, correction=0)

    def _inputs(self, x: Any) -> Any:
        return asked_of(self.support.x, self.support.mask, x)

    def _questions(self, x: Any, samples: int) -> tuple[Any, bool]:
        """A user's inputs for S functions, and whether they are each function's own, in the form of `Functions`."""
        check_form(self.support.x, x)
        given = tree_map(lambda _, leaf: as_tensor(leaf, "x"), self.support.x, x)
        known, asked = tree_leaves(self.support.x), tree_leaves(given)
        if not all(leaf.dim() == 1 + like.dim() for like, leaf in zip(known, asked, strict=True)):
            return self._inputs(given), False
        for leaf in asked:
            if leaf.shape[:2] != (samples, len(self.support.mask)):
                raise ValueError(
                    f"x: expected shape (S, B, M, ...) with S = {samples} functions and B = {len(self.support.mask)} tasks, got "
                    f"{tuple(leaf.shape)}; give each function its own inputs, or all the same ones as (B, M, ...)"
                )
        return self._inputs(tree_map(lambda leaf: leaf.movedim(0, 1).flatten(1, 2), given)), True
