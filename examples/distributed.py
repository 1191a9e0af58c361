"""Meta-training on two processes, which is one argument: each takes half of every episode's tasks.

    python examples/distributed.py  # half a minute: two processes on this machine
    torchrun --nproc-per-node 2 examples/distributed.py  # the same, started by torchrun; saves distributed.png

A program that was stopped goes on where it was, from the folder `distributed_run`. On GPUs write `accelerator="cuda", devices=8`.

The picture: what the learner says of a sinusoid that it knows by three points: the inner band holds 90 % of the functions that
could be true, the outer one 90 % of what would be measured.
"""

import sys

import torch
from lightning_fabric import Fabric

import bayesmeta as bm

STEPS = 2000


def main(steps: int = STEPS, folder: str = "distributed_run") -> dict[str, bm.metrics.Estimate]:
    """Returns the test metrics; every process has the same."""
    torch.set_num_threads(1)  # a process a core
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.manual_seed(0)
    tasks = bm.tasks.Sinusoids(noise=0.1, batch=32)
    network = bm.networks.MLP(1, 1, hidden=(64, 64))
    learner = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian())
    bm.fit(learner, tasks, steps=steps, checkpoint=folder, fabric=fabric)
    metrics = bm.evaluate(learner, bm.tasks.Sinusoids(noise=0.1, seed=1), episodes=24)
    for name, estimate in metrics.items():
        fabric.print(f"{name:14s} {estimate}")
    if fabric.is_global_zero:
        posterior = learner(bm.points([-3.0, 0.5, 2.0], [0.4, -1.3, 0.2]))
        bm.plots.bands(posterior, torch.linspace(-5, 5, 200)).figure.savefig("distributed.png", dpi=110)
    return metrics


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
