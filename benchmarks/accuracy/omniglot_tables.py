"""The tables of omniglot.py, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.accuracy.omniglot_learners import ANY_WAYS, RUNS

PAPERS = {  # per cent, 5-way 1-shot, 5-way 5-shot, 20-way 1-shot, 20-way 5-shot; 64 channels, transductive but where noted
    "MAML": ("98.7", "99.9", "95.8", "98.9"),
    "MAML of 20 ways": ("", "", "95.8", "98.9"),
    "first-order MAML": ("98.3", "99.2", "89.4", "97.9"),
    "Meta-SGD": ("99.5", "99.9", "95.9", "99.0"),
    "Reptile": ("97.7 (inductive 95.4)", "99.5 (98.9)", "89.4 (88.1)", "97.1 (96.7)"),
    "implicit MAML": ("99.2", "99.7", "94.5", "98.7"),
    "prototypical networks": ("98.8", "99.7", "96.0", "98.9"),
    "VERSA": ("99.7", "99.8", "97.7", "98.8"),
    "DKT": ("96.0 to 96.7 (a re-run)", "", "", ""),
}

TASKS = [f"{ways}-way {shots}-shot" for ways, shots in ANY_WAYS]


def interval(estimate: Sequence[float], factor: float = 1.0, digits: int = 3) -> str:
    value, low, high = (factor * number for number in estimate)
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(results: dict[str, Any]) -> str:
    """Accuracy beside the papers', calibration, doubt about strangers, and Lake's runs, in Markdown."""
    learners = list(dict.fromkeys(name.split("; ")[0] for name in RUNS))
    lines = ["| learner | task | inductive, % | transductive, % | papers, % |", "|---|---|---|---|---|"]
    for learner in learners:
        group, batch = (results.get(f"{learner}; {norm}", {}) for norm in ("group", "batch"))
        for task, paper in zip(TASKS, PAPERS.get(learner, [""] * len(TASKS)), strict=True):
            cells = [interval(row[task]["raw"]["Accuracy"], 100, 1) if task in row else "" for row in (group, batch)]
            if any(cells):
                lines.append(f"| {learner} | {task} | {' | '.join(cells)} | {paper} |")
    heads = "NLL | NLL, calibrated | ECE | ECE, calibrated | minutes of one core | steps x tasks | peak MiB"
    lines += ["", f"| learner | normalisation | task | {heads} |", "|---" * 10 + "|"]
    for name in (name for name in RUNS if name in results):
        row = results[name]
        for task in (key for key in row if key.endswith("-shot")):
            cells = [interval(row[task][kind][key]) for key in ("NLL", "ECE") for kind in ("raw", "calibrated")]
            how = f"{row['seconds'] / 60:.1f} | {row['steps']} x {row['batch']}{', from prototypes' * row['start']}"
            lines.append(
                f"| {' | '.join(name.split('; '))} | {task} | {' | '.join(cells)} | {how} | {row['peak MiB']:.0f} |"
            )
    kinds = [f"{kind}, {score}" for kind in ("other alphabets", "MNIST") for score in ("epistemic", "total")]
    lines += ["", f"| AUROC against known characters | {' | '.join(kinds)} |", "|---" * 5 + "|"]
    for name in (name for name in RUNS if "strangers" in results.get(name, {})):
        cells = [f"{results[name]['strangers'][kind]:.3f}" for kind in kinds]
        lines.append(f"| {name.split('; ')[0]} | {' | '.join(cells)} |")
    lines += ["", "| Lake's 20 runs | accuracy, % | NLL | ECE |", "|---|---|---|---|"]
    for name in (name for name in RUNS if "one-shot runs" in results.get(name, {})):
        found = results[name]["one-shot runs"]
        cells = [interval(found["Accuracy"], 100, 1), interval(found["NLL"]), interval(found["ECE"])]
        lines.append(f"| {name.split(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)
