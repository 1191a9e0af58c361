"""Inputs that are whole numbers or trees, for every learner."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from shapes import B, M, Network, S, Source, W, of_inputs
from torch import nn

import bayesmeta as bm


def encoder(targets: int, network: Network, size: int = 6) -> bm.encoders.DeepSet:
    return bm.encoders.DeepSet(8, targets, size, features=network.features)


def builds() -> dict[str, Callable[[Network], bm.Learner]]:
    gaussian, process = bm.likelihoods.Gaussian, lambda: ScaleKernel(RBFKernel())
    return {
        "MAML": lambda n: bm.MAML(n, gaussian()),
        "FirstOrderMAML": lambda n: bm.FirstOrderMAML(n, gaussian()),
        "ANIL": lambda n: bm.ANIL(n.features, n.head, gaussian()),
        "MetaSGD": lambda n: bm.MetaSGD(n, gaussian()),
        "Reptile": lambda n: bm.Reptile(n, gaussian(), steps=2),
        "ImplicitMAML": lambda n: bm.ImplicitMAML(n, gaussian(), steps=2),
        "ABML": lambda n: bm.ABML(n, gaussian(), steps=2),
        "ABML, ELBO": lambda n: bm.ABML(n, gaussian(), steps=2, objective=bm.ELBO()),
        "PLATIPUS": lambda n: bm.PLATIPUS(n, gaussian(), steps=2),
        "BMAML": lambda n: bm.BMAML(n, gaussian(), particles=2, steps=2),
        "PACOH-NN": lambda n: bm.PACOHNN(n, gaussian(), tasks=B, particles=2, weights=2, steps=2),
        "CNP": lambda n: bm.ConditionalNeuralProcess(encoder(1, n), nn.Linear(8 + 6, 1), gaussian()),
        "NP": lambda n: bm.NeuralProcess(encoder(1, n), nn.Linear(8 + 6 + 4, 1), gaussian(), latent=4),
        "TNP": lambda n: bm.ConditionalNeuralProcess(
            bm.encoders.Attention(8, 1, 8, heads=2, features=n.features), nn.Linear(16, 1), gaussian()
        ),
        "VERSA": lambda n: bm.VERSA(encoder(1, n), 1, gaussian()),
        "LEO": lambda n: bm.LEO(
            bm.encoders.Relation(8, 1, 6, features=n.features), 1, gaussian(), latent=4, steps=1, head_steps=1
        ),
        "ALPaCA": lambda n: bm.ALPaCA(n.features, n.head, gaussian()),
        "DKT": lambda n: bm.DKT(n.features, process(), gaussian()),
        "ADKF": lambda n: bm.ADKF(n.features, process(), gaussian()),
        "PACOH": lambda n: bm.PACOH(n.features, process(), gaussian(), tasks=B),
        "PrototypicalNetwork": lambda n: bm.PrototypicalNetwork(n.features, classes=W),
        "GeMCL": lambda n: bm.GeMCL(n.features, size=8, classes=W),
        "DKTClassifier": lambda n: bm.DKTClassifier(n.features, process(), classes=W),
        "LaplaceGP": lambda n: bm.LaplaceGP(n.features, process(), classes=W),
        "PolyaGammaGP": lambda n: bm.PolyaGammaGP(n.features, process(), classes=W),
        "Ensemble": lambda n: bm.Ensemble([bm.MAML(n, gaussian()), bm.MAML(n, gaussian())]),
        "Calibrated": lambda n: bm.Calibrated(bm.ABML(n, gaussian(), steps=2), 1.5),
        "Standardized": lambda n: bm.Standardized(bm.MAML(n, gaussian()), x_loc=0.1, x_scale=2.0, y_loc=1.0, y_scale=2.0),
        "Rehearsal": lambda n: bm.Rehearsal(bm.PLATIPUS(n, gaussian(), steps=2), capacity=5),
        "Changepoints": lambda n: bm.Changepoints(bm.ABML(n, gaussian(), steps=2), 0.1, capacity=3),
    }  # fmt: skip


CLASSES = ("PrototypicalNetwork", "GeMCL", "DKTClassifier", "LaplaceGP", "PolyaGammaGP")


@pytest.mark.parametrize("kind", ["tokens", "tree"])
@pytest.mark.parametrize("name", builds())
def test_whole_numbers_and_trees_as_inputs(name: str, kind: str) -> None:
    torch.manual_seed(0)
    given = of_inputs(kind, name in CLASSES)
    learner = builds()[name](Network(1)).double()
    learner.loss(given).backward()
    embedding = next(m for m in learner.modules() if isinstance(m, nn.Embedding))
    assert embedding.weight.grad is not None and embedding.weight.grad.any()  # noqa: PT018
    posterior = learner(given.support)
    assert posterior(given.query.x).log_prob(given.query.y).isfinite().all()
    functions = posterior.functions(S)
    assert functions(given.query.x).batch_shape == (S, B, M)
    own = torch.utils._pytree.tree_map(lambda leaf: leaf.expand(S, *leaf.shape), given.query.x)
    assert functions(own).batch_shape == (S, B, M)
    assert all(part.isfinite().all() for part in posterior.decompose(given.query.x, samples=4))
    bm.fit(learner, Source(given), steps=2, progress=False)
    assert bm.evaluate(learner, Source(given), episodes=1)


def test_points_of_ragged_trees_are_padded_leaf_by_leaf() -> None:
    x = [{"a": torch.arange(2), "b": {"c": torch.rand(2, 4)}}, {"a": torch.arange(3), "b": {"c": torch.rand(3, 4)}}]
    given = bm.points(x, [[0, 1], [1, 0, 1]], classes=2, whole=True)
    assert given.x["a"].shape == (2, 3, 1)
    assert given.x["a"].dtype == torch.int64
    assert given.x["b"]["c"].shape == (2, 3, 4)
    assert not given.x["b"]["c"][0, 2].any()
    assert given.mask.tolist() == [[True, True, False], [True, True, True]]
    columns = {"a": [t["a"] for t in x], "b": {"c": [t["b"]["c"] for t in x]}}  # type: ignore[index]
    again = bm.points(columns, [[0, 1], [1, 0, 1]], classes=2, whole=True)
    assert torch.equal(again.x["a"], given.x["a"])
    assert torch.equal(again.x["b"]["c"], given.x["b"]["c"])
    assert bm.points(x, [[0.0, 1.0], [1.0, 0.0, 1.0]]).x["a"].dtype == torch.float32


def test_standardizing_leaves_whole_numbers_alone() -> None:
    source = bm.tasks_from_arrays(torch.arange(40) % 9, 100 + torch.rand(40), torch.arange(40) // 10, whole=True)
    learner = bm.Standardized.from_tasks(
        bm.MAML(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(-2), nn.Linear(4, 1)), bm.likelihoods.Gaussian()), source
    )
    assert 99 < learner(source[0].support)(source[0].query.x).mean.mean() < 102


def test_a_frame_keeps_whole_columns_when_asked() -> None:
    frame = pd.DataFrame(
        {"id": [0, 0, 1, 1], "token": [5, 2**40 + 1, 7, 0], "place": [0, 1, 0, 1], "y": [0.0, 1.0, 2.0, 3.0]}
    )
    tasks = bm.tasks_from_frame(frame, task="id", x=["token", "place"], y="y", shots=1, whole=True)
    x = torch.cat([part.x for part in tasks[0]], 1)
    assert x.dtype == torch.long
    assert sorted(x.flatten(0, 1).tolist()) == sorted([[5, 0], [2**40 + 1, 1], [7, 0], [0, 1]])
    assert bm.tasks_from_frame(frame, task="id", x="place", y="y", shots=1)[0].support.x.is_floating_point()
