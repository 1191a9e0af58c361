"""Checks and times the library on a GPU: one command, under ten minutes.

    python benchmarks/gpu.py                      # everything; says so and ends where there is no CUDA
    python benchmarks/gpu.py correctness serving  # these sections alone
    python benchmarks/gpu.py --device cpu         # a dry run: all of it, small, on the CPU; it keeps nothing

Sections: correctness (each learner of the contract tests in float32 and bfloat16 on the card against float64 on the CPU), speed
and compile (meta-updates), serving (one task), memory (slices), graphs (CUDA graphs), processes (two on one card), jax.

A section runs in a process of its own, entry by entry. What fails is kept with its message. An entry that takes too long, or that
takes its process down, is kept as such, and a new process goes on with the next one; what a section's budget leaves out is named.
Results go to results/gpu.json after each entry, under the card's name.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.store import keep

RESULTS = Path(__file__).parent / "results" / "gpu.json"
START = 90.0
"""Seconds until a process has imported all it needs."""


@dataclass
class Section:
    """A module whose ``entries(device)`` are functions by name, each of which returns what is kept."""

    module: str
    budget: float
    """Seconds of all entries."""
    limit: float
    """Seconds of one entry."""


SECTIONS = {
    "correctness": Section("benchmarks.cost.gpu_correctness", 130, 60),
    "speed": Section("benchmarks.cost.gpu_speed", 100, 40),
    "compile": Section("benchmarks.cost.gpu_compile", 160, 75),
    "serving": Section("benchmarks.cost.gpu_serving", 50, 25),
    "memory": Section("benchmarks.cost.gpu_memory", 25, 20),
    "graphs": Section("benchmarks.cost.gpu_graphs", 60, 45),
    "processes": Section("benchmarks.cost.gpu_processes", 110, 75),
    "jax": Section("benchmarks.cost.gpu_jax", 60, 40),
}


def work(connection: Connection, module: str, done: list[str], device: str) -> None:
    """A section's process: sends the names of the entries that are not done, then each one's result."""
    os.setpgrp()  # what it starts ends with it
    import torch

    entries = {name: entry for name, entry in import_module(module).entries(device).items() if name not in done}
    connection.send(list(entries))
    for name, entry in entries.items():
        began = time.perf_counter()
        try:
            result: dict[str, Any] = entry()
        except Exception as error:
            result = {"failed": message(error)}
        connection.send((name, {**result, "took": time.perf_counter() - began}))
        if device == "cuda":
            torch.cuda.synchronize()  # after some errors no call succeeds: the process ends here, and another goes on
            torch.cuda.empty_cache()


def message(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


class Worker:
    """A process that works on a section's entries."""

    def __init__(self, module: str, done: list[str], device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.results, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(theirs, module, done, device))
        self.process.start()
        theirs.close()

    def receive(self, seconds: float) -> Any:
        """What it sends next.

        Raises:
            TimeoutError: it sends nothing for so long.
            EOFError: it has ended.
        """
        if not self.results.poll(max(seconds, 0)):
            raise TimeoutError(f"no result after {seconds:.0f} s")
        try:
            return self.results.recv()
        except EOFError:
            self.process.join(5)
            raise EOFError(f"its process ended with code {self.process.exitcode}") from None

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join(10)


def run(section: Section, device: str, seconds: float, finished: Callable[[str, dict[str, Any]], None]) -> list[str]:
    """Runs a section's entries, and calls `finished` with the name and result of each; the names of those left out."""
    deadline = time.monotonic() + seconds
    done: list[str] = []
    left = ["all"]
    while left and (remaining := deadline - time.monotonic()) > 0:
        worker = Worker(section.module, done, device)
        current = "start"
        try:
            left = worker.receive(min(START, remaining))
            while left:
                current = left[0]
                name, result = worker.receive(min(section.limit, deadline - time.monotonic()))
                finished(name, result)
                done.append(name)
                left = left[1:]
            worker.process.join(3)  # by itself, if it can
        except (TimeoutError, EOFError) as error:
            if current == "start" or time.monotonic() < deadline:
                finished(current, {"failed": message(error)})
                done.append(current)
                left = left[1:]
        finally:
            worker.stop()
    return left


def machine(device: str) -> dict[str, Any]:
    import torch

    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        about |= {"card": card.name, "GiB": card.total_memory / 2**30, "CUDA": torch.version.cuda}
        about |= {"cuDNN": torch.backends.cudnn.version(), "capability": f"{card.major}.{card.minor}"}
        about |= {"TF32 of products": torch.backends.cuda.matmul.allow_tf32}
        about |= {"TF32 of convolutions": torch.backends.cudnn.allow_tf32}
    return about


def line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"FAILED {result['failed']}"
    if "wrong" in result:
        return "; ".join(f"{name}: {what}" for name, what in result["wrong"].items()) or "right"
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.items()
        if not isinstance(value, (dict, list))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all sections together")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - SECTIONS.keys():
        parser.error(f"sections: expected some of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    import torch

    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA here, so nothing was run; --device cpu is a dry run")
        return
    path = arguments.results or (RESULTS if device == "cuda" else Path(tempfile.mkdtemp()) / "gpu.json")
    card = torch.cuda.get_device_name(0) if device == "cuda" else "CPU, dry run"
    keep(path, f"{card}; machine", machine(device))
    print(f"{card}; results in {path}", flush=True)
    end = time.monotonic() + 60 * arguments.minutes
    for name in arguments.sections or SECTIONS:
        section, began = SECTIONS[name], time.monotonic()
        failures = 0

        def finished(entry: str, result: dict[str, Any], name: str = name) -> None:
            nonlocal failures
            failures += bool(result.get("failed") or result.get("wrong"))
            keep(path, f"{card}; {name}; {entry}", result)
            print(f"{name}; {entry}: {line(result)}", flush=True)

        out = run(section, device, min(section.budget, end - began), finished)
        took = time.monotonic() - began
        keep(path, f"{card}; {name}", {"seconds": took, "failures": failures, "left out": out})
        print(
            f"{name}: {took:.0f} s, {failures} failures" + (f"; left out: {', '.join(out)}" if out else ""), flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
