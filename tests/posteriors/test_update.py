"""Posteriors that are told further points: the laws of `update`, for every learner."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from gpytorch.kernels import RBFKernel
from test_contract import CASES, B, D, M, W, build, episode
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Learner, Points
from bayesmeta.data import concatenate
from bayesmeta.posteriors import PointEstimate
from bayesmeta.wrappers.rehearsal import _Rehearsed


def standardized(name: str) -> Callable[[str], Learner]:
    return lambda likelihood: bm.Standardized.from_tasks(
        build(name, likelihood), bm.tasks.LinearGaussian(inputs=D)
    ).double()


def ensemble(name: str) -> Callable[[str], Learner]:
    def make(likelihood: str) -> Learner:
        other = build(name, likelihood)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.1)
        return bm.Ensemble([build(name, likelihood), other])

    return make


WRAPPED: dict[str, Callable[[str], Learner]] = {
    "Standardized ALPaCA": standardized("ALPaCA"),
    "Standardized DKT": standardized("DKT"),
    "Ensemble of VERSA": ensemble("VERSA"),
}
CONSTANT = {
    "ALPaCA",
    "ALPaCA, own scale",
    "ALPaCA, warped",
    "PrototypicalNetwork",
    "PrototypicalNetwork, scaled",
    "PrototypicalNetwork, cosine",
    "GeMCL",
    "GeMCL, isotropic",
    "CNP",
    "NP",
    "NP, classwise",
    "VERSA",
    "Standardized ALPaCA",
    "Ensemble of VERSA",
}
"""Updates are exact, and the state does not grow."""
IN_ORDER = {
    "OML",
    "OML, two points a step",
    "OML, classes",
    "ANML",
    "LaMAML",
    "MER",
    "ExperienceReplay",
    "fine-tuning",
}
"""Updates go on with a pass over the points: exact in order, where parts are multiples of a step, and the state does not grow."""
GROWING = {"ABML, rehearsed", "Standardized DKT"}
GROWING |= {"DKT", "DKT, own scale", "DKT, predictive", "DKTClassifier", "DKTClassifier, ELBO"} | {
    f"PACOH, {k}" for k in ("map", "variational", "svgd")
}
"""Updates are exact, and the state grows."""
PRIOR = {"ALPaCA, changing", "GeMCL, changing", "ABML", "ABML, ELBO", "ABML, amortised", "Ensemble", "Calibrated"}
PRIOR |= {"Consolidated", "VCL", "VCL, predictive", "OnlineLaplace"}
"""The posterior becomes the prior: the state does not grow."""
FURTHER = {"Consolidated, variational", "MAML", "FirstOrderMAML", "ANIL", "MetaSGD", "Reptile", "Standardized"}
FURTHER |= {"MAML, warped", "Ensemble, warped and not"}
"""Updates go on from where the old points led."""
for group in (CONSTANT, GROWING, PRIOR, FURTHER):
    group |= {f"Dense, {name}" for name in group}

PAIRS = [tuple(case.values) for case in CASES]
PAIRS += [("Ensemble of VERSA", "classes")] + [(name, "gaussian") for name in WRAPPED]
EXACT = [pair for pair in PAIRS if pair[0] in CONSTANT | GROWING | IN_ORDER]
UPDATED = [pair for pair in PAIRS if pair[0] in CONSTANT | GROWING | IN_ORDER | PRIOR | FURTHER]
REFUSED = [pair for pair in PAIRS if pair not in UPDATED]


def made(name: str, likelihood: str) -> Learner:
    return WRAPPED[name](likelihood) if name in WRAPPED else build(name, likelihood)


def some(likelihood: str, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Points:
    """Points of which the second task has one only, and the third none."""
    generator = torch.Generator().manual_seed(seed)
    if likelihood == "pictures":
        x, y = (
            torch.randn(B, count, D, 2, 3, generator=generator).to(dtype),
            torch.randint(2, (B, count, 2, 3), generator=generator),
        )
        mask = torch.arange(count) < torch.tensor([[count], [1], [0]])
        return Points(x * mask[..., None, None, None], y * mask[..., None, None], mask)
    x = torch.randn(B, count, D, generator=generator).to(dtype)
    if likelihood == "boxes":
        there = torch.randint(2, (B, count, 2, 2, 1), generator=generator)
        y = torch.cat([there, there * torch.randn(B, count, 2, 2, 4, generator=generator)], -1).to(dtype)
        mask = torch.arange(count) < torch.tensor([[count], [1], [0]])
        return Points(x * mask[..., None], y * mask[..., None, None, None], mask)
    y: Tensor = torch.randn(B, count, 1, generator=generator).to(dtype)
    if likelihood in ("classes", "yes or no"):
        y = torch.randint(W, (B, count), generator=generator) if likelihood == "classes" else (y > 0).to(dtype)
    elif likelihood in ("counts", "spread counts"):
        y = (3 * y).abs().floor()
    mask = torch.arange(count) < torch.tensor([[count], [1], [0]])
    return Points(x * mask[..., None], y * (mask if likelihood == "classes" else mask[..., None]), mask)


def adapted(learner: Learner, points: Points) -> bm.Posterior:
    torch.manual_seed(3)
    return learner(points)


def updated(posterior: bm.Posterior, points: Points) -> bm.Posterior:
    torch.manual_seed(3)
    return posterior.update(points)


def answers(posterior: bm.Posterior, likelihood: str) -> Tensor:
    query = episode(likelihood).query
    torch.manual_seed(4)
    log_prob: Tensor = posterior(query.x).log_prob(query.y)
    return log_prob


def close(found: Tensor, expected: Tensor, **kwargs: Any) -> None:
    torch.testing.assert_close(found, expected, **({"rtol": 1e-9, "atol": 1e-9} | kwargs))


@pytest.mark.parametrize(("name", "likelihood"), EXACT)
class TestExact:
    def test_an_update_is_an_adaptation_to_all_points_with_the_same_gradient(self, name: str, likelihood: str) -> None:
        learner, first, second = made(name, likelihood), episode(likelihood).support, some(likelihood, 3, seed=5)
        found = answers(updated(adapted(learner, first), second), likelihood)
        expected = answers(adapted(learner, concatenate(first, second)), likelihood)
        close(found, expected)
        parameters = list(learner.parameters())
        for ours, theirs in zip(
            *(
                torch.autograd.grad(a.sum(), parameters, allow_unused=True, materialize_grads=True)
                for a in (found, expected)
            ),
            strict=True,
        ):
            close(ours, theirs, rtol=1e-6, atol=1e-6)

    def test_the_order_does_not_matter_but_of_an_ordered_pass(self, name: str, likelihood: str) -> None:
        posterior = adapted(made(name, likelihood), episode(likelihood).support)
        one, other = some(likelihood, 3, seed=5), some(likelihood, 2, seed=6)
        found = answers(updated(updated(posterior, one), other), likelihood)
        turned = answers(updated(updated(posterior, other), one), likelihood)
        if name in IN_ORDER:
            assert not torch.allclose(found, turned)
        else:
            close(found, turned)

    def test_a_stream_may_begin_with_nothing(self, name: str, likelihood: str) -> None:
        learner, second = made(name, likelihood), some(likelihood, 3, seed=5)
        nothing = Points(*(torch.zeros_like(leaf[:, :1]) for leaf in second))
        close(
            answers(updated(adapted(learner, nothing), second), likelihood),
            answers(adapted(learner, second), likelihood),
        )


@pytest.mark.parametrize(("name", "likelihood"), UPDATED)
class TestUpdated:
    def test_an_empty_update_changes_nothing(self, name: str, likelihood: str) -> None:
        posterior = adapted(made(name, likelihood), episode(likelihood).support)
        nothing = some(likelihood, 2, seed=5)
        nothing = nothing._replace(mask=nothing.mask & False)
        close(answers(updated(posterior, nothing), likelihood), answers(posterior, likelihood))

    def test_posteriors_are_snapshots(self, name: str, likelihood: str) -> None:
        learner, second = made(name, likelihood), some(likelihood, 3, seed=5)
        posterior = adapted(learner, episode(likelihood).support)
        before = answers(posterior, likelihood)
        later = answers(updated(posterior, second), likelihood)
        assert not torch.equal(later, before)
        close(answers(posterior, likelihood), before, rtol=0, atol=0)
        with torch.no_grad():
            for tensor in filter(torch.is_floating_point, [*learner.parameters(), *learner.buffers()]):
                tensor.add_(1.0)
        close(answers(updated(posterior, second), likelihood), later, rtol=0, atol=0)

    def test_it_is_differentiable(self, name: str, likelihood: str) -> None:
        learner = made(name, likelihood)
        second = some(likelihood, 3, seed=5)
        x = second.x.clone().requires_grad_()
        found = answers(updated(adapted(learner, episode(likelihood).support), second._replace(x=x)), likelihood)
        slopes = torch.autograd.grad(found.sum(), [x, *learner.parameters()], allow_unused=True)
        assert all(slope is None or slope.isfinite().all() for slope in slopes)
        assert sum(slope is not None and bool(slope.any()) for slope in slopes[1:]) > 0
        if not name.startswith(("FirstOrder", "Reptile", "Dense, Reptile")):
            assert slopes[0].any()

    def test_an_updated_posterior_keeps_no_points_and_answers_in_every_way(self, name: str, likelihood: str) -> None:
        posterior = updated(adapted(made(name, likelihood), episode(likelihood).support), some(likelihood, 3, seed=5))
        x = episode(likelihood).query.x
        if not isinstance(posterior, _Rehearsed):
            assert not posterior.support.mask.any()
            assert posterior.support.mask.shape == (B, 1)
        assert posterior.draws(x, 2).batch_shape == (2, B, M)
        assert posterior.functions(2)(x[None].expand(2, *x.shape)).batch_shape == (2, B, M)
        assert all(part.isfinite().all() for part in posterior.decompose(x, 8))


def state_bytes(value: Any) -> int:
    """Of all tensors that an object holds, in whatever way."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            found[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif isinstance(each, dict):
            left += each.values()
        elif isinstance(each, (list, tuple)):
            left += each
        elif isinstance(each, types.FunctionType):
            left += [cell.cell_contents for cell in each.__closure__ or ()]
        elif isinstance(each, types.MethodType):
            left.append(each.__self__)
        elif hasattr(each, "__dict__"):
            left.append(vars(each))
    return sum(found.values())


