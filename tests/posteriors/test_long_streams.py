"""Exact learners of constant size after 10,000 points, in any order of their parts: as if all had been known at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Learner, Points

FEATURES, CLASSES, POINTS = 6, 4, 10_000
LEARNERS: dict[str, tuple[Callable[[], Learner], bool]] = {
    "ALPaCA": (lambda: bm.ALPaCA(nn.Identity(), nn.Linear(FEATURES, 1), bm.likelihoods.Gaussian()), False),
    "GeMCL": (lambda: bm.GeMCL(nn.Identity(), FEATURES, CLASSES), True),
    "PrototypicalNetwork": (lambda: bm.PrototypicalNetwork(nn.Identity(), CLASSES), True),
    "VERSA": (
        lambda: bm.VERSA(bm.encoders.ClassPooling(FEATURES, CLASSES, 8), CLASSES, bm.likelihoods.Categorical()),
        True,
    ),
    "CNP": (
        lambda: bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(FEATURES, 1, 8), bm.networks.MLP(FEATURES + 8, 1), bm.likelihoods.Gaussian()
        ),
        False,
    ),
}


def stream(labels: bool, dtype: torch.dtype) -> Points:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (1, POINTS), generator=generator)
    noise = torch.randn(1, POINTS, FEATURES + 1, dtype=torch.float64, generator=generator)
    x = torch.randn(CLASSES, FEATURES, dtype=torch.float64, generator=generator)[y] / 2 + noise[..., 1:]
    target = y if labels else (x[..., :1] + noise[..., :1]).to(dtype)
    return Points(x.to(dtype), target, torch.ones_like(y, dtype=torch.bool))


def answers(posterior: bm.Posterior, x: Tensor) -> Tensor:
    torch.manual_seed(0)  # VERSA's are means over draws
    prediction = posterior(x)
    found: Tensor = (
        prediction.logits if hasattr(prediction, "logits") else torch.cat([prediction.mean, prediction.stddev])
    )
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", LEARNERS)
def test_ten_thousand_points_in_any_order_are_as_all_at_once(name: str, dtype: torch.dtype, tolerance: float) -> None:
    make, labels = LEARNERS[name]
    torch.manual_seed(0)
    learner, points = make().to(dtype), stream(labels, dtype)
    x = torch.randn(1, 30, FEATURES, dtype=dtype)
    with torch.no_grad():
        expected = answers(learner(points), x)
        parts = [Points(*part) for part in zip(*(leaf.split(40, 1) for leaf in points), strict=True)]
        for order in (torch.arange(len(parts)), torch.randperm(len(parts))):
            posterior = learner(parts[int(order[0])])
            for place in order[1:].tolist():
                posterior = posterior.update(parts[place])
            torch.testing.assert_close(answers(posterior, x), expected, rtol=0, atol=tolerance)
