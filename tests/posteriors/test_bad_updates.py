"""Further points, queries and files that do not fit a posterior: each error says what to do, and nothing is wrong in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from shapes import Network, of_inputs
from torch import nn

import bayesmeta as bm
from bayesmeta import Learner

COUNTS: dict[str, Callable[[bm.likelihoods.Likelihood], Learner]] = {
    "MAML": lambda likelihood: bm.MAML(bm.networks.MLP(1, 1), likelihood),
    "ABML": lambda likelihood: bm.ABML(bm.networks.MLP(1, 1), likelihood),
    "VCL": lambda likelihood: bm.VCL(bm.networks.MLP(1, 1), likelihood, epochs=1),
    "OnlineLaplace": lambda likelihood: bm.OnlineLaplace(bm.networks.MLP(1, 1), likelihood, epochs=1),
    "CNP": lambda likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, 6), bm.networks.MLP(7, 1), likelihood
    ),
    "Standardized": lambda likelihood: bm.Standardized(
        bm.MAML(bm.networks.MLP(1, 1), likelihood), x_loc=0.0, x_scale=2.0
    ),
    "Ensemble": lambda likelihood: bm.Ensemble([bm.MAML(bm.networks.MLP(1, 1), likelihood)] * 2),
    "Changepoints": lambda likelihood: bm.Changepoints(bm.MAML(bm.networks.MLP(1, 1), likelihood), 0.1),
    "Rehearsal": lambda likelihood: bm.Rehearsal(bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), likelihood)),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    ("likelihood", "wrong"),
    [(bm.likelihoods.Poisson, -3.0), (bm.likelihoods.NegativeBinomial, 0.5), (bm.likelihoods.Bernoulli, 2.0)],
)
def test_an_update_refuses_targets_that_the_likelihood_cannot_produce(
    name: str, likelihood: Callable[[], bm.likelihoods.Likelihood], wrong: float
) -> None:
    posterior = COUNTS[name](likelihood())(bm.points([0.0, 1.0], [0.0, 1.0]))
    posterior.update(bm.points([0.5], [1.0]))
    with pytest.raises(ValueError, match=r"y: expected targets that a \w+ can produce.*got \[.*\] at task 0"):
        posterior.update(bm.points([0.5], [wrong]))


WHOLE: dict[str, Callable[[], Learner]] = {
    "ALPaCA": lambda: bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian()),
    "DKT": lambda: bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian()),
    "PACOH": lambda: bm.PACOH(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian(), tasks=2),
    "CNP": lambda: COUNTS["CNP"](bm.likelihoods.Gaussian()),
    "Standardized": lambda: bm.Standardized(WHOLE["DKT"](), x_loc=0.0, x_scale=2.0),
    "Ensemble": lambda: bm.Ensemble([COUNTS["MAML"](bm.likelihoods.Gaussian()), WHOLE["ALPaCA"]()]),
    "Rehearsal": lambda: bm.Rehearsal(WHOLE["DKT"]()),
    "Changepoints": lambda: bm.Changepoints(WHOLE["ALPaCA"](), 0.1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_update_refuses_a_mask_of_entries_that_the_method_does_not_know(name: str) -> None:
    posterior = WHOLE[name]()(bm.points([0.0, 1.0], [0.0, 1.0]))
    with pytest.raises(
        ValueError, match=r"points\.mask: expected a mask of points .*got one of its entries.*leave out"
    ):
        posterior.update(bm.points([2.0, 3.0], [1.0, 1.0], mask=[True, False]))


@pytest.mark.parametrize("name", ["MAML", "ABML", "VCL", "OnlineLaplace"])
def test_an_update_takes_a_mask_of_entries_where_the_method_does(name: str) -> None:
    posterior = COUNTS[name](bm.likelihoods.Gaussian())(bm.points([0.0, 1.0], [0.0, 1.0]))

    def told(points: bm.Points) -> torch.Tensor:
        torch.manual_seed(0)
        mean: torch.Tensor = posterior.update(points)([0.5]).mean
        return mean

    torch.testing.assert_close(
        told(bm.points([2.0, 3.0], [1.0, 9.0], mask=[True, False])), told(bm.points([2.0], [1.0]))
    )


@pytest.mark.parametrize("make", [WHOLE["DKT"], lambda: bm.Calibrated(WHOLE["DKT"](), 2.0)])
def test_functions_of_a_process_answer_at_no_points(make: Callable[[], Learner]) -> None:
    functions = make()(bm.points([0.0, 1.0], [0.0, 1.0])).functions(3)
    assert functions(torch.zeros(1, 0, 1)).batch_shape == (3, 1, 0)
    before = functions([0.5]).mean
    assert functions(torch.zeros(1, 0, 1)).batch_shape == (3, 1, 0)
    torch.testing.assert_close(functions([0.5]).mean, before, rtol=0, atol=1e-4)


def test_functions_of_a_process_of_classes_answer_at_no_points() -> None:
    learner = bm.LaplaceGP(nn.Identity(), RBFKernel(), classes=2)
    functions = learner(bm.points([0.0, 1.0], [0, 1], classes=2)).functions(3)
    assert functions(torch.zeros(1, 0, 1)).batch_shape == (3, 1, 0)


TEXT, MORE = torch.zeros(2, 3, 3, dtype=torch.long), torch.zeros(2, 3, 2)
QUERIES: dict[str, tuple[Any, str]] = {
    "entries of other lengths": ({"text": {"tokens": TEXT}, "more": MORE[:, :1]}, r"x: expected as many points in every entry, got \{.*'more'.*: 1"),
    "other keys within": ({"text": {"words": TEXT}, "more": MORE}, r"x\['text'\]: expected a dictionary of \['tokens'\].*got a dictionary of \['words'\]"),
    "more keys within": ({"text": {"tokens": TEXT, "b": TEXT}, "more": MORE}, r"x\['text'\]: expected a dictionary of \['tokens'\]"),
    "no dictionary within": ({"text": TEXT, "more": MORE}, r"x\['text'\]: expected a dictionary.*got Tensor"),
    "a dictionary within": ({"text": {"tokens": TEXT}, "more": {"a": MORE}}, r"x\['more'\]: expected an array.*got a dictionary"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_queries_that_are_other_trees(name: str) -> None:
    x, message = QUERIES[name]
    posterior = bm.MAML(Network(1), bm.likelihoods.Gaussian()).double()(of_inputs("tree", False).support)
    for ask in (posterior, posterior.functions(2)):
        with pytest.raises(ValueError, match=message):
            ask(x)


def test_files_refuse_what_is_no_learner_or_another_one(tmp_path: Path) -> None:
    learner = WHOLE["ALPaCA"]()
    posterior = learner(bm.points([0.0, 1.0], [0.0, 1.0]))
    with pytest.raises(TypeError, match=r"learner: expected a learner.*posterior=posterior"):
        bm.save(posterior, tmp_path / "a")  # type: ignore[arg-type]
    other = bm.ALPaCA(bm.networks.MLP(1, 5), nn.Linear(5, 1), bm.likelihoods.Gaussian())
    for wrong in (other, other.double()):
        with pytest.raises(ValueError, match="posterior: expected one of this learner as it is now"):
            bm.save(wrong, tmp_path / "a", posterior=posterior)
    assert not list(tmp_path.iterdir())
