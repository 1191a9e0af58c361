"""Meta-training on one family after another, with a Gaussian over what tasks share that carries over from each to the next.

Yap, Ritter & Barber 2021, "Addressing Catastrophic Forgetting in Few-Shot Problems" (BOMVI), https://arxiv.org/abs/2005.00146.
With q_t(θ) = N(μ_t, diag(σ_t²)) over the shared parameters after family t, family t + 1 of T targets descends

    E_q [L(θ)] + (1/T) KL(q ‖ q_t),      θ = μ + σ ε,   ε ~ N(0, I),

L the mean loss of a target; q_0 = N(θ_0, s²) around the parameters as they were given.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import standard_normal

__all__ = ["ConsolidatedVI"]


@final
class ConsolidatedVI(Learner):
    """A learner whose shared parameters are a Gaussian, which each family of tasks takes over from the one before.

    ``fit(learner, first)``, then ``learner.consolidate()``, which needs no tasks, then ``fit(learner, second)`` with a new
    optimiser, and so on. Parameters that a family did not settle stay wide, and are free for the next one. `Consolidated` is
    the cheaper relative: it trains as ever, and looks at the curvature at the end.

    A loss is of one draw of the parameters, by torch's global generator. Posteriors and predictions are those of the mean.

    Args:
        learner: any learner. Parameters that are frozen now are no part of the Gaussian.
        targets: T, how many targets a family has in all, those of every task's query: the fewer, the nearer the parameters stay
            to those of the families before. Where tasks are drawn without end, it is how much a family is to count.
        scale: the initial σ of every parameter; a wide one drowns the first gradients in noise.
        prior_scale: s, the standard deviation of q_0.

    Raises:
        TypeError: the learner is none.
        ValueError: it has no parameters to train, or a number is out of range.

    Example:
        >>> learner = ConsolidatedVI(MAML(MLP(1, 1), Gaussian()), targets=100_000)
        >>> _ = fit(learner, Sinusoids(), steps=2, progress=False)
        >>> learner.consolidate()
        >>> _ = fit(learner, Sinusoids(amplitudes=(3.0, 9.0)), steps=2, progress=False)
    """

    anchor: Tensor
    """μ_t, all trained parameters in a row ``(P,)``."""
    anchor_log_scale: Tensor
    """log σ_t, ``(P,)``."""

    def __init__(self, learner: Learner, targets: int, *, scale: float = 0.01, prior_scale: float = 1.0) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as MAML(...), got {type(learner).__name__}")
        check_count("targets", targets)
        check_positive("scale", scale, finite=True)
        check_positive("prior_scale", prior_scale, finite=True)
        self.learner = learner
        self.targets = targets
        self._names = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
        if not self._names:
            raise ValueError("learner: expected parameters to train, got none; unfreeze some with requires_grad_(True)")
        row = self._mean().detach()
        self.log_scale = nn.Parameter(torch.full_like(row, scale).log())
        self.register_buffer("anchor", row.clone())
        self.register_buffer("anchor_log_scale", torch.full_like(row, prior_scale).log())

    def _mean(self) -> Tensor:
        return torch.cat([self.learner.get_parameter(name).reshape(-1) for name in self._names])

    def forward(self, support: Points) -> Posterior:
        return self.learner(support)

    def divergence(self) -> Tensor:
        """KL(q ‖ q_t), a scalar in nats."""
        ratio = self.log_scale - self.anchor_log_scale
        away = (self._mean() - self.anchor) * (-self.anchor_log_scale).exp()
        return 0.5 * ((2 * ratio).exp() + away.square() - 1 - 2 * ratio).sum()

    def loss(self, episode: Episode) -> Tensor:
        mean = self._mean()
        drawn = mean + self.log_scale.exp() * standard_normal(len(mean), like=mean)
        frozen, first = Frozen(self.learner, self.strategy), 0
        for name in self._names:
            own = self.learner.get_parameter(name)
            frozen.state[name] = drawn[first : (first := first + own.numel())].view_as(own)
        value: Tensor = frozen.run(lambda learner, episode: learner.loss(episode), episode)
        return value + self.divergence() / self.targets

    @torch.no_grad()
    def consolidate(self) -> None:
        """Takes the Gaussian as it is for the prior of what comes."""
        self.anchor.copy_(self._mean())
        self.anchor_log_scale.copy_(self.log_scale)
