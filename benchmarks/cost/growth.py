"""How cost grows with a stream: time, the time of one update, and bytes of what is known, over 100 to 100,000 points.

    python benchmarks/cost/growth.py            # about two minutes of one core
    python benchmarks/cost/growth.py --updates 1000000 "class Gaussians, GeMCL"  # a point at a time; four minutes a learner
    python benchmarks/cost/growth.py --table    # prints what is there

Exact learners of constant size are told ten points at a time, on features that are ready: 64 numbers a point, ten classes or one
real target. The exponent e of a cost that grows as points^e is the slope of a line through the logarithms: 1 for a whole stream,
0 for one update and for what is known. Times are the process's CPU time. Gap: how far the mean, or the log-probabilities, at 50
queries are from those of the learner that was told 10,000 points at once, the largest difference, after their parts came in
another order, in float64 and float32. With --updates it is that after so many updates by one point each, in their order, in
float32. Finished rows are kept in results/growth.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "growth.json"
FEATURES, CLASSES, AT_ONCE = 64, 10, 10
LENGTHS = (100, 1_000, 10_000, 100_000)
TOLD = 10_000
"""Points whose order is changed."""
REPEATS = 3

LEARNERS: dict[str, tuple[Callable[[], bm.Learner], bool]] = {  # and whether targets are labels
    "Bayesian linear, ALPaCA": (
        lambda: bm.ALPaCA(nn.Identity(), nn.Linear(FEATURES, 1), bm.likelihoods.Gaussian()),
        False,
    ),
    "class Gaussians, GeMCL": (lambda: bm.GeMCL(nn.Identity(), size=FEATURES, classes=CLASSES), True),
    "prototypes": (lambda: bm.PrototypicalNetwork(nn.Identity(), classes=CLASSES), True),
    "VERSA by class": (
        lambda: bm.VERSA(bm.encoders.ClassPooling(FEATURES, CLASSES), CLASSES, bm.likelihoods.Categorical()),
        True,
    ),
    "neural process with a mean": (
        lambda: bm.ConditionalNeuralProcess(
            bm.encoders.DeepSet(FEATURES, 1), bm.networks.MLP(FEATURES + 64, 1), bm.likelihoods.Gaussian()
        ),
        False,
    ),
}


def stream(length: int, labels: bool, dtype: torch.dtype, at_once: int = AT_ONCE) -> list[bm.Points]:
    """Points of one task in parts."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (1, length), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, length, FEATURES + 1, generator=generator, dtype=torch.float64)
    x = (centres[y] / 8 + noise[..., 1:]).to(dtype)
    target = y if labels else x[..., :1] + 0.1 * noise[..., :1].to(dtype)
    mask = torch.ones(1, length, dtype=torch.bool)
    return [bm.Points(*part) for part in zip(*(leaf.split(at_once, 1) for leaf in (x, target, mask)), strict=True)]


def tensors(held: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that something holds, however deep."""
    if id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        for part in held.values():
            yield from tensors(part, seen)
    elif isinstance(held, (list, tuple)):
        for part in held:
            yield from tensors(part, seen)
    elif isinstance(held, types.FunctionType):
        yield from tensors([cell.cell_contents for cell in held.__closure__ or ()], seen)
    elif hasattr(held, "__dict__") and not isinstance(held, type):
        yield from tensors(vars(held), seen)


def size(posterior: Any) -> int:
    """Bytes of the storages of all its tensors."""
    storages = (tensor.untyped_storage() for tensor in tensors(posterior, set()))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def told(learner: bm.Learner, parts: Sequence[bm.Points]) -> tuple[Any, list[float]]:
    """The posterior of a stream, and the seconds of each update."""
    posterior, seconds = learner(parts[0]), []
    for part in parts[1:]:
        began = time.process_time()
        posterior = posterior.update(part)
        seconds.append(time.process_time() - began)
    return posterior, seconds


def answers(posterior: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)  # VERSA's are means over draws
    prediction = posterior(x)
    found: Tensor = prediction.logits if hasattr(prediction, "logits") else prediction.mean
    return found


def gap(make: Callable[[], bm.Learner], labels: bool, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    learner = make().to(dtype)
    parts = stream(TOLD, labels, dtype)
    whole = bm.data.concatenate(*parts)
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(1)).tolist()
    x = torch.randn(1, 50, FEATURES, generator=torch.Generator().manual_seed(2)).to(dtype)
    shuffled, _ = told(learner, [parts[place] for place in order])
    return (answers(shuffled, x) - answers(learner(whole), x)).abs().max().item()


def slope(values: Sequence[float]) -> float:
    """The exponent of growth with the lengths."""
    return float(np.polyfit(np.log(LENGTHS), np.log(values), 1)[0])


def measured(name: str) -> dict[str, Any]:
    make, labels = LEARNERS[name]
    torch.manual_seed(0)
    learner, whole, update, state = make(), [], [], []
    longest = stream(LENGTHS[-1], labels, torch.float32)
    with torch.no_grad():
        told(learner, longest[:100])  # warms up
        for length in LENGTHS:
            runs = []
            for _ in range(REPEATS if length < LENGTHS[-1] else 1):
                began = time.process_time()
                posterior, seconds = told(learner, longest[: length // AT_ONCE])
                runs.append((time.process_time() - began, statistics.median(seconds[-200:])))
            whole.append(min(run[0] for run in runs))
            update.append(min(run[1] for run in runs))
            state.append(size(posterior))
        gaps = {str(dtype).removeprefix("torch."): gap(make, labels, dtype) for dtype in (torch.float64, torch.float32)}
    return {
        "points": LENGTHS,
        "seconds of the stream": whole,
        "seconds of an update": update,
        "bytes": state,
        "exponents": {"stream": slope(whole), "update": slope(update), "bytes": slope(state)},
        "gap": gaps,
        "torch": torch.__version__,
    }


def long(name: str, updates: int) -> dict[str, Any]:
    make, labels = LEARNERS[name]
    torch.manual_seed(0)
    learner, parts = make(), stream(updates, labels, torch.float32, at_once=1)
    x = torch.randn(1, 50, FEATURES, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        posterior, seconds = told(learner, parts)
        whole = learner(bm.data.concatenate(*parts))
        gap = (answers(posterior, x) - answers(whole, x)).abs().max().item()
        sizes = [size(learner(parts[0]).update(parts[1])), size(posterior)]
    tenth = len(seconds) // 10 + 1
    times = [statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])]
    return {"seconds of an update, at first and at last": times, "bytes": sizes, "gap": gap}


def table(results: dict[str, Any]) -> str:
    lines = [
        "| | exponent of a stream | of an update | of the bytes | an update | bytes | gap in float64 | in float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in LEARNERS:
        if (row := results.get(name)) is not None:
            exponents = [f"{row['exponents'][part]:.2f}" for part in ("stream", "update", "bytes")]
            cost = [f"{1e3 * row['seconds of an update'][-1]:.2f} ms", f"{row['bytes'][-1]:,}"]
            gaps = [f"{row['gap'][dtype]:.0e}" for dtype in ("float64", "float32")]
            lines.append(f"| {name} | {' | '.join([*exponents, *cost, *gaps])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="with --updates: learners; all if none")
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    parser.add_argument("--updates", type=int, help="streams of so many points, one at a time")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if given.updates:
        for name in given.names or LEARNERS:
            if (key := f"{name}; {given.updates} updates") not in load(RESULTS):
                keep(RESULTS, key, long(name, given.updates))
            print(key, load(RESULTS)[key])
        return
    for name in () if given.table else LEARNERS:
        if name not in load(RESULTS):
            keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
