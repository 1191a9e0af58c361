"""Finished runs as JSON, one key each, so that an interrupted table goes on where it was."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any


def load(path: Path) -> dict[str, Any]:
    """The runs finished so far."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def keep(path: Path, key: str, result: Any) -> None:
    """Adds a run to the file, which several programs may do at the same time, and which is whole at every moment."""
    path.parent.mkdir(exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh = path.with_suffix(".new")
        rows = sorted({**load(path), key: result}.items())
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_short(row))}" for name, row in rows)  # a line a run
        fresh.write_text("{\n" + lines + "\n}\n")
        fresh.replace(path)


def _short(result: Any) -> Any:
    """Numbers to six digits, which is more than any table shows."""
    if isinstance(result, dict):
        return {name: _short(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [_short(value) for value in result]
    return float(f"{result:.6g}") if isinstance(result, float) else result
