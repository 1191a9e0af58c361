"""The Bayesian methods against closed forms and their papers' equations, in small."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.functional import Frozen, adaptable, ravel, unravel
from bayesmeta.methods.abml import _Steps
from bayesmeta.posteriors import Weights

DOUBLE = torch.float64


def linear_tasks(noise: float = 0.3) -> bm.tasks.LinearGaussian:
    return bm.tasks.LinearGaussian(inputs=2, noise=noise, batch=4, shots=(1, 6), queries=5)


def in_double(episode: Episode) -> Episode:
    return bm.move(episode, nn.Linear(1, 1).double())


class TestALPaCA:
    """On a linear-Gaussian source, whose posterior is conjugate."""

    def learner(self, episode: Episode) -> bm.ALPaCA:
        torch.manual_seed(0)
        learner = bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian(0.3)).double()
        with torch.no_grad():
            learner.root.normal_()
        return learner

    def test_equals_the_conjugate_posterior(self) -> None:
        support, query = in_double(linear_tasks()[0])
        learner = self.learner(Episode(support, query))
        mean, root = learner.prior()
        prior, sigma = root @ root.mT, learner.likelihood(torch.zeros(1, 1, dtype=DOUBLE)).stddev.item()
        predictive = learner(support)(query.x)
        total, aleatoric, epistemic = learner(support).decompose(query.x)
        for b, mask in enumerate(support.mask):  # condition the joint Gaussian of the targets, observed and asked for
            phi, star = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (support.x[b, mask], query.x[b]))
            covariance = phi @ prior @ phi.mT + sigma**2 * torch.eye(len(phi), dtype=DOUBLE)
            gain = star @ prior @ phi.mT @ covariance.inverse()
            expected = star @ mean + gain @ (support.y[b, mask] - phi @ mean)
            variance = (star @ prior @ star.mT - gain @ phi @ prior @ star.mT).diagonal()[:, None]
            torch.testing.assert_close(predictive.mean[b], expected, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(predictive.variance[b], variance + sigma**2, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(epistemic[b], variance, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(aleatoric, torch.full_like(aleatoric, sigma**2))
        torch.testing.assert_close(total, predictive.variance)

    def test_with_the_sources_prior_it_is_the_oracle(self) -> None:
        tasks = linear_tasks()
        support, query = in_double(tasks[0])
        oracle = tasks.oracle(support)
        learner = bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian(0.3)).double()
        with torch.no_grad():
            learner.head.weight.zero_()
            learner.head.bias.zero_()
            learner.root.zero_()
        for ours, exact in zip(_moments(learner(support)(query.x)), _moments(oracle(query.x)), strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)

    def test_refuses_what_has_no_closed_form(self) -> None:
        for likelihood in (bm.likelihoods.StudentT(), bm.likelihoods.Gaussian((0.1, 0.2))):
            with pytest.raises(ValueError, match="likelihood: expected a Gaussian with one σ"):
                bm.ALPaCA(nn.Identity(), nn.Linear(2, 2), likelihood)  # type: ignore[arg-type]


def _moments(d: torch.distributions.Distribution) -> tuple[Tensor, Tensor]:
    return d.mean, d.variance


class TestABML:
    def test_exact_mode_reaches_the_best_factorised_gaussian(self) -> None:
        """Linear-Gaussian tasks: the conjugate mean, and variances of 1 over the diagonal of the precision."""
        sigma, prior_scale = 0.5, 0.7
        support, _ = in_double(bm.tasks.LinearGaussian(inputs=2, noise=sigma, batch=3, shots=(2, 6))[0])
        torch.manual_seed(0)
        learner = bm.ABML(
            nn.Linear(2, 1),
            bm.likelihoods.Gaussian(sigma),
            steps=400,
            rate=0.3,
            prior_scale=prior_scale,
            inner_noise=sigma,
            clamp=math.inf,
        ).double()
        with torch.no_grad():
            mean, log_scale = learner.infer(support)
        prior_mean = ravel(adaptable(learner.network)).detach()
        for b, mask in enumerate(support.mask):
            phi = torch.cat([support.x[b, mask], torch.ones(int(mask.sum()), 1)], 1)
            precision = torch.eye(3, dtype=DOUBLE) / prior_scale**2 + phi.mT @ phi / sigma**2
            evidence = prior_mean / prior_scale**2 + phi.mT @ support.y[b, mask, 0] / sigma**2
            # Neither is random here: of a quadratic error paired draws have the exact slope, and H is the exact curvature.
            torch.testing.assert_close(mean[b], torch.linalg.solve(precision, evidence), rtol=0, atol=1e-6)
            torch.testing.assert_close((2 * log_scale[b]).exp(), 1 / precision.diagonal(), rtol=0, atol=1e-6)

    def test_curvature_is_the_diagonal_of_the_errors_hessian_where_that_is_gauss_newtons(self) -> None:
        """A linear classifier, whose cross-entropy has no second derivative but through the outputs."""
        torch.manual_seed(0)
        network = nn.Linear(2, 3)
        learner = bm.ABML(network, bm.likelihoods.Categorical()).double()
        support = bm.points(torch.randn(5, 2), [0, 1, 2, 0, 1], classes=3, dtype=DOUBLE)
        weights = torch.randn(9, dtype=DOUBLE)
        like = dict(network.named_parameters())

        def error(weights: Tensor) -> Tensor:
            logits = torch.func.functional_call(network, unravel(weights, like), support.x[0])
            return nn.functional.cross_entropy(logits, support.y[0])

        expected = torch.func.hessian(error)(weights).diagonal()
        one = Points(*(leaf[0] for leaf in support))
        torch.testing.assert_close(_Steps(learner)._curvature(weights, one), expected)

    def test_without_data_the_posterior_is_drawn_to_the_prior(self) -> None:
        learner = bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=50, rate=0.5)
        empty = Points(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool))
        with torch.no_grad():
            mean, log_scale = learner.infer(empty)
            prior_mean, prior_log_scale = learner.prior()
        torch.testing.assert_close(mean[0], prior_mean)
        torch.testing.assert_close(log_scale[0], prior_log_scale)

    def test_hyperprior_is_a_gamma_over_precisions(self) -> None:
        episode = bm.tasks.Sinusoids(batch=2, shots=3, noise=0.1)[0]
        values = []
        for tasks in (10.0, 1e12):
            torch.manual_seed(0)
            learner = bm.ABML(
                bm.networks.MLP(1, 1, hidden=(4,)),
                bm.likelihoods.Gaussian(),
                objective=bm.ELBO(),
                hyperprior=(2.0, 0.1, tasks),
            )
            torch.manual_seed(1)
            values.append(learner.loss(episode))
        precision = (-2 * learner.prior()[1]).exp()
        log_density = torch.distributions.Gamma(2.0, 0.1).log_prob(precision).sum()
        count = learner.observed(episode).mask.sum(1)
        torch.testing.assert_close(values[0] - values[1], (-log_density / 10.0 / count).mean(), rtol=1e-4, atol=1e-4)

    def test_amortised_start_modulates_units(self) -> None:
        torch.manual_seed(0)
        network = bm.networks.MLP(1, 1, hidden=(3,))
        learner = bm.ABML(network, bm.likelihoods.Gaussian(), encoder=bm.encoders.DeepSet(1, 1, 4))
        assert learner.modulation is not None
        assert learner.modulation.unit.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6, 7]  # rows of 3x1, 3, 1x3 and 1
        with torch.no_grad():
            learner.modulation.head.weight.zero_()
            learner.modulation.head.bias.copy_(torch.arange(24.0) / 10)
        support = bm.points([0.0, 1.0], [1.0, 2.0])
        start = Weights(torch.ones(1, 10), torch.zeros(1, 10))
        moved = learner.modulation(start, support)
        unit = learner.modulation.unit
        torch.testing.assert_close(moved.mean[0], 1 + unit / 10 + (8 + unit) / 10)
        torch.testing.assert_close(moved.log_scale[0], (16 + unit) / 10)


class TestPLATIPUS:
    def test_prior_and_guide_follow_the_papers_equations(self) -> None:
        torch.manual_seed(0)
        network = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh)
        learner = bm.PLATIPUS(network, bm.likelihoods.Gaussian(), steps=2).double()
        with torch.no_grad():
            for parameter in (learner.prior_rate, learner.guide_rate, learner.rates):
                parameter.uniform_(0.01, 0.1)
        episode = in_double(bm.tasks.Sinusoids(batch=2, shots=4, noise=0.1, amplitudes=(0.1, 1.0))[0])
        for given, rate in ((episode.support, learner.prior_rate), (episode.query, learner.guide_rate)):
            found = learner.initialisation(given, rate)
            for b in range(2):
                error = 0.5 * (network(given.x[b]) - given.y[b]).square().mean()
                slope = torch.cat([g.flatten() for g in torch.autograd.grad(error, list(network.parameters()))])
                torch.testing.assert_close(found[b], ravel(adaptable(network)) - rate * slope)

    def test_draws_adapt_from_drawn_initialisations(self) -> None:
        torch.manual_seed(0)
        network = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh)
        learner = bm.PLATIPUS(network, bm.likelihoods.Gaussian(), steps=2, scale=0.1).double()
        support, query = in_double(bm.tasks.Sinusoids(batch=2, shots=4, noise=0.1, amplitudes=(0.1, 1.0))[0])
        torch.manual_seed(1)
        found = learner(support).draws(query.x, 3).mean
        torch.manual_seed(1)
        noise = torch.randn(3, 1, 13).to(DOUBLE)
        initial = learner.initialisation(support, learner.prior_rate) + 0.1 * noise
        like = dict(network.named_parameters())
        for s in range(3):
            for b in range(2):
                weights = initial[s, b]
                for rate in learner.rates:

                    def error(weights: Tensor, b: int = b) -> Tensor:
                        y = torch.func.functional_call(network, unravel(weights, like), support.x[b])
                        return 0.5 * (y - support.y[b]).square().mean()

                    weights = weights - rate * torch.func.grad(error)(weights)
                expected = torch.func.functional_call(network, unravel(weights, like), query.x[b])
                torch.testing.assert_close(found[s, b], expected)


class TestBMAML:
    def test_chaser_follows_the_leader(self) -> None:
        """The gradient of the chaser loss is that of the distance to a constant leader."""
        torch.manual_seed(0)
        learner = bm.BMAML(
            bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh), bm.likelihoods.Gaussian(), particles=3, steps=2
        ).double()
        episode = in_double(bm.tasks.Sinusoids(batch=2, shots=4, noise=0.1, amplitudes=(0.1, 1.0))[0])
        loss = learner.loss(episode)
        chaser = learner.infer(episode.support)
        everything = bm.concatenate(*episode)
        leader = learner._svgd(chaser, everything, learner.leader_steps).detach()
        distance = (chaser - leader).square().sum((1, 2))
        expected = torch.autograd.grad(distance.mean(), learner.others, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(loss, learner.others)[0], expected)

    def test_one_particle_is_maml_with_a_prior(self) -> None:
        torch.manual_seed(0)
        network = bm.networks.MLP(1, 1, hidden=(4,), activation=nn.Tanh)
        support, query = in_double(bm.tasks.Sinusoids(batch=2, shots=4, noise=0.1, amplitudes=(0.1, 1.0))[0])
        one = bm.BMAML(network, bm.likelihoods.Gaussian(), particles=1, steps=3, prior_scale=1e9).double()
        maml = bm.MAML(network, bm.likelihoods.Gaussian(), steps=3, rate=0.1).double()
        torch.testing.assert_close(one(support)(query.x).mean, maml(support)(query.x).mean)

    def test_particles_start_apart(self) -> None:
        torch.manual_seed(0)
        start = bm.BMAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), particles=3).initialisation()
        assert start.shape[0] == 3
        assert torch.pdist(start).min() > 1.0
        torch.testing.assert_close(start.std(1), start.std(1).mean().expand(3), rtol=0.1, atol=0.0)


def test_outputs_are_those_of_each_tasks_weights() -> None:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 2, hidden=(3,))
    like = dict(network.named_parameters())
    x = torch.randn(2, 5, 1)
    weights = torch.randn(4, 2, len(ravel(adaptable(network))))
    for strategy in ("vmap", "loop"):
        over_tasks = Frozen(network, strategy).over_tasks  # type: ignore[arg-type]
        found = over_tasks(x, weights)
        assert found.shape == (4, 2, 5, 2)
        for s in range(4):
            for b in range(2):
                expected = torch.func.functional_call(network, unravel(weights[s, b], like), x[b])
                torch.testing.assert_close(found[s, b], expected)
        torch.testing.assert_close(over_tasks(x, weights[0]), found[0])


def test_latent_neural_process_draws_functions_and_a_conditional_one_a_distribution() -> None:
    torch.manual_seed(0)
    support = bm.points([0.0, 1.0], [0.0, 1.0])
    x = torch.linspace(-1, 1, 7)[None, :, None]
    latent = bm.NeuralProcess(
        bm.encoders.DeepSet(1, 1, 8), bm.networks.MLP(1 + 8 + 4, 2), bm.likelihoods.HeteroscedasticGaussian(), latent=4
    )
    means = latent(support).draws(x, 50).mean
    assert means.std(0).min() > 0
    conditional = bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, 8), bm.networks.MLP(1 + 8, 2), bm.likelihoods.HeteroscedasticGaussian()
    )
    predictive = conditional(support)(x)
    assert isinstance(predictive.base_dist, torch.distributions.Normal)
    epistemic = conditional(support).decompose(x).epistemic
    assert not epistemic.any()


def test_versa_head_is_drawn_from_what_the_encoder_says() -> None:
    torch.manual_seed(0)
    encoder = bm.encoders.ClassPooling(2, 3, 8)
    learner = bm.VERSA(encoder, 3, bm.likelihoods.Categorical())
    support = bm.points(torch.randn(6, 2), [0, 1, 2, 0, 1, 2], classes=3)
    x = torch.randn(1, 5, 2)
    torch.manual_seed(1)
    found = learner(support).draws(x, 4).logits
    mean, scale = (t.reshape(3, 3) for t in learner.infer(support))
    torch.manual_seed(1)
    heads = mean + scale * torch.randn(4, 1, 9).reshape(4, 3, 3)
    expected = torch.einsum("mf,sof->smo", torch.cat([x[0], torch.ones(5, 1)], 1), heads)
    torch.testing.assert_close(found[:, 0], expected.log_softmax(-1))


def test_leo_takes_its_inner_steps_in_the_latent_space() -> None:
    """One task by hand: decode, descend in z, then in the head's weights."""
    torch.manual_seed(0)
    encoder = bm.encoders.Relation(2, 1, 6)
    learner = bm.LEO(encoder, 1, bm.likelihoods.Gaussian(), latent=3, steps=2, head_steps=1)
    support = bm.points(torch.randn(4, 2), torch.randn(4))
    z, noise = torch.randn(1, 3), torch.randn(1, 3)
    head, code = learner._inner_loop()(z, noise, learner._embedded(support))

    features = torch.cat([support.x[0], torch.ones(4, 1)], 1)

    def decode(z: Tensor) -> Tensor:
        mean, scale = learner.to_head(z)
        return mean + scale * noise.reshape(1, 3)

    def error(head: Tensor) -> Tensor:
        return 0.5 * (features @ head.mT - support.y[0]).square().mean()

    expected = z[0]
    for _ in range(2):
        expected = expected - learner.rate * torch.func.grad(lambda z: error(decode(z)))(expected)
    torch.testing.assert_close(code[0], expected)
    weights = decode(expected)
    weights = weights - learner.head_rate * torch.func.grad(error)(weights)
    torch.testing.assert_close(head[0], weights)


