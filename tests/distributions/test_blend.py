"""Mixtures of distributions of several families."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from pyro.distributions import Bernoulli, Normal, Poisson, StudentT
from torch import Tensor

from bayesmeta import warps
from bayesmeta.distributions import (
    Blend,
    Unwarped,
    affine,
    blend,
    cdf,
    centre,
    choose,
    crps,
    expects,
    log_prob,
    marginals,
    mixture,
    quantile,
    sample,
    stack,
    temper,
    undefined,
)

D = torch.float64
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=D)


def parts(*batch: int, event: bool = True) -> list:
    """A normal, a Student's t and a log-t, of three numbers a point."""
    generator = torch.Generator().manual_seed(0)
    loc, scale, other, width = (torch.randn(*batch, 3, dtype=D, generator=generator) for _ in range(4))
    each = [Normal(loc + 3, scale.exp()), StudentT(5.0, other, width.exp()), StudentT(6.0, loc / 2, width.exp() / 2)]
    each = [d.to_event(1) if event else d for d in each]
    return [*each[:2], Unwarped(each[2], warps.Log(top=5.0))]


def targets(*batch: int) -> Tensor:
    return torch.rand(*batch, 3, dtype=D, generator=torch.Generator().manual_seed(1)) * 4 + 0.1


@pytest.mark.parametrize("event", [True, False])
def test_it_is_the_weighted_mean_of_densities_cdfs_and_moments(event: bool) -> None:
    each, y = parts(4, 2, event=event), targets(4, 2)
    d = blend(each, WEIGHTS.log() + 7.0)
    assert isinstance(d, Blend)
    assert (d.batch_shape, d.event_shape) == (each[0].batch_shape, each[0].event_shape)
    shares = WEIGHTS.tolist()

    def mean(values: list[Tensor]) -> Tensor:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    torch.testing.assert_close(d.log_prob(y).exp(), mean([part.log_prob(y).exp() for part in each]))
    torch.testing.assert_close(d.mean, mean([part.mean for part in each]))
    second = mean([part.variance + part.mean.square() for part in each])
    torch.testing.assert_close(d.variance, second - d.mean.square())
    below = mean([cdf(marginals(part), y) for part in each])
    torch.testing.assert_close(cdf(marginals(d), y), below)
    for p in (0.01, 0.5, 0.99):
        torch.testing.assert_close(cdf(marginals(d), quantile(d, p)), torch.full_like(y, p))
    single = marginals(d).log_prob(y).exp()
    torch.testing.assert_close(single, mean([marginals(part).log_prob(y).exp() for part in each]))


def test_crps_is_the_expected_distance_to_draws() -> None:
    # E|Y - y| - E|Y - Y'| / 2 by 400,000 draws: six standard errors.
    d, y = blend(parts(2, event=False), WEIGHTS.log()), targets(2)
    torch.manual_seed(0)
    first, second = sample(d, 400_000), sample(d, 400_000)
    each = (first - y).abs() - (first - second).abs() / 2
    error = each.std(0) / 400_000**0.5
    assert ((crps(d, y) - each.mean(0)).abs() < 6 * error).all()
    normals = [Normal(part.loc, part.scale) for part in parts(2, event=False)[:2]]  # whose CRPS is in closed form
    as_blend = Blend(normals, WEIGHTS[:2].log())
    closed = crps(mixture(stack(normals), WEIGHTS[:2].log().reshape(2, 1, 1)), y)
    torch.testing.assert_close(crps(as_blend, y), closed, rtol=1e-5, atol=0)


def test_crps_of_mixtures_of_students_is_theirs() -> None:
    one = StudentT(5.0, torch.zeros(3, dtype=D), 2.0)
    y = torch.tensor([0.3, -4.0, 50.0], dtype=D)
    twice = mixture(stack([one, one]))
    torch.testing.assert_close(crps(twice, y), crps(one, y), rtol=1e-5, atol=0)


