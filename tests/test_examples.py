"""The examples run, save a picture, and show what they say."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What an example's main gives, by name and options, in an empty folder where it must leave its picture."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")

    def main(name: str, *, packs: bool = False, **options: Any) -> Any:
        if packs and "BAYESMETA_DATA" not in os.environ:
            pytest.skip("BAYESMETA_DATA is not set: it names the folder of data packs")
        found = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**options)
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
        return found

    return main


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_growth_curves(run: Run) -> None:
    """Every meta-learner's NLL at 3 points is below those of both baselines, and their intervals do not meet.

    Only the neural processes' intervals reach the baselines': 36 pigs are few for networks that have nothing but data to
    learn from. Their NLL must lie below the baselines' intervals.
    """
    tables = run("growth_curves")
    baselines = ("GP per pig", "pooled regression")
    for learner in tables[3].keys() - {*baselines}:
        for baseline in baselines:
            figure = tables[3][learner]["NLL"]
            assert (figure.value if learner in ("Attentive NP", "CNP") else figure.high) < tables[3][baseline][
                "NLL"
            ].low


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shared_encoder(run: Run) -> None:
    """VERSA on the neural process's encoder is better than from nothing, by more than both intervals."""
    rows = run("shared_encoder")
    assert rows["VERSA on its encoder, few steps"]["NLL"].high < rows["VERSA alone, as few steps"]["NLL"].low


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_alphabets(run: Run) -> None:
    """Class Gaussians still know all 659 characters when gradient steps, on the same features, have lost the first half."""
    kept = run("alphabets", packs=True, streams=1)
    ours, theirs = kept["class Gaussians"], kept["gradient steps"]
    assert ours.matrix("Accuracy")[-1].min() > 0.5
    assert theirs.matrix("Accuracy")[-1, :10].mean() < 0.1
    assert ours.final["NLL"].value < theirs.final["NLL"].value


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_segmentation(run: Run) -> None:
    """Trees, a new class, are found, with a calibrated probability, and cutting it at 0.5 finds fewer."""
    found = run("segmentation", packs=True)
    assert found["IoU"].value > found["IoU, likeliest"].value
    assert found["ECE"].value < 0.05


@pytest.mark.slow
def test_swing_up(run: Run) -> None:
    """Fifty steps close most of the gap between knowing pendulums and knowing this one."""
    nothing, fifty, physics = run("swing_up", worlds=4).values()
    assert (fifty - nothing) / (physics - nothing) > 0.8


@pytest.mark.slow
def test_new_rules(run: Run) -> None:
    """Who draws finds out the rules; who plays by the mean does not."""
    knows, exact, draws, mean, nothing = (levels[-1] for levels in run("new_rules").values())
    assert (draws - nothing) / (knows - nothing) > 0.9 * (exact - nothing) / (knows - nothing)
    assert mean < nothing + 0.5 * (knows - nothing)


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_tuning(real: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five and ten evaluations what other data sets taught is ahead of this one's process, and that of chance after ten."""
    pytest.importorskip("botorch")
    if not real:
        monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    taught, alone, chance = run("tuning", packs=real).values()
    for after in (5, 10):
        assert taught[after - 1] < 0.7 * alone[after - 1]
    assert alone[9] < chance[9]


@pytest.mark.slow
def test_policies(run: Run) -> None:
    """Twenty attempts improve a policy, ten steps a model more: paired over 64 crafts, by over three standard errors."""
    fixed, adapted, _, planned, known = run("policies").values()
    for better, worse in ((adapted, fixed), (planned, adapted)):
        gain = better - worse
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert (known - planned).mean() < 0.1 * (known - adapted).mean()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_detection(run: Run) -> None:
    """A new object is found, and its edges lie where they should."""
    found = run("detection", packs=True)
    assert found["AP50"].value > 0.4
    assert 0.8 < found["90% edge coverage"].value < 1


@pytest.mark.slow
def test_intents(run: Run) -> None:
    """Five intents of five examples are told apart, and most messages that are of none are said to be."""
    found = run("intents", packs=True)
    assert found["Accuracy inside"].value > 0.95
    assert found["Accuracy outside"].value > 0.8
    assert found["outside AUROC"].value > 0.97
    assert found["ECE"].value < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_translation(run: Run) -> None:
    """Thirty pairs of a new language teach what none before did."""
    rows = run("translation")
    assert rows["adapted"]["NLL"].high < rows["as trained"]["NLL"].low


@pytest.mark.slow
def test_omniglot(run: Run) -> None:
    """After a twentieth of the training most of fifteen characters are read by one drawing each."""
    assert run("omniglot", packs=True, steps=150)["accuracy on known characters"] > 0.5


@pytest.mark.slow
def test_calibration(run: Run) -> None:
    """A temperature mends the confidence and leaves the answers."""
    rows = run("calibration", packs=True)
    assert rows["before"]["Accuracy"].value == rows["after"]["Accuracy"].value
    assert rows["after"]["ECE"].high < rows["before"]["ECE"].low
    assert rows["after"]["NLL"].value < rows["before"]["NLL"].value


@pytest.mark.slow
def test_conformal(run: Run) -> None:
    """Conformal intervals keep to each level within the error of 43 countries; the learner's own are too wide at the low ones."""
    for level, (own, conformal) in run("conformal").items():
        assert conformal.low - 0.05 < level < conformal.high + 0.05
        assert own.low > level or level > 0.85


@pytest.mark.slow
def test_own_learner(run: Run) -> None:
    """Ten lines come within a tenth of a nat of the exact posterior."""
    ours, exact = (row["NLL"].value for row in run("own_learner").values())
    assert exact - 0.02 < ours < exact + 0.1


@pytest.mark.slow
def test_with_arviz(run: Run) -> None:
    """The exact posterior ranks first, five features last."""
    assert list(run("with_arviz").index) == ["exact", "DKT", "ALPaCA, five features"]


@pytest.mark.slow
def test_served_model(run: Run) -> None:
    """A saved learner answers for pigs that were held back: a row for each question, and the band grows with time."""
    found = run("served_model", steps=60)
    assert len(found) == 27
    width = (found["weight 95%"] - found["weight 5%"]).groupby(found["pig"])
    assert (width.last() > width.first()).all()


@pytest.mark.slow
def test_bands(run: Run) -> None:
    """On tasks of two points who is in doubt about the function is better than who is not, and none than the exact posterior."""
    rows = {name: row["NLL"].value for name, row in run("bands", steps=600).items()}
    assert min(rows.values()) == rows["exact posterior"]
    assert rows["DKT"] < rows["MAML"]


def test_what_examples_leave_behind_is_no_part_of_the_checkout() -> None:
    root = EXAMPLES.parent
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("no git checkout")
    written = {
        name for path in EXAMPLES.glob("*.py") for name in re.findall(r'"(\w+(?:\.png|\.html|_run))"', path.read_text())
    }
    assert written == {"compare.html", "distributed_run"} | {f"{path.stem}.png" for path in EXAMPLES.glob("*.py")}
    for name in written:
        place = f"{name}/state" if name.endswith("_run") else name
        assert subprocess.run(["git", "check-ignore", "-q", place], cwd=root, check=False).returncode == 0, name
