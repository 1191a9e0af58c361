"""Dense against its learner on hand-made pixels, and what must change nothing."""

from __future__ import annotations

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points

D = torch.float64
B, N, M, C, H, V, S = 2, 3, 2, 4, 3, 5, 6
LEARNERS = {
    "prototypes": lambda: bm.PrototypicalNetwork(nn.Identity(), classes=2),
    "Laplace head": lambda: bm.LaplaceHead(nn.Identity(), nn.Linear(C, 2), bm.likelihoods.Categorical()),
    "Gaussian process": lambda: bm.DKTClassifier(nn.Identity(), ScaleKernel(RBFKernel()), classes=2),
    "ABML": lambda: bm.ABML(bm.networks.MLP(C, 2, hidden=(4,)), bm.likelihoods.Categorical(), steps=2),
}


def pictures(count: int, seed: int = 0, classes: int = 2) -> Points:
    """Of random features, with a quarter of the pixels void."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, count, H, V, generator=g) < 0.75
    y = torch.randint(classes, (B, count, H, V), generator=g) * mask
    return Points(torch.randn(B, count, C, H, V, generator=g, dtype=D), y, mask)


def dense(name: str, **settings: int) -> bm.Dense:
    torch.manual_seed(0)
    return bm.Dense(nn.Identity(), LEARNERS[name](), **settings).double()


def told(learner: bm.Learner, support: Points, query: Points) -> Tensor:
    """Each pixel's log-probabilities of what it is, 0 of void ones."""
    torch.manual_seed(1)
    return bm.distributions.log_prob(learner(support)(query.x), query.y, query.mask).detach()


@pytest.mark.parametrize("name", LEARNERS)
def test_it_is_its_learner_on_pixels_made_by_hand(name: str) -> None:
    learner, support, query = dense(name), pictures(N), pictures(M, seed=1)

    def by_hand(given: Points) -> Points:
        """The observed pixels of each task in a row, of the pictures one after the other, row by row."""
        rows = []
        for b in range(B):
            pixels = [
                (given.x[b, n, :, h, v], given.y[b, n, h, v])
                for n in range(given.x.shape[1])
                for h in range(H)
                for v in range(V)
                if given.mask[b, n, h, v]
            ]
            rows.append((torch.stack([x for x, _ in pixels]), torch.stack([y for _, y in pixels])))
        return bm.points([x for x, _ in rows], [y for _, y in rows], classes=2, dtype=D)

    pixels, asked = by_hand(support), by_hand(query)
    torch.manual_seed(1)
    expected = learner.learner(pixels)(asked.x).log_prob(asked.y)
    expected = (expected * asked.mask).sum(1)
    torch.testing.assert_close(told(learner, support, query).sum(1), expected.detach())
    torch.manual_seed(2)
    loss = learner.loss(Episode(support, query))
    torch.manual_seed(2)
    torch.testing.assert_close(loss, learner.learner.loss(Episode(pixels, asked)))


@pytest.mark.parametrize("name", LEARNERS)
def test_void_pixels_and_padded_pictures_change_nothing(name: str) -> None:
    learner, support, query = dense(name, pixels=12), pictures(N), pictures(M, seed=1)
    expected = told(learner, support, query)
    other = torch.where(support.mask, support.y, 1 - support.y)
    torch.testing.assert_close(told(learner, support._replace(y=other), query), expected, rtol=0, atol=0)
    void = query._replace(y=torch.where(query.mask, query.y, 1 - query.y))
    torch.testing.assert_close(told(learner, support, void), expected, rtol=0, atol=0)
    padded = Points(
        *(torch.cat([torch.zeros_like(leaf[:, :1]), leaf, torch.zeros_like(leaf[:, :2])], 1) for leaf in support)
    )
    torch.testing.assert_close(told(learner, padded, query), expected)
    torch.manual_seed(2)
    loss = learner.loss(Episode(support, query))
    torch.manual_seed(2)
    torch.testing.assert_close(learner.loss(Episode(padded, void)), loss)


