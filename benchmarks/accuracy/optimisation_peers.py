"""What optimises without meta-training: BoTorch's process of one data set, and RGPE's mixture of those of several."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from botorch import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor


@torch.enable_grad()
def scratch(x: Tensor, y: Tensor) -> Any:
    model = SingleTaskGP(x, y, outcome_transform=Standardize(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


class Weighted:
    """RGPE: processes of other data sets and of this one, weighted by how often each ranks this one's points best."""

    def __init__(self, sources: Sequence[Any], x: Tensor, y: Tensor, seed: int, draws: int = 64) -> None:
        self.models = [*sources, scratch(x, y)]
        losses = []
        with torch.no_grad():
            for model in sources:
                torch.manual_seed(seed)
                losses.append(_misranked(model.posterior(x).rsample(torch.Size([draws]))[..., 0], y[:, 0]))
            own = []
            for left in range(len(y)):  # each point by a process of the others
                rest = torch.arange(len(y)) != left
                model = SingleTaskGP(x[rest], y[rest], outcome_transform=Standardize(1))
                model.load_state_dict(self.models[-1].state_dict(), strict=False)
                torch.manual_seed(seed + left)
                drawn = model.eval().posterior(x[left : left + 1]).rsample(torch.Size([draws]))[..., 0]
                own.append(((drawn < y[:, 0]) ^ (y[left, 0] < y[:, 0])).sum(1))
            losses.append(torch.stack(own).sum(0))
            table = torch.stack(losses).double()  # (models, draws)
            table[:-1][table[:-1].median(1).values > table[-1].quantile(0.95)] = torch.inf  # against dilution
            best = table == table.min(0).values
            self.weights = (best / best.sum(0)).mean(1)

    def improvement(self, asked: Tensor, y: Tensor) -> Tensor:
        """The expected improvement under the mixture's mean and variance, as the authors have it."""
        with torch.no_grad():
            mean, variance = torch.zeros(len(asked)).double(), torch.zeros(len(asked)).double()
            for weight, model in zip(self.weights, self.models, strict=True):
                if weight > 0:
                    found = model.posterior(asked[:, None])
                    mean += weight * found.mean[:, 0, 0]
                    variance += weight.square() * found.variance[:, 0, 0]
        z = (mean - y.max()) / variance.sqrt()
        normal = torch.distributions.Normal(0.0, 1.0)
        return variance.sqrt() * (normal.log_prob(z).exp() + z * normal.cdf(z))


def _misranked(drawn: Tensor, y: Tensor) -> Tensor:
    """How many pairs each draw ranks otherwise than they are, ``(S,)``."""
    return ((drawn[:, :, None] < drawn[:, None]) ^ (y[:, None] < y[None])).sum((1, 2))
