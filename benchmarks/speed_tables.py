"""The tables of speed.py, in Markdown: a section for each that has something to show."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from speed_clock import PRODUCT, SIZE
from speed_growth import AXES, exponent
from speed_learners import LEARNERS

RESULTS = Path(__file__).parent / "results"
PRODUCT_FLOPS = 2 * SIZE**3
# Assumptions of the estimate; nothing here was measured.
GPU_RATE = 5e12  # floating-point operations a second that a GPU keeps up on batched convolutions of this size
LAUNCH = 5e-6  # seconds a GPU needs for the smallest kernel
BANDWIDTH, LATENCY = 1e9, 20e-6  # bytes a second and seconds a message, between neighbours in a ring
STEPS, TASKS, PROCESSES = 60_000, 32, 64  # of the papers' run


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def under(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): row for key, row in results.items() if key.startswith(prefix)}


def costs(rows: dict[str, Any], works: Sequence[str]) -> str:
    """A learner a line, the cheapest meta-update first."""
    head = ["learner", *(f"{work}, ms" for work in works), "update in matrix products", "share of the roofline"]
    lines = []
    for name, row in sorted(rows.items(), key=lambda item: item[1]["meta-update"]):
        products = row["meta-update"] / row[PRODUCT]
        share = row["flops"] / PRODUCT_FLOPS / products
        lines.append([name, *(ms(row[work]) for work in works), f"{products:.2f}", f"{share:.1%}"])
    return markdown(head, lines)


def roofline(results: dict[str, Any]) -> str:
    products = [row[PRODUCT] for prefix in ("MLP/", "Conv4/") for row in under(results, prefix).values()]
    middle, machine = statistics.median(products), results["machine/"]
    return (
        f"{machine['threads']} threads, torch {machine['torch']}. One product of two {SIZE:,} x {SIZE:,} matrices took "
        f"{middle:.1f} ms ({min(products):.1f} to {max(products):.1f} over the blocks), "
        f"so the roofline is {PRODUCT_FLOPS / middle / 1e6:.0f} GFLOP/s."
    )


def drawing(results: dict[str, Any]) -> str:
    lines = []
    for name, row in under(results, "drawing/").items():
        rows = under(results, "Conv4/" if name == "Omniglot" else "MLP/")
        if rows:
            cheapest = min(rows, key=lambda one: rows[one]["meta-update"])
            step, draw = rows[cheapest]["meta-update"], row["episode"] / 20
            lines.append([name, ms(draw), f"{cheapest}, {ms(step)}", f"{draw / step:.1%}"])
    return (
        markdown(["source", "drawing an episode, ms", "the cheapest meta-update, ms", "ratio"], lines) if lines else ""
    )


def growth(results: dict[str, Any]) -> str:
    """Exponents; a size in brackets is where the sizes ended because larger ones take seconds."""

    def cell(axis: str, name: str) -> str:
        rows = results.get(f"{axis}/{name}", {})
        if len(rows) < 2:
            return ""
        last = list(rows)[-1]
        end = "" if int(last) == AXES[axis][1][-1] else f" (to {last})"
        return f"{exponent(rows):.2f}{end}"

    lines = [[name, *(cell(axis, name) for axis in AXES)] for name in LEARNERS]
    return markdown(["exponent in", *AXES], (line for line in lines if any(line[1:])))


def parts(results: dict[str, Any]) -> str:
    rows = results.get("DKT/parts", {})
    names = ("whole", "features", "kernel and evidence", "of it Cholesky")
    lines = [[part, *(ms(row[part]) for row in rows.values()), f"{exponent(rows, part):.2f}"] for part in names if rows]
    return markdown(["DKT, ms, for so many points", *rows, "exponent"], lines) if rows else ""


def memory(results: dict[str, Any]) -> str:
    rows = under(results, "memory/")
    added = {name: row["peak"] - row["before"] for name, row in rows.items()}
    few = [(int(name.split()[0]), value) for name, value in added.items() if name.endswith(" 1 slices")]
    order = sorted(rows, key=lambda name: [int(word) for word in name.replace(",", "").split() if word.isdigit()])
    table = markdown(
        ["tasks, slices", "peak of the process, MiB", "of it the updates, MiB"],
        (
            [name.replace(" 1 slices", " 1 slice"), f"{rows[name]['peak']:,.0f}", f"{added[name]:,.0f}"]
            for name in order
        ),
    )
    if len(few) < 2:
        return table if rows else ""
    (low, least), (high, most) = min(few), max(few)
    return f"{table}\n\nIn one slice a further task takes {(most - least) / (high - low):.0f} MiB."


def ratios() -> str:
    """What meta_step.py measured, where its file is there."""
    lines = []
    for network in ("mlp", "conv4"):
        path = RESULTS / f"meta_step_{network}.json"
        if not path.exists():
            continue
        times = json.loads(path.read_text())["ms"]
        fastest = min(times["higher"], times["torchopt"])
        lines += [[network, name, ms(time), f"{fastest / time:.2f}"] for name, time in times.items()]
    return markdown(["network", "library", "ms a meta-update", "times as fast as the faster of the others"], lines)


def rates(results: dict[str, Any]) -> str:
    """Tasks a second, from the meta-updates that were measured."""
    lines = []
    for prefix, tasks in (("MLP/", 25), ("Conv4/", 4)):
        for name, row in under(results, prefix).items():
            lines.append((prefix[:-1], name, 1e3 * tasks / row["meta-update"]))
    picked = [line for line in lines if line[1] in ("MAML", "ABML", "VERSA", "DKT")]
    rows = ([name, network, f"{rate:,.0f}", f"{1e6 / rate / 3_600:,.2f}"] for network, name, rate in picked)
    return markdown(["learner", "network", "tasks a second", "hours for a million tasks"], rows) if picked else ""


def estimate(results: dict[str, Any]) -> str:
    """The papers' run elsewhere: every line is arithmetic on lines above it, in seconds and bytes."""
    path, task = RESULTS / "meta_step_conv4.json", results.get("papers/task")
    if not task or not path.exists():
        return ""
    here = min(time for name, time in json.loads(path.read_text())["ms"].items() if name.startswith("bayesmeta")) / 8e3
    total = STEPS * TASKS
    size = 4 * task["parameters"]
    reduce = 2 * (PROCESSES - 1) * (size / PROCESSES / BANDWIDTH + LATENCY)
    many = total / PROCESSES * (here + reduce)
    arithmetic, launches = TASKS * task["flops"] / GPU_RATE, task["calls"] * LAUNCH
    gpu = STEPS * max(arithmetic, launches)
    rows = [
        ("a task on 2 cores (measured)", "8 tasks of `meta_step.py --network conv4`, over 8", f"{1e3 * here:.0f} ms"),
        ("the run on 2 cores", f"{STEPS:,} steps x {TASKS} tasks x that", f"{total * here / 3_600:.0f} h"),
        (
            "operations of a task (counted)",
            "convolutions and products, both orders",
            f"{task['flops'] / 1e9:.1f} GFLOP",
        ),
        ("the gradient", f"{task['parameters']:,} numbers of 4 bytes", f"{size / 1e6:.2f} MB"),
        (
            f"an all-reduce over {PROCESSES} processes",
            f"2 x {PROCESSES - 1} messages of a {PROCESSES}th of it, "
            f"at {BANDWIDTH / 1e9:.0f} GB/s and {1e6 * LATENCY:.0f} µs each",
            f"{1e3 * reduce:.1f} ms",
        ),
        (
            f"**{PROCESSES} processes of 2 cores**",
            f"{total // PROCESSES:,} steps of {PROCESSES} tasks x (a task + an all-reduce)",
            f"**{many / 3_600:.1f} h**",
        ),
        (
            "a step's arithmetic on a GPU",
            f"{TASKS} tasks at {GPU_RATE / 1e12:.0f} TFLOP/s",
            f"{1e3 * arithmetic:.0f} ms",
        ),
        (
            "a step's kernel launches there",
            f"{task['calls']:,} operations (counted, under vmap) at {1e6 * LAUNCH:.0f} µs",
            f"{1e3 * launches:.0f} ms",
        ),
        ("**one GPU**", f"{STEPS:,} steps x the longer of the two", f"**{gpu / 3_600:.1f} h**"),
    ]
    return markdown(["quantity", "from", ""], rows)


def sections(results: dict[str, Any]) -> dict[str, str]:
    """From a section's name to its text, of those with something to show."""
    small, large = under(results, "MLP/"), under(results, "Conv4/")
    works = ("meta-update", "adaptation", "prediction", "one task served", "evaluation")
    found = {
        "roofline": roofline(results) if small or large else "",
        "learners": costs(small, works) if small else "",
        "conv4": costs(large, ("meta-update", "adaptation", "one task served")) if large else "",
        "drawing": drawing(results),
        "growth": growth(results) if any(under(results, f"{axis}/") for axis in AXES) else "",
        "parts": parts(results),
        "memory": memory(results),
        "ratios": ratios(),
        "rates": rates(results),
        "estimate": estimate(results),
    }
    return {name: text for name, text in found.items() if text}
