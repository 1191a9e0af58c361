"""Variational continual learning against the exact factorised posterior of a linear model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.methods.vcl import _divided

B, N, F = 2, 40, 3
NOISE, PRIOR = 0.5, 1.0


def learner(**settings: Any) -> bm.VCL:
    torch.manual_seed(0)
    network = nn.Linear(F, 1, bias=False)
    settings = {"prior_scale": PRIOR, "scale": 0.1, "epochs": 700, "batch": N, "rate": 0.015} | settings
    return bm.VCL(network, bm.likelihoods.Gaussian(scale=NOISE), **settings).double()


def drawn(seed: int, count: int = N) -> Points:
    """Points of two lines, with features that hang together."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, count, F, generator=generator).double()
    x[..., 1] += 0.7 * x[..., 0]
    slopes = torch.tensor([[0.5, -0.5, 0.3], [-0.4, 0.2, 0.8]]).double()
    y = (x * slopes[:, None]).sum(-1, keepdim=True) + NOISE * torch.randn(B, count, 1, generator=generator).double()
    return Points(x, y, torch.ones(B, count, dtype=torch.bool))


def exact(points: Points, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The best factorised Gaussian after points under a factorised prior: the mean, and 1 / diag(precision) as variance."""
    precision = torch.diag_embed(scale**-2) + points.x.mT @ points.x / NOISE**2
    right = mean * scale**-2 + (points.x.mT @ points.y)[..., 0] / NOISE**2
    return torch.linalg.solve(precision, right[..., None])[..., 0], precision.diagonal(dim1=1, dim2=2).rsqrt()


def found(posterior: Any) -> tuple[Tensor, Tensor]:
    mean, log_scale = posterior.weights
    return mean.detach(), log_scale.exp().detach()


def told(made: Any, *parts: Points) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        posterior: Any = made(parts[0])
        for part in parts[1:]:
            posterior = posterior.update(part)
    return posterior


def near(posterior: Any, expected: tuple[Tensor, Tensor], mean: float, scale: float) -> None:
    """Means within a share of the exact standard deviation, scales within a share of theirs."""
    ours, spread = found(posterior)
    assert ((ours - expected[0]) / expected[1]).abs().max() < mean
    assert (spread / expected[1] - 1).abs().max() < scale


def test_each_part_leads_to_the_exact_factorised_optimum_under_the_last_one() -> None:
    made, parts = learner(), [drawn(seed) for seed in (1, 2, 3)]
    expected = torch.zeros(B, F).double(), torch.full((B, F), PRIOR).double()
    posterior: Any = None
    for part in parts:
        prior = expected if posterior is None else found(posterior)
        posterior = told(made, part) if posterior is None else told(posterior.update, part)
        near(posterior, exact(part, *prior), mean=0.01, scale=0.1)  # pairs of opposite draws have exact slopes of μ
        expected = exact(part, *expected)
        near(posterior, expected, mean=0.25, scale=0.1)  # with what was left of all parts so far


def test_minibatches_lead_there_too() -> None:
    part = drawn(1)
    expected = exact(part, torch.zeros(B, F).double(), torch.full((B, F), PRIOR).double())
    near(told(learner(batch=11, epochs=300, rate=0.008), part), expected, mean=0.2, scale=0.1)


def test_a_coreset_is_learned_last_from_what_the_other_points_led_to() -> None:
    part = drawn(1)
    torch.manual_seed(1)
    aside, rest = _divided(part, 10)
    posterior = told(learner(coreset=10), part)
    assert torch.equal(posterior.kept[1].x, aside.x)
    expected = exact(rest, torch.zeros(B, F).double(), torch.full((B, F), PRIOR).double())
    carried, _ = posterior.kept
    assert ((carried.mean - expected[0]) / expected[1]).abs().max() < 0.02
    near(posterior, exact(aside, carried.mean, carried.log_scale.exp()), mean=0.02, scale=0.1)
    later = told(learner(coreset=10), part, drawn(2))
    assert later.kept[1].mask.shape == (B, 20)
    assert torch.equal(later.kept[1].x[:, :10], aside.x)


def test_a_coreset_and_the_rest_are_all_points_and_none_twice() -> None:
    points = drawn(1, count=7)
    points = points._replace(mask=torch.tensor([[True] * 7, [False, True] * 3 + [True]]))
    aside, rest = _divided(points, 3)
    for b in range(B):
        parts = [given.x[b][given.mask[b]][:, 0].tolist() for given in (aside, rest)]
        assert len(parts[0]) == 3
        assert sorted(parts[0] + parts[1]) == sorted(points.x[b][points.mask[b]][:, 0].tolist())


def test_what_was_told_nothing_has_the_prior_and_begins_as_a_first_part() -> None:
    made, nothing = learner(epochs=3), drawn(1)
    nothing = nothing._replace(mask=nothing.mask & torch.tensor([[True], [False]]))
    mean, scale = found(told(made, nothing))
    assert torch.equal(mean[1], torch.zeros(F).double())
    torch.testing.assert_close(scale[1], torch.full((F,), PRIOR).double())
    torch.manual_seed(1)
    later = found(told(made, nothing).update(drawn(2)))
    torch.manual_seed(1)
    told(made, nothing)
    alone = found(made(drawn(2)))
    for ours, theirs in zip(later, alone, strict=True):
        torch.testing.assert_close(ours[1], theirs[1])


def test_the_loss_is_the_bound_of_the_support() -> None:
    """In closed form, and as Pyro's own estimate from draws has it."""
    made, part = learner(epochs=5, objective=bm.ELBO(draws=4000)), drawn(1)
    mean, scale = found(told(made, part))
    residual = part.y[..., 0] - (part.x @ mean[..., None])[..., 0]
    spread = (part.x.square() @ scale.square()[..., None])[..., 0]
    normal = torch.distributions.Normal(0.0, NOISE)
    fit = (normal.log_prob(residual) - spread / (2 * NOISE**2)).sum(1)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(0.0, torch.tensor(PRIOR).double())
    ).sum(1)
    bound = ((kl - fit) / N).mean()
    episode = Episode(part, drawn(2))
    torch.manual_seed(1)
    torch.testing.assert_close(made.loss(episode).detach(), bound, rtol=0.01, atol=0)
    torch.manual_seed(1)
    estimate = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    ours = torch.tensor(estimate.loss(made.model, made.guide, episode)).double() / (B * N)
    torch.testing.assert_close(ours, bound, rtol=0.01, atol=0)


