"""Where `fit` starts lengthscales, against distances computed by hand; and that learners then train on features of any number."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import (
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from torch import nn

import bayesmeta as bm
from bayesmeta.functional import adaptable, ravel
from bayesmeta.gaussian_process import start_kernels

DEFAULT = math.log(2)


def episode(features: int = 3, tasks: int = 4, ragged: bool = False, scale: float = 5.0) -> bm.Episode:
    x = scale * torch.randn(tasks, 12, features)
    mask = torch.ones(tasks, 12, dtype=torch.bool)
    if ragged:
        mask[1, 2:5] = mask[2, 7:] = False
    x, y = x * mask[..., None], torch.randn(tasks, 12, 1) * mask[..., None]
    return bm.Episode(*(bm.Points(x[:, part], y[:, part], mask[:, part]) for part in (slice(0, 5), slice(5, 12))))


def typical(given: bm.Episode, select: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> float:
    """1/√2 of the median of the distances that a prediction takes: within the support, and from it to the query."""
    found = []
    for task in range(len(given.support.x)):
        support, query = (select(part.x[task, part.mask[task]]) for part in given)
        apart = (support[:, None] - torch.cat([support, query])).norm(dim=-1)
        # the kernel of the support is asked for once, the cross covariance once
        found.append(apart[apart > 0])
    return torch.cat(found).median().item() / 2**0.5


def dkt(kernel: Kernel) -> bm.DKT:
    return bm.DKT(nn.Identity(), kernel, bm.likelihoods.Gaussian())


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", [RBFKernel, MaternKernel, RQKernel], ids=lambda kind: kind.__name__)
def test_a_lengthscale_starts_at_the_median_distance_within_tasks(kind: type[Kernel], ragged: bool) -> None:
    given, kernel = episode(ragged=ragged), kind()
    start_kernels(dkt(kernel), given)
    assert kernel.lengthscale.item() == pytest.approx(typical(given), rel=1e-4)


def test_each_part_starts_by_the_features_that_it_sees() -> None:
    given = episode()
    first, last, every, fixed = (
        RBFKernel(active_dims=[0]),
        MaternKernel(active_dims=[1, 2]),
        RBFKernel(ard_num_dims=3),
        RBFKernel(),
    )
    fixed.lengthscale = 7.0
    scaled = ScaleKernel(RBFKernel(active_dims=[2]))
    start_kernels(dkt(ScaleKernel(first * last + every) + LinearKernel() + fixed + scaled), given)
    assert first.lengthscale.item() == pytest.approx(typical(given, lambda x: x[:, :1]), rel=1e-4)
    assert last.lengthscale.item() == pytest.approx(typical(given, lambda x: x[:, 1:]), rel=1e-4)
    assert every.lengthscale.flatten().tolist() == pytest.approx([typical(given)] * 3, rel=1e-4)
    assert fixed.lengthscale.item() == pytest.approx(7.0)
    assert scaled.base_kernel.lengthscale.item() == pytest.approx(typical(given, lambda x: x[:, 2:]), rel=1e-4)


def test_what_somebody_has_decided_stays() -> None:
    given = episode()
    frozen, bounded, inside = (
        RBFKernel(),
        RBFKernel(lengthscale_constraint=Interval(0.1, 0.5)),
        RBFKernel(lengthscale_constraint=Interval(0.1, 50.0)),
    )
    frozen.raw_lengthscale.requires_grad_(False)
    before = bounded.lengthscale.item()
    others = PeriodicKernel() + SpectralMixtureKernel(num_mixtures=2, ard_num_dims=3)
    untouched = {name: value.clone() for name, value in others.named_parameters()}
    start_kernels(dkt(frozen + bounded + inside + others), given)
    assert frozen.lengthscale.item() == pytest.approx(DEFAULT)
    assert bounded.lengthscale.item() == before
    assert inside.lengthscale.item() == pytest.approx(typical(given), rel=1e-4)
    assert all(torch.equal(value, untouched[name]) for name, value in others.named_parameters())


def test_points_without_a_distance_leave_the_lengthscale() -> None:
    given, kernel = episode(scale=0.0), RBFKernel()
    start_kernels(dkt(kernel), given)
    assert kernel.lengthscale.item() == pytest.approx(DEFAULT)


def test_wrapped_learners_start_in_the_units_that_they_see_and_each_by_itself() -> None:
    given = episode(scale=5.0)
    kernels = [RBFKernel() for _ in range(4)]
    standardized = bm.Standardized.from_tasks(dkt(kernels[0]), [given])  # type: ignore[arg-type]
    wide = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        wide.weight.copy_(10 * torch.eye(3))
    ensemble = bm.Ensemble([dkt(kernels[1]), bm.DKT(wide, kernels[2], bm.likelihoods.Gaussian())])
    calibrated = bm.Calibrated.from_tasks(dkt(kernels[3]), [given], episodes=1)  # type: ignore[arg-type]
    for learner in (standardized, ensemble, calibrated):
        start_kernels(learner, given)
    own = typical(given)
    scaled = typical(given, lambda x: x / standardized.x_scale)
    assert [k.lengthscale.item() for k in kernels] == pytest.approx([scaled, own, 10 * own, own], rel=1e-4)


@pytest.mark.parametrize("kind", ["map", "variational", "svgd"])
def test_pacohs_particles_and_its_hyper_prior_move_together(kind: bm.variational.HyperPosterior) -> None:
    given, kernel = episode(), RBFKernel()
    learner = bm.PACOH(nn.Identity(), kernel, bm.likelihoods.Gaussian(), tasks=4, hyper_posterior=kind, particles=3)
    centre, first = learner.centre.clone(), ravel(adaptable(learner.prior)).detach()
    others = learner.others.detach().clone() - first if kind == "svgd" else None
    start_kernels(learner, given)
    assert kernel.lengthscale.item() == pytest.approx(typical(given), rel=1e-4)
    moved = ravel(adaptable(learner.prior)).detach()
    torch.testing.assert_close(learner.centre - centre, moved - first)
    if others is not None:
        torch.testing.assert_close(learner.others.detach() - moved, others)


def test_adkl_and_adkf_start_by_their_features() -> None:
    given = episode()
    adkf = bm.ADKF(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian())
    start_kernels(adkf, given)
    assert adkf.fitted["kernel"].lengthscale.item() == pytest.approx(typical(given), rel=1e-4)  # type: ignore[operator, union-attr]
    adkl = bm.ADKL(bm.encoders.DeepSet(3, 1, 4), bm.networks.MLP(7, 6), RBFKernel(), bm.likelihoods.Gaussian())
    start_kernels(adkl, given)
    found = []
    for task in range(4):
        support, query = (bm.Points(*(leaf[task : task + 1] for leaf in part)) for part in given)
        near, far = adkl.features(support, support.x)[0], adkl.features(support, query.x)[0]
        apart = (near[:, None] - torch.cat([near, far])).norm(dim=-1)
        found.append(apart[apart > 0])
    assert adkl.kernel.lengthscale.item() == pytest.approx(torch.cat(found).median().item() / 2**0.5, rel=1e-4)  # type: ignore[operator, union-attr]


def test_fit_starts_once_and_draws_nothing() -> None:
    tasks = bm.tasks.Sinusoids(noise=0.1, batch=4)
    kernel = RBFKernel()
    learner = dkt(kernel)
    state = torch.get_rng_state()
    history = bm.fit(learner, tasks, steps=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert 1 < kernel.lengthscale.item() < 4  # x within ±5
    trained = kernel.lengthscale.item()
    start_kernels(learner, tasks[0])
    assert kernel.lengthscale.item() == trained
    other = dkt(RBFKernel())
    start_kernels(other, tasks[0])
    assert other.loss(tasks[0]).item() == pytest.approx(history.losses[0])


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(lambda: RBFKernel(), "learner.kernel"), (lambda: ScaleKernel(MaternKernel()), "learner.kernel")],
)
def test_a_kernel_that_sees_no_other_point_is_reported_once_by_name(kernel: Callable[[], Any], name: str) -> None:
    given = episode(features=100)
    made = kernel()
    getattr(made, "base_kernel", made).lengthscale = 0.1
    learner = bm.Standardized.from_tasks(dkt(made), [given])  # type: ignore[arg-type]
    with pytest.warns(
        UserWarning, match=f"{name}: expected a kernel under which .* identity .* set a lengthscale"
    ) as found:
        bm.fit(learner, [given], steps=2, progress=False)  # type: ignore[arg-type]
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bm.fit(dkt(kernel()), [given], steps=1, progress=False)  # type: ignore[arg-type]


# --- what it is for


def classes(features: int) -> dict[str, bm.tasks.ImageTasks]:
    """40 classes of vectors, two standard deviations of noise apart in each feature; the last 10 are for the test."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, features, generator=generator)
    labels = torch.arange(800) % 40
    x = (2 * centres[labels] + torch.randn(800, features, generator=generator))[:, :, None, None]
    parts = {"train": range(30), "test": range(30, 40)}
    return {
        name: bm.tasks.ImageTasks(x, labels, subset=part, ways=5, shots=1, queries=5, batch=8)
        for name, part in parts.items()
    }


