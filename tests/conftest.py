"""What every test shares: a data folder if there is one, and the guard of global state."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arviz  # noqa: F401  (it adds warning filters when it is imported)
import gpytorch
import linear_operator
import pytest
import torch

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell starts what it runs in the background with it ignored
torch.func.grad(torch.sin)(torch.zeros(()))  # torch imports sympy on first use, which adds a warning filter


@pytest.fixture
def data_root() -> Path:
    """The folder of data packs that the user named in BAYESMETA_DATA; tests that need it skip without it."""
    root = os.environ.get("BAYESMETA_DATA")
    if not root:
        pytest.skip("BAYESMETA_DATA is not set: it names the folder of data packs")
    return Path(root)


def _globals() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "distribution validation": torch.distributions.Distribution._validate_args,
        "warning filters": list(warnings.filters),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "SIGINT handler": signal.getsignal(signal.SIGINT),
        "jitter": linear_operator.settings.cholesky_jitter.value(torch.float64),
        "gpytorch debug": gpytorch.settings.debug.on(),
    }


@pytest.fixture(autouse=True)
def global_state_stays() -> Iterator[None]:
    """Fails the test that changes a global setting. Each test starts from the same seed."""
    torch.manual_seed(0)
    before = _globals()
    yield
    after = _globals()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test changed global state: {changed}"
