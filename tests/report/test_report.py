"""The comparison says what `evaluate` says, and its page opens in a browser."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro.distributions import Gumbel
from tests_support import Blobs

import bayesmeta as bm
from bayesmeta.distributions import Family, register
from bayesmeta.report import pictures

TASKS = bm.tasks.LinearGaussian(batch=20, shots=3)


def maml() -> bm.Learner:
    torch.manual_seed(0)
    return bm.MAML(bm.networks.MLP(1, 1, hidden=(8,)), bm.likelihoods.Gaussian())


def test_rows_are_tidy_and_those_of_evaluate() -> None:
    learners = {"MAML": maml(), "exact": TASKS.oracle}
    found = bm.compare(learners, TASKS, episodes=3, progress=False)
    metrics = ["NLL", "RMSE", "CRPS", "90% coverage", "quantile calibration error", "Sharpness"]
    assert [(row.learner, row.metric) for row in found.rows] == [(n, m) for n in learners for m in metrics]
    expected = bm.evaluate(TASKS.oracle, TASKS, episodes=3)
    for row in found.rows[6:]:
        if row.metric in expected:
            assert (row.value, row.low, row.high) == expected[row.metric]
    assert "exact" in str(found)
    assert found.pictures == {}


def test_training_is_fits() -> None:
    learner, other = maml(), maml()
    found = bm.compare({"MAML": learner}, TASKS, episodes=1, train=TASKS, steps=3, seed=4, progress=False)
    bm.fit(other, TASKS, steps=3, seed=4, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), other.parameters(), strict=True))
    assert found.seconds["MAML"]["training"] > 0


def test_differences_from_one_of_the_learners(tmp_path: Path) -> None:
    learners = {"MAML": maml(), "exact": TASKS.oracle}
    found = bm.compare(learners, TASKS, episodes=3, against="exact", page=tmp_path / "page.html", progress=False)
    assert [(row.learner, row.metric) for row in found.differences] == [("MAML", m) for m in ("NLL", "RMSE", "CRPS")]
    values = {(row.learner, row.metric): row.value for row in found.rows}
    for row in found.differences:
        assert row.value == pytest.approx(values["MAML", row.metric] - values["exact", row.metric], abs=1e-9)
        assert row.low <= row.value <= row.high
    assert found.differences[0].low > 0  # the exact answer has the lower NLL
    assert "difference from exact" in str(found)
    assert "Differences from exact" in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="against: expected one of 'MAML', 'exact', got 'oracle'"):
        bm.compare(learners, TASKS, episodes=1, against="oracle")


def test_classes() -> None:
    learner = bm.LaplaceGP(torch.nn.Identity(), RBFKernel(), classes=3)
    found = bm.compare({"GP": learner}, Blobs(), episodes=2, progress=False)
    assert {row.metric for row in found.rows} >= {"NLL", "Accuracy", "ECE", "Brier", "error AUROC"}
    assert {row.better for row in found.rows} == {"lower", "higher"}


def test_a_narrow_forecast_is_no_better_one(tmp_path: Path) -> None:
    metrics = [bm.metrics.Sharpness(), bm.metrics.Width()]
    page = tmp_path / "page.html"
    found = bm.compare({"exact": TASKS.oracle}, TASKS, episodes=2, metrics=metrics, page=page, progress=False)
    assert {row.better for row in found.rows} == {""}
    assert len(found.pictures) > 1
    assert 'class="best"' not in page.read_text()
    bm.compare({"exact": TASKS.oracle}, TASKS, episodes=2, metrics=[*metrics, bm.metrics.NLL()], progress=False).save(
        page
    )
    assert page.read_text().count('class="best"') == 1


@pytest.mark.parametrize("tasks", [TASKS, Blobs()], ids=["real targets", "classes"])
def test_page_stands_alone(tasks: bm.tasks.source.TaskSource, tmp_path: Path) -> None:
    learners = {
        "<i>& Co": maml() if tasks is TASKS else bm.LaplaceGP(torch.nn.Identity(), RBFKernel(), classes=3),
    }
    found = bm.compare(learners, tasks, episodes=2, page=tmp_path / "page.html", progress=False)
    text = (tmp_path / "page.html").read_text()
    assert "&lt;i&gt;&amp; Co" in text
    assert "<i>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert text.count("<img") == len(found.pictures) >= 2
    for word in ("seed", "torch", "episodes", f"{found.rows[0].value:.3f}"):
        assert word in text


def test_where_no_page_can_be_written_nothing_is_trained(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for page, error in ((tmp_path / "none" / "x.html", FileNotFoundError), (tmp_path / "folder", ValueError)):
        learner = maml()
        before = [p.clone() for p in learner.parameters()]
        with pytest.raises(error, match="page"):
            bm.compare({"MAML": learner}, TASKS, episodes=1, train=TASKS, steps=2, page=page, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), before, strict=True))


def test_names_are_no_formulas(tmp_path: Path) -> None:
    names = [r"rate $\alfa$", "$", "a_b", "_hidden", "<&>"]
    found = bm.compare(dict.fromkeys(names, TASKS.oracle), TASKS, episodes=1, page=tmp_path / "x.html", progress=False)
    assert found.learners == names
    assert len(found.pictures) == 2 + len(names)


def test_what_fails_after_the_work_costs_only_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "x.html"
    page.write_text("the old page")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    found = bm.compare({"exact": TASKS.oracle}, TASKS, episodes=1, page=page, progress=False)
    assert found.rows
    assert "No space left" in capsys.readouterr().err
    with pytest.raises(OSError, match="No space"):
        found.save(page)
    assert page.read_text() == "the old page"
    assert list(tmp_path.iterdir()) == [page]
    monkeypatch.undo()
    found.save(page)
    assert "<table>" in page.read_text()


def test_pictures_of_the_first_task_show_what_was_asked_for_on_the_same_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(pictures, "svg", lambda figure: drawn.append(figure.axes[0]) or "<svg/>")
    bm.compare({"MAML": maml(), "exact": TASKS.oracle}, TASKS, episodes=1, page=tmp_path / "x.html", progress=False)
    panes = drawn[2:]
    assert len({ax.get_ylim() for ax in panes}) == len({ax.get_xlim() for ax in panes}) == 1
    for ax in panes:
        asked = next(line for line in ax.lines if line.get_label() == "asked for")
        assert asked.get_ydata().tolist() == TASKS[0].query.y[0, :, 0].tolist()


def test_page_opens_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: it renders the page")
    page = tmp_path / "page.html"
    found = bm.compare({"MAML": maml(), "exact": TASKS.oracle}, TASKS, episodes=2, page=page, progress=False)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "page.png"
    subprocess.run(
        [browser, *flags, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    assert shot.stat().st_size > 20_000
    dump = subprocess.run([browser, *flags, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=120)
    dom = dump.stdout.decode()
    assert dom.count("<tr>") == 3
    assert f"{found.rows[0].value:.3f}" in dom


def test_errors_and_missing_values() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bm.compare({}, TASKS, episodes=1)
    with pytest.raises(ValueError, match="episodes"):
        bm.compare({"MAML": maml()}, TASKS, episodes=0)
    for wrong, error in ((torch.arange(20), TypeError), (lambda index: torch.arange(3), ValueError)):
        learner = maml()
        before = [p.clone() for p in learner.parameters()]
        with pytest.raises(error, match="clusters: expected"):
            bm.compare({"MAML": learner}, TASKS, episodes=1, clusters=wrong, train=TASKS, steps=2, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), before, strict=True))
    one = bm.tasks.LinearGaussian(batch=1, shots=3)
    row = bm.compare({"exact": one.oracle}, one, episodes=1, progress=False).rows[0]
    assert math.isnan(row.low)


def test_learners_without_names_are_refused() -> None:
    tasks = bm.tasks.Sinusoids()
    with pytest.raises(TypeError, match="learners: expected a dictionary of learners by name, got list"):
        bm.compare([tasks.oracle], tasks, episodes=1)  # type: ignore[arg-type]


class Own(Gumbel):
    """A family of this test's own."""


