"""Task sources: determinism, and oracles against independent closed forms."""

from __future__ import annotations

import copy
import gzip
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel
from scipy import integrate
from torch.utils.data import DataLoader

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.border import check
from bayesmeta.tasks.longitudinal import FAMILIES

SOURCES = {
    "sinusoids": lambda seed=0: bm.tasks.Sinusoids(batch=4, shots=(1, 5), noise=0.1, seed=seed),
    "sawtooth": lambda seed=0: bm.tasks.Sawtooth(batch=4, shots=(0, 5), noise=0.2, seed=seed),
    "linear": lambda seed=0: bm.tasks.LinearGaussian(inputs=2, batch=4, shots=(0, 5), seed=seed),
    "gaussian process": lambda seed=0: bm.tasks.GaussianProcessTasks(RBFKernel(), batch=4, shots=(0, 5), seed=seed),
    "arrays": lambda seed=0: bm.tasks_from_arrays(
        np.arange(30.0), np.arange(30.0) ** 2, np.arange(30) // 6, shots=(1, 4), batch=4, seed=seed
    ),
    "oxboys": lambda seed=0: bm.tasks.Longitudinal("oxboys", batch=4, seed=seed),
}


REPRS = {
    "sinusoids": r"Sinusoids\(noise=0\.1, batch=4, shots=\(1, 5\), support_range=\(-5\.0, 5\.0\)\)",
    "sawtooth": r"Sawtooth\(noise=0\.2, batch=4, shots=\(0, 5\), support_range=\(-2\.0, 2\.0\)\)",
    "linear": r"LinearGaussian\(inputs=2, batch=4, shots=\(0, 5\)\)",
    "gaussian process": r"GaussianProcessTasks\(RBFKernel\(lengthscale=\[0\.6931\]\), batch=4, shots=\(0, 5\), .*\)",
    "arrays": r"ArrayTasks\(5 tasks of 6 to 6 points, batch=4, shots=\(1, 4\)\)",
    "oxboys": r"Longitudinal\('oxboys', split='train', .*\): 16 tasks of 9 to 9 points, batch=4, shots=\(1, 3\)",
}


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Torch's default types and device for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def equal(a: bm.Episode, b: bm.Episode) -> bool:
    return all(torch.equal(u, v) for p, q in zip(a, b, strict=True) for u, v in zip(p, q, strict=True))


def double(points: Points) -> Points:
    return Points(points.x.double(), points.y.double(), points.mask)


@pytest.mark.parametrize("name", SOURCES)
class TestSource:
    def test_episode_depends_on_seed_and_index_alone(self, name: str) -> None:
        tasks, again = SOURCES[name](), SOURCES[name]()
        later = again[7]
        torch.manual_seed(99)
        assert equal(tasks[7], later)
        assert not equal(tasks[7], tasks[8])
        assert not equal(tasks[7], SOURCES[name](seed=1)[7])
        check(tasks[7])

    def test_an_episode_does_not_depend_on_torchs_defaults(self, name: str) -> None:
        tasks = SOURCES[name]()
        wanted = tasks[7]
        with defaults(torch.float64, "meta"):
            assert equal(tasks[7], wanted)
            members = tasks.members(7)
        assert members is None or members.device.type == "cpu"
        if name == "gaussian process":  # its kernel is an argument, and made with the defaults
            return
        with defaults(torch.float64, "meta"):
            again = SOURCES[name]()[7]
        for ours, theirs in zip(again, wanted, strict=True):  # the type of given points is that of their construction
            assert torch.equal(ours.x.to(theirs.x.dtype), theirs.x)
            assert torch.equal(ours.y.to(theirs.y.dtype), theirs.y)

    def test_its_repr_says_its_settings(self, name: str) -> None:
        assert re.fullmatch(REPRS[name], repr(SOURCES[name]()))
        assert repr(SOURCES[name](seed=3)).removesuffix(")").endswith("seed=3")
        assert repr(copy.deepcopy(SOURCES[name](seed=3))) == repr(SOURCES[name](seed=3))

    def test_reading_leaves_the_global_generator_alone(self, name: str) -> None:
        tasks = SOURCES[name]()
        before = torch.get_rng_state()
        tasks[0]
        assert torch.equal(before, torch.get_rng_state())

    def test_ends_where_its_length_ends(self, name: str) -> None:
        tasks = SOURCES[name]()
        tasks.length = 2
        assert len(list(tasks)) == len(tasks) == 2
        with pytest.raises(IndexError, match="expected 0 to 1, got 2"):
            tasks[2]


