"""Where training starts the scales of learners that tell classes apart by distances: at the first tasks' features."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points, concatenate, move
from bayesmeta.evaluation import evaluating
from bayesmeta.learner import Learner
from bayesmeta.posteriors import starting

__all__ = ["start_classes"]

_TASKS = 8
"""How many of the first episode's tasks are read."""


def start_classes(learner: Learner, episode: Episode) -> None:
    """Starts what nobody has set of `PrototypicalNetwork(scaled=True)` and `GeMCL(isotropic=True)`, wrapped or not.

    They take their scales from the spread of the first tasks' features, within classes and between them, as these learners see
    them (`bayesmeta.posteriors.class_moments`). Queries of labels that their task's support has not are left out: those outside
    are of many classes.

    Args:
        learner: any learner; one without such parts is left as it is.
        episode: the first one.
    """
    if not any(hasattr(part, "start") and isinstance(part, Learner) for part in learner.modules()):
        return
    support, query = (Points(*tree_map(lambda leaf: leaf[:_TASKS], tuple(part))) for part in move(episode, learner))
    if query.y.dim() == 2:  # one label a point
        taught = (query.y[:, :, None] == support.y[:, None]) & support.mask[:, None]  # (B, M, N)
        query = query._replace(mask=query.mask & taught.any(-1))
    with evaluating(learner), torch.no_grad(), starting() as found:
        learner(concatenate(support, query))
    for part, embedded in found:
        part.start(embedded)  # type: ignore[operator]
