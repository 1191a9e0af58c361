"""The one idea: ``learner(support)(x)`` is p(y | x, support)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from bayesmeta.border import queries, readable
from bayesmeta.data import Episode, Points, check, check_shapes, move
from bayesmeta.distributions import mixture, uncertainty
from bayesmeta.functional import Mapped
from bayesmeta.likelihoods import check_support, nll

__all__ = ["Learner", "Posterior", "decompose"]


class Posterior(ABC):
    """What B tasks' supports taught: a value that later updates of the learner do not move.

    ``posterior(x)`` is the predictive distribution of y at x, batch ``(B, M)`` and event ``*Y``.
    ``posterior.draws(x, S)`` are S functions of the posterior, batch ``(S, B, M)``, each coherent across x.

    x is ``(B, M, *X)``; for a single task ``(M, *X)`` will do, and for one feature ``(M,)``. It may be an array, a tensor or
    a list, and is taken to the support's device and floating type.

    A new posterior implements `_draws`, and `_predictive` where it has a closed form; the mixture of
    `samples` draws serves otherwise and is then random: it uses torch's global generator.
    """

    def __init__(self, support: Points, samples: int = 64) -> None:
        self.support = support
        self.samples = samples

    def __call__(self, x: Any) -> Distribution:
        """The predictive distribution at x: batch ``(B, M)``, event ``*Y``."""
        return self._predictive(self._inputs(x))

    def draws(self, x: Any, samples: int) -> Distribution:
        """S functions from the posterior at x: batch ``(S, B, M)``, event ``*Y``. Uses torch's global generator."""
        return self._draws(self._inputs(x), samples)

    @abstractmethod
    def _draws(self, x: Any, samples: int) -> Distribution: ...

    def _predictive(self, x: Any) -> Distribution:
        return mixture(self._draws(x, self.samples))

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        """The aleatoric and the epistemic part at x, each ``(B, M, *Y)``."""
        draws = self._draws(x, samples)
        aleatoric = uncertainty(draws).mean(0)
        if draws.support.is_discrete:  # type: ignore[union-attr]
            return aleatoric, (uncertainty(mixture(draws)) - aleatoric).clamp(min=0)
        return aleatoric, draws.mean.var(0, correction=0)

    def _inputs(self, x: Any) -> Any:
        return tree_map(queries, self.support.x, x)


def decompose(posterior: Posterior, x: Any, samples: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """The uncertainty at x in two parts: total = aleatoric + epistemic.

    Aleatoric is what would remain if the task were known: the noise. Epistemic is what more support points would remove.
    For real targets they are variances, by the law of total variance: E[Var(y | f)] + Var(E[y | f]). For classes they are
    entropies in nats: the mean entropy, and the mutual information of y and f (Depeweg et al. 2018,
    https://arxiv.org/abs/1710.07283). In closed form where the posterior has one, else from draws of f.

    Args:
        posterior: what a support taught.
        x: inputs, as for a prediction.
        samples: S, the number of draws where there is no closed form; from torch's global generator.

    Returns:
        Total, aleatoric and epistemic uncertainty, each ``(B, M, *Y)``; for classes ``(B, M)``.

    Example:
        >>> posterior = MAML(MLP(1, 1), Gaussian())(points([0.0, 1.0], [0.0, 1.0]))
        >>> total, aleatoric, epistemic = decompose(posterior, [0.5])
        >>> epistemic  # one set of weights a task: no doubt about the function
        tensor([[[0.]]])
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least one draw, got {samples}; e.g. 256")
    if not isinstance(posterior, Posterior):
        raise TypeError(f"posterior: expected what learner(support) gives, got {type(posterior).__name__}")
    aleatoric, epistemic = posterior._decompose(posterior._inputs(x), samples)
    return aleatoric + epistemic, aleatoric, epistemic


class Learner(Mapped, ABC):
    """What is shared between tasks: an initialisation, a prior, a kernel. Called with a support it gives a posterior.

    A new learner implements `forward`; `losses` where its objective is not the query's NLL under the posterior.
    """

    def __call__(self, support: Points) -> Posterior:
        """The posterior of the support's B tasks; the support is taken to the learner's device and type."""
        check_shapes(support, "support")
        if readable(support.mask):
            check(support, "support", like=self)
            check_support(self, support)
        try:
            posterior: Posterior = super().__call__(move(support, self))
        except (IndexError, RuntimeError) as error:
            if support.y.is_floating_point() or "out of bounds" not in str(error):
                raise
            raise ValueError(
                f"support.y: expected labels from 0 to one less than the learner's classes, got others ({error}); number each "
                "task's classes from 0, or build the network with as many outputs"
            ) from error
        return posterior

    @abstractmethod
    def forward(self, support: Points) -> Posterior: ...

    def extra_repr(self) -> str:
        """The settings, by which two learners of a type and shape differ."""
        return ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if isinstance(value, (bool, int, float, str, tuple)) and not name.startswith("_") and name != "training"
        )

    def losses(self, episode: Episode) -> Tensor:
        """The meta-objective of each task, ``(B,)``: the mean over its observed query points."""
        return nll(self(episode.support)(episode.query.x), episode.query)

    def loss(self, episode: Episode) -> Tensor:
        """The mean of `losses`; its gradient is the meta-update."""
        return self.losses(episode).mean()
