"""Prototypical networks: a class is the mean of its support's features, and a query goes to the nearest.

Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning", https://arxiv.org/abs/1703.05175 (equations 1 and 2):

    p(y = k | x) ∝ exp(-‖f(x) - c_k‖²),   c_k the mean of f over the support points of class k.

As ‖f(x)‖² is common to all classes, that is a linear head with weights 2c_k and biases -‖c_k‖² (their section 2.4).
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn import functional as F

from bayesmeta.data import Points, check_count
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner, Posterior
from bayesmeta.likelihoods import Categorical
from bayesmeta.networks import check_network, check_padding
from bayesmeta.posteriors import PointEstimate, Transformed

__all__ = ["PrototypicalNetwork"]


@final
class PrototypicalNetwork(Learner):
    """Nearest class mean in a learned feature space, by squared Euclidean distance: no inner loop, no weights but the features'.

    A class without support points has the mean of all support features for a prototype; without any support all classes
    are equally likely. There is no doubt about the function: all uncertainty is aleatoric.

    Args:
        features: the body, any module from ``(N, *X)`` to features ``(N, F)``.
        classes: W, the number of classes of a task.

    Raises:
        ValueError: fewer than two classes, features with running statistics, or at a call labels of W or more.

    Example:
        >>> learner = PrototypicalNetwork(nn.Identity(), classes=2)
        >>> support = points(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), [0, 1], classes=2)
        >>> learner(support)([[0.1, 0.2]]).probs.round(decimals=1)  # logits -0.05 and -1.45
        tensor([[[0.8000, 0.2000]]])
    """

    def __init__(self, features: nn.Module, classes: int) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        check_network(features, "features")
        self.features = features
        self.classes = classes
        self.likelihood = Categorical()

    def forward(self, support: Points) -> Posterior:
        check_padding(self.features, support.mask, "support")
        if int(support.y.max()) >= self.classes:
            raise ValueError(
                f"support.y: expected labels 0 to {self.classes - 1}, got {int(support.y.max())}; number each task's classes "
                f"from 0, or build the learner with classes={int(support.y.max()) + 1}"
            )
        embed = Frozen(self.features, self.strategy).over_tasks
        embedded = embed(support.x)  # (B, N, F)
        member = F.one_hot(support.y.long(), self.classes).to(embedded) * support.mask[..., None]  # (B, N, W)
        count = member.sum(1)[..., None]  # (B, W, 1)
        total = member.mT @ embedded  # (B, W, F)
        anywhere = total.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
        prototypes = torch.where(count > 0, total / count.clamp(min=1), anywhere)
        weights = {"weight": 2 * prototypes, "bias": -prototypes.square().sum(-1)}
        head = nn.Linear(embedded.shape[-1], self.classes, device="meta")  # its parameters are the task's own
        inner = PointEstimate(Frozen(head, self.strategy), self.likelihood, weights, support._replace(x=embedded))
        return Transformed(inner, support, embed)
