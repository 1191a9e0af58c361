"""Tests of a posterior as a whole, and the way to ArviZ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bayesmeta.border import check_count
from bayesmeta.border.checks import check_whole
from bayesmeta.data import Episode, Points, move
from bayesmeta.distributions import sample, uniform
from bayesmeta.evaluation.evaluate import answers, check_defined, evaluating, reading
from bayesmeta.metrics import ranks
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded

__all__ = ["Uniformity", "pit", "sbc", "to_arviz"]

Inference = Callable[[Points], Posterior]
"""A learner, an oracle, or any function from a support to a posterior."""


class Uniformity(NamedTuple):
    """Numbers that are uniform on [0, 1] if the posterior is right, one a task, and how likely so uneven ones are by chance."""

    values: Tensor
    """``(T,)``"""
    p_value: float
    """Of the Kolmogorov-Smirnov test; below 0.01 the posterior is wrong, but for one time in 100."""


def sbc(
    inference: Inference,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    draws: int = 99,
    quantity: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Uniformity:
    """Simulation-based calibration: where the truth ranks among draws of the posterior, over tasks of a known source.

    If tasks come from the prior that the posterior rests on, the rank of any quantity of the truth among the same quantity of
    posterior draws is uniform (Talts et al. 2018, https://arxiv.org/abs/1804.06788; Modrák et al. 2023,
    https://arxiv.org/abs/2211.02383, for quantities of data). Here the truth is the query's targets and a draw a whole function
    with noise at the same inputs, so that the quantity tests how points go together, which no metric of single points does.
    Ties are broken at random, and the rank is spread over its interval.

    Args:
        inference: a learner, an oracle, or any function from a support to a posterior.
        tasks: a source whose tasks are independent of each other.
        episodes: how many of its episodes to read.
        draws: of the posterior, a task.
        quantity: from targets ``(..., B, M, Y)``, float64, and the query's mask ``(B, M)`` to numbers ``(..., B)``; the mean of
            the observed targets if None.
        seed: of the random draws; torch's global generator is not touched.
        progress: shows a bar.

    Example:
        >>> tasks = LinearGaussian(batch=50)
        >>> sbc(tasks.oracle, tasks, episodes=2).p_value > 0.01
        True
    """
    check_count("draws", draws)
    quantity = quantity or _mean
    values = []
    with reading(inference, tasks, episodes=episodes, seed=seed, progress=progress) as read:
        for _, (support, query) in read:
            check_whole(query, "query", "sbc")
            functions = inference(support).draws(query.x, draws)
            check_defined(functions, query)
            drawn = sample(functions, 1)[0]
            drawn = quantity(drawn.double().reshape(*drawn.shape[:3], -1), query.mask)
            truth = quantity(query.y.double().reshape(*query.y.shape[:2], -1), query.mask)
            below, equal = (drawn < truth).sum(0), (drawn == truth).sum(0)
            # Uniform among the ties, and within the one of draws + 1 intervals that the rank stands for.
            values.append((below + uniform(truth.shape, truth) * (equal + 1)) / (draws + 1))
    return _tested(values)


def _mean(y: Tensor, mask: Tensor) -> Tensor:
    return (y.mean(-1) * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def pit(
    inference: Inference,
    tasks: Dataset[Episode],
    *,
    episodes: int,
    seed: int = 0,
    progress: bool = False,
) -> Uniformity:
    """The probability integral transform at one observed query point a task: uniform if predictions of single points are right.

    One point, drawn at random, since points of a task are not independent; the first entry of vector targets.

    Args:
        inference, tasks, episodes, seed, progress: as in `sbc`.

    Raises:
        TypeError: the targets are classes.

    Example:
        >>> tasks = LinearGaussian(batch=50)
        >>> pit(tasks.oracle, tasks, episodes=2).p_value > 0.01
        True
    """
    values = []
    with reading(inference, tasks, episodes=episodes, seed=seed, progress=progress) as read:
        for _, episode in read:
            check_whole(episode.query, "query", "pit")
            rank = ranks(answers(inference, episode), episode.query.y).flatten(2)[..., 0]
            chosen = uniform(rank.shape, rank).masked_fill(~episode.query.mask, -1.0).argmax(1)
            values.append(rank.gather(1, chosen[:, None])[:, 0])
    return _tested(values)


def _tested(values: list[Tensor]) -> Uniformity:
    from scipy.stats import kstest  # arviz brings it

    every = torch.cat(values).double().cpu()
    return Uniformity(every, float(kstest(every.numpy(), "uniform").pvalue))


def to_arviz(inference: Inference, episode: Episode, *, draws: int = 500, seed: int = 0) -> Any:
    """An episode's posterior for ArviZ: `InferenceData` of ArviZ 0.x, or a `DataTree` of 1.x.

    The observed data are the support, on which the posterior is conditioned, so that `az.loo` and `az.compare` mean what
    they say; the query is what is predicted. Groups:

    - ``posterior``: ``f``, the mean of each function drawn at the support, or ``p``, its class probabilities;
    - ``posterior_predictive``, ``log_likelihood`` and ``observed_data``: ``y`` at the support; ``constant_data``: its ``x``;
    - ``predictions``: ``y`` at the query; ``predictions_constant_data``: its ``x``, and its targets as ``y_true``.

    Dimensions are chain (one), draw, task, point (of the query new_point), and target, class or feature where there are several.
    Where tasks are ragged, task and point are one dimension, observation (of the query new_observation), with both as its
    coordinates. Draws are independent: no chain could fail to mix. x is left out if it is no tensor.

    Args:
        inference: a learner, an oracle, or any function from a support to a posterior.
        episode: at least one point of its support is observed.
        draws: how many functions.
        seed: of the random draws; torch's global generator is not touched.

    Example:
        >>> tasks = Sinusoids(noise=0.1, batch=2)
        >>> to_arviz(MAML(MLP(1, 1), Gaussian()), tasks[0], draws=10).posterior["f"].dims
        ('chain', 'draw', 'task', 'point')
    """
    import arviz

    check_count("draws", draws)
    for name, part in zip(Episode._fields, episode, strict=True):
        check_whole(part, name, "to_arviz")
    module = inference if isinstance(inference, nn.Module) else None
    with evaluating(module), seeded(seed), torch.no_grad():
        support, query = episode if module is None else move(episode, module)
        posterior = inference(support)
        functions = posterior.draws(support.x, draws)
        classes = isinstance(functions, torch.distributions.Categorical)
        values = {
            "posterior": {"p": functions.probs} if classes else {"f": functions.mean},  # type: ignore[attr-defined]
            "posterior_predictive": {"y": sample(functions, 1)[0]},
            "log_likelihood": {"y": functions.log_prob(support.y)},
            "observed_data": {"y": support.y},
            "constant_data": {"x": support.x},
            "predictions": {"y": sample(posterior.draws(query.x, draws), 1)[0]},
            "predictions_constant_data": {"x": query.x, "y_true": query.y},
        }
    groups: dict[str, Any] = {}
    for group, row in values.items():
        new = group.startswith("predictions")
        drawn = group in ("posterior", "posterior_predictive", "log_likelihood", "predictions")
        mask = (query if new else support).mask.cpu().numpy()
        groups[group] = _dataset(row, mask, "new_" if new else "", drawn)
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**groups)
    from xarray import DataTree

    return DataTree.from_dict(groups)


def _dataset(row: dict[str, Any], mask: Any, prefix: str, drawn: bool) -> Any:
    """One group as xarray's, with named dimensions."""
    import xarray

    ragged = not mask.all()
    places = [f"{prefix}observation"] if ragged else ["task", f"{prefix}point"]
    found = {}
    for name, tensor in row.items():
        if not isinstance(tensor, Tensor):
            continue
        array = tensor.cpu().numpy()
        array = (array[:, mask] if drawn else array[mask]) if ragged else array
        known = (["draw"] if drawn else []) + places
        if array.shape[len(known) :] == (1,) and name != "p":
            array = array[..., 0]
        last = {"p": "class", "x": "feature"}.get(name, "target")
        others = array.ndim - len(known)
        dimensions = known + ([last] if others == 1 else [f"{last}_{axis}" for axis in range(others)])
        found[name] = (["chain", *dimensions], array[None]) if drawn else (dimensions, array)
    data = xarray.Dataset(found)
    axes: dict[Any, Any] = {name: np.arange(size) for name, size in data.sizes.items()}
    if ragged and places[0] in data.sizes:
        task, point = mask.nonzero()
        axes |= {"task": (places[0], task), f"{prefix}point": (places[0], point)}
    return data.assign_coords(axes)
