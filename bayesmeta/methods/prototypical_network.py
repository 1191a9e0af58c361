"""Prototypical networks: a class is the mean of its support's features, and a query goes to the nearest.

Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning", https://arxiv.org/abs/1703.05175 (equations 1 and 2):

    p(y = k | x) ∝ exp(-‖f(x) - c_k‖²),   c_k the mean of f over the support points of class k.

Features of another size than the data's differences want another unit: with a learned s > 0, p(y = k | x) ∝ exp(-s ‖f(x) - c_k‖²)
(Oreshkin, Rodríguez López & Lacoste 2018, "TADAM", https://arxiv.org/abs/1805.10123, equation 3). Between features and means that
all have length 1, that is 2s times their cosine, but for a constant (Gidaris & Komodakis 2018, "Dynamic Few-Shot Visual Learning
without Forgetting", https://arxiv.org/abs/1804.09458, section 3.2).

As ‖f(x)‖² is common to all classes, that is a linear head with weights 2s c_k and biases -s ‖c_k‖² (Snell et al.'s section 2.4).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.answers import Functions, repeated
from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import uncertainty
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Categorical
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import class_moments, met, on_features

__all__ = ["PrototypicalNetwork"]


@final
class PrototypicalNetwork(Learner):
    """Nearest class mean in a learned feature space, by squared Euclidean distance: no inner loop, no weights but the features'.

    A class without support points has the mean of all support features for a prototype; without any support all classes
    are equally likely. There is no doubt about the function: all uncertainty is aleatoric.

    Args:
        features: the body, any module from ``(N, *X)`` to features ``(N, F)``.
        classes: W, the number of classes of a task.
        scaled: whether squared distances are multiplied by a learned number s (`log_scale`), which `fit` starts where the first
            tasks' features are; else by 1, as in the paper. Needed for features that nothing trains, such as embeddings of unit
            norm, whose distances are below 2 and so say next to nothing.
        cosine: whether features, and then their means, are brought to length 1, so that only directions count. The mean of a
            class whose features differ much is short, and so near to all queries: so are means of counts of words.

    Raises:
        ValueError: fewer than two classes, features with running statistics, or at a call labels of W or more.

    Example:
        >>> learner = PrototypicalNetwork(nn.Identity(), classes=2)
        >>> support = points(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), [0, 1], classes=2)
        >>> learner(support)([[0.1, 0.2]]).probs.round(decimals=1)  # logits -0.05 and -1.45
        tensor([[[0.8000, 0.2000]]])
    """

    def __init__(self, features: nn.Module, classes: int, *, scaled: bool = False, cosine: bool = False) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        check_network(features, "features")
        self.features = features
        self.classes = classes
        self.cosine = cosine
        self.likelihood = Categorical()
        self.log_scale = nn.Parameter(torch.zeros(())) if scaled else None

    @torch.no_grad()
    def start(self, embedded: Points) -> None:
        """Takes s from labelled features ``(B, N, F)``, if it is as it was built: that of normal classes, η / 2σ² by moments."""
        if self.log_scale is None or self.log_scale or not self.log_scale.requires_grad:
            return
        if (found := class_moments(embedded)) is not None:
            self.log_scale.copy_((found.share / (2 * found.noise)).log())

    def forward(self, support: Points) -> Posterior:
        check_count("classes", self.classes, least=2)  # it may have been set anew
        features = Frozen(self.features, self.strategy)
        embedded = support._replace(x=features.over_tasks(support.x))
        met(self, embedded._replace(x=F.normalize(embedded.x, dim=-1)) if self.cosine else embedded)
        scale = embedded.x.new_ones(()) if self.log_scale is None else self.log_scale.exp()
        return on_features(_Prototypes(self.likelihood, self.classes, scale, self.cosine, embedded), support, features)


class _Prototypes(Posterior):
    """The classes' means of features, by sums over each class's points: updates add to them."""

    _of_tasks = ("total", "count", "prototypes")

    def __init__(self, likelihood: Categorical, classes: int, scale: Tensor, cosine: bool, support: Points) -> None:
        super().__init__(support, samples=1)
        self.classes, self.scale, self.cosine = classes, scale, cosine
        self.likelihood = Frozen(likelihood)
        self._set(*self._sums(support, "support"))

    def _sums(self, points: Points, name: str) -> tuple[Tensor, Tensor]:
        """The sum of each class's features ``(B, W, F)``, and the number of its points ``(B, W, 1)``."""
        if int(points.y.max()) >= self.classes:
            raise ValueError(
                f"{name}.y: expected labels 0 to {self.classes - 1}, got {int(points.y.max())}; number each task's classes "
                f"from 0, or build the learner with classes={int(points.y.max()) + 1}"
            )
        member = F.one_hot(points.y.long(), self.classes).to(points.x) * points.mask[..., None]  # (B, N, W)
        return (member.mT @ self._placed(points.x)).double(), member.sum(1)[..., None].double()

    def _set(self, total: Tensor, count: Tensor) -> None:
        self.total, self.count = total, count
        anywhere = total.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
        means = torch.where(count > 0, total / count.clamp(min=1), anywhere).to(self.support.x.dtype)
        self.prototypes = self._placed(means)

    def _placed(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.cosine else features

    def _updated(self, points: Points) -> Posterior:
        total, count = self._sums(points, "points")
        later = self._later()
        later._set(self.total + total, self.count + count)
        return later

    def _predictive(self, x: Tensor, samples: int | None = None) -> Distribution:
        # Both from the middle of the prototypes: far from 0 the differences of squares would be rounded away.
        x = self._placed(x)
        middle = self.prototypes.mean(1, keepdim=True)
        prototypes = self.prototypes - middle
        logits = 2 * (x - middle) @ prototypes.mT - prototypes.square().sum(-1)[:, None]
        distribution: Distribution = self.likelihood(self.scale * logits)
        return distribution

    def _functions(self, samples: int) -> Functions:
        return repeated(self._predictive, samples)

    def _decompose(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        aleatoric = uncertainty(self._predictive(x))
        return aleatoric, torch.zeros_like(aleatoric)
