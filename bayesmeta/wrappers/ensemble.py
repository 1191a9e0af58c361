"""Several learners as one: the mixture of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.answers import Functions, Joint
from bayesmeta.border import as_tensor
from bayesmeta.data import Episode, Points, move
from bayesmeta.distributions import blend, choose, uncertainty
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Ensemble"]


@final
class Ensemble(Learner):
    """K learners whose predictions are mixed, in equal parts if nothing else is said: a deep ensemble.

    Lakshminarayanan, Pritzel & Blundell 2017, https://arxiv.org/abs/1612.01474. Learners that differ in their starts, or in the
    tasks that each was trained on, disagree where the data do not decide; the mixture's spread holds that. `fit` trains all at
    once, on the mean of their losses; members may as well be trained before, each by itself.

    Args:
        learners: K of them, whose predictions are of one family, or all of real numbers (see `bayesmeta.distributions.blend`).
        weights: of the learners in the mixture, K numbers from 0 on, of which one is above; they are divided by their sum, and
            kept in a buffer. In equal parts if None.

    Raises:
        ValueError: there is no learner, or the weights are not so.

    Example:
        >>> learner = Ensemble([MAML(MLP(1, 1), Gaussian()) for _ in range(3)])
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    weights: Tensor

    def __init__(self, learners: Sequence[Learner], weights: Any = None) -> None:
        super().__init__()
        if not len(learners) or not all(isinstance(learner, Learner) for learner in learners):
            raise ValueError(f"learners: expected at least one learner, got {learners!r}; e.g. [MAML(...), MAML(...)]")
        self.learners = nn.ModuleList(learners)
        given = as_tensor([1.0] * len(learners) if weights is None else weights, "weights").detach()
        if given.shape != (len(learners),) or not (given >= 0).all() or not 0 < given.sum() < torch.inf:
            raise ValueError(
                f"weights: expected {len(learners)} numbers from 0 on, one above it, got {weights!r}; one a learner"
            )
        shares = (given / given.sum()).to(torch.get_default_dtype())
        self.register_buffer("weights", move(shares, self.learners).clone())

    def forward(self, support: Points) -> Posterior:
        return _Mixed([learner(support) for learner in self.learners], self.weights.clone(), support)

    def loss(self, episode: Episode) -> Tensor:
        members = [learner for learner in self.learners if isinstance(learner, Learner)]
        return torch.stack([learner.loss(episode) for learner in members]).mean()


class _Mixed(Posterior):
    """Posteriors in parts."""

    _of_tasks = ("members",)

    def __init__(self, members: Sequence[Posterior], weights: Tensor, support: Points) -> None:
        super().__init__(support)
        self.members, self.weights = members, weights

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return blend([member._predictive(x, samples) for member in self.members], self.weights.log())

    def _joints(self, x: Any) -> Joint:
        each = [member._joints(x) for member in self.members]
        if len({len(joint.mean) for joint in each}) > 1 or (self.weights != self.weights[0]).any():
            return super()._joints(x)  # parts that are not equal
        return Joint(*(torch.cat(parts) for parts in zip(*each, strict=True)))

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.members = [member._updated(points) for member in self.members]
        return later

    def _functions(self, samples: int) -> Functions:
        members = [member._functions(samples) for member in self.members]
        chosen = torch.multinomial(self.weights, samples, replacement=True, generator=generator(self.weights.device))
        return lambda x, own: choose([member(x, own) for member in members], chosen)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        parts = [member._decompose(x, samples) for member in self.members]
        each = zip(self.weights, parts, strict=True)
        weighed = [torch.where(weight > 0, weight * part, 0.0) for weight, (part, _) in each]  # parts may be infinite
        aleatoric = torch.stack(weighed).sum(0)
        total = uncertainty(self._predictive(x, samples))
        return aleatoric, torch.where(total.isinf(), total, (total - aleatoric).clamp(min=0))
