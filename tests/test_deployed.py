"""Adaptation and prediction as one graph, by the recipes of docs/performance.md: compiled, and exported to a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import bayesmeta as bm

MLP = bm.networks.MLP
CLOSED: dict[str, Callable[[], bm.Learner]] = {
    "CNP": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1, 8), MLP(9, 1, hidden=(8,)), bm.likelihoods.Gaussian()
    ),
    "ALPaCA": lambda: bm.ALPaCA(MLP(1, 1, hidden=(8,)).features, nn.Linear(8, 1), bm.likelihoods.Gaussian()),
}
TRACED: dict[str, Callable[[], bm.Learner]] = CLOSED | {
    "VERSA": lambda: bm.VERSA(  # random draws
        bm.encoders.DeepSet(8, 1, 4, features=MLP(1, 1, hidden=(8,)).features), 1, bm.likelihoods.Gaussian()
    ),
    "MAML": lambda: bm.MAML(MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian(), steps=2),
}


@pytest.fixture(autouse=True)
def validation() -> Iterator[None]:
    """The compiler switches the checks of distributions off."""
    before = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(before)
    torch._dynamo.reset()


def asked(known: int) -> tuple[bm.Points, Tensor]:
    episode = bm.tasks.Sinusoids(batch=1, shots=known, queries=known + 3)[0]
    return episode.support, episode.query.x


class Answer(nn.Module):
    def __init__(self, learner: bm.Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, x: Tensor, y: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.ones_like(y[..., 0], dtype=torch.bool)
        prediction = self.learner(bm.Points(x, y, known))(asked)
        return prediction.mean, prediction.stddev


@pytest.mark.parametrize("name", CLOSED)
def test_an_exported_learner_answers_for_any_number_of_points(name: str) -> None:
    torch.manual_seed(0)
    learner, (support, x) = CLOSED[name]().eval(), asked(5)
    sizes = ({1: torch.export.Dim("N")}, {1: torch.export.Dim("N")}, {1: torch.export.Dim("M")})
    with torch.no_grad():
        program = torch.export.export(Answer(learner), (support.x, support.y, x), dynamic_shapes=sizes, strict=False)
        torch.export.save(program, file := io.BytesIO())
        file.seek(0)
        answer = torch.export.load(file).module()
        for known in (2, 5, 30):
            support, x = asked(known)
            expected = learner(support)(x)
            torch.testing.assert_close(answer(support.x, support.y, x), (expected.mean, expected.stddev))


@pytest.mark.parametrize("name", TRACED)
def test_an_answer_is_one_graph_for_any_number_of_points(name: str) -> None:
    torch.manual_seed(0)
    learner = TRACED[name]().eval()
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def answer(support: bm.Points, x: Tensor) -> tuple[Tensor, Tensor]:
        prediction = learner(support)(x)
        return prediction.mean, prediction.stddev

    with torch.no_grad():
        for known in (5, 3, 20):
            support, x = asked(known)
            torch.manual_seed(1)
            found = answer(support, x)
            torch.manual_seed(1)
            expected = learner(support)(x)
            torch.testing.assert_close(found, (expected.mean, expected.stddev))
    assert graphs == 1