def test_an_oracle_is_told_apart_by_its_source() -> None:
    assert "Sinusoids(noise=0.3," in repr(bm.tasks.Sinusoids(noise=0.3).oracle)


class Mine(bm.TaskSource):
    """A user's source, which says nothing of its repr."""

    def __init__(self, width: float, *, hue: str = "red", seed: int = 0) -> None:
        super().__init__(seed=seed, length=10)
        self.width, self.hue = width, hue

    def draw(self, generator: torch.Generator) -> bm.Episode:
        return bm.Episode(bm.points([0.0], torch.rand(1, generator=generator)), bm.points([0.0], [0.0]))


def test_a_users_source_has_the_same_repr_and_device() -> None:
    assert repr(Mine(2.0, hue="blue", seed=1)) == "Mine(2.0, hue='blue', seed=1)"
    with torch.device("meta"):
        assert Mine(2.0)[0].support.y.device.type == "cpu"


def test_seeds_and_indices_of_any_size_are_streams_of_their_own() -> None:
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**64, 2**64 + 1, 2**96, 2**128, 2**200]
    indices = [0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1]
    firsts = {}
    for seed in seeds:
        tasks = bm.tasks.Sinusoids(batch=1, seed=seed, length=2**63)
        for index in indices:
            firsts[seed, index] = tuple(tasks[index].query.x.flatten().tolist())
    assert len(set(firsts.values())) == len(seeds) * len(indices)


