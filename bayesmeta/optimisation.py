"""Bayesian optimisation with what other tasks taught: a posterior as a model of BoTorch.

BoTorch (Balandat et al. 2020, https://arxiv.org/abs/1910.06403) has the acquisition functions and optimisers, which are not
written again here.

Shape letters: T sets of q candidates, D numbers of an input, Y targets, S functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.learner import check_posterior
from bayesmeta.posterior import Posterior

__all__ = ["to_botorch"]


def to_botorch(posterior: Posterior, samples: int = 256) -> Any:
    """The posterior of one task as a BoTorch model (the extra ``bo``): for `acqf`, `optimize_acqf`, Thompson sampling and so on.

    Where functions are Gaussian (`ALPaCA`, `DKT`, `ADKL`, `ADKF` and these standardised) the model has their exact means and
    covariances, in the user's units and without noise, and asked with ``observation_noise=True`` with it. Where they are
    a mixture of such in equal parts (`PACOH`, an `Ensemble`), so is the model: BoTorch's `GaussianMixturePosterior`, over whose
    parts its acquisition functions average. Other posteriors answer by S functions, drawn once, as BoTorch's ensembles do:
    moments are those of the S, a sample is one of them. All answers have gradients by the candidates. BoTorch works in float64:
    give it a learner and points that do, ``learner.double()`` and ``points(x, y, dtype=torch.float64)``.

    Args:
        posterior: of one task, B = 1, with inputs of D numbers and real targets.
        samples: S, for posteriors whose functions are not Gaussian; drawn from torch's global generator.

    Raises:
        ImportError: BoTorch is not there.
        TypeError: it is no posterior, but a learner.
        ValueError: the posterior is of several tasks, inputs are no vectors, or fewer than two functions. Or there is no
            doubt about the function, as with `MAML`, so that nothing is to be explored.

    Example:
        >>> from botorch.acquisition import LogExpectedImprovement
        >>> learner = DKT(nn.Identity(), RBFKernel(), Gaussian()).double()
        >>> x, y = torch.rand(5, 2).double(), torch.rand(5, 1).double()
        >>> acquisition = LogExpectedImprovement(to_botorch(learner(points(x, y, dtype=torch.float64))), best_f=y.max())
        >>> acquisition(torch.rand(7, 1, 2).double()).shape  # of seven candidates
        torch.Size([7])
    """
    try:
        from botorch.models.ensemble import EnsembleModel
        from botorch.models.model import Model
        from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
        from botorch.posteriors.gpytorch import GPyTorchPosterior
    except ImportError as error:
        raise ImportError("to_botorch needs BoTorch; pip install bayesmeta[bo]") from error
    from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
    from linear_operator import to_linear_operator

    check_count("samples", samples, least=2)
    check_posterior(posterior)
    support = posterior.support
    if len(support.mask) != 1:
        raise ValueError(
            f"posterior: expected that of one task, got {len(support.mask)}; adapt to each task's points by themselves"
        )
    x, y = support.x, support.y
    if (
        not isinstance(x, Tensor)
        or x.dim() != 3
        or y.dim() != 3
        or not (x.is_floating_point() and y.is_floating_point())
    ):
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"posterior: expected inputs of D numbers (1, N, D) and real targets (1, N, Y), got {got} and {y.dtype} "
            f"{tuple(y.shape)}; BoTorch knows no others"
        )
    features, targets = x.shape[2], y.shape[2]

    class Exact(Model):
        """Gaussian functions, or K of them in equal parts: then K stands before q and D, as in BoTorch's own mixtures."""

        num_outputs = targets

        def __init__(self, count: int) -> None:
            super().__init__()
            self._is_ensemble = count > 1
            self.parts = torch.Size([count] if count > 1 else [])

        @property
        def batch_shape(self) -> torch.Size:
            return self.parts

        def posterior(
            self, X: Tensor, output_indices: Any = None, observation_noise: Any = False, posterior_transform: Any = None
        ) -> Any:
            chosen = _chosen(output_indices, targets)
            asked = _candidates(X, features).reshape(-1, *X.shape[-2:])
            copies = posterior.expand(len(asked))
            mean, covariance, noise = copies._joints(copies._inputs(asked))  # (K, T, q, Y), (K, T, Y, q, q)
            if isinstance(observation_noise, Tensor):  # variances (..., q, Y), as BoTorch's models take them
                variance = (
                    observation_noise.expand(*X.shape[:-1], targets)
                    .reshape(*asked.shape[:2], targets)
                    .mT.to(covariance)
                )
                covariance = covariance + torch.diag_embed(variance)
            elif observation_noise:
                covariance = covariance + torch.diag_embed(noise.mT.square())
            shape = (*X.shape[:-2], *self.parts)
            normals = [
                MultivariateNormal(
                    mean[..., i].movedim(0, 1).reshape(*shape, -1),
                    # as an operator, which adds a jitter where candidates coincide
                    to_linear_operator(covariance[:, :, i].movedim(0, 1).reshape(*shape, *covariance.shape[3:])),
                )
                for i in chosen
            ]
            joint = normals[0] if len(normals) == 1 else MultitaskMultivariateNormal.from_independent_mvns(normals)
            answer = (GaussianMixturePosterior if self._is_ensemble else GPyTorchPosterior)(joint)
            return answer if posterior_transform is None else posterior_transform(answer)

    class Drawn(EnsembleModel):
        """S functions."""

        num_outputs = targets
        batch_shape = torch.Size()

        def __init__(self) -> None:
            super().__init__()
            self.functions = posterior.functions(samples)

        def posterior(  # type: ignore[override]  # as BoTorch's own ensembles differ from its models
            self, X: Tensor, output_indices: Any = None, posterior_transform: Any = None, **options: Any
        ) -> Any:
            if (observation_noise := options.get("observation_noise", False)) is not False:
                raise NotImplementedError(
                    f"observation_noise: expected False, as functions of {type(posterior).__name__} are drawn without noise, got "
                    f"{observation_noise!r}; take a learner whose functions are Gaussian, such as ALPaCA or DKT, or leave it out"
                )
            chosen = None if output_indices is None else _chosen(output_indices, targets)
            return super().posterior(_candidates(X, features), chosen, posterior_transform)

        def forward(self, X: Tensor) -> Tensor:
            values = self.functions(X.reshape(1, -1, X.shape[-1])).mean[:, 0]  # (S, T q, Y)
            found: Tensor = values.unflatten(1, X.shape[:-1]).movedim(0, -3).to(X)
            return found

    try:
        parts = posterior._joints(support.x[:, :1])
    except NotImplementedError:
        drawn = Drawn()
        values = drawn(support.x[0, :1] + 0.5)
        if (values == values[:1]).all():
            raise ValueError(
                f"posterior: expected doubt about the function, got none from {type(posterior).__name__}; take a Bayesian "
                "learner, such as ALPaCA, DKT or ABML, or an Ensemble"
            ) from None
        return drawn
    return Exact(len(parts.mean))


def _candidates(X: Any, features: int) -> Tensor:
    """Raises a ValueError unless these are candidates ``(..., q, D)``, one at least."""
    if (
        not isinstance(X, Tensor)
        or X.dim() < 2
        or X.shape[-1] != features
        or not X.numel()
        or not X.is_floating_point()
    ):
        got = f"{X.dtype} {tuple(X.shape)}" if isinstance(X, Tensor) else type(X).__name__
        raise ValueError(
            f"X: expected candidates (..., q, {features}), a floating tensor of one at least, got {got}; give a set of one as "
            f"(1, {features})"
        )
    return X


def _chosen(indices: Any, targets: int) -> list[int]:
    """Which targets are asked about, by their numbers; all if None."""
    chosen = list(range(targets)) if indices is None else list(indices) if isinstance(indices, Iterable) else []
    if not chosen or not all(isinstance(i, int) and -targets <= i < targets for i in chosen):
        raise ValueError(
            f"output_indices: expected a list of numbers from 0 to {targets - 1}, got {indices!r}; leave it out for all targets"
        )
    return chosen
