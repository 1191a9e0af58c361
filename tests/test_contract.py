"""What every learner keeps. A new learner enters by one row in `LEARNERS`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.means import ConstantMean
from torch import Tensor, nn
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta import Episode, Learner, Points
from bayesmeta.functional import Mapped
from bayesmeta.likelihoods import Likelihood

B, N, M, S, D, W = 3, 4, 5, 6, 2, 3


def classwise(likelihood: Likelihood) -> bool:
    return isinstance(likelihood, bm.likelihoods.Categorical)


def targets(likelihood: Likelihood) -> int:
    return W if classwise(likelihood) else 1


def outputs(network: bm.networks.MLP) -> int:
    return network.head.out_features


def pooling(network: bm.networks.MLP, likelihood: Likelihood) -> bm.encoders.Encoder:
    if classwise(likelihood):
        return bm.encoders.ClassPooling(8, W, 6, features=network.features)
    return bm.encoders.DeepSet(8, 1, 6, features=network.features)


def outwards(network: bm.networks.MLP) -> bm.networks.MLP:
    """Another network of the same shape."""
    return bm.networks.MLP(D, outputs(network), hidden=(8, 8), activation=nn.Tanh)


class OneByOne(bm.likelihoods.Categorical):
    """Whose inner error asks of each class by itself: unlike a softmax's, it sees what all classes have in common."""

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        bm.likelihoods.check_labels(y)
        return nn.functional.softplus(outputs).sum(-1) - outputs.gather(-1, y[..., None]).squeeze(-1)


class TwoByTwo(bm.likelihoods.Boxes):
    """Of a network of vectors."""

    def forward(self, outputs: Tensor) -> Distribution:
        return super().forward(outputs.unflatten(-1, (2, 2, 9)))

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return super().error(outputs.unflatten(-1, (2, 2, 9)), y)