def test_a_low_bound_is_learned_from_its_prior_by_fit() -> None:
    """Weights of size 1 under a prior of 0.1: what `fit` learns is a wider one."""
    made = learner(prior_scale=0.1, epochs=20, rate=0.1)
    before = made.prior_log_scale.item()
    bm.fit(made, [Episode(drawn(seed), drawn(seed)) for seed in range(20)], steps=20, progress=False)  # type: ignore[arg-type]
    assert made.prior_log_scale.item() > before


def test_gradients_flow_through_the_last_ten_steps_alone() -> None:
    part = drawn(1)
    for epochs, flows in ((10, True), (11, False)):
        made = learner(epochs=epochs)
        posterior: Any = made(part)
        slope = torch.autograd.grad(posterior.weights.mean.sum(), made.network.weight, allow_unused=True)[0]
        assert (slope is not None and bool(slope.any())) == flows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior_scale": 0.0}, "prior_scale: expected a number above 0, got 0.0"),
        ({"prior_scale": float("inf")}, "prior_scale: expected a finite number, got inf"),
        ({"scale": -1.0}, "scale: expected a number above 0, got -1.0"),
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"batch": 0}, "batch: expected a whole number of at least 1, got 0"),
        ({"rate": float("nan")}, "rate: expected a number above 0, got nan"),
        ({"coreset": -1}, "coreset: expected a whole number of at least 0, got -1"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**settings)


def test_a_coreset_of_a_whole_part_is_refused_before_any_work() -> None:
    made = learner(coreset=10, epochs=1)
    with pytest.raises(ValueError, match="coreset: expected fewer points than a part has, got 10 of the 10 of task 0"):
        made(drawn(1, count=10))
    with pytest.raises(ValueError, match="coreset: expected fewer points than a part has, got 10 of the 5 of task 0"):
        made(drawn(1)).update(drawn(2, count=5))
