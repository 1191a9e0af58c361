"""A table of bad inputs of whole numbers, trees, labels of an event and masks of entries: each error says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from scipy.sparse import csr_matrix
from shapes import B, Labels, M, N, Network, Source, of_inputs, tagged
from torch import nn

import bayesmeta as bm
from bayesmeta import Episode


def labeller(event: tuple[int, ...]) -> bm.Learner:
    return bm.MAML(Labels(event, False), bm.likelihoods.Categorical(event_dims=len(event))).double()


def tokens_to(network: nn.Module, x: Any, **options: Any) -> bm.Posterior:
    return bm.MAML(network, bm.likelihoods.Gaussian())(bm.points(x, [0.0, 1.0], **options))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "integers to an MLP": (lambda: tokens_to(bm.networks.MLP(1, 1), [1, 2], whole=True), r"x: expected one floating tensor.*torch\.int64.*nn\.Embedding"),
    "integers to a plain network": (lambda: tokens_to(nn.Linear(1, 1), [1, 2], whole=True), r"support\.x: expected floating inputs.*int64.*without whole"),
    "floats to an embedding": (lambda: tokens_to(nn.Embedding(4, 1), [1.0, 2.0]), r"support\.x: expected whole numbers.*whole=True"),
    "a token that is not known": (lambda: tokens_to(nn.Sequential(nn.Embedding(2, 1), nn.Flatten(-2)), [1, 2], whole=True), r"support\.x: expected whole numbers from 0.*got up to 2"),
    "float queries for tokens": (
        lambda: tokens_to(nn.Sequential(nn.Embedding(3, 1), nn.Flatten(-2)), [1, 2], whole=True)([0.5]),
        r"x: expected whole numbers, as the support has them, got torch\.float64",
    ),
    "a dictionary to an MLP": (lambda: tokens_to(bm.networks.MLP(1, 1), {"a": [1.0, 2.0]}), "x: expected one floating tensor.*got dict"),
    "queries without an entry": (
        lambda: bm.MAML(Network(1), bm.likelihoods.Gaussian()).double()(of_inputs("tree", False).support)({"more": torch.zeros(1, 2)}),
        r"x: expected a dictionary of \['text', 'more'\], as the support's inputs are, got a dictionary of \['more'\]",
    ),
    "an array in the place of a dictionary": (
        lambda: bm.MAML(Network(1), bm.likelihoods.Gaussian()).double()(of_inputs("tree", False).support)([0.0]),
        "x: expected a dictionary of .*got list",
    ),
    "leaves of unequal length": (
        lambda: bm.points([{"a": torch.zeros(2), "b": torch.zeros(3)}], [[0.0, 1.0]]),
        r"x\['b'\] and y of task 0: expected the same number of points, got 3 in x\['b'\] and 2 in y",
    ),
    "leaves of other features": (
        lambda: bm.points([{"a": torch.zeros(2, 1)}, {"a": torch.zeros(2, 3)}], [[0.0, 1.0]] * 2),
        r"x\['a'\] of task 1: expected the event shape \(1,\) of task 0, got \(3,\)",
    ),
    "other keys": (lambda: bm.points([{"a": [1.0]}, {"b": [1.0]}], [[0.0]] * 2), "x of task 1: expected a dictionary with the keys of task 0"),
    "no keys": (lambda: bm.points({}, [0.0]), "x: expected arrays by name, got an empty dictionary"),
    "entries of other numbers of tasks": (lambda: bm.points({"a": [[1.0], [2.0]], "b": [1.0]}, [[0.0]]), r"x: expected as many tasks in every entry, got \{'a': 2, 'b': 1\}"),
    "text in a tree": (lambda: bm.points({"a": ["one"]}, [0.0]), r"x\['a'\]: expected numbers"),
    "a label outside, within an event": (
        lambda: bm.points(torch.zeros(1, 1), torch.tensor([[0, 3, 1]]), classes=3, event_dims=1),
        r"y: expected labels 0 to 2 .*got 3 at task 0, point 0, entry \(1,\);.*mask=",
    ),
    "a label outside the outputs, within an event": (
        lambda: bm.evaluate(labeller((3,)), Source(Episode(tagged((3,)).support, tagged((3,)).query._replace(y=torch.full((B, M, 3), 7)))), episodes=1),
        r"y: expected labels 0 to 2.*got 7 at task 0, point 0, entry \(0,\)",
    ),
    "several labels unannounced": (lambda: bm.points(torch.zeros(1, 1), torch.tensor([[0, 1]]), classes=3), r"y of task 0: expected labels of shape \(N,\), got \(1, 2\);.*event_dims=1"),
    "a sequence of another length": (
        lambda: labeller((3,))(tagged((4,)).support),
        r"y: expected targets of event shape \(3,\).*got \(4,\)",
    ),
    "labels of another number of dimensions": (lambda: labeller((3,))(tagged((4, 5)).support), r"support\.y: expected labels of 1 dimensions.*got 2"),
    "one label for a likelihood of several": (lambda: labeller((3,))(tagged(()).support), r"support\.y: expected labels of 1 dimensions.*got 0"),
    "several labels for prototypes": (lambda: bm.PrototypicalNetwork(nn.Identity(), classes=3)(tagged((3,)).support), r"support\.y: expected labels of 0.*use a learner of a network and Categorical\(event_dims=1\)"),
    "several labels for class Gaussians": (lambda: bm.GeMCL(nn.Identity(), 2, classes=3)(tagged((3,)).support), r"support\.y: expected labels of 0.*use a learner of a network and Categorical\(event_dims=1\)"),
    "a mask of another shape": (lambda: bm.points([0.0, 1.0], [0.0, 1.0], mask=[True]), r"mask: expected true or false.*shape \[\(2,\)\].*got .* of \[\(1,\)\]"),
    "a mask of numbers": (lambda: bm.points([0.0, 1.0], [0.0, 1.0], mask=[1.0, 0.0]), "mask: expected true or false"),
    "a hand-made mask of another shape": (
        lambda: labeller((3,))(tagged((3,)).support._replace(mask=torch.ones(B, N, 2, dtype=torch.bool))),
        r"support\.mask: expected the shape \(B, N\) of points, or that of y, \(2, 4, 3\).*got \(2, 4, 2\)",
    ),
    "a mask of entries for a Gaussian process": (
        lambda: bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian())(bm.points([0.0, 1.0], [0.0, 1.0], mask=[True, False])),
        r"support\.mask: expected a mask of points \(B, N\), as DKT takes or leaves",
    ),
    "a mask of entries for a wrapped process": (
        lambda: bm.Rehearsal(bm.DKT(nn.Identity(), RBFKernel(), bm.likelihoods.Gaussian()))(bm.points([0.0, 1.0], [0.0, 1.0], mask=[True, False])),
        r"support\.mask: expected a mask of points \(B, N\), as DKT takes or leaves",
    ),
    "a mask of entries for an encoder": (
        lambda: bm.encoders.DeepSet(1, 1)(bm.points([0.0, 1.0], [0.0, 1.0], mask=[True, False])),
        "mask: expected a mask of points .* as DeepSet encodes targets as a whole",
    ),
    "dimensions below none": (lambda: bm.likelihoods.Categorical(event_dims=-1), "event_dims: expected a whole number of at least 0"),
    "keys of a nested task": (lambda: bm.points([{"a": {"b": [1.0]}}, {"a": [1.0]}], [[0.0]] * 2), r"x of task 1: expected a dictionary with the keys of task 0, \['a'\]\['b'\], got \['a'\];"),
    "a type by its name": (lambda: bm.points([0.0], [0.0], dtype="float32"), "dtype: expected a floating type of torch, got 'float32'"),  # type: ignore[arg-type]
    "a sparse matrix": (lambda: bm.points(csr_matrix([[0.0], [1.0]]), [0.0, 1.0]), r"x: .*sparse csr_matrix; pass it as x.toarray"),
    "a sparse tensor": (lambda: bm.points(torch.eye(2).to_sparse(), [0.0, 1.0]), r"x: expected a dense tensor.*to_dense\(\)"),
    "labels for counts": (lambda: bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Poisson())(bm.points([0.0], [1], classes=2)), r"support\.y: expected floating targets, as a Poisson has them, got labels.*without classes"),
    "a number of draws that is none": (lambda: bm.ELBO(draws=torch.tensor(2.5)), "draws: expected a whole number"),  # type: ignore[arg-type]
    "a vector of draws": (lambda: bm.Predictive(draws=torch.tensor([2])), "draws: expected a whole number"),  # type: ignore[arg-type]
    "a dispersion of text": (lambda: bm.likelihoods.NegativeBinomial("a"), "dispersion: expected numbers"),
    "no dispersion": (lambda: bm.likelihoods.NegativeBinomial([]), "dispersion: expected a positive number"),
    "no scale": (lambda: bm.likelihoods.Gaussian([]), "scale: expected a positive number"),
    "a scale that is none": (lambda: bm.likelihoods.StudentT(None), "scale: expected numbers"),  # type: ignore[arg-type]
    "classes somewhere": (lambda: bm.likelihoods.Categorical(classes_first="no"), "classes_first: expected True or False"),  # type: ignore[arg-type]
    "support and query of other keys": (
        lambda: bm.DKT(Network(1), RBFKernel(), bm.likelihoods.Gaussian()).double().loss(Episode(of_inputs("tree", False).support, of_inputs("tokens", False).query)),
        "points: expected the same tasks, inputs and event shapes in both parts",
    ),
    "scaling a tree": (lambda: bm.Standardized.from_tasks(bm.MAML(Network(1), bm.likelihoods.Gaussian()), Source(of_inputs("tree", False))), "tasks: expected x to be one tensor.*got dict.*x_loc=0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    action, message = BAD[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        action()


def test_the_order_of_keys_does_not_matter() -> None:
    given = bm.points([{"a": [0.0, 1.0], "b": [5.0, 6.0]}, {"b": [7.0], "a": [2.0]}], [[0.0, 1.0], [3.0]])
    assert given.x["a"].flatten().tolist() == [0.0, 1.0, 2.0, 0.0]
    assert given.x["b"].flatten().tolist() == [5.0, 6.0, 7.0, 0.0]


@pytest.mark.parametrize("x", [[], [[1, 2], []], [[1, 2], torch.zeros(0)]])
def test_tasks_without_points_leave_tokens_whole(x: Any) -> None:
    y = [] if not x else [[0.0, 1.0], []]
    assert bm.points(x, y, whole=True).x.dtype == torch.int64
    assert bm.points(x, y).x.dtype == torch.float32


def test_a_mask_may_be_of_a_task_without_points() -> None:
    assert bm.points([[1.0], []], [[0.0], []], mask=[[True], []]).mask.tolist() == [[[True]], [[False]]]


@pytest.mark.parametrize("part", ["episode", "points"])
def test_an_episode_is_no_source(part: str) -> None:
    learner, given = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian()), bm.points([0.0], [0.0])
    wrong: Any = Episode(given, given) if part == "episode" else given
    source = Source(Episode(given, given))
    with pytest.raises(TypeError, match="tasks: expected a task source or a list of episodes, got one"):
        bm.fit(learner, wrong, steps=1, progress=False)
    with pytest.raises(TypeError, match="validation: expected a task source or a list of episodes, got one"):
        bm.fit(learner, source, steps=1, progress=False, validation=wrong)
    with pytest.raises(TypeError, match="tasks: expected a task source or a list of episodes, got one"):
        bm.evaluate(learner, wrong, episodes=1)
    others: Any = [given]
    with pytest.raises(TypeError, match="tasks: expected episodes, got Points as number 0"):
        bm.fit(learner, others, steps=1, progress=False)
    with pytest.raises(TypeError, match="tasks: expected episodes, got Points as number 0"):
        bm.evaluate(learner, others, episodes=1)
