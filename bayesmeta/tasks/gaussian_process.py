"""Functions drawn from a Gaussian process."""

from __future__ import annotations

from typing import Unpack, final

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from bayesmeta.data import Points
from bayesmeta.gaussian_process import GaussianProcess, check_kernel, cholesky, covariance
from bayesmeta.posterior import Posterior
from bayesmeta.tasks.source import EpisodeOptions, SyntheticTasks, check_told

__all__ = ["GaussianProcessTasks"]


@final
class GaussianProcessTasks(SyntheticTasks):
    """y = f(x) + ε with f from a zero-mean Gaussian process and ε ~ N(0, noise²).

    Args:
        kernel: a gpytorch kernel; set its hyperparameters before.
        noise: σ of the targets, above 0.
        inputs: D, the number of input features.
        options: batch, shots, queries, support_range (-2, 2), query_range, seed, length: see `SyntheticTasks`.

    Example:
        >>> tasks = GaussianProcessTasks(RBFKernel())
        >>> tasks.oracle(tasks[0].support)(tasks[0].query.x).batch_shape
        torch.Size([25, 15])
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        noise: float = 0.1,
        inputs: int = 1,
        **options: Unpack[EpisodeOptions],
    ) -> None:
        options.setdefault("support_range", (-2.0, 2.0))
        super().__init__(inputs=inputs, noise=noise, **options)
        if noise <= 0:
            raise ValueError(
                f"noise: expected a positive number, got {noise}; without noise the exact posterior is degenerate"
            )
        check_kernel(kernel)
        self.kernel = kernel

    def targets(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            factor = cholesky(covariance(self.kernel)(x.double(), x.double()), type(self.kernel).__name__)
            normal = torch.randn(*x.shape[:2], 1, dtype=factor.dtype, generator=generator)
            return (factor @ normal).to(x.dtype)

    def oracle(self, support: Points) -> Posterior:
        check_told(support, self.inputs)
        noise = torch.tensor(self.noise, dtype=torch.float64, device=support.y.device)
        return GaussianProcess(self.kernel, None, noise, support)
