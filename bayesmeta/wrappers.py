"""Learners around learners."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import Dataset

from bayesmeta.data import Episode, Points, check, concatenate
from bayesmeta.distributions import affine
from bayesmeta.learner import Learner, Posterior
from bayesmeta.posteriors import Transformed

__all__ = ["Standardized"]


@final
class Standardized(Learner):
    """A learner that sees inputs and real-valued targets with mean 0 and standard deviation 1, and answers in the user's units.

    The scaling is computed once, from tasks that the user names: the meta-training tasks, never those of a test.
    It is kept in buffers, so it moves and is saved with the learner. Training works on the scaled episodes, whose losses
    differ from those in the user's units by a constant. Labels are left as they are.

    Args:
        learner: the learner to wrap.
        tasks: the meta-training tasks.
        episodes: how many of their episodes to compute the scaling from.

    Raises:
        ValueError: x is not a tensor ``(B, N, D)``: only plain features can be scaled.

    Example:
        >>> tasks = Sinusoids(noise=0.1)
        >>> learner = Standardized(MAML(MLP(1, 1), Gaussian()), tasks)
        >>> learner(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([25, 15])
    """

    x_loc: Tensor
    x_scale: Tensor
    y_loc: Tensor
    y_scale: Tensor

    def __init__(self, learner: Learner, tasks: Dataset[Episode], *, episodes: int = 20) -> None:
        super().__init__()
        if not isinstance(learner, Learner) or isinstance(learner, Standardized):
            raise TypeError(
                f"learner: expected a learner that is not standardised yet, got {type(learner).__name__}; "
                "wrap the network in a learner such as MAML, and that once"
            )
        if episodes < 1:
            raise ValueError(f"episodes: expected at least 1 to compute the scaling from, got {episodes}")
        self.learner = learner
        first = tasks[0].support
        if not isinstance(first.x, Tensor) or not first.x.is_floating_point():
            raise ValueError(
                f"tasks: expected x to be one floating tensor (B, N, ...), got {type(first.x).__name__}; scale it yourself"
            )
        everything = [concatenate(*tasks[i]) for i in range(min(episodes, len(tasks)))]  # type: ignore[arg-type]
        for given in everything:
            check(given, "tasks")
        x = torch.cat([given.x[given.mask] for given in everything])
        y = torch.cat([given.y[given.mask] for given in everything])
        self._register("x", x)
        self._register("y", y if y.is_floating_point() else torch.zeros(1, 1))

    def _register(self, name: str, values: Tensor) -> None:
        scale, varies = values.std(0, correction=0), (values != values[:1]).any(0)
        self.register_buffer(f"{name}_loc", values.mean(0))
        self.register_buffer(f"{name}_scale", torch.where(varies, scale, 1.0))  # a constant is only centred

    def _scale(self, given: Points) -> Points:
        labels = not given.y.is_floating_point()
        for field, value, loc in (("x", given.x, self.x_loc), ("y", given.y, self.y_loc)):
            if value.shape[2:] != loc.shape and not (field == "y" and labels):  # they would broadcast in silence
                raise ValueError(
                    f"{field}: expected the event shape {tuple(loc.shape)} of the tasks that the scaling was computed from, "
                    f"got {tuple(value.shape[2:])}; give the same features and targets, or build another Standardized"
                )
        observed = given.mask.reshape(given.mask.shape + (1,) * (given.x.dim() - 2))
        x = (given.x - self.x_loc) / self.x_scale * observed
        if not given.y.is_floating_point():
            return Points(x, given.y, given.mask)
        y = (given.y - self.y_loc) / self.y_scale
        return Points(x, y * given.mask.reshape(given.mask.shape + (1,) * (given.y.dim() - 2)), given.mask)

    def forward(self, support: Points) -> Posterior:
        inner = self.learner(self._scale(support))
        # Cloned: the posterior must not follow if another scaling is loaded into the learner.
        x_loc, x_scale, y_loc, y_scale = (b.clone() for b in (self.x_loc, self.x_scale, self.y_loc, self.y_scale))

        def scale(x: Tensor) -> Tensor:
            return (x - x_loc) / x_scale

        def unscale(distribution: Distribution) -> Distribution:
            return affine(distribution, y_loc, y_scale) if support.y.is_floating_point() else distribution

        return Transformed(inner, support, scale, unscale)

    def losses(self, episode: Episode) -> Tensor:
        return self.learner.losses(self._episode(episode))

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(self._episode(episode))

    def _episode(self, episode: Episode) -> Episode:
        return Episode(self._scale(episode.support), self._scale(episode.query))