def test_pixels_are_chosen_among_the_observed_and_anew_in_training() -> None:
    learner, support, query = dense("Laplace head", pixels=7), pictures(N), pictures(M, seed=1)
    posterior = learner(support)
    kept = posterior.inner.support
    assert kept.mask.shape == (B, 7)
    assert kept.mask.all()
    known = {tuple(row) for row in support.x[0].movedim(1, -1)[support.mask[0]].tolist()}
    assert {tuple(row) for row in kept.x[0].tolist()} <= known
    torch.testing.assert_close(learner(support)(query.x).base_dist.logits, posterior(query.x).base_dist.logits)
    losses = {learner.loss(Episode(support, query)).item() for _ in range(3)}
    assert len(losses) == 3


def test_updates_pass_through() -> None:
    learner, first, second, query = dense("prototypes"), pictures(N), pictures(M, seed=1), pictures(M, seed=2)
    both = told(learner, bm.data.concatenate(first, second), query)
    later = learner(first).update(second)
    torch.testing.assert_close(bm.distributions.log_prob(later(query.x), query.y, query.mask).detach(), both)


def test_functions_are_of_whole_pictures() -> None:
    """Under a doubtful head all pixels of a feature are right or wrong together: draws of the number of them are wide."""
    head = bm.LaplaceHead(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Bernoulli(), prior_scale=5.0)
    learner = bm.Dense(nn.Identity(), head)
    nothing = Points(torch.zeros(1, 1, 1, 8, 8), torch.zeros(1, 1, 8, 8).long(), torch.zeros(1, 1, dtype=torch.bool))
    torch.manual_seed(0)
    functions = learner(nothing).functions(400)
    x = torch.ones(1, 1, 1, 8, 8)
    probability = bm.distributions.class_probabilities(functions(x))[..., 1].detach()
    torch.testing.assert_close(functions(x).base_dist.logits, functions(x).base_dist.logits)
    assert probability.std((-2, -1)).max() < 1e-6  # of one draw, whose pixels are alike
    assert probability[:, 0, 0, 0, 0].std() > 0.3
    parts = learner(nothing).decompose(x)
    assert parts.epistemic.shape == (1, 1, 8, 8)
    assert (parts.epistemic > 0.2).all()


def test_it_trains_inside_other_wrappers() -> None:
    learner = bm.Ensemble([dense("prototypes"), dense("Laplace head")])
    support, query = pictures(N), pictures(M, seed=1)
    assert learner(support)(query.x).event_shape == (H, V)
    assert bm.fit(learner, [Episode(support, query)] * 2, steps=2, progress=False).losses  # type: ignore[arg-type]
    rehearsed = bm.Rehearsal(dense("Laplace head"))(support).update(query)
    assert rehearsed(query.x).batch_shape == (B, M)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p._replace(y=p.y[..., 1:], mask=p.mask[..., 1:]),
            r"y: expected a label for each pixel, .*\(2, 3, 3, 5\)",
        ),
        (lambda p: p._replace(y=p.y.double()), "y: expected a label for each pixel, whole numbers"),
        (lambda p: p._replace(y=p.y[:, :, 0, 0], mask=p.mask[:, :, 0, 0]), "labels of 2 dimensions a point"),
        (
            lambda p: p._replace(x=(255 * p.x).byte()),
            r"x: expected pictures \(B, N, C, H, V\) of floating numbers, .*255",
        ),
        (lambda p: p._replace(x=p.x[:, :, 0]), r"x: expected pictures \(B, N, C, H, V\)"),
        (lambda p: p._replace(y=p.y + 3 * p.mask), "support.y: expected labels 0 to 1, got 4"),
    ],
)
def test_pictures_that_are_none_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense("prototypes")(change(pictures(N)))(pictures(M).x)


