"""What the docs name is there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import bayesmeta as bm

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    p for folder in ("bayesmeta", "examples", "benchmarks", "tests") for p in sorted((ROOT / folder).rglob("*.py"))
]
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def exists(dotted: str) -> bool:
    found = bm if dotted.startswith("bm.") else import_module("bayesmeta")
    for name in dotted.split(".")[1:]:
        if not hasattr(found, name):
            try:
                found = import_module(f"{found.__name__}.{name}")
            except (ImportError, AttributeError):
                return False
        else:
            found = getattr(found, name)
    return True


def test_names_below_bayesmeta_exist() -> None:
    dead = set()
    for path in [*PAGES, *SOURCES]:
        if path == Path(__file__):
            continue
        for name in re.findall(r"(?<![\w./-])(?:bm|bayesmeta)(?:\.[A-Za-z_]\w*)+(?![\w/-])", path.read_text()):
            if not exists(name) and not name.endswith((".py", ".html", ".md")):
                dead.add(f"{path.relative_to(ROOT)}: {name}")
    assert not dead


@each
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    dead = [target for target in targets if "://" not in target and not (page.parent / source(target)).exists()]
    assert not dead


def source(target: str) -> str:
    """The file that a page is made from: of the gallery's pages an example, of the reference's a folder."""
    target = re.sub(r"^gallery/index\.md$|^reference/(core|deciding)\.md$", "../docs", target)
    target = re.sub(r"^gallery/(\w+)\.md$", r"../examples/\1.py", target)
    return re.sub(r"^reference/(\w+)\.md$", r"../bayesmeta/\1", target)


@each
def test_pictures_are_described(page: Path) -> None:
    """Or stand in a link beside words that say where it leads."""
    text = re.sub(r"- \[!\[\]\([^)]*\) \*\*", "", page.read_text())
    assert not re.findall(r"!\[\s*\]\(", text)


def test_files_that_are_named_exist() -> None:
    dead = set()
    for path in [*PAGES, *SOURCES]:
        for name in re.findall(
            r"(?<![\w./-])(?:docs|examples|benchmarks|tests)/[\w/]+\.(?:py|md|png)", path.read_text()
        ):
            if not (ROOT / name).exists():
                dead.add(f"{path.relative_to(ROOT)}: {name}")
    assert not dead


def blocks(page: Path) -> list[str]:
    """The Python of a page, without what is marked as a fragment."""
    found = re.findall(r"^(<!-- fragment[^\n]*\n)?```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [code for fragment, code in found if not fragment]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in ("deciding.md", "start.md") else ())
        for page in PAGES
        if page.parent.name == "docs" and blocks(page)
    ],
)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, with two steps of training: that what is written fits together, not how good it is."""

    def short(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: function(*args, **(options | {"steps": 2, "progress": False}))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bm, "fit", short(bm.fit))
    monkeypatch.setattr(bm, "autofit", short(bm.autofit))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two steps are too few, and say so
        names: dict[str, Any] = {}
        for code in blocks(page):
            exec(code, names)


def test_the_version_is_said_alike() -> None:
    assert f"\nversion: {bm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{bm.__version__}}}" in (ROOT / "docs/citation.md").read_text()
