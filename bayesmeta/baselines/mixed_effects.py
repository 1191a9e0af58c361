"""The linear mixed model of statistics, whose predictions are in closed form."""

from __future__ import annotations

import warnings
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesmeta.baselines.base import check_plain, need, parts_of
from bayesmeta.border import as_tensor
from bayesmeta.data import Episode, Points, concatenate
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import BayesianLinear, Transformed

__all__ = ["MixedEffects"]


@final
class MixedEffects(Learner):
    """A linear mixed model: y = φ(x) β + z(x) b + ε, with b ~ N(0, Ψ) a task. Frozen: `fit` does not train it.

    Laird & Ware 1982, https://doi.org/10.2307/2529876. φ are a constant, x and x², z a constant and x: a random intercept and
    slopes, where they can be fitted, else an intercept alone. ``MixedEffects.from_tasks(tasks)`` estimates β, Ψ and the noise by
    restricted maximum likelihood with statsmodels, imported when it is used (the extra `baselines`). Given these, predictions,
    updates and functions are exact: they are those of a Bayesian linear layer, whose weights have the prior N(β, Ψ).

    Args:
        mean: β, ``(P,)``: of the constant, of the D features and of the squares.
        covariance: Ψ, ``(P, P)``, zero where an effect is fixed.
        noise: the standard deviation of ε, above 0.
        squares: the places of the features in x whose squares are effects, P - 1 - D of them.
        x_loc: what is taken from x first, ``(D,)``.
        x_scale: what it is then divided by, ``(D,)``.

    Raises:
        ValueError: at a call, x has other features, or y is not one real number.

    Example:
        >>> learner = baselines.MixedEffects.from_tasks(LinearGaussian(noise=0.1), episodes=2)
        >>> learner(points([0.0, 1.0], [3.0, 5.0]))([1.5]).batch_shape
        torch.Size([1, 1])
    """

    mean: Tensor
    covariance: Tensor
    noise: Tensor
    x_loc: Tensor
    x_scale: Tensor

    def __init__(
        self, mean: Any, covariance: Any, noise: Any, *, squares: tuple[int, ...] = (), x_loc: Any, x_scale: Any
    ) -> None:
        super().__init__()
        self.squares = tuple(squares)
        given = {"mean": mean, "covariance": covariance, "noise": noise, "x_loc": x_loc, "x_scale": x_scale}
        for name, value in given.items():
            self.register_buffer(name, as_tensor(value, name).detach().to(torch.get_default_dtype()).clone())
        width = 1 + len(self.x_loc) + len(self.squares)
        if self.mean.shape != (width,) or self.covariance.shape != (width, width) or not self.noise > 0:
            raise ValueError(
                f"mean, covariance and noise: expected ({width},), ({width}, {width}) and a number above 0, got "
                f"{tuple(self.mean.shape)}, {tuple(self.covariance.shape)} and {self.noise.tolist()}; "
                "MixedEffects.from_tasks(tasks) estimates them"
            )

    @classmethod
    def from_tasks(cls, tasks: Dataset[Episode], *, episodes: int = 20) -> MixedEffects:
        """Estimates the model on training tasks, each with all the points of one of its episodes.

        Args:
            tasks: never those of a test.
            episodes: how many of their episodes to read; all, where there are fewer.

        Raises:
            ImportError: there is no statsmodels.
            ValueError: there are fewer than two tasks, they are not of plain features and one real target, or the model has no
                fit, not even with a random intercept alone.
        """
        mixed = need("statsmodels.regression.mixed_linear_model").MixedLM
        x, y, groups = _whole(parts_of(tasks, episodes))
        x_loc, x_scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
        y_loc, y_scale = y.mean(), y.std() or 1.0
        scaled, target = (x - x_loc) / x_scale, (y - y_loc) / y_scale
        squares = tuple(d for d, column in enumerate(x.T) if len(np.unique(column)) > 2)  # two values have no square
        plain = np.column_stack([np.ones(len(x)), scaled])
        fixed = np.column_stack([plain, scaled[:, list(squares)] ** 2])
        for random in (plain, plain[:, :1]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an optimum at a bound is no news here
                try:
                    found = mixed(target, fixed, groups, random).fit(reml=True)
                except (np.linalg.LinAlgError, ValueError):
                    continue
            mean, own, variance = np.asarray(found.fe_params), np.asarray(found.cov_re), float(found.scale)
            if np.isfinite(mean).all() and np.isfinite(own).all() and 0 < variance < np.inf:
                mean, covariance = y_scale * mean, np.zeros((len(mean), len(mean)))
                mean[0] += y_loc
                covariance[: len(own), : len(own)] = y_scale**2 * own
                noise = y_scale * variance**0.5
                return cls(mean, covariance, noise, squares=squares, x_loc=x_loc, x_scale=x_scale)
        raise ValueError(
            "tasks: expected points that a mixed model can be fitted to, got none, not even with a random intercept alone; give "
            "more tasks, or inputs that differ"
        )

    def forward(self, support: Points) -> Posterior:
        check_plain(support, "support")
        if support.x.shape[2] != len(self.x_loc):
            raise ValueError(
                f"support.x: expected {len(self.x_loc)} features as the training tasks have, got {support.x.shape[2]}; give the "
                "same ones, in the same order"
            )
        held = self.mean, self.covariance, self.noise, self.x_loc, self.x_scale
        mean, covariance, noise, loc, scale = (part.to(support.y.device, torch.float64, copy=True) for part in held)
        squares = list(self.squares)

        def effects(x: Tensor) -> Tensor:
            scaled = (x.double() - loc) / scale
            return torch.cat([torch.ones_like(scaled[..., :1]), scaled, scaled[..., squares].square()], -1)

        nearly = covariance + 1e-10 * noise.square() * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        known = support._replace(x=effects(support.x))
        inner = BayesianLinear(mean[:, None], nearly, noise, known)  # whose prior must have a density
        return Transformed(inner, support, effects)


def _whole(parts: list[tuple[Episode, Tensor]]) -> tuple[Any, Any, Any]:
    """All points of each task, of the episode that has most of them: x, y and the task, a row a point."""
    most: dict[int, tuple[Tensor, Tensor]] = {}
    for (support, query), members in parts:
        points = concatenate(support, query)
        for task, x, y, mask in zip(members.tolist(), *points, strict=True):
            if task not in most or int(mask.sum()) > len(most[task][1]):
                most[task] = x[mask], y[mask, 0]
    groups = np.repeat(np.arange(len(most)), [len(y) for _, y in most.values()])
    x, y = (torch.cat(column).cpu().numpy() for column in zip(*most.values(), strict=True))
    return x, y, groups