NET = bm.networks.MLP(1, 1)
ENCODER = bm.encoders.DeepSet(1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bm.ABML(NET, bm.likelihoods.Gaussian(), rate=math.nan), "rate: expected a number above 0, got nan"),
        (
            lambda: bm.ABML(NET, bm.likelihoods.Gaussian(), steps=0),
            "steps: expected a whole number of at least 1, got 0",
        ),
        (
            lambda: bm.ABML(NET, bm.likelihoods.Gaussian(), prior_scale=2.0),
            "prior_scale: .* of at least 0.00012341 and at most 1, got",
        ),
        (lambda: bm.ABML(NET, bm.likelihoods.Gaussian(), inner_draws=3), "inner_draws: expected an even number"),
        (
            lambda: bm.ABML(NET, bm.likelihoods.Gaussian(), hyperprior=(0.0, 1.0, 1.0)),
            "hyperprior's shape: expected a number above 0",
        ),
        (lambda: bm.PLATIPUS(NET, bm.likelihoods.Gaussian(), scale=-1.0), "scale: expected a number"),
        (lambda: bm.PLATIPUS(NET, bm.likelihoods.Gaussian(), clamp=-1.0), "clamp: expected a number above 0"),
        (
            lambda: bm.LEO(ENCODER, 1, bm.likelihoods.Gaussian(), penalty=math.nan),
            "penalty: expected a finite number of at least 0",
        ),
        (lambda: bm.LEO(ENCODER, 1, bm.likelihoods.Gaussian(), latent=0), "latent: expected a whole number"),
        (
            lambda: bm.VERSA(ENCODER, 0, bm.likelihoods.Gaussian()),
            "outputs: expected a whole number of at least 1, got 0",
        ),
        (lambda: bm.BMAML(NET, bm.likelihoods.Gaussian(), steps=-1), "steps: expected a whole number"),
        (
            lambda: bm.NeuralProcess(bm.encoders.ClassPooling(1, 2), NET, bm.likelihoods.Gaussian()),
            "decoder: expected 81 inputs",
        ),
        (
            lambda: bm.ConditionalNeuralProcess(ENCODER, nn.Sequential(nn.BatchNorm1d(2)), bm.likelihoods.Gaussian()),
            "network: expected no running statistics",
        ),
    ],
)
def test_arguments_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bm.VERSA(NET, 1, bm.likelihoods.Gaussian()), "encoder: expected an encoder such as DeepSet"),
        (lambda: bm.ABML(NET, bm.likelihoods.Gaussian), "likelihood: expected a likelihood such as Gaussian"),
        (lambda: bm.ALPaCA(NET.features, NET, bm.likelihoods.Gaussian()), "head: expected the nn.Linear"),
    ],
)
def test_wrong_kinds(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_alpaca_refuses_targets_that_would_broadcast() -> None:
    learner = bm.ALPaCA(NET.features, NET.head, bm.likelihoods.Gaussian())
    with pytest.raises(ValueError, match="y: expected targets of event shape"):
        learner(bm.points([0.0, 1.0], torch.zeros(2, 2)))


def test_settings_changed_to_nonsense_are_refused() -> None:
    learner = bm.PLATIPUS(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
    learner.objective = "ELBO"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="objective: expected ELBO"):
        learner.loss(bm.tasks.Sinusoids(batch=2)[0])


def test_particles_of_bare_parameters_start_apart() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    assert bm.BMAML(Bare(), bm.likelihoods.Gaussian(), particles=4).initialisation().std(0).min() > 0


def test_amortised_start_stays_in_bounds() -> None:
    learner = bm.ABML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), encoder=bm.encoders.DeepSet(1, 1, 8))
    support = bm.points(1e6 * torch.rand(200), 1e6 * torch.rand(200))
    assert torch.isfinite(learner(support)([0.5]).mean).all()


def test_samples_pass_through_standardized() -> None:
    learner = bm.Standardized.from_tasks(
        bm.PLATIPUS(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), bm.tasks.Sinusoids(batch=2)
    )
    posterior = learner(bm.points([0.0, 1.0], [0.0, 1.0]))
    assert posterior([0.5], samples=7).mixture_distribution.logits.shape[-1] == 7


@pytest.mark.parametrize("name", ["PLATIPUS", "LEO"])
def test_posterior_keeps_the_inner_loop_that_it_was_made_with(name: str) -> None:
    torch.manual_seed(0)
    learner = (
        bm.PLATIPUS(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian())
        if name == "PLATIPUS"
        else bm.LEO(ENCODER, 1, bm.likelihoods.Gaussian())
    )
    posterior = learner(bm.points([0.0, 1.0], [0.0, 10.0]))
    torch.manual_seed(1)
    before = posterior([0.5]).mean
    learner.clamp = 1e-3
    learner.steps = 1  # type: ignore[assignment]
    torch.manual_seed(1)
    torch.testing.assert_close(posterior([0.5]).mean, before)