def test_draws_have_the_law_of_their_distribution() -> None:
    # Kolmogorov-Smirnov: a false alarm of .001 each.
    d = blend(parts(2), WEIGHTS.log())
    torch.manual_seed(0)
    for drawn in (sample(d, 4000), d.sample((4000,))):
        assert drawn.shape == (4000, 2, 3)
        ranks = cdf(marginals(d), drawn)
        assert all(scipy.stats.kstest(row.numpy(), "uniform").pvalue > 1e-3 for row in ranks.flatten(1).mT)


def test_mixtures_of_blends_and_draws_of_several_members() -> None:
    each, y = parts(5, 4, 2), targets(4, 2)
    log_weights = torch.randn(5, 4, 1, dtype=D)
    d = mixture(blend(each, WEIGHTS.log()), log_weights)
    density = sum(
        share * (log_weights.softmax(0) * part.log_prob(y).exp()).sum(0)
        for share, part in zip(WEIGHTS.tolist(), each, strict=True)
    )
    torch.testing.assert_close(d.log_prob(y).exp(), density)
    index = torch.tensor([2, 0, 0, 1, 1])
    chosen = choose(each, index)
    expected = torch.stack([each[k].log_prob(y)[s] for s, k in enumerate(index.tolist())])
    torch.testing.assert_close(chosen.log_prob(y), expected)
    once = choose(each, torch.tensor([1, 1, 1, 1, 1]))  # two members have no draw at all
    torch.testing.assert_close(mixture(once).log_prob(y), mixture(each[1]).log_prob(y))
    same = choose([each[0], each[0]], index % 2)
    torch.testing.assert_close(same.log_prob(y), each[0].log_prob(y))
    twice = mixture(stack([blend(parts(4, 2)), blend(parts(4, 2))]))
    torch.testing.assert_close(twice.log_prob(y), blend(parts(4, 2)).log_prob(y))


def test_what_no_part_allows_has_no_density_and_no_gradient() -> None:
    loc = torch.zeros(2, 1, dtype=D, requires_grad=True)
    logs = [Unwarped(Normal(loc, 1.0).to_event(1), warps.Log(top)) for top in (2.0, 3.0)]
    y = torch.tensor([[-1.0], [2.0]], dtype=D)
    d = blend(logs)
    assert d.log_prob(y).isinf().tolist() == [True, False]
    assert d.support.check(y).tolist() == [False, True]
    with_normal = blend([*logs, Normal(loc, 1.0).to_event(1)])
    assert with_normal.log_prob(y).isfinite().all()
    assert with_normal.support.check(y).all()
    assert expects(with_normal).startswith("numbers above 0")
    for some in (d, with_normal):
        for mask in (torch.tensor([False, True]), torch.tensor([[False], [True]])):
            (slope,) = torch.autograd.grad(log_prob(some, y, mask).sum(), loc, retain_graph=True)
            assert slope.isfinite().all()
    assert not undefined(with_normal).any()
    broken = Normal(torch.tensor([[float("nan")], [0.0]], dtype=D), 1.0, validate_args=False).to_event(1)
    assert undefined(blend([*logs, broken])).tolist() == [True, False]
    assert not undefined(blend([*logs, broken], torch.tensor([0.0, 0.0, -torch.inf]))).any()


def test_temperatures_act_on_each_part_around_its_centre() -> None:
    each, tau, y = parts(4, 2), torch.tensor(1.7, dtype=D), targets(4, 2)
    d = blend(each, WEIGHTS.log())
    expected = blend([temper(part, tau) for part in each], WEIGHTS.log())
    torch.testing.assert_close(temper(d, tau).log_prob(y), expected.log_prob(y))
    torch.testing.assert_close(temper(d, tau, centre(d)).log_prob(y), expected.log_prob(y))
    moved = affine(blend(each[:2]), torch.tensor(1.0, dtype=D), torch.tensor(2.0, dtype=D))
    torch.testing.assert_close(moved.mean, 1 + 2 * blend(each[:2]).mean)


def test_one_family_needs_no_blend_and_other_kinds_have_none() -> None:
    assert not isinstance(blend([Normal(torch.zeros(2), 1.0)] * 2), Blend)
    for other in (Poisson(torch.ones(2)), Bernoulli(torch.zeros(2))):
        with pytest.raises(TypeError, match="kinds"):
            blend([Normal(torch.zeros(2), 1.0), other])
