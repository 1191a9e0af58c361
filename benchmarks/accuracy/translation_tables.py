"""Intervals and tables of `translation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def interval(scores: Tensor, other: Tensor | None = None, draws: int = 2000) -> list[float]:
    """NLL a token, or how much higher it is than another's, and its 95 % interval: languages, then sentences drawn anew."""
    totals = scores.double() if other is None else torch.cat([scores, other]).double()
    random = torch.Generator().manual_seed(0)

    def figure(sums: Tensor) -> Tensor:
        return sums[0] / sums[1] - (0 if other is None else sums[2] / sums[3])

    drawn = []
    for _ in range(draws):
        which = torch.randint(totals.shape[1], (totals.shape[1], 1), generator=random)
        places = torch.randint(totals.shape[2], totals.shape[1:], generator=random)
        drawn.append(figure(totals[:, which, places].sum((1, 2))))
    low, high = torch.stack(drawn).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return [figure(totals.sum((1, 2))).item(), low, high]


def compared(runs: Path, part: str = "test") -> dict[str, Any]:
    """How much higher each start's NLL is than that of the joint start unadapted, and fine-tuned."""
    files = {path.name.rsplit("; ", 1)[0]: torch.load(path) for path in runs.glob(f"*; {part}.pt")}
    return {
        f"{key} against {reference}": interval(scores, files[reference])
        for key, scores in sorted(files.items())
        for reference in ("joint; unadapted", "joint; fine-tuned")
        if reference in files and reference != key
    }


def table(results: dict[str, Any]) -> str:
    names = ["token NLL", "ECE", "token ECE without recalibration", "Accuracy", "chrF", "BLEU"]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key, row in results.items():
        if key != "compared":
            nll_, *others = (row[name] for name in names)
            lines.append(
                f"| {key} | {nll_[0]:.3f} [{nll_[1]:.3f}, {nll_[2]:.3f}] | "
                + " | ".join(f"{v:.3f}" for v in others)
                + " |"
            )
    lines += [f"{key}: {d:.3f} [{low:.3f}, {high:.3f}]" for key, (d, low, high) in results.get("compared", {}).items()]
    return "\n".join(lines)
