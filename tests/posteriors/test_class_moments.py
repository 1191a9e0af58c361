"""Where learners of classes start, against what data were drawn from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.posteriors import class_moments
from bayesmeta.tasks import ClassTasks
from bayesmeta.training.starts import start_classes

SPREAD, NOISE, MEAN = 0.7, 0.3, 2.0


def drawn(tasks: int = 40, ways: int = 10, shots: int = 6, groups: int = 16, each: int = 4, seed: int = 0) -> Points:
    """Features of which so many are the same number, in groups: they amount to as many as there are groups."""
    generator = torch.Generator().manual_seed(seed)
    means = SPREAD * torch.randn(tasks, ways, 1, groups, generator=generator, dtype=torch.float64)
    x = MEAN + means + NOISE * torch.randn(tasks, ways, shots, groups, generator=generator, dtype=torch.float64)
    y = torch.arange(ways)[:, None].expand(tasks, ways, shots).flatten(1)
    x = x.repeat_interleave(each, -1).flatten(1, 2)
    return Points(x, y, torch.ones_like(y, dtype=torch.bool))


def test_moments_are_those_that_data_were_drawn_from() -> None:
    found = class_moments(drawn())
    assert found is not None
    torch.testing.assert_close(found.mean.mean(), torch.tensor(MEAN, dtype=torch.float64), rtol=0, atol=0.02)
    assert found.spread.sqrt().item() == pytest.approx(SPREAD, rel=0.02)
    assert found.noise.sqrt().item() == pytest.approx(NOISE, rel=0.01)
    assert found.share.item() == pytest.approx(1 / 4, rel=0.1)  # 16 independent numbers of 64


def test_independent_features_count_in_full() -> None:
    found = class_moments(drawn(groups=32, each=1))
    assert found is not None
    assert found.share.item() == pytest.approx(1.0, rel=0.1)
    assert found.share <= 1


def test_what_is_masked_changes_nothing() -> None:
    given = drawn(tasks=2)
    hidden = Points(
        torch.cat([given.x, torch.full_like(given.x, 1e3)], 1),
        torch.cat([given.y, given.y], 1),
        torch.cat([given.mask, ~given.mask], 1),
    )
    for found, expected in zip(class_moments(hidden), class_moments(given), strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_nothing_is_said_where_nothing_repeats_or_varies() -> None:
    given = drawn(tasks=1, shots=1)
    assert class_moments(given) is None
    assert class_moments(given._replace(y=given.y * 0)) is None  # one class has no spread
    constant = drawn(tasks=1)
    assert class_moments(constant._replace(x=constant.x * 0)) is None


def source(outside: int = 0, scale: float = 1.0) -> ClassTasks:
    torch.manual_seed(3)
    means = torch.randn(30, 16)
    x = scale * (means[torch.arange(600) // 20] + 0.3 * torch.randn(600, 16))
    return ClassTasks(x, torch.arange(600) // 20, ways=5, shots=2, queries=3, outside=outside, batch=8)


def test_fit_starts_a_learner_at_its_features() -> None:
    for scale in (1e-3, 1.0, 50.0):
        made = bm.GeMCL(nn.Identity(), 16, classes=6, isotropic=True)
        start_classes(made, source(outside=5, scale=scale)[0])
        _, spread, noise = made.prior()
        assert spread.sqrt().mean().item() == pytest.approx(scale, rel=0.15)
        assert noise.sqrt().mean().item() == pytest.approx(0.3 * scale, rel=0.15)  # queries outside are no class
        found = bm.evaluate(made, source(outside=5, scale=scale), episodes=10)
        assert found["NLL"].value < 0.1


def test_a_start_makes_prototypes_calibrated_whatever_the_unit() -> None:
    figures = []
    for scale in (1e-3, 1.0, 50.0):
        made = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True)
        start_classes(made, source(scale=scale)[0])
        figures.append(bm.evaluate(made, source(scale=scale), episodes=10)["NLL"].value)
    assert figures == pytest.approx([figures[0]] * 3, rel=1e-3)
    assert figures[0] < 0.05
    plain = bm.evaluate(bm.PrototypicalNetwork(nn.Identity(), 5), source(scale=1e-3), episodes=10)
    assert plain["NLL"].value > 1.5  # log 5 is 1.609


def test_prototypes_by_cosine() -> None:
    """A softmax of 2 s cosines, which no feature's length changes, and a start that does not either."""
    given = source(scale=1.0)[0]
    learner = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True, cosine=True)
    start_classes(learner, given)
    assert learner.log_scale is not None
    x, y, _ = given.support
    unit = nn.functional.normalize(x, dim=-1)
    means = torch.stack([unit[y == label].reshape(len(x), -1, x.shape[-1]).mean(1) for label in range(5)], 1)
    cosines = nn.functional.cosine_similarity(given.query.x[:, :, None], means[:, None], dim=-1)
    expected = (2 * learner.log_scale.exp() * cosines).softmax(-1)
    lengths = torch.linspace(0.1, 10.0, x.shape[1])[:, None]
    for support in (given.support, given.support._replace(x=x * lengths)):
        torch.testing.assert_close(learner(support)(3.0 * given.query.x).probs, expected, atol=1e-5, rtol=1e-4)
    longer = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True, cosine=True)
    start_classes(longer, source(scale=20.0)[0])
    torch.testing.assert_close(longer.log_scale, learner.log_scale, atol=1e-3, rtol=0.0)
    half = learner(Points(*(part[:, :5] for part in given.support))).update(
        Points(*(part[:, 5:] for part in given.support))
    )
    torch.testing.assert_close(half(given.query.x).probs, expected, atol=1e-5, rtol=1e-4)


