"""One table, one kind of prediction: densities and probabilities have no common unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace

import bayesmeta as bm
from bayesmeta.likelihoods import Bernoulli, Gaussian, Poisson
from bayesmeta.metrics import RMSE

TASKS = bm.tasks_from_arrays(torch.arange(12.0), [0.0, 1.0, 1.0] * 4, torch.arange(12) // 6, shots=2)


def mean(likelihood: Any) -> bm.Learner:
    return bm.MAML(nn.Linear(1, 1), likelihood)


def compared(metrics: Any = None, **learners: Any) -> Any:
    return bm.compare(learners, TASKS, episodes=1, metrics=metrics, progress=False)


@pytest.mark.parametrize("metrics", [None, [bm.metrics.NLL()], [RMSE()]])
def test_densities_do_not_stand_beside_probabilities_of_yes_or_no(metrics: Any) -> None:
    with pytest.raises(ValueError, match=r"densities of real numbers from 'b' and probabilities of classes from 'a'"):
        compared(metrics, a=mean(Bernoulli()), b=mean(Gaussian()))


def test_counts_share_errors_with_numbers_but_no_nll() -> None:
    with pytest.raises(ValueError, match=r"from 'a' and probabilities of counts from 'b'.*metrics=\[RMSE\(\)"):
        compared(a=mean(Gaussian()), b=mean(Poisson()))
    assert len(compared([RMSE()], a=mean(Gaussian()), b=mean(Poisson())).rows) == 2


def test_a_family_of_ones_own_may_stand_beside_any() -> None:
    # Laplace is not registered.
    def own(support: bm.Points) -> Any:
        return lambda x: Independent(Laplace(torch.zeros_like(x), 1.0), 1)

    assert len(compared([bm.metrics.NLL()], a=own, b=mean(Poisson())).rows) == 2
