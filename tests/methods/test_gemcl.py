"""Class Gaussians against what they are by definition."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_gradients import finite_differences, gradient, relative_error
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import bayesmeta as bm
from bayesmeta import Episode, Points

F, W = 3, 4


def learner(seed: int = 0, classes: int = W, isotropic: bool = False) -> bm.GeMCL:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(2, F), nn.Tanh())
    made = bm.GeMCL(body, size=F, classes=classes, isotropic=isotropic).double()
    own = (made.mean, made.log_spread, made.log_noise, made.log_new, made.log_evidence)
    with torch.no_grad():
        for parameter in (part for part in own if part is not None):
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return made


def drawn(count: int, batch: int = 2, classes: int = W, seed: int = 1) -> Points:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, count, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (batch, count), generator=generator)
    return Points(x, y, torch.ones_like(y, dtype=torch.bool))


def part(given: Points, part: slice) -> Points:
    return Points(*(leaf[:, part] for leaf in given))


def moments(made: bm.GeMCL, features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of a class's next features, by conditioning the joint normal of all of them."""
    n = len(features) + 1
    means, variances = [], []
    for mean, spread, noise, column in zip(*made.prior(), features.T, strict=True):
        joint = spread * torch.ones(n, n, dtype=torch.float64) + noise * torch.eye(n, dtype=torch.float64)
        weights = torch.linalg.solve(joint[1:, 1:], joint[1:, 0]) if n > 1 else joint[1:, 0]
        means.append(mean + weights @ (column - mean))
        variances.append(joint[0, 0] - weights @ joint[1:, 0])
    return torch.stack(means), torch.stack(variances)


@pytest.mark.parametrize("isotropic", [False, True])
def test_predictions_are_bayes_rule_on_the_conditioned_normals(isotropic: bool) -> None:
    made, support, query = learner(isotropic=isotropic), drawn(6, classes=3), drawn(5, seed=2)
    power = 1.0 if made.log_evidence is None else made.log_evidence.exp()
    support.y[1] %= 2  # task 1 has two labels without points, task 0 one
    probabilities = made(support)(query.x).probs  # type: ignore[attr-defined]
    for b in range(2):
        features, asked = made.features(support.x[b]), made.features(query.x[b])
        known = support.y[b].unique().tolist()
        new = made.log_new.exp() / (W - len(known))
        columns = []
        for label in range(W):
            mean, variance = moments(made, features[support.y[b] == label])
            density = (power * Normal(mean, variance.sqrt()).log_prob(asked).sum(-1)).exp()
            columns.append((1 if label in known else new) * density)
        expected = torch.stack(columns, -1)
        torch.testing.assert_close(probabilities[b], expected / expected.sum(-1, keepdim=True), rtol=1e-10, atol=0)


def test_densities_of_points_in_turn_make_the_marginal_likelihood() -> None:
    """Σ_i log p(f_i | f_1 ... f_{i-1}) of one class is the joint normal of its points, features being independent."""
    made, stream = learner(), drawn(7, batch=1, classes=1)
    features = made.features(stream.x[0])
    posterior: Any = made(Points(*(torch.zeros_like(leaf[:, :1]) for leaf in stream)))
    total = torch.zeros((), dtype=torch.float64)
    for i in range(7):
        total = total + posterior.inner.log_density(features[None, i : i + 1])[0, 0, 0]
        posterior = posterior.update(part(stream, slice(i, i + 1)))
    _, _, noise = made.prior()
    total = total - 7 * 0.5 * (2 * torch.pi * noise).log().sum()  # what is the same for all classes
    expected = sum(
        MultivariateNormal(
            mean.expand(7), spread * torch.ones(7, 7, dtype=torch.float64) + noise * torch.eye(7, dtype=torch.float64)
        ).log_prob(column)
        for mean, spread, noise, column in zip(*made.prior(), features.T, strict=True)
    )
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parts_in_any_order_equal_all_at_once_after_ten_thousand_points(dtype: torch.dtype) -> None:
    made = learner(classes=20).to(dtype)
    stream, query = drawn(10_000, batch=1, classes=15), drawn(50, batch=1, seed=2).x.to(dtype)
    stream = stream._replace(x=stream.x.to(dtype))
    exact = 1e-9 if dtype == torch.float64 else 1e-5
    with torch.no_grad():
        expected = made(stream)(query).probs  # type: ignore[attr-defined]
        pieces = [part(stream, slice(i, i + 500)) for i in range(0, 10_000, 500)]
        for order in (pieces, pieces[::-1]):
            posterior = made(order[0])
            for points in order[1:]:
                posterior = posterior.update(points)
            torch.testing.assert_close(posterior(query).probs, expected, rtol=0, atol=exact)  # type: ignore[attr-defined]


