"""Meta-experience replay: steps on one point after the other, old ones and then the new, and a part of that way.

Riemer, Cases, Ajemian, Liu, Rish, Tu & Tesauro 2019, "Learning to Learn without Forgetting by Maximizing Transfer and Minimizing
Interference" (MER), https://arxiv.org/abs/1810.11910 (algorithm 1, with one batch for each new point: its β and γ are then one
number). With k - 1 points from a reservoir and the new one as the k-th,

    φ_0 = θ,   φ_j = φ_{j-1} - α ∇ℓ(φ_{j-1}; x_j, y_j),   θ <- θ + γ (φ_k - θ).

That is Reptile's step on the past and the present: in expectation it lowers the error of all these points, and raises the inner
products of their gradients.
"""

from __future__ import annotations

from typing import final

from torch import nn

from bayesmeta.border import check_positive
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, descend
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, support_error
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Replay, Step, check_replay, in_turn, joined, replayed

__all__ = ["MER"]


@final
class MER(Learner):
    """Reptile over each new point of a stream and some that were kept.

    As in `ExperienceReplay` there is nothing to meta-train, though one may, and an update goes on with the pass.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are where the pass begins.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        rate: α, the size of a step on one point.
        part: γ, how much of the way that the steps lead is gone, at most 1.
        points: how many new points come at once.
        memory: how many points a task keeps: every one that it was told with the same probability.
        replay: k - 1, how many of these are gone through before the new ones, drawn anew each time.
        seed: of the points that are kept and recalled.

    Raises:
        ValueError: settings out of range, or a network with batch normalisation, which one point at a time has no statistics for.

    Example:
        >>> posterior = MER(MLP(1, 1), Gaussian(), memory=100)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        rate: float = 0.1,
        part: float = 0.3,
        points: int = 1,
        memory: int = 200,
        replay: int = 9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_replay(network, likelihood, rate, Replay(points, memory, replay, seed))
        check_positive("part", part, most=1.0)
        self.network = network
        self.likelihood = likelihood
        self.rate = rate
        self.part = part
        self.points, self.memory, self.replay, self.seed = points, memory, replay, seed

    def forward(self, support: Points) -> Posterior:
        likelihood, rate, part = self.likelihood, self.rate, self.part

        def step(network: Frozen) -> Step:
            def move(weights: Params, new: Points, old: Points) -> Params:
                there = weights
                for point in in_turn(joined(old, new)):
                    there = descend(support_error(network, likelihood, point), there, 1, rate)
                return {name: value + part * (there[name] - value) for name, value in weights.items()}

            return move

        replay = Replay(self.points, self.memory, self.replay, self.seed)
        return replayed(self.network, likelihood, support, step, replay, strategy=self.strategy)
