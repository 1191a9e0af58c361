"""Plain training as points come, beside some of the past: experience replay, and without a memory fine-tuning.

Chaudhry, Rohrbach, Elhoseiny, Ajanthan, Dokania, Torr & Ranzato 2019, "On Tiny Episodic Memories in Continual Learning",
https://arxiv.org/abs/1902.10486 (algorithm 1, with a reservoir): for new points D and as many M as are drawn from the memory,

    θ <- θ - α ∇L_{D ∪ M}(θ).
"""

from __future__ import annotations

from typing import final

from torch import nn

from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, descend
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, support_error
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Replay, Step, check_replay, joined, replayed

__all__ = ["ExperienceReplay"]


@final
class ExperienceReplay(Learner):
    """Gradient steps on the points of a stream in their order, each beside some that were kept: the baseline of streams.

    There is nothing to meta-train, though one may: by the query's NLL after the pass. With ``memory=0`` it is fine-tuning, which
    forgets. What is kept and recalled depends on the seed and on a point's number in its stream alone, so that an update goes on
    with the pass: where parts are multiples of `points`, it is as good as all at once.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are where the pass begins.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        steps: how many steps are taken on each lot of points.
        rate: α, the step size.
        points: how many new points come at once.
        memory: how many points a task keeps: every one that it was told with the same probability.
        replay: how many of these stand beside the new ones, drawn anew for each lot.
        seed: of the points that are kept and recalled.

    Raises:
        ValueError: settings out of range, or a network with batch normalisation, in which old and new points would mix.

    Example:
        >>> posterior = ExperienceReplay(MLP(1, 1), Gaussian(), memory=100)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        steps: int = 1,
        rate: float = 0.1,
        points: int = 10,
        memory: int = 200,
        replay: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_replay(network, likelihood, rate, Replay(points, memory, replay, seed), steps)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate
        self.points, self.memory, self.replay, self.seed = points, memory, replay, seed

    def forward(self, support: Points) -> Posterior:
        likelihood, steps, rate = self.likelihood, self.steps, self.rate

        def step(network: Frozen) -> Step:
            def move(weights: Params, new: Points, old: Points) -> Params:
                return descend(support_error(network, likelihood, joined(old, new)), weights, steps, rate)

            return move

        replay = Replay(self.points, self.memory, self.replay, self.seed)
        return replayed(self.network, likelihood, support, step, replay, strategy=self.strategy)
