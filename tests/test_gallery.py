"""The gallery shows the examples as they are, and the reference all that is public."""

from __future__ import annotations

import ast
import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def hook(name: str) -> ModuleType:
    spec = spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gallery, markup, reference = hook("gallery"), hook("markup"), hook("reference")
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def test_every_example_has_one_place() -> None:
    assert sorted(gallery.names()) == EXAMPLES
    assert len(EXAMPLES) >= 18


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_shows_code_output_and_picture(name: str) -> None:
    """What is kept was made by the code as it is: after a change run `python docs/gallery.py NAME`."""
    page, text = gallery.page(name), (ROOT / "examples" / f"{name}.py").read_text()
    code = page.split(f'```python title="examples/{name}.py"\n')[1].split("\n```")[0]
    assert text.endswith(code + "\n")
    assert [ast.dump(node) for node in ast.parse(code).body] == [ast.dump(node) for node in ast.parse(text).body[1:]]
    kept, this = gallery.kept()[name], gallery.example(name)
    assert kept["code"] == this.key
    assert all(f"    {line}".rstrip() in page for line in kept["printed"])
    assert "an earlier code" not in page
    assert (gallery.KEPT / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"![{this.picture}]({name}.png)" in page
    assert this.title
    assert len(this.picture) > 40, "a docstring says what the picture shows: The picture: ..."


def test_a_page_says_which_packs_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BAYESMETA_DATA", str(tmp_path))
    (tmp_path / "camvid").mkdir()
    assert "could not have been made anew: no coil20_pose there" in gallery.page("detection")
    monkeypatch.delenv("BAYESMETA_DATA")
    assert "no coil20_pose and no camvid there" in gallery.page("detection")
    assert "anew" not in gallery.page("bands").split("## What it prints")[1]


def test_what_runs_is_kept_and_what_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "EXAMPLES", tmp_path)
    monkeypatch.setattr(gallery, "KEPT", tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    path = tmp_path / "dot.py"
    path.write_text(
        '"""A dot: small.\n\nThe picture: a dot.\n"""\n\nopen("dot.png", "w").write("a dot")\nprint("seen ")\n'
    )
    assert gallery.run("dot").startswith("dot: ")
    assert gallery.kept()["dot"]["printed"] == ["seen"]
    assert (tmp_path / "kept" / "dot.png").read_text() == "a dot"
    path.write_text('"""A dot: small.\n\nThe picture: a dot.\n"""\n\nraise ValueError("no data")\n')
    assert gallery.run("dot") == "dot: failed, what was kept stays: ValueError: no data"
    assert gallery.kept()["dot"]["printed"] == ["seen"]
    assert "from a run of an earlier code" in gallery.page("dot")


def test_the_reference_has_all_that_is_public() -> None:
    package = ROOT / "bayesmeta"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(reference.FOLDERS) == rooms
    top = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert {module for modules in reference.TOP.values() for module in modules} == top
    pages, missing = reference.pages(), set()
    for room in rooms:
        folder = importlib.import_module(f"bayesmeta.{room}")
        for name in folder.__all__:
            source = getattr(getattr(folder, name), "__module__", "") or ""
            here = source.startswith("bayesmeta.") and source != folder.__name__
            if here and not any(f"::: {source}\n" in f"{page}\n" for page in pages.values()):
                missing.add(f"{room}.{name} of {source}")
    assert not missing


def test_sessions_are_coloured_and_other_blocks_stay() -> None:
    page = "So:\n\n    >>> 1 + 1\n    2\n\n    >>> 3\n    3\n\nAnd:\n\n    make docs\n"
    made = "So:\n\n```pycon\n>>> 1 + 1\n2\n\n>>> 3\n3\n```\n\nAnd:\n\n    make docs\n"
    assert markup.on_page_markdown(page) == made
    assert markup.on_page_markdown("    >>> 3\n    3\n") == "```pycon\n>>> 3\n3\n```\n\n"


def test_a_described_picture_leads_to_itself() -> None:
    picture = '<img alt="bands" src="../bands.png" />'
    assert markup.on_page_content(f"<p>{picture}</p>") == f'<p><a class="picture" href="../bands.png">{picture}</a></p>'
    for other in (
        '<p><img alt="" src="a.png" /></p>',
        f'<p><a href="x">{picture}</a></p>',
    ):  # a thumbnail leads elsewhere
        assert markup.on_page_content(other) == other
