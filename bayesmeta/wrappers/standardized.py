"""A learner in units of its own, for users in theirs."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from bayesmeta.border import as_tensor, check, check_spread
from bayesmeta.data import Episode, Points, concatenate, entries, move, seen
from bayesmeta.distributions import affine
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed
from bayesmeta.warps import Warp

__all__ = ["Standardized"]


@final
class Standardized(Learner):
    """A learner that sees inputs and real-valued targets with mean 0 and standard deviation 1, and answers in the user's units.

    ``Standardized.from_tasks(learner, tasks)`` computes the four numbers, which the constructor takes as they are: a learner that
    was saved is built without the tasks. They are kept in buffers, and so move and are saved with the learner. Training works on
    the scaled episodes, whose losses differ from those in the user's units by a constant. Targets of a discrete likelihood are
    left as they are: labels, and the 0.0 and 1.0 of a `Bernoulli`. So are whole numbers in x, such as tokens.

    Args:
        learner: the learner to wrap.
        x_loc: what is taken from x, of the shape ``*X`` of one input, or one number for all of its entries.
        x_scale: what x is then divided by, above 0, of the same shape.
        y_loc: the same for y, of the shape ``*Y`` of one target, or one number; 0 for a discrete likelihood.
        y_scale: the same for y; 1 for a discrete likelihood.

    Raises:
        TypeError: the learner is no learner, or standardised already.
        ValueError: a number is not finite or a scale not above 0; a location and its scale differ in shape; targets of a discrete
            likelihood, or of a `Warped` learner, would be scaled. At a call, x or y has another event shape.

    Example:
        >>> learner = Standardized(MAML(MLP(1, 1), Gaussian()), x_loc=8.0, x_scale=4.0, y_loc=120.0, y_scale=25.0)
        >>> learner(points([2.0, 3.5], [87.1, 99.0]))([8.0]).mean.shape
        torch.Size([1, 1, 1])
    """

    x_loc: Tensor
    x_scale: Tensor
    y_loc: Tensor
    y_scale: Tensor

    def __init__(self, learner: Learner, *, x_loc: Any, x_scale: Any, y_loc: Any = 0.0, y_scale: Any = 1.0) -> None:
        super().__init__()
        _check_unscaled(learner)
        self.learner = learner
        self._discrete = _is_discrete(learner)
        self._warped = any(isinstance(getattr(part, "warp", None), Warp) for part in learner.modules())
        for name, loc, scale in (("x", x_loc, x_scale), ("y", y_loc, y_scale)):
            loc, scale = (self._number(f"{name}_{part}", value) for part, value in (("loc", loc), ("scale", scale)))
            if loc.shape != scale.shape or not loc.isfinite().all() or not ((scale > 0) & scale.isfinite()).all():
                raise ValueError(
                    f"{name}_scale: expected finite numbers above 0 of the shape of {name}_loc, got {scale.tolist()} beside "
                    f"{loc.tolist()}; Standardized.from_tasks(learner, tasks) computes both"
                )
        moved = bool((self.y_loc != 0).any() or (self.y_scale != 1).any())
        if self._warped and moved:
            raise ValueError(
                "y_scale: expected targets of a Warped learner as they are, y_loc 0 and y_scale 1, got "
                f"{self.y_loc.tolist()} and {self.y_scale.tolist()}; standardise within the warp, "
                "Warped.from_tasks(learner, warp, tasks)"
            )
        if self._discrete and moved:
            raise ValueError(
                "y_scale: expected targets of a discrete likelihood as they are, y_loc 0 and y_scale 1, got "
                f"{self.y_loc.tolist()} and {self.y_scale.tolist()}; leave both out"
            )

    def _number(self, name: str, value: Any) -> Tensor:
        """Keeps a number or several, where the learner is."""
        given = as_tensor(value, name).detach()
        given = given if given.is_floating_point() else given.to(torch.get_default_dtype())
        self.register_buffer(name, move(given, self.learner).clone())
        return getattr(self, name)

    @classmethod
    def from_tasks(cls, learner: Learner, tasks: Dataset[Episode], *, episodes: int = 20) -> Standardized:
        """Standardises a learner by the mean and the standard deviation of the points of tasks.

        Args:
            learner: the learner to wrap.
            tasks: the meta-training tasks, never those of a test.
            episodes: how many of their episodes to read; all, where there are fewer.

        Raises:
            ValueError: x is not a tensor ``(B, N, D)``: only plain features can be scaled; or the tasks' unit is so small that
                their floating type cannot hold variances, in which the answers are.

        Example:
            >>> tasks = Sinusoids(noise=0.1)
            >>> learner = Standardized.from_tasks(MAML(MLP(1, 1), Gaussian()), tasks)
            >>> learner(tasks[0].support)(tasks[0].query.x).batch_shape
            torch.Size([25, 15])
        """
        _check_unscaled(learner)
        if episodes < 1:
            raise ValueError(f"episodes: expected at least 1 to compute the scaling from, got {episodes}")
        first = tasks[0].support
        leaves = tree_leaves(first.x)
        if not isinstance(first.x, Tensor) and any(leaf.is_floating_point() for leaf in leaves):
            raise ValueError(
                f"tasks: expected x to be one tensor (B, N, ...), or whole numbers, which stay as they are, got "
                f"{type(first.x).__name__} of {', '.join(str(leaf.dtype) for leaf in leaves)}; scale its floating entries "
                "yourself, and give Standardized the numbers of y, with x_loc=0.0 and x_scale=1.0"
            )
        everything = [concatenate(*tasks[i]) for i in range(min(episodes, len(tasks)))]  # type: ignore[arg-type]
        for given in everything:
            check(given, "tasks")
        x_loc, x_scale = torch.tensor(0.0), torch.tensor(1.0)
        if leaves[0].is_floating_point():
            x_loc, x_scale = _moments("x", torch.cat([given.x[seen(given)] for given in everything]))
        if _is_discrete(learner) or not first.y.is_floating_point():
            return cls(learner, x_loc=x_loc, x_scale=x_scale)
        y = torch.cat([given.y[seen(given)] for given in everything])
        there = torch.cat([entries(given)[seen(given)] for given in everything])
        if there.all():
            y_loc, y_scale = _moments("y", y)
        else:  # each entry by the points at which it is observed
            columns = [_moments("y", a[b]) for a, b in zip(y.flatten(1).T, there.flatten(1).T, strict=True)]
            y_loc, y_scale = (torch.stack(part).reshape(y.shape[1:]) for part in zip(*columns, strict=True))
        return cls(learner, x_loc=x_loc, x_scale=x_scale, y_loc=y_loc, y_scale=y_scale)

    def _scale(self, given: Points) -> Points:
        values = [("x", leaf, self.x_loc) for leaf in tree_leaves(given.x)] + [("y", given.y, self.y_loc)]
        for field, value, loc in values:
            if (
                loc.dim() and value.shape[2:] != loc.shape and value.is_floating_point()
            ):  # it would broadcast in silence
                raise ValueError(
                    f"{field}: expected the event shape {tuple(loc.shape)} of the tasks that the scaling was computed from, "
                    f"got {tuple(value.shape[2:])}; give the same features and targets, or build another Standardized"
                )
        there = seen(given)

        def scale(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            return (leaf - self.x_loc) / self.x_scale * there.reshape(there.shape + (1,) * (leaf.dim() - 2))

        x = tree_map(scale, given.x)
        if not given.y.is_floating_point():
            return Points(x, given.y, given.mask)
        y = (given.y - self.y_loc) / self.y_scale
        return Points(
            x, y * given.mask.reshape(given.mask.shape + (1,) * (given.y.dim() - given.mask.dim())), given.mask
        )

    def forward(self, support: Points) -> Posterior:
        inner = self.learner(self._scale(support))
        # Cloned: the posterior must not follow if another scaling is loaded into the learner.
        x_loc, x_scale, y_loc, y_scale = (b.clone() for b in (self.x_loc, self.x_scale, self.y_loc, self.y_scale))

        def scale(x: Any) -> Any:
            return tree_map(lambda leaf: (leaf - x_loc).div_(x_scale) if leaf.is_floating_point() else leaf, x)

        def unscale(distribution: Distribution) -> Distribution:
            return affine(distribution, y_loc, y_scale)

        def further(points: Points) -> Points:
            y = (points.y - y_loc) / y_scale if points.y.is_floating_point() else points.y
            return Points(scale(points.x), y, points.mask)

        scaled = support.y.is_floating_point() and not (self._discrete or self._warped)
        return Transformed(inner, support, scale, unscale if scaled else None, further)

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(Episode(self._scale(episode.support), self._scale(episode.query)))


def _check_unscaled(learner: Learner) -> None:
    if not isinstance(learner, Learner) or isinstance(learner, Standardized):
        raise TypeError(
            f"learner: expected a learner that is not standardised yet, got {type(learner).__name__}; "
            "wrap the network in a learner such as MAML, and that once"
        )


def _is_discrete(learner: Learner) -> bool:
    return any(isinstance(part, Likelihood) and part.discrete for part in learner.modules())


def _moments(name: str, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of data ``(n, *E)``, each ``*E``; of a constant 1, so that it is only centred."""
    check_spread(values, values.dtype, f"tasks: {name}")
    varies = (values != values[:1]).any(0)
    return values.mean(0), torch.where(varies, values.std(0, correction=0), 1.0)