@register(Own)
class OwnFamily(Family):
    parameters = ("loc", "scale")


class OwnLikelihood(bm.likelihoods.Likelihood):
    def forward(self, outputs: torch.Tensor) -> torch.distributions.Distribution:
        return Own(outputs, torch.ones_like(outputs), validate_args=False).to_event(1)

    def error(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * (outputs - y).square()


def test_a_family_without_a_crps_is_compared_by_the_others() -> None:
    learner = bm.MAML(bm.networks.MLP(1, 1), OwnLikelihood())
    found = bm.compare({"own": learner}, bm.tasks.Sinusoids(), episodes=1, progress=False)
    assert found.metrics == ["NLL", "RMSE", "90% coverage", "quantile calibration error", "Sharpness"]


def classes() -> bm.tasks.ClassStreams:
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    return bm.tasks.ClassStreams(bm.tasks.ClassTasks(x, torch.arange(80) % 8, ways=6, shots=3, queries=4), classes=2)


def test_a_page_of_streams(tmp_path: Path) -> None:
    learners = {
        "Gaussians": bm.GeMCL(torch.nn.Identity(), size=2, classes=6),
        "<MAML>": bm.MAML(bm.networks.MLP(2, 6), bm.likelihoods.Categorical()),
    }
    page = tmp_path / "page.html"
    found = bm.report.compare_streams(learners, classes(), episodes=2, page=page, progress=False)
    kept = bm.evaluation.evaluate_stream(learners["Gaussians"], classes(), episodes=2, together=False, progress=False)
    rows = {(row.learner, row.metric): row for row in found.rows}
    for title, figure in (
        ("Accuracy", kept.final),
        ("Accuracy forgotten", kept.forgetting),
        ("Accuracy lost to other parts", kept.interference),
    ):
        row = rows["Gaussians", title]
        assert (row.value, row.low, row.high) == figure["Accuracy"]
    assert len(found.pictures) == 3 + 2  # of metrics, of learners
    text = page.read_text()
    assert "NLL forgotten" in text
    assert "<MAML>" not in text
    alone = bm.report.compare_streams(learners, classes(), episodes=1, page=page, progress=False)
    assert "nan" not in str(alone)  # a single stream has no interval
    assert "nan" not in page.read_text().split("<h2>Pictures</h2>")[0]
    platipus = bm.PLATIPUS(bm.networks.MLP(2, 6), bm.likelihoods.Categorical())
    with pytest.raises(NotImplementedError, match="update: expected") as error:
        bm.report.compare_streams({"one": platipus}, classes(), episodes=1, progress=False)
    assert error.value.__notes__ == ["of 'one' among the learners"]
    with pytest.raises(TypeError, match="learners: expected a dictionary of learners by name"):
        bm.report.compare_streams([platipus], classes(), episodes=1)  # type: ignore[arg-type]
