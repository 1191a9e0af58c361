"""The page in a real browser: clicks, drags, keys and buttons, and nothing asked of anywhere else."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from play_support import running

import bayesmeta as bm
from bayesmeta.play.learners import RECIPES, shown
from bayesmeta.play.server import Playground
from bayesmeta.plots.axes import COLOURS

PAGE = files("bayesmeta.play").joinpath("page.html").read_text()
NAMES = [recipe.name for recipe in RECIPES]
AT = [(0.2, 0.3), (0.4, 0.75), (0.55, 0.6), (0.75, 0.2), (0.9, 0.4)]


@pytest.fixture(scope="module")
def playground() -> Iterator[Playground]:
    torch.manual_seed(0)
    with running({recipe.name: recipe.build() for recipe in RECIPES}) as found:
        yield found


@pytest.fixture(scope="module")
def browser(playground: Playground) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])
        driver = importlib.import_module("benchmarks.browser")
    if driver.CHROMIUM is None:
        pytest.skip("no chromium on this machine: it opens the page")
    with driver.Browser(playground.url) as found:
        yield found


@pytest.fixture
def page(browser: Any, playground: Playground) -> Iterator[Any]:
    browser.open(playground.url)
    browser.until(f"panels.size === {len(NAMES)} && answer && !asking")
    yield browser
    assert browser.faults == []
    assert all(url.startswith((playground.url, "data:")) for url in browser.requests)


def where(page: Any, name: str, u: float, v: float) -> tuple[float, float]:
    """A place in a learner's panel, in pixels of the window."""
    box = page.evaluate(
        f"(() => {{ const b = document.querySelector('[data-learner=\"{name}\"] svg').getBoundingClientRect(); "
        "return [b.left, b.top, b.width, b.height] })()"
    )
    return box[0] + u * box[2], box[1] + v * box[3]


def bands(page: Any) -> dict[str, str]:
    return page.evaluate("Object.fromEntries([...panels].map(([name, own]) => [name, own.band.getAttribute('d')]))")


def texts(page: Any, selector: str) -> list[str]:
    return page.evaluate(f"[...document.querySelectorAll('{selector}')].map(found => found.textContent)")


def settled(page: Any, points: int) -> None:
    page.until(f"points.length === {points} && !asking")


def test_five_clicks_move_the_bands_of_every_learner_and_are_counted(page: Any) -> None:
    seen = [bands(page)]
    for number, (name, place) in enumerate(zip(NAMES, AT, strict=False), 1):
        page.click(*where(page, name, *place))
        settled(page, number)
        seen.append(bands(page))
    assert list(seen[0]) == NAMES
    for before, after in pairwise(seen):
        assert all(before[name] != after[name] for name in NAMES)
    assert len(page.evaluate("[...document.querySelectorAll('section .point')].map(p => p.getAttribute('cx'))")) == 30

    points = json.loads(page.evaluate("JSON.stringify(points)"))
    x = torch.linspace(-5, 5, 121)
    for recipe, score in zip(RECIPES, texts(page, "output"), strict=True):
        torch.manual_seed(0)
        learner = {other.name: other.build() for other in RECIPES}[recipe.name].eval()
        held = 0
        for number, point in enumerate(points):
            found = shown(learner, [(p["x"], p["y"]) for p in points[:number]], x)
            low, high = (np.interp(point["x"], x.numpy(), found[name]) for name in ("low", "high"))
            assert point["held"][recipe.name] == bool(low <= point["y"] <= high)
            held += point["held"][recipe.name]
        assert score == f"held {held} of 5"


def test_points_are_moved_and_taken_away(page: Any) -> None:
    for number, place in enumerate(AT[:3], 1):
        page.click(*where(page, "ALPaCA", *place))
        settled(page, number)
    before = bands(page)
    page.mouse("Pressed", *where(page, "ALPaCA", *AT[0]))
    page.mouse("Moved", *where(page, "ALPaCA", 0.3, 0.5))
    page.mouse("Released", *where(page, "ALPaCA", 0.3, 0.5))
    page.until("Math.abs(points[0].x + 2.5) < 0.1 && !asking")
    assert bands(page)["DKT"] != before["DKT"]
    assert texts(page, "output")[0].endswith("of 2")  # what was moved is not counted

    page.click(*where(page, "MAML", *AT[1]), shift=True)
    settled(page, 2)
    page.mouse("Pressed", *where(page, "ALPaCA", *AT[2]))
    page.mouse("Moved", *where(page, "ALPaCA", 0.5, 1.2))
    page.mouse("Released", *where(page, "ALPaCA", 0.5, 1.2))
    settled(page, 1)
    page.evaluate("$('reset').click()")
    settled(page, 0)
    assert texts(page, "output") == [""] * len(NAMES)


def test_keys_add_and_take_away(page: Any) -> None:
    page.evaluate("document.querySelector('.plot').focus()")
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        page.key(key)
    settled(page, 1)
    assert page.evaluate("[points[0].x, points[0].y]") == pytest.approx([0.25, 0.3])
    page.key("Delete")
    settled(page, 0)


def test_a_hidden_task_comes_point_by_point(page: Any) -> None:
    assert page.evaluate("$('next').disabled && $('truth').disabled")
    page.evaluate("$('fresh').click()")
    page.until("task && !asking && !$('next').disabled")
    page.evaluate("$('next').click(), $('next').click()")  # faster than answers come
    settled(page, 2)
    assert all(score.endswith("of 2") for score in texts(page, "output"))
    drawn = "document.querySelectorAll('.{}[d^=M]').length - document.querySelectorAll('.legend .{}').length"
    for button, part in (("truth", "truth"), ("draws", "draw")):
        assert page.evaluate(drawn.format(part, part)) == 0
        page.evaluate(f"$('{button}').click()")
        assert page.evaluate(drawn.format(part, part)) == len(NAMES)


def test_errors_are_said_and_left_behind(page: Any, playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = bm.DKT(torch.nn.Linear(2, 2), RECIPES[1].build().kernel, bm.likelihoods.Gaussian())
    monkeypatch.setitem(playground.learners, "DKT", ("", broken))
    page.click(*where(page, "ALPaCA", *AT[0]))
    settled(page, 1)
    assert texts(page, ".silent h2") == ["DKT"]
    assert "Error" in texts(page, ".silent .note")[0]
    monkeypatch.undo()
    page.evaluate("points.push({x: 1e9, y: 0, held: {}}), ask()")
    page.until("$('said').classList.contains('wrong') && !asking")
    assert "points[1]: expected two numbers" in texts(page, "#said")[0]
    page.evaluate("$('reset').click()")
    page.until("!$('said').classList.contains('wrong') && !asking")
    assert texts(page, ".silent h2") == []


def test_it_fits_a_phone(page: Any) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_names_no_other_place() -> None:
    assert re.findall(r"(?:https?:)?//[\w.]+", PAGE.replace("http://www.w3.org/2000/svg", "")) == []
    assert not re.search(r"@import|<link(?! rel=\"icon\" href=\"data:,\")|\ssrc=", PAGE)


def test_colours_are_the_librarys() -> None:
    colours = set(re.findall(r"--(?:band|missed|truth): (#\w+)", PAGE))
    assert len(colours) == 5
    assert colours <= set(COLOURS)