Make = Callable[[bm.networks.MLP, Likelihood], Learner]
PIXELWISE: dict[str, Make] = {
    "MAML": lambda network, likelihood: bm.MAML(network, likelihood, steps=2, rate=0.1),
    "ANIL": lambda network, likelihood: bm.ANIL(network.features, network.head, likelihood, steps=2, rate=0.1),
    "Reptile": lambda network, likelihood: bm.Reptile(network, likelihood, steps=2, rate=0.1),
    "ABML": lambda network, likelihood: bm.ABML(network, likelihood, steps=2, rate=0.1),
    "PLATIPUS": lambda network, likelihood: bm.PLATIPUS(network, likelihood, steps=2, rate=0.1),
    "NP": lambda network, likelihood: bm.NeuralProcess(
        pooling(network, likelihood), bm.networks.MLP(8 + 6 + 4, 1), likelihood, latent=4
    ),
    "VERSA": lambda network, likelihood: bm.VERSA(pooling(network, likelihood), W, likelihood),
    "DKTClassifier": lambda network, _: bm.DKTClassifier(network.features, ScaleKernel(RBFKernel()), classes=W),
    "LaplaceGP": lambda network, _: bm.LaplaceGP(network.features, ScaleKernel(RBFKernel()), classes=W),
    "PrototypicalNetwork": lambda network, _: bm.PrototypicalNetwork(network.features, classes=W),
    "GeMCL": lambda network, _: bm.GeMCL(network.features, size=8, classes=W),
    "LaplaceHead": lambda network, likelihood: bm.LaplaceHead(network.features, network.head, likelihood),
    "LaplaceHead, yes or no": lambda network, _: bm.LaplaceHead(
        network.features, nn.Linear(8, 1), bm.likelihoods.Bernoulli()
    ),
}
"""Within `Dense`, on pixels."""
LEARNERS: dict[str, Make] = {
    "MAML": lambda network, likelihood: bm.MAML(network, likelihood, steps=2, rate=0.1),
    "FirstOrderMAML": lambda network, likelihood: bm.FirstOrderMAML(network, likelihood, steps=2, rate=0.1),
    "ANIL": lambda network, likelihood: bm.ANIL(network.features, network.head, likelihood, steps=2, rate=0.1),
    "MetaSGD": lambda network, likelihood: bm.MetaSGD(network, likelihood, steps=2, rate=0.1),
    "Reptile": lambda network, likelihood: bm.Reptile(network, likelihood, steps=2, rate=0.1),
    "OML": lambda network, likelihood: bm.OML(network.features, network.head, likelihood, rate=0.1),
    "OML, two points a step": lambda network, likelihood: bm.OML(
        network.features, nn.Sequential(network.head, nn.Tanh()), likelihood, points=2, rate=0.1
    ),
    "OML, classes": lambda network, _: bm.OML(network.features, nn.Linear(8, 1), OneByOne(), classes=W, rate=0.1),
    "ANML": lambda network, likelihood: bm.OML(
        bm.networks.Gated(network.features, bm.networks.MLP(D, 8, hidden=(4,), activation=nn.Tanh)),
        network.head,
        likelihood,
    ),
    "LaMAML": lambda network, likelihood: bm.LaMAML(network, likelihood, points=2, memory=4, replay=3),
    "MER": lambda network, likelihood: bm.MER(network, likelihood, memory=4, replay=3),
    "ExperienceReplay": lambda network, likelihood: bm.ExperienceReplay(network, likelihood, points=2, memory=4),
    "fine-tuning": lambda network, likelihood: bm.ExperienceReplay(network, likelihood, points=1, memory=0),
    "ImplicitMAML": lambda network, likelihood: bm.ImplicitMAML(network, likelihood, steps=4, rate=0.1),
    "ABML": lambda network, likelihood: bm.ABML(network, likelihood, steps=2, rate=0.1),
    "ABML, ELBO": lambda network, likelihood: bm.ABML(
        network, likelihood, steps=2, rate=0.1, objective=bm.ELBO(draws=2)
    ),
    "ABML, amortised": lambda network, likelihood: bm.ABML(
        network, likelihood, steps=2, rate=0.1, encoder=bm.encoders.DeepSet(D, targets(likelihood), 6)
    ),
    "VCL": lambda network, likelihood: bm.VCL(network, likelihood, epochs=2, rate=0.01),
    "VCL, predictive": lambda network, likelihood: bm.VCL(
        network, likelihood, epochs=2, rate=0.01, objective=bm.Predictive()
    ),
    "OnlineLaplace": lambda network, likelihood: bm.OnlineLaplace(network, likelihood, epochs=2, rate=0.01),
    "PLATIPUS": lambda network, likelihood: bm.PLATIPUS(network, likelihood, steps=2, rate=0.1),
    "PLATIPUS, one draw": lambda network, likelihood: bm.PLATIPUS(
        network, likelihood, steps=2, rate=0.1, objective=bm.ELBO(draws=1)
    ),
    "CNP": lambda network, likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(D, targets(likelihood), 6), bm.networks.MLP(D + 6, outputs(network)), likelihood
    ),
    "TNP": lambda network, likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.Attention(D, targets(likelihood), 8, heads=2), bm.networks.MLP(D + 8, outputs(network)), likelihood
    ),
    "CNP, relative": lambda network, likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.RelativeAttention(D, targets(likelihood), 8, heads=2, layers=2),
        bm.networks.MLP(8, outputs(network)),
        likelihood,
    ),
    "CNP, grid": lambda network, likelihood: bm.ConditionalNeuralProcess(
        bm.encoders.GridConvolution(
            1,
            targets(likelihood),
            8,
            resolution=4.0,
            levels=2,
            features=nn.Sequential(network.features, nn.Linear(8, 1, bias=False)),
        ),
        bm.networks.MLP(8, outputs(network)),
        likelihood,
    ),
    "NP": lambda network, likelihood: bm.NeuralProcess(
        bm.encoders.DeepSet(D, targets(likelihood), 6),
        bm.networks.MLP(D + 6 + 4, outputs(network)),
        likelihood,
        latent=4,
    ),
    "ANP": lambda network, likelihood: bm.NeuralProcess(
        bm.encoders.Attention(D, targets(likelihood), 8, heads=2),
        bm.networks.MLP(D + 8 + 4, outputs(network)),
        likelihood,
        latent=4,
        objective=bm.ELBO(draws=2),
    ),
    "NP, grid": lambda network, likelihood: bm.NeuralProcess(
        bm.encoders.GridConvolution(
            1, targets(likelihood), 8, resolution=4.0, levels=2, features=nn.Linear(D, 1, bias=False)
        ),
        bm.networks.MLP(8 + 4, outputs(network)),
        likelihood,
        latent=4,
        objective=bm.JointPredictive(draws=4),
    ),
    "NP, classwise": lambda network, likelihood: bm.NeuralProcess(
        pooling(network, likelihood),
        bm.networks.MLP(8 + 6 + 4, 1 if classwise(likelihood) else outputs(network)),
        likelihood,
        latent=4,
    ),
    "VERSA": lambda network, likelihood: bm.VERSA(pooling(network, likelihood), outputs(network), likelihood),
    "LEO": lambda network, likelihood: bm.LEO(
        bm.encoders.Relation(8, targets(likelihood), 6, classes=classwise(likelihood), features=network.features),
        outputs(network),
        likelihood,
        latent=4,
        steps=2,
        head_steps=2,
    ),
    "BMAML": lambda network, likelihood: bm.BMAML(network, likelihood, particles=3, steps=2, leader_steps=2),
    "ALPaCA": lambda network, likelihood: bm.ALPaCA(network.features, network.head, likelihood),  # type: ignore[arg-type]
    "DKT": lambda network, likelihood: bm.DKT(
        network.features,
        ScaleKernel(RBFKernel()),
        likelihood,  # type: ignore[arg-type]
        mean=ConstantMean(),
    ),
    "ADKL": lambda network, likelihood: bm.ADKL(
        bm.encoders.DeepSet(D, 1, 6),
        bm.networks.MLP(D + 6, 4),
        RBFKernel(),
        likelihood,  # type: ignore[arg-type]
    ),
    "ALPaCA, own scale": lambda network, likelihood: bm.OwnScale(
        bm.ALPaCA(network.features, network.head, likelihood)  # type: ignore[arg-type]
    ),
    "DKT, own scale": lambda network, likelihood: bm.OwnScale(
        bm.DKT(network.features, ScaleKernel(RBFKernel()), likelihood)  # type: ignore[arg-type]
    ),
    "ADKF": lambda network, likelihood: bm.ADKF(
        network.features,
        ScaleKernel(RBFKernel()),
        likelihood,  # type: ignore[arg-type]
    ),
    **{
        f"PACOH, {kind}": lambda network, likelihood, kind=kind: bm.PACOH(  # type: ignore[misc]
            network.features,
            ScaleKernel(RBFKernel()),
            likelihood,
            tasks=B,
            mean=bm.networks.MLP(D, 1, hidden=(8,)),
            hyper_posterior=kind,
            particles=3,
        )
        for kind in ("map", "variational", "svgd")
    },
    "PACOH-NN": lambda network, likelihood: bm.PACOHNN(network, likelihood, tasks=B, particles=2, weights=3, steps=3),  # type: ignore[arg-type]
    "DKT, predictive": lambda network, likelihood: bm.DKT(
        network.features,
        ScaleKernel(RBFKernel()),
        likelihood,  # type: ignore[arg-type]
        objective=bm.Predictive(),
    ),
    "DKTClassifier": lambda network, _: bm.DKTClassifier(network.features, ScaleKernel(RBFKernel()), classes=W),
    "DKTClassifier, ELBO": lambda network, _: bm.DKTClassifier(
        network.features, ScaleKernel(RBFKernel()), classes=W, mean=ConstantMean(), objective=bm.ELBO()
    ),
    "PolyaGammaGP": lambda network, _: bm.PolyaGammaGP(network.features, ScaleKernel(RBFKernel()), classes=W),
    "PolyaGammaGP, ELBO": lambda network, _: bm.PolyaGammaGP(
        network.features, ScaleKernel(RBFKernel()), classes=W, objective=bm.ELBO()
    ),
    "PrototypicalNetwork": lambda network, _: bm.PrototypicalNetwork(network.features, classes=W),
    "PrototypicalNetwork, scaled": lambda network, _: bm.PrototypicalNetwork(network.features, classes=W, scaled=True),
    "PrototypicalNetwork, cosine": lambda network, _: bm.PrototypicalNetwork(
        network.features, classes=W, scaled=True, cosine=True
    ),
    "GeMCL": lambda network, _: bm.GeMCL(network.features, size=8, classes=W),
    "GeMCL, isotropic": lambda network, _: bm.GeMCL(network.features, size=8, classes=W, isotropic=True),
    "LaplaceGP": lambda network, _: bm.LaplaceGP(network.features, ScaleKernel(RBFKernel()), classes=W),
    "LaplaceHead": lambda network, likelihood: bm.LaplaceHead(network.features, network.head, likelihood),
    "LaplaceHead, ELBO": lambda network, likelihood: bm.LaplaceHead(
        network.features, network.head, likelihood, objective=bm.ELBO()
    ),
    "LaplaceGP, ELBO": lambda network, _: bm.LaplaceGP(
        network.features, ScaleKernel(RBFKernel()), classes=W, objective=bm.ELBO()
    ),
    "Ensemble": lambda network, likelihood: bm.Ensemble(
        [bm.ABML(network, likelihood, steps=2, rate=0.1), bm.ABML(outwards(network), likelihood, steps=1, rate=0.1)]
    ),
    "Calibrated": lambda network, likelihood: bm.Calibrated.from_tasks(
        bm.ABML(network, likelihood, steps=2, rate=0.1),
        [episode("classes" if classwise(likelihood) else "gaussian", torch.float32)],  # type: ignore[arg-type]
        episodes=1,
    ),
    "Standardized": lambda network, likelihood: bm.Standardized.from_tasks(
        bm.MAML(network, likelihood, rate=0.1), bm.tasks.LinearGaussian(inputs=D)
    ),
    "ALPaCA, warped": lambda network, likelihood: bm.Warped(
        bm.OwnScale(bm.ALPaCA(network.features, network.head, likelihood)),  # type: ignore[arg-type]
        bm.warps.Log1p(unit=4.0, top=2.0),
    ),
    "MAML, warped": lambda network, likelihood: bm.Warped(
        bm.MAML(network, likelihood, steps=2, rate=0.1), bm.warps.Logit(-9.0, 9.0)
    ),
    "Ensemble, warped and not": lambda network, likelihood: bm.Ensemble(
        [
            bm.Warped(bm.ALPaCA(network.features, network.head, likelihood), bm.warps.Log1p(unit=4.0)),  # type: ignore[arg-type]
            bm.MAML(outwards(network), likelihood, steps=2, rate=0.1),
        ],
        weights=[0.7, 0.3],
    ),
    "ALPaCA, changing": lambda network, likelihood: bm.Changepoints(
        bm.ALPaCA(network.features, network.head, likelihood),
        hazard=0.2,
        capacity=2,  # type: ignore[arg-type]
    ),
    "GeMCL, changing": lambda network, _: bm.Changepoints(
        bm.GeMCL(network.features, size=8, classes=W), hazard=0.2, capacity=2
    ),
    "Consolidated, variational": lambda network, likelihood: bm.ConsolidatedVI(
        bm.MAML(network, likelihood, steps=2, rate=0.1), targets=50
    ),
    "Consolidated": lambda network, likelihood: bm.Consolidated(bm.ABML(network, likelihood, steps=2, rate=0.1)),
    **{
        f"Dense, {name}": lambda network, likelihood, make=make: bm.Dense(  # type: ignore[misc]
            nn.Conv2d(D, D, 3, padding=1), make(network, likelihood)
        )
        for name, make in PIXELWISE.items()
    },
    "ABML, rehearsed": lambda network, likelihood: bm.Rehearsal(bm.ABML(network, likelihood, steps=2, rate=0.1)),
}
ORDERED = ("OML", "ANML", "LaMAML", "MER", "ExperienceReplay", "fine-tuning")
"""Which learn from points in the order in which they stand."""
EXTENDED = ("DKT", "ADK", "PACOH, ", "Polya", "LaplaceGP", "Dense, DKT", "Dense, LaplaceGP")
"""Whose functions are Gaussian processes, drawn as far as they are asked: known again up to what rounding leaves of them."""
LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], int]] = {
    "gaussian": (bm.likelihoods.Gaussian, 1),
    "heteroscedastic": (bm.likelihoods.HeteroscedasticGaussian, 2),
    "student": (bm.likelihoods.StudentT, 1),
    "classes": (bm.likelihoods.Categorical, W),
    "pictures": (bm.likelihoods.Categorical, W),
    "yes or no": (bm.likelihoods.Bernoulli, 1),
    "counts": (bm.likelihoods.Poisson, 1),
    "spread counts": (bm.likelihoods.NegativeBinomial, 1),
    "boxes": (TwoByTwo, 36),
}
REAL_TARGETS = [
    name for name in LEARNERS if name.startswith(("ALPaCA", "ADK", "DKT,", "PACOH")) or "warped" in name
] + ["DKT"]
CLASSES = [
    name for name in LEARNERS if name.startswith(("DKTC", "Polya", "LaplaceGP", "Prototypical", "GeMCL", "OML, c"))
]
CASES = [
    pytest.param(learner, likelihood, id=f"{learner}-{likelihood}")
    for learner in LEARNERS
    for likelihood in LIKELIHOODS
    if learner in ("MAML", "Standardized")
    or likelihood in ("gaussian", "classes")
    or learner.startswith("Dense")
    or (likelihood == "boxes" and learner in ("ANIL", "ABML", "PLATIPUS", "Reptile", "BMAML"))
    or (learner, likelihood) in (("LaplaceHead", "counts"), ("LaplaceHead", "spread counts"))
    if (learner, likelihood) != ("Standardized", "yes or no")
    if not (learner in REAL_TARGETS and likelihood == "classes")
    if not (learner in CLASSES and likelihood != "classes")
    if learner.startswith("Dense") == (likelihood == "pictures")
]


