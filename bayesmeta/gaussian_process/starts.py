"""Where training starts a kernel's lengthscale: at the distances of the points that the kernel sees."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from gpytorch.kernels import ArcKernel, DistributionalInputKernel, Kernel, PeriodicKernel, SpectralDeltaKernel
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode, Points, move
from bayesmeta.evaluation import evaluating
from bayesmeta.functional import adaptable, ravel
from bayesmeta.gaussian_process.formulas import dense
from bayesmeta.gaussian_process.kernels import Asked, asked, covariance
from bayesmeta.learner import Learner
from bayesmeta.variational import HyperPosteriorLearner

__all__ = ["start_kernels"]

_TASKS = 8
"""How many of the first episode's tasks are read."""
_IDENTITY = 1e-6
"""Correlations below leave nothing of another point in a prediction of float32."""
_OTHER = (ArcKernel, DistributionalInputKernel, PeriodicKernel, SpectralDeltaKernel)
"""Kernels whose `lengthscale` does not divide distances of points."""


def start_kernels(learner: Learner, episode: Episode) -> None:
    """Starts the lengthscales that nobody has set where the first tasks' points are, and warns of kernels that see none of them.

    gpytorch starts every lengthscale at log 2, whatever the inputs. Points of 100 features of unit variance are 14 apart: their
    kernel matrix is then the identity, whose gradient is zero, and training changes nothing. So each part of a kernel that
    depends on distances over a lengthscale (`RBFKernel`, `MaternKernel`, `RQKernel`, ..., in sums, products and scales of
    kernels too) starts at 1/√2 of the median distance of two points of a task, among the features that it sees and as it sees
    them; with `ard_num_dims` all of its lengthscales do. An `RBFKernel` then begins with a correlation of 1/e between the
    typical two: far from the identity, and short enough for functions that vary within a task.

    What is not as gpytorch made it, or has a prior, or is frozen, or bounded elsewhere, stays. So do the lengthscales, periods
    and frequencies of periodic and spectral kernels, which are not distances.

    A task without known points has its queries for known ones.

    Args:
        learner: any learner, wrapped or not; without a kernel it is left as it is.
        episode: the first one.

    Warns:
        UserWarning: no two points of a task are correlated under a kernel, which then learns nothing.
    """
    if not any(isinstance(part, Kernel) for part in learner.modules()):
        return
    with evaluating(learner), torch.no_grad(), asked() as questions:
        for task in range(min(len(episode.query.mask), _TASKS)):
            known, asked_for = (_observed(part, task) for part in move(episode, learner))
            if asked_for.mask.any():
                learner(known if known.mask.any() else asked_for)(asked_for.x)
    names = {id(part): name for name, part in learner.named_modules()}
    hyper = [part for part in learner.modules() if isinstance(part, HyperPosteriorLearner)]
    before = [ravel(adaptable(part.prior)) for part in hyper]
    seen: dict[int, list[Asked]] = {}
    for question in map(_distinct, questions):
        earlier = seen.setdefault(id(question.kernel), [])
        if not any(
            torch.equal(question.first, one.first) and torch.equal(question.second, one.second) for one in earlier
        ):
            earlier.append(question)  # some learners ask many times
    for key, asked_of in seen.items():
        _start(asked_of)
        _report(names.get(key, "kernel"), asked_of)
    with torch.no_grad():
        for part, old in zip(hyper, before, strict=True):
            part.shift(ravel(adaptable(part.prior)) - old)


def _observed(points: Points, task: int) -> Points:
    """One task without its padding."""
    rows = points.mask[task].flatten(1).any(1) if points.mask.dim() > 2 else points.mask[task]
    return tree_map(lambda leaf: leaf[task : task + 1, rows], points)


def _distinct(question: Asked) -> Asked:
    """Each pair of inputs once: some learners ask of copies of the task."""
    once = torch.unique(torch.cat([question.first, question.second], -2), dim=0)
    first, second = once.split([question.first.shape[-2], question.second.shape[-2]], -2)
    return question._replace(first=first, second=second)


def _start(questions: Sequence[Asked]) -> None:
    kernel = questions[0].kernel
    twin = deepcopy(kernel).double()
    distances: dict[str, list[Tensor]] = {}
    for name, part in twin.named_modules():
        if isinstance(part, Kernel) and part.has_lengthscale and not isinstance(part, _OTHER):
            # Of the instance, so that it notes what this part is given, whatever kernel is around it.
            part.forward = _noting(part.forward, distances.setdefault(name, []))
    with torch.no_grad():
        for question in questions:
            dense(twin, question.first, question.second)
    for name, found in distances.items():
        started: Any = kernel.get_submodule(name)
        apart = torch.cat([torch.zeros(0), *(d[d > 0].cpu() for d in found)])
        raw = started.raw_lengthscale
        asked_for = any(name.startswith("lengthscale") for name in started._priors)  # by a prior
        if raw.any() or not raw.requires_grad or not len(apart) or asked_for:
            continue
        value = apart.median().to(raw) / 2**0.5
        constraint = started.raw_lengthscale_constraint
        if constraint.check(value):
            with torch.no_grad():
                raw.copy_(constraint.inverse_transform(value).expand_as(raw))


def _noting(forward: Callable[..., Any], found: list[Tensor]) -> Callable[..., Any]:
    def noting(first: Tensor, second: Tensor, *arguments: Any, **settings: Any) -> Any:
        found.append(_distance(first, second))
        return forward(first, second, *arguments, **settings)

    return noting


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _report(name: str, questions: Sequence[Asked]) -> None:
    of = covariance(questions[0].kernel)
    largest, apart = 0.0, []
    with torch.no_grad():
        for _, first, second in questions:
            others = _distance(first, second)
            pairs = others > 0
            scale = (of(first, first, True)[..., None] * of(second, second, True)[..., None, :]).sqrt()
            correlation = (of(first, second) / scale).abs()[pairs & (scale > 0)]
            largest = max(largest, float(correlation.max())) if len(correlation) else largest
            apart.append(others[pairs].cpu())
    distances = torch.cat(apart)
    if len(distances) and largest < _IDENTITY:
        warnings.warn(
            f"{name}: expected a kernel under which points of a task are correlated, got a matrix of the first tasks that is the "
            f"identity (the largest correlation is {largest:.0e}), so that it learns nothing; two points are "
            f"{distances.median():.3g} apart (median): set a lengthscale of that size, leave gpytorch's own, which fit replaces, "
            "or normalise the features",
            stacklevel=4,
        )
