"""What the docs name is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

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
    dead = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not dead


def test_files_that_are_named_exist() -> None:
    dead = set()
    for path in [*PAGES, *SOURCES]:
        for name in re.findall(
            r"(?<![\w./-])(?:docs|examples|benchmarks|tests)/[\w/]+\.(?:py|md|png)", path.read_text()
        ):
            if not (ROOT / name).exists():
                dead.add(f"{path.relative_to(ROOT)}: {name}")
    assert not dead
