"""The table that opens docs/results.md: every learner on every application, from the results that are kept.

    python benchmarks/one_table.py  # writes it between its marks, and prints it

A column says what its figures are, which section of the docs has the protocol, which program in benchmarks/ makes them, and which
function of `one_table_cells.py` reads them. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import one_table_cells as cells
from benchmarks.one_table_cells import Cells

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
MARKS = ("<!-- one_table.py -->", "<!-- end of one_table.py -->")

# What is shown, and what the files of results call it.
LEARNERS = {
    "MAML": ("MAML", "MAML, a linear layer", "MAML, further steps"),
    "FirstOrderMAML": ("first-order MAML", "first-order MAML on a U-Net"),
    "ANIL": ("ANIL", "ANIL on a U-Net"),
    "MetaSGD": ("Meta-SGD",),
    "Reptile": ("Reptile",),
    "ImplicitMAML": ("implicit MAML",),
    "BMAML": ("BMAML",),
    "PLATIPUS": ("PLATIPUS",),
    "ABML": ("ABML",),
    "LEO": ("LEO",),
    "VERSA": ("VERSA",),
    "ConditionalNeuralProcess": ("CNP", "conditional neural process"),
    "ConditionalNeuralProcess, transformer": ("TNP",),
    "NeuralProcess": ("NP", "neural process", "neural process (mean)"),
    "NeuralProcess, attentive": ("ANP", "attentive neural process"),
    "ALPaCA": ("ALPaCA",),
    "OwnScale(ALPaCA)": ("ALPaCA, own scale",),
    "DKT, DKTClassifier": (
        "DKT",
        "DKT, linear",
        "DKT, linear kernel",
        "DKT with a learned mean",
        "spectral kernel on x",
    ),
    "ADKL": ("ADKL",),
    "ADKF": ("ADKF",),
    "PACOH": ("PACOH", "PACOH, variational", "PACOH, SVGD, kernel on features"),
    "PACOHNN": ("PACOH-NN", "PACOH-NN, SVGD"),
    "PolyaGammaGP": ("Pólya-Gamma GP", "one-vs-each Pólya-Gamma GP"),
    "LaplaceGP": ("Laplace GP",),
    "LaplaceHead": ("Laplace head on learned numbers",),
    "PrototypicalNetwork": ("prototypical networks", "prototypes", "prototypes on a U-Net"),
    "GeMCL": ("class Gaussians",),
    "OML": ("OML",),
    "LaMAML": (),
    "MER": (),
    "ExperienceReplay": ("experience replay",),
    "VCL": ("VCL",),
    "OnlineLaplace": ("online Laplace (EWC)",),
    "Changepoints(ALPaCA)": ("ALPaCA, with changes",),
    "autofit": ("autofit",),
}
OTHERS = {
    "*the exact answer*": ("exact", "exact Bayes"),
    "*mixed effects*": ("mixed effects",),
    "*boosting*": ("boosting",),
    "*each task alone: a process or network*": ("GP per task", "process from scratch", "scratch"),
    "*logistic regression*": (
        "logistic regression",
        "logistic regression on the features of ANIL",
    ),
    "*the nearest centroid, recalibrated*": ("nearest centroid, fitted temperature",),
    "*RGPE*": ("RGPE",),
    "*one network for all tasks*": ("joint", "no adaptation", "all parts at once"),
    "*one network, fine-tuned*": ("joint, fine-tuned", "fine-tuning"),
    "*chance*": ("random",),
}
CLASSES_ALONE = {"PolyaGammaGP", "LaplaceGP", "LaplaceHead", "PrototypicalNetwork", "GeMCL"}
NUMBERS_ALONE = {
    "ALPaCA",
    "OwnScale(ALPaCA)",
    "ADKL",
    "ADKF",
    "PACOH",
    "PACOHNN",
    "Changepoints(ALPaCA)",
    "autofit",
}


@dataclass(frozen=True)
class Column:
    """An application."""

    head: str
    figures: str
    section: str  # of docs/, where the protocol is
    program: str  # in benchmarks/accuracy, or speed.py in benchmarks/cost
    cells: Callable[[], Cells]


NUMBERS = (
    Column(
        "26 real tables",
        "families won · coverage of 90 %",
        "#which-learner-for-real-tasks",
        "longitudinal.py",
        cells.tables,
    ),
    Column(
        "Noisy sinusoids, 5 points",
        "nats above exact Bayes · coverage of 90 %",
        "#sinusoids-with-noise-beside-the-exact-bayes-answer",
        "sinusoid_oracle.py",
        cells.sinusoids,
    ),
    Column(
        "The same after 300 steps, recalibrated",
        "NLL · quantile calibration error",
        "#recalibration-conformal-regions-and-what-evaluation-costs",
        "calibration.py",
        lambda: cells.recalibrated("real", "quantile calibration error"),
    ),
    Column(
        "Tasks that switch unannounced",
        "NLL of the next point · coverage of 90 %",
        "#tasks-that-switch-or-drift",
        "streams_regression.py",
        cells.switching,
    ),
    Column(
        "Swing-up after 50 steps",
        "share of the gap closed",
        "deciding.md#a-robot-plans-under-what-was-learned",
        "control.py",
        cells.swing_up,
    ),
    Column(
        "Bandits of ten arms",
        "regret of 50 pulls",
        "deciding.md#a-bandit-arms-that-tell-of-each-other",
        "bandits.py",
        cells.bandits,
    ),
    Column(
        "Tuning a classifier",
        "regret after 10 · coverage of 90 %",
        "deciding.md#an-optimiser-botorch-on-a-meta-learned-model",
        "optimisation.py",
        cells.optimisation,
    ),
    Column(
        "Time, MLP",
        "ms a meta-update of 25 tasks · a task served",
        "performance.md#every-learner",
        "speed.py",
        cells.times_of_vectors,
    ),
)
CLASSES = (
    Column(
        "Omniglot, 5-way 1-shot",
        "accuracy, % · NLL · ECE",
        "#omniglot-one-drawing-of-each-character",
        "omniglot.py",
        cells.characters,
    ),
    Column(
        "Clouds in the plane after 300 steps, recalibrated",
        "NLL · ECE",
        "#recalibration-conformal-regions-and-what-evaluation-costs",
        "calibration.py",
        lambda: cells.recalibrated("classes", "ECE"),
    ),
    Column("Masks by 5 pictures", "IoU · ECE", "pictures.md#which-learner", "segmentation.py", cells.masks),
    Column(
        "Boxes by 5 pictures",
        "AP50 · coverage of 90 % edges",
        "pictures.md#boxes",
        "detection.py",
        cells.boxes,
    ),
    Column("Intents, 5-way 5-shot", "accuracy · NLL · ECE", "text.md#what-to-take", "text.py", cells.intents),
    Column("Translation", "NLL a token · ECE", "translation.md#translation", "translation.py", cells.translation),
    Column(
        "Which sentence answers",
        "accuracy · ECE; slots: token F1 · ECE",
        "translation.md#answers",
        "answers.py",
        cells.answers,
    ),
    Column(
        "600 characters in a stream",
        "accuracy · ECE",
        "#characters-one-after-the-other",
        "streams.py",
        cells.streams,
    ),
    Column(
        "Games of new rules",
        "share of the gap closed",
        "deciding.md#a-game-rules-that-are-found-out-by-playing",
        "games.py",
        cells.rules,
    ),
    Column(
        "Time, Conv4",
        "ms a meta-update of 4 tasks · a task served",
        "performance.md#every-learner",
        "speed.py",
        lambda: cells.times("Conv4"),
    ),
)


def half(columns: tuple[Column, ...], title: str, strangers: set[str]) -> list[str]:
    """A table of some columns: all learners, those without a figure in a row together, and others where they have one."""
    found = [column.cells() for column in columns]
    lines = [f"| {title} | " + " | ".join(f"[{c.head}]({c.section}): {c.figures}" for c in columns) + " |"]
    lines += [
        "|---" * (len(columns) + 1) + "|",
        "| *program* | " + " | ".join(f"`{c.program}`" for c in columns) + " |",
    ]
    without: dict[str, list[str]] = {"–": [], "n/a": []}
    for shown, names in (LEARNERS | OTHERS).items():
        row = [next((figures[name] for name in names if name in figures), "") for figures in found]
        if any(row):
            lines.append(f"| {shown} | {' | '.join(text or '–' for text in row)} |")
        elif shown in LEARNERS:
            without["n/a" if shown in strangers else "–"].append(shown)
    lines += [f"| {', '.join(names)} |" + f" {why} |" * len(columns) for why, names in without.items()]
    return lines


def table() -> str:
    return "\n".join([*half(NUMBERS, "numbers", CLASSES_ALONE), "", *half(CLASSES, "classes", NUMBERS_ALONE)])


def write() -> None:
    before, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table())


if __name__ == "__main__":
    write()
