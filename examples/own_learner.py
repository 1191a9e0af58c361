"""A learner of your own in ten lines: one formula is written, and all else works around it.

A learner is a function from tasks' points to a posterior. This one is a Bayesian regression on waves: its posterior is in closed
form and there already, and it says which features, prior and noise tasks share. `fit` learns these; the learner is then
compared, calibrated, standardised, put into ensembles, saved and drawn as all others.

    python examples/own_learner.py  # a quarter of a minute on one core: prints a table, saves own_learner.png

The picture: bands of a function that is known by three points. Before meta-training the band is wide wherever there is no
point; after it three points tell the whole sinusoid, and only noise is left.
"""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.functional import Frozen
from bayesmeta.posteriors import BayesianLinear, on_features

STEPS, SEED = 1000, 0


class Waves(nn.Module):
    """Sines and cosines of x, ``(N, 1)`` to ``(N, 2K)``, whose frequencies are random at first."""

    def __init__(self, count: int = 30) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(1, count))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(x @ self.frequencies).sin(), (x @ self.frequencies).cos()], -1)


class WaveRegression(bm.Learner):
    """Each wave's weight is N(0, its learned variance); y = their sum and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.likelihood = Waves(), bm.likelihoods.Gaussian(0.3)
        self.log_variances = nn.Parameter(torch.zeros(60))

    def forward(self, support: bm.Points) -> bm.Posterior:
        features = Frozen(self.features, self.strategy)  # a snapshot: later steps do not move the posterior
        mean, covariance = torch.zeros(60, 1), self.log_variances.exp().diag()
        embedded = support._replace(x=features.over_tasks(support.x))
        return on_features(BayesianLinear(mean, covariance, self.likelihood.scale, embedded), support, features)


def main(steps: int = STEPS, path: str = "own_learner.png") -> dict[str, dict[str, bm.metrics.Estimate]]:
    """Prints and returns how good it is, beside the exact posterior."""
    train, test = bm.tasks.Sinusoids(noise=0.1, shots=(1, 10)), bm.tasks.Sinusoids(noise=0.1, shots=4, seed=1)
    torch.manual_seed(SEED)
    learner = WaveRegression()
    figure, panes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    x, known = torch.linspace(-5, 5, 200), bm.points([-3.2, -0.5, 0.4], [1.6, -2.3, -0.4])
    bm.plots.bands(learner(known), x, ax=panes[0]).set(title="before meta-training", ylim=(-9, 9))
    bm.fit(learner, train, steps=steps, seed=SEED, optimizer=torch.optim.Adam(learner.parameters(), lr=0.02))
    bm.plots.bands(learner(known), x, ax=panes[1]).set(title="after", ylabel="")
    figure.savefig(path, dpi=100)
    everyone = {"wave regression": learner, "exact posterior": test.oracle}
    rows = {name: bm.evaluate(each, test, episodes=8) for name, each in everyone.items()}
    print(bm.metrics.summary(rows))
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
