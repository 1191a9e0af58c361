"""How long a click in the playground takes, as its page sees it in a headless Chromium: from the button's press to the new bands.

    python benchmarks/cost/play.py              # trains the six learners, a minute or two, then clicks; 20 tasks of five points
    python benchmarks/cost/play.py --rounds 2 --effort 0.01  # a smoke test
    python benchmarks/cost/play.py --table      # prints what is there

All six learners answer each click: adaptation, band, the two parts of the doubt and eight functions at 121 places each.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch

from bayesmeta.play.learners import RECIPES, trained
from bayesmeta.play.server import Playground
from benchmarks.browser import Browser
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "play.json"
PLACES = [(0.2, 0.3), (0.4, 0.75), (0.55, 0.6), (0.75, 0.2), (0.9, 0.4)]
WATCH = """
addEventListener("mousedown", () => { window.began = performance.now(); }, true);
const plain = draw;
draw = () => { plain(); requestAnimationFrame(() => { window.drawn = performance.now(); }); };
"""


def clicked(browser: Browser, number: int, u: float, v: float) -> float:
    """Milliseconds from the press of a button to the frame after the answer to the point."""
    left, top, width, height = browser.evaluate(
        "(() => { const b = document.querySelector('.plot').getBoundingClientRect(); "
        "return [b.left, b.top, b.width, b.height] })()"
    )
    browser.evaluate("window.drawn = 0")
    browser.click(left + u * width, top + v * height)
    browser.until(f"points.length === {number} && !asking")
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found: float = browser.evaluate("drawn - began")
    return found


def run(rounds: int, effort: float) -> dict[str, Any]:
    """Trains the learners and clicks `rounds` tasks of five points."""
    playground = Playground()
    seconds = {}
    for recipe in RECIPES:
        began = time.perf_counter()
        playground.learners[recipe.name] = recipe.note, trained(recipe, effort=effort)
        seconds[recipe.name] = time.perf_counter() - began
        print(f"{recipe.name}: trained in {seconds[recipe.name]:.1f} s", flush=True)
    threading.Thread(target=playground.serve_forever, daemon=True).start()
    times: list[list[float]] = [[] for _ in PLACES]
    with Browser(playground.url) as browser:
        browser.until(f"panels.size === {len(RECIPES)} && answer && !asking")
        browser.evaluate(WATCH)
        for _ in range(rounds):
            for number, place in enumerate(PLACES, 1):
                times[number - 1].append(clicked(browser, number, *place))
            browser.evaluate("$('reset').click()")
            browser.until("points.length === 0 && !asking")
    playground.shutdown()
    return {"training (s)": seconds, "ms": times, "effort": effort, "threads": torch.get_num_threads()}


def table(result: dict[str, Any]) -> str:
    lines = ["| points | ms a click: median | highest |", "|---|---|---|"]
    for number, row in enumerate(result["ms"], 1):
        lines.append(f"| {number} | {statistics.median(row):.0f} | {max(row):.0f} |")
    total = sum(result["training (s)"].values())
    return "\n".join(
        [*lines, f"\ntraining: {total:.0f} s in all, {result['threads']} threads, effort {result['effort']:g}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        keep(RESULTS, platform.machine(), run(arguments.rounds, arguments.effort))
    for machine, result in load(RESULTS).items():
        print(f"{machine}\n{table(result)}")


if __name__ == "__main__":
    main()
