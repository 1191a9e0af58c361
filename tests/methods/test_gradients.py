"""Every meta-gradient against float64 finite differences of what it claims to be the gradient of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Learner
from bayesmeta.likelihoods import nll

EPSILON = 1e-5


def network(outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, hidden=(6, 5), activation=nn.Tanh)


def anil(network: bm.networks.MLP, likelihood: bm.likelihoods.Likelihood) -> Learner:
    return bm.ANIL(network.features, network.head, likelihood, steps=3, rate=0.1)


SECOND_ORDER: dict[str, Callable[[bm.networks.MLP, bm.likelihoods.Likelihood], Learner]] = {
    "MAML": lambda network, likelihood: bm.MAML(network, likelihood, steps=3, rate=0.1),
    "ANIL": anil,
    "MetaSGD": lambda network, likelihood: bm.MetaSGD(network, likelihood, steps=3, rate=0.1),
    "Standardized": lambda network, likelihood: bm.Standardized.from_tasks(
        bm.MAML(network, likelihood, steps=2), bm.tasks.Sinusoids()
    ),
}


@pytest.fixture
def episode() -> Episode:
    tasks = bm.tasks.Sinusoids(batch=3, shots=(1, 6), queries=5, noise=0.1, amplitudes=(0.1, 1.0))
    return bm.move(tasks[0], nn.Linear(1, 1).double())


@pytest.fixture
def images() -> Episode:
    generator = torch.Generator().manual_seed(0)

    def draw(points: int) -> bm.Points:
        x = torch.randn(2, points, 1, generator=generator).double()
        return bm.Points(x, torch.randint(3, (2, points), generator=generator), torch.ones(2, points, dtype=torch.bool))

    return Episode(draw(4), draw(5))


def finite_differences(value: Callable[[], Tensor], parameters: list[Tensor]) -> Tensor:
    """The central-difference gradient of a function of parameters that are changed in place."""
    slopes = []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            centre = flat[i].item()
            flat[i] = centre + EPSILON
            above = value().item()
            flat[i] = centre - EPSILON
            below = value().item()
            flat[i] = centre
            slopes.append((above - below) / (2 * EPSILON))
    return torch.tensor(slopes, dtype=torch.float64)


def gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_meta_gradient(name: str, strategy: bm.functional.Strategy, episode: Episode) -> None:
    learner = SECOND_ORDER[name](network(), bm.likelihoods.Gaussian()).double()
    learner.strategy = strategy
    parameters = list(learner.parameters())
    found = gradient(learner.loss(episode), parameters)
    expected = finite_differences(lambda: learner.loss(episode), parameters)
    assert relative_error(found, expected) < 1e-6


def features() -> nn.Module:
    return network().features


BAYESIAN: dict[str, Callable[[], Learner]] = {
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian(), steps=2),
    "ABML, ELBO": lambda: bm.ABML(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.ELBO(draws=2)),
    "ABML, amortised": lambda: bm.ABML(
        network(), bm.likelihoods.Gaussian(), steps=2, encoder=bm.encoders.DeepSet(1, 1, 4, hidden=(4,))
    ),
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.ELBO(draws=2)),
    "PLATIPUS, predictive": lambda: bm.PLATIPUS(
        network(), bm.likelihoods.Gaussian(), steps=2, objective=bm.Predictive()
    ),
    "NP": lambda: bm.NeuralProcess(
        bm.encoders.DeepSet(1, 1, 4, hidden=(4,)),
        bm.networks.MLP(8, 2, hidden=(4,)),
        bm.likelihoods.HeteroscedasticGaussian(),
        latent=3,
    ),
    "ANP, ELBO": lambda: bm.NeuralProcess(
        bm.encoders.Attention(1, 1, 4, heads=2, layers=1),
        bm.networks.MLP(8, 2, hidden=(4,)),
        bm.likelihoods.HeteroscedasticGaussian(),
        latent=3,
        objective=bm.ELBO(),
    ),
    "CNP": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, 4), bm.networks.MLP(5, 1), bm.likelihoods.Gaussian()
    ),
    "CNP, relative": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.RelativeAttention(1, 1, 4, heads=2, layers=2, features=nn.Linear(1, 1, bias=False)),
        bm.networks.MLP(4, 1, hidden=(4,)),
        bm.likelihoods.Gaussian(),
    ),
    "NP, grid": lambda: bm.NeuralProcess(  # through the places of points on the grid, too
        bm.encoders.GridConvolution(1, 1, 4, resolution=2.0, levels=2, features=nn.Linear(1, 1, bias=False)),
        bm.networks.MLP(7, 2, hidden=(4,)),
        bm.likelihoods.HeteroscedasticGaussian(),
        latent=3,
        objective=bm.JointPredictive(draws=3),
    ),
    "VERSA": lambda: bm.VERSA(
        bm.encoders.DeepSet(5, 1, 4, hidden=(4,), features=features()), 1, bm.likelihoods.Gaussian()
    ),
    "LEO": lambda: bm.LEO(  # the penalty holds its target constant, which no difference quotient does
        bm.encoders.Relation(5, 1, 4, features=features()),
        1,
        bm.likelihoods.Gaussian(),
        latent=3,
        steps=2,
        head_steps=2,
        penalty=0.0,
    ),
    "ALPaCA": lambda: bm.ALPaCA((body := network()).features, body.head, bm.likelihoods.Gaussian()),
    "DKT": lambda: bm.DKT(features(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian()),
    "ADKF": lambda: bm.ADKF(
        features(), ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian(), steps=20
    ),  # the implicit gradient
    "PACOH, MAP": lambda: pacoh("map"),
    "PACOH, variational": lambda: pacoh("variational"),
}


def pacoh(kind: bm.variational.HyperPosterior) -> Learner:
    kernel = ScaleKernel(RBFKernel())
    return bm.PACOH(
        features(), kernel, bm.likelihoods.Gaussian(), tasks=9, mean=network(), hyper_posterior=kind, particles=2
    )


@pytest.mark.parametrize("name", BAYESIAN)
def test_bayesian_meta_gradient(name: str, episode: Episode) -> None:
    """With the draws held, by the seed, the loss is a function of the parameters: in 30 random directions.

    The step is so small that no direction crosses a kink of the encoders' ReLUs.
    """
    torch.manual_seed(0)
    learner = BAYESIAN[name]().double()
    parameters = list(learner.parameters())

    def loss() -> Tensor:
        torch.manual_seed(1)
        return learner.loss(episode)

    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    found = torch.cat([slope.flatten() for slope in slopes])
    directions = torch.randn(30, len(found), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def at(vector: Tensor) -> float:
        torch.nn.utils.vector_to_parameters(vector, parameters)
        return loss().item()

    step = 1e-7
    quotients = [(at(start + step * d) - at(start - step * d)) / (2 * step) for d in directions]
    expected = torch.tensor(quotients, dtype=torch.float64)
    assert relative_error(directions @ found, expected) < 1e-6


CLASS_PROCESSES: dict[str, Callable[[bm.objectives.Objective], Learner]] = {
    "DKT": lambda objective: bm.DKTClassifier(features(), ScaleKernel(RBFKernel()), classes=3, objective=objective),
    "Polya-Gamma": lambda objective: bm.PolyaGammaGP(
        features(), ScaleKernel(RBFKernel()), classes=3, objective=objective
    ),
    "Laplace": lambda objective: bm.LaplaceGP(features(), ScaleKernel(RBFKernel()), classes=3, objective=objective),
}


@pytest.mark.parametrize("objective", [bm.ELBO(), bm.Predictive(draws=64)], ids=["elbo", "predictive"])
@pytest.mark.parametrize("name", CLASS_PROCESSES)
def test_gradient_of_gaussian_processes_for_classes(
    name: str, objective: bm.objectives.Objective, images: Episode
) -> None:
    torch.manual_seed(0)
    learner = CLASS_PROCESSES[name](objective).double()
    parameters = list(learner.parameters())
    expected = finite_differences(lambda: learner.loss(images), parameters)
    assert relative_error(gradient(learner.loss(images), parameters), expected) < 1e-6


@pytest.mark.parametrize("name", ["MAML", "ANIL", "MetaSGD"])
def test_second_order_meta_gradient_of_a_classifier(name: str, images: Episode) -> None:
    learner = SECOND_ORDER[name](network(outputs=3), bm.likelihoods.Categorical()).double()
    parameters = list(learner.parameters())
    expected = finite_differences(lambda: learner.loss(images), parameters)
    assert relative_error(gradient(learner.loss(images), parameters), expected) < 1e-6


def test_first_order_gradient_is_the_query_gradient_at_the_adapted_weights(episode: Episode) -> None:
    """∂L_Q(φ)/∂φ, summed over tasks: finite differences of a shift that is added after adaptation."""
    learner = bm.FirstOrderMAML(network(), bm.likelihoods.Gaussian(), steps=3, rate=0.1).double()
    shift = {name: torch.zeros_like(p) for name, p in learner.network.named_parameters()}
    posterior = learner(episode.support)
    adapted = {name: weight.detach() for name, weight in posterior.weights.items()}  # type: ignore[attr-defined]

    def shifted() -> Tensor:
        posterior.weights = {name: adapted[name] + shift[name] for name in shift}  # type: ignore[attr-defined]
        return nll(posterior(episode.query.x), episode.query).mean().detach()

    expected = finite_differences(shifted, list(shift.values()))
    found = gradient(learner.loss(episode), list(learner.network.parameters()))
    assert relative_error(found, expected) < 1e-6


def test_first_and_second_order_agree_in_value_and_differ_in_gradient(episode: Episode) -> None:
    first = bm.FirstOrderMAML(network(), bm.likelihoods.Gaussian(), steps=2, rate=0.1).double()
    second = bm.MAML(network(), bm.likelihoods.Gaussian(), steps=2, rate=0.1).double()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.loss(episode), second.loss(episode))
    gradients = [gradient(learner.loss(episode), list(learner.network.parameters())) for learner in (first, second)]
    assert relative_error(*gradients) > 0.01
    likelihoods = [
        gradient(learner.loss(episode), list(learner.likelihood.parameters())) for learner in (first, second)
    ]
    torch.testing.assert_close(*likelihoods)  # the noise is not in the inner loop: no difference there


def test_reptile_moves_towards_plainly_trained_weights(episode: Episode) -> None:
    """θ - φ with φ from torch's own SGD, one task at a time; and the noise's gradient by finite differences."""
    learner = bm.Reptile(network(), bm.likelihoods.Gaussian(), steps=4, rate=0.05).double()
    expected = torch.zeros(sum(p.numel() for p in learner.network.parameters()), dtype=torch.float64)
    for b in range(3):
        model = network().double()
        model.load_state_dict(learner.network.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        support, query = (bm.Points(*(leaf[b][points.mask[b]] for leaf in points)) for points in episode)
        both = [torch.cat([support.x, query.x]), torch.cat([support.y, query.y])]
        for x, y in [[support.x, support.y]] * 4 + [both] * 4:
            optimizer.zero_grad()
            (0.5 * (model(x) - y).square().mean()).backward()
            optimizer.step()
        start, end = (nn.utils.parameters_to_vector(m.parameters()) for m in (learner.network, model))
        expected += (start - end).detach() / 3
    torch.testing.assert_close(gradient(learner.loss(episode), list(learner.network.parameters())), expected)
    noise = list(learner.likelihood.parameters())
    assert (
        relative_error(gradient(learner.loss(episode), noise), finite_differences(lambda: learner.loss(episode), noise))
        < 1e-6
    )


def test_implicit_gradient_is_that_of_the_fixed_point(episode: Episode) -> None:
    """The inner problem and the linear system are solved to convergence, and the whole loss is differenced."""
    learner = bm.ImplicitMAML(
        network(), bm.likelihoods.Gaussian(), steps=150, rate=0.1, strength=2.0, iterations=40
    ).double()
    parameters = list(learner.parameters())
    found = gradient(learner.loss(episode), parameters)
    directions = torch.randn(3, len(found), dtype=torch.float64)  # 3 random directions: each value costs 150 steps
    expected = []
    for direction in directions:
        values = []
        for sign in (1, -1):
            _shift(parameters, sign * EPSILON * direction)
            values.append(learner.loss(episode).item())
            _shift(parameters, -sign * EPSILON * direction)
        expected.append((values[0] - values[1]) / (2 * EPSILON))
    assert relative_error(directions @ found, torch.tensor(expected, dtype=torch.float64)) < 1e-6


def _shift(parameters: list[Tensor], vector: Tensor) -> None:
    for parameter, piece in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.data += piece.view_as(parameter)
