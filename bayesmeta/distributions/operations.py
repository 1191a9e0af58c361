"""Operations on distributions of a known family: mixtures of draws, marginals, affine maps, temperatures, draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.distributions.family import Family, Kind, family, unknown

__all__ = [
    "affine",
    "apart",
    "centre",
    "has_classes",
    "has_labels",
    "is_known",
    "kind",
    "log_prob",
    "marginals",
    "mixture",
    "sample",
    "select",
    "stack",
    "temper",
]


def kind(d: Distribution) -> Kind:
    """What the targets are: ``"real"`` numbers, ``"counts"``, or ``"classes"``, which yes or no are too.

    Example:
        >>> kind(Bernoulli()(torch.zeros(4, 1)))
        'classes'
    """
    return family(family(d).leaf(d)).kind


def is_known(d: Distribution) -> bool:
    """Whether the family of a distribution is registered; of others `kind` says real numbers."""
    return type(family(family(d).leaf(d))) is not Family


def has_classes(d: Distribution) -> bool:
    """Whether the targets are classes, or yes or no, rather than numbers."""
    return kind(d) == "classes"


def has_labels(d: Distribution) -> bool:
    """Whether the targets are labels 0 to W - 1, one or several a point."""
    return isinstance(family(d).leaf(d), torch.distributions.Categorical)


def log_prob(d: Distribution, y: Tensor, mask: Tensor) -> Tensor:
    """log p of the observed part of y under predictions of batch ``(B, M)``, 0 where nothing is observed: ``(B, M)``.

    Args:
        d: predictions of event ``*Y``.
        y: targets ``(B, M, *Y)``.
        mask: which points are observed, ``(B, M)``, or which entries, ``(B, M, *Y)``; the others are integrated out.

    Raises:
        TypeError: some entries are to be left out of a distribution whose entries are not independent, in each part of it.

    Example:
        >>> d = Normal(torch.zeros(1, 1, 2), 1.0).to_event(1)
        >>> log_prob(d, torch.zeros(1, 1, 2), torch.tensor([[[True, False]]]))
        tensor([[-0.9189]])
    """
    if mask.dim() == y.dim() - len(d.event_shape):
        value: Tensor = d.log_prob(y).masked_fill(~mask, 0.0)
        return value
    return family(d).log_prob(d, y, mask)


def mixture(draws: Distribution, log_weights: Tensor | None = None) -> Distribution:
    """The mixture over the first batch dimension: ``(S, B, M)`` to ``(B, M)``, with the event shape kept.

    Args:
        draws: one distribution a draw, batch ``(S, ...)``.
        log_weights: ``(S, ...)``, broadcast against the batch, not necessarily normalised; equal weights if None.

    Classes collapse to one `Categorical` or `Bernoulli` of the mean probabilities, a single draw to itself; all else becomes a
    `MixtureSameFamily`. Labels of several entries (tokens, pixels) collapse entry by entry: how they hang together stays in the
    draws.

    Example:
        >>> mixture(Normal(torch.tensor([[-1.0], [1.0]]), 1.0)).mean
        tensor([0.])
    """
    batch = draws.batch_shape
    if log_weights is not None and log_weights.dim() != len(batch):
        raise ValueError(
            f"log_weights: expected {len(batch)} dimensions as the batch {tuple(batch)} has, got {tuple(log_weights.shape)}; "
            "add dimensions of size 1, e.g. log_weights[..., None]"
        )
    if batch[0] == 1:
        single: Distribution = family(draws).map(draws, lambda p: p[0])
        return single
    leaf = family(draws).leaf(draws)
    if not family(leaf).parameters:
        raise unknown(leaf, "of a known family")
    like: Tensor = getattr(leaf, family(leaf).parameters[0])
    if log_weights is None:
        log_weights = like.new_zeros(batch[0], *[1] * (len(batch) - 1))
    mixed: Distribution = family(draws).mix(draws, log_weights.to(like))
    return mixed


def stack(distributions: Sequence[Distribution]) -> Distribution:
    """K distributions of one family, batch ``(...)``, as one of batch ``(K, ...)``.

    Raises:
        TypeError: they are of several families.

    Example:
        >>> stack([Normal(torch.zeros(2), 1.0), Normal(torch.ones(2), 1.0)]).mean
        tensor([[0., 0.],
                [1., 1.]])
    """
    names = {family(d).name(d) for d in distributions}
    if len(names) > 1:
        raise TypeError(
            f"distributions: expected one family, got kinds {' and '.join(sorted(names))}; use learners of one kind"
        )
    columns = iter(list(zip(*map(_parameters, distributions), strict=True)))
    result: Distribution = family(distributions[0]).map(distributions[0], lambda _: torch.stack(next(columns)))
    return result


def _parameters(d: Distribution) -> list[Tensor]:
    found: list[Tensor] = []

    def note(parameter: Tensor) -> Tensor:
        found.append(parameter)
        return parameter

    family(d).map(d, note)
    return found


def select(draws: Distribution, index: Tensor, *, own: bool = False) -> Distribution:
    """Chooses draws by task: batch ``(K, B, M)`` and an index ``(S, B)`` into K give batch ``(S, B, M)``.

    With `own` the batch is ``(K, B, S M)``, at M points for each of the S choices in turn.
    """
    tasks = torch.arange(index.shape[1], device=index.device)
    place = torch.arange(len(index), device=index.device)[:, None]
    size = (len(index), draws.batch_shape[2] // len(index))
    chosen: Distribution = family(draws).map(
        draws, lambda p: p.unflatten(2, size)[index, tasks, place] if own else p[index, tasks]
    )
    return chosen


def apart(values: Any, samples: int) -> Any:
    """Tensors or predictions at points of S functions in turn, ``(B, S M, ...)``, by function: ``(S, B, M, ...)``.

    Example:
        >>> apart(torch.zeros(3, 2 * 5, 1), 2).shape
        torch.Size([2, 3, 5, 1])
    """
    if isinstance(values, Tensor):
        return values.unflatten(1, (samples, values.shape[1] // samples)).movedim(1, 0)
    return family(values).map(values, lambda p: apart(p, samples))


def marginals(d: Distribution) -> Distribution:
    """The distribution of each entry of the event by itself: event dimensions become batch dimensions.

    Example:
        >>> marginals(Normal(torch.zeros(5, 2), 1.0).to_event(1)).batch_shape
        torch.Size([5, 2])
    """
    single: Distribution = family(d).marginals(d)
    return single


def affine(d: Distribution, loc: Tensor, scale: Tensor) -> Distribution:
    """The distribution of ``loc + scale * y``, of the same family. `loc` and `scale` broadcast against ``*Y``; scale > 0.

    Example:
        >>> affine(Normal(torch.zeros(1), 1.0), torch.tensor(3.0), torch.tensor(2.0))
        Normal(loc: tensor([3.]), scale: tensor([2.]))
    """
    moved: Distribution = family(d).affine(d, loc, scale)
    return moved


def centre(d: Distribution) -> Tensor:
    """What `temper` spreads real targets around: the mean, ``(..., *Y)``, of warped numbers that of their warps, seen through it.

    Example:
        >>> centre(Normal(torch.ones(1), 1.0))
        tensor([1.])
    """
    return family(d).centre(d)


def temper(d: Distribution, temperature: Tensor, centre: Tensor | None = None) -> Distribution:
    """The same predictions with more or less confidence: surer below a temperature of 1, in more doubt above it.

    Classes: probabilities to the power 1/τ, normalised (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2). Real
    targets: the distribution of centre + τ (y - centre), so that standard deviations grow by τ; on the scale of their warp, if
    they have one. Counts, which must stay whole, have no temperature: a `NegativeBinomial` learns their spread.

    Args:
        d: predictions, batch ``(...)``, event ``*Y``.
        temperature: τ > 0, a scalar tensor.
        centre: what real targets spread around, see `centre`, by which it is found if None.

    Raises:
        TypeError: the targets are counts.

    Example:
        >>> temper(Normal(torch.ones(1), 1.0), torch.tensor(2.0))
        Normal(loc: tensor([1.]), scale: tensor([2.]))
    """
    tempered: Distribution = family(d).temper(d, temperature, centre)
    return tempered


def sample(d: Any, samples: int) -> Tensor:
    """Draws of each prediction, ``(S, ..., *Y)``, from the library's generator (`bayesmeta.randomness.generator`).

    Example:
        >>> sample(Normal(torch.zeros(4, 3), 1.0), 2).shape
        torch.Size([2, 4, 3])
    """
    with torch.no_grad():
        return family(d).sample(d, samples)
