"""What stands in the cells of `one_table.py`: a function a column, which reads what its benchmark has kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesmeta.metrics import NLL, Coverage
from bayesmeta.tasks.longitudinal import FAMILIES
from benchmarks.accuracy import autofit, control_tables, games, longitudinal
from benchmarks.accuracy.table_baselines import TABLE_BASELINES
from benchmarks.store import load

RESULTS = Path(__file__).parent / "results"
Cells = dict[str, str]  # what a learner is called in a file of results: what stands in its cell


def results(name: str) -> dict[str, Any]:
    return load(RESULTS / f"{name}.json")


def together(*texts: str) -> str:
    """Figures of a cell, which a browser does not part."""
    return "\u00a0·\u00a0".join(texts)


def cell(*values: float, digits: int = 3) -> str:
    return together(*(f"{value:.{digits}f}" for value in values))


def linked(text: str, section: str) -> str:
    """A cell of another protocol than its column's."""
    return f"[{text}]({section})"


def by_name(runs: dict[str, Any]) -> dict[str, list[Any]]:
    """Runs of "name; seed", by name."""
    found: dict[str, list[Any]] = {}
    for key, run in runs.items():
        found.setdefault(key.rsplit("; ", 1)[0], []).append(run)
    return found


def median(runs: Iterable[Any], *path: str) -> float:
    values = []
    for run in runs:
        for step in path:
            run = run[step]
        values.append(run)
    return statistics.median(values)


def tables() -> Cells:
    """In how many families the NLL is lower than every baseline's, or a baseline the best of them, and the mean coverage."""

    def shared_out(runs: dict[tuple[str, str], Any], rivals: Iterable[str], names: Iterable[str], value: Any) -> Cells:
        rivals, found = list(rivals), {}
        for name in names:
            wins = sum(value(runs[name, f], 0) <= min(value(runs[rival, f], 0) for rival in rivals) for f in FAMILIES)
            found[name] = together(str(wins), cell(statistics.mean(value(runs[name, f], 1) for f in FAMILIES)))
        return found

    def of_seeds(runs: list[Any], which: int) -> float:
        metric = (NLL(), Coverage(0.9))[which]
        rows = [torch.tensor(run["test"][str(n)][metric.name]).sum(0) for run in runs for n in longitudinal.SHOTS]
        return float(metric.reduce(torch.stack(rows).sum(0)))

    kept = results("longitudinal")
    earlier = {
        (name, family): [kept[f"{name}; {family}; {seed}"] for seed in range(longitudinal.SEEDS)]
        for name in longitudinal.NAMES
        for family in FAMILIES
    }
    kept = results("autofit")
    later = {
        (name, family): [kept[f"{name}; {family}; {seed}"] for seed in autofit.SEEDS]
        for name in autofit.NAMES
        for family in FAMILIES
    }
    found = shared_out(earlier, longitudinal.BASELINES, longitudinal.LEARNERS, of_seeds)
    one_call = shared_out(
        later, TABLE_BASELINES, autofit.NAMES, lambda runs, which: autofit.value(runs, ("NLL", "coverage")[which])
    )
    return found | {name: linked(text, "autofit.md#how-well-it-does") for name, text in one_call.items()}


def sinusoids() -> Cells:
    runs = results("sinusoid_oracle")
    exact = runs["oracle"]["figures"]["5, in"]
    found = {"exact": cell(0.0, exact["90% coverage"])}
    for key, run in runs.items():
        if key.endswith(", 5"):
            row = run["figures"]["5, in"]
            found[key.removesuffix(", 5")] = cell(row["NLL"] - exact["NLL"], row["90% coverage"])
    seeds = {key: run for key, run in results("kernels").items() if not key.endswith("; 0")}  # 0 chose settings
    for name, rows in by_name(seeds).items():
        if "in: gap" in rows[0]:
            text = cell(median(rows, "in: gap"), median(rows, "in: coverage"))
        else:
            text = f"sin_20: NLL {-median(rows, 'log-likelihood'):.3f}"
        found[name] = linked(text, "#meta-learned-kernels")
    return found


def recalibrated(kind: str, error: str) -> Cells:
    rows = {key.split("; ")[0]: run for key, run in results("calibration").items() if key.endswith(f"; {kind}")}
    return {n: cell(row["calibrated"]["NLL"][0], row["calibrated"][error][0]) for n, row in rows.items()}


def switching() -> Cells:
    runs = {key.split(": ")[1]: run for key, run in results("streams_regression").items() if key.startswith("switch: ")}
    return {name: cell(*(run["ahead"][figure][0] for figure in ("NLL", "90% coverage"))) for name, run in runs.items()}


def swing_up() -> Cells:
    runs, found = results("control"), {}
    for name, label, who, way in (
        ("pendulum", "ALPaCA", "ALPaCA", "50"),
        ("pendulum", "MAML", "MAML", "50"),
        ("pendulum", "scratch", "scratch", "50"),
        ("flips", "ALPaCA, with changes", "Changepoints", "online"),
    ):
        both = control_tables.closed(runs, name, who, way)
        if both is None:
            raise KeyError(f"no runs of {name}; {who}; {way} in results/control.json")
        found[label] = both[1].split(" ")[0] if name == "pendulum" else f"a motor that turns: {both[1].split(' ')[0]}"
    return found


