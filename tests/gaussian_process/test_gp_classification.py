"""Gaussian processes for classes against dense formulas, scikit-learn, quadrature and NUTS."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyro
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from pyro.infer import MCMC, NUTS, Predictive, TraceMeanField_ELBO
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.data import Points
from bayesmeta.gaussian_process import GPClassifier
from bayesmeta.gaussian_process.class_process import ClassProcess
from bayesmeta.gaussian_process.one_vs_rest import largest
from bayesmeta.methods.polya_gamma_gp import polya_gamma

W = 3


def kernel(scale: float = 4.0) -> ScaleKernel:
    """4 exp(-(x - x')² / 2)."""
    made = ScaleKernel(RBFKernel()).double()
    made.outputscale, made.base_kernel.lengthscale = scale, 1.0
    return made


def labelled(classes: int = W, seed: int = 0) -> Points:
    """Two tasks, of 7 and of 4 points."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 7, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (2, 7), generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    return Points(x * mask[..., None], y * mask, mask)


def polya(chains: int = 0, steps: int = 10) -> bm.PolyaGammaGP:
    return bm.PolyaGammaGP(nn.Identity(), kernel(), classes=W, chains=chains, steps=steps).double()


def laplace(classes: int = W) -> bm.LaplaceGP:
    return bm.LaplaceGP(nn.Identity(), kernel(), classes=classes).double()


def task(points: Points, b: int) -> Points:
    seen = points.mask[b]
    return Points(*(leaf[b : b + 1, seen] for leaf in points))


def prior(points: Points) -> Tensor:
    """I ⊗ K of one task, the points outermost."""
    x = points.x[0]
    matrix = 4 * torch.exp(-0.5 * torch.cdist(x, x).square())
    return torch.kron(matrix, torch.eye(W, dtype=torch.float64))


@pytest.mark.parametrize("learner", [polya(), laplace()], ids=["mean field", "Laplace"])
def test_joint_equals_the_dense_formula(learner: GPClassifier) -> None:
    points, x = labelled(), torch.randn(2, 5, 2, dtype=torch.float64)
    posterior = learner._process(points)
    assert isinstance(posterior, ClassProcess)
    mean, spread = posterior.joint_function(x)
    marginal_mean, marginal_spread = posterior.function(x)
    for b in range(2):
        alone = task(points, b)
        seen = alone.x.shape[1]
        together = prior(Points(torch.cat([alone.x, x[b : b + 1]], 1), alone.y, alone.mask))
        size = seen * W
        inner, cross, corner = together[:size, :size], together[:size, size:], together[size:, size:]
        factor = torch.block_diag(*posterior.sites.factor[0, b, :seen])
        weights = posterior.sites.weights[0, b, :seen].flatten()
        smoothed = torch.linalg.inv(torch.linalg.inv(inner) + factor @ factor.mT)
        away = torch.linalg.solve(inner, cross)
        dense = corner - cross.mT @ away + away.mT @ smoothed @ away
        torch.testing.assert_close(spread[0, b], dense, atol=1e-9, rtol=0)
        torch.testing.assert_close(mean[0, b], cross.mT @ weights, atol=1e-9, rtol=0)
        blocks = dense.unflatten(0, (-1, W)).unflatten(2, (-1, W))
        for m in range(5):
            torch.testing.assert_close(marginal_spread[0, b, m], blocks[m, :, m], atol=1e-9, rtol=0)
    torch.testing.assert_close(marginal_mean.flatten(-2), mean)


def test_draws_have_the_moments_of_the_joint() -> None:
    """20,000 draws; each entry within 5 standard errors: a false alarm once in 10,000."""
    torch.manual_seed(0)
    points, x = labelled(), torch.randn(2, 3, 2, dtype=torch.float64)
    posterior = laplace()._process(points)
    mean, spread = posterior.joint_function(x)
    values: list[Tensor] = []
    posterior._likelihood = lambda f: values.append(f)  # type: ignore[assignment,method-assign,return-value,func-returns-value]
    posterior.draws(x, 20_000)
    drawn = values[0].flatten(-2)  # (S, B, M W)
    deviation = spread[0].diagonal(dim1=1, dim2=2).sqrt()
    assert ((drawn.mean(0) - mean[0]).abs() < 5 * deviation / 20_000**0.5).all()
    centred = drawn - mean[0]
    empirical = torch.einsum("sbi,sbj->bij", centred, centred) / 20_000
    tolerance = 5 * 2**0.5 * deviation[:, :, None] * deviation[:, None] / 20_000**0.5
    assert ((empirical - spread[0]).abs() < tolerance).all()


def test_laplace_equals_scikit_learn() -> None:
    """With two classes f_1 - f_0 is one Gaussian process of twice the kernel, and the softmax is its logistic function."""
    points = labelled(2)
    learner, x = laplace(2), torch.randn(2, 5, 2, dtype=torch.float64)
    evidence = learner.evidence(bm.Episode(points, Points(x[:, :1], points.y[:, :1], torch.zeros(2, 1).bool())))
    mean, spread = learner._process(points).function(x)
    for b in range(2):
        alone = task(points, b)
        reference = GaussianProcessClassifier(ConstantKernel(8.0) * RBF(1.0), optimizer=None, max_iter_predict=200)
        reference.fit(alone.x[0].numpy(), alone.y[0].numpy())
        inner = reference.base_estimator_
        torch.testing.assert_close(evidence[b].item(), inner.log_marginal_likelihood_value_, atol=1e-6, rtol=0)
        cross = inner.kernel_(alone.x[0].numpy(), x[b].numpy())
        latent = cross.T @ (inner.y_train_ - inner.pi_)
        torch.testing.assert_close((mean[0, b, :, 1] - mean[0, b, :, 0]).detach().numpy(), latent, atol=1e-5, rtol=0)
        reduced = np.linalg.solve(inner.L_, inner.W_sr_[:, None] * cross)
        contrast = torch.tensor([-1.0, 1.0]).double()
        variance = torch.einsum("mvw,v,w->m", spread[0, b], contrast, contrast)
        torch.testing.assert_close(variance.detach().numpy(), 8.0 - (reduced**2).sum(0), atol=1e-5, rtol=0)


def test_mean_field_bound_rises_with_each_round_and_stays_below_the_evidence() -> None:
    """The evidence of two points by Gauss-Hermite quadrature in the 4 differences."""
    points = Points(torch.tensor([[[0.0, 0.0], [0.7, 0.2]]]).double(), torch.tensor([[2, 0]]), torch.ones(1, 2).bool())
    nothing = bm.Episode(points, Points(points.x[:, :1], points.y[:, :1], torch.zeros(1, 1).bool()))
    bounds = [polya(steps=steps).evidence(nothing).item() for steps in range(1, 12)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(bounds))
    learner = polya()
    gram, _ = learner._gram_of_differences(learner._gram(points), points)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    grid = torch.cartesian_prod(*[torch.as_tensor(nodes)] * 4)
    mass = torch.cartesian_prod(*[torch.as_tensor(weights / weights.sum())] * 4).prod(1)
    psi = grid @ torch.linalg.cholesky(gram[0]).mT
    evidence = (mass * torch.sigmoid(psi).prod(1)).sum().log().item()
    assert evidence - 0.5 < bounds[-1] < evidence
    torch.manual_seed(0)  # the Pyro programs: a bound that is tighter, for the likelihood is the exact one
    elbo = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    found = -elbo.loss(learner.model, learner.guide, nothing)
    assert bounds[-1] - 0.01 < found < evidence + 0.01


@pytest.mark.slow
def test_gibbs_agrees_with_nuts_on_the_exact_model() -> None:
    """To 0.01 in each probability: 4,000 NUTS draws (about 0.003 standard error) and 3,000 chains of 30 rounds."""
    points = task(labelled(seed=3), 0)
    x = torch.randn(1, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.5
    nothing = bm.Episode(points, Points(points.x[:, :1], points.y[:, :1], torch.zeros(1, 1).bool()))
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(lambda: white(nothing), max_tree_depth=6), 4000, 400, disable_progbar=True)
    learner = polya(chains=3000, steps=30)
    size = points.x.shape[1] * W
    together = prior(Points(torch.cat([points.x, x], 1), points.y, points.mask))
    inner, cross, corner = together[:size, :size], together[:size, size:], together[size:, size:]
    root = torch.linalg.cholesky(inner)

    def white(given: bm.Episode) -> None:
        """The learner's model, its f written as a root of the prior times white numbers: NUTS likes those."""
        z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(size).double(), 1.0).to_event(1))
        fixed = pyro.poutine.condition(learner.model, {"f": torch.cat([root @ z, z.new_zeros(W)])[None]})
        pyro.poutine.block(fixed, hide=["f"])(given)

    chain.run()
    z = chain.get_samples()["z"]
    mean = z @ root.mT @ torch.linalg.solve(inner, cross)
    spread = torch.linalg.cholesky(corner - cross.mT @ torch.linalg.solve(inner, cross) + 1e-10 * torch.eye(6 * W))
    values = mean[None] + torch.randn(8, *mean.shape).double() @ spread.mT
    exact = bm.likelihoods.OneVsEach()(values.unflatten(-1, (6, W))).probs.mean((0, 1))  # type: ignore[attr-defined]
    found = learner(points)(x, samples=12_000).probs[0]  # type: ignore[attr-defined]
    assert (found - exact).abs().max() < 0.01
    field = polya(steps=30)(points)(x).probs[0]  # type: ignore[attr-defined]
    assert (field - exact).abs().max() < 0.05