@pytest.mark.parametrize(("name", "likelihood"), [pair for pair in PAIRS if pair[0] in CONSTANT | IN_ORDER | PRIOR])
def test_the_state_does_not_grow(name: str, likelihood: str) -> None:
    many = 20 if name in IN_ORDER else 1000  # a step each
    with torch.no_grad():
        posterior = made(name, likelihood)(episode(likelihood).support).update(some(likelihood, 10, seed=5))
        before = state_bytes(posterior)
        for seed in range(10):
            posterior = posterior.update(some(likelihood, many, seed=seed))
        assert state_bytes(posterior) == before
    assert answers(posterior, likelihood).isfinite().all()


def test_two_thousand_single_updates_of_a_linear_layer_equal_one_batch_in_float32() -> None:
    torch.manual_seed(0)
    network = bm.networks.MLP(D, 1, hidden=(16,), activation=nn.Tanh)
    learner = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian(0.1))
    x, y = torch.randn(1, 2000, D), torch.randn(1, 2000, 1)
    stream, query = Points(x, y, torch.ones(1, 2000, dtype=torch.bool)), torch.randn(1, 50, D)
    with torch.no_grad():
        posterior = learner(Points(*(leaf[:, :1] for leaf in stream)))
        for i in range(1, 2000):
            posterior = posterior.update(Points(*(leaf[:, i : i + 1] for leaf in stream)))
        found: Any = posterior(query)
        expected: Any = learner(stream)(query)
    assert found.mean.dtype == torch.float32
    close(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    close(found.stddev, expected.stddev, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "likelihood"), REFUSED)
