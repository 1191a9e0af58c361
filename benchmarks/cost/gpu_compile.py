"""Times of compiled meta-updates: ``fit(compile=True)``, with what the first update takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cost.gpu_speed import settings, update_times


def compiled(name: str, strategy: Any, device: str, dry: bool) -> dict[str, Any]:
    said: list[str] = []
    result = update_times(name, strategy, device, dry, compile=True, say=said.append)
    return result | ({"said": said} if said else {})


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    dry = device == "cpu"
    names = list(settings(device))
    first, many, conv, more, resnet, dkt, cnp, abml, platipus, prototypes, group = names
    chosen = {
        f"{name}; vmap": partial(compiled, name, "vmap", device, dry)
        for name in (first, group, conv, many, dkt, cnp, more, abml, platipus, prototypes, resnet)
    }
    chosen[f"{group}; loop"] = partial(compiled, group, "loop", device, dry)
    for name in (first, dkt, cnp):
        chosen[f"{name}; auto; CPU"] = partial(compiled, name, "auto", "cpu", dry)
    return chosen