@pytest.mark.parametrize("c", [0.0, 0.5, 3.0, 10.0])
def test_moments_of_polya_gamma(c: float) -> None:
    """Mean and variance of a million draws, each within 5 standard errors."""
    count = 1_000_000
    generator = torch.Generator().manual_seed(0)
    numbers = torch.empty(count, 32, dtype=torch.float32).exponential_(generator=generator)
    drawn = polya_gamma(torch.full((count,), c), numbers).double()
    mean = math.tanh(c / 2) / (2 * c) if c else 0.25
    variance = (math.sinh(c) - c) / (4 * c**3 * math.cosh(c / 2) ** 2) if c else 1 / 24
    assert abs(drawn.mean().item() - mean) < 5 * (variance / count) ** 0.5
    fourth = (drawn - mean).pow(4).mean().item()
    assert abs((drawn - mean).square().mean().item() - variance) < 5 * ((fourth - variance**2) / count) ** 0.5


def test_largest_of_normals() -> None:
    """Two classes in closed form; five against a million draws, within 5 standard errors."""
    mean = torch.tensor([[1.3, -0.4], [0.0, 9.0]], dtype=torch.float64)
    scale = torch.tensor([[0.7], [2.0]], dtype=torch.float64)
    closed = torch.special.ndtr((mean[:, 0] - mean[:, 1]) / (2**0.5 * scale[:, 0]))
    torch.testing.assert_close(largest(mean, scale).probs[:, 0], closed, atol=1e-8, rtol=0)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    five = torch.tensor([0.0, 0.5, -1.0, 2.0, 1.9])
    winners = (five + 0.8 * torch.randn(1_000_000, 5, generator=generator)).argmax(-1)
    frequency = torch.bincount(winners, minlength=5) / 1_000_000
    found = largest(five, torch.tensor([0.8])).probs  # type: ignore[attr-defined]
    assert ((found - frequency).abs() < 5 * (frequency * (1 - frequency)).sqrt() / 1000 + 1e-6).all()