def test_all_others_name_rehearsal_which_adapts_again(name: str, likelihood: str) -> None:
    learner, first, second = made(name, likelihood), episode(likelihood).support, some(likelihood, 3, seed=5)
    with pytest.raises(
        NotImplementedError, match=r"update: expected .*; wrap the learner, Rehearsal\(learner, capacity=None\)"
    ):
        learner(first).update(second)
    posterior = adapted(bm.Rehearsal(learner), first)
    later = answers(updated(posterior, second), likelihood)
    close(later, answers(adapted(learner, concatenate(first, second)), likelihood))
    if name not in ("ImplicitMAML", "PACOH-NN"):  # whose weights are constants
        slopes = torch.autograd.grad(later.sum(), list(learner.parameters()), allow_unused=True)
        assert any(slope is not None and slope.any() for slope in slopes)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    close(answers(updated(posterior, second), likelihood), later, rtol=0, atol=0)


def test_mamls_update_takes_as_many_steps_again_on_the_new_points() -> None:
    torch.manual_seed(0)
    network = bm.networks.MLP(D, 1, hidden=(5,), activation=nn.Tanh)
    learner = bm.MAML(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1).double()
    first, second = episode("gaussian").support, some("gaussian", 3, seed=5)
    start: Any = learner(first)
    later: Any = start.update(second)
    assert isinstance(later, PointEstimate)
    for b in range(B):
        weights = {name: value[b] for name, value in start.weights.items()}
        seen = second.mask[b]
        for _ in range(2 if seen.any() else 0):
            at = {name: value.detach().requires_grad_() for name, value in weights.items()}
            outputs = torch.func.functional_call(network, at, second.x[b, seen])
            error = 0.5 * (outputs - second.y[b, seen]).square().sum(1).mean()
            slopes = torch.autograd.grad(error, list(at.values()))
            weights = {name: at[name] - 0.1 * slope for name, slope in zip(at, slopes, strict=True)}
        for name, value in weights.items():
            close(later.weights[name][b], value)


