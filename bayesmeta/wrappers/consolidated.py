"""Meta-training on one family of tasks after another, without forgetting how to learn the first.

Yap, Ritter & Barber 2021, "Addressing Catastrophic Forgetting in Few-Shot Problems", https://arxiv.org/abs/2005.00146, with
Laplace's approximation over what tasks share, here diagonal. After family t the shared parameters θ are known as N(θ_t, 1/Λ_t),
and family t + 1 descends

    L(θ) + ½ w Σ_i Λ_{t,i} (θ_i - θ_{t,i})²,      Λ_t = Λ_{t-1} + E_tasks [M (∂L_task/∂θ)²] at θ_t,

L_task the loss of one task, a mean over its M query targets, and L the mean of these over tasks: the expectation is the Fisher
information of a task's targets (as sampled, not as modelled), in the unit of L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from bayesmeta.border import check_positive
from bayesmeta.data import Episode, Points, observed
from bayesmeta.evaluation import reading
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior

__all__ = ["Consolidated"]


@final
class Consolidated(Learner):
    """A learner that is trained on one family of tasks after another, and held where the earlier ones need it.

    ``fit(learner, first)``, then ``learner.consolidate(first, episodes=...)``, then ``fit(learner, second)`` with a new
    optimiser, and so on. Before the first consolidation its loss is that of the learner. What is held is all that tasks share:
    parameters, not what is learned of a task. Two buffers of the parameters' size are saved with it.

    Args:
        learner: any learner, trained or to be trained.
        weight: w, how much the past counts: 1 as Bayes' rule has it where the loss is a negative log-likelihood and each family
            had as many tasks; more holds faster. The curvature is that at θ_t, and not known far from it.

    Raises:
        TypeError: the learner is none.
        ValueError: the weight is not a number above 0, or the learner has no parameters.

    Example:
        >>> learner = Consolidated(MAML(MLP(1, 1), Gaussian()))
        >>> first, second = Sinusoids(), Sinusoids(amplitudes=(3.0, 9.0))
        >>> _ = fit(learner, first, steps=2, progress=False)
        >>> learner.consolidate(first, episodes=1)
        >>> _ = fit(learner, second, steps=2, progress=False)
    """

    anchor: Tensor
    """θ_t, all parameters in a row ``(P,)``."""
    precision: Tensor
    """Λ_t, ``(P,)``."""

    def __init__(self, learner: Learner, weight: float = 1.0) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as MAML(...), got {type(learner).__name__}")
        check_positive("weight", weight, finite=True)  # an infinite one times a step of zero is NaN
        if not any(True for _ in learner.parameters()):
            raise ValueError(
                f"learner: expected one with parameters, which can be held, got {type(learner).__name__} without any; there is "
                "nothing to forget: use it as it is"
            )
        self.learner = learner
        self.weight = weight
        row = self._parameters_in_a_row().detach()
        self.register_buffer("anchor", row.clone())
        self.register_buffer("precision", torch.zeros_like(row))

    def _parameters_in_a_row(self) -> Tensor:
        return torch.cat([parameter.reshape(-1) for parameter in self.learner.parameters()])

    def forward(self, support: Points) -> Posterior:
        return self.learner(support)

    def loss(self, episode: Episode) -> Tensor:
        away = self._parameters_in_a_row() - self.anchor
        return self.learner.loss(episode) + 0.5 * self.weight * (self.precision * away.square()).sum()

    def consolidate(self, tasks: Dataset[Episode], *, episodes: int = 20, seed: int = 0) -> None:
        """Takes the parameters as they are for where they shall be held, as fast as tasks of this family ask for.

        Args:
            tasks: of the family that was trained on last; its own training tasks will do.
            episodes: how many of their episodes to read, each task of which takes a gradient of its own.
            seed: of what is random in the loss; torch's global generator is not touched.

        Raises:
            ValueError: there are not so many episodes, or a gradient is not finite.
        """
        parameters = list(self.learner.parameters())
        total, count = torch.zeros_like(self.precision), 0
        with reading(self, tasks, episodes=episodes, seed=seed) as read:
            for index, episode in read:
                for b in range(len(episode.query.mask)):
                    task = tree_map(lambda leaf, b=b: leaf[b : b + 1], episode)
                    with torch.enable_grad():
                        slopes = self._slopes(task, parameters)
                    if not slopes.isfinite().all():
                        raise ValueError(
                            f"tasks: expected finite gradients of the loss, got others at task {b} of episode {index}; train "
                            "the learner first, or look for what its training made infinite"
                        )
                    total += observed(task.query).sum() * slopes.square()
                    count += 1
        self.precision += total / count
        self.anchor.copy_(self._parameters_in_a_row().detach())

    def _slopes(self, task: Episode, parameters: Sequence[Tensor]) -> Tensor:
        """The gradient of the learner's own loss, ``(P,)``; zero of what is frozen or idle."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        found = torch.autograd.grad(self.learner.loss(task), trained, allow_unused=True, materialize_grads=True)
        slopes = dict(zip(map(id, trained), found, strict=True))
        return torch.cat([slopes.get(id(p), torch.zeros_like(p)).reshape(-1) for p in parameters])
