"""La-MAML: a look ahead at what steps on new points would do to old ones, and learned rates, as points come.

Gupta, Yadav & Paull 2020, "La-MAML: Look-ahead Meta Learning for Continual Learning", https://arxiv.org/abs/2007.13904
(algorithm 2). With the new points x_1 to x_k and some of a memory M, all gradients exact:

    φ_0 = θ,   φ_j = φ_{j-1} - α ∘ ∇ℓ(φ_{j-1}; x_j, y_j),
    L(θ, α) = the mean error of φ_k on the new points and those of M,
    α <- α - η ∇_α L,   θ <- θ - max(0, α) ∘ ∇_θ L   (with the new α, and both gradients at the old one).

A rate falls where a step on the new points works against the old ones (∇_α L is minus their gradients' product), and at zero its
weight is kept as it is. As in the authors' experiments, each of the two gradients is shortened to a largest norm.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from bayesmeta.border import check_positive
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, descend, second_order
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, support_error
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Replay, Step, check_replay, in_turn, joined, replayed

__all__ = ["LaMAML"]


@final
class LaMAML(Learner):
    """Meta-learns online: weights and their rates move, as points come, by what looking ahead says of new and old ones.

    The meta-update is the posterior's `update`, and ``learner(support)`` a pass over the support from the network's own weights
    and equal rates: there is nothing to meta-train, though one may, by the query's NLL after the pass. A posterior holds a task's
    weights, its rates and its memory, of the same size after any number of points. An update goes on with the pass: where parts
    are multiples of `points`, it is as good as all at once.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; its parameters are where the pass begins.
        likelihood: makes the distribution p(y | x) of the network's outputs. Its `error` is descended.
        rate: every weight's rate α at first.
        rate_of_rates: η, the step size of the rates themselves.
        clip: the largest norm of ∇_α L, and of ∇_θ L; ``float("inf")`` leaves them as they are.
        points: k, how many new points come at once.
        memory: how many points a task keeps: every one that it was told with the same probability.
        replay: how many of these stand beside the new ones in L, drawn anew each time.
        seed: of the points that are kept and recalled.

    Raises:
        ValueError: settings out of range, or a network with batch normalisation, which one point at a time has no statistics for.

    Example:
        >>> posterior = LaMAML(MLP(1, 1), Gaussian(), memory=100)(points([0.0, 1.0], [0.0, 1.0]))
        >>> posterior.update(points([2.0], [0.5]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        rate: float = 0.02,
        rate_of_rates: float = 0.1,
        clip: float = 2.0,
        points: int = 10,
        memory: int = 200,
        replay: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_replay(network, likelihood, rate, Replay(points, memory, replay, seed))
        check_positive("rate_of_rates", rate_of_rates)
        check_positive("clip", clip)
        self.network = network
        self.likelihood = likelihood
        self.rate = rate
        self.rate_of_rates = rate_of_rates
        self.clip = clip
        self.points, self.memory, self.replay, self.seed = points, memory, replay, seed

    def forward(self, support: Points) -> Posterior:
        likelihood, rate, size, clip = self.likelihood, self.rate, self.rate_of_rates, self.clip

        def step(network: Frozen) -> Step:
            names = list(network.weights)

            def move(carried: Params, new: Points, old: Points) -> Params:
                def ahead(carried: Params) -> torch.Tensor:
                    weights = {name: carried[name] for name in names}
                    rates = {name: carried[_rate(name)] for name in names}
                    for point in in_turn(new):
                        weights = descend(support_error(network, likelihood, point), weights, 1, rates)
                    return support_error(network, likelihood, joined(old, new))(weights)

                slope = second_order(ahead)(carried)
                by_rates = _shortened({name: slope[_rate(name)] for name in names}, clip)
                by_weights = _shortened({name: slope[name] for name in names}, clip)
                rates = {name: carried[_rate(name)] - size * by_rates[name] for name in names}
                moved = {name: carried[name] - rates[name].clamp(min=0) * by_weights[name] for name in names}
                return moved | {_rate(name): value for name, value in rates.items()}

            return move

        return replayed(
            self.network,
            likelihood,
            support,
            step,
            Replay(self.points, self.memory, self.replay, self.seed),
            more=lambda weights: {_rate(name): torch.full_like(value, rate) for name, value in weights.items()},
            strategy=self.strategy,
        )


def _shortened(slopes: Params, clip: float) -> Params:
    """A gradient, brought to the norm `clip` where it is longer."""
    if clip == float("inf"):
        return slopes
    square = torch.stack([slope.square().sum() for slope in slopes.values()]).sum()
    share = clip / square.clamp(min=clip**2).sqrt()
    return {name: share * slope for name, slope in slopes.items()}


def _rate(name: str) -> str:
    """The name under which a weight's rate is carried on."""
    return f"rate of {name}"