def test_abmls_posterior_becomes_the_prior() -> None:
    """Of a linear model with one feature all is Gaussian and factorises: where steps suffice, parts are as good as the whole."""
    learner = bm.ABML(
        nn.Linear(1, 1, bias=False),
        bm.likelihoods.Gaussian(),
        steps=60,
        rate=0.5,
        scale_rate=0.5,
        inner_noise=0.7,
        inner_kl_weight=0.5,
    ).double()
    first, second = (Points(*(leaf[..., :1] if leaf.dim() > 2 else leaf for leaf in given)) for given in (
        episode("gaussian").support, some("gaussian", 3, seed=5)))  # fmt: skip
    found: Any = learner(first).update(second)
    mean, log_scale = learner.infer(concatenate(first, second))
    close(found.weights.mean, mean, atol=1e-6)
    close(found.weights.log_scale, log_scale, atol=1e-6)


@pytest.mark.parametrize(("name", "likelihood"), PAIRS)
def test_copies_are_told_different_things(name: str, likelihood: str) -> None:
    """Of the copies 3 b to 3 b + 2 of task b each answers as the task itself, told by itself."""
    learner, (x, y, _) = made(name, likelihood), episode(likelihood).query
    posterior, copies = adapted(learner, episode(likelihood).support), 3
    expanded = posterior.expand(copies)

    def asked(posterior: bm.Posterior, times: int) -> Tensor:
        torch.manual_seed(4)
        predictive = posterior(x.repeat_interleave(times, 0))
        return predictive.log_prob(y.repeat_interleave(times, 0)).unflatten(0, (B, times))

    close(asked(expanded, copies), asked(posterior, 1).expand(-1, copies, -1))
    assert expanded.functions(2)(x.repeat_interleave(copies, 0)).batch_shape == (2, B * copies, M)
    assert expanded.decompose(x.repeat_interleave(copies, 0), 8).total.isfinite().all()
    given = [some(likelihood, 3, seed=seed) for seed in range(copies)]
    together = Points(*(torch.stack(leaves, 1).flatten(0, 1) for leaves in zip(*given, strict=True)))
    if (name, likelihood) in REFUSED:
        with pytest.raises(NotImplementedError, match="update: expected"):
            expanded.update(together)
        return
    before = asked(posterior, 1)
    found = asked(updated(expanded, together), copies)
    for s, points in enumerate(given):
        close(found[:, s], asked(updated(posterior, points), 1)[:, 0], rtol=1e-6, atol=1e-6)
    close(asked(posterior, 1), before, rtol=0, atol=0)


