"""A scale of its own for each task, integrated out in closed form: normals become Student's t.

Let a task be Gaussian given a scale s², which multiplies the prior covariance of the function and the variance of the noise,

    y | s² ~ N(m, s² V),     V = K + σ² I,     1 / s² ~ Gamma(ν/2, ν/2).

Then y ~ t(ν, m, V), and after N points with the squared Mahalanobis distance q = (y - m)ᵀ V⁻¹ (y - m), in closed form,

    1 / s² ~ Gamma((ν + N)/2, (ν + q)/2),     y* ~ t(ν + N, m*, V* (ν + q)/(ν + N)),

where m* and V* are those of the Gaussian with s² = 1: the normal-inverse-gamma model of Bayesian regression (Gelman et al. 2013,
*Bayesian Data Analysis*, section 14.2), and the Student-t process (Shah, Wilson & Ghahramani 2014,
https://arxiv.org/abs/1402.4306, whose K is the covariance and not the scale matrix).
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from bayesmeta.border import check_positive
from bayesmeta.data import Points
from bayesmeta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors import Scaled

__all__ = ["OwnScale", "degrees"]

_LEAST = 2.1
"""Above 2, so that a prediction has a variance before any point is known."""


@final
class OwnScale(Learner):
    """A learner with Gaussian functions, of which each task has its own scale: its predictions are Student's t.

    Patients differ in how much they vary and sensors in how noisy they are. A learner with one σ for all tasks is then too sure
    of some and too cautious with others, and from five points a task's own cannot be read off. Here the scale of a function and
    of its noise is a random number, which a task's points tell about: it is integrated out exactly. Each target of a task has a
    scale of its own. What the learner's own parameters mean is the typical task.

    Predictions are in closed form, and so are `update` and `decompose`; `functions` draw a scale with each function. Training
    descends the query's NLL, whatever the objective of the learner within. `Standardized` and `Calibrated` go around it.

    Args:
        learner: of real targets, with Gaussian functions: `ALPaCA`, `DKT`, `ADKL`, `ADKF`.
        df: the initial ν, above 2.1: few degrees of freedom where tasks' scales differ much. It is learned, and stays above 2.1.

    Raises:
        TypeError: the learner is no learner.
        ValueError: ν is not above 2.1.
        NotImplementedError: at a call, the learner's functions are not Gaussian.

    Example:
        >>> learner = OwnScale(ALPaCA(nn.Identity(), nn.Linear(1, 1), Gaussian()))
        >>> learner(points([0.0, 1.0], [0.0, 1.0]))([0.5]).base_dist.df.round().item()  # ν + 2
        8.0
    """

    def __init__(self, learner: Learner, *, df: float = 6.0) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner: expected a learner such as ALPaCA(...), got {type(learner).__name__}")
        check_positive("df", df)
        if df <= _LEAST:
            raise ValueError(
                f"df: expected degrees of freedom above {_LEAST}, got {df}; with fewer predictions have no variance"
            )
        self.learner = learner
        like = next((p for p in learner.parameters() if p.is_floating_point()), torch.zeros(()))
        self.log_df = nn.Parameter(like.detach().new_tensor(math.log(df - _LEAST)))

    @property
    def df(self) -> Tensor:
        """ν, a scalar."""
        return degrees(self.log_df)

    def extra_repr(self) -> str:
        return f"df={self.df.item():.4g}"

    def forward(self, support: Points) -> Posterior:
        return Scaled(self.learner(support), self.df.double(), support)


def degrees(log_df: Tensor) -> Tensor:
    """ν of an `OwnScale` whose parameter has this value."""
    return _LEAST + log_df.clamp(max=12.0).exp()
