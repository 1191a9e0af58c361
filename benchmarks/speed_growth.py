"""How the cost of a meta-update grows with each of its sizes: measurements, exponents and the picture of speed.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_clock import PRODUCT, interleaved, update
from speed_learners import LEARNERS, Size, body, kernel, small
from torch import nn

import bayesmeta as bm

AXES: dict[str, tuple[str, tuple[int, ...], list[str]]] = {  # the field of Size, its values, the learners
    "tasks": ("tasks", (8, 16, 32, 64, 128, 256), list(LEARNERS)),
    "inner steps": (
        "steps",
        (1, 2, 4, 8, 16),
        ["MAML", "FirstOrderMAML", "ImplicitMAML", "ABML", "PLATIPUS", "LEO", "BMAML"],
    ),
    "draws": ("draws", (2, 4, 8, 16, 32), ["ABML", "PLATIPUS", "NeuralProcess", "VERSA", "LEO", "BMAML", "PACOH"]),
    "support points": (
        "points",
        (8, 16, 32, 64, 128, 256),
        ["MAML", "ABML", "NeuralProcess", "VERSA", "LEO", "ALPaCA", "DKT", "ADKF", "LaplaceGP", "PrototypicalNetwork"],
    ),
    "width": ("width", (32, 64, 128, 256, 512), ["MAML", "ABML", "NeuralProcess", "VERSA", "ALPaCA", "DKT"]),
}
CEILING = 1_000.0  # ms: larger sizes are left out once an update is expected to take longer
PARTS = (32, 64, 128, 256, 512, 1_024)
MEMORY = ((4, 1), (8, 1), (16, 1), (32, 1), (32, 8))  # tasks and slices
LAST = 3  # sizes that an exponent is fitted on


def grown(work_of: Callable[[int], dict[str, Callable[[], object]]], values: tuple[int, ...]) -> dict[str, Any]:
    """From each size to its times. One size after the other: memory that a large one gave back would slow a small one."""
    rows: dict[str, Any] = {}
    total: list[float] = []
    for value in values:
        if total and total[-1] * max(2.0, total[-1] / total[-2] if len(total) > 1 else 2.0) > CEILING:
            break
        rows[str(value)] = interleaved(work_of(value), 0.4)
        total.append(sum(time for part, time in rows[str(value)].items() if part != PRODUCT))
    return rows


def growth(axis: str, name: str) -> dict[str, Any]:
    """A learner's meta-update with one size changed."""
    field, values, _ = AXES[axis]

    def work_of(value: int) -> dict[str, Callable[[], object]]:
        learner, tasks = small(name, replace(Size(), **{field: value}))
        return {"meta-update": update(learner, tasks[0])}

    return grown(work_of, values)


def dkt_parts() -> dict[str, Any]:
    """DKT's loss and gradient on 25 tasks of N points, and what of it features, kernel with evidence, and Cholesky take."""

    def work_of(points: int) -> dict[str, Callable[[], object]]:
        size = Size(points=points)
        torch.manual_seed(0)
        given = bm.Sinusoids(batch=size.tasks, shots=points - 1, queries=1, noise=0.1)[0]
        network = body(size).features
        whole, rest = (bm.DKT(features, kernel(), bm.Gaussian()) for features in (network, nn.Identity()))
        embedded = bm.Episode(*(part._replace(x=network(part.x).detach().requires_grad_()) for part in given))
        x = bm.concatenate(*given).x
        matrix = torch.eye(points).repeat(size.tasks, 1, 1).requires_grad_()

        def factor() -> None:
            torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum().backward()

        return {
            "whole": lambda: whole.loss(given).backward(),
            "features": lambda: network(x).sum().backward(),
            "kernel and evidence": lambda: rest.loss(embedded).backward(),
            "of it Cholesky": factor,
        }

    return grown(work_of, PARTS)


def memory(tasks: int, slices: int) -> dict[str, float]:
    """MiB before and at the peak of memory.py's two updates, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), str(tasks), str(slices)]
    before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {"before": float(before), "peak": float(after)}


def exponent(rows: dict[str, Any], part: str = "meta-update") -> float:
    """p of t = a n^p over the largest sizes, t in matrix products of the same rounds, so that the machine's moods cancel."""
    sizes = list(rows)[-LAST:]
    times = [rows[size][part] / rows[size][PRODUCT] for size in sizes]
    return float(np.polyfit(np.log([float(size) for size in sizes]), np.log(times), 1)[0])


