"""What one would use for few measurements a subject without meta-learning: each learns from the training tasks what it can.

Every baseline is built from the training tasks and maps a support to a function from x to normal predictions, as a learner does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import Normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from statsmodels.regression.mixed_linear_model import MixedLM
from torch import Tensor
from torch.distributions import Distribution

import bayesmeta as bm

Array = NDArray[np.float64]
Task = Callable[[Array], tuple[Array, Array]]
"""Of one task: inputs ``(M, D)`` to the mean and the standard deviation of y, each ``(M,)``."""


class Baseline:
    """Predictions task by task, on inputs and targets that have mean 0 and standard deviation 1 over the training tasks."""

    def __init__(self, train: bm.tasks.ArrayTasks) -> None:
        given = train.points
        x, y = given.x[given.mask].double().numpy(), given.y[given.mask].double().numpy()
        self.x_loc, self.x_scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
        self.y_loc, self.y_scale = y.mean(), y.std() or 1.0
        self.tasks = [self._scaled(*row) for row in zip(*given, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a likelihood's optimum at its bounds is no news here
            self.prepare()

    def _scaled(self, x: Tensor, y: Tensor, mask: Tensor) -> tuple[Array, Array]:
        return (
            (x[mask].double().numpy() - self.x_loc) / self.x_scale,
            (y[mask, 0].double().numpy() - self.y_loc) / self.y_scale,
        )

    def prepare(self) -> None:
        """Learns from ``self.tasks``."""

    def adapt(self, x: Array, y: Array) -> Task:
        raise NotImplementedError

    def __call__(self, support: bm.Points) -> Callable[[Tensor], Distribution]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = [self.adapt(*self._scaled(*row)) for row in zip(*support, strict=True)]

        def predict(x: Tensor) -> Distribution:
            scaled = (x.double().numpy() - self.x_loc) / self.x_scale
            rows = [np.stack(task(row)) for task, row in zip(adapted, scaled, strict=True)]
            mean, scale = torch.from_numpy(np.stack(rows, 1)).to(support.y.dtype)[..., None]
            return Normal(self.y_loc + self.y_scale * mean, self.y_scale * scale).to_event(1)

        return predict


def process(inputs: int, seed: int = 0) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(np.ones(inputs), (5e-2, 2e1)) + WhiteKernel(0.1, (1e-4, 1e1))
    return GaussianProcessRegressor(kernel, n_restarts_optimizer=1, normalize_y=True, random_state=seed)


class TaskProcess(Baseline):
    """A scikit-learn Gaussian process for each task by itself."""

    def adapt(self, x: Array, y: Array) -> Task:
        fitted = process(x.shape[1]).fit(x, y)
        return lambda x: fitted.predict(x, return_std=True)


class PooledProcess(Baseline):
    """A scikit-learn Gaussian process on the points of all training tasks, and a random intercept for the task."""

    def prepare(self) -> None:
        x, y = (np.concatenate(part) for part in zip(*self.tasks, strict=True))
        chosen = np.random.default_rng(0).permutation(len(x))[:300]
        self.pooled = process(x.shape[1]).fit(x[chosen], y[chosen])
        residuals = [y - self.pooled.predict(x) for x, y in self.tasks]
        counts = np.array([len(row) for row in residuals])
        within = sum(((row - row.mean()) ** 2).sum() for row in residuals) / max((counts - 1).sum(), 1)
        means = np.array([row.mean() for row in residuals])
        self.within = max(float(within), 1e-6)
        self.between = max(float((means**2).mean() - (self.within / counts).mean()), 0.0)  # by moments

    def adapt(self, x: Array, y: Array) -> Task:
        shrinkage = self.between / (self.between + self.within / len(x))
        offset = shrinkage * (y - self.pooled.predict(x)).mean()
        variance = self.within + self.between * (1 - shrinkage)
        return lambda x: (self.pooled.predict(x) + offset, np.full(len(x), np.sqrt(variance)))


class MixedEffects(Baseline):
    """A statsmodels mixed model: x and x² as fixed effects, a random intercept and slopes; predictions by the exact BLUP."""

    def prepare(self) -> None:
        groups = np.concatenate([np.full(len(y), i) for i, (_, y) in enumerate(self.tasks)])
        x, y = (np.concatenate(part) for part in zip(*self.tasks, strict=True))
        self.squared = [len(np.unique(column)) > 2 for column in x.T]  # two values have no square of their own
        for self.slopes in (True, False):
            try:
                fitted = MixedLM(y, self._fixed(x), groups, self._random(x)).fit(reml=True)
            except (np.linalg.LinAlgError, ValueError):
                continue
            self.beta, self.covariance = np.asarray(fitted.fe_params), np.asarray(fitted.cov_re)
            self.noise = float(fitted.scale)
            if np.isfinite(self.beta).all() and np.isfinite(self.covariance).all() and self.noise > 0:
                return
        raise ArithmeticError("the mixed model has no fit, not even with a random intercept alone")

    def _fixed(self, x: Array) -> Array:
        return np.column_stack([np.ones(len(x)), x, x[:, self.squared] ** 2])

    def _random(self, x: Array) -> Array:
        return np.column_stack([np.ones(len(x)), x]) if self.slopes else np.ones((len(x), 1))

    def adapt(self, x: Array, y: Array) -> Task:
        z = self._random(x)
        gain = self.covariance @ z.T @ np.linalg.inv(z @ self.covariance @ z.T + self.noise * np.eye(len(x)))
        effects = gain @ (y - self._fixed(x) @ self.beta)
        left = self.covariance - gain @ z @ self.covariance

        def predict(x: Array) -> tuple[Array, Array]:
            z = self._random(x)
            variance = self.noise + np.einsum("ni,ij,nj->n", z, left, z).clip(0)
            return self._fixed(x) @ self.beta + z @ effects, np.sqrt(variance)

        return predict


class LastValue(Baseline):
    """The nearest known value, by the first input; its spread is that among the training tasks."""

    def prepare(self) -> None:
        misses = []
        for x, y in self.tasks:
            for known in (3, 5):
                if len(x) > known:
                    chosen = np.random.default_rng(len(misses)).permutation(len(x))
                    given, asked = chosen[:known], chosen[known:]
                    misses.append(y[asked] - self.centre(x[given], y[given])(x[asked]))
        self.scale = float(np.sqrt(np.mean(np.concatenate(misses) ** 2)))

    def centre(self, x: Array, y: Array) -> Callable[[Array], Array]:
        return lambda asked: y[np.abs(asked[:, :1] - x[:, 0]).argmin(1)]

    def adapt(self, x: Array, y: Array) -> Task:
        centre = self.centre(x, y)
        return lambda x: (centre(x), np.full(len(x), self.scale))


class Mean(LastValue):
    """The mean of the known values; its spread is that among the training tasks."""

    def centre(self, x: Array, y: Array) -> Callable[[Array], Array]:
        return lambda asked: np.full(len(asked), y.mean())


BASELINES: dict[str, type[Baseline]] = {
    "GP per task": TaskProcess,
    "pooled GP, offset": PooledProcess,
    "mixed effects": MixedEffects,
    "last value": LastValue,
    "mean": Mean,
}
