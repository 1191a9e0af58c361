"""What is drawn is what was computed; looks are for eyes."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel
from matplotlib import pyplot as plt
from tests_support import Blobs

import bayesmeta as bm
from bayesmeta.plots.axes import COLOURS


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    with mpl.rc_context():
        mpl.use("agg")
        yield
        plt.close("all")


TASKS = bm.tasks.LinearGaussian(batch=40, shots=3)


def test_predictive_bands_are_the_predictions_quantiles() -> None:
    posterior = TASKS.oracle(bm.points([0.0, 1.0], [0.5, 1.0]))
    x = torch.linspace(-2, 2, 9)
    ax = bm.plots.bands(posterior, x, draws=4)
    outer = ax.collections[0].get_paths()[0].vertices
    predictive = posterior(x)
    for side in (-1, 1):
        edge = (predictive.mean + side * 1.6448536 * predictive.stddev)[0, :, 0].numpy()
        assert all(np.abs(outer[:, 1] - value).min() < 1e-4 for value in edge)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["90 % of y", "90 % of the function", "mean", "known"]
    assert len(ax.lines) == 4 + 2


def test_an_axes_is_used_and_state_stays() -> None:
    _, pane = plt.subplots()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for draw in (bm.plots.calibration, bm.plots.pit):
        assert draw(TASKS.oracle, TASKS, episodes=2, ax=pane) is pane
    assert torch.equal(torch.get_rng_state(), before)


def test_calibration_curve_is_the_share_of_targets() -> None:
    ax = bm.plots.calibration(TASKS.oracle, TASKS, episodes=3, levels=4, label="oracle")
    rank = torch.cat(
        [TASKS.oracle(e.support)(e.query.x).base_dist.cdf(e.query.y).flatten() for e in (TASKS[i] for i in range(3))]  # type: ignore[attr-defined]
    )
    expected = [(rank <= p).double().mean().item() for p in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), expected, atol=1e-6)


def test_pit_bars_and_band() -> None:
    ax = bm.plots.pit(TASKS.oracle, TASKS, episodes=10, bins=5)
    heights = [patch.get_height() for patch in ax.patches[:5]]
    assert np.mean(heights) == pytest.approx(1.0)
    assert all(0.8 < height < 1.2 for height in heights)


def test_reliability_has_the_accuracy_of_each_bin() -> None:
    learner, tasks = bm.LaplaceGP(torch.nn.Identity(), RBFKernel(), classes=3), Blobs()
    ax = bm.plots.reliability(learner, tasks, episodes=2, bins=5, label="GP")
    ax = bm.plots.reliability(learner, tasks, episodes=2, bins=5, label="again", ax=ax)
    ece = bm.evaluate(learner, tasks, episodes=2, metrics=[bm.metrics.ECE(5)])["ECE"].value
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["calibrated", f"GP (ECE {ece:.3f})", f"again (ECE {ece:.3f})"]
    colours = [container[0].get_color() for container in ax.containers if hasattr(container, "has_yerr")]
    assert colours == list(COLOURS[:2])


def test_ranks_and_shots() -> None:
    ax = bm.plots.ranks({"a": [1, 1, 1], "b": [2, 3, 2], "c": [3, 2, 3]}, highlight=["c"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c", "b", "a"]
    means = sorted(line.get_xdata()[0] for line in ax.lines)
    assert means == pytest.approx([1.0, 7 / 3, 8 / 3])
    ax = bm.plots.ranks({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [0.5, 9.0, float("nan")]})
    means = {text.get_text(): line.get_xdata()[0] for text, line in zip(ax.get_yticklabels(), ax.lines, strict=True)}
    assert means == pytest.approx({"a": (2.5 + 1.5 + 1.5) / 3, "b": (2.5 + 1.5 + 1.5) / 3, "c": (1 + 3 + 3) / 3})
    row = {1: bm.metrics.Estimate(2.0, 1.0, 3.0), 5: bm.metrics.Estimate(1.0, 0.5, 1.5)}
    ax = bm.plots.metric_against_shots({"a": row})
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2.0, 1.0])


def test_errors() -> None:
    posterior = bm.LaplaceGP(torch.nn.Identity(), RBFKernel(), classes=2)(bm.points([0.0, 1.0], [0, 1], classes=2))
    with pytest.raises(TypeError, match="classes"):
        bm.plots.bands(posterior, [0.0, 1.0])
    wide = bm.points(torch.zeros(2, 3), [0.0, 1.0])
    with pytest.raises(ValueError, match="one input feature"):
        bm.plots.bands(bm.tasks.LinearGaussian(inputs=3).oracle(wide), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="as many values"):
        bm.plots.ranks({"a": [1.0], "b": [1.0, 2.0]})


def test_bands_show_the_entries_that_were_seen() -> None:
    y = torch.tensor([[1.0, 2.0], [0.5, torch.nan]])
    support = bm.points([0.0, 1.0], y, mask=~y.isnan())
    posterior = bm.ABML(bm.networks.MLP(1, 2), bm.likelihoods.Gaussian(), steps=1)(support)
    for target, known in ((0, [1.0, 0.5]), (1, [2.0])):
        ax = bm.plots.bands(posterior, torch.linspace(-1, 2, 7), target=target)
        (dots,) = [line for line in ax.lines if line.get_label() == "known"]
        assert dots.get_ydata().tolist() == known


def kept_of(episodes: int = 2, at: list[int] | None = None) -> bm.evaluation.Retention:
    tasks = bm.tasks.ClassTasks(torch.randn(80, 2), torch.arange(80) % 8, ways=6, shots=3, queries=4)
    learner = bm.GeMCL(torch.nn.Identity(), size=2, classes=6)
    streams = bm.tasks.ClassStreams(tasks, classes=2)
    return bm.evaluation.evaluate_stream(learner, streams, episodes=episodes, at=at, progress=False)


def test_retention_is_the_course_over_the_parts_so_far() -> None:
    kept = kept_of(at=[0, 2])
    ax = bm.plots.retention(kept, "NLL", label="Gaussians")
    ax = bm.plots.retention(kept, "NLL", label="again", ax=ax)
    fresh, line, _, again = ax.lines
    assert line.get_xdata().tolist() == [1, 3]
    np.testing.assert_allclose(line.get_ydata()[-1], kept.final["NLL"].value)
    np.testing.assert_allclose(fresh.get_ydata(), kept.at_first("NLL"))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(found.low for found in kept.so_far("NLL")))
    assert (line.get_color(), again.get_color()) == COLOURS[:2]
    assert ax.get_legend_handles_labels()[1] == ["Gaussians", "again"]
    with pytest.raises(ValueError, match="name: expected one of NLL, Accuracy, ECE, got 'RMSE'"):
        bm.plots.retention(kept, "RMSE")


def test_the_course_over_parts_has_no_ticks_between_them() -> None:
    kept = kept_of()
    ax = bm.plots.retention(kept, "NLL")
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    ax.set_xscale("log")
    assert bm.plots.retention(kept, "NLL", ax=ax).get_xscale() == "log"


def test_the_matrix_of_what_is_kept_is_drawn_as_it_is() -> None:
    kept = kept_of(at=[0, 2])
    ax = bm.plots.retention_matrix(kept, "NLL")
    (mesh,) = ax.collections
    drawn = np.ma.getdata(mesh.get_array()).reshape(2, 3)
    np.testing.assert_allclose(drawn, kept.matrix("NLL"))
    assert np.ma.getmaskarray(mesh.get_array()).reshape(2, 3).tolist() == [[False, True, True], [False] * 3]
    assert ax.get_ylim() == (3.5, 0.5)  # time goes down


def test_masks_show_what_is_predicted_and_what_is_void() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(1, 3, 3, 6, 8), torch.randint(3, (1, 3, 6, 8))
    query = bm.Points(x, y * (y < 2), y < 2)
    learner = bm.Dense(torch.nn.Identity(), bm.PrototypicalNetwork(torch.nn.Identity(), classes=2))
    posterior = learner(query)
    axes = bm.plots.masks(posterior, query, pictures=2).axes
    images = [[axis.images[0].get_array() for axis in axes[5 * row : 5 * row + 5]] for row in range(2)]
    for row, (picture, truth, probability, aleatoric, epistemic) in enumerate(images):
        assert np.allclose(picture, x[0, row].movedim(0, -1))
        assert (np.ma.getmaskarray(truth) == (y[0, row] == 2).numpy()).all()
        assert np.allclose(probability, bm.distributions.class_probabilities(posterior(x))[0, row, ..., 1].detach())
        assert np.allclose(aleatoric + epistemic, posterior.decompose(x).total[0, row].detach(), atol=1e-6)
    with pytest.raises(ValueError, match=r"query\.x: expected pictures"):
        bm.plots.masks(posterior, query._replace(x=x[:, :, :2]))


def test_boxes_show_what_is_found_where_its_edges_may_be_and_what_is_true() -> None:
    y = torch.zeros(1, 3, 2, 4, 5)
    y[0, :, 0, 1] = torch.tensor([1, -0.5, -0.4, 0.5, 0.4])
    logits = torch.where(y[..., 0] > 0, 2.0, -4.0)
    logits[0, 0, 1, 3] = 1.0  # found where there is none
    loc = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand(1, 3, 2, 4, 4)
    scale = torch.full_like(loc, 0.1)
    scale[0, 2] = 0.5  # so wide that left and right may change places
    d = bm.distributions.BoxGrid(logits, loc, scale, torch.tensor(5.0))
    query = bm.Points(torch.rand(1, 3, 3, 16, 32), y, torch.tensor([[True, False, True]]))
    axes = bm.plots.boxes(lambda x: d, query).axes
    assert len(axes) == 2
    frames = [
        [patch.get_bbox().extents.tolist() for patch in axis.patches if hasattr(patch, "get_width")] for axis in axes
    ]
    assert frames[0] == [[8, 0, 16, 8], [24, 8, 32, 16], pytest.approx([8, 0.8, 16, 7.2])]
    assert frames[1] == [[8, 0, 16, 8], pytest.approx([8, 0.8, 16, 7.2])]
    assert [text.get_text() for text in axes[0].texts] == ["0.88", "0.73"]
    bands = [[patch.get_path().vertices for patch in axis.patches if not hasattr(patch, "get_width")] for axis in axes]
    reach = 8 * 0.1 * 2.0150484  # 90 % of Student's t with 5 degrees of freedom
    low, high = np.array([8, 0, 16, 8]) - reach, np.array([8, 0, 16, 8]) + reach
    assert np.allclose(bands[0][0].min(0), low[:2], atol=1e-4)
    assert np.allclose(bands[0][0].max(0), high[2:], atol=1e-4)
    assert np.allclose(bands[0][0][5:].min(0), high[:2], atol=1e-4)
    assert np.allclose(bands[0][0][5:].max(0), low[2:], atol=1e-4)
    assert len(bands[1][0]) == 5  # nothing is within for sure
    assert [len(axis.texts) for axis in bm.plots.boxes(lambda x: d, query, least=0.8, pictures=1).axes] == [1]
    with pytest.raises(ValueError, match=r"query\.x: expected pictures"):
        bm.plots.boxes(lambda x: d, query._replace(x=query.x[:, :, :2]))
    for task, message in ((1, "task: expected 0 to 0"), (-1, "task: expected a whole number")):
        with pytest.raises(ValueError, match=message):
            bm.plots.boxes(lambda x: d, query, task=task)
    with pytest.raises(ValueError, match="query: expected a picture of task 0 that is observed"):
        bm.plots.boxes(lambda x: d, query._replace(mask=torch.zeros(1, 3).bool()))
