"""`Learner`: what tasks share. ``learner(support)(x)`` is p(y | x, support)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from bayesmeta.border import check, readable
from bayesmeta.border.checks import ADAPTING, check_shapes, check_whole
from bayesmeta.border.explained import explained
from bayesmeta.data import Episode, Points, move, seen
from bayesmeta.functional import Mapped
from bayesmeta.likelihoods import check_support, nll
from bayesmeta.networks import check_padding, parts
from bayesmeta.posterior import Posterior
from bayesmeta.recorded import Setting

__all__ = ["Learner", "check_entries", "check_posterior"]


def check_entries(learner: nn.Module, given: Points, name: str) -> None:
    """Raises a ValueError where points have a mask of entries, and the learner, or one within a wrapper, does not know of it."""
    if given.mask.dim() == 2:
        return
    for part in parts(learner, Learner, alike=True):  # type: ignore[type-abstract]
        wraps = any(isinstance(other, Learner) and other is not part for other in part.modules())
        if not wraps and not part.masks_entries:
            check_whole(given, name, type(part).__name__, also=ADAPTING)


class Learner(Mapped, ABC):
    """What is shared between tasks: an initialisation, a prior, a kernel. Called with a support it gives a posterior.

    A new learner implements `forward`; `loss` where its objective is not the query's NLL under the posterior.
    """

    def __call__(self, support: Points) -> Posterior:
        """The posterior of the support's B tasks; the support is taken to the learner's device and type."""
        check_shapes(support, "support")
        check_entries(self, support, "support")
        if readable(support.mask):
            check(support, "support", like=self)
            check_support(self, support)
            check_padding(self, seen(support), "support")
        with explained(support, "support"):
            posterior: Posterior = super().__call__(move(support, self))
        return posterior

    @abstractmethod
    def forward(self, support: Points) -> Posterior: ...

    masks_entries: ClassVar[bool] = False
    """Whether its losses leave out single entries of a target, by a mask of the shape of y."""
    label_dims: ClassVar[int] = 0
    """How many dimensions a point's labels have, of a learner that gives each to a learner within as a point of its own."""

    only_pickled: ClassVar[bool] = False
    """Whether it holds more than weights and settings, which `save` must refuse: a file that never runs code cannot hold it."""

    def extra_repr(self) -> str:
        """The settings, by which two learners of a type and shape differ."""
        return ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if isinstance(value, (bool, int, float, str, tuple, Setting))
            and not name.startswith("_")
            and name != "training"
        )

    def loss(self, episode: Episode) -> Tensor:
        """The meta-objective, a scalar whose gradient is the meta-update: here the query's NLL per observed point.

        It is a mean over tasks, and so must another objective be: `fit` averages it over parts of an episode with equally many
        tasks, slices or the shares of processes. What depends on no task, such as a prior of the weights, is so counted once.
        """
        return nll(self(episode.support)(episode.query.x), episode.query).mean()


def check_posterior(posterior: Any) -> None:
    """Raises a TypeError where a learner, or anything else, stands in the place of a posterior."""
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"posterior: expected what a learner says after a support, got {type(posterior).__name__}; call the learner, "
            "learner(support)"
        )
