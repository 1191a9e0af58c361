"""Ten evaluations for a new data set: settings that were good on other data sets, and doubt about this one.

A Gaussian process with a learned mean on learned features is meta-trained on how well settings of a support vector machine did on
some data sets. On new ones it gets ten evaluations, of which the first three are random: BoTorch's expected improvement under
`to_botorch(posterior)` says what to try next. Beside it the same without meta-training, and settings at random.

    python examples/tuning.py  # a quarter of a minute on one core: prints a table, saves tuning.png

With the folder `hpo_svm` in `$BAYESMETA_DATA` (288 settings on 50 data sets, Wistuba et al. 2015) it reads that; without, it
makes up 50 data sets whose best settings lie near each other. Needs the extra `bo`.

The picture: how far the best setting so far is below the best of all, by the number of evaluations: other data sets' lesson
falls fastest.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import LinearMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from matplotlib import pyplot as plt
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.optimisation import to_botorch

STEPS, KNOWN, START, EVALUATIONS = 800, 40, 3, 10
SEED = 0


def made() -> tuple[Tensor, Tensor]:
    """288 settings of six numbers, and what 50 made-up data sets would say of them: each a hill near the same place."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.rand(288, 6, generator=generator)
    peak = 0.7 + 0.1 * torch.randn(50, 1, 6, generator=generator)
    width = 0.3 + 0.3 * torch.rand(50, 1, 6, generator=generator)
    y = 0.5 + 0.4 * (-((x - peak) / width).square().sum(-1) / 4).exp()
    return x, y + 0.01 * torch.randn(y.shape, generator=generator)


def data() -> tuple[Tensor, Tensor]:
    """Settings ``(288, 6)``, each number between 0 and 1, and accuracies ``(50, 288)``."""
    path = Path(os.environ.get("BAYESMETA_DATA", ".")) / "hpo_svm" / "hpo_svm.npz"
    if not path.exists():
        return made()
    with np.load(path) as file:
        x, y = torch.from_numpy(file["x"]).float(), torch.from_numpy(file["y"]).float()
    least, most = x.min(0).values, x.max(0).values
    return (x - least) / (most - least), y


def trained(x: Tensor, y: Tensor, steps: int) -> bm.Learner:
    """What data sets have in common: each row of y is a task."""
    tasks = bm.tasks_from_arrays(
        x.repeat(len(y), 1), y.reshape(-1, 1), np.arange(len(y)).repeat(len(x)), batch=8, shots=(START, 30), queries=60
    )
    torch.manual_seed(SEED)
    features = bm.networks.MLP(6, 1, hidden=(32, 32), activation=nn.Tanh).features
    process = bm.DKT(
        features,
        ScaleKernel(MaternKernel(2.5)),
        bm.likelihoods.Gaussian(0.1),
        mean=LinearMean(32),
        objective=bm.Predictive(),
    )
    learner = bm.Standardized.from_tasks(process, tasks)
    bm.fit(learner, tasks, steps=steps, optimizer=torch.optim.Adam(learner.parameters(), lr=3e-3))
    return learner.double()


def best_next(model: object, x: Tensor, y: Tensor, left: list[int]) -> int:
    """Which of the settings left promises most."""
    with torch.no_grad():
        return left[int(LogExpectedImprovement(model, y.max())(x[left][:, None]).argmax())]


def regrets(choose: Callable[[list[int], list[int]], int], y: Tensor, seed: int) -> list[float]:
    """How far the best setting so far is below the best of all, as a share of the range, after each evaluation."""
    tried = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:START].tolist()
    while len(tried) < EVALUATIONS:
        tried.append(choose(tried, [i for i in range(len(y)) if i not in tried]))
    best = y[tried].cummax(0).values
    return [float((y.max() - value) / (y.max() - y.min())) for value in best]


def main(steps: int = STEPS) -> dict[str, Tensor]:
    """Prints and returns mean regrets after each evaluation, ``(10,)``."""
    x, y = data()
    learner = trained(x, y[:KNOWN], steps)
    x, y = x.double(), y.double()
    found: dict[str, list[list[float]]] = {}
    for number, accuracies in enumerate(y[KNOWN:]):

        def told(tried: list[int], left: list[int], accuracies: Tensor = accuracies) -> int:
            posterior = learner(bm.points(x[tried], accuracies[tried], dtype=torch.float64))
            return best_next(to_botorch(posterior), x, accuracies[tried], left)

        def alone(tried: list[int], left: list[int], accuracies: Tensor = accuracies) -> int:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a few points may be the same
                model = SingleTaskGP(x[tried], accuracies[tried][:, None])
                fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            return best_next(model, x, accuracies[tried], left)

        ways = {
            "what other data sets taught": told,
            "this data set alone": alone,
            "random": lambda tried, left: left[0],
        }
        for name, choose in ways.items():
            found.setdefault(name, []).append(regrets(choose, accuracies, seed=number))
    print(f"{'regret after':30s}" + "".join(f"{n:8d}" for n in (3, 5, 10)))
    means = {name: torch.tensor(rows).mean(0) for name, rows in found.items()}
    figure, pane = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for (name, mean), colour in zip(means.items(), bm.plots.axes.COLOURS, strict=False):
        print(f"{name:30s}" + "".join(f"{mean[n - 1]:8.3f}" for n in (3, 5, 10)))
        pane.plot(range(1, EVALUATIONS + 1), mean, marker="o", markersize=4, color=colour, label=name)
    pane.set(xlabel="evaluations", ylabel="regret, share of the range")
    pane.legend(frameon=False)
    figure.savefig("tuning.png", dpi=110)
    return means


if __name__ == "__main__":
    main()
