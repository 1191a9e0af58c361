"""The pages for people who come from other libraries, and the notebook: their code runs, and what they name is there."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch.utils.data

import bayesmeta as bm

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "from-elsewhere").glob("*.md"))
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
BLOCK = re.compile(r"^(<!-- fragment[^\n]*\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(blocks: Iterable[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a user's filters, and few steps
        for code in blocks:
            exec(code, names)
    return names


def briefly(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: function(*args, **(options | {"steps": 3, "progress": False}))


@each
def test_both_ways_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and theirs where that library is in the test environment; three steps of training show that the parts fit."""
    monkeypatch.setattr(bm, "fit", briefly(bm.fit))
    monkeypatch.setattr(bm, "autofit", briefly(bm.autofit))
    found = BLOCK.findall(page.read_text())
    fragments = [code for fragment, code in found if fragment]
    assert bool(fragments) == (page.stem in ("learn2learn", "torchmeta", "neuralprocesses"))
    for code in fragments:
        compile(code, page.name, "exec")
    assert run(code for fragment, code in found if not fragment)


@each
def test_the_names_that_are_ours_are_there(page: Path) -> None:
    """In the right column: classes, and what stands in a folder, such as `plots.reliability`."""
    folders = {name: value for name, value in vars(bm).items() if hasattr(value, "__path__")}
    rows = [line.split(" | ")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    names = re.findall(rf"`((?:(?:{'|'.join(folders)})\.)?)([A-Z]\w+|(?<=\.)\w+)", " ".join(rows))
    assert len(names) > 4
    for folder, name in names:
        places = [folders[folder[:-1]]] if folder else [bm, *folders.values(), torch.utils.data]
        assert any(hasattr(place, name) for place in places), name


def test_the_notebook_runs_and_its_intervals_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom. 140 weighings of 20 plants hang together: a coverage of 0.8 to 1 is all that so few can show."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(notebook["cells"]) <= 12
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names = run("".join(cell["source"]) for cell in cells)
    assert names["figures"]["90% coverage"].value > 0.8
    assert np.mean(names["inside"]) > 0.8
    assert (names["later"]([30.0]).stddev < names["posterior"]([30.0]).stddev).all()