COLOURS = {  # of Okabe and Ito, which the colour-blind tell apart; relatives share a colour and differ in the dashes
    "MAML": ("#0072b2", "-"),
    "FirstOrderMAML": ("#0072b2", "--"),
    "ImplicitMAML": ("#0072b2", ":"),
    "ABML": ("#e69f00", "-"),
    "PLATIPUS": ("#d55e00", "-"),
    "BMAML": ("#d55e00", "--"),
    "NeuralProcess": ("#56b4e9", "-"),
    "VERSA": ("#009e73", "-"),
    "LEO": ("#cc79a7", "-"),
    "ALPaCA": ("#8c7b00", "-"),
    "DKT": ("#000000", "-"),
    "ADKF": ("#000000", "--"),
    "LaplaceGP": ("#000000", ":"),
    "PACOH": ("#666666", "-"),
    "PrototypicalNetwork": ("#009e73", "--"),
    "whole": ("#000000", "-"),
    "kernel and evidence": ("#d55e00", "-"),
    "of it Cholesky": ("#0072b2", "--"),
    "features": ("#009e73", "-"),
}
NAMED = ("MAML", "ImplicitMAML", "ABML", "PLATIPUS", "NeuralProcess", "VERSA", "LEO", "BMAML", "ALPaCA", "DKT", "ADKF")


def lines_of(results: dict[str, Any], axis: str) -> dict[str, tuple[list[int], list[float]]]:
    """What a panel shows: from a line's name to its sizes and its times in ms."""
    if axis == "points, DKT":
        rows = results.get("DKT/parts", {})
        parts = ("whole", "features", "kernel and evidence", "of it Cholesky") if rows else ()
        return {part: ([int(size) for size in rows], [row[part] for row in rows.values()]) for part in parts}
    found = {name: results[f"{axis}/{name}"] for name in AXES[axis][2] if f"{axis}/{name}" in results}
    return {
        name: ([int(size) for size in rows], [row["meta-update"] for row in rows.values()])
        for name, rows in found.items()
    }


def spread(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Heights moved apart until neighbours are a gap from each other, none further than it must."""
    names = sorted(heights, key=lambda name: heights[name])
    groups: list[list[str]] = []
    centre: list[float] = []
    for name in names:
        groups.append([name])
        centre.append(heights[name])
        while len(groups) > 1 and centre[-1] - centre[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            merged = groups[-2] + groups[-1]
            groups[-2:], centre[-2:] = [merged], [sum(heights[one] for one in merged) / len(merged)]
    return {
        name: middle + gap * (number - (len(group) - 1) / 2)
        for group, middle in zip(groups, centre, strict=True)
        for number, name in enumerate(group)
    }


def picture(results: dict[str, Any], path: Path) -> None:
    """A panel for each size, both axes logarithmic; each line is named at its end, a grey slope shows what is linear."""
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(2, 3, figsize=(13, 8.4), layout="constrained")
    for pane, axis in zip(panes.flat, [*AXES, "points, DKT"], strict=True):
        lines = lines_of(results, axis)
        if not lines:
            pane.set_axis_off()
            continue
        named = {name for name in lines if axis != "tasks" or name in NAMED}
        sizes = max((line[0] for line in lines.values()), key=len)
        low, high = (pick(time for _, times in lines.values() for time in times) for pick in (min, max))
        pane.set(xscale="log", yscale="log", xlim=(sizes[0] * 0.85, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.62))
        pane.set(ylim=(low / 1.3, high * 1.3), xticks=sizes, xticklabels=sizes, title=f"ms against {axis}")
        pane.plot(sizes, [low * size / sizes[0] for size in sizes], color="#bbbbbb", linewidth=5, alpha=0.5, zorder=0)
        for name, (numbers, times) in lines.items():
            colour, dashes = COLOURS.get(name, ("#cccccc", "-")) if name in named else ("#cccccc", "-")
            pane.plot(
                numbers,
                times,
                dashes,
                color=colour,
                marker="o",
                markersize=3,
                linewidth=1.5,
                zorder=1 + (name in named),
            )
        gap = np.log(high / low * 1.69) / 24
        ends = spread({name: float(np.log(lines[name][1][-1])) for name in named}, gap)
        for name, height in ends.items():
            rows = results["DKT/parts"] if axis == "points, DKT" else results[f"{axis}/{name}"]
            slope = (
                f"  n^{exponent(rows, name if axis == 'points, DKT' else 'meta-update'):.1f}" if len(rows) > 1 else ""
            )
            pane.annotate(
                name + slope,
                (lines[name][0][-1], lines[name][1][-1]),
                (sizes[-1] * (sizes[-1] / sizes[0]) ** 0.05, float(np.exp(height))),
                color=COLOURS[name][0],
                fontsize=8,
                va="center",
                arrowprops={"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            )
        pane.minorticks_off()
        pane.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "Cost of a meta-update, and its exponent over the three largest sizes (grey band: linear)", fontsize=12
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