@pytest.mark.parametrize("isotropic", [False, True])
def test_the_gradient_is_that_of_finite_differences_through_an_update(isotropic: bool) -> None:
    made, support, query = learner(isotropic=isotropic), drawn(6, classes=3), drawn(8, seed=2)
    parameters = list(made.parameters())

    def loss() -> Tensor:
        later = made(part(support, slice(0, 3))).update(part(support, slice(3, 6)))
        return -later(query.x).log_prob(query.y).mean()

    for value in (loss, lambda: made.loss(Episode(support, query))):
        found = gradient(value(), parameters)
        assert relative_error(found, finite_differences(value, parameters)) < 1e-6
        assert all(slope.any() for slope in torch.autograd.grad(value(), parameters))


def test_labels_without_points_share_the_weight_of_a_new_class() -> None:
    made, support, x = learner(), drawn(6, classes=2), drawn(5, seed=2).x
    narrow = made(support)(x).probs  # type: ignore[attr-defined]
    wide = copy.deepcopy(made)
    wide.classes = 50
    probabilities = wide(support)(x).probs  # type: ignore[attr-defined]
    torch.testing.assert_close(probabilities[..., :2], narrow[..., :2])  # room for more classes moves nothing
    torch.testing.assert_close(probabilities[..., 2:].sum(-1), narrow[..., 2:].sum(-1))
    nothing = Points(*(torch.zeros_like(leaf[:, :1]) for leaf in support))
    torch.testing.assert_close(made(nothing)(x).probs, torch.full((2, 5, W), 1 / W, dtype=torch.float64))  # type: ignore[attr-defined]


def test_draws_of_means_have_the_posteriors_moments() -> None:
    """Logits of two draws differ by (z - (m₁ + m₂) / 2) (m₁ - m₂): at z = 0, the mean of m² is m̂² + v. Five standard errors."""
    made, support = learner(), drawn(6, classes=2)
    posterior: Any = made(support)
    mean, variance = posterior.inner._means()
    torch.manual_seed(0)
    at = made.mean.detach().expand(2, 1, F)
    logits = posterior.inner._functions(20_000)(at, False).logits.detach()[:, :, 0]  # at z = 0
    found = -2 * (logits[..., 0] - logits[..., 1]).mean(0)
    expected = (mean.square() + variance).sum(-1)
    spread = (4 * mean.square() * variance + 2 * variance.square()).sum(-1)
    error = (spread[:, 0] + spread[:, 1]).sqrt() / 20_000**0.5
    assert ((found - (expected[:, 0] - expected[:, 1])).abs() < 5 * error).all()


def test_what_is_new_is_learned_from_queries_outside() -> None:
    """Classes are corners far apart: what lies at none of those that were shown is new."""
    torch.manual_seed(0)
    corners = 4 * torch.eye(8).repeat_interleave(10, 0) + 0.3 * torch.randn(80, 8)
    source = bm.tasks.ClassTasks(corners, torch.arange(80) // 10, ways=3, queries=3, outside=3)
    made = bm.GeMCL(nn.Identity(), size=8, classes=4)
    bm.fit(made, source, steps=150, progress=False)
    found = bm.evaluate(made, source, episodes=5)
    assert found["Accuracy"].value > 0.97
    assert found["NLL"].value < 0.15


def test_more_points_make_a_new_class_likelier_where_none_of_them_is_near() -> None:
    """At the prior's mean, far from a class: the more certain that class's mean, the less it can be one of its."""
    made = bm.GeMCL(nn.Identity(), 2, classes=2, isotropic=True)
    new = []
    for count in (1, 2, 5, 50):
        known = Points(torch.full((1, count, 2), 1.0), torch.zeros(1, count).long(), torch.ones(1, count).bool())
        new.append(made(known)(torch.zeros(1, 1, 2)).probs[0, 0, 1].item())  # type: ignore[attr-defined]
    assert new == sorted(new)
    assert new[0] < new[-1] - 0.03


def test_bad_input() -> None:
    support = drawn(3)
    with pytest.raises(ValueError, match="classes: expected a whole number of at least 2, got 1"):
        bm.GeMCL(nn.Identity(), 2, classes=1)
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1, got 0"):
        bm.GeMCL(nn.Identity(), 0, classes=2)
    with pytest.raises(ValueError, match=r"size: expected the number of features, .* shape \(2,\), got 3; .* size=2"):
        bm.GeMCL(nn.Identity(), 3, classes=W).double()(support)
    made = learner(classes=3)
    beyond = support._replace(y=torch.full_like(support.y, 7))
    with pytest.raises(ValueError, match=r"support\.y: expected labels 0 to 2, got 7; .* learner\.classes = 8"):
        made(beyond)
    posterior = made(support._replace(y=support.y % 3))
    with pytest.raises(ValueError, match=r"points\.y: expected labels 0 to 2, got 7"):
        posterior.update(beyond)
    with pytest.raises(ValueError, match=r"x: expected inputs of event shape \(2,\)"):
        posterior.update(support._replace(x=torch.zeros(2, 3, 5)))
    transductive = nn.Sequential(nn.Linear(2, F), nn.BatchNorm1d(F, track_running_stats=False))
    posterior = bm.GeMCL(transductive, F, classes=W).double()(support)
    with pytest.raises(NotImplementedError, match="Rehearsal"):
        posterior.update(support)
