"""Answers as a data frame: those of the learner, row by row, in the frame's own order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import nn

import bayesmeta as bm
from bayesmeta.distributions import quantile


def learner(outputs: int = 1) -> bm.Learner:
    torch.manual_seed(0)
    inner = bm.ALPaCA(nn.Identity(), nn.Linear(2, outputs), bm.likelihoods.Gaussian(0.5))
    return bm.Standardized(inner, x_loc=[1.0, 2.0], x_scale=[2.0, 1.0], y_loc=[3.0] * outputs, y_scale=[2.0] * outputs)


KNOWN = pd.DataFrame({"id": list("babab"), "day": [0, 1, 2, 3, 4], "dose": [1.0, 2, 0, 1, 3]}).assign(
    y=[3.0, 1, 4, 1, 5], z=[1.0, 0, 2, 2, 1]
)
ASKED = pd.DataFrame({"id": ["a", "c", "b", "a"], "day": [5, 6, 7, 8], "dose": [0.5, 1, 2, 3]}, index=[7, 3, 9, 1])


def columns(frame: Any = KNOWN, **options: Any) -> bm.tasks.Columns:
    return bm.tasks.Columns.from_frame(frame, **{"task": "id", "x": ["day", "dose"], "y": "y", **options})


@pytest.mark.parametrize("targets", [["y"], ["y", "z"]])
def test_every_row_is_what_the_learner_says_of_it(targets: list[str]) -> None:
    model = learner(len(targets))
    found = bm.predict_frame(model, KNOWN, ASKED, columns(KNOWN, y=targets), levels=(0.1, 0.5))
    assert found.index.tolist() == [7, 3, 9, 1]
    assert found[list(ASKED)].equals(ASKED)
    for row, (_, asked) in enumerate(ASKED.iterrows()):
        mine = KNOWN[KNOWN.id == asked.id]
        x, y = (mine[names].to_numpy(float) for names in (["day", "dose"], targets))
        with torch.no_grad():
            posterior = model(bm.points([torch.tensor(x)], [torch.tensor(y)]))
            question = torch.tensor([[[float(asked.day), float(asked.dose)]]])
            prediction, parts = posterior(question), posterior.decompose(question)
        expected = {
            "mean": prediction.mean, "10%": quantile(prediction, 0.1), "50%": quantile(prediction, 0.5),
            "aleatoric": parts.aleatoric, "epistemic": parts.epistemic,
        }  # fmt: skip
        for k, target in enumerate(targets):
            for name, value in expected.items():
                assert found[f"{target} {name}"].iloc[row] == pytest.approx(value[0, 0, k].item(), rel=1e-4, abs=1e-5)


def test_many_tasks_in_several_batches_and_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bm.Ensemble([learner(), learner()])
    whole = bm.predict_frame(model, KNOWN, ASKED, columns(), seed=1)
    monkeypatch.setattr("bayesmeta.tasks.frames._TOGETHER", 1)
    np.testing.assert_allclose(
        whole.iloc[:, 3:].to_numpy(),
        bm.predict_frame(model, KNOWN, ASKED, columns(), seed=1).iloc[:, 3:].to_numpy(),
        rtol=1e-5,
    )


def test_labels() -> None:
    frame = KNOWN.assign(y=[0, 1, 2, 1, 0])
    model = bm.LaplaceGP(nn.Identity(), RBFKernel(), classes=3)
    found = bm.predict_frame(model, frame, ASKED, columns(frame, classes=3))
    assert list(found)[3:] == ["y 0", "y 1", "y 2", "y aleatoric", "y epistemic"]
    np.testing.assert_allclose(found[["y 0", "y 1", "y 2"]].sum(axis=1), 1.0, rtol=1e-5)
    assert found["y 1"].iloc[0] > found["y 1"].iloc[2]  # of a task with that label alone, and of one without it


def test_a_mapping_of_columns_comes_back_as_one() -> None:
    known, asked = ({name: frame[name].tolist() for name in frame} for frame in (KNOWN, ASKED))
    found = bm.predict_frame(learner(), known, asked, columns())
    assert list(found) == ["id", "day", "dose", "y mean", "y 5%", "y 95%", "y aleatoric", "y epistemic"]
    np.testing.assert_allclose(found["y mean"], bm.predict_frame(learner(), KNOWN, ASKED, columns())["y mean"])


def test_the_learner_is_left_in_its_mode() -> None:
    model = learner().train()
    bm.predict_frame(model, KNOWN, ASKED, columns())
    assert model.training


@pytest.mark.parametrize(
    ("known", "asked", "options", "message"),
    [
        (KNOWN, ASKED.drop(columns="dose"), {}, "x: expected a column of the frame, got 'dose'"),
        (KNOWN.drop(columns="y"), ASKED, {}, "y: expected a column of the frame, got 'y'"),
        (
            KNOWN,
            ASKED.assign(id=["a", None, "b", "a"]),
            {},
            "task: expected a task for every row, got (None|nan) in row 1",
        ),
        (KNOWN, ASKED, {"levels": (0.05, 95)}, "levels: expected quantiles between 0 and 1, got 95"),
        (KNOWN, ASKED.assign(day=pd.Timestamp("2026-01-01")), {}, "day: expected a numeric column, got datetime64"),
        (KNOWN, ASKED.iloc[:0], {}, "asked: expected at least one row"),
        (KNOWN.assign(y=np.nan), ASKED, {}, r"y: expected a target in every row, got 5 rows"),
    ],
)
def test_frames_that_do_not_fit(known: Any, asked: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bm.predict_frame(learner(), known, asked, columns(), **options)


def test_a_column_named_as_an_answer_is_replaced_with_a_warning() -> None:
    asked = ASKED.assign(**{"y mean": 0.0})
    with pytest.warns(UserWarning, match="asked: expected no column named as an answer, got 'y mean'"):
        found = bm.predict_frame(learner(), KNOWN, asked, columns())
    assert found["y mean"].equals(bm.predict_frame(learner(), KNOWN, ASKED, columns())["y mean"])
