"""Implicit MAML: the meta-gradient at the solution of the inner problem, whatever path led there.

Rajeswaran, Finn, Kakade & Levine 2019, "Meta-Learning with Implicit Gradients", https://arxiv.org/abs/1909.04630.
The inner problem is proximal (equation 3), φ = argmin L_S(φ) + λ/2 ‖φ - θ‖², and by the implicit function theorem
(equation 6) dL_Q/dθ = (I + ∇²L_S(φ) / λ)⁻¹ ∇L_Q(φ), solved by conjugate gradients with Hessian-vector products.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.border import check_count, check_positive
from bayesmeta.data import Episode, Points
from bayesmeta.functional import Frozen, Params, conjugate_gradient, descend, hessian_product, ravel, unravel
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, nll, support_error
from bayesmeta.posteriors import PointEstimate, check_inner_loop

__all__ = ["ImplicitMAML"]


@final
class ImplicitMAML(Learner):
    """Meta-learns an initialisation by implicit differentiation: memory does not grow with the inner steps.

    The number that `loss` returns is the query's NLL; its gradient for the initialisation is ⟨g, θ⟩ with the
    implicit gradient g held constant.

    Args:
        network: any module from inputs ``(N, *X)`` to outputs ``(N, *O)``; twice differentiable (tanh rather than ReLU)
            where the implicit gradient is to be exact.
        likelihood: makes the distribution p(y | x) of the network's outputs.
        steps: the number of gradient steps on the inner problem (the paper's Omniglot setting is 16); the attribute may be
            changed.
        rate: the inner step size.
        strength: λ, how strongly a task is held to the initialisation (the paper's Omniglot setting is 2).
        iterations: the number of conjugate-gradient iterations by which the implicit gradient is solved for (the paper's is 5).

    Example:
        >>> learner = ImplicitMAML(MLP(1, 1), Gaussian())
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).mean.shape
        torch.Size([1, 1, 1])
    """

    masks_entries = True

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        *,
        steps: int = 16,
        rate: float = 0.01,
        strength: float = 2.0,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        check_inner_loop(network, likelihood, steps, rate)
        self.network = network
        self.likelihood = likelihood
        self.steps = steps
        self.rate = rate
        check_positive("strength", strength)
        check_count("iterations", iterations)
        self.strength = strength
        self.iterations = iterations

    def forward(self, support: Points) -> PointEstimate:
        network = Frozen(self.network, self.strategy)
        start = {name: weight.detach() for name, weight in network.weights.items()}

        def solve(support: Points) -> Params:
            error = support_error(network, self.likelihood, support)

            def proximal(params: Params) -> Tensor:
                distance = sum((params[name] - start[name]).square().sum() for name in params)
                return error(params) + 0.5 * self.strength * distance

            return descend(proximal, start, self.steps, self.rate)

        with torch.no_grad():
            weights = network.map(solve, support)
        return PointEstimate(network, self.likelihood, weights, support)

    def loss(self, episode: Episode) -> Tensor:
        posterior = self(episode.support)
        assert isinstance(posterior, PointEstimate)
        weights = {name: weight.requires_grad_() for name, weight in posterior.weights.items()}
        with torch.enable_grad():
            values = nll(posterior(episode.query.x), episode.query)
            slopes = torch.autograd.grad(
                values.sum(), list(weights.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            outer = dict(zip(weights, slopes, strict=True))

        def solve(support: Points, weights: Params, outer: Params) -> Params:
            error = support_error(posterior.network, self.likelihood, support)

            def product(vector: Tensor) -> Tensor:
                tangent = unravel(vector, weights)
                return vector + ravel(hessian_product(error, weights, tangent)) / self.strength

            return unravel(conjugate_gradient(product, ravel(outer), self.iterations), weights)

        with torch.no_grad():
            implicit = posterior.network.map(solve, posterior.support, weights, outer)
        initial = posterior.network.weights
        linear = torch.stack([(implicit[name] * weight).flatten(1).sum(1) for name, weight in initial.items()]).sum(0)
        return (values + linear - linear.detach()).mean()
