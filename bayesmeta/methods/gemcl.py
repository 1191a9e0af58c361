"""Classes as Gaussians in a learned feature space, told apart by Bayes' rule: closed-form updates, as classes keep coming.

Banayeeanzade, Mirzaiezadeh, Hasani & Soleymani Baghshah 2021, "Generative vs. Discriminative: Rethinking the Meta-Continual
Learning" (GeMCL, NeurIPS), with the noise and the prior of PCOC in Harrison, Sharma, Finn & Pavone 2020, "Continuous
Meta-Learning without Tasks" (MOCA), https://arxiv.org/abs/1912.08866:

    f(x) | class k ~ N(m_k, σ²),   m_k ~ N(μ, τ²),   diagonal; given n_k points whose features have the sum s_k,
    1/v_k = 1/τ² + n_k/σ²,   m̂_k = v_k (μ/τ² + s_k/σ²),   p(f(x) | k, support) = N(m̂_k, v_k + σ²),
    p(y = k | x, support) ∝ π_k p(f(x) | k, support),   minimise the query's NLL.

f, μ, τ, σ and the weight of a new class are learned. (GeMCL gives each class a noise of its own, with a Gamma prior: Student's t
in the place of the normal. PCOC has π_k by Dirichlet counts; here all classes are equally likely, as in GeMCL.)

Where all features share one τ and one σ, it is the two-covariance model of speaker recognition (Brümmer & de Villiers 2010, "The
Speaker Partitioning Problem"), isotropic. Its densities then enter by a power η that is learned too, p(f(x) | k, support)^η, as F
features that repeat each other say less than F numbers: η F is how many they amount to. The odds against a new class depend on
the n_k points of the others, by v_k.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesmeta.answers import Functions
from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import apart
from bayesmeta.functional import Frozen
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Categorical
from bayesmeta.networks import check_network
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import class_moments, met, on_features
from bayesmeta.randomness import standard_normal

__all__ = ["GeMCL"]


@final
class GeMCL(Learner):
    """Class Gaussians on features that all tasks share, in closed form, with a doubt about every class's mean.

    A label that no point of the support has is a class that is still to come: its features have the prior's predictive
    N(μ, τ² + σ²). Before x is seen, all classes that are known are equally likely, and all others together as likely as
    ``exp(log_new)`` of these, however many labels are left. So the sum of the probabilities of labels without points is that of a
    new class: ``posterior(x).probs[..., seen:].sum(-1)`` in a stream that has come to that many classes. It is learned where
    queries of a training episode have labels that its support has not: ``ClassTasks(..., outside=q)`` and ``classes=ways + 1``;
    by itself too, in a second `fit` of ``log_new`` alone, which leaves the features to what they were trained for.

    Updates are exact in any order, and a posterior has the same size after any number of points. `functions` are draws of the
    classes' means; predictions are in closed form, by Bayes' rule on the means' predictives, and so not the mixture of those.

    Args:
        features: the body, any module from ``(N, *X)`` to features ``(N, F)``, of about unit size at first: scales start at 1.
        size: F, the number of features.
        classes: W, the number of labels: the most that a task or a stream can come to. No weight depends on it, so that it may
            be set anew after training: ``learner.classes = 600``.
        isotropic: whether all features share one τ and one σ, and a learned η says how much they count (`log_evidence`). `fit`
            starts these and μ where the first tasks' features are, so that they need no unit size: for embeddings of a frozen
            network, of which there are many and few classes to learn from.

    Raises:
        ValueError: fewer than two classes, features with running statistics; at a call labels of W or more, or another number of
            features.

    Example:
        >>> learner = GeMCL(nn.Identity(), size=2, classes=3)
        >>> support = points(torch.tensor([[0.0, 0.0], [4.0, 4.0]]), [0, 1], classes=3)
        >>> learner(support)([[0.1, 0.2], [-3.0, 2.0]]).probs.detach().round(decimals=2)  # label 2 is still to come
        tensor([[[0.5400, 0.0600, 0.4100],
                 [0.3100, 0.0100, 0.6900]]])
    """

    def __init__(self, features: nn.Module, size: int, classes: int, *, isotropic: bool = False) -> None:
        super().__init__()
        check_network(features, "features")
        check_count("size", size)
        check_count("classes", classes, least=2)
        self.features = features
        self.size = size
        self.classes = classes
        self.likelihood = Categorical()
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_spread = nn.Parameter(torch.zeros(1 if isotropic else size))
        self.log_noise = nn.Parameter(torch.zeros(1 if isotropic else size))
        self.log_evidence = nn.Parameter(torch.zeros(())) if isotropic else None
        self.log_new = nn.Parameter(torch.zeros(()))

    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """μ, τ² and σ², each ``(F,)``, in float64."""
        log_noise = self.log_noise.double().clamp(-150.0, 150.0)  # of features of any unit
        log_ratio = (self.log_spread.double() - log_noise).clamp(-18.0, 18.0)
        spread, noise = ((2 * part).exp().expand(self.size) for part in (log_noise + log_ratio, log_noise))
        return self.mean.double(), spread, noise

    @torch.no_grad()
    def start(self, embedded: Points) -> None:
        """Takes μ, τ, σ and η from the moments of labelled features ``(B, N, F)``, if it is isotropic and as it was built."""
        own = (self.mean, self.log_spread, self.log_noise, self.log_evidence)
        if any(part is None or part.any() or not part.requires_grad for part in own):
            return
        if (found := class_moments(embedded)) is not None:
            mean, spread, noise, share = found
            for part, value in zip(own, (mean, spread.log() / 2, noise.log() / 2, share.log()), strict=True):
                part.copy_(value)  # type: ignore[union-attr]

    def forward(self, support: Points) -> Posterior:
        check_count("classes", self.classes, least=2)  # it may have been set anew
        features = Frozen(self.features, self.strategy)
        embedded = support._replace(x=features.over_tasks(support.x))
        if embedded.x.shape[2:] != (self.size,):
            raise ValueError(
                f"size: expected the number of features, which have event shape {tuple(embedded.x.shape[2:])}, got {self.size}; "
                f"build the learner with size={embedded.x[0, 0].numel()}, and end the features with nn.Flatten() if need be"
            )
        met(self, embedded)
        new = self.log_new.double().clone()
        evidence = torch.ones_like(new) if self.log_evidence is None else self.log_evidence.double().exp()
        inner = _ClassGaussians(self.likelihood, self.classes, self.prior(), new, evidence, embedded)
        return on_features(inner, support, features)


class _ClassGaussians(Posterior):
    """Every class's mean of features, a normal; by sums over its points: updates add to them.

    Features are centred and scaled, z = (f - μ) / σ, so that the noise is 1 and the prior of a class's mean N(0, ratio).
    """

    _of_tasks = ("total", "count")

    def __init__(
        self,
        likelihood: Categorical,
        classes: int,
        prior: tuple[Tensor, Tensor, Tensor],
        new: Tensor,
        evidence: Tensor,
        support: Points,
    ) -> None:
        super().__init__(support)
        self.classes = classes
        self.likelihood = Frozen(likelihood)
        mean, spread, noise = prior
        self.mean, self.scale, self.ratio = mean.clone(), noise.sqrt(), spread / noise
        self.new, self.evidence = new, evidence
        self.total, self.count = self._sums(support, "support")

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.scale

    def _sums(self, points: Points, name: str) -> tuple[Tensor, Tensor]:
        """The sum of each class's scaled features ``(B, W, F)``, and the number of its points ``(B, W, 1)``."""
        if int(points.y.max()) >= self.classes:
            raise ValueError(
                f"{name}.y: expected labels 0 to {self.classes - 1}, got {int(points.y.max())}; number each task's classes from "
                f"0 as they come, or let the learner have room for more, learner.classes = {int(points.y.max()) + 1}"
            )
        z = self._scaled(points.x)
        member = F.one_hot(points.y.long(), self.classes).to(z) * points.mask[..., None]  # (B, N, W)
        return member.mT @ z, member.sum(1)[..., None]

    def _updated(self, points: Points) -> Posterior:
        total, count = self._sums(points, "points")
        later = self._later()
        later.total, later.count = self.total + total, self.count + count
        return later

    def _means(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of each class's mean, ``(B, W, F)``."""
        variance = self.ratio / (1 + self.ratio * self.count)
        return variance * self.total, variance

    def _log_prior(self) -> Tensor:
        """Before x is seen, ``(B, W)``: 0 for each class that is known; the weight of a new one in equal parts for all others."""
        known = self.count[..., 0] > 0
        left = (~known).sum(1, keepdim=True).clamp(min=1)
        return torch.where(known, 0.0, self.new - left.double().log())

    def log_density(self, x: Tensor) -> Tensor:
        """log p(f(x) | class, support) at features ``(B, M, F)``: ``(B, M, W)``, but for what is the same for all classes."""
        z = self._scaled(x)
        mean, variance = self._means()
        precision = 1 / (1 + variance)
        square = z.square() @ precision.mT - 2 * z @ (precision * mean).mT
        constant = (precision * mean.square() - precision.log()).sum(-1)
        return -0.5 * (square + constant[:, None])

    def _labels(self, log_density: Tensor) -> Distribution:
        logits = (self.evidence * log_density + self._log_prior()[:, None]).log_softmax(-1)
        distribution: Distribution = self.likelihood(logits.to(self.support.x.dtype))
        return distribution

    def _predictive(self, x: Any, samples: int | None = None) -> Distribution:
        return self._labels(self.log_density(x))

    def _functions(self, samples: int) -> Functions:
        mean, variance = self._means()
        noise = standard_normal(samples, 1, *mean.shape[1:], like=mean)  # the same for all tasks
        drawn = mean + variance.sqrt() * noise  # (S, B, W, F)

        def ask(x: Tensor, own: bool) -> Distribution:
            z = self._scaled(x)
            z = apart(z, samples) if own else z
            return self._labels(z @ drawn.mT - 0.5 * drawn.square().sum(-1)[..., None, :])

        return ask