@pytest.mark.parametrize("learner", [polya(), laplace()], ids=["mean field", "Laplace"])
def test_model_and_guide_are_pyro_programs(learner: GPClassifier) -> None:
    points = labelled()
    episode = bm.Episode(points, labelled(seed=1))
    sampled = Predictive(learner.model, guide=learner.guide, num_samples=3)(episode)
    assert sampled["f"].shape[-1] == 14 * W
    trace = pyro.poutine.trace(learner.guide).get_trace(episode)
    assert trace.nodes["f"]["fn"].batch_shape == (2,)


def test_variance_counts() -> None:
    """Far from the support classes are equally likely, near it they are not; one shot of each class, at three corners."""
    support = bm.points(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), [0, 1, 2], classes=W)
    for learner in (
        bm.DKTClassifier(nn.Identity(), kernel(1.0), classes=W),
        bm.LaplaceGP(nn.Identity(), kernel(), classes=W),
        bm.PolyaGammaGP(nn.Identity(), kernel(), classes=W),
    ):
        posterior = learner.float()(support)
        near, far = posterior(torch.tensor([[0.0, 0.0], [50.0, 50.0]])).probs[0]  # type: ignore[attr-defined]
        assert near.argmax() == 0
        assert near[0] > 0.5
        torch.testing.assert_close(far, torch.full((W,), 1 / W), atol=5e-3, rtol=0)
        epistemic = posterior.decompose(torch.tensor([[0.0, 0.0], [50.0, 50.0]])).epistemic
        assert epistemic[0, 1] > epistemic[0, 0]


