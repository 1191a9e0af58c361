"""Tasks that differ in scale: functions and noise of another source, each task's multiplied by a number of its own."""

from __future__ import annotations

from typing import final

import torch

from bayesmeta.data import Episode, Points
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Scaled
from bayesmeta.tasks.gaussian_process import GaussianProcessTasks
from bayesmeta.tasks.linear import LinearGaussian
from bayesmeta.tasks.source import TaskSource

__all__ = ["OwnScales"]


@final
class OwnScales(TaskSource):
    """Gaussian tasks with a scale each: y = s g, where g is a task of the other source and 1 / s² ~ Gamma(ν/2, ν/2).

    Given its inputs, a task's targets are Student's t with ν degrees of freedom, and so is the oracle.

    Args:
        tasks: whose functions have mean zero, `LinearGaussian` or `GaussianProcessTasks`.
        df: ν, above 2, so that the targets have a variance.

    Raises:
        TypeError: the source is another.
        ValueError: ν is not above 2.

    Example:
        >>> tasks = OwnScales(LinearGaussian(), df=3.0)
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([25, 15])
    """

    def __init__(self, tasks: LinearGaussian | GaussianProcessTasks, *, df: float = 4.0) -> None:
        if not isinstance(tasks, (LinearGaussian, GaussianProcessTasks)):
            raise TypeError(
                f"tasks: expected LinearGaussian(...) or GaussianProcessTasks(...), whose functions have mean zero, got "
                f"{type(tasks).__name__}"
            )
        if not 2 < df < float("inf"):
            raise ValueError(
                f"df: expected degrees of freedom above 2, got {df}; with fewer the targets have no variance"
            )
        super().__init__(seed=tasks.seed, length=len(tasks))
        self.tasks, self.df = tasks, df

    def draw(self, generator: torch.Generator) -> Episode:
        support, query = self.tasks.draw(generator)
        shape = torch.full((len(support.mask), 1, 1), self.df / 2)
        scale = (self.df / 2 / torch._standard_gamma(shape, generator=generator)).sqrt()
        return Episode(support._replace(y=support.y * scale), query._replace(y=query.y * scale))

    def oracle(self, support: Points) -> Posterior:
        """The exact Bayes posterior under the source's own prior: no learner's mean NLL can be lower."""
        df = torch.tensor(self.df, dtype=torch.float64, device=support.y.device)
        return Scaled(self.tasks.oracle(support), df, support)