def bandits() -> Cells:
    runs = by_name(results("bandits"))
    return {n: cell(np.mean([run["regret"]["Thompson"] for run in rows]), digits=1) for n, rows in runs.items()}


def optimisation() -> Cells:
    found = {}
    for name, runs in by_name(results("optimisation")).items():
        regret = np.mean([row[9] for run in runs for row in run["regret"]])
        covered = [share for run in runs for share in run["coverage"]]
        found[name] = cell(regret, *([np.mean(covered)] if covered else []))
    return found


def times(network: str) -> Cells:
    rows = {k.split(": ")[1]: run for k, run in results("speed").items() if k.startswith(f"{network}: ")}
    return {name: cell(row["meta-update"], row["one task served"], digits=1) for name, row in rows.items()}


def times_of_vectors() -> Cells:
    runs = [run["CPU seconds"] for key, run in results("autofit").items() if key.startswith("autofit; ")]
    call = f"a call: {statistics.median(runs):.0f} s"
    return times("MLP") | {"autofit": linked(call, "autofit.md#how-well-it-does")}


def characters() -> Cells:
    rows = {key.split("; ")[0]: run for key, run in results("omniglot").items() if key.endswith("; group")}
    found = {}
    for name, run in rows.items():
        if raw := run.get("5-way 1-shot", {}).get("raw"):
            found[name] = together(f"{100 * raw['Accuracy'][0]:.1f}", cell(raw["NLL"][0], raw["ECE"][0]))
    return found


def masks() -> Cells:
    runs, test = by_name(results("segmentation")), "new classes, 5-shot"
    found = {name: cell(median(rows, test, "IoU"), median(rows, test, "ECE")) for name, rows in runs.items()}
    for other in ("no adaptation", "fine-tuning"):
        rows = runs["ANIL on a U-Net"]
        found[other] = cell(median(rows, other, test, "IoU"), median(rows, other, test, "ECE"))
    return found


def boxes() -> Cells:
    runs = {key.removeprefix("collages; "): run for key, run in results("detection").items() if "collages" in key}
    found = {}
    for name, rows in by_name(runs).items():
        found[name] = cell(median(rows, "5-shot", "AP50"), median(rows, "5-shot", "90% edge coverage"))
    return found


def intents() -> Cells:
    protocol = "CLINC150, 5-way 5-shot; "
    rows = {key.removeprefix(protocol): run["test"] for key, run in results("text").items() if key.startswith(protocol)}
    return {n: cell(*(row[figure][0] for figure in ("Accuracy", "NLL", "ECE"))) for n, row in rows.items()}


def translation() -> Cells:
    shown = {"joint; unadapted": "joint", "joint; fine-tuned": "joint, fine-tuned"}
    names = ("first-order MAML", "Reptile", "ANIL")
    shown |= {f"{name}; gradient steps": name for name in names}
    runs = results("translation")
    return {name: cell(runs[key]["token NLL"][0], runs[key]["ECE"]) for key, name in shown.items()}


def answers() -> Cells:
    runs = results("answers")
    found = {
        name: cell(runs[f"sentences; {name}"]["Accuracy"][0], runs[f"sentences; {name}"]["ECE"][0])
        for name in ("MAML", "Reptile", "joint")
    }
    rows: dict[str, list[Any]] = {}
    for key, run in results("slots").items():
        if key.startswith("ANIL; "):
            for name, row in run["rows"].items():
                rows.setdefault(name, []).append([row["token F1"][0], row["ECE"][0]])
    slots = {name: f"slots: {cell(*np.mean(each, 0))}" for name, each in rows.items()}
    return found | {name: linked(text, "translation.md#slots") for name, text in slots.items()}


def streams() -> Cells:
    def final(run: Any) -> str:
        figures = [run["final"][which] for which in ("Accuracy", "ECE")]
        return cell(*(figure[0] if isinstance(figure, list) else figure for figure in figures))

    kept = results("streams")
    found = {name: final(kept[f"{name}: 600 x 15"]) for name in ("class Gaussians", "prototypes")}
    found["OML"] = linked(final(results("streams_ordered")["OML"]), "#characters-by-gradient-steps")
    for key, run in results("streams_pictures").items():
        if key.startswith("permuted, "):
            text = f"digits: {final(run)}"
            found[key.removeprefix("permuted, ")] = linked(text, "#permuted-turned-and-split-digits")
    last = results("streams_text")["MAML, further steps"]["first to last"]
    found["MAML, further steps"] = linked(f"intents: {final(last)}", "#intents-domain-after-domain")
    return found


def rules() -> Cells:
    runs, seeds = results("games"), list(range(games.SEEDS))
    return {name: cell(games.shares(runs, name, "draws", seeds)[0, -1]) for name in ("exact", *games.LEARNERS)}
