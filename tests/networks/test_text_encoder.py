"""The encoder of token ids: padding, truth by hand, every kind of learner, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.networks import TextEncoder
from bayesmeta.networks.transformer import PADDING

V, W = 30, 3


def encoder(layers: int = 1, seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    made = TextEncoder(V, W, width=8, layers=layers)
    nn.init.normal_(made.features.log_weight.weight, std=0.3)
    return made


def texts(count: int, length: int = 9, seed: int = 1) -> Tensor:
    """Ids of texts of one to `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, V, (count, length), generator=generator)
    ends = torch.randint(1, length + 1, (count, 1), generator=generator)
    return ids.masked_fill(torch.arange(length) >= ends, PADDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_padding_changes_nothing(layers: int, dtype: torch.dtype) -> None:
    made, ids = encoder(layers).to(dtype), texts(7)
    for more in (1, 2, 7, 30, 100):
        longer = torch.cat([ids, torch.full((7, more), PADDING)], 1)
        assert torch.equal(made.features(longer), made.features(ids))
        assert torch.equal(made(longer), made(ids))


def test_without_convolutions_it_is_a_weighted_count() -> None:
    made, ids = encoder(layers=0).double(), texts(5)
    for row, found in zip(ids, made.features(ids), strict=True):
        known = [int(token) for token in row if token != PADDING]
        vectors, weights = made.features.tokens.weight, made.features.log_weight.weight.exp()
        expected = sum(weights[token] * vectors[token] for token in known) / len(known) ** 0.5
        torch.testing.assert_close(found, expected)


def test_convolutions_see_the_order_and_neighbours_alone() -> None:
    ids = torch.tensor([[4, 5, 6, 7]])
    turned = ids.flip(1)
    torch.testing.assert_close(encoder(0).features(ids), encoder(0).features(turned))
    assert not torch.allclose(encoder(1).features(ids), encoder(1).features(turned))


def test_an_empty_text_has_features_of_zero_and_gradients_that_are_numbers() -> None:
    made, ids = encoder(2), torch.full((2, 4), PADDING)
    features = made.features(ids)
    assert not features.any()
    made(torch.cat([ids, texts(2, 4)])).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


LEARNERS: dict[str, Any] = {
    "MAML": lambda n: bm.MAML(n, bm.likelihoods.Categorical(), steps=2, rate=0.1),
    "ImplicitMAML": lambda n: bm.ImplicitMAML(n, bm.likelihoods.Categorical(), steps=2, rate=0.1),
    "ABML": lambda n: bm.ABML(n, bm.likelihoods.Categorical(), steps=2, rate=0.1),
    "PLATIPUS": lambda n: bm.PLATIPUS(n, bm.likelihoods.Categorical(), steps=1, rate=0.1),
    "DKTClassifier": lambda n: bm.DKTClassifier(n.features, ScaleKernel(RBFKernel()), classes=W),
    "LaplaceHead": lambda n: bm.LaplaceHead(n.features, n.head, bm.likelihoods.Categorical()),
    "PrototypicalNetwork": lambda n: bm.PrototypicalNetwork(n.features, classes=W, scaled=True),
    "GeMCL": lambda n: bm.GeMCL(n.features, 8, classes=W, isotropic=True),
}


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("name", LEARNERS)
def test_it_trains_under_every_kind_of_learner(name: str, layers: int) -> None:
    torch.manual_seed(0)
    topics = torch.arange(60) % 6
    ids = 1 + 4 * topics[:, None] + torch.randint(4, (60, 6))  # each topic has words of its own
    tasks = bm.tasks.ClassTasks(ids, topics, ways=W, shots=3, queries=3, batch=2, whole=True)
    learner = LEARNERS[name](encoder(layers))
    before = [p.detach().clone() for p in learner.parameters()]
    bm.fit(learner, tasks, steps=3, progress=False)
    moved = sum(not torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))
    assert moved >= 2
    support = tasks[5].support
    query = torch.cat([tasks[5].query.x, torch.zeros(2, 9, 4, dtype=torch.long)], -1)  # longer than the support's
    torch.manual_seed(1)
    longer = learner(support)(query).probs
    torch.manual_seed(1)
    shorter = learner(support)(tasks[5].query.x).probs
    torch.testing.assert_close(longer, shorter)
    assert shorter.isfinite().all()


def test_bad_input() -> None:
    made = encoder()
    with pytest.raises(ValueError, match=r"x: expected token ids from 0 to 29, of TextEncoder\(30\), got others"):
        made(torch.tensor([[3, 30]]))
    with pytest.raises(ValueError, match="x: expected token ids from 0 to 29"):
        made(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match=r"x: expected token ids .* got torch\.float32 \(1, 2\); .* whole=True"):
        made(torch.tensor([[3.0, 2.0]]))
    for odd in (torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2).byte(), torch.zeros(1, 0).long(), torch.tensor(3)):
        with pytest.raises(ValueError, match=r"x: expected token ids .* at least one a text, got torch"):
            made(odd)
    for name, setting in {"width": 0, "vocabulary": 2.5, "outputs": "five", "layers": -1}.items():
        with pytest.raises(ValueError, match="width and layers: expected whole numbers of at least 1"):
            TextEncoder(**{"vocabulary": 30, name: setting})
    learner = bm.PrototypicalNetwork(made.features, classes=2)
    support = bm.points(torch.tensor([[3, 4], [5, 0]]), [0, 1], classes=2, whole=True)
    with pytest.raises(ValueError, match="x: expected token ids from 0 to 29"):
        learner(support)(torch.tensor([[99, 1]]))
    with pytest.raises(ValueError, match=r"whole=True"):
        learner(bm.points(torch.tensor([[3.0, 4.0], [5.0, 0.0]]), [0, 1], classes=2))