def usual(learner: str) -> str:
    """One of the likelihoods that a learner takes, by name."""
    return "pictures" if learner.startswith("Dense") else "classes" if learner in CLASSES else "gaussian"


def build(learner: str, likelihood: str, dtype: torch.dtype = torch.float64) -> Learner:
    torch.manual_seed(1)
    make, outputs = LIKELIHOODS[likelihood]
    return LEARNERS[learner](bm.networks.MLP(D, outputs, hidden=(8, 8), activation=nn.Tanh), make()).to(dtype)


def smooth(learner: Learner) -> Learner:
    """With tanh in the place of each ReLU, at whose kinks finite differences are no slopes."""
    for module in list(learner.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.ReLU):
                setattr(module, name, nn.Tanh())
    return learner


def episode(likelihood: str, dtype: torch.dtype = torch.float64) -> Episode:
    generator = torch.Generator().manual_seed(2)

    def draw(points: int) -> Points:
        pixels = (2, 3) if likelihood == "pictures" else ()
        x = torch.randn(B, points, D, *pixels, generator=generator).to(dtype)
        if pixels:
            y = torch.randint(2, (B, points, *pixels), generator=generator)
        elif likelihood == "classes":
            y = torch.randint(W, (B, points), generator=generator)
        elif likelihood == "boxes":
            there = torch.randint(2, (B, points, 2, 2, 1), generator=generator)
            y = torch.cat([there, there * torch.randn(B, points, 2, 2, 4, generator=generator)], -1).to(dtype)
        elif likelihood == "yes or no":
            y = torch.randint(2, (B, points, 1), generator=generator).to(dtype)
        elif likelihood in ("counts", "spread counts"):
            y = torch.randint(5, (B, points, 1), generator=generator).to(dtype)
        else:
            y = torch.randn(B, points, 1, generator=generator).to(dtype)
        return Points(x, y, torch.ones(B, points, dtype=torch.bool))

    return Episode(draw(N), draw(M))


