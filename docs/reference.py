"""A page of reference for each folder of the package, as a hook of mkdocs: the modules that its public names come from."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "bayesmeta"
TOP = {
    "core": ["data", "learner", "posterior", "answers", "objectives", "warps", "randomness", "recorded"],
    "deciding": ["planning", "actions", "chaining", "bandits", "optimisation", "generation"],
}
"""The modules that are in no folder."""
FURTHER = {"baselines": ["base"], "evaluation": ["kept"], "tasks": ["games"], "training": ["step"]}
"""Modules that hold what a folder's own modules hand on."""
FOLDERS = [
    *(
        "methods",
        "wrappers",
        "likelihoods",
        "tasks",
        "training",
        "evaluation",
        "metrics",
        "plots",
        "report",
        "automatic",
    ),
    *("baselines", "networks", "encoders", "distributions", "posteriors", "gaussian_process", "variational"),
    *("files", "border", "functional", "play"),
]


def pages() -> dict[str, str]:
    """Each page's text, by its name."""
    everything = {
        name: f"# {name.capitalize()}\n\n" + "\n\n".join(f"::: bayesmeta.{module}" for module in modules)
        for name, modules in TOP.items()
    }
    for folder in FOLDERS:
        tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
        named = [*_imported(tree), *(f"bayesmeta.{folder}.{module}" for module in FURTHER.get(folder, []))]
        modules = [
            f"::: {name}"
            for name in dict.fromkeys(named)
            if name.startswith(f"bayesmeta.{folder}.") and (PACKAGE.parent / f"{name.replace('.', '/')}.py").exists()
        ]
        title = folder.replace("_", " ").capitalize()
        everything[folder] = "\n\n".join([f"# {title}", ast.get_docstring(tree) or "", *modules])
    return everything


def _imported(tree: ast.Module) -> list[str]:
    """Modules from which, and that themselves, are imported."""
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [name for node in nodes for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))]


def on_config(config: Any) -> Any:
    there = next(entry for entry in config.nav if "Reference" in entry)
    there["Reference"] = [f"reference/{name}.md" for name in pages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, content in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files