@pytest.mark.parametrize(("seeds", "indices"), [(1, 4000), (4000, 1)])
def test_streams_are_independent(seeds: int, indices: int) -> None:
    """First numbers of episodes: uniform (Kolmogorov-Smirnov), and uncorrelated with the next's, at 1e-4 each."""
    from scipy.stats import kstest

    first = [
        bm.tasks.Sinusoids(batch=1, shots=1, queries=1, support_range=(0.0, 1.0), seed=seed)[index].support.x.item()
        for seed in range(seeds)
        for index in range(indices)
    ]
    assert kstest(first, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 3.9 / math.sqrt(len(first))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None, 2.0])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(ValueError, match="seed: expected a whole number of at least 0, got"):
        bm.tasks.Sinusoids(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split_seed: expected a whole number of at least 0, got"):
        bm.tasks.Longitudinal("oxboys", split_seed=seed)  # type: ignore[arg-type]


def test_data_loader_workers_yield_the_same_episodes() -> None:
    tasks = bm.tasks.Sinusoids(batch=3, length=5)
    loaded = list(DataLoader(tasks, batch_size=None, num_workers=2))
    assert len(loaded) == 5
    assert all(equal(episode, tasks[i]) for i, episode in enumerate(loaded))


def test_sinusoids_are_sinusoids() -> None:
    episode = bm.tasks.Sinusoids(batch=50, shots=20, queries=20, query_range=(5.0, 10.0))[0]
    assert episode.support.x.abs().max() <= 5
    assert episode.query.x.min() >= 5
    for b in range(50):  # y = A sin(x - φ) is linear in sin x and cos x
        design = torch.cat([episode.support.x[b].sin(), episode.support.x[b].cos()], 1)
        weights = torch.linalg.lstsq(design, episode.support.y[b]).solution
        torch.testing.assert_close(design @ weights, episode.support.y[b], atol=1e-4, rtol=1e-4)
        amplitude, phase = weights.norm().item(), math.atan2(-weights[1].item(), weights[0].item())
        assert 0.1 - 1e-3 <= amplitude <= 5 + 1e-3
        assert -1e-3 <= phase <= math.pi + 1e-3


def test_linear_oracle_equals_function_space_regression() -> None:
    """The weight-space posterior against y* | y of the joint Gaussian of all function values (no weights involved)."""
    tasks = bm.tasks.LinearGaussian(inputs=3, weight_scale=1.7, noise=0.3, shots=(0, 6), batch=8)
    support, query = (double(points) for points in tasks[0])
    predictive = tasks.oracle(support)(query.x)
    for b in range(8):
        x = support.x[b][support.mask[b]]
        y = support.y[b][support.mask[b]]
        everything = torch.cat([torch.cat([x, query.x[b]]), torch.ones(len(x) + 15, 1)], 1)
        prior = 1.7**2 * everything @ everything.T
        n = len(x)
        gram = prior[:n, :n] + 0.3**2 * torch.eye(n, dtype=torch.float64)
        mean = prior[n:, :n] @ torch.linalg.solve(gram, y)
        variance = (prior[n:, n:] - prior[n:, :n] @ torch.linalg.solve(gram, prior[:n, n:])).diagonal() + 0.3**2
        torch.testing.assert_close(predictive.mean[b], mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(predictive.variance[b, :, 0], variance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kernel", [RBFKernel, MaternKernel])
def test_gaussian_process_oracle_equals_the_joint_gaussian(kernel: type) -> None:
    tasks = bm.tasks.GaussianProcessTasks(kernel(), noise=0.2, inputs=2, shots=(0, 6), batch=8)
    support, query = (double(points) for points in tasks[0])
    predictive = tasks.oracle(support)(query.x)
    for b in range(8):
        x = support.x[b][support.mask[b]]
        everything = torch.cat([x, query.x[b]])
        with torch.no_grad():
            prior = kernel().double()(everything).to_dense()
        n = len(x)
        gram = prior[:n, :n] + 0.2**2 * torch.eye(n, dtype=torch.float64)
        mean = prior[n:, :n] @ torch.linalg.solve(gram, support.y[b][support.mask[b]])
        variance = (prior[n:, n:] - prior[n:, :n] @ torch.linalg.solve(gram, prior[:n, n:])).diagonal() + 0.2**2
        torch.testing.assert_close(predictive.mean[b], mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(predictive.variance[b, :, 0], variance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shots", [1, 3])
def test_sinusoid_oracle_equals_adaptive_integration(shots: int) -> None:
    """Predictive density and mean by scipy's adaptive double integral over amplitude and phase."""
    tasks = bm.tasks.Sinusoids(noise=0.5, batch=1, shots=shots, queries=2)
    support, query = (double(points) for points in tasks[3])
    x, y = support.x[0, :, 0].numpy(), support.y[0, :, 0].numpy()
    x_new, y_new = query.x[0, :, 0].numpy(), query.y[0, :, 0].numpy()

    def density(values: np.ndarray, mean: np.ndarray) -> float:
        return float(np.exp(-0.5 * ((values - mean) / 0.5) ** 2).prod())

    def expectation(of: object) -> float:
        return float(
            integrate.dblquad(
                lambda a, p: of(a, p) * density(y, a * np.sin(x - p)),
                0,
                math.pi,
                0.1,
                5,
                epsabs=1e-12,
                epsrel=1e-9,  # type: ignore[operator]
            )[0]
        )

    evidence = expectation(lambda a, p: 1.0)
    predictive = tasks.oracle(support)(query.x)
    for m in range(2):
        mean = expectation(lambda a, p, m=m: a * np.sin(x_new[m] - p)) / evidence
        joint = expectation(lambda a, p, m=m: density(y_new[m : m + 1], a * np.sin(x_new[m : m + 1] - p)))
        assert predictive.mean[0, m, 0].item() == pytest.approx(mean, abs=1e-7)
        log_prob = math.log(joint / evidence / (0.5 * math.sqrt(2 * math.pi)))
        assert predictive.log_prob(query.y)[0, m].item() == pytest.approx(log_prob, abs=1e-7)


def test_oracles_without_data_are_the_prior() -> None:
    """Sinusoids: E[y] = E[A] E[sin(x - φ)] and E[y²] = σ² + E[A²] E[sin²(x - φ)] in closed form."""
    tasks = bm.tasks.Sinusoids(noise=0.1, batch=1, shots=0, queries=4)
    support, query = (double(points) for points in tasks[0])
    predictive, x = tasks.oracle(support)(query.x), query.x[0]
    a1, a2 = (0.1 + 5) / 2, (5**3 - 0.1**3) / (3 * 4.9)
    mean = a1 * -2 * torch.cos(x) / math.pi
    second = a2 / 2 + 0.01  # the mean of sin² over half a period
    torch.testing.assert_close(predictive.mean[0], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(predictive.variance[0], second - mean**2, rtol=1e-6, atol=1e-6)


def test_the_oracle_of_sawtooth_waves_is_importance_sampling() -> None:
    """400,000 draws of (f, φ), weighed by the likelihood of 3 points; log p near jumps is known to 0.06."""
    tasks = bm.tasks.Sawtooth(batch=2, shots=3, noise=0.15, queries=6, seed=4)
    support, query = (double(points) for points in tasks[0])
    generator = torch.Generator().manual_seed(0)
    f, phase, sign = (torch.rand(400_000, generator=generator).double() for _ in range(3))
    f = (3 + 2 * f) * torch.where(sign < 0.5, -1.0, 1.0)

    def density(points: Points, b: int) -> torch.Tensor:
        wave = (f[:, None] * points.x[b, :, 0] + phase[:, None]) % 1
        return torch.exp(-0.5 * ((points.y[b, :, 0] - wave) / 0.15) ** 2) / (0.15 * math.sqrt(2 * math.pi))

    found = tasks.oracle(support)(query.x).log_prob(query.y).exp()
    for b in range(2):
        weights = density(support, b).prod(1)
        expected = (weights[:, None] * density(query, b)).sum(0) / weights.sum()
        torch.testing.assert_close(found[b], expected, rtol=0.06, atol=0.01)
        assert (found[b].log() - expected.log()).mean().abs() < 0.02


def test_a_sawtooth_whose_oracle_would_be_too_fine_is_named() -> None:
    tasks = bm.tasks.Sawtooth(batch=1, noise=1e-3)
    with pytest.raises(
        ValueError, match=r"noise: expected more for the oracle, which takes at most 10,000,000 nodes, got 0.001"
    ):
        tasks.oracle(tasks[0].support)
    with pytest.raises(ValueError, match=r"frequencies: expected bounds .* got \(5, 3\)"):
        bm.tasks.Sawtooth(frequencies=(5, 3))


@pytest.mark.parametrize("name", ["sinusoids", "sawtooth", "linear", "gaussian process"])
def test_draws_of_the_oracle_have_its_moments(name: str) -> None:
    """20,000 draws; 4 tasks x up to 15 means within 5 standard errors: error rate below 1e-4."""
    tasks = SOURCES[name]()
    episode = tasks[0]
    posterior = tasks.oracle(episode.support)
    torch.manual_seed(1)
    draws = posterior.draws(episode.query.x, 20_000).mean
    predictive = posterior(episode.query.x)
    spread = (predictive.variance - tasks.noise**2).clamp(min=0).sqrt()
    assert ((draws.mean(0) - predictive.mean).abs() <= 5 * spread / math.sqrt(20_000) + 1e-5).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("name", ["sinusoids", "sawtooth", "linear", "gaussian process"])
def test_oracles_are_calibrated(name: str) -> None:
    """Coverage of 90 % intervals over at least 600 tasks: its own interval at 99.99 % holds 0.9 (error rate 1e-4)."""
    tasks = {
        "sinusoids": bm.tasks.Sinusoids(noise=0.1, batch=100, shots=3, queries=1),
        "sawtooth": bm.tasks.Sawtooth(batch=100, shots=3, queries=1, noise=0.1),
        "linear": bm.tasks.LinearGaussian(batch=100, shots=2, queries=1),
        "gaussian process": bm.tasks.GaussianProcessTasks(RBFKernel(), batch=100, shots=3, queries=1),
    }[name]
    coverage = bm.evaluate(tasks.oracle, tasks, episodes=6, metrics=[bm.metrics.Coverage(0.9)])["90% coverage"].value
    assert abs(coverage - 0.9) < 3.9 * math.sqrt(0.9 * 0.1 / 600)


@pytest.mark.parametrize("name", ["sinusoids", "sawtooth", "linear", "gaussian process"])
def test_no_learner_beats_the_oracle(name: str) -> None:
    """Mean NLL against the oracle's on the same tasks, beyond the bootstrap interval of either (fixed seeds)."""
    tasks = SOURCES[name]()
    torch.manual_seed(0)
    network = bm.networks.MLP(2 if name == "linear" else 1, 1, activation=torch.nn.Tanh)
    learner = bm.MAML(network, bm.likelihoods.Gaussian(), steps=3, rate=0.05)
    bm.fit(learner, tasks, steps=60, progress=False)
    test = SOURCES[name](seed=1)
    ours, best = (bm.evaluate(predictor, test, episodes=20)["NLL"] for predictor in (learner, test.oracle))
    assert ours.value > best.value
    assert ours.high > best.low


def test_arrays_keep_every_row_and_the_order_of_tasks() -> None:
    ids = np.array(["b", "a", "b", "c", "a", "c", "b"])
    x = np.arange(14.0).reshape(7, 2)
    tasks = bm.tasks_from_arrays(x, np.arange(7), ids, shots=1)
    assert tasks.names == ["b", "a", "c"]
    for task, name in enumerate(tasks.names):
        mask = tasks.points.mask[task]
        np.testing.assert_array_equal(tasks.points.x[task, mask].numpy(), x[ids == name])
        np.testing.assert_array_equal(tasks.points.y[task, mask, 0].numpy(), np.flatnonzero(ids == name))
    episode = tasks[0]
    seen = torch.cat([part.y[part.mask][:, 0] for part in episode]).sort().values
    torch.testing.assert_close(seen, torch.arange(7.0))


def test_labels_stay_labels() -> None:
    tasks = bm.tasks_from_arrays(np.arange(8.0), [0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1], classes=3, shots=2)
    assert tasks[0].query.y.dtype == torch.long
    assert tasks[0].query.y.shape == (2, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_longitudinal_splits_every_task_into_one_part(family: str) -> None:
    parts = [bm.tasks.Longitudinal(family, split=part).names for part in ("train", "validation", "test")]  # type: ignore[arg-type]
    everything = bm.tasks.Longitudinal(family, split="all").names
    assert sorted(name for part in parts for name in part) == sorted(everything)
    assert all(parts)
    other = bm.tasks.Longitudinal(family, split="train", split_seed=1).names
    assert len(other) == len(parts[0])


def test_longitudinal_is_the_published_data(data_root: Path) -> None:
    """Every number of the 26 families against a copy packed independently."""
    with gzip.open(data_root / "regression_longitudinal" / "regression_longitudinal.json.gz") as file:
        packed = json.load(file)
    assert set(packed) == set(FAMILIES)
    for family, content in packed.items():
        tasks = bm.tasks.Longitudinal(family, split="all")
        assert len(tasks.names) == len(content["tasks"])
        by_name = {str(task["id"]): task for task in content["tasks"]}
        for index, name in enumerate(tasks.names):
            mask = tasks.points.mask[index]
            ours = torch.cat([tasks.points.x[index, mask], tasks.points.y[index, mask]], 1).numpy()
            theirs = np.column_stack([by_name[name]["x"], by_name[name]["y"]])
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