def describe(learner: Learner, support: Points, x: Tensor, y: Tensor) -> Tensor:
    """A predictive in numbers, ``(B, M)``."""
    torch.manual_seed(3)
    log_prob: Tensor = learner(support)(x).log_prob(y)
    return log_prob.detach()


def loss(learner: Learner, given: Episode) -> Tensor:
    """The loss, of the same draws at each call."""
    torch.manual_seed(3)
    return learner.loss(given).detach()


@pytest.mark.parametrize(("name", "likelihood"), CASES)
class TestLearner:
    def test_shapes_and_finite_log_prob(self, name: str, likelihood: str) -> None:
        given = episode(likelihood)
        posterior = build(name, likelihood)(given.support)
        event = given.query.y.shape[2:]
        predictive, draws = posterior(given.query.x), posterior.draws(given.query.x, S)
        assert (predictive.batch_shape, predictive.event_shape) == ((B, M), event)
        assert (draws.batch_shape, draws.event_shape) == ((S, B, M), event)
        assert torch.isfinite(predictive.log_prob(given.query.y)).all()
        assert torch.isfinite(draws.log_prob(given.query.y)).all()
        assert predictive.sample().shape == (B, M, *event)

    def test_every_parameter_gets_a_gradient(self, name: str, likelihood: str) -> None:
        learner = build(name, likelihood)
        given = episode(likelihood)
        torch.manual_seed(3)
        learner.loss(given).backward()
        idle = [
            n
            for n, p in learner.named_parameters()
            if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()
        ]
        assert not idle, f"no gradient, or none but zeros: {idle}"

    def test_tasks_at_once_equal_tasks_one_by_one(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        together = describe(learner, given.support, given.query.x, given.query.y)
        for b in range(B):
            alone = describe(learner, *_task(given, b))
            torch.testing.assert_close(alone[0], together[b])
        alone = torch.stack([loss(learner, Episode(*(_points(p, b) for p in given))) for b in range(B)])
        torch.testing.assert_close(loss(learner, given), alone.mean())

    def test_loop_over_tasks_equals_vmap(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        mapped = describe(learner, given.support, given.query.x, given.query.y)
        learner.strategy = "loop"  # of all that is within, too
        assert {module.strategy for module in learner.modules() if isinstance(module, Mapped)} == {"loop"}
        torch.testing.assert_close(describe(learner, given.support, given.query.x, given.query.y), mapped)

    def test_order_and_padding_of_the_support_do_not_matter(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        expected = describe(learner, given.support, given.query.x, given.query.y)
        order = torch.arange(N) if name.startswith(ORDERED) else torch.tensor([2, 0, 3, 1])
        shuffled = Points(*(leaf[:, order] for leaf in given.support))
        torch.testing.assert_close(describe(learner, shuffled, given.query.x, given.query.y), expected)
        padded = Points(
            *(
                torch.cat([torch.zeros_like(leaf[:, :2]), leaf, torch.zeros_like(leaf[:, :1])], 1)
                for leaf in given.support
            )
        )
        torch.testing.assert_close(describe(learner, padded, given.query.x, given.query.y), expected)
        padded_query = Points(*(torch.cat([leaf, torch.zeros_like(leaf[:, :2])], 1) for leaf in given.query))
        torch.testing.assert_close(loss(learner, Episode(padded, padded_query)), loss(learner, given))

    def test_query_points_do_not_see_each_other(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        together = describe(learner, given.support, given.query.x, given.query.y)
        alone = describe(learner, given.support, given.query.x[:, :1], given.query.y[:, :1])
        torch.testing.assert_close(alone, together[:, :1])

    def test_empty_support_is_finite(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        empty = Points(*(torch.zeros_like(leaf[:, :1]) for leaf in given.support))
        assert torch.isfinite(describe(learner, empty, given.query.x, given.query.y)).all()
        learner.loss(Episode(empty, given.query)).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())

    def test_state_dict_and_pickle_round_trip(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(0.1)
        expected = describe(learner, given.support, given.query.x, given.query.y)
        other = build(name, likelihood)
        other.load_state_dict(learner.state_dict())
        again = pickle.loads(pickle.dumps(learner))
        for restored in (other, again, copy.deepcopy(learner)):
            torch.testing.assert_close(
                describe(restored, given.support, given.query.x, given.query.y), expected, rtol=0, atol=0
            )

    def test_a_saved_posterior_answers_the_same(self, name: str, likelihood: str, tmp_path: Path) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.mul_(1.01)  # or a learner that is merely built the same way would do
        torch.manual_seed(3)
        expected = learner(given.support)(given.query.x).log_prob(given.query.y)
        bm.save(learner, tmp_path / "a", support=given.support)
        other = build(name, likelihood)
        torch.manual_seed(3)
        posterior = bm.load(tmp_path / "a", other)
        assert posterior is not None
        torch.testing.assert_close(posterior(given.query.x).log_prob(given.query.y), expected, rtol=0, atol=0)

    def test_float32_agrees_with_float64(self, name: str, likelihood: str) -> None:
        given, small = episode(likelihood), episode(likelihood, torch.float32)
        double = describe(build(name, likelihood), given.support, given.query.x, given.query.y)
        single = describe(build(name, likelihood, torch.float32), small.support, small.query.x, small.query.y)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)

    def test_posterior_is_a_snapshot(self, name: str, likelihood: str) -> None:
        learner, given = build(name, likelihood), episode(likelihood)
        posterior = learner(given.support)
        torch.manual_seed(3)
        before = posterior(given.query.x).log_prob(given.query.y).detach()
        with torch.no_grad():
            for tensor in filter(torch.is_floating_point, [*learner.parameters(), *learner.buffers()]):
                tensor.add_(1.0)
        torch.manual_seed(3)
        torch.testing.assert_close(posterior(given.query.x).log_prob(given.query.y).detach(), before, rtol=0, atol=0)

    def test_functions_give_the_same_answers_however_they_are_asked(self, name: str, likelihood: str) -> None:
        given = episode(likelihood)
        posterior, (x, y, _) = build(name, likelihood)(given.support), given.query
        torch.manual_seed(3)
        functions = posterior.functions(S)
        whole = functions(x).log_prob(y).detach()
        exact = {"rtol": 0, "atol": 1e-4 if name.startswith(EXTENDED) else 1e-9}
        torch.testing.assert_close(functions(x).log_prob(y), whole, **exact)
        for part in (slice(0, 2), slice(1, 5)):
            torch.testing.assert_close(functions(x[:, part]).log_prob(y[:, part]), whole[..., part], **exact)
        doubled = functions(torch.cat([x, x], 1)).log_prob(torch.cat([y, y], 1))
        torch.testing.assert_close(doubled, torch.cat([whole, whole], -1), **exact)
        torch.manual_seed(3)
        torch.testing.assert_close(posterior.draws(x, S).log_prob(y), whole, rtol=0, atol=1e-9)

    def test_each_function_takes_inputs_of_its_own(self, name: str, likelihood: str) -> None:
        given = episode(likelihood)
        functions = build(name, likelihood)(given.support).functions(S)
        own = torch.randn(S, *given.query.x.shape, generator=torch.Generator().manual_seed(4)).double()
        found = functions(own)
        assert found.batch_shape == (S, B, M)
        exact = {"rtol": 0, "atol": 1e-4 if name.startswith(EXTENDED) else 1e-9}
        for s in (0, S - 1):
            alone = functions(own[s]).log_prob(given.query.y)[s]
            torch.testing.assert_close(found.log_prob(given.query.y)[s], alone, **exact)
        with pytest.raises(ValueError, match=rf"x: expected shape \(S, B, M, ...\) with S = {S} functions and B = {B}"):
            functions(own[1:])

    def test_functions_have_slopes(self, name: str, likelihood: str) -> None:
        given = episode(likelihood)
        functions, (x, y, _) = smooth(build(name, likelihood))(given.support).functions(S), given.query
        way = (1e-2 if name.startswith(EXTENDED) else 1e-5) * torch.ones_like(x)
        with torch.no_grad():  # a process is the more certain of its slope, the more has been asked around
            central = (functions(x + way).log_prob(y) - functions(x - way).log_prob(y)) / 2
        for at in (x.clone(), x.expand(S, *x.shape).clone()):
            at.requires_grad_()
            (slope,) = torch.autograd.grad(functions(at).log_prob(y).sum(), at)
            along = (slope * way).flatten(2 - x.dim()).sum(-1)
            expected = central if slope.dim() > x.dim() else central.sum(0)
            assert ((along - expected).abs() <= 1e-2 * expected.abs() + 1e-2 * way.max()).all()

    def test_same_seed_same_numbers(self, name: str, likelihood: str) -> None:
        given = [episode(likelihood)] * 3
        first, second = build(name, likelihood), build(name, likelihood)
        histories = [bm.fit(learner, given, steps=3, seed=5, progress=False) for learner in (first, second)]  # type: ignore[arg-type]
        assert histories[0].losses == histories[1].losses
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def _points(points: Points, b: int) -> Points:
    return Points(*(leaf[b : b + 1] for leaf in points))


def _task(given: Episode, b: int) -> tuple[Points, Tensor, Tensor]:
    query = _points(given.query, b)
    return _points(given.support, b), query.x, query.y


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_batch_normalisation_is_transductive_and_group_normalisation_is_not(strategy: bm.functional.Strategy) -> None:
    x = torch.rand(1, 4, 1, 28, 28)
    support = Points(torch.rand(1, 3, 1, 28, 28), torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))
    leak = {}
    for norm in (bm.networks.BatchNorm, bm.networks.GroupNorm):
        learner = bm.MAML(
            bm.networks.Conv4(outputs=3, width=8, norm=norm), bm.likelihoods.Categorical(), rate=0.1
        ).double()
        learner.strategy = strategy
        posterior = learner(support)
        leak[norm] = (posterior(x).logits[:, :1] - posterior(x[:, :1]).logits).abs().max().item()
    assert leak[bm.networks.BatchNorm] > 1e-3
    assert leak[bm.networks.GroupNorm] < 1e-10


@pytest.mark.parametrize("bad", [-1, W])
@pytest.mark.parametrize(
    "name", [learner for learner, likelihood in (case.values for case in CASES) if likelihood == "classes"]
)
def test_labels_of_a_support_that_name_no_class_are_refused(name: str, bad: int) -> None:
    learner, given = build(name, "classes"), episode("classes")
    y = given.support.y.clone()
    y[0, 0] = bad
    with pytest.raises(ValueError, match=rf"y: expected labels.* (0|{W - 1}).*{bad}|y: expected labels from 0"):
        learner(given.support._replace(y=y))(given.query.x)


@pytest.mark.parametrize(
    "name", [learner for learner, likelihood in (case.values for case in CASES) if likelihood == "classes"]
)
def test_real_targets_are_no_labels(name: str) -> None:
    """A class is the index of a row: numbers would be cut to whole ones in silence."""
    learner, given = build(name, "classes"), episode("classes")
    for y in (given.support.y + 0.3, given.support.y[..., None] + 0.3):
        with pytest.raises(ValueError, match="y: expected integer labels"):
            learner(given.support._replace(y=y))


@pytest.mark.parametrize("field", ["x", "y"])
@pytest.mark.parametrize(
    "name", [learner for learner, likelihood in (case.values for case in CASES) if likelihood == "gaussian"]
)
def test_a_support_that_is_not_finite_is_refused(name: str, field: str) -> None:
    given = episode("gaussian")
    broken = getattr(given.support, field).clone()
    broken[1, 2] = torch.nan
    with pytest.raises(
        ValueError, match=rf"support\.{field}: expected finite numbers, got NaN or infinity at task 1, point 2"
    ):
        build(name, "gaussian")(given.support._replace(**{field: broken}))
