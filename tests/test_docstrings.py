"""The examples in docstrings run, with the public names of the package and its folders at hand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import gpytorch
import pyro
import pytest
import torch

import bayesmeta

MODULES = [module.name for module in pkgutil.walk_packages(bayesmeta.__path__, "bayesmeta.")]
FOLDERS = [value for value in vars(bayesmeta).values() if hasattr(value, "__path__")]
NAMES = {name: getattr(room, name) for room in [*FOLDERS, bayesmeta] for name in room.__all__} | {
    "bm": bayesmeta,
    "plots": bayesmeta.plots,
    "torch": torch,
    "nn": torch.nn,
    "Normal": pyro.distributions.Normal,
    "RBFKernel": gpytorch.kernels.RBFKernel,
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs=NAMES | vars(module), optionflags=flags)
    assert result.failed == 0


@pytest.mark.parametrize(
    "page", ["extending", "likelihoods", "pictures", "streams", "tables", "targets", "text", "translation"]
)
def test_page(page: str) -> None:
    path = Path(__file__).parent.parent / "docs" / f"{page}.md"
    assert doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", ["MAML", "Sinusoids", "fit", "evaluate", "points", "Standardized", "Conv4"])
def test_public_names_have_an_example(name: str) -> None:
    assert ">>>" in (NAMES[name].__doc__ or "")
