"""Metrics of sequences of labels, such as tokens and tags: perplexity, whole sequences, and spans.

Labels of a point are those of an event, ``(B, M, T)``, of which a mask says which are observed. Each is predicted by itself: of
translations the next token after the right ones. Span F1 is that of the CoNLL-2000 shared task (Tjong Kim Sang & Buchholz 2000,
https://aclanthology.org/W00-0726): precision and recall of whole spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import class_probabilities, has_labels
from bayesmeta.metrics.classification import bin_parts, binned
from bayesmeta.metrics.metric import Metric, mean, surprise, total

__all__ = ["ExactMatch", "Perplexity", "SequenceECE", "SpanF1", "TokenF1"]


def _likeliest(distribution: Distribution, given: Points) -> tuple[Tensor, Tensor, Tensor]:
    """The probability of each most probable label, the label, and the mask, each ``(B, M, T)``."""
    if not has_labels(distribution) or len(distribution.event_shape) != 1:
        raise ValueError(
            f"distribution: expected predictions of sequences of labels, got {distribution}; use Categorical(event_dims=1)"
        )
    p, label = class_probabilities(distribution).double().max(-1)
    mask = given.mask if given.mask.dim() == 3 else given.mask[..., None].expand_as(label)
    return p, label, mask


@final
@dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the NLL per label: among how many labels, all alike, one would have to guess."""

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        return surprise(distribution, given)

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums).exp()


@final
@dataclass(frozen=True)
class ExactMatch(Metric):
    """The share of sequences all of whose observed labels are the most probable ones; pooled."""

    @property
    def name(self) -> str:
        return "exact match"

    @property
    def better(self) -> str:
        return "higher"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, label, mask = _likeliest(distribution, given)
        return total(((label == given.y) | ~mask).all(-1).double(), mask.any(-1))

    def reduce(self, sums: Tensor) -> Tensor:
        return mean(sums)


@final
@dataclass(frozen=True)
class SequenceECE(Metric):
    """The ECE of whole sequences: is the most probable one right as often as its probability, the product over labels, says?

    Args:
        bins: the number of bins of confidence.

    Raises:
        ValueError: fewer than one bin.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    @property
    def name(self) -> str:
        return "sequence ECE"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        p, label, mask = _likeliest(distribution, given)
        right = ((label == given.y) | ~mask).all(-1).double()
        return binned(p.masked_fill(~mask, 1.0).prod(-1), right, mask.any(-1), self.bins)

    def gaps(self, sums: Tensor) -> Tensor:
        count, confidence, correct = bin_parts(sums, self.bins)
        return (confidence - correct) / count.sum(-1, keepdim=True)


@dataclass(frozen=True)
class _F1(Metric):
    """2 · found and right / (found + there), of sums over tasks."""

    @property
    def better(self) -> str:
        return "higher"

    def reduce(self, sums: Tensor) -> Tensor:
        return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


@final
@dataclass(frozen=True)
class TokenF1(_F1):
    """F1 of labels other than 0, one by one, pooled (micro): 0 is that of a token in no span."""

    @property
    def name(self) -> str:
        return "token F1"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, label, mask = _likeliest(distribution, given)
        found, there = (label > 0) & mask, (given.y > 0) & mask
        parts = (found & there & (label == given.y), found, there)
        return torch.stack([part.flatten(1).sum(1).double() for part in parts], 1)


@final
@dataclass(frozen=True)
class SpanF1(_F1):
    """F1 of spans, pooled (micro): one is right if its label, where it begins and where it ends are.

    A span is a longest run of one label other than 0; labels that are not observed end it. Two spans of one label that touch are
    one, unless labels tell their beginnings apart.
    """

    @property
    def name(self) -> str:
        return "span F1"

    def statistic(self, distribution: Distribution, given: Points) -> Tensor:
        _, label, mask = _likeliest(distribution, given)
        found, there = (part.masked_fill(~mask, 0) for part in (label, given.y))
        begins_found, begins_there = (_changes(part) & (part > 0) for part in (found, there))
        # Both begin here, with one label, and end together: no difference until one of them ends.
        same_end = _end(found) == _end(there)
        right = begins_found & begins_there & (found == there) & same_end
        return torch.stack([part.flatten(1).sum(1).double() for part in (right, begins_found, begins_there)], 1)


def _changes(label: Tensor) -> Tensor:
    """Where a label differs from the one before, ``(B, M, T)``."""
    return torch.cat([torch.ones_like(label[..., :1], dtype=torch.bool), label[..., 1:] != label[..., :-1]], -1)


def _end(label: Tensor) -> Tensor:
    """Of each place, the last place of the run that it is in."""
    length = label.shape[-1]
    last = torch.cat([_changes(label)[..., 1:], torch.ones_like(label[..., :1], dtype=torch.bool)], -1)
    place = torch.where(last, torch.arange(length, device=label.device), length)
    return place.flip(-1).cummin(-1).values.flip(-1)