def test_a_posterior_that_does_not_say_what_it_holds_is_not_copied() -> None:
    class Told(bm.Posterior):
        def _functions(self, samples: int) -> Any:
            raise AssertionError

    with pytest.raises(NotImplementedError, match=r"expand: expected a posterior that says .*, got Told; name those"):
        Told(episode("gaussian").support).expand(2)
    with pytest.raises(ValueError, match="copies: expected a whole number of at least 1, got 0"):
        build("ALPaCA", "gaussian")(episode("gaussian").support).expand(0)


def test_a_tempered_posterior_is_updated_within() -> None:
    learner, second = build("ALPaCA", "gaussian"), some("gaussian", 3, seed=5)
    posterior = bm.wrappers.Tempered(learner(episode("gaussian").support), 2.0)
    expected = bm.wrappers.Tempered(learner(concatenate(episode("gaussian").support, second)), 2.0)
    close(answers(posterior.update(second), "gaussian"), answers(expected, "gaussian"))


@pytest.mark.parametrize(
    "make",
    [
        lambda features: bm.ALPaCA(features, nn.Linear(8, 1), bm.likelihoods.Gaussian()),
        lambda features: bm.DKT(features, RBFKernel(), bm.likelihoods.Gaussian()),
        lambda features: bm.PACOH(features, RBFKernel(), bm.likelihoods.Gaussian(), tasks=2),
        lambda features: bm.VERSA(bm.encoders.DeepSet(8, 1, 4, features=features), 1, bm.likelihoods.Gaussian()),
    ],
)
def test_features_that_depend_on_each_other_are_refused(make: Callable[[nn.Module], Learner]) -> None:
    features = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8, track_running_stats=False))
    posterior = make(features)(bm.points(torch.randn(4, 2), torch.randn(4)))
    with pytest.raises(NotImplementedError, match=r"batch normalisation.*Rehearsal"):
        posterior.update(bm.points(torch.randn(3, 2), torch.randn(3)))