def test_what_was_set_stays_and_wrapped_learners_start_too() -> None:
    made = bm.GeMCL(nn.Identity(), 16, classes=5, isotropic=True)
    with torch.no_grad():
        made.log_noise.fill_(0.5)
    start_classes(made, source()[0])
    assert made.log_noise.item() == 0.5
    assert not made.mean.any()
    diagonal = bm.GeMCL(nn.Identity(), 16, classes=5)
    start_classes(diagonal, source()[0])
    assert not any(parameter.any() for parameter in diagonal.parameters())
    wrapped = bm.Standardized(bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True), x_loc=0.0, x_scale=50.0)
    start_classes(wrapped, source(scale=50.0)[0])
    alone = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True)
    start_classes(alone, source(scale=1.0)[0])
    [inner] = [part for part in wrapped.modules() if isinstance(part, bm.PrototypicalNetwork)]
    assert inner.log_scale is not None
    assert alone.log_scale is not None
    assert inner.log_scale.item() == pytest.approx(alone.log_scale.item(), abs=0.1)  # it meets scaled features


def test_fit_starts_from_the_first_episode_and_not_when_it_goes_on(tmp_path: object) -> None:
    made = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True)
    bm.fit(made, source(), steps=1, optimizer=torch.optim.SGD(made.parameters(), lr=0.0), progress=False)
    other = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True)
    start_classes(other, source()[0])
    assert made.log_scale is not None
    assert made.log_scale.item() == other.log_scale.item() != 0  # type: ignore[union-attr]
    runs = []
    for lengths in ((6,), (3, 6)):
        learner = bm.PrototypicalNetwork(nn.Linear(16, 4), 5, scaled=True)
        torch.manual_seed(0)
        nn.init.normal_(learner.features.weight)  # type: ignore[arg-type]
        for steps in lengths:
            optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
            folder = f"{tmp_path}/{len(lengths)}"
            bm.fit(learner, source(), steps=steps, optimizer=optimizer, checkpoint=folder, progress=False)
        runs.append([parameter.detach().clone() for parameter in learner.parameters()])
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one, two)


def test_an_episode_without_labels_is_left_alone() -> None:
    torch.manual_seed(0)
    learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    start_classes(learner, bm.tasks.Sinusoids()[0])
    given = source()[0]
    empty = Episode(given.support._replace(mask=given.support.mask & False), given.query)
    made = bm.PrototypicalNetwork(nn.Identity(), 5, scaled=True)
    start_classes(made, empty)
    assert made.log_scale is not None
    assert made.log_scale.item() == 0


def classes_of(unit: float, dtype: torch.dtype = torch.float32) -> ClassTasks:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(9).repeat(20)
    x = 1.0 * torch.randn(9, 6, generator=g)[labels] + torch.randn(180, 6, generator=g)
    return ClassTasks(unit * x.to(dtype), labels, ways=3, shots=2, queries=5, dtype=dtype)


@pytest.mark.parametrize("unit", [2.0**-50, 2.0**-17, 2.0**17, 2.0**50])
@pytest.mark.parametrize("name", ["GeMCL", "prototypes"])
def test_after_the_start_the_unit_of_features_changes_nothing(name: str, unit: float) -> None:
    said = []
    for scale in (1.0, unit):
        learner: bm.Learner = {
            "GeMCL": lambda: bm.GeMCL(nn.Identity(), size=6, classes=3, isotropic=True),
            "prototypes": lambda: bm.PrototypicalNetwork(nn.Identity(), classes=3, scaled=True),
        }[name]()
        tasks = classes_of(scale)
        start_classes(learner, tasks[0])
        said.append(learner(tasks[1].support)(tasks[1].query.x).logits.detach())
    torch.testing.assert_close(said[1], said[0], rtol=1e-3, atol=1e-3)


def test_prototypes_far_from_zero_are_told_apart_as_near_it() -> None:
    support, query = classes_of(1.0)[0]
    learner = bm.PrototypicalNetwork(nn.Identity(), classes=3)
    near = learner(support)(query.x).logits
    far = learner(support._replace(x=support.x + 2.0**14))(query.x + 2.0**14).logits
    torch.testing.assert_close(far, near, rtol=0.02, atol=0.05)