def test_pictures_of_other_sizes_and_labels_beyond_the_learners_are_refused() -> None:
    image, label = torch.rand(2, C, H, V), torch.zeros(2, H, V).long()
    with pytest.raises(
        ValueError, match=r"x of task 1: expected the event shape \(4, 3, 5\) of task 0, got \(4, 3, 4\)"
    ):
        bm.points([image, image[..., 1:]], [label, label[..., 1:]], classes=2, event_dims=2)
    learner = bm.Dense(nn.Identity(), LEARNERS["prototypes"]())
    posterior = learner(bm.points(image, label, classes=2, event_dims=2))
    with pytest.raises(ValueError, match=r"x: expected inputs of event shape \(4, 3, 5\), .*got \(4, 3, 4\)"):
        posterior(image[None, ..., 1:])
    with pytest.raises(ValueError, match="x: expected pictures of values from 0 to 1, got bytes"):
        posterior((255 * image[None]).byte())
    three = bm.points(image, label + 2, classes=3, event_dims=2)
    for likelihood, outputs in ((bm.likelihoods.Bernoulli(), 1), (bm.likelihoods.Categorical(), 2)):
        head = bm.LaplaceHead(nn.Identity(), nn.Linear(C, outputs), likelihood)
        with pytest.raises(ValueError, match=r"y: expected (targets that a Bernoulli|labels from 0)"):
            bm.Dense(nn.Identity(), head)(three)


@pytest.mark.parametrize("name", [*LEARNERS, "yes and no"])
def test_a_class_that_no_support_picture_shows(name: str) -> None:
    """All that is marked is background: a legal answer, from which a learner may not be sure of what it has not seen."""
    torch.manual_seed(0)
    yes_no = bm.LaplaceHead(nn.Identity(), nn.Linear(C, 1), bm.likelihoods.Bernoulli(), evidence=0.5)
    learner = bm.Dense(nn.Identity(), yes_no).double() if name == "yes and no" else dense(name)
    support, query = pictures(N), pictures(M, seed=1)
    background = support._replace(y=torch.zeros_like(support.y))
    with torch.no_grad():
        p = bm.distributions.class_probabilities(learner(background)(query.x))[..., 1]
    assert p.isfinite().all()
    assert ((p > 0) & (p < 1)).all()
    assert p.mean() < 0.55  # prototypes have not seen any other, and are in doubt: 0.5
    loss = learner.loss(Episode(background, query))
    assert loss.isfinite()
    if loss.requires_grad:  # prototypes of given features learn nothing
        loss.backward()
        assert all(w.grad is None or w.grad.isfinite().all() for w in learner.parameters())


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels: expected a whole number of at least 1"):
        dense("prototypes", pixels=0)
    with pytest.raises(ValueError, match="features: expected those of each picture by itself"):
        bm.Dense(nn.BatchNorm2d(C, track_running_stats=False), LEARNERS["prototypes"]())
    with pytest.raises(TypeError, match="learner: expected a learner"):
        bm.Dense(nn.Identity(), nn.Identity())  # type: ignore[arg-type]
    pooled = bm.Dense(nn.MaxPool2d(3), LEARNERS["prototypes"]()).double()
    with pytest.raises(ValueError, match=r"features: expected features of each pixel, \(6, F, 3, 5\)"):
        pooled(pictures(N))
    numbers = bm.Dense(nn.Identity(), bm.MAML(bm.networks.MLP(C, 1), bm.likelihoods.Gaussian())).double()
    with pytest.raises(ValueError, match="y: expected targets of event shape"):
        numbers(pictures(N))(pictures(M).x)


def test_doubt_about_the_task_falls_with_pictures() -> None:
    learner, query = dense("Laplace head"), pictures(M, seed=1)
    few, many = pictures(1), pictures(8)
    doubt = [learner(given).decompose(query.x).epistemic.mean().item() for given in (few, many)]
    assert doubt[1] < 0.5 * doubt[0]