def test_points_that_do_not_fit_are_refused_by_name() -> None:
    numbers, labels = build("ALPaCA", "gaussian"), build("PrototypicalNetwork", "classes")
    posterior, of_classes = numbers(episode("gaussian").support), labels(episode("classes").support)
    given = some("gaussian", 2, seed=0)
    with pytest.raises(ValueError, match=r"points: expected Points, got Tensor"):
        posterior.update(given.x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points: expected further points of the 3 tasks of the support, got 2 tasks"):
        posterior.update(Points(*(leaf[:2] for leaf in given)))
    with pytest.raises(ValueError, match=r"x: expected inputs of event shape \(2,\), as the support has, got \(1,\)"):
        posterior.update(given._replace(x=given.x[..., :1]))
    with pytest.raises(
        ValueError, match=r"points\.y: expected targets as the support has them, torch.float64 of event shape \(1,\)"
    ):
        posterior.update(given._replace(y=given.y[..., 0].long()))
    with pytest.raises(ValueError, match=r"points\.y: expected finite numbers, got NaN or infinity at task 0, point 1"):
        posterior.update(given._replace(y=given.y * torch.tensor([[[1.0], [torch.nan]]])))
    given = some("classes", 2, seed=0)
    with pytest.raises(ValueError, match=r"y: expected labels 0 to 2, got 9"):
        of_classes.update(given._replace(y=given.y + 7 * given.mask))
    with pytest.raises(ValueError, match=r"points\.y: expected labels from 0 to one less than the learner's classes"):
        build("MAML", "classes")(episode("classes").support).update(given._replace(y=given.y + 7 * given.mask))


class Sum(nn.Module):
    """A network of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.linear(torch.cat([x["a"], x["b"]], -1))


def test_inputs_may_be_trees() -> None:
    def tree(count: int) -> Points:
        x = {name: torch.randn(2, count, 1) for name in ("a", "b")}
        return Points(x, torch.randn(2, count, 1), torch.ones(2, count, dtype=torch.bool))

    for learner in (
        bm.MAML(Sum(), bm.likelihoods.Gaussian()),
        bm.Rehearsal(bm.BMAML(Sum(), bm.likelihoods.Gaussian(), particles=2), capacity=4),
    ):
        posterior = learner(tree(3)).update(tree(2))
        assert posterior(tree(5).x).batch_shape == (2, 5)
        own = {name: torch.randn(3, 2, 5, 1) for name in ("a", "b")}
        assert posterior.draws(own, 3).batch_shape == (3, 2, 5)


class TestRehearsal:
    def test_a_reservoir_keeps_each_point_with_the_same_probability_however_they_come(self) -> None:
        """Of 12 points 3 are kept, by 600 seeds; Pearson's chi-squared of the 12 counts, whose sum is fixed."""
        stream, counts = bm.points(torch.arange(12.0), torch.zeros(12)), torch.zeros(12)
        learner = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())
        for seed in range(600):
            rehearsal = bm.Rehearsal(learner, capacity=3, seed=seed)
            kept = rehearsal(stream).support
            assert kept.mask.sum() == 3
            counts[kept.x.flatten().long()] += 1
            if seed < 20:
                parts = [Points(*(leaf[:, i : i + 1] for leaf in stream)) for i in range(12)]
                posterior = rehearsal(parts[0])
                for part in parts[1:]:
                    posterior = posterior.update(part)
                assert torch.equal(posterior.support.x, kept.x)
        # Three of twelve without replacement: the variance of each count is 9 / 11 of that of independent choices.
        statistic = ((counts - 150).square() / 150).sum().item() * 11 / 9
        assert scipy.stats.chi2.sf(statistic, 11) > 0.01

    def test_a_task_keeps_all_it_has_before_the_capacity_and_bounded_memory_after(self) -> None:
        rehearsal = bm.Rehearsal(build("ALPaCA", "gaussian"), capacity=5)
        posterior = rehearsal(episode("gaussian").support).update(some("gaussian", 8, seed=1))
        assert posterior.support.mask.sum(1).tolist() == [5, 5, 4]
        before = state_bytes(posterior)
        for seed in range(5):
            posterior = posterior.update(some("gaussian", 8, seed=seed))
        assert posterior.support.mask.sum(1).tolist() == [5, 5, 4]
        with torch.no_grad():
            assert state_bytes(posterior) == before

    def test_errors(self) -> None:
        with pytest.raises(TypeError, match="learner: expected a learner"):
            bm.Rehearsal(nn.Linear(1, 1))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="capacity: expected a whole number of at least 1, got 0"):
            bm.Rehearsal(build("MAML", "gaussian"), capacity=0)
