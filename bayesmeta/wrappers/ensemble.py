"""Several learners as one: the mixture of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Episode, Points
from bayesmeta.distributions import mixture, select, stack, uncertainty
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Ensemble"]


@final
class Ensemble(Learner):
    """K learners whose predictions are mixed in equal parts: a deep ensemble.

    Lakshminarayanan, Pritzel & Blundell 2017, https://arxiv.org/abs/1612.01474. Learners that differ in their starts, or in the
    tasks that each was trained on, disagree where the data do not decide; the mixture's spread holds that. `fit` trains all at
    once, on the mean of their losses; members may as well be trained before, each by itself.

    Args:
        learners: K of them, whose predictions are of one family: learners of one kind.

    Raises:
        ValueError: there is no learner.

    Example:
        >>> learner = Ensemble([MAML(MLP(1, 1), Gaussian()) for _ in range(3)])
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        super().__init__()
        if not len(learners) or not all(isinstance(learner, Learner) for learner in learners):
            raise ValueError(f"learners: expected at least one learner, got {learners!r}; e.g. [MAML(...), MAML(...)]")
        self.learners = nn.ModuleList(learners)

    def forward(self, support: Points) -> Posterior:
        return _Mixed([learner(support) for learner in self.learners], support)

    def loss(self, episode: Episode) -> Tensor:
        members = [learner for learner in self.learners if isinstance(learner, Learner)]
        return torch.stack([learner.loss(episode) for learner in members]).mean()


class _Mixed(Posterior):
    """Posteriors in equal parts."""

    _of_tasks = ("members",)

    def __init__(self, members: Sequence[Posterior], support: Points) -> None:
        super().__init__(support)
        self.members = members

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return mixture(stack([member._predictive(x, samples) for member in self.members]))

    def _joints(self, x: Any) -> Joint:
        each = [member._joints(x) for member in self.members]
        if len({len(joint.mean) for joint in each}) > 1:  # parts that are not equal
            return super()._joints(x)
        return Joint(*(torch.cat(parts) for parts in zip(*each, strict=True)))

    def _updated(self, points: Points) -> Posterior:
        later = self._later()
        later.members = [member._updated(points) for member in self.members]
        return later

    def _functions(self, samples: int) -> Functions:
        members = [member._functions(samples) for member in self.members]
        device = self.support.mask.device
        chosen = torch.randint(len(members), (1, samples), device=device, generator=generator(device))

        def ask(x: Any, own: bool) -> Distribution:
            each = stack([member(x, own) for member in members])  # (K, S, B, M)
            return mixture(select(each, chosen))  # of one draw from the member that was chosen: that draw

        return ask

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        parts = [member._decompose(x, samples) for member in self.members]
        aleatoric = torch.stack([part for part, _ in parts]).mean(0)
        predictive = self._predictive(x, samples)
        return aleatoric, (uncertainty(predictive) - aleatoric).clamp(min=0)
