"""Learners in ArviZ: a task's posterior as data, its summary, and which learner the points themselves speak for.

Two learners of sinusoids, and the exact posterior, are told twenty points of a new one. `to_arviz` gives ArviZ what it reads:
draws of the function at the points and their log likelihoods. So its summaries, plots and leave-one-out densities work as they
do for any model. Leave-one-out reweights draws as those of an exact posterior: do not trust it for learners of the MAML family.

    python examples/with_arviz.py  # a quarter of a minute on one core: prints two tables, saves with_arviz.png

The picture: leave-one-out densities with their standard errors, the exact posterior's first, and a Gaussian process on learned
features close behind.
"""

import warnings

import torch
from gpytorch.kernels import LinearKernel
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm

STEPS, SEED = 1500, 0


def learners() -> dict[str, bm.Learner]:
    few, many = (bm.networks.MLP(1, 1, hidden=hidden, activation=nn.Tanh) for hidden in ((5,), (40, 40)))
    return {
        "DKT": bm.DKT(many.features, LinearKernel(), bm.likelihoods.Gaussian()),
        "ALPaCA, five features": bm.ALPaCA(few.features, few.head, bm.likelihoods.Gaussian()),
    }


def main(steps: int = STEPS, path: str = "with_arviz.png") -> object:
    """Prints and returns ArviZ's comparison, a data frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ's own, about its next version
        import arviz
    torch.manual_seed(SEED)
    everyone, train = learners(), bm.tasks.Sinusoids(noise=0.1, shots=(5, 20))
    for learner in everyone.values():
        bm.fit(learner, train, steps=steps, seed=SEED)
    task = bm.tasks.Sinusoids(noise=0.1, shots=20, seed=3, batch=1)[0]
    data = {name: bm.evaluation.to_arviz(learner, task) for name, learner in everyone.items()}
    data["exact"] = bm.evaluation.to_arviz(train.oracle, task)
    print(arviz.summary(data["DKT"], var_names=["f"], kind="stats").head(4).to_string(), "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws of good learners: some Pareto shapes are large
        found = arviz.compare(data)
    print(found.iloc[:, :5].to_string())
    elpd = found[next(column for column in found if str(column).startswith("elpd"))]
    figure, pane = plt.subplots(figsize=(6, 2), layout="constrained")
    pane.errorbar(elpd, range(len(found)), xerr=found["se"], fmt="o", capsize=3, color="#0072b2")
    pane.margins(y=0.25)
    pane.set_yticks(range(len(found)), found.index)
    pane.invert_yaxis()
    pane.set(xlabel="leave-one-out log density of twenty points, nats")
    figure.savefig(path, dpi=110)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
