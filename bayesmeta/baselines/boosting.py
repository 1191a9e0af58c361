"""Gradient boosting on features of the known points: what one would reach for with a table of groups."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import Dataset

from bayesmeta.baselines.base import Kept, Spread, asked, check_plain, need, parts_of
from bayesmeta.baselines.values import average, nearest
from bayesmeta.border import check_count
from bayesmeta.data import Episode, Points
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior

__all__ = ["Boosting"]

_FOLDS, _TREES, _ROWS = 5, 200, 20_000


@final
class Boosting(Learner):
    """Gradient-boosted trees on the query's x and on what the task's known points look like. Frozen: `fit` does not train it.

    A row has x; the number, mean, deviation, least and largest of the known values; the value nearest in one input, such as time,
    and how far away it is; the slope in that input and the line it makes. ``Boosting.from_tasks(tasks)`` trains on rows of
    training tasks, each a query beside its task's support. By five folds of tasks it chooses the number of trees, and whether
    they predict the target or its distance from the mean of the known values. The errors in the folds give the spread, Student's
    t whose scale depends on the number of known points. Where none is known it answers with the mean of all training targets.

    Trees are of scikit-learn, imported when it is used (the extra `baselines`). They are kept by pickle; `save` refuses them.

    Args:
        trees: with ``predict(rows)``.
        spread: of the errors.
        relative: whether the trees predict distances from the mean of the known values.
        feature: which input the nearest value and the slope are of, by its place in x.

    Raises:
        ValueError: at a call, x has no plain features, or y is not one real number.

    Example:
        >>> learner = baselines.Boosting.from_tasks(Sinusoids(noise=0.1), episodes=4)
        >>> learner(points([0.0, 1.0], [3.0, 5.0]))([1.5]).batch_shape
        torch.Size([1, 1])
    """

    only_pickled = True

    def __init__(self, trees: Any, spread: Spread, *, relative: bool, feature: int = 0) -> None:
        super().__init__()
        check_count("feature", feature, least=0)
        self.trees, self.spread, self.relative, self.feature = trees, spread, relative, feature

    @classmethod
    def from_tasks(cls, tasks: Dataset[Episode], *, feature: int = 0, episodes: int = 20, seed: int = 0) -> Boosting:
        """Trains the trees and fits the spread.

        Args:
            tasks: training tasks, with the shots that will be asked, never those of a test.
            feature: which input the nearest value and the slope are of, by its place in x.
            episodes: how many of their episodes to read; all, where there are fewer. Of more than 20,000 rows some are drawn.
            seed: of the folds and the trees.

        Raises:
            ImportError: there is no scikit-learn.
            ValueError: there are fewer than two tasks, or they are not of plain features and one real target.
        """
        need("sklearn.ensemble")
        check_count("feature", feature, least=0)
        rows = asked(parts_of(tasks, episodes, feature), lambda known, x: _described(known, x, feature))
        generator = torch.Generator().manual_seed(seed)
        if len(rows.y) > _ROWS:
            some = torch.randperm(len(rows.y), generator=generator)[:_ROWS]
            rows = type(rows)(*(column[some] for column in rows))
        numbers, place = rows.task.unique(return_inverse=True)
        fold = (torch.randperm(len(numbers), generator=generator) % min(_FOLDS, len(numbers)))[place]
        best: tuple[float, bool, int, Tensor] | None = None
        for relative in (False, True):
            offset = rows.found[:, _MEAN] if relative else torch.zeros_like(rows.y)
            staged = torch.zeros(_TREES, len(rows.y), dtype=torch.float64)
            for left_out in fold.unique().tolist():
                inside = fold == left_out
                trees = _trees(_TREES, rows.found[~inside], (rows.y - offset)[~inside], seed)
                for count, said in enumerate(trees.staged_predict(rows.found[inside].numpy())):
                    staged[count, inside] = torch.from_numpy(said)
            errors = rows.y - offset - staged
            count = int(errors.square().mean(1).argmin())
            score = float(errors[count].square().mean())
            if best is None or score < best[0]:
                best = score, relative, count + 1, errors[count]
        assert best is not None
        _, relative, count, errors = best
        offset = rows.found[:, _MEAN] if relative else torch.zeros_like(rows.y)
        trees = _trees(count, rows.found, rows.y - offset, seed)
        return cls(trees, Spread.fitted(errors, rows.known, rows.y), relative=relative, feature=feature)

    def forward(self, support: Points) -> Posterior:
        check_plain(support, "support", self.feature)
        return Kept(self._say, support, support)

    def _say(self, known: Points, x: Tensor) -> Distribution:
        double = Points(known.x.double(), known.y.double(), known.mask)
        rows = _described(double, x.double(), self.feature)
        said = torch.zeros(rows.shape[:2], dtype=torch.float64)
        if rows.numel():
            flat = rows.detach().cpu().flatten(0, 1).numpy()
            said = torch.from_numpy(self.trees.predict(flat)).reshape(rows.shape[:2])
        if self.relative:
            said = said + rows[..., _MEAN].detach().cpu()
        return self.spread.around(said.to(known.y), known.mask.sum(1))


_MEAN = 0


def _described(known: Points, x: Tensor, feature: int) -> Tensor:
    """Rows ``(B, M, F)``, of which the first number is the mean of the known values."""
    there, count = known.mask, known.mask.sum(1)
    y, time = known.y[..., 0], known.x[..., feature]
    mean, last = average(known, x), nearest(known, x, feature)
    middle = (time * there).sum(1) / count.clamp(min=1)
    off = (time - middle[:, None]) * there
    slope = (off * y).sum(1) / off.square().sum(1).clamp(min=1e-12)
    deviation = (((y - average(known, known.x)) * there).square().sum(1) / (count - 1).clamp(min=1)).sqrt()
    low, high = (y.masked_fill(~there, edge) for edge in (torch.inf, -torch.inf))
    gap = x[:, :, None, feature] - time[:, None]
    gap = gap.abs().masked_fill(~there[:, None], torch.inf).amin(-1)
    each = (count.to(y), deviation, low.amin(1), high.amax(1), slope, middle)
    line = mean + slope[:, None] * (x[..., feature] - middle[:, None])
    of_task = [values[:, None].expand(x.shape[:2]) for values in each]
    return torch.cat([torch.stack([mean, last, gap, line, *of_task], -1), x], -1)


def _trees(count: int, found: Tensor, target: Tensor, seed: int) -> Any:
    trees = need("sklearn.ensemble").HistGradientBoostingRegressor(
        max_iter=count,
        learning_rate=0.08,
        max_leaf_nodes=15,
        min_samples_leaf=max(2, min(20, len(target) // 20)),
        early_stopping=False,
        random_state=seed,
    )
    with (
        warnings.catch_warnings()
    ):  # its threads set and restore the process's filters at once, and may leave others behind
        return trees.fit(found.numpy(), target.numpy())
