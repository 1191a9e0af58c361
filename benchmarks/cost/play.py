"""How long a click in the playground takes, as its page sees it in a headless Chromium: from the button's press to the new bands.

    python benchmarks/cost/play.py              # trains the six learners, a minute or two, then clicks; 20 tasks of five points
    python benchmarks/cost/play.py --rounds 2 --effort 0.01  # a smoke test
    python benchmarks/cost/play.py --picture docs/play.png   # and a picture of a hidden task
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


def draw(browser: Browser, path: Path) -> None:
    """A picture of the page with five points of a hidden task, its curve and functions."""
    browser.evaluate("fetched('/task?seed=9').then(clear)")
    browser.until("task && !asking && points.length === 0")
    for number in range(1, 6):
        browser.evaluate("$('next').click()")
        browser.until(f"points.length === {number} && !asking")
    browser.evaluate("$('draws').click(), $('truth').click()")
    browser.picture(path)


def processor(playground: Playground) -> float:
    """Milliseconds of processor time of an answer to five points, which other programs disturb less."""
    began = time.process_time()
    playground.predict([(-3.0, 2.0), (-1.0, -3.0), (0.5, -1.5), (2.5, 3.5), (4.0, 1.0)])
    return 1e3 * (time.process_time() - began)


def run(rounds: int, effort: float, picture: Path | None) -> dict[str, Any]:
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
        if picture:
            draw(browser, picture)
    playground.shutdown()
    return {
        "cpu ms": [processor(playground) for _ in range(rounds)],
        "training (s)": seconds,
        "ms": times,
        "effort": effort,
        "threads": torch.get_num_threads(),
    }


def table(result: dict[str, Any]) -> str:
    lines = ["| points | ms a click: median | highest |", "|---|---|---|"]
    for number, row in enumerate(result["ms"], 1):
        lines.append(f"| {number} | {statistics.median(row):.0f} | {max(row):.0f} |")
    total = sum(result["training (s)"].values())
    lines += [
        f"\n{statistics.median(result['cpu ms']):.0f} ms of processor time for an answer to five points",
        f"training: {total:.0f} s in all, {result['threads']} threads, effort {result['effort']:g}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--picture", type=Path, help="where to write one, as PNG")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        keep(RESULTS, platform.machine(), run(arguments.rounds, arguments.effort, arguments.picture))
    for machine, result in load(RESULTS).items():
        print(f"{machine}\n{table(result)}")


if __name__ == "__main__":
    main()
