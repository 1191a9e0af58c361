"""Temperatures, fitted on validation tasks."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import Dataset

from bayesmeta.answers import Functions, Joint
from bayesmeta.data import Episode, Points, move, observed
from bayesmeta.distributions import Blend, Unwarped, apart, centre, has_classes, temper
from bayesmeta.evaluation import answers, reading
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import nll
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Transformed
from bayesmeta.randomness import generator, seeded

__all__ = ["Calibrated", "Tempered"]


class Tempered(Transformed):
    """A posterior whose predictions have more or less confidence (see `bayesmeta.distributions.temper`).

    Real targets: the draws spread around the predictive mean as the predictions do, so that doubt about the function and noise
    both grow by τ² in variance; of a `Warped` learner on the warped scale. Classes: each draw is tempered by itself.

    Args:
        inner: the posterior whose predictions are tempered.
        temperature: τ, what standard deviations are multiplied and logits divided by, above 0.
    """

    def __init__(self, inner: Posterior, temperature: Tensor | float) -> None:
        self.temperature = torch.as_tensor(temperature).clone()
        super().__init__(inner, inner.support, lambda x: x, lambda predictive: temper(predictive, self.temperature))

    def _functions(self, samples: int) -> Functions:
        inner = self.inner._functions(samples)
        seed = int(torch.randint(2**31, (), device="cpu", generator=generator(torch.device("cpu"))))

        def ask(x: Any, own: bool) -> Distribution:
            draws = inner(x, own)
            if has_classes(draws):
                return temper(draws, self.temperature)
            with seeded(seed):  # the centre stays where it is, even if it is random
                around = centre(self.inner._predictive(x, None if samples < 64 else samples))
            return temper(draws, self.temperature, apart(around, samples) if own else around)

        return ask

    def _moved(self, joint: Joint) -> Joint:
        mean, covariance, noise = super()._moved(joint)
        if mean.dim() == 4:  # of several normals the means spread too, around their own mean
            centre = mean.mean(0)
            mean = centre + self.temperature * (mean - centre)
        return Joint(mean, covariance, noise)

    def _decompose(self, x: Any, samples: int) -> tuple[Tensor, Tensor]:
        if not self.support.y.is_floating_point():
            return Posterior._decompose(self, x, samples)
        draw = self.inner._functions(1)(x, False)  # tells the kind of targets: a prediction might take many
        if has_classes(draw) or isinstance(draw, (Unwarped, Blend)):
            return Posterior._decompose(self, x, samples)
        aleatoric, epistemic = self.inner._decompose(x, samples)
        return self.temperature**2 * aleatoric, self.temperature**2 * epistemic


@final
class Calibrated(Learner):
    """A trained learner with one temperature: confidence as accuracy warrants it.

    For classes the temperature of the probabilities, for real targets the factor of all standard deviations.
    ``Calibrated.from_tasks(learner, tasks)`` finds it. Accuracy and the order of confidences stay as they are. The temperature
    is kept in a buffer, so it moves and is saved with the learner.

    Args:
        learner: the learner to calibrate, trained already; training on goes through, but leaves the temperature.
        temperature: τ, what standard deviations are multiplied and logits divided by, above 0: 1 changes nothing, and more is
            less confident.

    Raises:
        TypeError: the learner is no learner.
        ValueError: the temperature is not a number above 0.

    Example:
        >>> learner = Calibrated(MAML(MLP(1, 1), Gaussian(scale=0.5)), temperature=2.0)
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).stddev
        tensor([[[1.]]], grad_fn=...)
    """

    temperature: Tensor

    def __init__(self, learner: Learner, temperature: float | Tensor) -> None:
        super().__init__()
        _check_learner(learner)
        try:
            value = torch.as_tensor(temperature, dtype=torch.get_default_dtype(), device="cpu")
        except (TypeError, ValueError, RuntimeError):  # no number
            value = torch.tensor(math.nan)
        if value.dim() or not 0 < value < math.inf:
            raise ValueError(
                f"temperature: expected a number above 0, got {temperature!r}; Calibrated.from_tasks(learner, tasks) finds it"
            )
        self.learner = learner
        self.register_buffer("temperature", move(value, learner).clone())

    @classmethod
    def from_tasks(cls, learner: Learner, tasks: Dataset[Episode], *, episodes: int = 20, seed: int = 0) -> Calibrated:
        """Calibrates a learner by the temperature of the lowest NLL on validation tasks.

        Guo, Pleiss, Sun & Weinberger 2017, https://arxiv.org/abs/1706.04599, section 4.2; Levi et al. 2022,
        https://arxiv.org/abs/1905.11659, for regression.

        Args:
            learner: the learner to calibrate, trained already.
            tasks: validation tasks, with as many shots as will be asked: not those of training, nor those of the test.
            episodes: how many of their episodes to read.
            seed: of random predictions; torch's global generator is not touched.

        Raises:
            ValueError: there are not so many episodes.

        Example:
            >>> tasks = Sinusoids(noise=0.1)
            >>> learner = Calibrated.from_tasks(MAML(MLP(1, 1), Gaussian()), tasks, episodes=2)
            >>> learner.temperature > 1  # an untrained network is overconfident
            tensor(True)
        """
        _check_learner(learner)
        with reading(learner, tasks, episodes=episodes, seed=seed) as read:
            pairs = [(answers(learner, episode), episode.query) for _, episode in read]
        return cls(learner, _best_temperature(pairs))

    def forward(self, support: Points) -> Posterior:
        return Tempered(self.learner(support), self.temperature)

    def loss(self, episode: Episode) -> Tensor:
        return self.learner.loss(episode)


def _check_learner(learner: Learner) -> None:
    if not isinstance(learner, Learner):
        raise TypeError(f"learner: expected a trained learner such as MAML(...), got {type(learner).__name__}")


_LOG_RANGE = 8.0
"""Temperatures from e^-8 to e^8 are tried."""


def _best_temperature(pairs: list[tuple[Distribution, Points]]) -> float:
    """By a grid in log τ, three times refined around its best, to a relative 1e-3: the NLL need not have one minimum only."""
    counts = torch.cat([observed(given).sum(1) for _, given in pairs])

    def score(log_temperature: float) -> float:
        temperature = torch.tensor(math.exp(log_temperature))
        losses = torch.cat([nll(temper(d, temperature.to(given.mask.device)), given) for d, given in pairs])
        value = float((losses * counts).sum() / counts.sum())
        return value if math.isfinite(value) else math.inf

    centre, width = 0.0, _LOG_RANGE
    for _ in range(4):
        grid = torch.linspace(centre - width, centre + width, 21).tolist()
        scores = [score(point) for point in grid]
        if min(scores) == math.inf:
            raise ValueError(
                "learner: expected finite predictions on the validation tasks, got none; look for NaN in them"
            )
        centre, width = grid[scores.index(min(scores))], width / 6
    return math.exp(centre)
