"""Bandits whose arms tell of each other: what an arm pays is linear in its features, with weights that differ by task."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count, check_positive
from bayesmeta.data import Episode, Points
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import BayesianLinear
from bayesmeta.tasks.source import TaskSource, check_told, normal, shots_per_task

__all__ = ["Bandits"]


@final
class Bandits(TaskSource):
    """An arm with features x pays w·x + ε, with w ~ N(mean, covariance) in each task and ε ~ N(0, noise²).

    x are an arm's features and y is what a pull of it paid: the support is of pulls of random arms, the query of each arm once.
    Every task has arms of its own, whose features are N(0, 1).

    Args:
        mean: of w, D numbers.
        covariance: of w, ``(D, D)``, symmetric and positive definite.
        arms: A, how many a task has.
        noise: σ, the standard deviation of what a pull pays, above 0.
        batch: B, tasks in an episode.
        shots: pulls in a support, or a range (low, high) from which each task's number is drawn.
        seed: see `TaskSource`.
        length: see `TaskSource`.

    Raises:
        ValueError: the covariance is not that of D weights, or a number is out of range.

    Example:
        >>> tasks = Bandits([0.5, 0.0], [[1.0, 0.3], [0.3, 1.0]], arms=5)
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([25, 5])
    """

    def __init__(
        self,
        mean: Any,
        covariance: Any,
        *,
        arms: int = 10,
        noise: float = 0.5,
        batch: int = 25,
        shots: int | tuple[int, int] = (0, 20),
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed=seed, length=length)
        self.mean, self.covariance = (
            as_tensor(part, name).detach().to("cpu", torch.float64, copy=True)
            for part, name in ((mean, "mean"), (covariance, "covariance"))
        )
        size = self.mean.numel()
        if self.mean.dim() != 1 or self.covariance.shape != (size, size) or not size:
            raise ValueError(
                f"mean and covariance: expected (D,) and (D, D) for an arm's D features, got {tuple(self.mean.shape)} and "
                f"{tuple(self.covariance.shape)}"
            )
        if not self.mean.isfinite().all():
            raise ValueError(f"mean: expected finite numbers, got {self.mean.tolist()}; e.g. torch.zeros(D)")
        root, failed = torch.linalg.cholesky_ex(self.covariance)
        if failed or not root.isfinite().all() or not torch.equal(self.covariance, self.covariance.mT):
            raise ValueError(
                "covariance: expected a symmetric positive definite matrix, got another; e.g. torch.eye(D)"
            )
        check_positive("noise", noise, finite=True)  # without any the exact posterior is degenerate
        check_count("arms", arms)
        check_count("batch", batch)
        shots_per_task(shots, 1, torch.Generator())
        self._root = root.float()
        self.arms, self.noise, self.batch, self.shots = arms, noise, batch, shots

    def draw(self, generator: torch.Generator) -> Episode:
        x, values = self._new(generator)
        counts = shots_per_task(self.shots, self.batch, generator)
        most = max(1, int(counts.max()))
        pulled = torch.randint(self.arms, (self.batch, most), generator=generator)
        tasks = torch.arange(self.batch)[:, None]
        paid = [
            part + self.noise * normal(*part.shape, generator=generator) for part in (values[tasks, pulled], values)
        ]
        mask = torch.arange(most) < counts[:, None]
        support = Points(x[tasks, pulled] * mask[..., None], paid[0][..., None] * mask[..., None], mask)
        return Episode(support, Points(x, paid[1][..., None], torch.ones(self.batch, self.arms, dtype=torch.bool)))

    def known(self, index: int) -> tuple[Tensor, Tensor]:
        """The arms of the tasks of an episode, ``(B, A, D)``, and what each pays on average, ``(B, A)``: to play them.

        Raises:
            IndexError: there is no such episode.
        """
        return self._seeded(index, self._new)

    def _new(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weights = self.mean.float() + normal(self.batch, len(self.mean), generator=generator) @ self._root.mT
        x = normal(self.batch, self.arms, len(self.mean), generator=generator)
        return x, (x @ weights[..., None])[..., 0]

    def oracle(self, support: Points) -> Posterior:
        """The exact Bayes posterior under the source's own prior: no learner's mean NLL can be lower."""
        check_told(support, len(self.mean))
        y = support.y
        noise = torch.tensor(self.noise, dtype=torch.float64, device=y.device)
        mean, covariance = (part.to(y.device) for part in (self.mean[:, None], self.covariance))
        return BayesianLinear(mean, covariance, noise, support)
