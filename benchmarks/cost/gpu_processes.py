"""Two processes on one card, by lightning-fabric: whether they train as one does, by gloo and by NCCL.

Run as a program, this file is one of the processes: two nodes of one device each, as far as fabric knows.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bayesmeta as bm

STEPS, TASKS = 30, 512
LIMIT = 50.0
"""Seconds of both processes."""


def train(device: str, fabric: Any = None) -> dict[str, Any]:
    """Twice, as the first run warms up."""
    for _ in range(2):
        torch.manual_seed(0)
        learner = bm.MAML(bm.networks.MLP(1, 1), bm.likelihoods.Gaussian(), steps=5).to(device)
        tasks = bm.tasks.Sinusoids(batch=16 if device == "cpu" else TASKS, noise=0.1)
        history = bm.fit(learner, tasks, steps=3 if device == "cpu" else STEPS, progress=False, fabric=fabric)
    return {
        "losses": torch.tensor(history.losses),
        "ms": 1e3 * history.seconds / len(history.losses),
        "weights": torch.cat([p.detach().cpu().flatten() for p in learner.parameters()]),
        "on": str(next(learner.parameters()).device),
    }


def child(backend: str, device: str, folder: str) -> None:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = Fabric(accelerator=device, devices=1, num_nodes=2, strategy=DDPStrategy(process_group_backend=backend))
    fabric.launch()
    torch.save(train(device, fabric), Path(folder) / str(fabric.global_rank))


def two(backend: str, device: str) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    with tempfile.TemporaryDirectory() as folder:
        logs = [(Path(folder) / f"log {rank}").open("w+") for rank in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, backend, device, folder],
                env={**os.environ, **shared, "NODE_RANK": str(rank), "GROUP_RANK": str(rank)},
                stdout=log,
                stderr=log,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            end = time.monotonic() + LIMIT
            codes: list[Any] = [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
        except subprocess.TimeoutExpired:
            codes = ["it did not end"]
        finally:
            for process in processes:
                process.kill()
                process.wait(10)
        words = []
        for log in logs:
            log.seek(0)
            words.append(" ".join(log.read().split())[-300:])
            log.close()
        if codes != [0, 0]:
            return {"failed": f"codes {codes}; {words[0]}"}
        results = [torch.load(Path(folder) / str(rank)) for rank in range(2)]
    alone = train(device)
    difference = float((results[0]["weights"] - alone["weights"]).norm() / alone["weights"].norm())
    answer = {"ms": results[0]["ms"], "ms, one process": alone["ms"], "weights, relative difference": difference}
    answer["on"] = results[0]["on"]
    same = torch.equal(results[0]["weights"], results[1]["weights"])
    if not same or not difference < 1e-2:
        answer["failed"] = f"weights of the two {'equal' if same else 'differ'}, {difference:.2g} from one's"
    return answer


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    return {backend: partial(two, backend, device) for backend in ("gloo", *(["nccl"] if device == "cuda" else []))}


if __name__ == "__main__":
    child(*sys.argv[1:])
