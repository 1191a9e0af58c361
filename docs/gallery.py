"""The gallery: runs the examples, keeps what they print and draw, and makes a page of each, as a hook of mkdocs.

    python docs/gallery.py                    # all of them anew, two at a time, each on one thread
    python docs/gallery.py tuning intents     # these two

An example is one flat file in examples/. The first sentence of its docstring is the page's title, the paragraph that begins with
"The picture:" says what is drawn, and it saves NAME.png where it runs. What is kept lies in docs/gallery/; pages are made anew
with every build of the site, from the code as it is.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, KEPT = ROOT / "examples", ROOT / "docs" / "gallery"
SECTIONS = {
    "Numbers and tables": ["growth_curves", "served_model", "tuning"],
    "Doubt": ["bands", "compare", "calibration", "conformal", "with_arviz"],
    "Pictures": ["omniglot", "segmentation", "detection"],
    "Texts": ["intents", "translation"],
    "Streams": ["alphabets"],
    "Deciding": ["swing_up", "policies", "new_rules"],
    "Your own, and larger": ["own_learner", "shared_encoder", "distributed"],
}
_PICTURE = "The picture: "
_WIDE = "---\nhide: [toc]\n---"
"""Code needs the room of a table of contents that has two lines."""
_WRITING = Lock()


class Example(NamedTuple):
    name: str
    title: str
    lead: str  # the rest of the first sentence
    prose: str
    picture: str  # what it shows
    code: str  # the file without its docstring

    @property
    def key(self) -> str:
        """Tells whether what is kept was made by this code."""
        return hashlib.sha256(self.code.encode()).hexdigest()[:12]

    @property
    def packs(self) -> list[str]:
        """The folders in $BAYESMETA_DATA that it reads."""
        named = re.search(r"folders? ([\w`, ]+) in `\$BAYESMETA_DATA`", self.prose)
        return re.findall(r"\w+", named[1].replace(" and ", " ")) if named else []


def example(name: str) -> Example:
    text = (EXAMPLES / f"{name}.py").read_text()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    code = "".join(text.splitlines(keepends=True)[tree.body[0].end_lineno :]).lstrip()
    first, *paragraphs = docstring.split("\n\n")
    title, mark, lead = re.match(r"(.+?)([:?.])\s*(.*)$", " ".join(first.split())).groups()  # type: ignore[union-attr]
    title += mark if mark == "?" else ""
    picture, prose = "", []
    for paragraph in paragraphs:
        if paragraph.startswith(_PICTURE):
            picture = _capital(" ".join(paragraph.removeprefix(_PICTURE).split()))
        elif paragraph.startswith("    "):
            commands = re.sub(r"^(.+?) +(# .+)$", r"\2\n\1", textwrap.dedent(paragraph), flags=re.MULTILINE)
            prose.append(f"```shell\n{commands}\n```")
        else:
            prose.append(paragraph)
    return Example(name, title, _capital(lead), "\n\n".join(prose), picture, code)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def names() -> list[str]:
    return [name for section in SECTIONS.values() for name in section]


def kept() -> dict[str, dict[str, Any]]:
    """By example: the key of the code, seconds of one core, and the lines that it printed."""
    path = KEPT / "kept.json"
    return json.loads(path.read_text()) if path.exists() else {}


def run(name: str) -> str:
    """Runs an example in a folder of its own and keeps its output; or says why it failed, and keeps what there is."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with (folder / "printed").open("w") as printed, (folder / "errors").open("w") as errors:
            command = [sys.executable, str(EXAMPLES / f"{name}.py")]
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        picture = folder / f"{name}.png"
        if process.returncode or not picture.exists():
            why = ((folder / "errors").read_text().strip() or f"no {picture.name}").splitlines()[-1]
            return f"{name}: failed, what was kept stays: {why}"
        (KEPT / picture.name).write_bytes(picture.read_bytes())
        lines = [line.rstrip() for line in (folder / "printed").read_text().rstrip().splitlines()]
    seconds = round(usage.ru_utime + usage.ru_stime)
    with _WRITING:
        everything = kept() | {name: {"code": example(name).key, "seconds": seconds, "printed": lines}}
        (KEPT / "kept.json").write_text(
            json.dumps(dict(sorted(everything.items())), indent=1, ensure_ascii=False) + "\n"
        )
    return f"{name}: {seconds} s"


def page(name: str) -> str:
    """Title, prose, picture, code and what it printed, as Markdown."""
    this, was = example(name), kept().get(name)
    parts = [_WIDE, f"# {this.title}", this.lead, this.prose]
    if was:
        parts += [f"![{this.picture}]({name}.png)", f"*{this.picture}*"]
    parts += ["## The code", f'```python title="examples/{name}.py"\n{this.code.rstrip()}\n```']
    if was:
        parts += ["## What it prints", textwrap.indent("\n".join(was["printed"]), "    "), origin(this, was)]
    return "\n\n".join(part for part in parts if part) + "\n"


def origin(this: Example, was: dict[str, Any]) -> str:
    """Where picture and output come from."""
    took = f"{was['seconds']} s" if was["seconds"] < 90 else f"{was['seconds'] / 60:.0f} min"
    which = "this" if was["code"] == this.key else "an earlier"
    said = f"Output and picture are kept from a run of {which} code, {took} of one core."
    there = Path(os.environ.get("BAYESMETA_DATA", ""))
    missing = [pack for pack in this.packs if "BAYESMETA_DATA" not in os.environ or not (there / pack).exists()]
    if missing:
        said += f" Where this page was built they could not have been made anew: no {' and no '.join(missing)} there."
    return f"<small>{said}</small>"


def index() -> str:
    """Thumbnails, section by section."""
    parts = [
        _WIDE,
        "# Gallery",
        "Each is one flat file in `examples/`, with its settings at the top: copy one that is near what you want, and change it.",
    ]
    for section, those in SECTIONS.items():
        cards = [f"- [![]({name}.png) **{(this := example(name)).title}** {this.lead}]({name}.md)" for name in those]
        parts += [f"## {section}", '<div class="gallery" markdown>\n\n' + "\n".join(cards) + "\n\n</div>"]
    return "\n\n".join(parts) + "\n"


def on_config(config: Any) -> Any:
    """The pages join the first in the navigation."""
    there = next(entry for entry in config.nav if "Gallery" in entry)
    there["Gallery"] = ["gallery/index.md", *[f"gallery/{name}.md" for name in names()]]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, content in [("index", index()), *[(name, page(name)) for name in names()]]:
        files.append(File.generated(config, f"gallery/{name}.md", content=content))
    return files


if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(run, sys.argv[1:] or names()):
            print(said, flush=True)
