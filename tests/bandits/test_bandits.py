"""Bandits: their exact answer, the knowledge gradient against quadrature, and plays against what is known of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.bandits import greedy, knowledge_gradient, look_ahead, play, thompson
from bayesmeta.tasks import Bandits

MEAN, COVARIANCE = [0.5, -0.2, 0.0], [[1.0, 0.6, 0.0], [0.6, 0.8, 0.1], [0.0, 0.1, 0.3]]


def tasks(**options: object) -> Bandits:
    return Bandits(MEAN, COVARIANCE, **{"arms": 6, "noise": 0.4, **options})  # type: ignore[arg-type]


def nothing(count: int) -> bm.Points:
    return bm.points([torch.zeros(0, 3)] * count, [torch.zeros(0, 1)] * count)


def test_the_oracle_is_the_conditional_of_the_joint_normal() -> None:
    source = tasks(shots=4, batch=3)
    episode = source[0]
    found = source.oracle(episode.support).joint(episode.query.x)
    x = torch.cat([episode.support.x, episode.query.x], 1).double()
    whole = x @ source.covariance @ x.mT
    whole[:, :4, :4] += 0.4**2 * torch.eye(4)
    gain = torch.linalg.solve(whole[:, :4, :4], whole[:, :4, 4:]).mT
    mean = (x @ source.mean)[..., None]
    torch.testing.assert_close(found.mean, mean[:, 4:] + gain @ (episode.support.y.double() - mean[:, :4]))
    torch.testing.assert_close(found.covariance[:, 0], whole[:, 4:, 4:] - gain @ whole[:, :4, 4:])


def test_what_arms_pay_has_the_moments_it_says() -> None:
    # 4,000 tasks; each mean of what is N(0, 1) by the source's own numbers lies within 5 standard errors.
    source = tasks(batch=4000, shots=2)
    arms, values = source.known(3)
    weights = torch.linalg.lstsq(arms, values[..., None]).solution[..., 0].double()
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(source.covariance), (weights - source.mean).mT, upper=False
    )
    assert (whitened.mean(1).abs() < 5 / math.sqrt(4000)).all()
    assert ((whitened @ whitened.mT / 4000 - torch.eye(3)).abs() < 5 * math.sqrt(2 / 4000)).all()
    episode = source[3]
    torch.testing.assert_close(episode.query.x, arms)
    noise = (episode.query.y[..., 0] - values) / 0.4
    assert abs(noise.square().mean() - 1) < 5 * math.sqrt(2 / noise.numel())
    support = episode.support
    assert (
        (support.x[:, :, None] - arms[:, None]).abs().sum(-1).amin(-1)[support.mask] == 0
    ).all()  # pulls of these arms


def quadrature(mean: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
    """The expected rise of the highest mean by a fine grid over Z."""
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    weight = (-z.square() / 2).exp() / math.sqrt(2 * math.pi) * (z[1] - z[0])
    rows = []
    for arm in range(len(mean)):
        slope = covariance[arm] / (covariance[arm, arm] + noise[arm]).sqrt().clamp(min=1e-300)
        rows.append((weight * (mean + z[:, None] * slope).amax(1)).sum() - mean.max())
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["any", "of low rank", "equal arms", "no doubt of one"])
def test_the_knowledge_gradient_is_the_expectation(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 5, 2 if kind == "of low rank" else 5, generator=generator).double()
    mean = 0.5 * torch.randn(2, 5, generator=generator).double()
    noise = 0.1 + torch.rand(2, 5, generator=generator).double()
    if kind == "equal arms":
        root[:, 1], mean[:, 1] = root[:, 0], mean[:, 0]
        root[:, 3] = root[:, 2]  # of one slope, but of another mean
    if kind == "no doubt of one":
        root[:, 2] = 0
        noise[:, 2] = 0
    covariance = root @ root.mT
    found = knowledge_gradient(mean, covariance, noise)
    for row in range(2):
        expected = quadrature(mean[row], covariance[row], noise[row])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-6)


def test_thompson_pulls_an_arm_as_often_as_it_is_the_best() -> None:
    # 2,000 copies of one task beside 200,000 exact draws: a chi-squared test at p > 0.001, fixed by the seed.
    source = tasks(batch=1, shots=5)
    arms, _ = source.known(0)
    posterior = source.oracle(source[0].support)
    torch.manual_seed(0)
    chosen = thompson(posterior.expand(2000), arms.expand(2000, -1, -1), 1)
    joint = posterior.joint(arms)
    exact = torch.distributions.MultivariateNormal(joint.mean[0, :, 0], joint.covariance[0, 0] + 1e-9 * torch.eye(6))
    share = torch.bincount(exact.sample(torch.Size([200_000])).argmax(1), minlength=6).double() / 200_000
    counts = torch.bincount(chosen, minlength=6).double()
    kept = share * 2000 > 5
    statistic = ((counts - 2000 * share).square() / (2000 * share))[kept].sum()
    assert kept.sum() <= 6
    assert statistic < 20.5  # the 0.999 quantile of five degrees of freedom, and so beyond that of fewer


def regret(choose: object, pulls: int = 30) -> Tensor:
    """The sum of what each play of 400 bandits missed under the exact posterior, ``(B,)``."""
    source = tasks(batch=400, arms=10)
    arms, values = source.known(7)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)

    def pull(chosen: Tensor) -> Tensor:
        noise = torch.randn(len(chosen), generator=generator)
        return values.gather(1, chosen[:, None])[:, 0] + source.noise * noise

    chosen = play(source.oracle(nothing(400)), arms, pull, pulls, choose)  # type: ignore[arg-type]
    return (values.amax(1, keepdim=True) - values.gather(1, chosen)).sum(1)


def test_plays_miss_less_than_chance_and_looking_ahead_less_than_greedy() -> None:
    found = {choose.__name__: regret(choose) for choose in (thompson, greedy, look_ahead)}  # type: ignore[attr-defined]
    chance = regret(lambda posterior, arms, left: torch.randint(10, (len(arms),)))
    for name, missed in found.items():
        gap = chance - missed
        assert gap.mean() > 5 * gap.std() / 20, name
    gap = found["greedy"] - found["look_ahead"]
    assert gap.mean() > 3 * gap.std() / 20


@torch.no_grad()
def test_looking_ahead_by_functions_agrees_with_the_closed_form() -> None:
    # The score by 256 functions is off by their error, so that only clear cases must agree: 9 of 10 of 300.
    class FunctionsOnly(bm.Posterior):
        def __init__(self, inner: bm.Posterior) -> None:
            super().__init__(inner.support)
            self.inner = inner

        def _functions(self, samples: int) -> object:  # type: ignore[override]
            return self.inner._functions(samples)

    source = tasks(batch=300, shots=5)
    posterior, arms = source.oracle(source[0].support), source.known(0)[0]
    torch.manual_seed(0)
    same = look_ahead(posterior, arms, 10) == look_ahead(FunctionsOnly(posterior), arms, 10)
    assert same.double().mean() > 0.9


def test_learners_play_and_alpaca_learns_the_prior() -> None:
    source = tasks(batch=50)
    torch.manual_seed(0)
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(3, 1), bm.likelihoods.Gaussian(0.7))
    bm.fit(learner, source, steps=150, optimizer=torch.optim.Adam(learner.parameters(), lr=0.03), progress=False)
    test = tasks(batch=200, seed=1)
    found = [bm.evaluate(answer, test, episodes=1)["NLL"].value for answer in (learner, test.oracle)]
    assert found[0] - found[1] < 0.05
    maml = bm.Rehearsal(bm.MAML(bm.networks.MLP(3, 1), bm.likelihoods.Gaussian()))
    arms, values = tasks(batch=4).known(0)
    for each in (learner, maml):
        chosen = play(each(nothing(4)), arms, lambda arm: values.gather(1, arm[:, None])[:, 0], 3)
        assert chosen.shape == (4, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": 0.0}, "noise: expected a number above 0, got 0.0"),
        ({"arms": 0}, "arms"),
        ({"shots": (3, 1)}, "shots"),
    ],
)
def test_bad_bandits_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tasks(**options)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"mean and covariance: expected \(D,\) and \(D, D\).*got \(2,\) and \(3, 3\)"):
        Bandits([0.0, 0.0], torch.eye(3))
    with pytest.raises(ValueError, match="covariance: expected a symmetric positive definite matrix"):
        Bandits([0.0, 0.0], -torch.eye(2))
    with pytest.raises(ValueError, match="mean, covariance, noise: expected"):
        knowledge_gradient(torch.zeros(1, 2), torch.eye(3)[None], torch.zeros(1, 2))
    source = tasks(batch=2)
    with pytest.raises(ValueError, match=r"pull: expected what each task's arm paid \(2,\), finite, got \(2, 1\)"):
        play(source.oracle(nothing(2)), source.known(0)[0], lambda arm: torch.zeros(2, 1), 3)
