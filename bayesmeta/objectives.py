"""What the training of a variational learner descends: a value that its constructor takes, and that may be changed later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from bayesmeta.border import check_count, check_positive
from bayesmeta.recorded import Setting

__all__ = ["ELBO", "JointPredictive", "Objective", "Predictive", "check_objective"]


@dataclass(frozen=True)
class ELBO(Setting):
    """The evidence lower bound: for a task of n observed points -(1/n) [E_q log p(y | latent) - kl_weight KL(q ‖ p)].

    The expectation is over draws of the guide q, the KL in closed form. A learner that has integrated its latents out, such as
    `DKT`, has the evidence itself in the place of the bound: it draws nothing, and has no KL to weigh.

    Args:
        draws: S, the number of draws of the latents that the expectation averages.
        kl_weight: what the KL counts, above 0: 1 is the evidence lower bound proper, less fits closer and trusts few points more.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> learner = PLATIPUS(MLP(1, 1), Gaussian(), objective=ELBO(kl_weight=0.01))
        >>> learner.objective = ELBO()  # after a first `fit`: a warm-up of the KL
    """

    draws: int = 4
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        check_count("draws", self.draws)
        check_positive("kl_weight", self.kl_weight, most=1e6)


@dataclass(frozen=True)
class Predictive(Setting):
    """The query's NLL under the posterior that is used at test: -(1/n) Σ log (1/S) Σ_s p(y | x, draw s).

    Training then descends what is asked for in the end. There is no KL to a guide, and factors of a Pyro model are left out.

    Args:
        draws: S, the number of draws that a prediction averages in training, where it has no closed form.

    Raises:
        ValueError: fewer than one draw.

    Example:
        >>> ABML(MLP(1, 1), Gaussian(), objective=Predictive(draws=16)).objective
        Predictive(draws=16)
    """

    draws: int = 8

    def __post_init__(self) -> None:
        check_count("draws", self.draws)


@dataclass(frozen=True)
class JointPredictive(Setting):
    """The query's NLL as a whole, under draws of functions: -(1/n) log (1/S) Σ_s Π p(y | x, draw s).

    Foong et al. 2020, "Meta-Learning Stationary Stochastic Process Prediction with Convolutional Neural Processes", equation 8,
    https://arxiv.org/abs/2007.01332: `Predictive` asks for each point by itself, so that y's spread may stand for all doubt; this
    asks for draws that are right at all points at once. The logarithm of S draws is biased upwards, less with more of them.

    Where functions are integrated out, as in `DKT`, it would be a noisy `ELBO`, and is refused.

    Args:
        draws: S, the number of draws.

    Raises:
        ValueError: fewer than one draw.

    Example:
        >>> encoder, likelihood = DeepSet(1, 1), HeteroscedasticGaussian()
        >>> NeuralProcess(encoder, MLP(1 + 64 + 16, 2), likelihood, objective=JointPredictive()).objective
        JointPredictive(draws=16)
    """

    draws: int = 16

    def __post_init__(self) -> None:
        check_count("draws", self.draws)


Objective: TypeAlias = ELBO | Predictive | JointPredictive


def check_objective(objective: Any, *, drawn: bool = True) -> None:
    """Raises a TypeError if something is no objective, a ValueError if it needs draws where a learner has better ones."""
    if not isinstance(objective, (ELBO, Predictive, JointPredictive)):
        got = f"the class {objective.__name__}" if isinstance(objective, type) else repr(objective)
        raise TypeError(
            f"objective: expected ELBO(...), Predictive(...) or JointPredictive(...), got {got}; e.g. "
            "objective=bm.ELBO(draws=4, kl_weight=1.0)"
        )
    if isinstance(objective, JointPredictive) and not drawn:
        raise ValueError(
            f"objective: expected ELBO() or Predictive(), as this learner integrates its functions out, got {objective}; ELBO() "
            "is the likelihood of all points together"
        )
