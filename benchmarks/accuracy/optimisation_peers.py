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


class Sources:
    """Processes of other data sets, each asked once about all settings, as only these will be asked about. Standardised.

    Args:
        sets: of each data set the settings that it was measured at, ``(N, D)``, and what was found, ``(N, 1)``.
        settings: all that there are, ``(L, D)``.
    """

    def __init__(self, sets: Sequence[tuple[Tensor, Tensor]], settings: Tensor) -> None:
        with torch.no_grad():
            answers = [scratch(x, _standardised(y)).posterior(settings) for x, y in sets]
            self.mean = torch.stack([answer.mean[:, 0] for answer in answers])  # (K, L)
            self.covariance = torch.stack([answer.distribution.covariance_matrix for answer in answers])

    def draws(self, at: Sequence[int], count: int) -> Tensor:
        """Functions of each process at some settings together, ``(count, K, N)``."""
        covariance = self.covariance[:, at][:, :, at]
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        root = torch.linalg.cholesky(covariance + 1e-8 * scale * torch.eye(len(at)).double())
        normal = torch.randn(count, *covariance.shape[:2], 1).double()
        return self.mean[:, at] + (root @ normal)[..., 0]


class Weighted:
    """RGPE: processes of other data sets and of this one, weighted by how often each ranks this one's points best.

    Feurer, Letham & Bakshy 2018, https://arxiv.org/abs/1802.02219. This one's own ranking is by leaving each point out, with the
    hyper-parameters of all, as in BoTorch's tutorial on it (Meta-Learning with RGPE), but beside the measured points, where the
    tutorial takes fitted ones. Sources that are equally good share a draw; one that is worse in its median than this one in its
    95th percentile is left out, which the tutorial does not do.

    Args:
        sources: of the other data sets.
        tried: which settings were measured here.
        x: those settings, ``(N, D)``.
        y: what was found, ``(N, 1)``.
        seed: of the draws.
    """

    def __init__(
        self, sources: Sources, tried: Sequence[int], x: Tensor, y: Tensor, seed: int, draws: int = 64
    ) -> None:
        y = _standardised(y)
        self.sources, self.own, self.best = sources, scratch(x, y), y.max()
        torch.manual_seed(seed)
        with torch.no_grad():
            drawn = sources.draws(tried, draws)
            others = ((drawn[..., :, None] < drawn[..., None, :]) ^ (y[:, 0, None] < y[:, 0])).sum((2, 3)).mT
            mean, deviation = _left_out(self.own)
            points = mean + deviation * torch.randn(draws, len(y)).double()
            scaled = self.own.train_targets
            own = ((points[:, None] < scaled[:, None]) ^ (scaled < scaled[:, None])).sum((1, 2))
            table = torch.cat([others, own[None]]).double()  # (K + 1, draws)
            table[:-1][table[:-1].median(1).values > table[-1].quantile(0.95)] = torch.inf  # against dilution
            best = table == table.min(0).values
            self.weights = (best.double() / best.sum(0)).mean(1)

    def improvement(self, asked: Tensor, x: Tensor) -> Tensor:
        """The expected improvement under the mixture's mean and variance, as the authors have it, at some settings' numbers."""
        with torch.no_grad():
            own, among = self.own.posterior(x[:, None]), self.sources.covariance.diagonal(dim1=1, dim2=2)
            mean = torch.cat([self.sources.mean[:, asked], own.mean[None, :, 0, 0]])
            variance = torch.cat([among[:, asked], own.variance[None, :, 0, 0]])
            mean, deviation = self.weights @ mean, (self.weights.square() @ variance).sqrt()
        z = (mean - self.best) / deviation
        normal = torch.distributions.Normal(0.0, 1.0)
        return deviation * (normal.log_prob(z).exp() + z * normal.cdf(z))


def _standardised(y: Tensor) -> Tensor:
    return (y - y.mean()) / y.std().clamp(min=1e-6)  # some settings do equally well


def _left_out(model: Any) -> tuple[Tensor, Tensor]:
    """Each point's function value by a process of the others (Rasmussen & Williams 2006, eqs. 5.10 to 5.12), standardised."""
    model.train()
    prior = model(model.train_inputs[0])
    noise = model.likelihood.noise.item()
    model.eval()
    inverse = torch.linalg.inv(prior.covariance_matrix + noise * torch.eye(len(prior.mean)).double())
    targets = model.train_targets
    variance = 1 / inverse.diagonal()
    mean = targets - (inverse @ (targets - prior.mean)) * variance
    return mean, (variance - noise).clamp(min=1e-12).sqrt()
