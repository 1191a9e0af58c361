"""The tables and the picture of what `speed.py` has measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.cost.speed_learners import GROWTH, LEARNERS
from benchmarks.store import load

HERE = Path(__file__).parents[1]
RATIOS, DOCS = HERE / "results" / "ratios.json", HERE.parent / "docs"

MARKS = ("<!-- speed.py -->", "<!-- end of speed.py -->")


def exponent(values: list[int], costs: list[float]) -> float:
    """p of t = a n^p, by least squares over the three largest sizes, where what does not grow weighs least."""
    return float(np.polyfit(np.log(values[-3:]), np.log(costs[-3:]), 1)[0])


def under(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): row for name, row in results.items() if name.startswith(prefix)}


def table(results: dict[str, Any]) -> str:
    columns = ["meta-update", "adaptation", "prediction", "one task served", "evaluation", "drawing an episode"]
    lines = []
    for prefix, head in (("MLP: ", "MLP, 25 sinusoids"), ("Conv4: ", "Conv4, 4 tasks of drawings")):
        lines += [f"### {head}\n", f"| ms | {' | '.join(columns)} | update in matrix products |", "|---" * 8 + "|"]
        for name, row in under(results, prefix).items():
            cells = " | ".join(f"{row[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {cells} | {row['meta-update'] / row['matrix product']:.1f} |")
        lines.append("")
    head = ["", "ms a meta-update", "times as fast", "share of a matrix product's rate"]
    lines += ["### Beside other libraries\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for setting, row in load(RATIOS).items():
        best = min(row["ms"][name] for name in ("higher", "torchopt", "loop over ExactGP") if name in row["ms"])
        for name, ms in row["ms"].items():
            share = row.get("share of a matrix product's rate", {}).get(name)
            lines.append(
                f"| {setting}: {name} | {ms:.1f} | {best / ms:.2f} | {'' if share is None else f'{share:.0%}'} |"
            )
    lines.append("")
    axes = list(GROWTH)[:-1]
    lines += [
        "### How costs grow\n",
        f"| exponents: time, memory | {' | '.join(axes)} |",
        "|---" * (1 + len(axes)) + "|",
    ]
    for name in LEARNERS:
        cells = [both(GROWTH[axis][0], row) if (row := results.get(f"{axis}: {name}")) else "" for axis in axes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    values = GROWTH["many points"][0]
    lines += [
        "",
        f"| ms for so many points | {' | '.join(map(str, values))} | exponents |",
        "|---" * (2 + len(values)) + "|",
    ]
    for name, row in under(results, "many points: ").items():
        cells = " | ".join(f"{ms:.0f}" for ms in row["ms"])
        lines.append(f"| {name} | {cells} | {both(values, row)} |")
    lines += [
        "\n### In slices\n",
        "| Conv4, 8 tasks of 15 queries a class | ms in one slice | in 8 | MiB in one slice | in 8 |",
        "|---" * 5 + "|",
    ]
    for name, row in under(results, "slices: ").items():
        lines.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in row['ms'] + row['MiB'])} |")
    lines += ["\n### What compiling gains\n"]
    lines += ["| MLP, 25 sinusoids | ms | compiled | times as fast | compiled as | s to compile |"]
    lines.append("|---" * 6 + "|")
    for name, row in under(results, "compiled: ").items():
        how = "one graph" if row["whole"] else "parts"
        gain = row["eager"] / row["compiled"]
        lines.append(
            f"| {name} | {row['eager']:.1f} | {row['compiled']:.1f} | {gain:.1f} | {how} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def both(values: list[int], row: dict[str, list[float]]) -> str:
    """The exponents of time, in matrix products, and of memory."""
    times = [time / unit for time, unit in zip(row["ms"], row["matrix product"], strict=True)]
    return f"{exponent(values, times):.2f}, {exponent(values, row['MiB']):.2f}"


def picture(results: dict[str, Any]) -> None:
    axes = list(GROWTH)[:-1]
    figure, panes = plt.subplots(2, len(axes), figsize=(12, 6.6), layout="constrained", sharex="col")
    styles = [f"{line}C{colour}" for line in ("-", "--") for colour in range(10)]
    for column, name in zip(panes.T, axes, strict=True):
        values, learners = GROWTH[name]
        shown = learners if name != "tasks" else ["MAML", "ABML", "PLATIPUS", "VERSA", "ALPaCA", "DKT"]
        for pane, unit in zip(column, ("ms", "MiB"), strict=True):
            costs = {learner: results[f"{name}: {learner}"][unit] for learner in shown}
            for learner, row in costs.items():
                style = styles[list(LEARNERS).index(learner)]
                pane.plot(values, row, style, marker="o", markersize=3, label=learner)
            low = min(row[0] for row in costs.values())
            pane.plot(values, [low * value / values[0] for value in values], "k:", linewidth=1, label="linear")
            pane.set(xscale="log", yscale="log", xticks=values, xticklabels=values)
            pane.minorticks_off()
        column[1].set_xlabel(name)
    panes[0, 0].set_ylabel("ms a meta-update")
    panes[1, 0].set_ylabel("MiB at its peak")
    found = [pane.get_legend_handles_labels() for pane in panes.flat]
    lines = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(DOCS / "growth_of_cost.png", dpi=125)


def write(results: dict[str, Any]) -> None:
    """The picture, and the tables in docs/performance.md, between their marks."""
    picture(results)
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n\n{table(results)}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table(results))