def test_other_numbers_of_classes() -> None:
    learner = polya()
    learner.classes = 5
    assert learner(labelled(5))(labelled().x).probs.shape == (2, 7, 5)  # type: ignore[attr-defined]
    learner.classes = 2
    with pytest.raises(ValueError, match="labels 0 to 1, got 4"):
        learner(labelled(5))
    with pytest.raises(ValueError, match="labels from 0 on, got -1"):
        learner(Points(labelled(2).x, labelled(2).y - 1, labelled(2).mask))


def test_errors() -> None:
    with pytest.raises(ValueError, match="classes"):
        bm.LaplaceGP(nn.Identity(), RBFKernel(), classes=1)
    with pytest.raises(ValueError, match="integer labels"):
        laplace()(bm.points(torch.zeros(1, 2), torch.zeros(1)))
    with pytest.raises(ValueError, match="inputs \\(B, N, D\\)"):
        laplace()(bm.points(torch.zeros(2, 1, 8, 8), [0, 1], classes=W))
    with pytest.raises(TypeError, match="kernel"):
        bm.DKTClassifier(nn.Identity(), nn.Identity(), classes=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chains"):
        bm.PolyaGammaGP(nn.Identity(), RBFKernel(), classes=2, chains=-1)


@pytest.mark.parametrize("objective", [bm.Predictive(), bm.ELBO()], ids=["predictive", "elbo"])
@pytest.mark.parametrize("kind", [bm.PolyaGammaGP, bm.LaplaceGP], ids=lambda kind: kind.__name__)
def test_a_thousand_ways_are_refused_at_once_with_the_memory_they_would_take(kind, objective) -> None:  # type: ignore[no-untyped-def]
    learner = kind(nn.Identity(), RBFKernel(), classes=1000, objective=objective)
    support = bm.points(torch.randn(1000, 2), torch.arange(1000), classes=1000)
    with pytest.raises(
        ValueError, match=r"classes: expected .* 1000 points in 1000 classes, 7,451 GiB; use DKTClassifier"
    ):
        learner(support)
    with pytest.raises(ValueError, match="classes: expected matrices"):
        learner.loss(bm.Episode(support, support))


def test_the_largest_of_many_is_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, scale = torch.randn(4, 20, dtype=torch.float64), torch.full((4, 1), 0.7, dtype=torch.float64)
    whole = largest(mean, scale).probs  # type: ignore[attr-defined]
    monkeypatch.setattr("bayesmeta.gaussian_process.one_vs_rest.at_once", lambda numbers: 7)
    torch.testing.assert_close(largest(mean, scale).probs, whole, rtol=1e-12, atol=0)  # type: ignore[attr-defined]
    assert largest(mean[:0], scale[:0]).probs.shape == (0, 20)  # type: ignore[attr-defined]
