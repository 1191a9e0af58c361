"""Answers drawn one by one: their joint frequencies, their log-probabilities, and what cannot be drawn so."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import nn

import bayesmeta as bm
from bayesmeta.likelihoods import Categorical, Gaussian
from bayesmeta.randomness import seeded
from bayesmeta.tasks import ExactRules, RuleBooks

X = torch.tensor([[-0.6], [0.3], [1.1]])


def learned() -> bm.Learner:
    torch.manual_seed(0)
    return bm.MAML(bm.networks.MLP(1, 3, hidden=(8,)), Categorical(), steps=3, rate=1.0)


def test_joint_frequencies_are_the_products_of_the_conditionals() -> None:
    # All 27 answers to three questions, each with its probability by adapting to the points and the answers before.
    learner, x, y = learned(), [0.0, 1.0], [0, 2]
    expected = {}
    for answers in product(range(3), repeat=3):
        p = 1.0
        for m, answer in enumerate(answers):
            support = bm.points(torch.cat([torch.tensor(x)[:, None], X[:m]]), [*y, *answers[:m]], classes=3)
            p *= learner(support)(X[m : m + 1]).probs[0, 0, answer].item()
        expected[answers] = p
    with seeded(0):
        found = bm.chained(bm.Rehearsal(learner)(bm.points(x, y, classes=3)), X, samples=20_000)
    assert found.y.shape == found.log_prob.shape == (20_000, 1, 3)
    rows, logs = found.y[:, 0], found.log_prob[:, 0].sum(-1)
    for answers, p in expected.items():
        same = (rows == torch.tensor(answers)).all(-1)
        assert same.float().mean().item() == pytest.approx(p, abs=0.015)  # four standard errors and more, 27 times
        if same.any():
            torch.testing.assert_close(logs[same].exp(), torch.full_like(logs[same], p))
    alone = learner(bm.points(x, y, classes=3))(X).probs[0].detach()
    independent = {answers: float(alone[range(3), answers].prod()) for answers in expected}
    assert max(abs(expected[a] - independent[a]) for a in expected) > 0.03, "else nothing would be fed back"


def test_an_exact_posterior_chains_to_whole_rule_books() -> None:
    support, query = RuleBooks(batch=3, shots=6, seed=2)[0]
    exact = ExactRules(support)
    with seeded(0):
        found = bm.chained(exact, query.x, samples=100)
    for half in (found.y[..., :5], found.y[..., 5:]):
        assert (half.sort(-1).values == torch.arange(5)).all()
    remain = exact.remain.sum(1)  # each as likely
    torch.testing.assert_close(found.log_prob.sum(-1), -remain.float().log().expand(100, -1))
    assert [len(found.y[:, b].unique(dim=0)) for b in range(3)] == remain.tolist()


def test_a_gaussian_process_chains_to_its_joint_normal() -> None:
    torch.manual_seed(0)
    posterior = bm.DKT(nn.Identity(), RBFKernel(), Gaussian(0.3)).double()(
        bm.points([[0.0, 1.0], [0.5, 2.0]], [[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    )
    x = X.double().expand(2, -1, -1)
    with seeded(0), torch.no_grad():
        found = bm.chained(posterior, x, samples=200)
        joint = posterior.joint(x)
    spread = joint.covariance[:, 0] + torch.diag_embed(joint.noise[..., 0].square())
    normal = torch.distributions.MultivariateNormal(joint.mean[..., 0], spread)
    torch.testing.assert_close(found.log_prob.sum(-1), normal.log_prob(found.y[..., 0]), atol=1e-4, rtol=1e-4)


def test_joint_nll_of_a_gaussian_process_is_that_of_its_joint_normal() -> None:
    torch.manual_seed(0)
    learner = bm.DKT(nn.Identity(), RBFKernel(), Gaussian(0.3)).double()
    support = bm.points([[0.0, 1.0], [0.5, 2.0]], [[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    query = bm.Points(
        X.double().expand(2, -1, -1), torch.randn(2, 3, 1).double(), torch.tensor([[True] * 3, [True, False, True]])
    )
    found = bm.joint_nll(learner(support), query)
    for b in range(2):
        there = query.mask[b]
        joint = learner(bm.Points(*(leaf[b : b + 1] for leaf in support))).joint(query.x[b : b + 1, there])
        spread = joint.covariance[0, 0] + torch.diag(joint.noise[0, :, 0].square())
        normal = torch.distributions.MultivariateNormal(joint.mean[0, :, 0], spread)
        torch.testing.assert_close(found[b], -normal.log_prob(query.y[b, there, 0]), atol=1e-6, rtol=1e-6)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_joint_nll_is_that_of_chained_draws() -> None:
    posterior = bm.Rehearsal(learned())(bm.points([0.0, 1.0], [0, 2], classes=3))
    with seeded(0):
        drawn = bm.chained(posterior, X, samples=5)
    for y, logs in zip(drawn.y, drawn.log_prob, strict=True):
        torch.testing.assert_close(
            bm.joint_nll(posterior, bm.Points(X[None], y, torch.ones(1, 3).bool())), -logs.sum(-1)
        )


def test_draws_depend_on_the_seed_alone() -> None:
    posterior = bm.Rehearsal(learned())(bm.points([0.0, 1.0], [0, 2], classes=3))
    with seeded(3):
        first = bm.chained(posterior, X, samples=50)
    torch.rand(7)
    with seeded(3):
        second = bm.chained(posterior, X, samples=50)
    assert torch.equal(first.y, second.y)
    assert posterior.support.mask.sum() == 2, "the posterior stays as it is"


def test_what_cannot_be_drawn_is_named() -> None:
    support = bm.points([0.0, 1.0], [0.0, 1.0])
    torch.manual_seed(0)
    process = bm.ConditionalNeuralProcess(
        bm.encoders.Attention(1, 1, 8, heads=2), bm.networks.MLP(9, 2), bm.likelihoods.HeteroscedasticGaussian()
    )
    with pytest.raises(NotImplementedError, match="Rehearsal"):
        bm.chained(process(support), X, samples=2)
    with pytest.raises(NotImplementedError, match="Rehearsal"):
        bm.joint_nll(process(support), bm.points(X, [0.0, 1.0, 2.0]))
    with pytest.raises(TypeError, match="posterior: expected what a learner says"):
        bm.joint_nll(process, bm.points(X, [0.0, 1.0, 2.0]))  # type: ignore[arg-type]
    assert bm.chained(bm.Rehearsal(process)(support), X, samples=2).y.shape == (2, 1, 3, 1)
    with pytest.raises(ValueError, match="samples"):
        bm.chained(process(support), X, samples=0)
    with pytest.raises(TypeError, match="posterior: expected what a learner says"):
        bm.chained(process, X, samples=2)  # type: ignore[arg-type]
