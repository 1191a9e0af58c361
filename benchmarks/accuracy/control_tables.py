"""Tables of benchmarks/accuracy/control.py."""

from __future__ import annotations

from typing import Any

import numpy as np

DRAWS = 2000


def rows(results: dict[str, Any], entry: str, what: str) -> np.ndarray[Any, Any] | None:
    """An entry's numbers by seed and world, ``(seeds, worlds)``; None where it is not there."""
    there = {key.rsplit("; ", 1)[1]: run for key, run in results.items() if key.rsplit("; ", 1)[0] == entry}
    runs = [there[seed][what] for seed in sorted(there) if what in there[seed]]
    return np.array(runs) if runs else None


def interval(statistic: Any, worlds: int) -> str:
    """A statistic of chosen worlds with its 95 % interval, by drawing worlds anew."""
    drawn = np.random.default_rng(0).integers(worlds, size=(DRAWS, worlds))
    low, high = np.quantile([statistic(chosen) for chosen in drawn], [0.025, 0.975])
    return f"{statistic(np.arange(worlds)):.3f} [{low:.3f}, {high:.3f}]"


def closed(results: dict[str, Any], name: str, who: str, way: str) -> tuple[str, str] | None:
    """What a way's attempts pay, and the share of the gap that it closes."""
    base = who if rows(results, f"{name}; {who}", "none") is not None else "ALPaCA"
    found = [
        rows(results, f"{name}; {who}", way),
        rows(results, f"{name}; {base}", "none"),
        rows(results, f"{name}; physics", "physics"),
    ]
    if any(part is None for part in found):
        return None
    paid, none, most = (part.mean(0) for part in found if part is not None)

    def share(chosen: Any) -> float:
        least = none[chosen].mean()
        return float((paid[chosen].mean() - least) / (most[chosen].mean() - least))

    return interval(lambda chosen: paid[chosen].mean(), len(paid)), interval(share, len(paid))


def table(results: dict[str, Any]) -> str:
    lines = ["| | | return | gap closed |", "|---|---|---|---|"]
    for name in ("pendulum", "flips", "cart-pole"):
        for who in ("physics", "ALPaCA", "MAML", "scratch", "Changepoints"):
            for way in ("physics", "none", "50", "online"):
                if (found := rows(results, f"{name}; {who}", way)) is None:
                    continue
                both = closed(results, name, who, way) or (f"{found.mean():.1f}", "")
                lines.append(f"| {name} | {who}, {way} ({len(found)} seeds) | {both[0]} | {both[1]} |")
    for what in ("share", "paid"):
        pair = [rows(results, f"limit; {who}", what) for who in ("mean", "functions")]
        if all(part is not None for part in pair):
            mean, functions = (part.mean(0) for part in pair if part is not None)
            for said, values in (("mean", mean), ("functions", functions), ("functions less mean", functions - mean)):
                cell = interval(lambda chosen, values=values: values[chosen].mean(), len(values))
                lines.append(f"| limit | {said}: {what} | {cell} | |")
    return "\n".join(lines)