@pytest.mark.parametrize("features", [10, 100, 1000])
@pytest.mark.parametrize("kind", [bm.DKTClassifier, bm.LaplaceGP, bm.PolyaGammaGP], ids=lambda kind: kind.__name__)
def test_classifiers_are_as_accurate_as_a_nearest_centroid(kind: Any, features: int) -> None:
    tasks = classes(features)
    learner = kind(nn.Flatten(), ScaleKernel(RBFKernel()), classes=5)
    history = bm.fit(learner, tasks["train"], steps=10, progress=False)
    assert history.losses[0] < 0.95 * math.log(5)
    centroid = bm.PrototypicalNetwork(nn.Flatten(), classes=5)
    found, wanted = (bm.evaluate(one, tasks["test"], episodes=3)["Accuracy"].value for one in (learner, centroid))
    assert wanted >= 0.95
    assert found >= wanted - 0.02


def test_points_with_a_mask_of_entries_are_known_ones() -> None:
    torch.manual_seed(0)
    learner = bm.Dense(torch.nn.Identity(), bm.DKTClassifier(torch.nn.Identity(), RBFKernel(), classes=2))
    y = torch.randint(2, (2, 3, 1, 6))
    given = bm.Points(100 * torch.rand(2, 3, 4, 1, 6), y, torch.rand(y.shape) < 0.8)
    bm.fit(learner, [bm.Episode(given, given)], steps=1, progress=False)
    assert max(part.lengthscale.item() for part in learner.modules() if isinstance(part, RBFKernel)) > 10
