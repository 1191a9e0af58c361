"""The examples run and show what they say."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import matplotlib as mpl
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_growth_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every meta-learner's NLL at 3 points is below those of both baselines, and their intervals do not meet.

    Only the neural processes' intervals reach the baselines': 36 pigs are few for networks that have nothing but data to
    learn from. Their NLL must lie below the baselines' intervals.
    """
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    module = runpy.run_path(str(EXAMPLES / "growth_curves.py"))
    tables = module["main"]()
    assert (tmp_path / "growth_curves.png").stat().st_size > 10_000
    for learner in module["LEARNERS"]:
        for baseline in ("GP per pig", "pooled regression"):
            figure = tables[3][learner]["NLL"]
            assert (figure.value if learner in ("Attentive NP", "CNP") else figure.high) < tables[3][baseline][
                "NLL"
            ].low


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shared_encoder() -> None:
    """VERSA on the neural process's encoder is better than from nothing, by more than both intervals."""
    rows = runpy.run_path(str(EXAMPLES / "shared_encoder.py"))["main"]()
    assert rows["VERSA on its encoder, few steps"]["NLL"].high < rows["VERSA alone, as few steps"]["NLL"].low


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_alphabets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class Gaussians still know all 659 characters when gradient steps, on the same features, have lost the first half."""
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no Omniglot: BAYESMETA_DATA is not set")
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    kept = runpy.run_path(str(EXAMPLES / "alphabets.py"))["main"](streams=1)
    assert (tmp_path / "alphabets.png").stat().st_size > 10_000
    ours, theirs = kept["class Gaussians"], kept["gradient steps"]
    assert ours.matrix("Accuracy")[-1].min() > 0.5
    assert theirs.matrix("Accuracy")[-1, :10].mean() < 0.1
    assert ours.final["NLL"].value < theirs.final["NLL"].value


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees, a new class, are found, with a calibrated probability, and cutting it at 0.5 finds fewer."""
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no CamVid: BAYESMETA_DATA is not set")
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    found = runpy.run_path(str(EXAMPLES / "segmentation.py"))["main"]()
    assert (tmp_path / "segmentation.png").stat().st_size > 10_000
    assert found["IoU"].value > found["IoU, likeliest"].value
    assert found["ECE"].value < 0.05


@pytest.mark.slow
def test_swing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty steps close most of the gap between knowing pendulums and knowing this one."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    found = runpy.run_path(str(EXAMPLES / "swing_up.py"))["main"](worlds=4)
    assert (tmp_path / "swing_up.png").stat().st_size > 5_000
    nothing, fifty, physics = found.values()
    assert (fifty - nothing) / (physics - nothing) > 0.8


@pytest.mark.slow
def test_new_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who draws finds out the rules; who plays by the mean does not."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    found = runpy.run_path(str(EXAMPLES / "new_rules.py"))["main"]()
    assert (tmp_path / "new_rules.png").stat().st_size > 5_000
    knows, exact, draws, mean, nothing = (levels[-1] for levels in found.values())
    assert (draws - nothing) / (knows - nothing) > 0.9 * (exact - nothing) / (knows - nothing)
    assert mean < nothing + 0.5 * (knows - nothing)


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_tuning(real: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five and ten evaluations what other data sets taught is ahead of this one's process, and that of chance after ten."""
    pytest.importorskip("botorch")
    if not real:
        monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    elif "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no hpo_svm: BAYESMETA_DATA is not set")
    taught, alone, chance = runpy.run_path(str(EXAMPLES / "tuning.py"))["main"]().values()
    for after in (5, 10):
        assert taught[after - 1] < 0.7 * alone[after - 1]
    assert alone[9] < chance[9]


@pytest.mark.slow
def test_policies() -> None:
    """Twenty attempts improve a policy, ten steps a model more: paired over 64 crafts, by over three standard errors."""
    fixed, adapted, _, planned, known = runpy.run_path(str(EXAMPLES / "policies.py"))["main"]().values()
    for better, worse in ((adapted, fixed), (planned, adapted)):
        gain = better - worse
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert (known - planned).mean() < 0.1 * (known - adapted).mean()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new object is found, and its edges lie where they should."""
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no COIL-20 and CamVid: BAYESMETA_DATA is not set")
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    found = runpy.run_path(str(EXAMPLES / "detection.py"))["main"]()
    assert (tmp_path / "detection.png").stat().st_size > 10_000
    assert found["AP50"].value > 0.4
    assert 0.8 < found["90% edge coverage"].value < 1


@pytest.mark.slow
def test_intents() -> None:
    """Five intents of five examples are told apart, and most messages that are of none are said to be."""
    if "BAYESMETA_DATA" not in os.environ:
        pytest.skip("no CLINC150: BAYESMETA_DATA is not set")
    found = runpy.run_path(str(EXAMPLES / "intents.py"))["main"]()
    assert found["Accuracy inside"].value > 0.95
    assert found["Accuracy outside"].value > 0.8
    assert found["outside AUROC"].value > 0.97
    assert found["ECE"].value < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_translation() -> None:
    """Thirty pairs of a new language teach what none before did."""
    rows = runpy.run_path(str(EXAMPLES / "translation.py"))["main"]()
    assert rows["adapted"]["NLL"].high < rows["as trained"]["NLL"].low


def test_what_examples_leave_behind_is_no_part_of_the_checkout() -> None:
    root = EXAMPLES.parent
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("no git checkout")
    written = {
        name for path in EXAMPLES.glob("*.py") for name in re.findall(r'"(\w+(?:\.png|\.html|_run))"', path.read_text())
    }
    assert written >= {
        "compare.html",
        "uncertainty.png",
        "growth_curves.png",
        "omniglot.png",
        "alphabets.png",
        "segmentation.png",
        "swing_up.png",
        "new_rules.png",
        "detection.png",
        "distributed_run",
    }
    for name in written:
        place = f"{name}/state" if name.endswith("_run") else name
        assert subprocess.run(["git", "check-ignore", "-q", place], cwd=root, check=False).returncode == 0, name
