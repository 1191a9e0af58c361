"""What a user does first, with an installed bayesmeta: train, keep, load, evaluate, look. Prints versions and seconds."""

import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import gpytorch
import torch

import bayesmeta as bm

began = time.perf_counter()
tasks = bm.tasks.Sinusoids(noise=0.1, batch=4)
noise = bm.likelihoods.Gaussian()
learners: dict[str, bm.Learner] = {
    "MAML": bm.MAML(bm.networks.MLP(1, 1), noise),
    "DKT": bm.DKT(bm.networks.MLP(1, 8), gpytorch.kernels.RBFKernel(), noise),
    "ABML": bm.ABML(bm.networks.MLP(1, 1), noise),
    "ALPaCA": bm.ALPaCA(bm.networks.MLP(1, 8), torch.nn.Linear(8, 1), noise),
}
support, query = tasks[100]


def answer(learner: bm.Learner) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return learner(support)(query.x).log_prob(query.y)


with tempfile.TemporaryDirectory() as folder:
    for name, learner in learners.items():
        assert len(bm.fit(learner, tasks, steps=3, progress=False).losses) == 3
        path = Path(folder, name)
        bm.save(learner, path)
        assert torch.equal(answer(bm.load(path)), answer(learner)), name
        estimates = bm.evaluate(learner, tasks, episodes=2, progress=False)
        assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates.values()), name

data = bm.evaluation.to_arviz(learners["MAML"], tasks[100], draws=20)
drawn = data.posterior["f"]
assert drawn.dims in {("chain", "draw", "task", "point"), ("chain", "draw", "observation")}
assert drawn.sizes["draw"] == 20
assert bm.plots.bands(learners["MAML"](support), query.x).lines
used = ", ".join(f"{name} {version(name)}" for name in ("torch", "gpytorch", "pyro-ppl", "arviz", "numpy"))
print(f"passed in {time.perf_counter() - began:.0f} s: Python {platform.python_version()}, {used}")
