"""Gradient steps in the order in which points come, on features that are meta-learned for them: OML, and with a gate ANML.

Javed & White 2019, "Meta-Learning Representations for Continual Learning" (OML), https://arxiv.org/abs/1905.12588, and Beaulieu,
Frati, Miconi, Lehman, Stanley, Clune & Cheney 2020, "Learning to Continually Learn" (ANML), https://arxiv.org/abs/2002.09571.
With features f, ANML's gate h, and a head of the weights w whose error is ℓ,

    z(x) = f(x), or with a gate f(x) ∘ σ(h(x)),
    w_t = w_{t-1} - α ∘ ∇ℓ(w_{t-1}; z(x_t), y_t),   t = 1 to N in the order of the points,
    minimise over f, h, w_0 and α the query's NLL under w_N,

by the gradient through all N steps. (The papers have one rate α, chosen by hand; here each weight has one, learned, as in
Meta-SGD, https://arxiv.org/abs/1707.09835.)
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.utils._pytree import tree_map

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.functional import Frozen, Params, adaptable, descend
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Likelihood, support_error
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import PointEstimate, check_inner_loop, observed_first, on_features

__all__ = ["OML"]


@final
class OML(Learner):
    """Meta-learns features, a head and its rates, such that steps on one point after the other keep what earlier ones taught.

    The learner is an ordered pass over the support, and an update goes on with it: told part after part, it answers as if it had
    been told all at once in that order, and its state is the head's weights, of the same size after any number of points.

    Train it on episodes whose support stands in the order of a stream and whose query asks about all of it, as those of
    `ClassTasks` and `ClassStreams` do, class after class. What the query asks of classes that came first is the papers' remember
    set: a step that undoes them costs there.

    Training holds the graph of all N steps: of a linear head one copy of its weights each, of others some. For a head of a
    million weights more `points` a step, or shorter streams, keep it in memory. Without gradients nothing is held.

    Args:
        features: the body, any module from ``(N, *X)`` to features ``(N, F)``; not adapted. `Gated` for ANML. For streams of
            thousands of points let features have one length, by ``nn.LayerNorm``: where the lengths of training end, steps of
            learned rates grow out of bounds.
        head: the module from features to outputs ``(N, *O)``; its parameters are where the pass begins. With `classes` a linear
            layer of one output, as which every class's row begins. (A softmax does not see what all rows have in common: under
            `Categorical` only the rates of such a head are learned.)
        likelihood: makes the distribution p(y | x) of the head's outputs. Its `error` is descended.
        classes: W, the number of labels, for classes that keep coming; no weight depends on it, so that it may be set anew after
            training: ``learner.classes = 600``. None where the head gives all outputs.
        points: how many points a step takes, in their order. With several, parts must be multiples of it to be as good as the
            whole.
        rate: every weight's initial step size.

    Raises:
        ValueError: settings out of range, with `classes` a head that is not linear of one output; at a call
            labels of W or more.

    Example:
        >>> learner = OML(nn.Linear(2, 8), nn.Linear(8, 1), Categorical(), classes=3)
        >>> posterior = learner(points(torch.rand(4, 2), [0, 0, 1, 1], classes=3))
        >>> posterior.update(points(torch.rand(2, 2), [2, 2], classes=3))(torch.rand(5, 2)).probs.shape
        torch.Size([1, 5, 3])
    """

    masks_entries = True

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        likelihood: Likelihood,
        *,
        classes: int | None = None,
        points: int = 1,
        rate: float = 0.1,
    ) -> None:
        super().__init__()
        check_network(features, "features")
        check_inner_loop(head, likelihood, 1, rate)
        check_count("points", points)
        if classes is not None:
            check_count("classes", classes, least=2)
            if not isinstance(head, nn.Linear) or head.out_features != 1:
                raise ValueError(
                    f"head: expected nn.Linear(F, 1) where there are classes, whose row each of them begins with, got "
                    f"{' '.join(str(head).split())}; "
                    "build that, or leave classes out and let the head give all outputs"
                )
        self.features = features
        self.head = head
        self.likelihood = likelihood
        self.classes = classes
        self.points = points
        self.rates = nn.ParameterList(torch.full_like(p, rate) for p in adaptable(head).values())

    def forward(self, support: Points) -> Posterior:
        features = Frozen(self.features, self.strategy)
        alone = (
            self.strategy == "auto" and len(support.mask) == 1
        )  # plain steps take a third of the time of mapped ones
        head = Frozen(self.head, "loop" if alone else self.strategy)
        likelihood, size = self.likelihood, self.points
        rates = {name: rate.clone() for name, rate in zip(head.weights, self.rates, strict=True)}

        def learn(points: Points, weights: Params) -> Params:
            points = points if size == 1 else observed_first(points)
            for first in range(0, len(points.mask), size):
                some = Points(*tree_map(lambda leaf, first=first: leaf[first : first + size], tuple(points)))
                weights = descend(support_error(head, likelihood, some), weights, 1, rates)
            return weights

        start = head.weights
        if self.classes is not None:
            check_count("classes", self.classes, least=2)  # it may have been set anew
            start = {name: value.expand(self.classes, *value.shape[1:]) for name, value in start.items()}
        embedded = support._replace(x=features.over_tasks(support.x))
        weights = head.map(lambda points: learn(points, start), embedded)
        inner = PointEstimate(head, likelihood, weights, embedded, lambda *known: head.map(learn, *known))
        return on_features(inner, support, features)
